"""UR2M (S005): evidential exits of one network in place of an ensemble. Kwon et al., "UR2M", PerCom 2024.

A backbone of three thirds has an exit behind each, whose heads give evidence for and against every event; an exit whose
uncertainty is low enough ends the inference on the device. Baselines: a softmax, Monte-Carlo dropout, a deep ensemble.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

from lab.workloads.base import EVERY_CLASS, Claim, DeviceClass, Figure, Prepared
from lab.workloads.fitting import Plan
from lab.workloads.options import Allowed, one_of, read_sized, within
from lab.workloads.trained import trained
from lab.workloads.uncertainty import quality, series_scenes
from lab.workloads.uncertainty.answers import (
    TRAINED_BY,
    Precision,
    Question,
    Rated,
    Reading,
    prepare,
)
from lab.workloads.uncertainty.paper_scenes import keywords_task
from lab.workloads.uncertainty.scenes import CLEAN, SEED, SHIFTED, UNKNOWN, FloatArray, Scene, Task, digits_task
from lab.workloads.uncertainty.ur2m_claims import CLAIMS

if TYPE_CHECKING:
    from torch import nn

    from lab.workloads.uncertainty.architecture_search import Found
    from lab.workloads.uncertainty.networks import Backbone

Size: TypeAlias = Literal["ci", "paper"]
Searched: TypeAlias = Literal["none", "grid", "halving"]
Objective: TypeAlias = Literal["per-operation", "accuracy"]
Method: TypeAlias = Literal["ur2m", "softmax", "dropout", "ensemble"]
KNOWN = 8
"""Digits 0 to 7 are known, 8 and 9 are what nobody has shown the network."""
EXITS = 3
DROPOUT, PASSES = 0.3, 8
BEATS, WORDS, ECG5000 = "ecg", "speech-commands", "ecg5000"
CI_WIDTHS, CI_BLOCKS = (8, 16, 24, 32), (3, 4, 5)
PAPER_WIDTHS, PAPER_BLOCKS = (32, 64, 128, 256, 512), (3, 4, 5, 6, 7)
"""What is searched through: the paper's grid has 60 networks of 32 to 512 channels and 3 to 7 blocks."""
M4F_NARROW_MACS_PER_MS, M4F_MACS_PER_MS = 6_000.0, 20_000.0
"""Measured on the emulated Cortex-M4F at 25 MHz with 8 channels on maps of 10×14 and with 64 on 10×51: steps have a
price of their own, and so have exponentials."""


@dataclass(frozen=True)
class Variant:
    """What runs.

    Attributes:
        size: ``ci``; ``paper`` is a :class:`PaperVariant`.
        data: ``digits``; others are a :class:`BlocksVariant`.
        method: ``ur2m``, or a baseline.
        threshold: uncertainty with which an exit is taken, 0 (never) to 1 (by the first likely event).
        precision: of the layers in front of the heads.
        members: of the ensemble.
        epochs: of training, for every method alike.
        evaluated: images asked: two fifths each clean and shifted, one fifth of unknown classes.
    """

    size: Size = "ci"
    data: str = "digits"
    method: Method = "ur2m"
    threshold: float = 0.1
    precision: Precision = "int8"
    members: int = 5
    epochs: int = 10
    evaluated: int = 300


@dataclass(frozen=True)
class BlocksVariant(Variant):
    """The paper's backbone, searched for where that is asked for; with ``size=ci`` on made heart beats.

    Attributes:
        width, blocks: channels and identical blocks, where nothing is searched for.
        search: ``none``; ``grid``, as the paper has it; ``halving``, which trains less.
        objective: what the best network is: ``per-operation``, the paper's accuracy by operations, or ``accuracy``.
        arena, flash: KiB that the device offers for activations and for constants.
        latency: ms that an inference to the deepest exit may take.
        rate: multiply-accumulates in a millisecond, of the device.
    """

    data: str = BEATS
    width: int = 16
    blocks: int = 3
    search: Searched = "none"
    objective: Objective = "per-operation"
    arena: int = 12
    flash: int = 32
    latency: float = 60.0
    rate: float = M4F_NARROW_MACS_PER_MS


@dataclass(frozen=True)
class PaperVariant(BlocksVariant):
    """The size of the paper: Speech Commands, ECG5000 or recordings of the user's, on its backbone.

    Attributes:
        data: ``speech-commands``, ``ecg5000``, or a folder in ``recordings/``.
        samples: recordings of each class that are used to train on; ECG5000 is taken as a whole.
    """

    size: Size = "paper"
    data: str = WORDS
    width: int = 64
    arena: int = 128
    flash: int = 512
    latency: float = 1000.0
    rate: float = M4F_MACS_PER_MS
    samples: int = 250


_FIFTH = "10 to {}: a fifth of them must be two images or more"
_ALLOWED: tuple[Allowed, ...] = (
    one_of("method", get_args(Method)),
    within("threshold", 0, 1, "0 to 1: uncertainty is 2 / S, which is 1 without any evidence"),
    one_of("precision", get_args(Precision)),
    within("members", 2, 20, "2 to 20: one member alone is method=softmax"),
    within("epochs", 1, 100),
)
_BUDGETS: tuple[Allowed, ...] = (
    within("blocks", 3, 7), one_of("search", get_args(Searched)), one_of("objective", get_args(Objective)),
    within("arena", 1, 1 << 20, "KiB, 1 or more"), within("flash", 1, 1 << 20, "KiB, 1 or more"),
    within("latency", 0.001, 1e6, "ms, more than 0"), within("rate", 1, 1e9, "multiply-accumulates in a ms, 1 or more"),
)  # fmt: skip
SIZES: Mapping[str, tuple[Variant, Sequence[Allowed]]] = {
    "ci": (Variant(), (*_ALLOWED, one_of("data", ("digits",), "digits or ecg"),
                       within("evaluated", 10, 700, _FIFTH.format(700)))),
    "paper": (
        PaperVariant(),
        (
            *_ALLOWED, *_BUDGETS, within("evaluated", 10, 4000, _FIFTH.format(4000)), one_of("width", PAPER_WIDTHS),
            within("samples", 4, 4000),
        ),
    ),
}  # fmt: skip
_OF_BEATS: Mapping[str, tuple[Variant, Sequence[Allowed]]] = {
    **SIZES,
    "ci": (BlocksVariant(), (*_ALLOWED, *_BUDGETS, within("evaluated", 10, 700, _FIFTH.format(700)),
                             one_of("width", CI_WIDTHS))),
}  # fmt: skip


def parse(text: str) -> Variant:
    """A variant from ``method=ensemble,members=3``; what is not named keeps the default of its size and data.

    Raises:
        ConfigError: an unknown name or a value that is not allowed.
    """
    of_beats = f"data={BEATS}" in text.split(",")
    return read_sized("ur2m", _OF_BEATS if of_beats else SIZES, text)


def counts(evaluated: int) -> tuple[int, int, int]:
    """How many of the images are clean, shifted and unknown."""
    unknown = evaluated // 5
    shifted = (evaluated - unknown) // 2
    return evaluated - unknown - shifted, shifted, unknown


def judge(scene: Scene, reading: Reading, answers: FloatArray) -> Mapping[str, Rated]:
    """Accuracy, calibration and what the uncertainty finds.

    Shares are the events' probabilities over their sum; the uncertainty is that of the chosen event, or the entropy.
    """
    chosen = reading.chosen(answers)
    rows = np.arange(len(answers))
    probability = answers[:, : reading.classes].astype(np.float64)
    shares = probability / np.maximum(probability.sum(1, keepdims=True), quality.LEAST_SHARE)
    beside = answers[:, reading.classes :]
    uncertainty = beside[rows, chosen] if reading.exit_column is not None else beside[:, 0]
    known, right = scene.kinds != UNKNOWN, chosen == scene.labels
    found = {
        "accuracy": Rated(float(right[known].mean()), int(known.sum())),
        "auroc.unknown": Rated(_told_apart(uncertainty, ~known, scene.kinds != SHIFTED)),
        "auroc.unknown.probability": Rated(_told_apart(-probability.max(1), ~known, scene.kinds != SHIFTED)),
        "auroc.errors": Rated(_told_apart(uncertainty, ~right, known)),
    }
    for name, kind in (("clean", CLEAN), ("shifted", SHIFTED)):
        of = scene.kinds == kind
        found |= {
            f"accuracy.{name}": Rated(float(right[of].mean()), int(of.sum())),
            f"nll.{name}": Rated(quality.log_loss(shares[of], scene.labels[of])),
            f"brier.{name}": Rated(quality.brier(shares[of], scene.labels[of])),
            f"ece.{name}": Rated(quality.calibration_error(probability.max(1)[of], right[of])),
        }
    return found


def _told_apart(
    uncertainty: quality.FloatArray, wrong: quality.Mask, among: quality.Mask
) -> float:
    return quality.auroc(uncertainty[among], wrong[among])


class Ur2m:
    """The workload. Variants: ``method=ur2m|softmax|dropout|ensemble``, ``threshold=``, ``precision=int8|float32``,
    ``members=``, ``epochs=``, ``evaluated=``, ``data=digits|ecg``, separated by commas. With ``data=ecg`` and with
    ``size=paper``, whose ``data=`` are the user's, also ``width=``, ``blocks=``, ``search=none|grid|halving``,
    ``objective=``, ``arena=``, ``flash=``, ``latency=``, ``rate=``; with ``size=paper`` ``samples=``.
    """

    id: str = "ur2m"
    title: str = "Evidential uncertainty and a cascade of exits in place of an ensemble (UR2M), on digits or beats"
    family: str = "uncertainty"
    systems: tuple[str, ...] = ("S005",)
    classes: tuple[DeviceClass, ...] = EVERY_CLASS
    baselines: tuple[str, ...] = ("method=ensemble", "method=softmax", "method=dropout", "threshold=0", "threshold=1")
    claims: tuple[Claim, ...] = CLAIMS
    missing: str = ""

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        """Train, compile and answer on this computer, or read all of it from the cache.

        Raises:
            ConfigError: an unknown variant, or no data.
        """
        chosen = parse(variant)
        clean, shifted, unknown = counts(chosen.evaluated)
        task = task_of(chosen)
        chosen, found = searched(chosen, task, cache)
        known = task.classes
        reading = Reading(known, 2 * known, EXITS) if chosen.method == "ur2m" else Reading(known)
        images = f"of {known} classes that are known {clean} samples are clean, {shifted} shifted, {unknown} of others"
        question = Question(
            self.id, asdict(chosen), chosen.precision, task, reading, partial(judge, task.scene, reading),
            partial(network, chosen, task, cache), images,
        )  # fmt: skip
        prepared = prepare(question, cache)
        if found is None or not isinstance(chosen, BlocksVariant):
            return prepared
        fact = f"Of {found.candidates} networks {found.fitting} fit; chosen: {chosen.blocks} blocks of {chosen.width}."
        return replace(
            prepared, facts=(*prepared.facts, fact),
            figures=(*prepared.figures, *_searched_figures(found, chosen.rate)),
        )  # fmt: skip


def task_of(variant: Variant) -> Task:
    """What a variant is trained on and asked.

    Raises:
        ConfigError: no data.
    """
    asked = counts(variant.evaluated)
    if isinstance(variant, PaperVariant):
        if variant.data == WORDS:
            return keywords_task(variant.samples, asked)
        if variant.data == ECG5000:
            return series_scenes.ecg5000_task(asked)
        return series_scenes.sounds_task(variant.data, variant.samples, asked)
    if isinstance(variant, BlocksVariant):
        return series_scenes.made_beats_task(asked)
    return digits_task(KNOWN, asked, "16x16 pixels; clean, shifted and of unknown classes.")


def backbone(variant: Variant) -> Backbone:
    """The network of a variant, untrained."""
    from lab.workloads.uncertainty import networks

    if isinstance(variant, BlocksVariant):
        return _blocks_of(variant.data, variant.width, variant.blocks)
    return networks.DIGITS


def _blocks_of(data: str, width: int, blocks: int) -> Backbone:
    from lab.workloads.uncertainty import paper_networks

    pooled = paper_networks.POOLED_BEATS if data in (BEATS, ECG5000) else paper_networks.POOLED
    return paper_networks.depthwise_thirds(width, blocks, pooled)


def plan_of(variant: Variant) -> Plan:
    """How the networks of a variant are trained."""
    return Plan(epochs=variant.epochs, batch=32, learning_rate=6e-3, label_smoothing=0.0)


def searched(variant: Variant, task: Task, cache: Path) -> tuple[Variant, Found | None]:
    """The variant with the network that its search chose, and what the search came to; without a search as it is.

    Raises:
        ConfigError: no network fits into the device, or the cache cannot be written.
    """
    if not isinstance(variant, BlocksVariant) or variant.search == "none":
        return variant, None
    from lab.workloads.uncertainty.architecture_search import Budget, Search

    is_paper = isinstance(variant, PaperVariant)
    widths, blocks = (PAPER_WIDTHS, PAPER_BLOCKS) if is_paper else (CI_WIDTHS, CI_BLOCKS)
    budget = Budget(1024 * variant.arena, 1024 * variant.flash, variant.latency, variant.rate)
    found = Search(
        list(product(widths, blocks)), partial(_blocks_of, variant.data), task, budget, variant.search,
        variant.objective, plan_of(variant), variant.precision,
    ).run(cache)  # fmt: skip
    return replace(variant, width=found.chosen.width, blocks=found.chosen.blocks), found


def _searched_figures(found: Found, rate: float) -> tuple[Figure, ...]:
    return (
        Figure("search.candidates", found.candidates, "1", "networks of the grid"),
        Figure("search.fitting", found.fitting, "1", "networks within arena, flash and latency"),
        Figure("search.epochs", found.trained_epochs, "1", "of training, all networks together"),
        Figure("search.accuracy", found.accuracy, "1", "of the network that was chosen, by what the host judges"),
        Figure("search.arena", found.chosen.arena_bytes, "bytes", "of the network that was chosen"),
        Figure("search.flash", found.chosen.flash_bytes, "bytes", "constants of it"),
        Figure("search.latency", found.chosen.macs / rate / 1000, "s", "to the deepest exit: operations by the rate"),
    )


@dataclass(frozen=True)
class _Training:
    """How the networks of a variant are made and trained; each is trained once for all that share it."""

    variant: Variant
    task: Task
    cache: Path

    @property
    def plan(self) -> Plan:
        return plan_of(self.variant)

    def parts(self, what: str) -> dict[str, str]:
        """What the state of a network depends on."""
        shape = f", {self.variant.blocks}x{self.variant.width}" if isinstance(self.variant, BlocksVariant) else ""
        return {"network": what + shape, "plan": json.dumps(asdict(self.plan)), "data": self.task.trained_on}

    def cascade(self) -> nn.Module:
        """Parts with evidential heads."""
        from lab.workloads.uncertainty import networks, training_runs

        made = backbone(self.variant)
        whole = networks.EvidenceExits(made.parts(), made.heads(2 * self.task.classes), self.variant.threshold)
        return trained(
            whole, self.cache, "ur2m-cascade", self.parts("cascade"), TRAINED_BY,
            lambda: training_runs.train_cascade(whole, self.task, self.plan),
        )  # fmt: skip

    def member(self, seed: int, dropout: float = 0.0) -> nn.Sequential:
        """A network with one end, trained by cross-entropy."""
        import torch

        from lab.workloads.uncertainty import networks, training_runs

        torch.manual_seed(seed)
        made = networks.plain(backbone(self.variant), self.task.classes, dropout)
        return trained(
            made, self.cache, "ur2m-member", self.parts(f"member {seed}, dropout {dropout}"), TRAINED_BY,
            lambda: training_runs.train_plain(made, self.task, self.plan, seed),
        )  # fmt: skip


def network(variant: Variant, task: Task, cache: Path) -> nn.Module:
    """The trained network of a variant, in evaluation mode; what thresholds have in common is trained once."""
    import torch

    from lab.workloads.uncertainty import networks

    training = _Training(variant, task, cache)
    if variant.method == "ur2m":
        return training.cascade()
    if variant.method == "ensemble":
        members = [training.member(SEED + number) for number in range(variant.members)]
        return networks.Averaged(members, task.classes).eval()
    if variant.method == "softmax":
        return networks.Averaged([training.member(SEED)], task.classes).eval()
    *body, dropout, classifier = training.member(SEED, DROPOUT)
    if not isinstance(classifier, torch.nn.Linear) or not isinstance(dropout, torch.nn.Dropout):
        raise TypeError("a member ends in dropout and its classifier")
    generator = torch.Generator().manual_seed(SEED)
    passes = networks.dropped(classifier, DROPOUT, PASSES, generator)
    return networks.Averaged([torch.nn.Sequential(*body, passes)], task.classes).eval()


WORKLOAD = Ur2m()
