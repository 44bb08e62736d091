"""Early exit (S039 CBNet): an exit that is sure ends the inference, and easy images leave first.

BranchyNet (Teerapittayanon et al. 2016) leaves by the confidence of a softmax or by its entropy, so that its time grows
with the share of hard images. CBNet (S039) turns every image into an easy one of the same class with an autoencoder and
asks the first part alone, in constant time. Controls: the whole network, and the first part without the autoencoder.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, get_args

from lab.errors import ConfigError
from lab.workloads import cache as cached
from lab.workloads import fitting
from lab.workloads.base import EVERY_CLASS, Claim, DeviceClass, Figure, Prepared
from lab.workloads.data import digits, mnist
from lab.workloads.fitting import Plan
from lab.workloads.options import Allowed, one_of, read_sized, within
from lab.workloads.trained import trained
from lab.workloads.uncertainty import exit_rules
from lab.workloads.uncertainty.answers import (
    TRAINED_BY,
    Precision,
    Question,
    Rated,
    Reading,
    prepare,
)
from lab.workloads.uncertainty.exit_rules import Rule, matched_entropy
from lab.workloads.uncertainty.paper_scenes import mnist_task
from lab.workloads.uncertainty.scenes import CLEAN, SHIFTED, FloatArray, Scene, Task, digits_task

if TYPE_CHECKING:
    from torch import nn

    from lab.workloads.uncertainty.networks import Backbone, Converter, SoftmaxExits

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
        rule: of ``method=exits``: whether exits are taken by confidence or, as in BranchyNet, by entropy.
        threshold: the confidence, largest softmax, with which an exit is taken.
        entropy: nats, with ``rule=entropy``; 0 is that with which as many held-out images take the first exit as do by
            the confidence ``threshold``.
        hard: percentage of the images that are under a shift.
        precision: of the layers in front of the heads.
        epochs: of training.
        evaluated: images asked.
    """

    size: Size = "ci"
    method: Method = "exits"
    rule: Rule = "confidence"
    threshold: float = 0.9
    entropy: float = 0.0
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
        hidden: widths of the autoencoder's hidden layers, joined by ``+``; empty are those of :data:`HIDDEN`.
        converter: a file of its weights in ``networks/`` of ``LAB_DATA``, without its ending; empty trains it here.
    """

    size: Size = "paper"
    hard: int = 0
    evaluated: int = 500
    data: mnist.Member = "mnist"
    samples: int = 60_000
    hidden: str = ""
    converter: str = ""


CONVERTER_RATE = 1e-3
"""Rate at which that is trained, of the authors' optimiser; at the network's own it dies within an epoch."""
MOST_ENTROPY = math.log(CLASSES)
MOST_LAYERS, WIDEST = 8, 4096


def is_hidden(value: object) -> bool:
    """Whether these are widths, joined by ``+``, or none."""
    words = str(value).split("+") if value else []
    return len(words) <= MOST_LAYERS and all(one.isdecimal() and 1 <= int(one) <= WIDEST for one in words)


def is_file(value: object) -> bool:
    """Whether this is the name of a file, without a folder, or none."""
    return not value or re.fullmatch(r"[\w-][\w.-]*", str(value)) is not None


_ALLOWED: tuple[Allowed, ...] = (
    one_of("method", get_args(Method)),
    one_of("rule", get_args(Rule)),
    within("threshold", 0, 1, "0 to 1: the first exit is taken at 0; method=full is the last one alone"),
    within("entropy", 0, MOST_ENTROPY, f"0 to {MOST_ENTROPY:.3f} nats, of ten equal shares; 0 sets it by threshold="),
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
            Allowed("hidden", is_hidden, f"up to {MOST_LAYERS} widths of 1 to {WIDEST}, as 512+256+512"),
            Allowed("converter", is_file, "the name of a file in networks/ of LAB_DATA, without folder and ending"),
        ),
    ),
}  # fmt: skip
EXITS: Mapping[str, int] = {"ci": 3, "paper": 2}
LEAST_JUDGED = 10
"""Held-out images that an entropy is set by."""
HIDDEN: Mapping[mnist.Member, tuple[int, ...]] = {
    "mnist": (512, 256, 512), "kmnist": (512, 384, 256, 64), "fashion-mnist": (512, 384, 256, 64),
}  # fmt: skip
"""Widths of CBNet's autoencoder as the authors' notebooks have them (github.com/max2022/Converting-Autoencoder:
LeNet_MNIST, K_mnist_LeNet_Results); there is none for Fashion-MNIST, which takes Kuzushiji-MNIST's here."""


def _claims() -> tuple[Claim, ...]:
    full, hard, control, by_entropy = "method=full", "hard=80", "method=light", "rule=entropy"
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
        Claim("S039", "Exits by entropy, as BranchyNet takes them, are as accurate.", "S039, its baseline (BranchyNet)",
              "accuracy", by_entropy, "difference", None, "at the entropy with which as many held-out images take the "
              "first exit: positive where confidence is better"),
        Claim("S039", "And take as long.", "S039, its baseline (BranchyNet)", "latency_per_sample", by_entropy,
              "factor", None, "entropy takes a logarithm of each class, and other images leave early by it"),
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
    """The workload. Variants: ``method=exits|full|light|cbnet``, ``rule=confidence|entropy``, ``threshold=``,
    ``entropy=``, ``hard=``, ``precision=int8|float32``, ``epochs=``, ``evaluated=``, separated by commas; with
    ``size=paper`` also ``data=mnist|fashion-mnist|kmnist``, ``samples=``, ``hidden=`` and ``converter=``.
    """

    id: str = "early-exit"
    title: str = "Exits taken on the device, and a converting autoencoder in their place (CBNet), on digits"
    family: str = "uncertainty"
    systems: tuple[str, ...] = ("S039",)
    classes: tuple[DeviceClass, ...] = EVERY_CLASS
    baselines: tuple[str, ...] = ("method=full", "method=light", "method=cbnet", "hard=80", "rule=entropy")
    claims: tuple[Claim, ...] = _claims()
    missing: str = ""

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        """Train, compile and answer on this computer, or read all of it from the cache.

        Raises:
            ConfigError: an unknown variant, no data, or none left to set an entropy by.
        """
        chosen = parse(variant)
        task = task_of(chosen)
        chosen = calibrated(chosen, task, cache)
        exits = EXITS[chosen.size]
        reading = Reading(task.classes, task.classes, exits) if chosen.method == "exits" else Reading(task.classes)
        images = f"{chosen.hard} % of {len(task.scene)} images are under a shift"
        question = Question(
            self.id, asdict(chosen) | _read_files(chosen), chosen.precision, task, reading,
            partial(judge, task.scene, reading), partial(network, chosen, task, cache), images,
        )  # fmt: skip
        prepared = prepare(question, cache)
        if not _by_entropy(chosen):
            return prepared
        set_at = Figure("exit_entropy", chosen.entropy, "1", "nats: an exit is taken at this entropy or below")
        return replace(prepared, figures=(*prepared.figures, set_at))


def task_of(variant: Variant) -> Task:
    """What a variant is trained on and asked.

    Raises:
        ConfigError: no data.
    """
    if isinstance(variant, PaperVariant):
        return mnist_task(variant.data, variant.samples, counts(variant))
    return digits_task(CLASSES, counts(variant), "16x16 pixels, clean and under shifts.")


def _by_entropy(variant: Variant) -> bool:
    return variant.method == "exits" and variant.rule == "entropy"


def _read_files(variant: Variant) -> dict[str, object]:
    """What the record says of a file of weights in place of its name: the name, and the content's SHA-256, hex."""
    if not isinstance(variant, PaperVariant) or variant.method != "cbnet" or not variant.converter:
        return {}
    from lab.workloads.networks.weight_files import digest_of

    return {"converter": f"{variant.converter}, {digest_of(variant.converter)}"}


def calibrated(variant: Variant, task: Task, cache: Path) -> Variant:
    """The variant with the entropy with which its exits are taken; as it is where none is to be set.

    Raises:
        ConfigError: too few held-out images are left, or the cache cannot be written.
    """
    if not _by_entropy(variant) or variant.entropy > 0:
        return variant
    if task.judged is None:
        raise ValueError("the task has no held-out images")
    images, _ = task.judged()
    if len(images) < LEAST_JUDGED:
        raise ConfigError(
            f"early-exit: an entropy is set by held-out images that are not asked, of which {len(images)} are left; "
            f"{LEAST_JUDGED} are needed",
            hint="fewer evaluated=, or give entropy= in nats",
        )
    asked = hashlib.sha256(images.tobytes()).hexdigest()
    named = {**_keyed(variant, task), "size": variant.size, "threshold": str(variant.threshold), "judged": asked}
    named |= {package: version(package) for package in ("numpy", "torch")}

    def produce() -> cached.Entry:
        from lab.workloads.uncertainty.training_runs import first_shares

        shares = first_shares(_exits(variant, task, cache), images)
        return cached.Entry(json.dumps(matched_entropy(shares, variant.threshold)), {})

    key = cached.key(named, [*TRAINED_BY, Path(exit_rules.__file__), Path(fitting.__file__)])
    entry = cached.obtain(cache / "workloads", "early-exit-entropy", key, produce)
    return replace(variant, entropy=float(json.loads(entry.document)))


def backbone(size: Size) -> Backbone:
    """The network of a size, untrained."""
    from lab.workloads.uncertainty import networks, paper_networks

    return paper_networks.branchy_lenet() if size == "paper" else networks.DIGITS


def _plan(variant: Variant) -> Plan:
    return replace(PLAN, epochs=variant.epochs)


def _keyed(variant: Variant, task: Task) -> dict[str, str]:
    """What the networks of a variant depend on."""
    return {"plan": json.dumps(asdict(_plan(variant))), "data": task.trained_on}


def _exits(variant: Variant, task: Task, cache: Path) -> SoftmaxExits:
    """The network with all its exits, trained once for all that share it."""
    from lab.workloads.uncertainty import networks, training_runs

    made = backbone(variant.size)
    rule: Rule = "entropy" if _by_entropy(variant) else "confidence"
    threshold = variant.entropy if rule == "entropy" else variant.threshold
    whole = networks.SoftmaxExits(made.parts(), made.heads(task.classes), threshold, rule)
    return trained(
        whole, cache, "early-exit", {"network": "exits", **_keyed(variant, task)}, TRAINED_BY,
        lambda: training_runs.train_exits(whole, task, _plan(variant)),
    )  # fmt: skip


def converter(variant: Variant, whole: SoftmaxExits, task: Task, cache: Path) -> Converter:
    """The autoencoder of a variant: the user's, or one that is trained here.

    At the paper's size its code is linear where it is the last hidden layer, its loss is a binary cross-entropy of
    pixels and its rate 0.001, as the authors' notebooks have them; at the size of CI there are a ReLU and squares.

    Raises:
        ConfigError: as :func:`lab.workloads.networks.weight_files.load`.
    """
    from torch.nn import functional

    from lab.workloads.networks import weight_files
    from lab.workloads.uncertainty import networks, training_runs

    if not isinstance(variant, PaperVariant):
        made = networks.Converter()
    else:
        widths = tuple(map(int, variant.hidden.split("+"))) if variant.hidden else HIDDEN[variant.data]
        made = networks.Converter(mnist.SIDE, widths, linear=widths[-1] == min(widths))
        if variant.converter:
            weight_files.load(made, variant.converter)
            return made.eval()
    is_paper = isinstance(variant, PaperVariant)
    loss: training_runs.Loss = functional.binary_cross_entropy if is_paper else functional.mse_loss
    plan = replace(_plan(variant), learning_rate=CONVERTER_RATE) if is_paper else _plan(variant)
    named = {**_keyed(variant, task), "network": f"converter, {made}, {plan}"}
    return trained(
        made, cache, "early-exit-converter", named, TRAINED_BY,
        lambda: training_runs.train_converter(made, whole, task, plan, loss),
    )  # fmt: skip


def network(variant: Variant, task: Task, cache: Path) -> nn.Module:
    """The trained network of a variant, in evaluation mode. All have the parts and heads of one training."""
    from torch import nn

    from lab.workloads.uncertainty import networks

    whole = _exits(variant, task, cache)
    if variant.method == "exits":
        return whole
    if variant.method == "full":
        return networks.Averaged([nn.Sequential(*whole.parts, whole.heads[-1])], task.classes).eval()
    light = nn.Sequential(whole.parts[0], whole.heads[0])
    if variant.method == "light":
        return networks.Averaged([light], task.classes).eval()
    behind = converter(variant, whole, task, cache)
    return networks.Averaged([nn.Sequential(behind, light)], task.classes).eval()


WORKLOAD = EarlyExit()
