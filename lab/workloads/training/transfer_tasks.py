"""What training workloads train a network to do: read turned digits, or tell a user's own images (the paper's size)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from lab.workloads.base import Dataset
from lab.workloads.data import digits
from lab.workloads.options import Allowed, one_of, within
from lab.workloads.training import own_images, turned_digits
from lab.workloads.training.turned_digits import SOURCES, Data

if TYPE_CHECKING:
    from torch import nn

Size: TypeAlias = Literal["ci", "paper"]
DIGITS_MB, DIGITS = "digits-mb", "digits"
ALLOWED: tuple[Allowed, ...] = (
    one_of("size", get_args(Size)),
    one_of("network", (DIGITS_MB,), f"{DIGITS_MB}; others with size=paper"),
    one_of("data", (DIGITS,), f"{DIGITS}; a folder of images with size=paper"),
    one_of("image", turned_digits.IMAGES),
    within("samples", 1, 1400),
    within("epochs", 1, 100),
    within("rate", 1e-6, 10),
    within("evaluated", 1, 350),
    within("target", 0.1, 1),
)
"""Of the size of CI; :data:`lab.workloads.training.own_images.ALLOWED` of the paper's."""


@dataclass(frozen=True)
class Schedule:
    """What every variant of such a workload has; each adds what is trained.

    Attributes:
        size: ``ci``; or ``paper``, for a network and a folder of images that the user has.
        network: ``digits-mb``; with ``size=paper`` one that :mod:`lab.workloads.training.own_images` names.
        data: ``digits``; with ``size=paper`` a folder below ``images/`` of ``LAB_DATA``.
        image: pixels along a side.
        samples: images trained on in each epoch.
        epochs: passes over them.
        rate: learning rate.
        evaluated: held-out images that are read afterwards.
        target: accuracy whose time is told.
    """

    size: Size = "ci"
    network: str = DIGITS_MB
    data: str = DIGITS
    image: int = 16
    samples: int = 240
    epochs: int = 1
    rate: float = 0.02
    evaluated: int = 200
    target: float = 0.4


@dataclass(frozen=True)
class Task:
    """A network that is to learn something else.

    Attributes:
        title: network and images, for the facts.
        dataset: for the record; its digest covers the weights of a user's network too.
        data: reads or makes the images.
        backbone: the network before the device trains it, batch norm folded.
        sources: files that both depend on.
    """

    title: str
    dataset: Dataset
    data: Callable[[], Data]
    backbone: Callable[[Data], nn.Module]
    sources: tuple[Path, ...]


def task_of(schedule: Schedule, cache: Path) -> Task:
    """The task of a variant; what a user's folders hold is read here, so that its digest is known.

    Raises:
        ConfigError: no data, or not those that the paper's size needs.
    """
    title = f"on {schedule.image}x{schedule.image} pixels"
    if schedule.size == "paper":
        images = own_images.read(schedule)
        network, weights = own_images.network(schedule, len(images.training.classes))
        sources = (Path(own_images.__file__), *_network_files())
        dataset = images.dataset(weights, schedule.evaluated)
        return Task(f"{schedule.network} {title}", dataset, images.data, lambda _: network, sources)
    digest = digits.digest(digits.find())
    dataset = Dataset(digits.SOURCE, digest, schedule.evaluated, "Turned by 90 degrees, with noise.")
    image = schedule.image
    return Task(
        f"DigitsMB {title}", dataset, lambda: turned_digits.load(image),
        lambda data: turned_digits.pretrained(image, data, cache), SOURCES,
    )  # fmt: skip


def _network_files() -> tuple[Path, ...]:
    folder = Path(__file__).parents[1] / "networks"
    names = ("blocks", "evaluation", "mcunet", "mobilenet_v2", "proxylessnas", "weight_files")
    return (Path(turned_digits.__file__), *(folder / f"{name}.py" for name in names))
