"""LGViT (S099): exits of a vision transformer, with convolutions in early heads and attention in late ones.

Xu et al. 2023. The exit whose softmax is sure enough ends the inference on the device, as in :mod:`early_exit`.
Controls: the transformer without exits, heads that are linear alone, and a transformer that always ends at one depth.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from lab.workloads.base import EVERY_CLASS, Claim, DeviceClass, Prepared
from lab.workloads.data import digits
from lab.workloads.fitting import Plan
from lab.workloads.options import Allowed, one_of, read_sized, within
from lab.workloads.trained import trained
from lab.workloads.uncertainty.answers import TRANSFORMER, Precision, Question, Reading, prepare
from lab.workloads.uncertainty.early_exit import counts, judge
from lab.workloads.uncertainty.lgvit_claims import CLAIMS
from lab.workloads.uncertainty.lgvit_images import folder_task
from lab.workloads.uncertainty.scenes import Task, digits_task

if TYPE_CHECKING:
    from torch import nn

    from lab.workloads.uncertainty.lgvit_networks import Transformer
    from lab.workloads.uncertainty.networks import SoftmaxExits

Size: TypeAlias = Literal["ci", "paper"]
Method: TypeAlias = Literal["lgvit", "linear", "full", "fixed"]
DEPTH: Mapping[Size, int] = {"ci": 6, "paper": 12}
PRETRAINED, SIDE = "deit-tiny", 224
MOST_IMAGES = 1000
"""Of a folder that are trained on, and that are asked: the host holds 602 KB of each."""
_HERE = Path(__file__).parent
_TRAINED_BY = (
    *(_HERE / f"{name}.py" for name in ("lgvit_images", "lgvit_networks", "lgvit_training", "networks", "scenes",
                                        "training_runs")),
    *(_HERE.parent / "data" / f"{name}.py" for name in ("corruptions", "digits", "image_folder")),
    *TRANSFORMER,
)  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """What runs.

    Attributes:
        size: ``ci``; ``paper`` is a :class:`PaperVariant`.
        method: ``lgvit``; ``linear``, the same exits with heads that are linear alone, trained as LGViT's are;
            ``full``, the transformer's own end; ``fixed``, LGViT's exit behind ``depth`` blocks, with every image.
        threshold: the confidence, largest softmax, with which an exit is taken.
        depth: of ``method=fixed``.
        hard: percentage of the images that are under a shift.
        precision: of all but the linear classifiers, which are in float32.
        epochs: of the first stage; the second, of the heads alone, has a quarter of them.
        evaluated: images asked.
    """

    size: Size = "ci"
    method: Method = "lgvit"
    threshold: float = 0.8
    depth: int = 3
    hard: int = 20
    precision: Precision = "float32"
    epochs: int = 30
    evaluated: int = 200


@dataclass(frozen=True)
class PaperVariant(Variant):
    """The depth, the patches and the heads of the paper, on the smallest of DeiT's networks and a user's images.

    Attributes:
        data: folder below ``images/``.
        samples: images that are trained on, the same number of each class.
    """

    size: Size = "paper"
    depth: int = 6
    hard: int = 0
    epochs: int = 4
    evaluated: int = 50
    data: str = ""
    samples: int = 500


def _allowed(size: Size) -> tuple[Allowed, ...]:
    first, last = DEPTH[size] // 3, DEPTH[size] - 1
    return (
        one_of("method", get_args(Method)),
        within("threshold", 0, 1, "0 to 1: the first exit is taken at 0; method=full is the end alone"),
        within("depth", first, last, f"{first} to {last}: blocks with an exit behind them"),
        one_of("precision", get_args(Precision)),
        within("epochs", 1, 200),
    )


SIZES: Mapping[str, tuple[Variant, Sequence[Allowed]]] = {
    "ci": (
        Variant(), (*_allowed("ci"), within("hard", 0, 100, "0 to 100 per cent"), within("evaluated", 10, 700)),
    ),
    "paper": (
        PaperVariant(),
        (
            *_allowed("paper"), within("hard", 0, 0, "0: a user's images are asked as they are"),
            within("evaluated", 10, MOST_IMAGES), within("samples", 32, MOST_IMAGES),
            Allowed("data", bool, "data=NAME, a folder below images/ in LAB_DATA"),
        ),
    ),
}  # fmt: skip


def parse(text: str) -> Variant:
    """A variant from ``threshold=0.9,hard=50``; what is not named keeps the default of its size.

    Raises:
        ConfigError: an unknown name or a value that is not allowed.
    """
    return read_sized("lgvit", SIZES, text)


def plan_of(variant: Variant) -> Plan:
    """How the first stage is trained: from nothing, or from a user's weights."""
    rate, batch = (2e-4, 32) if isinstance(variant, PaperVariant) else (4e-3, 64)
    return Plan(epochs=variant.epochs, batch=batch, learning_rate=rate, label_smoothing=0.0)


def sizes(size: Size) -> Transformer:
    """The transformer of a size.

    The paper's has exits behind blocks 4 to 11 of twelve; of the small one's six they are in the same places, with the
    heads that the authors have for four exits.
    """
    from lab.workloads.uncertainty.lgvit_networks import Kind, Transformer

    kinds: tuple[Kind, ...] = ("spatial", "pointwise", "every-2nd", "every-3rd")
    each, depth = (1 if size == "ci" else 2), DEPTH[size]
    exits = tuple((depth // 3 + number, kinds[number // each]) for number in range(each * len(kinds)))
    if size == "ci":
        return Transformer(1, 16, 4, 48, depth, 4, exits)
    return Transformer(3, SIDE, 16, 192, depth, 3, exits)


class Lgvit:
    """The workload. Variants: ``method=lgvit|linear|full|fixed``, ``threshold=``, ``depth=``, ``hard=``,
    ``precision=float32|int8``, ``epochs=``, ``evaluated=``, separated by commas; with ``size=paper`` also ``data=`` and
    ``samples=``.
    """

    id: str = "lgvit"
    title: str = "Local and global heads at the exits of a vision transformer (LGViT), on digits"
    family: str = "uncertainty"
    systems: tuple[str, ...] = ("S099",)
    classes: tuple[DeviceClass, ...] = EVERY_CLASS
    baselines: tuple[str, ...] = ("method=full", "method=linear", "method=fixed", "threshold=0")
    claims: tuple[Claim, ...] = CLAIMS
    missing: str = "ViT-B, DeiT-B and Swin-B (--size paper has DeiT-Ti)"

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        """Train, compile and answer on this computer, or read all of it from the cache.

        Raises:
            ConfigError: an unknown variant, or no data.
        """
        chosen = parse(variant)
        task = task_of(chosen)
        dynamic = chosen.method in ("lgvit", "linear")
        exits = len(sizes(chosen.size).exits) + 1
        reading = Reading(task.classes, task.classes, exits) if dynamic else Reading(task.classes)
        question = Question(
            self.id, asdict(chosen), chosen.precision, task, reading, partial(judge, task.scene, reading),
            partial(network, chosen, task, cache), f"{chosen.hard} % of {len(task.scene)} images are under a shift",
        )  # fmt: skip
        return prepare(question, cache)


def task_of(variant: Variant) -> Task:
    """What a variant is trained on and asked.

    Raises:
        ConfigError: no data, or no weights.
    """
    if not isinstance(variant, PaperVariant):
        return digits_task(digits.CLASSES, counts(variant), "16x16 pixels, clean and under shifts.")
    _, weights = pretrained(sizes(variant.size), digits.CLASSES)
    return folder_task(variant.data, weights, SIDE, variant.samples, variant.evaluated)


def pretrained(made: Transformer, classes: int) -> tuple[list[nn.Sequential], str]:
    """The blocks of a transformer with the user's weights, in parts, and the file's SHA-256, hex.

    Raises:
        ConfigError: as :func:`lab.workloads.networks.weight_files.load`.
    """
    from torch import nn

    from lab.workloads.networks.weight_files import load
    from lab.workloads.uncertainty.lgvit_networks import End

    parts = made.parts()
    digest = load(nn.Sequential(*parts, End(made.width, classes)), PRETRAINED, head=f"{len(parts)}.classifier")
    return parts, digest


def network(variant: Variant, task: Task, cache: Path) -> nn.Module:
    """The trained network of a variant, in evaluation mode; all but ``method=linear`` have those of one training."""
    from torch import nn

    from lab.workloads.uncertainty import networks

    whole = trained_exits(variant, task, cache)
    if variant.method in ("lgvit", "linear"):
        return whole
    last = len(whole.parts) - 1 if variant.method == "full" else variant.depth - DEPTH[variant.size] // 3
    return networks.Averaged([nn.Sequential(*whole.parts[: last + 1], whole.heads[last])], task.classes).eval()


def trained_exits(variant: Variant, task: Task, cache: Path) -> SoftmaxExits:
    """All exits, trained in both stages, once for the variants that share them."""
    from lab.workloads.uncertainty import lgvit_training, networks

    made, plan = sizes(variant.size), plan_of(variant)
    exits = made.plain() if variant.method == "linear" else made.exits
    parts = pretrained(made, task.classes)[0] if isinstance(variant, PaperVariant) else made.parts()
    whole = networks.SoftmaxExits(parts, made.exit_heads(exits, task.classes), variant.threshold)
    keyed = {"network": repr((made, exits)), "plan": json.dumps(asdict(plan)), "data": task.trained_on}
    return trained(
        whole, cache, "lgvit", keyed, _TRAINED_BY,
        lambda: lgvit_training.train(whole, task, plan, max(1, plan.epochs // 4)),
    )  # fmt: skip


WORKLOAD = Lgvit()
