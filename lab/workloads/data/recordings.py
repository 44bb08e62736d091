"""Recordings as files: WAV, 16 bit, mono."""

from __future__ import annotations

import io
import wave
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lab.errors import ConfigError

Int16Array: TypeAlias = npt.NDArray[np.int16]


def decode_wav(data: bytes, where: str, rate_hz: int, hint: str) -> Int16Array:
    """PCM samples of a recording, shape (n,).

    Args:
        data: the file's content.
        where: the file, for the error.
        rate_hz: what it must be sampled at.
        hint: way out, for the error.

    Raises:
        ConfigError: no WAV, or not 16 bit mono at this rate.
    """
    try:
        with wave.open(io.BytesIO(data)) as recording:
            form = (recording.getframerate(), recording.getnchannels(), recording.getsampwidth())
            frames = recording.readframes(recording.getnframes())
    except (wave.Error, EOFError) as error:
        raise ConfigError(f"{where} is no WAV recording: {error}", hint=hint) from error
    if form != (rate_hz, 1, 2):
        raise ConfigError(
            f"{where} is {form[0]} Hz, {form[1]} channels, {form[2]} bytes per sample; "
            f"{rate_hz} Hz, 1 channel, 2 bytes are needed",
            hint=hint,
        )
    return np.frombuffer(frames, dtype="<i2").astype(np.int16)


def centred(clip: Int16Array, samples: int) -> Int16Array:
    """In the middle of exactly so many samples; of a longer clip as much is lost at both ends."""
    surplus = len(clip) - samples
    if surplus >= 0:
        return clip[surplus // 2 : surplus // 2 + samples]
    made = np.zeros(samples, np.int16)
    made[-surplus // 2 : -surplus // 2 + len(clip)] = clip
    return made
