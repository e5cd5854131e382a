"""Philox4x32-10 (Salmon et al. 2011) in NumPy, and the dropout masks that follow from it."""

import numpy as np


def philox(counter, key):
    """Four random words for a counter (4, ...) and a key (2,)."""
    c = [np.asarray(word, np.uint64) for word in counter]
    low = np.uint64(2**32 - 1)
    for turn in range(10):
        k0, k1 = (
            np.uint64((word + turn * bump) % 2**32)
            for word, bump in zip(key, (0x9E3779B9, 0xBB67AE85), strict=True)
        )
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [p1 >> 32 ^ c[1] ^ k0, p1 & low, p0 >> 32 ^ c[3] ^ k1, p0 & low]
    return c


def dropout_mask(shape, keep, seed, step, layer, dtype):
    """D of a layer at a step, as kernels/gpu/common.cuh defines it."""
    groups = np.arange(-(-np.prod(shape) // 4))
    counter = (groups, np.full_like(groups, layer << 16), step % 2**32, step >> 32)
    words = np.stack(np.broadcast_arrays(*philox(counter, (seed % 2**32, seed >> 32))), -1)
    uniform = (words.ravel()[: np.prod(shape)] >> 8) / 2.0**24
    kept = np.dtype(dtype).type(1) / np.dtype(dtype).type(keep)
    return np.where(uniform < keep, kept, 0).astype(dtype).reshape(shape)
