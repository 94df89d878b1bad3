/* The two passes over the values of an elementwise law that NumPy and torch have no fast way for; the same bits as theirs.

   First the uniforms (initconf/stream.py). PCG64DXSM's next state waits for the one before, and NumPy asks for each number
   through a pointer, so that the state goes through memory as well; here it stays in registers, and two places of the stream
   are worked at side by side. All is integers but for the conversions, whose every step is exact.

   Last the line: value = shift + scale * x, cut off at two bounds, rounded to bfloat16 where that is asked: one pass, not four.
   Product and sum are rounded one after the other, as they are in torch: never fused (build.py says -ffp-contract=off). */

#include <stddef.h>
#include <stdint.h>

typedef unsigned __int128 wide;

#ifndef SOURCE
#define SOURCE ""
#endif
const char initconf_source[] = SOURCE; /* a hash of this file: of an older one a library is not used */

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

static stream begin(const unsigned char *key, uint64_t step) {
    stream s = {number(key), number(key + 16) | 1};
    s.state = jump(s, step);
    return s;
}

/* "Double xorshift multiply" (O'Neill; NumPy's pcg64.h), of the state before its step. */
static inline uint64_t drawn(wide state) {
    uint64_t high = (uint64_t)(state >> 64), low = (uint64_t)state | 1;
    high ^= high >> 32;
    high *= MULTIPLIER;
    high ^= high >> 48;
    return high * low;
}

/* 2u - 1 + 2^-24 for u = (h >> 8) 2^-24: an odd multiple of 2^-24 below 1. */
static inline float of_half(uint32_t h) { return (float)(int32_t)(h >> 8) * 0x1p-23f + (0x1p-24f - 1); }

/* 2u - 1 + 2^-53 for u = (r >> 11) 2^-53. */
static inline double of_whole(uint64_t r) { return (double)(int64_t)(r >> 11) * 0x1p-52 + (0x1p-53 - 1); }

/* From a stream's next step on, or from the high half of it; of the last step a half may be dropped. Gives the stream after it. */
static stream floats(stream s, int high_half, uint64_t count, float *out) {
    wide here = s.state, increment = s.increment; /* in variables of their own compilers keep them in registers */
    if (high_half && count) {
        *out++ = of_half((uint32_t)(drawn(here) >> 32));
        here = here * MULTIPLIER + increment;
        count--;
    }
    uint64_t half = count / 4; /* steps of each of the two places */
    float *far = out + 2 * half;
    wide there = jump((stream){here, increment}, half);
    for (uint64_t i = 0; i < half; i++) {
        uint64_t a = drawn(here), b = drawn(there);
        here = here * MULTIPLIER + increment;
        there = there * MULTIPLIER + increment;
        out[2 * i] = of_half((uint32_t)a);
        out[2 * i + 1] = of_half((uint32_t)(a >> 32));
        far[2 * i] = of_half((uint32_t)b);
        far[2 * i + 1] = of_half((uint32_t)(b >> 32));
    }
    for (uint64_t i = 4 * half; i < count; i += 2) {
        uint64_t r = drawn(there);
        there = there * MULTIPLIER + increment;
        out[i] = of_half((uint32_t)r);
        if (i + 1 < count) out[i + 1] = of_half((uint32_t)(r >> 32));
    }
    return (stream){there, increment};
}

static void doubles(stream s, uint64_t count, double *out) {
    uint64_t half = count / 2;
    wide here = s.state, there = jump(s, half), increment = s.increment;
    for (uint64_t i = 0; i < half; i++) {
        uint64_t a = drawn(here), b = drawn(there);
        here = here * MULTIPLIER + increment;
        there = there * MULTIPLIER + increment;
        out[i] = of_whole(a);
        out[half + i] = of_whole(b);
    }
    if (count % 2) out[count - 1] = of_whole(drawn(there));
}

/* Of each stream (32 bytes of `keys`) `counts` symmetric uniforms from number `firsts` on, one stream after the other. */
void initconf_uniforms(const unsigned char *keys, const uint64_t *firsts, const uint64_t *counts, size_t streams, void *out,
                       int is_double) {
    uint64_t at = 0;
    for (size_t i = 0; i < streams; i++) {
        if (is_double)
            doubles(begin(keys + 32 * i, firsts[i]), counts[i], (double *)out + at);
        else
            floats(begin(keys + 32 * i, firsts[i] / 2), firsts[i] % 2, counts[i], (float *)out + at);
        at += counts[i];
    }
}

/* A compiled loop for each width of vectors, of which the processor's is chosen when the library is loaded. */
#if defined(__x86_64__) && defined(__gnu_linux__) && __GNUC__ >= 12 && !defined(__clang__)
#define EACH_WIDTH __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EACH_WIDTH
#endif

typedef struct {
    float scale, shift, low, high;
} line;

static inline float on(line l, float x) {
    float y = x * l.scale + l.shift;
    y = y < l.low ? l.low : y;
    return y > l.high ? l.high : y;
}

/* In place. */
EACH_WIDTH void initconf_line_float(float *x, size_t count, float scale, float shift, float low, float high) {
    line l = {scale, shift, low, high};
    for (size_t i = 0; i < count; i++) x[i] = on(l, x[i]);
}

/* To bfloat16, the upper half of a float: to the nearest, of two to the even one. No value is NaN. */
EACH_WIDTH void initconf_line_bfloat16(const float *x, size_t count, float scale, float shift, float low, float high,
                                       uint16_t *out) {
    line l = {scale, shift, low, high};
    for (size_t i = 0; i < count; i++) {
        union {
            float number;
            uint32_t bits;
        } y = {on(l, x[i])};
        out[i] = (uint16_t)((y.bits + 0x7FFF + (y.bits >> 16 & 1)) >> 16);
    }
}

/* `initconf_line_bfloat16` of `count` uniforms of one stream, which never leave the nearest cache. */
void initconf_uniform_line_bfloat16(const unsigned char *key, uint64_t first, uint64_t count, float scale, float shift,
                                    float low, float high, uint16_t *out) {
    float some[4096];
    stream s = begin(key, first / 2);
    int high_half = first % 2;
    while (count) {
        uint64_t most = 4096 - high_half, n = count < most ? count : most;
        s = floats(s, high_half, n, some);
        initconf_line_bfloat16(some, n, scale, shift, low, high, out);
        out += n;
        count -= n;
        high_half = 0;
    }
}
