"""The device's random numbers by their place, as ``firmware/runtime/lab_random.h`` has them. No torch in here."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

RANDOM_BITS = 24


def random_words(key: int, index: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """``lab_random_mix`` of ``firmware/runtime/lab_random.h``: the 32 bits at each index."""
    with np.errstate(over="ignore"):
        value = np.uint32(key) + index * np.uint32(0x85EBCA6B)
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            value ^= value >> np.uint32(shift)
            value *= np.uint32(factor)
        value ^= value >> np.uint32(16)
    return value


def random_at(key: int, index: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """``lab_random_at`` of ``firmware/runtime/lab_random.h``: uniform in [0, 2^24)."""
    return (random_words(key, index) & np.uint32((1 << RANDOM_BITS) - 1)).astype(np.int64)
