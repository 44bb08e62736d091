"""CEMA (S033): the device infers and filters, the host adapts a copy of its network and sends scale and shift back.

The host is this computer. It learns from the samples that the device has uploaded and from nothing else, taught by a
larger network that adapts to them as well. Baselines: none, batch norm of the batch and TENT on the device, and every
sample uploaded.
"""

from __future__ import annotations

from lab.workloads.adaptation.options import Options
from lab.workloads.adaptation.workload import TestTimeAdaptation
from lab.workloads.base import Claim

_SCALE = "ours: digits of 16x16 pixels in float32, a small CNN taught by one twice as wide, domains of 128 samples"

WORKLOAD = TestTimeAdaptation(
    id="cema",
    title="Test-time adaptation by a host, from the samples that a device selects by their entropy",
    systems=("S033",),
    missing="",
    defaults=Options(method="cema", stream="shifts", length=128, batch=8),
    baselines=("method=none", "method=bn", "method=tent", "upload=all", "upload=static"),
    claims=(
        Claim(
            "S033", "A fifth of the samples is uploaded.", "chenyaofo/CEMA, tools/results.txt (ImageNet-C, level 5)",
            "uploaded_share", "upload=all", "factor", 0.2, _SCALE, at_most=0.6,
        ),
        Claim(
            "S033", "Both dynamic thresholds let pass less than a static one: 20 rather than 28 %.",
            "chenyaofo/CEMA, tools/results.txt (ImageNet-C, level 5)", "uploaded_share", "upload=static", "factor",
            0.71, "the upper threshold follows the mean entropy: on streams that begin clean that rises",
        ),
        Claim(
            "S033", "More is right than without adaptation.", "CEMA, abstract", "accuracy", "method=none", "difference",
            None, _SCALE, at_least=0.0,
        ),
        Claim(
            "S033", "More is right than with TENT on the device.", "CEMA, abstract", "accuracy", "method=tent",
            "difference", None, "what the host teaches arrives after a batch of uploads, and domains of ours are short",
        ),
        Claim(
            "S033", "What is not uploaded costs no accuracy.", "CEMA, abstract", "accuracy", "upload=all", "difference",
            0.0, "all uploads teach better than the filter's choice on three of six streams, and worse on three",
        ),
        Claim(
            "S033", "The device infers only: less memory than adapting on it.", "CEMA, abstract",
            "peak_ram.activations", "method=tent", "factor", None, f"{_SCALE}; TENT on 8 samples", at_most=0.2,
        ),
        Claim(
            "S033", "The device infers only: less is computed than by adapting on it.", "CEMA, abstract",
            "instructions_per_sample", "method=tent", "factor", None, f"{_SCALE}; sending is not counted", at_most=0.6,
        ),
        Claim(
            "S033", "A host and its network are needed to gain.", "CEMA, abstract", "accuracy", "method=bn",
            "difference", None,
            "a control that the paper lacks: the statistics of a batch, on the device and without any upload",
        ),
    ),
)  # fmt: skip
