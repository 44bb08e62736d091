"""What a variant of the adaptation workloads asks for: ``method=tent,batch=1,stream=mixed``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

from lab.errors import ConfigError
from lab.workloads.data import cifar10
from lab.workloads.data.corruptions import CORRUPTIONS
from lab.workloads.options import Allowed, one_of, read_sized, within

Method: TypeAlias = Literal["none", "bn", "alpha", "lean", "tent", "od", "eco", "meta", "cema"]
StreamKind: TypeAlias = Literal["shifts", "mixed", "clean"]
NETWORKS: dict[str, tuple[int, ...]] = {
    "small": (8, 16, 16, 32),
    "reference": (16, 32, 32, 64),
    "deep": (6,) * 5 + (8,) * 5 + (16,) * 10,
}
"""Widths of the convolutions, in four parts of as many each."""
STRIDES = (1, 2, 1, 2)
EARLY_STRIDES = (2, 1, 2, 1)
"""Of the first convolution of each part; the deep network has a quarter of the pixels throughout, for its memory."""
WIDTHS = {"resnet18": 64, "resnet18-w16": 16}
"""Of the papers' size, channels of the first stage: the papers', and a quarter, whose weights fit a microcontroller."""
WIDE = {"wrn-40-2": (40, 2)}
"""Wide residual networks of the papers' size: depth and width. EcoTTA's is that of AugMix."""
FOUNDATIONS = ("resnet101", *WIDTHS)
"""Networks of CEMA's host of the papers' size; the first is the paper's."""
NORMS = 20
"""Batch norms of a ResNet-18."""
MOST_STATES = 4
MOST_SHIFTS = 8
PAPER_SHIFTS = "impulse_noise+brightness+fog"
"""CIFAR-10-C's names of the kinds that the digits' stream goes through."""
CLASSES = 10


PRECISIONS = ("float32", "int8")
BY_SAMPLE: tuple[Method, ...] = ("none", "alpha", "lean")
"""Methods that infer one sample at a time and change nothing: these there are in int8 as well."""
BATCHED: tuple[Method, ...] = ("bn", "tent", "eco", "meta")
CHANGING: tuple[Method, ...] = ("tent", "od", "eco")
"""Methods whose statistics are those of a batch, and methods whose variables change on the device."""


UPLOADS = ("both", "dynamic", "low", "static", "all")
"""Which samples go to the host: between both thresholds; below an upper one that moves with the mean entropy; between
both, neither moving; below an upper one; every one."""


@dataclass(frozen=True)
class Options:
    """A method, and the stream that it meets.

    Attributes:
        method: ``none``; ``bn``: statistics of the batch; ``alpha``: nine tenths of the source's and a tenth of the
            sample's; ``lean``: LeanTTA; ``tent``: gradient descent on the entropy; ``od``: OD-TTA, on demand; ``eco``:
            EcoTTA, of which ``meta`` is the network that it starts from, unadapted; ``cema``: CEMA, by the host.
        stream: ``shifts``: clean, three corruptions one after another, clean; ``mixed``: ten corruptions at five
            severities and in any order; ``clean``: no shift.
        shifts: the corruptions of the stream ``shifts``, in their order and joined by ``+``.
        length: samples of each corruption of ``shifts``, or of ``mixed`` and ``clean`` altogether.
        severity: of the corruptions of ``shifts``, 1 to 5.
        batch: samples that :data:`BATCHED` methods take at once; of ``cema`` those of a round and of a step.
        cached: samples that ``od`` adapts to.
        affine: rate of the affine pass of ``od`` over the same samples; 0 for none.
        states: source states that ``od`` chooses from: clean, noise, light, contrast.
        layers: batch norms that ``lean`` and ``alpha`` adapt, the first so many; the others are fused into the
            convolutions before them.
        precision: ``float32`` or, of :data:`BY_SAMPLE`, ``int8``.
        upload: which samples ``cema`` sends to the host, one of :data:`UPLOADS`.
        foundation: network of the host, one of those below, which teaches that of the device.
        network: ``small``, ``reference`` (16-32-32-64) or ``deep``, of twenty convolutions.
        only: the one class that the stream holds; -1 for all.
        epochs: of the warm-up of ``eco``'s meta networks.
        size: ``ci``; ``paper`` for CIFAR-10-C and networks that the user has (:data:`WIDTHS`, :data:`WIDE`,
            :data:`FOUNDATIONS`).
    """

    method: Method
    stream: StreamKind
    length: int
    severity: int = 5
    batch: int = 16
    cached: int = 16
    affine: float = 0.0
    states: int = 4
    layers: int = 4
    precision: str = "float32"
    upload: str = "both"
    foundation: str = "reference"
    network: str = "small"
    only: int = -1
    epochs: int = 10
    shifts: str = "impulse+brightness+fog"
    size: str = "ci"

    def corruptions(self) -> tuple[str, ...]:
        """Those of the stream ``shifts``."""
        return tuple(self.shifts.split("+"))


@dataclass(frozen=True)
class Detector:
    """Shift detection by a moving average of the entropy; its numbers let no clean stream of 3000 samples alarm.

    Attributes:
        weight: of a new sample.
        threshold: nats that the average may leave its base by, to either side.
        settle: samples, from the beginning and after each adaptation, whose average becomes the base.
    """

    weight: float = 0.05
    threshold: float = 0.2
    settle: int = 40


DETECTOR = Detector()
COMPARED = 4
"""Of the samples that are adapted to on demand, how many choose the source state."""


TENT_RATE = 1e-3
ECO_RATE = 2.5e-5
"""That of the implementation in Lily-Le/EcoTTA. With the 5e-3 of other notes on the paper two computers that add in
another order part within fifty batches: every step depends on the signs of what the last one made."""


def learning_rate(options: Options) -> float:
    """Of the methods that descend with every batch."""
    return ECO_RATE if options.method == "eco" else TENT_RATE


def _some_of(kinds: Sequence[str]) -> Allowed:
    """Corruptions that a stream goes through."""

    def holds(value: object) -> bool:
        named = str(value).split("+")
        return len(named) <= MOST_SHIFTS and all(one in kinds for one in named)

    return Allowed("shifts", holds, f"1 to {MOST_SHIFTS} of {', '.join(kinds)}, joined by +")


_ALLOWED: tuple[Allowed, ...] = (
    one_of("precision", PRECISIONS),
    one_of("stream", get_args(StreamKind)),
    within("severity", 1, 5),
    within("batch", 1, 64),
    within("cached", 1, 256),
    within("affine", 0.0, 1.0),
    within("states", 1, MOST_STATES, f"1 to {MOST_STATES}: the clean source state at least"),
    within("epochs", 1, 100),
    within("only", -1, CLASSES - 1, f"-1 for all, or a class from 0 to {CLASSES - 1}"),
)


CI_ALLOWED: tuple[Allowed, ...] = (
    *_ALLOWED,
    _some_of(CORRUPTIONS),
    one_of("method", get_args(Method)),
    one_of("network", tuple(NETWORKS)),
    one_of("foundation", tuple(NETWORKS)),
    one_of("upload", UPLOADS),
    within("length", 1, 4096),
    within("layers", 1, 4),
)
PAPER_ALLOWED: tuple[Allowed, ...] = (
    *_ALLOWED,
    _some_of(cifar10.CORRUPTIONS),
    one_of("method", get_args(Method)),
    one_of("network", (*WIDTHS, *WIDE)),
    one_of("foundation", FOUNDATIONS),
    one_of("upload", UPLOADS),
    within("length", 1, 100_000),
    within("layers", 1, NORMS),
)


def _paper(defaults: Options) -> Options:
    """The defaults of the papers' size: the network and the batch of the method's own paper."""
    norms = NORMS * defaults.layers // Options.layers
    found = replace(
        defaults, size="paper", network="resnet18", foundation=FOUNDATIONS[0], layers=norms, shifts=PAPER_SHIFTS
    )
    if defaults.method == "eco":
        return replace(found, network="wrn-40-2", batch=64)
    return replace(found, batch=32) if defaults.method == "cema" else found


def parse(workload: str, text: str, defaults: Options) -> Options:
    """Options from a variant; what is not named keeps the default of its size.

    Args:
        workload: id, for the errors.
        text: the variant.
        defaults: the workload's, at the size of CI.

    Raises:
        ConfigError: an unknown name, a value that is not allowed, a method that is not there in int8, or two
            networks that do not take the same images.
    """
    sizes = {"ci": (defaults, CI_ALLOWED), "paper": (_paper(defaults), PAPER_ALLOWED)}
    found = read_sized(workload, sizes, text)
    if found.method == "cema" and found.network in WIDE:
        raise ConfigError(
            f"workload {workload}: network={found.network} takes images on another scale than foundation="
            f"{found.foundation}, and the host has those that the device sends",
            hint=f"one of {', '.join(WIDTHS)}",
        )
    if found.precision == "int8" and found.method not in BY_SAMPLE:
        raise ConfigError(
            f"workload {workload}: method={found.method} is not there in int8, but {', '.join(BY_SAMPLE)} are",
            hint=f"method={found.method},precision=float32",
        )
    return found
