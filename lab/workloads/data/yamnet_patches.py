"""What YAMNet is shown: patches of 96 frames × 64 mel bands, of 0.96 s each, every 0.48 s.

Public source: D. Ellis and M. Plakal, "YAMNet", research/audioset/yamnet in tensorflow/models, its parameters: at 16
kHz, magnitudes of windows of 25 ms every 10 ms in bands from 125 to 7,500 Hz, 0.001 added before the logarithm.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lab.workloads.data.log_mel import FloatArray, LogMel

RATE_HZ = 16_000
FRAMES, BANDS, HOP_FRAMES = 96, 64, 48
SPECTRUM = LogMel(
    RATE_HZ, window_samples=400, hop_samples=160, fft_samples=512, bands=BANDS, low_hz=125.0, high_hz=7500.0,
    offset=1e-3, magnitudes=True,
)  # fmt: skip
_FIRST = (FRAMES - 1) * SPECTRUM.hop_samples + SPECTRUM.window_samples
_NEXT = HOP_FRAMES * SPECTRUM.hop_samples


def patches(wave: npt.NDArray[np.float64]) -> FloatArray:
    """Of a recording (n,) from −1 to 1 at 16 kHz: float32 (patches, 96, 64). Zeros make the last whole."""
    missing = max(0, _FIRST - len(wave)) or -(len(wave) - _FIRST) % _NEXT
    frames = SPECTRUM.of(np.pad(wave, (0, missing)))
    starts = range(0, len(frames) - FRAMES + 1, HOP_FRAMES)
    return np.stack([frames[start : start + FRAMES] for start in starts])


def loudest(wave: npt.NDArray[np.float64]) -> FloatArray:
    """The patch with the highest mean, float32 (96, 64): of five seconds of silence and a bark the bark."""
    found = patches(wave)
    return np.asarray(found[int(found.mean((1, 2)).argmax())], np.float32)
