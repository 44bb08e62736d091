"""EcoTTA (S062): small meta networks beside the frozen parts of a network, adapted with every batch.

Their loss is the entropy of what the network is sure of, and how far each part's output moves from the frozen part's
own. What is frozen keeps nothing for backward but a bit for every ReLU.
"""

from __future__ import annotations

from lab.workloads.adaptation.options import Options
from lab.workloads.adaptation.workload import TestTimeAdaptation
from lab.workloads.base import Claim

_SCALE = "ours: digits of 16x16 pixels in float32, twenty convolutions in four parts, batches of 8"

WORKLOAD = TestTimeAdaptation(
    id="eco-tta",
    title="Continual test-time adaptation of small networks beside frozen parts, held to these by distillation",
    systems=("S062",),
    missing="",
    defaults=Options(method="eco", stream="shifts", length=128, batch=8, network="deep"),
    baselines=("method=none", "method=bn", "method=tent", "method=meta"),
    claims=(
        Claim(
            "S062", "Takes 80 % less memory than CoTTA, which adapts all parameters and keeps two more copies.",
            "EcoTTA, abstract (WideResNet-40)", "peak_ram", "", "factor", 0.2,
            f"{_SCALE}; CoTTA's is planned by the same compiler for the same batch, since no board holds it; on Linux "
            "ours is that of the whole process, CoTTA's of the plan alone",
            at_most=0.4, against=("peak_ram.all_parameters", "run"), bound_on=("mcu",),
        ),
        Claim(
            "S062", "Takes less memory than adapting scale and shift of every layer.", "EcoTTA, section 4",
            "peak_ram.activations", "method=tent", "factor", None,
            f"{_SCALE}; the more layers a part has, the smaller the factor", at_most=0.8,
        ),
        Claim(
            "S062", "More is right than without adaptation.", "EcoTTA, section 4", "accuracy", "method=none",
            "difference", None,
            f"{_SCALE}; by the luck of the source network's weights it was from 1.4 points below to 4.7 above, and "
            "512 samples tell no difference this small",
        ),
        Claim(
            "S062", "More is right than with TENT.", "EcoTTA, section 4", "accuracy", "method=tent", "difference", None,
            "streams of ours are short and have no time to spoil TENT; its batch statistics reach every layer",
        ),
        Claim(
            "S062", "Adapting the meta networks is to gain.", "EcoTTA, section 3.2", "accuracy", "method=meta",
            "difference", None,
            "a control that the paper lacks: the same meta networks unadapted, whose batch norms take the batch's "
            "statistics; on digits adapting them changes nothing that 512 samples tell",
        ),
    ),
)  # fmt: skip
