"""TinyTrain and what it is compared with: the variants, and what each of them trains. No torch in here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from lab.compiler.layer_costs import LayerCost, weighted
from lab.workloads.base import FloatArray, Room
from lab.workloads.options import Allowed, one_of, read_sized, within
from lab.workloads.training import own_images
from lab.workloads.training.tinytrain_selection import Budget, Selection, Update, backward_macs, select

IntArray: TypeAlias = npt.NDArray[np.int64]
Arm: TypeAlias = Literal["tinytrain", "full", "last", "sparse", "none"]
Size: TypeAlias = Literal["ci", "paper"]

SEED = 1
IMAGE = 20
STEM_CHANNELS = 16
DIGITS_MB, CHARACTERS, DIGITS = "digits-mb", "characters", "digits"
INSPECTED = 6
INSPECTED_SHARE = 0.43
"""Convolutions whose Fisher information is computed, from the last: of DigitsMB's 13, and of the paper's networks,
where it inspects the last 30 to 44 % of them: 18 of MCUNet's 42."""
SCHEME = "99kb"
"""The published static update of the paper's networks that changes as many weights as the paper's table 7 has it."""
HALVED = ("block3.body.expand.conv", "block4.body.expand.conv")
"""What the static sparse update trains half of the input channels of, after Lin et al. 2022: the first pointwise
convolution of the last two blocks, beside the biases of the last six convolutions."""
KILO = 1024


@dataclass(frozen=True)
class Variant:
    """What is trained, and on what.

    Attributes:
        size: ``ci``; or ``paper``, for a network and two folders of images that the user has.
        network: ``digits-mb``; with ``size=paper`` ``mcunet``, ``mobilenet-v2`` or ``proxylessnas``.
        meta: what is meta-trained on: ``characters``; with ``size=paper`` a folder below ``images/`` of ``LAB_DATA``.
        data: what tasks are drawn from: ``digits``; with ``size=paper`` another such folder.
        image: pixels along a side.
        episodes: of meta-training.
        update: what changes.
        ways, shots, queries: classes, images of each to learn from, and images of each that are asked.
        epochs: passes over the images that are learnt from.
        rate: learning rate of Adam.
        macs: budget of a backward pass, as a share of that of full training.
        memory: budget of RAM in KiB for arena and variables; 0 for what the device has.
        task: which task is drawn.
    """

    size: Size = "ci"
    network: str = DIGITS_MB
    meta: str = CHARACTERS
    data: str = DIGITS
    image: int = IMAGE
    episodes: int = 250
    update: Arm = "tinytrain"
    ways: int = 5
    shots: int = 5
    queries: int = 10
    epochs: int = 8
    rate: float = 0.001
    macs: float = 0.35
    memory: int = 0
    task: int = 0


@dataclass(frozen=True)
class MetaPlan:
    """Episodic meta-training: episodes, their ways, shots and queries, and the peak of the one-cycle schedule."""

    episodes: int = 250
    ways: int = 10
    shots: int = 5
    queries: int = 5
    learning_rate: float = 6e-3


META_PLAN = MetaPlan()
PAPERS_PLAN = MetaPlan(learning_rate=5e-5)
"""With the paper's peak, by AdamW instead of SGD with momentum; it goes on from ImageNet's weights."""
PAPER = Variant("paper", own_images.NETWORKS[0], "", "", own_images.SIDE, episodes=200, macs=0.15, memory=1024)
"""With the paper's budgets: 15 % of the multiply-accumulates, about 1 MB."""
_COMMON: tuple[Allowed, ...] = (
    within("episodes", 1, 200_000),
    one_of("update", get_args(Arm)),
    within("shots", 1, 50),
    within("queries", 1, 50),
    within("epochs", 1, 100),
    within("rate", 1e-6, 1),
    within("macs", 1e-6, 1),
    within("memory", 0, 1 << 20),
    within("task", 0, 10_000),
)
_CI: tuple[Allowed, ...] = (
    one_of("network", (DIGITS_MB,), f"{DIGITS_MB}; others with size=paper"),
    one_of("meta", (CHARACTERS,), f"{CHARACTERS}; a folder of images with size=paper"),
    one_of("data", (DIGITS,), f"{DIGITS}; a folder of images with size=paper"),
    one_of("image", (IMAGE,)),
    within("ways", 2, 10),
)
_PAPERS: tuple[Allowed, ...] = (
    one_of("network", own_images.NETWORKS),
    *(own_images.folder(name) for name in ("meta", "data")),
    one_of("image", own_images.IMAGES),
    within("ways", 2, 50),
)
SIZES = {"ci": (Variant(), (*_CI, *_COMMON)), "paper": (PAPER, (*_PAPERS, *_COMMON))}


@dataclass(frozen=True)
class Part:
    """What is trained of a parameter: all of it, or some of its output or input channels."""

    outputs: tuple[int, ...] | None = None
    inputs: tuple[int, ...] | None = None


Parts: TypeAlias = Mapping[str, Part]
"""By the name of a parameter of the backbone."""


def parse(text: str) -> Variant:
    """A variant from ``update=full,shots=1``; what is not named keeps the default of its size.

    Raises:
        ConfigError: an unknown name or a value that is not allowed.
    """
    return read_sized("tinytrain", SIZES, text)


def inspected(network: str, layers: Sequence[LayerCost]) -> list[str]:
    """Names of the convolutions whose Fisher information is computed."""
    names = [layer.name for layer in weighted(layers) if layer.kind == "conv"]
    return names[-(INSPECTED if network == DIGITS_MB else round(INSPECTED_SHARE * len(names))) :]


def static_parts(variant: Variant, layers: Sequence[LayerCost]) -> Parts:
    """What a baseline trains.

    Raises:
        ValueError: TinyTrain, which has no static parts.
    """
    update = variant.update
    convolutions = [layer for layer in weighted(layers) if layer.kind == "conv"]
    whole = {"full": convolutions, "last": convolutions[-1:], "none": []}
    if update == "tinytrain":
        raise ValueError("TinyTrain's parts depend on the device")
    if update == "sparse" and variant.network != DIGITS_MB:
        return _published(variant.network, convolutions)
    if update == "sparse":
        halves = {layer.name: tuple(range(layer.input_channels // 2)) for layer in convolutions if layer.name in HALVED}
        biases = {f"{layer.name}.bias": Part() for layer in convolutions[-INSPECTED:]}
        return {**{f"{name}.weight": Part(inputs=half) for name, half in halves.items()}, **biases}
    return {f"{layer.name}.{kind}": Part() for layer in whole[update] for kind in ("weight", "bias")}


def _published(network: str, convolutions: Sequence[LayerCost]) -> Parts:
    """The static update of one of the paper's networks: shares of input channels, and the last biases."""
    scheme = own_images.sparse_scheme(network, SCHEME)
    kept = {number: convolutions[number].kept_channels(share) for number, share in sorted(scheme.weights.items())}
    weights = {f"{convolutions[number].name}.weight": Part(inputs=tuple(range(n))) for number, n in kept.items() if n}
    return {**weights, **{f"{layer.name}.bias": Part() for layer in convolutions[-scheme.biases :]}}


def full_updates(layers: Sequence[LayerCost]) -> dict[str, Update]:
    """Everything of every convolution."""
    return {layer.name: Update(bias=True) for layer in weighted(layers) if layer.kind == "conv"}


def updates(parts: Parts, layers: Sequence[LayerCost]) -> dict[str, Update]:
    """The same as shares of channels, as costs are counted. Of input channels the share counts like that of outputs."""
    found: dict[str, Update] = {}
    for layer in weighted(layers):
        part, bias = parts.get(f"{layer.name}.weight"), f"{layer.name}.bias" in parts
        if part is None and not bias:
            continue
        share = 0.0 if part is None else 1.0
        if part is not None and part.outputs is not None:
            share = len(part.outputs) / layer.bias_elements
        if part is not None and part.inputs is not None:
            share = len(part.inputs) / layer.input_channels
        found[layer.name] = Update(share, bias)
    return found


def budget(variant: Variant, layers: Sequence[LayerCost], room: Room) -> Budget:
    """What training may take on a device."""
    ram = min(room.ram_bytes, variant.memory * KILO) if variant.memory else room.ram_bytes
    return Budget(ram, int(variant.macs * backward_macs(layers, full_updates(layers))))


def chosen_parts(
    layers: Sequence[LayerCost], fisher: Mapping[str, FloatArray], allowed: Budget
) -> tuple[Parts, Selection]:
    """What TinyTrain trains: the chosen channels of weights, with the biases of their layers; and why.

    Raises:
        ConfigError: nothing fits the budget.
    """
    selection = select(layers, fisher, allowed)
    chosen = {f"{name}.weight": Part(outputs=channels) for name, channels in selection.channels.items()}
    return {**chosen, **{f"{name}.bias": Part() for name in selection.channels}}, selection


def described(variant: Variant) -> dict[str, str]:
    """Of a variant, for records."""
    return {name: str(value) for name, value in asdict(variant).items()}
