"""What the methods share that train a small network from scratch, one sample a step, and arms beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from lab.workloads import cache as cached
from lab.workloads.base import Dataset, Figure, Prepared
from lab.workloads.options import Allowed, one_of, within
from lab.workloads.training import scratch_images
from lab.workloads.training.agreement import Limits
from lab.workloads.training.scratch_images import SEED, Images, augmented, images_of
from lab.workloads.training.transfer import (
    Trained,
    Transfer,
    cache_key,
    from_entry,
    prepared_of,
    to_entry,
    train_on_host,
)

if TYPE_CHECKING:
    from torch import nn

    from lab.compiler.operations.perturbation import Perturbation

TRAINING_IMAGES = 1438
LIMITS = Limits(loss=1e-3, update=1e-3)
"""Seen: 1e-6 of the way with local losses and with backpropagation after 1438 steps, 1e-5 with perturbed passes, where
differences of losses are divided by a small sigma. Backpropagation at a rate at which its losses jump parts from
PyTorch's way (0.5 after 2876 steps of six layers); that is then a finding about the rate."""
ALLOWED: tuple[Allowed, ...] = (
    one_of("size", ("ci", "paper")),
    one_of("data", (scratch_images.DIGITS,), f"{scratch_images.DIGITS}; others with size=paper"),
    within("samples", 1, TRAINING_IMAGES),
    within("epochs", 1, 100),
    within("rate", 1e-6, 10),
    within("evaluated", 1, 359),
    within("target", 0.1, 1),
)
PAPERS_ALLOWED: tuple[Allowed, ...] = (
    one_of("size", ("paper",)),
    one_of("data", scratch_images.PAPERS),
    within("samples", 1, 50_000),
    within("epochs", 1, 100),
    within("rate", 1e-7, 10),
    within("evaluated", 1, 10_000),
    within("target", 0.1, 1),
)
"""The same of the papers' images."""


@dataclass(frozen=True)
class Schedule:
    """What every variant of such a workload has; each adds what is trained.

    Attributes:
        size: ``ci``; or ``paper``, for images that the user has.
        data: ``digits``; with ``size=paper`` one of :data:`~lab.workloads.training.scratch_images.PAPERS`.
        samples, epochs, rate: images, passes over them and learning rate.
        evaluated: held-out images that are read afterwards.
        target: accuracy whose time is told.
    """

    size: Literal["ci", "paper"] = "ci"
    data: str = scratch_images.DIGITS
    samples: int = TRAINING_IMAGES
    epochs: int = 1
    rate: float = 0.01
    evaluated: int = 350
    target: float = 0.8


FiguresOf: TypeAlias = "Callable[[nn.Module, Trained], tuple[Figure, ...]]"
"""What is told of an arm, by its network and what came of training."""


@dataclass(frozen=True)
class Arm:
    """What one variant trains, and how.

    Attributes:
        update: what changes: ``full``, ``last``, ``bias``, or a method's own, which is everything.
        title: the network, in words.
        how: the rule, in words.
        network: makes it with its first weights, the same in all arms.
        figures: beside those of every arm.
        sources: files that the arm depends on.
        is_method: whether this is the method and no baseline: it must learn.
        limits: how far the device may be from PyTorch, and autograd from the program's operators.
        forward_only, perturbation: as of :class:`~lab.workloads.training.transfer.Transfer`; the latter called late,
            where the compiler may be imported.
        each_use: as of :class:`~lab.workloads.training.transfer.Transfer`.
        layers: which learn one after another, each through all epochs, by the modules or parameters of each; empty:
            all at once.
        augments: whether each epoch shows the images changed anew, by :func:`.scratch_images.augmented`.
        batch, batch_norm: as of :class:`~lab.workloads.training.transfer.Transfer`.
    """

    @property
    def phases(self) -> int:
        """How often the epochs are gone through."""
        return max(1, len(self.layers))

    def repeats(self, epochs: int) -> int:
        """How often the samples are gone through as they lie: augmented ones hold all epochs one behind the other."""
        return self.phases * (1 if self.augments else epochs)

    def turns(self, names: Iterable[str], steps: int) -> dict[str, tuple[int, int]]:
        """The first and the last step, from 1, of each parameter, with so many steps a layer; empty: all."""
        return {
            name: (number * steps + 1, (number + 1) * steps)
            for number, layer in enumerate(self.layers) for name in names
            if f"{name}.".startswith(tuple(f"{one}." for one in layer))
        }  # fmt: skip

    update: str
    title: str
    how: str
    network: Callable[[], nn.Module]
    figures: FiguresOf
    sources: tuple[Path, ...]
    is_method: bool
    limits: Limits = LIMITS
    forward_only: bool = False
    each_use: bool = False
    perturbation: Callable[[], Perturbation] | None = None
    layers: tuple[tuple[str, ...], ...] = ()
    augments: bool = False
    batch: int = 1
    batch_norm: bool = False


def selection_of(update: str, network: nn.Module) -> dict[str, None]:
    """The parameters that change, by name: all, but of ``last`` and ``bias``."""
    names = [name for name, _ in network.named_parameters()]
    endings = {"last": (), "bias": (".bias",)}.get(update, ("",))
    return dict.fromkeys(name for name in names if name.endswith(endings) or name.startswith("classifier."))


def prepare_from_scratch(workload: str, variant: Schedule, arm: Arm, cache: Path) -> Prepared:
    """Compile and train one arm on this computer, or read all of it from the cache.

    Args:
        workload: id.
        variant: every option.
        arm: what is trained.
        cache: the lab's.

    Raises:
        ConfigError: no data.
        CompileError: the network cannot be compiled so.
    """
    images, options = images_of(variant), asdict(variant)
    key = cache_key(options, images.digest, Path(__file__), *scratch_images.sources(), *arm.sources)
    entry = cached.obtain(cache / "workloads", workload, key, lambda: _produce(workload, variant, arm, images))
    trained = from_entry(entry)
    return prepared_of(
        trained, f"{arm.title}, from scratch, {arm.how};",
        Dataset(images.name, images.digest, len(trained.answers), images.note),
        {name: str(value) for name, value in options.items()}, precision="float32",
        epochs=arm.repeats(variant.epochs), rate=variant.rate, seed=SEED, target_accuracy=variant.target,
        figures=tuple(Figure(**one) for one in json.loads(entry.document)["figures"]),
        must_learn=arm.is_method, limits=arm.limits,
    )  # fmt: skip


def _produce(workload: str, variant: Schedule, arm: Arm, images: Images) -> cached.Entry:
    from lab.workloads.fitting import seeded

    parts = augmented(images.parts(), variant.epochs) if arm.augments else images.parts()
    with seeded(SEED):
        network = arm.network()
    selection, epochs = selection_of(arm.update, network), arm.repeats(variant.epochs)
    trained = train_on_host(
        Transfer(
            name=workload, network=network, selection=selection, precision="float32",
            samples=parts.samples, labels=parts.labels, asked=parts.asked, answers=parts.answers,
            calibration=parts.samples[:0], epochs=epochs, rate=variant.rate, seed=SEED,
            turns=arm.turns(selection, len(parts.samples) // arm.batch * epochs // arm.phases),
            forward_only=arm.forward_only, each_use=arm.each_use, batch=arm.batch, batch_norm=arm.batch_norm,
            perturbation=None if arm.perturbation is None else arm.perturbation(),
            limits=arm.limits,
        )
    )  # fmt: skip
    figures = (*step_figures(trained), *arm.figures(network, trained))
    return to_entry(trained, {"figures": [asdict(one) for one in figures]})


def step_figures(trained: Trained) -> tuple[Figure, ...]:
    """Multiply-accumulates of a step, and memory as the firmware has it: other definitions are of backward passes."""
    training = trained.training
    macs = sum(training.macs(phase) for phase in ("forward", "backward", "update"))
    return (
        Figure("macs.step", macs, "MACs", "of a step of training, as compiled"),
        Figure("memory.m4", training.arena_bytes + training.variables_bytes, "bytes",
               "planned arena of a step and trained variables: what the firmware has"),
    )  # fmt: skip
