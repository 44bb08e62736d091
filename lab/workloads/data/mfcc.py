"""Mel-frequency cepstral coefficients of one-second clips: 49 frames × 10 coefficients at 8 kHz, or as asked for.

Definition: S. Davis and P. Mermelstein, "Comparison of parametric representations for monosyllabic word recognition in
continuously spoken sentences", IEEE Trans. ASSP 28(4), 1980, section II: power spectrum of windowed frames, triangular
filters on the mel scale, logarithm, cosine transform. The mel scale is
O'Shaughnessy's (1987), ``2595·log10(1 + f/700)``.
Frame and coefficient counts are those of the keyword-spotting task of MLPerf Tiny (Banbury et al., 2021, section 4.2),
which is sampled at 16 kHz: the window of 40 ms and the hop of 20 ms are kept, hence the 49 frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float32]

SAMPLE_RATE_HZ = 8000
CLIP_SAMPLES = SAMPLE_RATE_HZ
MEL_BANDS = 40
MEL_LOW_HZ = 20.0
COEFFICIENTS = 10
POWER_FLOOR = 1e-4
"""Added to each band's power before the logarithm. Clips peak at 1, so this is the level below which recordings differ
by their noise and not by what is said; it also gives the silence of the padding a finite value."""

_CLIPS_PER_BATCH = 256


@dataclass(frozen=True)
class Framing:
    """How clips of one second are cut into frames of 40 ms every 20 ms.

    Attributes:
        rate_hz: samples of a clip.
        padded: half a window of zeros stands on both sides, so that a frame is centred on every 20 ms: 51 instead of
            49.
    """

    rate_hz: int = SAMPLE_RATE_HZ
    padded: bool = False

    @property
    def window_samples(self) -> int:
        return self.rate_hz * 40 // 1000

    @property
    def hop_samples(self) -> int:
        return self.rate_hz * 20 // 1000

    @property
    def fft_samples(self) -> int:
        """The next power of two."""
        return 1 << (self.window_samples - 1).bit_length()

    @property
    def frames(self) -> int:
        padding = self.window_samples // 2 * 2 if self.padded else 0
        return 1 + (self.rate_hz + padding - self.window_samples) // self.hop_samples


EIGHT_KHZ = Framing()


def one_second(clip: npt.NDArray[np.int16]) -> FloatArray:
    """Centre a recording in exactly one second and scale its peak to 1.

    A shorter clip is padded with zeros on both sides, the odd sample on the right; a longer one loses as much at its
    start as at its end, again the odd sample at the end. A silent clip stays silent.

    Args:
        clip: PCM samples at 8 kHz, shape (n,).

    Returns:
        float32, shape (8000,), within [−1, 1].
    """
    surplus = len(clip) - CLIP_SAMPLES
    if surplus >= 0:
        placed = clip[surplus // 2 : surplus // 2 + CLIP_SAMPLES].astype(np.float32)
    else:
        placed = np.zeros(CLIP_SAMPLES, dtype=np.float32)
        left = -surplus // 2
        placed[left : left + len(clip)] = clip
    peak = np.float32(np.max(np.abs(placed)))
    return placed / peak if peak > 0 else placed


def _mel(frequencies_hz: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return np.asarray(2595.0 * np.log10(1.0 + np.asarray(frequencies_hz, dtype=np.float64) / 700.0))


@cache
def mel_filters(framing: Framing = EIGHT_KHZ) -> FloatArray:
    """Triangular filters, peak 1, equally wide in mel between 20 Hz and half the rate; shape (bins, 40 bands), 257 bins
    at 8 kHz.
    """
    return triangular_filters(framing.rate_hz, framing.fft_samples, MEL_BANDS)


def triangular_filters(
    rate_hz: int, fft_samples: int, bands: int, low_hz: float = MEL_LOW_HZ, high_hz: float = 0.0
) -> FloatArray:
    """Such filters, as many, for the spectrum of an FFT of so many samples; shape (bins, bands). The outer ones have
    their feet at ``low_hz`` and ``high_hz``, half the rate when 0."""
    low_mel, high_mel = _mel([low_hz, high_hz or rate_hz / 2])
    edges_mel = np.linspace(low_mel, high_mel, bands + 2)
    bins_mel = _mel(np.fft.rfftfreq(fft_samples, 1 / rate_hz))[:, np.newaxis]
    width = edges_mel[1] - edges_mel[0]
    triangles = np.maximum(0.0, 1.0 - np.abs(bins_mel - edges_mel[1:-1]) / width)
    return np.asarray(triangles, dtype=np.float32)


@cache
def _window(samples: int) -> FloatArray:
    """Periodic Hann window, shape (samples,)."""
    phase = 2 * np.pi * np.arange(samples) / samples
    return (0.5 - 0.5 * np.cos(phase)).astype(np.float32)


def mfcc(clips: FloatArray, framing: Framing = EIGHT_KHZ) -> FloatArray:
    """MFCCs of one-second clips.

    Args:
        clips: float32, shape (n, rate), as :func:`one_second` yields them at 8 kHz.
        framing: of the frames.

    Returns:
        float32, shape (n, frames, 10), 49 frames at 8 kHz: the first 10 coefficients of the orthonormal DCT-II over the
        natural logarithm of the 40 mel band powers, the zeroth (loudness) included.

    Raises:
        ValueError: the clips are not one second long.
    """
    if clips.ndim != 2 or clips.shape[1] != framing.rate_hz:
        raise ValueError(f"clips of shape (n, {framing.rate_hz}) are needed, got {clips.shape}")
    features = np.empty((len(clips), framing.frames, COEFFICIENTS), dtype=np.float32)
    for start in range(0, len(clips), _CLIPS_PER_BATCH):
        batch = slice(start, start + _CLIPS_PER_BATCH)
        features[batch] = _mfcc_batch(clips[batch], framing)
    return features


def _mfcc_batch(clips: FloatArray, framing: Framing) -> FloatArray:
    import scipy.fft

    if framing.padded:
        clips = np.pad(clips, ((0, 0), (framing.window_samples // 2,) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(clips, framing.window_samples, axis=1)
    frames = windows[:, :: framing.hop_samples]
    spectrum = scipy.fft.rfft(frames * _window(framing.window_samples), n=framing.fft_samples, axis=2)
    power = spectrum.real**2 + spectrum.imag**2
    bands = np.log(power @ mel_filters(framing) + np.float32(POWER_FLOOR))
    cepstrum = scipy.fft.dct(bands, type=2, norm="ortho", axis=2)
    return np.asarray(cepstrum[:, :, :COEFFICIENTS], dtype=np.float32)
