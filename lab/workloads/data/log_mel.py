"""Logarithms of the spectrum of a recording in mel bands, as networks for sounds are shown it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lab.workloads.data.mfcc import MEL_LOW_HZ, POWER_FLOOR, triangular_filters

FloatArray: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LogMel:
    """How.

    Attributes:
        rate_hz: of the recording.
        window_samples, hop_samples, fft_samples: periodic Hann windows, from one to the next, and of the transform.
        bands: triangles of equal width in mel.
        low_hz, high_hz: of the outer bands' feet; the latter half the rate when 0.
        offset: added before the logarithm.
        magnitudes: whether the spectrum's magnitudes are added up, powers otherwise.
        padded: whether half a window of zeros stands on both sides.
    """

    rate_hz: int
    window_samples: int
    hop_samples: int
    fft_samples: int
    bands: int
    low_hz: float = MEL_LOW_HZ
    high_hz: float = 0.0
    offset: float = POWER_FLOOR
    magnitudes: bool = False
    padded: bool = False

    def of(self, wave: npt.NDArray[np.float64]) -> FloatArray:
        """Of a recording (n,) from −1 to 1: float32 (frames, bands), of whole windows."""
        if self.padded:
            wave = np.pad(wave, self.window_samples // 2)
        windows = np.lib.stride_tricks.sliding_window_view(wave, self.window_samples)[:: self.hop_samples]
        phase = 2 * np.pi * np.arange(self.window_samples) / self.window_samples
        spectrum = np.fft.rfft(windows * (0.5 - 0.5 * np.cos(phase)), self.fft_samples)
        power = spectrum.real**2 + spectrum.imag**2
        filters = triangular_filters(self.rate_hz, self.fft_samples, self.bands, self.low_hz, self.high_hz)
        return np.log((np.sqrt(power) if self.magnitudes else power) @ filters + self.offset).astype(np.float32)
