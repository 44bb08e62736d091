"""Architecture extraction by simple power analysis (S086): how many layers, of what kind, by the power trace alone.

A small classifier of handwritten digits runs on the device; it is trained like any other, and what it answers is
checked to the bit. What matters is its trace: :mod:`lab.layer_probe` plays one on the emulated meter and
:mod:`measurements.layer_recovery` reads it, with the kernels below as what the analyst knows.

Claim (R. Joud et al., "Like an Open Book? Read Neural Network Architecture with Simple Power Analysis on 32-bit
Microcontrollers", CARDIS 2023, arXiv 2311.01344): the architecture of an MLP and a CNN can be read off a trace by
simple pattern recognition, with few challenging cases. The paper states no rate; ours is recorded beside that of
guessing the most frequent kind.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from lab.errors import ConfigError
from lab.workloads import classification
from lab.workloads.base import Claim, DeviceClass, KernelProfile, LayerProbe, Prepared, Workload
from lab.workloads.classification import Bounds, Recipe, Samples
from lab.workloads.data import digits
from lab.workloads.fitting import Plan

if TYPE_CHECKING:
    from torch import nn

FloatArray: TypeAlias = npt.NDArray[np.float32]

SEED = 86
PLAN = Plan(epochs=12, batch=64, learning_rate=6e-3)
HELD_OUT_SHARE = 0.2
NETWORKS = ("cnn", "mlp")
BOUNDS = Bounds(min_agreement=0.95, max_logit_error_steps=2.5, max_accuracy_drop=0.02)
"""As for the other int8 classifiers, see :mod:`lab.workloads.inference.spoken_digits`."""

PROFILED = (
    KernelProfile("conv2d", 0.313, 0.179),
    KernelProfile("conv2d", 0.370, 0.096),
    KernelProfile("conv2d", 0.352, 0.102),
    KernelProfile("max_pool2d", 0.236, 0.057),
    KernelProfile("depthwise_conv2d", 0.388, 0.147),
    KernelProfile("avg_pool2d", 0.162, 0.035),
    KernelProfile("linear", 0.490, 0.017),
    KernelProfile("linear", 0.453, 0.032),
    KernelProfile("linear", 0.434, 0.041),
    KernelProfile("linear", 0.395, 0.075),
)
"""Loads and stores per instruction of this lab's kernels, counted exactly on a Cortex-M4F (mps2-an386) with two
networks that no workload has: a CNN on 16×16 pixels (3×3 convolutions 1→8 and 8→16, depthwise 16, pointwise 16→32,
linear 512→48) and an MLP 256→96→64→48→10. The analyst knows these; of the network under attack nothing."""


@dataclass(frozen=True)
class ProbedDigits:
    """Handwritten digits, a fifth held out, for a network whose layers are to be recovered.

    Attributes:
        kind: ``cnn`` or ``mlp``.
        digest: SHA-256 of the data, hex.
    """

    kind: str
    digest: str
    dataset_name: str = "scikit-learn-digits"
    note: str = "The network is a bystander: what counts is what its power trace gives away."

    @property
    def parameters(self) -> Mapping[str, str]:
        """What tells this task from another."""
        return {"data": "handwritten digits (scikit-learn)", "network": self.kind}

    def samples(self, seed: int) -> Samples:
        """Pixels 0 … 1; the split is stratified by digit."""
        images = digits.load()
        training, held_out = digits.stratified_split(images.digits, HELD_OUT_SHARE, seed)
        pixels = images.pixels[:, np.newaxis]
        return Samples(
            training=pixels[training],
            training_labels=images.digits[training],
            calibration=pixels[training],
            held_out=pixels[held_out],
            held_out_labels=images.digits[held_out],
        )

    def network(self) -> nn.Module:
        """The network under attack, on 1×8×8."""
        return _cnn() if self.kind == "cnn" else _mlp()


def _cnn() -> nn.Module:
    """Five kinds in seven layers: convolution, pooling, convolution, depthwise, pointwise, pooling, linear."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.ReLU(),
        nn.Conv2d(24, 64, 1), nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(256, digits.CLASSES),
    )  # fmt: skip


def _mlp() -> nn.Module:
    """Three linear layers."""
    from torch import nn

    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 96), nn.ReLU(),
        nn.Linear(96, 256), nn.ReLU(),
        nn.Linear(256, digits.CLASSES),
    )  # fmt: skip


class LayerRecovery:
    """The workload. Variants: empty (``network=cnn``) or ``network=mlp``."""

    id: str = "layer-recovery"
    title: str = "Number and kinds of a network's layers, read off its power trace"
    family: str = "security"
    systems: tuple[str, ...] = ("S086",)
    classes: tuple[DeviceClass, ...] = ("mcu",)
    baselines: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    missing: str = ""

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        """Train, quantise and compile the network under attack, or read all of it from the cache.

        Raises:
            ConfigError: unknown variant, or the data cannot be had.
        """
        task = ProbedDigits(_network(variant), digits.digest(digits.find()))
        recipe = Recipe(PLAN, SEED, (Path(__file__), Path(digits.__file__)))
        prepared = classification.prepare(f"layer_recovery_{task.kind}", task, recipe, BOUNDS, cache)
        claim = (
            "S086 (arXiv 2311.01344): the architecture can be read off a trace by simple pattern recognition; the "
            "paper states no rate. The rate here is compared with calling every layer the most frequent kind."
        )
        return replace(prepared, facts=(*prepared.facts, claim), layer_probe=LayerProbe(PROFILED))


def _network(variant: str) -> str:
    if not variant:
        return NETWORKS[0]
    allowed = [f"network={kind}" for kind in NETWORKS]
    if variant not in allowed:
        near = difflib.get_close_matches(variant, allowed, n=1)
        raise ConfigError(
            f"layer-recovery has no variant '{variant}'; allowed are the empty one and {', '.join(allowed)}",
            hint=f"did you mean '{near[0]}'?" if near else "",
        )
    return variant.removeprefix("network=")


WORKLOAD: Workload = LayerRecovery()
