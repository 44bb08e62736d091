"""Which samples a device sends to the host that adapts its network, by their entropy (CEMA, section 3.1).

What the network is sure of tells the host nothing, what it is unsure of is not to be relied on. The upper threshold
moves with the mean entropy of all that was seen, relative to what that was in the beginning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lab.workloads.adaptation.options import CLASSES


@dataclass(frozen=True)
class Thresholds:
    """Between which entropies a sample is sent.

    Attributes:
        low, high: nats, the lower one included; ``high`` at the beginning. As they are, they let everything pass.
        settle: samples after which ``high`` moves with the mean entropy; 0 where it stays.
        shrink: λ, of ``high`` once it moves.
    """

    low: float = 0.0
    high: float = 1e9
    settle: int = 0
    shrink: float = 1.0


_HIGH, _LOW = 0.4 * math.log(CLASSES), 0.02 * math.log(CLASSES)
SETTLE = 128
"""Samples whose mean entropy is the first: a stream that begins with clean ones alone would let the threshold grow with
the first shift."""
THRESHOLDS: Mapping[str, Thresholds] = {
    "both": Thresholds(_LOW, _HIGH, SETTLE),
    "dynamic": Thresholds(high=_HIGH, settle=SETTLE),
    "low": Thresholds(_LOW, _HIGH),
    "static": Thresholds(high=_HIGH),
    "all": Thresholds(),
}
"""Of each of :data:`lab.workloads.adaptation.options.UPLOADS`. The paper's are ``both``; the configuration in
chenyaofo/CEMA is ``static``, as is the entropy's part of EATA's filter."""


class EntropyFilter:
    """The filter at work, in double precision."""

    def __init__(self, thresholds: Thresholds) -> None:
        self._thresholds = thresholds
        self._mean = self._settled = 0.0
        self._seen = 0

    @property
    def high(self) -> float:
        """The upper threshold at present, nats."""
        chosen = self._thresholds
        if chosen.settle == 0 or self._seen < chosen.settle or self._settled <= 0:
            return chosen.high
        return chosen.high * chosen.shrink * (self._mean / self._settled)

    def takes(self, entropy: float) -> bool:
        """Take the entropy of a sample's outputs, nats; whether the sample is sent."""
        # Rounding may leave the entropy of what is certain just below 0.
        entropy = max(entropy, 0.0)
        self._seen += 1
        self._mean += (entropy - self._mean) / self._seen
        if self._seen == self._thresholds.settle:
            self._settled = self._mean
        return self._thresholds.low <= entropy < self.high
