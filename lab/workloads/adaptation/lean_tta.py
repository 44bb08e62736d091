"""LeanTTA (S004): statistics of one sample, for that sample alone, on a stream that may shift with every sample.

In int8 with partial fusion, as the paper deploys it: the shallow half of the batch norms takes the sample's statistics,
the deep half is fused into the convolutions. Baselines: no adaptation, with all fused; none fused; the same in float32;
α-BN, which is the same without the distance; in float32 the statistics of the sample alone, and TENT at batch one.
"""

from __future__ import annotations

from lab.workloads.adaptation.options import Options
from lab.workloads.adaptation.workload import TestTimeAdaptation
from lab.workloads.base import Claim

_SCALE = "ours: ten corruptions of digits of 16x16 pixels, a CNN of four layers"
_ON_LINUX = "the bound is that of microcontrollers: on the emulated Pi int8 takes 2.7 times the instructions of float32"

WORKLOAD = TestTimeAdaptation(
    id="lean-tta",
    title="Test-time adaptation sample by sample, without backpropagation and without state, in int8",
    systems=("S004",),
    missing="",
    defaults=Options(method="lean", stream="mixed", length=200, batch=1, precision="int8", layers=2),
    baselines=(
        "method=none", "layers=4", "precision=float32", "method=alpha", "method=bn,precision=float32",
        "method=tent,precision=float32",
    ),
    claims=(
        Claim(
            "S004", "Adapting takes 1.05 to 2.95 times as long as inference alone.", "LeanTTA, table 4 (Pi Zero 2 W)",
            "latency_per_sample", "method=none", "factor", 1.16,
            f"{_SCALE}; the paper's figure is ResNet18 in int8; without adaptation all batch norms are fused; "
            "the bound is that of microcontrollers, on the emulated Pi it is 1.02",
            at_least=1.05, at_most=2.95, bound_on=("mcu",),
        ),
        Claim(
            "S004", "Half fused takes 0.55 times as long as none fused.", "LeanTTA, table 6, ResNet18 in int8 (x86)",
            "latency_per_sample", "layers=4", "factor", 0.55,
            f"{_SCALE}; a norm that is not fused is one pass over a map in place, not a module of a framework",
            at_most=1.0,
        ),
        Claim(
            "S004", "int8 takes 0.9 times as long as float32.", "LeanTTA, table 4, ResNet18", "latency_per_sample",
            "precision=float32", "factor", 0.9,
            f"{_SCALE}; the paper's MobileNetV2 takes 1.8 times as long in int8; {_ON_LINUX}",
            at_most=1.0, bound_on=("mcu",),
        ),
        Claim(
            "S004", "int8 needs a quarter of the memory: 11.2 rather than 44.7 MB.", "LeanTTA, table 4, ResNet18",
            "flash.weights", "precision=float32", "factor", 0.25,
            "the paper's megabytes are those of the parameters; ours are in flash, with the constants that requantise",
            at_most=0.4,
        ),
        Claim(
            "S004", "int8 needs less memory than float32.", "LeanTTA, section 3.3", "peak_ram.activations",
            "precision=float32", "factor", None,
            f"{_SCALE}; the arena, which the paper does not tell; norms that are not fused work in place in int8",
            at_most=0.4,
        ),
        Claim(
            "S004", "TENT at batch one takes 1.7 times as long.", "LeanTTA, table 4, ResNet18, TENT in float32",
            "latency_per_sample", "method=tent,precision=float32", "reduction", 1.72,
            f"{_SCALE}; both are compiled, without a framework; {_ON_LINUX}", at_least=1.0, bound_on=("mcu",),
        ),
        Claim(
            "S004", "More is right than without adaptation: 78.8 against 75.9 %.",
            "LeanTTA, tables 1 and 2, ResNet18 in int8, CIFAR-10-C in any order", "accuracy", "method=none",
            "difference", 0.029, _SCALE, at_least=0.0,
        ),
        Claim(
            "S004", "int8 costs little: 78.8 against 79.1 %.", "LeanTTA, tables 1 and 2, ResNet18", "accuracy",
            "precision=float32", "difference", -0.003,
            f"{_SCALE}; activations are clipped to what the clean training images reach",
        ),
        Claim(
            "S004", "Adapting the first half of the norms gains what adapting all does.", "LeanTTA, figure 4",
            "accuracy", "layers=4", "difference", 0.0, _SCALE,
        ),
        Claim(
            "S004", "TENT at batch one collapses: 9.8 %.", "LeanTTA, table 1", "accuracy",
            "method=tent,precision=float32", "difference", 0.69, _SCALE, at_least=0.2,
        ),
        Claim(
            "S004", "The distance to the source's statistics is to decide how much a sample counts.",
            "LeanTTA, section 3.2", "accuracy", "method=alpha", "difference", None,
            "a control that the paper lacks: alpha-BN does the same without the distance, and no less is right with it",
        ),
    ),
)  # fmt: skip
