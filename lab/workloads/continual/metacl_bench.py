"""MetaCLBench: methods of continual learning × networks × data, with accuracy and what a device pays for it.

Li, Kwon et al. 2025, "MetaCLBench: Meta Continual Learning Benchmark on Resource-Constrained Edge Devices" (S003). It
is a grid, not a method: each cell is a variant ``method=…,network=…,data=…``, learnt on the device. A run compares all
methods on one network and one data set; ``--variant "network=cnn|ds-cnn|vit,data=characters|digits"`` runs several of
them.
"""

from __future__ import annotations

from lab.workloads.base import Claim
from lab.workloads.continual.workload import ContinualLearning
from lab.workloads.data import omniglot

SOURCE = "Li, Kwon et al. 2025, table I, speech commands on a Pi 3B+"
CIFAR = "Li, Kwon et al. 2025, table I, CIFAR-100 on a Pi 3B+"
_CHARACTERS = "characters are told apart more easily than words or photographs"
_TASKS = "the mean over 8 deployments of 100 questions, in PyTorch on the host"


def _accuracy(text: str, baseline: str, paper: float | None, why: str, at_least: float | None) -> Claim:
    return Claim("S003", text, SOURCE, "accuracy.tasks", baseline, "difference", paper, f"{why}; {_TASKS}",
                 at_least=at_least, bound_data=omniglot.NAME)  # fmt: skip


CLAIMS: tuple[Claim, ...] = (
    _accuracy("LifeLearner is far above a pre-trained network without rehearsal.", "method=pretrained", 0.5,
              _CHARACTERS, 0.2),
    _accuracy("And above ANML without rehearsal.", "method=anml", 0.284, _CHARACTERS, 0.1),
    _accuracy("And above OML without rehearsal.", "method=oml", None, _CHARACTERS, 0.05),
    _accuracy("As accurate as attentive modules, ANML+AIM.", "method=anml+aim", 0.003, _CHARACTERS, -0.05),
    _accuracy("More accurate than attentive modules behind OML.", "method=oml+aim", 0.064, _CHARACTERS, 0.05),
    _accuracy("As accurate as the oracle.", "method=oracle", 0.001, _CHARACTERS, -0.05),
    _accuracy("As accurate as OML with uncompressed latents.", "method=latent-oml", None, _CHARACTERS, -0.05),
    Claim("S003", "More accurate than rehearsing samples, which cannot be quantised there.",
          f"{CIFAR}: .452 against .392", "accuracy.tasks", "method=raw", "difference", 0.06,
          f"our extractor is int8 for all methods, so samples and latents say the same; {_TASKS}"),
    Claim("S003", "It needs 2.5 to 7.4 times less energy than the oracle.", "Li, Kwon et al. 2025, table I",
          "training_energy", "method=oracle", "reduction", 7.43, "our oracle goes over everything 5 times",
          at_least=2.5),
    Claim("S003", "Rehearsing samples takes longer than the oracle's passes over everything.",
          f"{SOURCE}: 735.6 against 569.7 s; ours is how much longer than LifeLearner", "training_time", "method=raw",
          "reduction", 9.7, "with 10 classes a sample is extracted 6.5 times, with 30 more than twice as often",
          at_least=2.0),
    Claim("S003", "Less memory than rehearsing samples.", f"{SOURCE}: 45.72 against 3.40 MB", "memory.paper",
          "method=raw", "reduction", 13.4, "a character has 576 bytes, and the network is the larger part",
          at_least=1.3),
    Claim("S003", "Far less memory than attentive modules, which most devices have none for.",
          f"{SOURCE}: 608.2 against 3.40 MB", "memory.paper", "method=anml+aim", "reduction", 178.7,
          "ours has 32 units of 32×32 values, the paper's 64 of 768×768, four times over with gradients and Adam's "
          "moments", at_least=3.0),
    Claim("S003", "Less time than attentive modules.", f"{SOURCE}: 394.2 against 75.6 s", "training_time",
          "method=anml+aim", "reduction", 5.2, "our scale does not show it: narrow units take far less than the "
          "extractor before them"),
    Claim("S003", "Three tenths of the time go into inference, the rest into training and loading.",
          "Li, Kwon et al. 2025, figure of latencies", "instructions", "", "factor", 0.3,
          "a linear classifier of 10 classes is trained behind 2 M multiply-accumulates a sample: our scale does not "
          "show it", region="train.forward", against=("instructions", "train.step")),
)  # fmt: skip

WORKLOAD = ContinualLearning(
    id="metacl-bench",
    title="Grid of continual learners: methods × networks × data (MetaCLBench)",
    systems=("S003",),
    baselines=(
        "method=pretrained", "method=oml", "method=anml", "method=oml+aim", "method=anml+aim", "method=latent-oml",
        "method=latent", "method=raw", "method=oracle", "method=means",
    ),
    claims=CLAIMS,
    missing="",
)  # fmt: skip
