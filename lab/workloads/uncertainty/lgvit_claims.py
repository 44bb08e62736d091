"""What the paper says of LGViT, and what must hold of ours."""

from __future__ import annotations

from lab.workloads.base import Claim

_FULL, _LINEAR, _FIXED = "method=full", "method=linear", "method=fixed"
_SCALE = "ours: digits of 16x16 pixels, six blocks of 48 elements, 200 images, one seed; theirs ViT-B on ImageNet"

CLAIMS = (
    Claim("S099", "Leaving early takes 1.8 times less than the whole transformer.", "S099, abstract",
          "latency_per_sample", _FULL, "reduction", 1.8,
          f"{_SCALE}. Most digits are easy: nearly all leave behind the second block of six", at_least=1.5),
    Claim("S099", "At competitive accuracy.", "S099, abstract", "accuracy", _FULL, "difference", None, _SCALE,
          at_least=-0.04),
    Claim("S099", "And with less energy.", "a control that the paper lacks", "energy_per_sample", _FULL, "reduction",
          None, "power is nearly constant: this is the latency again", at_least=1.5),
    Claim("S099", "Local and global heads are more often right than linear ones.", "S099, motivation",
          "accuracy", _LINEAR, "difference", None, f"{_SCALE}; both are trained in both stages"),
    Claim("S099", "What these heads cost: the time of linear ones.", "a control that the paper lacks",
          "latency_per_sample", _LINEAR, "factor", None,
          "a head of convolutions is a sixth of a small block, and what it is surer of saves blocks"),
    Claim("S099", "A depth that is fixed takes longer.", "a control that the paper lacks",
          "latency_per_sample", _FIXED, "reduction", None, "three blocks of six with every image"),
    Claim("S099", "And is no better.", "a control that the paper lacks", "accuracy", _FIXED, "difference", None,
          _SCALE),
    Claim("S099", "What the exits behind the first are worth.", "a control that the paper lacks", "accuracy",
          "threshold=0", "difference", None, f"{_SCALE}. The first exit alone is as good on digits"),
    Claim("S099", "Exits need no more RAM than the transformer.", "a control that the paper lacks", "peak_ram", _FULL,
          "factor", None, "heads take turns with the blocks in one planned arena", at_most=1.1),
)  # fmt: skip
