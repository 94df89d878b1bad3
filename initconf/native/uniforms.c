/* The uniforms of a stream (initconf/stream.py), as fast as a core can multiply.

   PCG64DXSM's next state waits for the one before. NumPy asks for each number through a pointer, so that the state goes
   through memory as well; here it stays in registers, and two places of the stream are worked at side by side.
   All is integers but the last line of each conversion, whose every step is exact: no compiler or processor gives other bits. */

#include <stddef.h>
#include <stdint.h>

typedef unsigned __int128 wide;

#define MULTIPLIER 0xDA942042E4DD58B5ULL

typedef struct {
    wide state, increment;
} stream;

static wide number(const unsigned char *bytes) { /* little-endian */
    wide n = 0;
    for (int i = 15; i >= 0; i--) n = n << 8 | bytes[i];
    return n;
}

/* Many steps at once: x -> M x + c done n times is again such a map (Brown 1994, "Random number generation with arbitrary
   strides"). */
static wide jump(stream s, uint64_t steps) {
    wide a = 1, c = 0, a_power = MULTIPLIER, c_power = s.increment;
    for (; steps; steps >>= 1) {
        if (steps & 1) {
            a *= a_power;
            c = c * a_power + c_power;
        }
        c_power *= a_power + 1;
        a_power *= a_power;
    }
    return a * s.state + c;
}

/* "Double xorshift multiply", of the state before the step (O'Neill; NumPy's pcg64.h). */
static inline uint64_t next(stream *s) {
    uint64_t high = (uint64_t)(s->state >> 64), low = (uint64_t)s->state | 1;
    high ^= high >> 32;
    high *= MULTIPLIER;
    high ^= high >> 48;
    s->state = s->state * MULTIPLIER + s->increment;
    return high * low;
}

/* 2u - 1 + 2^-24 for u = (h >> 8) 2^-24: an odd multiple of 2^-24 below 1. */
static inline float of_half(uint32_t h) { return (float)(int32_t)(h >> 8) * 0x1p-23f + (0x1p-24f - 1); }

/* 2u - 1 + 2^-53 for u = (r >> 11) 2^-53. */
static inline double of_whole(uint64_t r) { return (double)(int64_t)(r >> 11) * 0x1p-52 + (0x1p-53 - 1); }

static void floats(stream s, uint64_t first, uint64_t count, float *out) {
    s.state = jump(s, first / 2);
    if (first % 2 && count) {
        *out++ = of_half((uint32_t)(next(&s) >> 32));
        count--;
    }
    uint64_t half = count / 4; /* steps of each of the two places */
    float *far = out + 2 * half;
    stream t = {jump(s, half), s.increment};
    for (uint64_t i = 0; i < half; i++) {
        uint64_t a = next(&s), b = next(&t);
        out[2 * i] = of_half((uint32_t)a);
        out[2 * i + 1] = of_half((uint32_t)(a >> 32));
        far[2 * i] = of_half((uint32_t)b);
        far[2 * i + 1] = of_half((uint32_t)(b >> 32));
    }
    for (uint64_t i = 4 * half; i < count; i += 2) {
        uint64_t r = next(&t);
        out[i] = of_half((uint32_t)r);
        if (i + 1 < count) out[i + 1] = of_half((uint32_t)(r >> 32));
    }
}

static void doubles(stream s, uint64_t first, uint64_t count, double *out) {
    s.state = jump(s, first);
    uint64_t half = count / 2;
    stream t = {jump(s, half), s.increment};
    for (uint64_t i = 0; i < half; i++) {
        out[i] = of_whole(next(&s));
        out[half + i] = of_whole(next(&t));
    }
    if (count % 2) out[count - 1] = of_whole(next(&t));
}

/* Of each stream (32 bytes of `keys`) `counts` symmetric uniforms from number `firsts` on, one stream after the other. */
void initconf_uniforms(const unsigned char *keys, const uint64_t *firsts, const uint64_t *counts, size_t streams, void *out,
                       int is_double) {
    uint64_t at = 0;
    for (size_t i = 0; i < streams; i++) {
        stream s = {number(keys + 32 * i), number(keys + 32 * i + 16) | 1};
        if (is_double)
            doubles(s, firsts[i], counts[i], (double *)out + at);
        else
            floats(s, firsts[i], counts[i], (float *)out + at);
        at += counts[i];
    }
}
