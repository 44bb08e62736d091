"""Early exit (S039 CBNet): an exit that is sure ends the inference, and easy images leave first.

BranchyNet (Teerapittayanon et al. 2016) leaves by the confidence of a softmax, so that its time grows with the share of
hard images. CBNet (S039) turns every image into an easy one of the same class with an autoencoder and asks the first
part alone, in constant time. Controls: the whole network, and the first part without the autoencoder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, get_args

from lab.workloads.base import EVERY_CLASS, Claim, DeviceClass, Prepared
from lab.workloads.data import digits, mnist
from lab.workloads.fitting import Plan
from lab.workloads.options import Allowed, one_of, read_sized, within
from lab.workloads.trained import trained
from lab.workloads.uncertainty.answers import (
    TRAINED_BY,
    Precision,
    Question,
    Rated,
    Reading,
    prepare,
)
from lab.workloads.uncertainty.paper_scenes import mnist_task
from lab.workloads.uncertainty.scenes import CLEAN, SHIFTED, FloatArray, Scene, Task, digits_task

if TYPE_CHECKING:
    from torch import nn

    from lab.workloads.uncertainty.networks import Backbone

Size: TypeAlias = Literal["ci", "paper"]
Method: TypeAlias = Literal["exits", "full", "light", "cbnet"]
CLASSES = digits.CLASSES
PLAN = Plan(epochs=10, batch=32, learning_rate=6e-3, label_smoothing=0.0)
_BRANCHY = "S039, abstract, as the reference page has it"
_SCALE = "ours: digits of 16x16 pixels, three exits"


@dataclass(frozen=True)
class Variant:
    """What runs.

    Attributes:
        size: ``ci``; ``paper`` is a :class:`PaperVariant`.
        method: ``exits``; ``full``, the last exit alone; ``light``, the first alone; ``cbnet``, that behind an
            autoencoder.
        threshold: the confidence, largest softmax, with which an exit is taken.
        hard: percentage of the images that are under a shift.
        precision: of the layers in front of the heads.
        epochs: of training.
        evaluated: images asked.
    """

    size: Size = "ci"
    method: Method = "exits"
    threshold: float = 0.9
    hard: int = 20
    precision: Precision = "int8"
    epochs: int = PLAN.epochs
    evaluated: int = 200


@dataclass(frozen=True)
class PaperVariant(Variant):
    """The size of CBNet: BranchyNet's LeNet, and a data set of the MNIST family that the user has.

    Attributes:
        data: which of them.
        samples: images that are trained on.
    """

    size: Size = "paper"
    hard: int = 0
    evaluated: int = 500
    data: mnist.Member = "mnist"
    samples: int = 60_000


_ALLOWED: tuple[Allowed, ...] = (
    one_of("method", get_args(Method)),
    within("threshold", 0, 1, "0 to 1: the first exit is taken at 0; method=full is the last one alone"),
    within("hard", 0, 100, "0 to 100 per cent"),
    one_of("precision", get_args(Precision)),
    within("epochs", 1, 100),
)
SIZES: Mapping[str, tuple[Variant, Sequence[Allowed]]] = {
    "ci": (Variant(), (*_ALLOWED, within("evaluated", 10, 700))),
    "paper": (
        PaperVariant(),
        (
            *_ALLOWED, within("evaluated", 10, 10_000), one_of("data", mnist.MEMBERS),
            within("samples", PLAN.batch, 60_000),
        ),
    ),
}  # fmt: skip
EXITS: Mapping[str, int] = {"ci": 3, "paper": 2}
CONVERTER: Mapping[str, tuple[int, tuple[int, ...]]] = {"ci": (16, (32,)), "paper": (mnist.SIDE, (384, 32, 384))}
"""Pixels along a side, and widths of the autoencoder; those of CBNet's own are not in our reference."""


def _claims() -> tuple[Claim, ...]:
    full, hard, control = "method=full", "hard=80", "method=light"
    return (
        Claim("S039", "Leaving early takes less than the whole network.", "S039, motivation (BranchyNet)",
              "latency_per_sample", full, "reduction", None, "of LGViT, whose figure is 1.8, is the workload lgvit",
              at_least=1.3),
        Claim("S039", "At competitive accuracy.", "S039, motivation (BranchyNet)", "accuracy", full, "difference", None,
              _SCALE, at_least=-0.04),
        Claim("S039", "Energy falls by 79 % at most.", f"{_BRANCHY}: up to 79 %", "energy_per_sample", full,
              "reduction", 4.76, f"{_SCALE}; the paper's is CBNet's, on the best of its devices and data sets",
              at_least=1.3),
        Claim("S039", "Exits cost more the more images are hard: 80 instead of 20 %.", "S039, motivation",
              "instructions_per_sample", hard, "factor", None, "below 1 is what is claimed: hard images go deeper",
              at_most=0.95),
        Claim("S039", "CBNet takes less than exits do.", f"{_BRANCHY}: up to 4.8 times", "latency_per_sample",
              "method=cbnet", "factor", 4.8, f"{_SCALE} and 20 % hard images, of which few reach the last"),
        Claim("S039", "And is as accurate.", _BRANCHY, "accuracy", "method=cbnet", "difference", None,
              f"{_SCALE}. The autoencoder decides on the class, and a small one decides wrongly"),
        Claim("S039", "What the exits behind the first are worth.", "a control that the paper lacks", "accuracy",
              control, "difference", None, "the first part alone takes as long with every image"),
    )  # fmt: skip


def parse(text: str) -> Variant:
    """A variant from ``threshold=0.8,hard=50``; what is not named keeps the default of its size.

    Raises:
        ConfigError: an unknown name or a value that is not allowed.
    """
    return read_sized("early-exit", SIZES, text)


class Mixed(Protocol):
    """Options of a variant whose images are partly under a shift."""

    @property
    def hard(self) -> int: ...
    @property
    def evaluated(self) -> int: ...


def counts(variant: Mixed) -> tuple[int, int, int]:
    """How many of the images are clean, shifted and of unknown classes, of which there are none."""
    hard = round(variant.evaluated * variant.hard / 100)
    return variant.evaluated - hard, hard, 0


def judge(scene: Scene, reading: Reading, answers: FloatArray) -> Mapping[str, Rated]:
    """Accuracy, also of each kind of image that is there."""
    right = reading.chosen(answers) == scene.labels
    found = {"accuracy": Rated(float(right.mean()), len(right))}
    for name, kind in (("easy", CLEAN), ("hard", SHIFTED)):
        of = scene.kinds == kind
        if of.any():
            found[f"accuracy.{name}"] = Rated(float(right[of].mean()), int(of.sum()))
    return found


class EarlyExit:
    """The workload. Variants: ``method=exits|full|light|cbnet``, ``threshold=``, ``hard=``,
    ``precision=int8|float32``, ``epochs=``, ``evaluated=``, separated by commas; with ``size=paper`` also
    ``data=mnist|fashion-mnist|kmnist`` and ``samples=``.
    """

    id: str = "early-exit"
    title: str = "Exits taken on the device, and a converting autoencoder in their place (CBNet), on digits"
    family: str = "uncertainty"
    systems: tuple[str, ...] = ("S039",)
    classes: tuple[DeviceClass, ...] = EVERY_CLASS
    baselines: tuple[str, ...] = ("method=full", "method=light", "method=cbnet", "hard=80")
    claims: tuple[Claim, ...] = _claims()
    missing: str = "exits by entropy, and the sizes of CBNet's own autoencoder, which are not in our reference"

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        """Train, compile and answer on this computer, or read all of it from the cache.

        Raises:
            ConfigError: an unknown variant, or no data.
        """
        chosen = parse(variant)
        task = task_of(chosen)
        exits = EXITS[chosen.size]
        reading = Reading(task.classes, task.classes, exits) if chosen.method == "exits" else Reading(task.classes)
        images = f"{chosen.hard} % of {len(task.scene)} images are under a shift"
        question = Question(
            self.id, asdict(chosen), chosen.precision, task, reading, partial(judge, task.scene, reading),
            partial(network, chosen, task, cache), images,
        )  # fmt: skip
        return prepare(question, cache)


def task_of(variant: Variant) -> Task:
    """What a variant is trained on and asked.

    Raises:
        ConfigError: no data.
    """
    if isinstance(variant, PaperVariant):
        return mnist_task(variant.data, variant.samples, counts(variant))
    return digits_task(CLASSES, counts(variant), "16x16 pixels, clean and under shifts.")


def backbone(size: Size) -> Backbone:
    """The network of a size, untrained."""
    from lab.workloads.uncertainty import networks, paper_networks

    return paper_networks.branchy_lenet() if size == "paper" else networks.DIGITS


def network(variant: Variant, task: Task, cache: Path) -> nn.Module:
    """The trained network of a variant, in evaluation mode. All have the parts and heads of one training."""
    from torch import nn

    from lab.workloads.uncertainty import networks, training_runs

    plan, made = replace(PLAN, epochs=variant.epochs), backbone(variant.size)
    keyed = {"plan": json.dumps(asdict(plan)), "data": task.trained_on}
    whole = networks.SoftmaxExits(made.parts(), made.heads(task.classes), variant.threshold)
    trained(
        whole, cache, "early-exit", {"network": "exits", **keyed}, TRAINED_BY,
        lambda: training_runs.train_exits(whole, task, plan),
    )  # fmt: skip
    if variant.method == "exits":
        return whole
    if variant.method == "full":
        return networks.Averaged([nn.Sequential(*whole.parts, whole.heads[-1])], task.classes).eval()
    light = nn.Sequential(whole.parts[0], whole.heads[0])
    if variant.method == "light":
        return networks.Averaged([light], task.classes).eval()
    converter = networks.Converter(*CONVERTER[variant.size])
    trained(
        converter, cache, "early-exit-converter", {"network": "converter", **keyed}, TRAINED_BY,
        lambda: training_runs.train_converter(converter, whole, task, plan),
    )  # fmt: skip
    return networks.Averaged([nn.Sequential(converter, light)], task.classes).eval()


WORKLOAD = EarlyExit()
