"""Variants of the workloads of many models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from lab.workloads.fitting import Plan
from lab.workloads.many_models.tasks import TASKS
from lab.workloads.options import Allowed, one_of, read_sized, within

Size: TypeAlias = Literal["ci", "paper"]
Networks: TypeAlias = Literal["alike", "published", "own"]
Store: TypeAlias = Literal["yono", "plain", "kmeans", "int8", "copied", "loaded", "heads"]
PLAN = Plan(epochs=6, batch=32, learning_rate=6e-3, label_smoothing=0.0)
TUNING = Plan(epochs=4, batch=32, learning_rate=3e-3, label_smoothing=0.0)


@dataclass(frozen=True)
class Variant:
    """What runs.

    Attributes:
        size: ``ci``; ``paper``: larger networks, of the user's data.
        store: how the networks are kept: ``yono``; ``plain``, its product codes without training anything again;
            ``kmeans``, each network's single weights by a codebook of its own; ``int8`` in flash as kernels read them;
            ``copied``, the same, of which the weights that ``yono`` may code are copied to RAM to be used; ``loaded``,
            networks that nobody compressed, all constants of which are read into RAM from where the device keeps them:
            a card, a file, or flash; ``heads``, one
            network with a head for each task, in int8.
        learnt: from how many networks the shared codebooks are learnt; those behind are coded by them all the same.
        words: entries of a sub-codebook of product codes.
        bits: of a number of k-means.
        drop: loss of accuracy, on the host's own samples, at which no further layer is trained again.
        epochs: of training.
        tuning: epochs of training some layers again.
        evaluated: samples that each network is asked.
        samples: of each class that the user's data are used to train on, validation included.
        networks: ``alike`` behind their first convolutions; ``published``, unlike ones as their authors have them:
            LeNet-5, DS-CNN-S and ResNet-8; ``own``, files of the user's, which are taken as they are trained.
    """

    size: Size = "ci"
    store: Store = "yono"
    learnt: int = len(TASKS)
    words: int = 256
    bits: int = 4
    drop: float = 0.02
    epochs: int = PLAN.epochs
    tuning: int = TUNING.epochs
    evaluated: int = 100
    samples: int = 0
    networks: Networks = "alike"

    @property
    def shared(self) -> bool:
        """Whether codebooks serve all networks."""
        return self.store in ("yono", "plain")

    @property
    def coded(self) -> bool:
        """Whether weights are coded at all."""
        return self.shared or self.store == "kmeans"

    @property
    def in_ram(self) -> bool:
        """Whether a network is made ready in RAM."""
        return self.coded or self.store in ("copied", "loaded")


PAPER = Variant(size="paper", epochs=20, samples=500)
ALLOWED: tuple[Allowed, ...] = (
    one_of("store", get_args(Store)),
    within("learnt", 1, len(TASKS), f"1 to {len(TASKS)}: codebooks are learnt from the first networks"),
    within("words", 2, 256, "2 to 256: the number of an entry is a byte"),
    one_of("bits", (2, 4)),
    within("drop", 0, 1),
    within("epochs", 1, 100),
    within("tuning", 1, 100),
    within("evaluated", 1, 500),
)
SIZES: Mapping[str, tuple[Variant, tuple[Allowed, ...]]] = {
    "ci": (Variant(), (*ALLOWED, one_of("samples", (0,), "of size=paper"),
                       one_of("networks", ("alike",), "alike; published and own with size=paper"))),
    "paper": (PAPER, (*ALLOWED, within("samples", 5, 5000), one_of("networks", get_args(Networks)))),
}


def parse(text: str) -> Variant:
    """A variant from ``store=kmeans,bits=2``; what is not named keeps the default of its size.

    Raises:
        ConfigError: an unknown name or a value that is not allowed.
    """
    return read_sized("yono", SIZES, text)
