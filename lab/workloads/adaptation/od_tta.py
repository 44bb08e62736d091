"""OD-TTA (S002): adaptation on demand, against none, batch norm of the batch and TENT; the stream shifts and returns.

Shift detection by a moving average of the entropy, source selection by the second batch norm's mean output, and
decoupled batch norm (DBU): the statistics sample by sample, then, where that is asked for, scale and shift by the
entropy. All of it runs on the device.
"""

from __future__ import annotations

from lab.workloads.adaptation.options import Options
from lab.workloads.adaptation.workload import TestTimeAdaptation
from lab.workloads.base import Claim

_SCALE = "ours: digits of 16x16 pixels in float32, a small CNN, TENT on 8 samples at a time, which fits 256 KiB"

WORKLOAD = TestTimeAdaptation(
    id="od-tta",
    title="Test-time adaptation on demand: detect the shift, choose a source state, renew the statistics",
    systems=("S002",),
    missing="",
    defaults=Options(method="od", stream="shifts", length=128, batch=8),
    baselines=("method=none", "method=bn", "method=tent", "stream=clean", "affine=1e-4"),
    claims=(
        Claim(
            "S002", "On demand costs remarkably less energy than adapting all the time.", "OD-TTA, abstract",
            "energy_per_sample", "method=tent", "factor", None,
            f"{_SCALE}; the paper measures a Jetson and gives no ratio; emulated meters model energy", at_most=0.5,
        ),
        Claim(
            "S002", "On demand computes remarkably less than adapting all the time.", "OD-TTA, abstract",
            "instructions_per_sample", "method=tent", "factor", None,
            f"{_SCALE}; the cost of an inference grows by the share of the stream that is adapted to", at_most=0.5,
        ),
        Claim(
            "S002", "Accuracy is comparable to that of continual adaptation.", "OD-TTA, abstract",
            "accuracy_gain", "method=tent", "factor", 1.0,
            "domains of ours are so short that the 20 to 40 samples until a shift is seen and adapted to count",
            at_least=0.65,
        ),
        Claim(
            "S002", "Continual adaptation is to gain by gradients.", "OD-TTA, abstract", "accuracy", "method=bn",
            "difference", None,
            "a control that the paper lacks: on digits the statistics of a batch alone gain what TENT gains, for about "
            "the instructions of adapting on demand, but they need the batch and its memory",
        ),
        Claim(
            "S002", "Statistics at batch one need less memory than scale and shift at a larger batch.",
            "DBU, sections 3.1 and A.2; table 1 at batch 1 and 16: 414 and 1677 MB", "peak_ram.activations",
            "method=tent", "factor", 0.25, "the paper's figure is a process with PyTorch in it, ours the arena alone",
            at_most=0.25,
        ),
        Claim(
            "S002", "The affine pass after that of the statistics is to gain.", "DBU, section 3.2", "accuracy",
            "affine=1e-4", "difference", None,
            "shown the other way round: statistics alone against both passes, at the paper's rate; sixteen steps of a "
            "sample each move scale and shift by next to nothing",
        ),
    ),
)  # fmt: skip
