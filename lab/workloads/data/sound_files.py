"""Recordings in whatever form they come: any rate, depth, number of channels and coding of a WAV."""

from __future__ import annotations

import io
import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lab.errors import ConfigError

Int16Array: TypeAlias = npt.NDArray[np.int16]

LEAST_RATE_HZ, MOST_RATE_HZ = 2_000, 400_000
"""Of a recording: beyond, its header is damaged."""


def decode_sound(data: bytes, where: str, rate_hz: int, hint: str) -> Int16Array:
    """PCM samples of a recording, shape (n,): the mean of its channels, sampled anew at ``rate_hz``.

    Args:
        data: the file's content.
        where: the file, for the error.
        rate_hz: of the result.
        hint: way out, for the error.

    Raises:
        ConfigError: no recording, or damaged; nothing in it; soundfile is not installed.
    """
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the package is there, and its library is not.
        raise ConfigError(
            "recordings of many forms are read by soundfile, which is not installed",
            hint="pip install 'hil-lab[sounds]'",
        ) from error
    try:
        channels, own_hz = soundfile.read(io.BytesIO(data), dtype="float64", always_2d=True)
    except (soundfile.SoundFileError, ValueError, TypeError) as error:
        raise ConfigError(f"{where} is no recording, or damaged: {error}", hint=hint) from error
    wave = channels.mean(1)
    if not len(wave) or not np.isfinite(wave).all() or not LEAST_RATE_HZ <= own_hz <= MOST_RATE_HZ:
        raise ConfigError(
            f"{where} has {len(wave)} samples at {own_hz} Hz; one at least, all of them numbers, at {LEAST_RATE_HZ} to "
            f"{MOST_RATE_HZ} Hz are needed",
            hint=hint,
        )
    pcm = np.round(resampled(wave, own_hz, rate_hz) * (1 << 15))
    return np.clip(pcm, -(1 << 15), (1 << 15) - 1).astype(np.int16)


def resampled(wave: npt.NDArray[np.float64], own_hz: int, rate_hz: int) -> npt.NDArray[np.float64]:
    """A recording (n,) at another rate: what lies above half of the lower rate is filtered out."""
    from scipy.signal import resample_poly

    common = math.gcd(own_hz, rate_hz)
    return wave if own_hz == rate_hz else np.asarray(resample_poly(wave, rate_hz // common, own_hz // common))
