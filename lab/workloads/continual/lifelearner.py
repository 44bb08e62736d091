"""LifeLearner: classes learnt one after another on the device, with a store of compressed latents.

Kwon et al. 2023, "LifeLearner: Hardware-Aware Meta Continual Learning System for Embedded Computing Platforms" (S006).
The network is meta-trained on the host for learning in sequence and then frozen. The device learns each new class
sample by sample, then rehearses: it unpacks the latents of all earlier classes, learns them again in batches together
with the new ones, and packs these into its store. Compared are no rehearsal, attentive modules (AIM) in its place,
uncompressed latents, the samples themselves, all classes at once (the oracle), latents kept as the bytes that they are,
and the means of the classes.
"""

from __future__ import annotations

from lab.workloads.base import Claim
from lab.workloads.continual.workload import ContinualLearning
from lab.workloads.data import omniglot

PAPER = "Kwon et al. 2023"
BENCH = "Li, Kwon et al. 2025 (S003), table I, speech commands on a Pi 3B+"
_AIM = (
    "ours has 32 units of 32×32 values (size=paper: the paper's), the paper's 64 of 768×768, four times over with "
    "gradients and Adam's moments"
)
_SMALL = "10 classes of 10 samples against 30 classes of 30, and a latent of 288 values"
_TASKS = "accuracy.tasks is the mean over 8 deployments of 100 questions, in PyTorch on the host"


def _accuracy(text: str, source: str, baseline: str, paper: float | None, why: str, at_least: float | None) -> Claim:
    return Claim("S006", text, source, "accuracy.tasks", baseline, "difference", paper, f"{why}; {_TASKS}",
                 at_least=at_least, bound_data=omniglot.NAME)  # fmt: skip


CLAIMS: tuple[Claim, ...] = (
    Claim("S006", "Bitmap and codes keep a latent in a thirtieth of its float32 bytes.", f"{PAPER}, section 3.4",
          "replay.bytes", "method=latent", "reduction", 30.0,
          "half of our latents are zero and 90 % of the paper's; the bits alone are a 32nd, and ours has 5 bytes of "
          "place and label for each latent counted in", at_least=15.0),
    Claim("S006", "Against the bytes that a quantised extractor yields anyway.", "no figure", "replay.bytes",
          "store=int8", "reduction", None, "the paper's extractor is int8 as well, and its baselines keep float32",
          at_least=4.0),
    Claim("S006", "Less RAM as it is measured, store, stack and runner included.",
          f"{PAPER}, table 2, CIFAR-100: 53.9 to 40.4 MB with the network's own", "peak_ram", "method=latent",
          "reduction", 1.33, "of the paper's megabytes most are the network; on Linux most is the process",
          at_least=1.5, bound_on=("mcu",)),
    Claim("S006", "Memory as the paper counts it, against rehearsing samples.", BENCH + ": 45.72 against 3.40 MB",
          "memory.paper", "method=raw", "reduction", 13.4, f"{_SMALL}; a character of 24×24 bytes is small beside the "
          "network", at_least=1.3),
    Claim("S006", "And against attentive modules, ANML+AIM.", f"{PAPER}, table 1, speech commands: 608.2 against 3.40 "
          "MB", "memory.paper", "method=anml+aim", "reduction", 178.7, _AIM, at_least=3.0),
    _accuracy("More accurate than attentive modules without rehearsal.", f"{BENCH}, but CIFAR-100: .452 against .346",
              "method=anml+aim", 0.106, "200 steps of meta-training, and narrower units", 0.02),
    Claim("S006", "And in 80.8 to 94.2 % less time than those.", f"{PAPER}, abstract; table of latencies: 438 against "
          "84 s", "training_time", "method=anml+aim", "reduction", 5.2, "our scale does not show it: 25 thousand "
          "multiply-accumulates of narrow units lie behind 2 M of the extractor, so what rehearsal takes counts more"),
    _accuracy("Accuracy is near that of learning all classes at once.", f"{PAPER}, abstract: 2.8 % below",
              "method=oracle", -0.028, "both here on the same frozen extractor", -0.05),
    _accuracy("Far above no rehearsal.", f"{PAPER}, table 3, CIFAR-100 on the microcontroller: .393 against .176",
              "method=anml", 0.217, "new classes of simple shapes", 0.1),
    _accuracy("Compression costs next to nothing.", f"{PAPER}, table 2, CIFAR-100: .446 against .452",
              "method=latent", -0.006, "as there", -0.03),
    _accuracy("Class means, which rehearse nothing and descend nothing, are beaten.", "not compared in the paper",
              "method=means", None, "our scale does not show it: features that tell 136 characters apart lie about "
              "their means, and a mean forgets nothing", None),
    Claim("S006", "Codes and an int8 extractor cost some accuracy against float32.",
          f"{PAPER}, table 2, speech commands: .656 against .707",
          "accuracy", "", "difference", -0.051, "one deployment of 100 questions, both codes and quantisation",
          against=("accuracy.float32", "run"), at_least=-0.06),
    Claim("S006", "A class costs little more than without rehearsal.", f"{PAPER}, table 3, CIFAR-100: 832 against "
          "579 ms", "instructions", "method=anml", "factor", 1.44, f"{_SMALL}: there is less to rehearse",
          region="train.step", at_most=1.5),
    Claim("S006", "And in energy.", f"{PAPER}, table 3, CIFAR-100: 195 against 134 mJ", "energy", "method=anml",
          "factor", 1.46, "as above; the paper's energy is its time times one power", region="train.step", at_most=1.5),
    Claim("S006", "All classes are learnt in far less time than all at once.", BENCH + ": 570 against 76 s",
          "training_time", "method=oracle", "reduction", 7.5, "our oracle goes over everything 5 times", at_least=2.5),
    Claim("S006", "And with far less energy.", BENCH + ": 2.60 against 0.35 kJ", "training_energy", "method=oracle",
          "reduction", 7.43, "as above", at_least=2.5),
    Claim("S006", "And in far less time than by rehearsing samples, which extracts them again.",
          BENCH + ": 735.6 against 75.6 s", "training_time", "method=raw", "reduction", 9.7,
          "10 classes: in the mean a sample is extracted 6.5 times there, once here", at_least=2.0),
    Claim("S006", "Class means take less energy still.", "not compared in the paper", "training_energy",
          "method=means", "reduction", None, "the cheap baseline: a class is extracted and averaged, no more"),
)  # fmt: skip

WORKLOAD = ContinualLearning(
    id="lifelearner",
    title="Classes learnt one after another, with a store of compressed latents (LifeLearner)",
    systems=("S006",),
    baselines=(
        "method=anml", "method=anml+aim", "method=latent", "method=raw", "method=oracle", "method=means", "store=int8",
    ),
    claims=CLAIMS,
    missing="",
)  # fmt: skip
