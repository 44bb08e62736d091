"""Random changes to recordings that leave the word as it is; makes few speakers count for more."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lab.workloads.data.mfcc import CLIP_SAMPLES, FloatArray, one_second

SPEED_RANGE = (0.8, 1.25)
"""Resampling moves duration, pitch and formants together, as another speaker's vocal tract would (T. Ko et al., "Audio
augmentation for speech recognition", Interspeech 2015, section 2.1, there 0.9 to 1.1)."""
TILT_RANGE = (-0.3, 0.5)
"""Coefficient of the first-order filter ``y[n] = x[n] − a·x[n−1]``: microphones differ by their spectral slope."""
SHIFT_SAMPLES = 1200
"""Most that a clip moves in its second, to either side: 150 ms. What leaves on one side comes back on the other."""
NOISE_DECADES = (-4.0, -1.5)
"""Standard deviation of added white noise relative to the peak, log10."""


def augmented(clip: npt.NDArray[np.int16], generator: np.random.Generator) -> FloatArray:
    """A changed copy of a recording: speed, position, spectral tilt, noise; peak 1.

    Gain needs no augmentation: every clip's peak is scaled to 1, here as in :func:`lab.workloads.data.mfcc.one_second`.

    Args:
        clip: PCM samples, shape (n,), n > 0.
        generator: the only source of chance.

    Returns:
        float32, shape (8000,), within [−1, 1].
    """
    speed = np.exp(generator.uniform(*np.log(SPEED_RANGE)))
    places = np.arange(max(int(len(clip) / speed), 1)) * speed
    stretched = np.interp(places, np.arange(len(clip)), clip).astype(np.int16)
    placed = np.roll(one_second(stretched), generator.integers(-SHIFT_SAMPLES, SHIFT_SAMPLES + 1))
    tilted = placed.copy()
    tilted[1:] -= np.float32(generator.uniform(*TILT_RANGE)) * placed[:-1]
    deviation = np.float32(10.0 ** generator.uniform(*NOISE_DECADES) * max(float(np.max(np.abs(tilted))), 1e-6))
    noisy = tilted + deviation * generator.standard_normal(CLIP_SAMPLES, dtype=np.float32)
    return np.asarray(noisy / np.max(np.abs(noisy)), dtype=np.float32)
