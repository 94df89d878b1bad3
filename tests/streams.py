"""The stream by way of NumPy alone, which compiled code and GPUs are held to."""

import numpy as np

from initconf.stream import Streams, stand


def by_numpy(key, out, first=0):
    """Fill a flat tensor with the symmetric uniforms of a stream."""
    return Streams().uniforms([key], [out.numel()], out, first)


def generator(key):
    """NumPy's bit generator at the start of a stream."""
    bits = np.random.PCG64DXSM(0)
    stand(bits, key)
    return bits
