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

from lab.errors import ConfigError
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

    from lab.workloads.uncertainty.lgvit_networks import Backbone
    from lab.workloads.uncertainty.networks import SoftmaxExits

Size: TypeAlias = Literal["ci", "paper"]
Method: TypeAlias = Literal["lgvit", "linear", "full", "fixed"]
Network: TypeAlias = Literal["deit-tiny", "vit-base", "deit-base", "swin-base"]
DEPTH: Mapping[Size, tuple[int, int]] = {"ci": (2, 5), "paper": (4, 23)}
"""Blocks in front of the first exit, and of the last one; the paper's is Swin-B's."""
SIDE = 224
MOST_IMAGES = 1000
"""Of a folder that are trained on, and that are asked: the host holds 602 KB of each."""
_HERE = Path(__file__).parent
_TRAINED_BY = (
    *(_HERE / f"{name}.py" for name in ("lgvit_images", "lgvit_networks", "lgvit_swin", "lgvit_training", "networks",
                                        "scenes", "training_runs")),
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
        depth: of ``method=fixed``, which ends at the last exit behind no more blocks.
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
    """The networks and heads of the paper, and the smallest of DeiT's, on a user's images.

    Attributes:
        network: which of them; the user has its weights.
        data: folder below ``images/``.
        samples: images that are trained on, the same number of each class.
    """

    size: Size = "paper"
    depth: int = 6
    hard: int = 0
    epochs: int = 4
    evaluated: int = 50
    network: Network = "deit-tiny"
    data: str = ""
    samples: int = 500


def _allowed(size: Size) -> tuple[Allowed, ...]:
    first, last = DEPTH[size]
    return (
        one_of("method", get_args(Method)),
        within("threshold", 0, 1, "0 to 1: the first exit is taken at 0; method=full is the end alone"),
        within("depth", first, last, f"{first} to {last}: blocks in front of an exit"),
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
            one_of("network", get_args(Network)),
            Allowed("data", bool, "data=NAME, a folder below images/ in LAB_DATA"),
        ),
    ),
}  # fmt: skip


def parse(text: str) -> Variant:
    """A variant from ``threshold=0.9,hard=50``; what is not named keeps the default of its size.

    Raises:
        ConfigError: an unknown name or a value that is not allowed.
    """
    found = read_sized("lgvit", SIZES, text)
    if isinstance(found, PaperVariant) and found.network == "swin-base" and found.precision == "int8":
        raise ConfigError(
            "lgvit has no int8 form of network=swin-base: the -100 that keep patches of moved windows apart would take "
            "all of the grid from their attention",
            hint="precision=float32, or network=deit-tiny, vit-base or deit-base",
        )
    return found


def plan_of(variant: Variant) -> Plan:
    """How the first stage is trained: from nothing, or from a user's weights; large networks with few images at once,
    which take gigabytes."""
    rate, batch = 4e-3, 64
    if isinstance(variant, PaperVariant):
        rate, batch = 2e-4, 32 if variant.network == "deit-tiny" else 8
    return Plan(epochs=variant.epochs, batch=batch, learning_rate=rate, label_smoothing=0.0)


def sizes(variant: Variant) -> Backbone:
    """The transformer of a variant.

    The paper's have exits behind blocks 4 to 11 of twelve, or where the authors have Swin-B's; of the small one's six
    they are in the same places, with the heads that the authors have for four exits.
    """
    from lab.workloads.uncertainty.lgvit_networks import Kind, Transformer
    from lab.workloads.uncertainty.lgvit_swin import WindowTransformer

    kinds: tuple[Kind, ...] = ("spatial", "pointwise", "every-2nd", "every-3rd")
    if not isinstance(variant, PaperVariant):
        return Transformer(1, 16, 4, 48, 6, 4, tuple((2 + number, kind) for number, kind in enumerate(kinds)))
    if variant.network == "swin-base":
        seen: tuple[Kind, ...] = ("spatial", "spatial", "pointwise", "pointwise", "every", "every", *2 * ("every-2nd",))
        exits = tuple(zip((4, 7, 10, 13, 16, 19, 22, 23), seen, strict=True))
        return WindowTransformer(3, SIDE, 4, 128, (2, 2, 18, 2), (4, 8, 16, 32), 7, exits)
    width, heads = (192, 3) if variant.network == "deit-tiny" else (768, 12)
    exits = tuple((4 + number, kinds[number // 2]) for number in range(8))
    return Transformer(3, SIDE, 16, width, 12, heads, exits, epsilon=1e-6)


class Lgvit:
    """The workload. Variants: ``method=lgvit|linear|full|fixed``, ``threshold=``, ``depth=``, ``hard=``,
    ``precision=float32|int8``, ``epochs=``, ``evaluated=``, separated by commas; with ``size=paper`` also
    ``network=deit-tiny|vit-base|deit-base|swin-base``, ``data=`` and ``samples=``.
    """

    id: str = "lgvit"
    title: str = "Local and global heads at the exits of a vision transformer (LGViT), on digits"
    family: str = "uncertainty"
    systems: tuple[str, ...] = ("S099",)
    classes: tuple[DeviceClass, ...] = EVERY_CLASS
    baselines: tuple[str, ...] = ("method=full", "method=linear", "method=fixed", "threshold=0")
    claims: tuple[Claim, ...] = CLAIMS
    missing: str = ""

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        """Train, compile and answer on this computer, or read all of it from the cache.

        Raises:
            ConfigError: an unknown variant, or no data.
        """
        chosen = parse(variant)
        task = task_of(chosen)
        dynamic = chosen.method in ("lgvit", "linear")
        exits = len(sizes(chosen).exits) + 1
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
    _, weights = pretrained(sizes(variant), variant.network, digits.CLASSES)
    return folder_task(variant.data, weights, SIDE, variant.samples, variant.evaluated)


def pretrained(made: Backbone, name: str, classes: int) -> tuple[list[nn.Sequential], str]:
    """The blocks of a transformer with the user's weights, in parts, and the file's SHA-256, hex.

    Raises:
        ConfigError: as :func:`lab.workloads.networks.weight_files.load`.
    """
    from torch import nn

    from lab.workloads.networks.weight_files import load

    parts = made.parts()
    digest = load(nn.Sequential(*parts, made.end(classes)), name, head=f"{len(parts)}.classifier")
    return parts, digest


def network(variant: Variant, task: Task, cache: Path) -> nn.Module:
    """The trained network of a variant, in evaluation mode; all but ``method=linear`` have those of one training."""
    from torch import nn

    from lab.workloads.uncertainty import networks

    whole = trained_exits(variant, task, cache)
    if variant.method in ("lgvit", "linear"):
        return whole
    within_reach = [block for block, _ in sizes(variant).exits if block <= variant.depth]
    last = len(whole.parts) - 1 if variant.method == "full" else len(within_reach) - 1
    return networks.Averaged([nn.Sequential(*whole.parts[: last + 1], whole.heads[last])], task.classes).eval()


def trained_exits(variant: Variant, task: Task, cache: Path) -> SoftmaxExits:
    """All exits, trained in both stages, once for the variants that share them."""
    from lab.workloads.uncertainty import lgvit_training, networks
    from lab.workloads.uncertainty.lgvit_networks import plain

    made, plan = sizes(variant), plan_of(variant)
    exits = plain(made.exits) if variant.method == "linear" else made.exits
    if isinstance(variant, PaperVariant):
        parts, _ = pretrained(made, variant.network, task.classes)
    else:
        parts = made.parts()
    whole = networks.SoftmaxExits(parts, made.exit_heads(exits, task.classes), variant.threshold)
    keyed = {"network": repr((made, exits)), "plan": json.dumps(asdict(plan)), "data": task.trained_on}
    return trained(
        whole, cache, "lgvit", keyed, _TRAINED_BY,
        lambda: lgvit_training.train(whole, task, plan, max(1, plan.epochs // 4)),
    )  # fmt: skip


WORKLOAD = Lgvit()
