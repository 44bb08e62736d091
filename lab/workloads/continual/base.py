"""The frozen extractor of a continual learner: trained, quantised and compiled once for all methods that share it.

Convolutions are int8 throughout. A vision transformer computes in float32 between int8 samples and an int8 latent.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

import lab.compiler
from lab import progress
from lab.compiler.model import CompiledModel
from lab.workloads import cache as cached
from lab.workloads.base import FloatArray, Int8Array
from lab.workloads.classification import model_from_json, model_to_json
from lab.workloads.continual import tasks
from lab.workloads.continual.learner_plan import UNITS
from lab.workloads.continual.options import SEED, Variant

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lab.workloads.continual.networks import Widths

HERE = Path(__file__).parent
CALIBRATION = 256
WEIGHTS = "yamnet"
"""Of the user's file in ``networks/``, without its ending."""
Extracting: TypeAlias = Callable[[Int8Array], Int8Array]
"""int8 samples (n, …NHWC) to int8 latents (n, elements), on the host."""


@dataclass(frozen=True)
class Extractor:
    """A frozen extractor, and what it makes of all classes.

    Attributes:
        entry: as it is cached.
    """

    entry: cached.Entry

    @cached_property
    def model(self) -> CompiledModel:
        """Inference of one sample, int8 to int8; its output is the latent."""
        return model_from_json(json.loads(self.entry.document)["model"])

    @property
    def known(self) -> Int8Array:
        """Latents of the host's classes: (classes, samples, elements)."""
        return self.entry.arrays["known"].astype(np.int8)

    @property
    def unseen(self) -> Int8Array:
        """Latents of the device's classes, by the reference."""
        return self.entry.arrays["unseen"].astype(np.int8)

    @property
    def unseen_float(self) -> FloatArray:
        """The same in float32, before quantisation."""
        return self.entry.arrays["unseen_float"].astype(np.float32)

    @property
    def inputs(self) -> Int8Array:
        """The device's classes as the extractor takes them: (classes, samples, bytes)."""
        return self.entry.arrays["inputs"].astype(np.int8)

    @property
    def units(self) -> dict[str, FloatArray]:
        """What attentive units begin with, by name; empty for a method without."""
        return units_in(self.entry)

    @property
    def names(self) -> tuple[str, str]:
        """Name of the data and a note, for records."""
        document = json.loads(self.entry.document)
        return document["name"], document["note"]


def extractor(variant: Variant, cache: Path) -> Extractor:
    """The extractor of a variant, from the cache where it is there.

    Raises:
        ConfigError: data that cannot be used, or less of it than a deployment needs.
    """
    key = cached.key(described(variant), sources())
    produce = partial(_produce, variant, cache)
    return Extractor(cached.obtain(cache / "workloads", "continual-extractor", key, produce))


def described(variant: Variant) -> dict[str, str]:
    """What an extractor depends on, but for sources."""
    return {**_trained_on(variant), "pool": str((variant.pool, variant.samples))}


def sources() -> list[Path]:
    """The files it depends on."""
    return [Path(__file__), *_TRAINING, *Path(lab.compiler.__file__).parent.rglob("*.py")]


_NETWORKS = HERE.parent / "networks"
_TRAINING = [
    *(HERE / f"{name}.py" for name in ("meta", "networks", "vit", "attentive_units", "attentive_inner_loop",
                                       "resuming")),
    *tasks.SOURCES,
    *(_NETWORKS / f"{name}.py" for name in ("blocks", "evaluation", "vit", "attention", "weight_files", "yamnet")),
]  # fmt: skip


def _trained_on(variant: Variant) -> dict[str, str]:
    return {
        "data": tasks.digest(variant.data),
        "base": variant.recipe.base,
        "network": variant.network,
        "meta": str(variant.meta),
        "units": str(variant.attention),
        "width": f"{variant.size} {variant.width} {variant.depth} {variant.heads} {variant.embed} {variant.patch}",
        "weights": _weights_digest() if variant.network == "yamnet" else "",
        **{package: version(package) for package in ("numpy", "torch")},
    }


def _weights_digest() -> str:
    from lab.workloads.networks.weight_files import digest_of

    return digest_of(WEIGHTS)


def units_in(entry: cached.Entry) -> dict[str, FloatArray]:
    """The attentive units among the arrays of an entry, by their names without ``units.``."""
    return {
        name.removeprefix(UNITS): value.astype(np.float32)
        for name, value in entry.arrays.items()
        if name.startswith(UNITS)
    }


def network_of(variant: Variant, known: tasks.Classes, cache: Path) -> tuple[nn.Module, dict[str, FloatArray]]:
    """The trained network, batch norm folded, and the attentive units behind it. Both are cached by themselves: the
    compiler changes more often than they do."""
    import torch

    from lab.workloads.continual.networks import extractor as untrained
    from lab.workloads.continual.networks import folded_extractor

    key = cached.key(_trained_on(variant), _TRAINING)
    entry = cached.obtain(cache / "workloads", "continual-network", key, lambda: _train(variant, known, cache, key))
    projected = 0 if variant.attention is None else variant.attention.inputs
    network = folded_extractor(
        untrained(variant.recipe.base, variant.network, known.shape, _widths(variant), projected)
    )
    weights = {name: value for name, value in entry.arrays.items() if not name.startswith(UNITS)}
    network.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return network.eval().requires_grad_(requires_grad=False), units_in(entry)


def _widths(variant: Variant) -> Widths:
    from lab.workloads.continual.networks import widths_of

    found = widths_of(variant.size, variant.width, padded=variant.data != "mini-imagenet")
    return replace(
        found, depth=variant.depth or found.depth, heads=variant.heads or found.heads,
        tokens=variant.embed or found.tokens, patch=variant.patch,
    )  # fmt: skip


def _published(variant: Variant) -> nn.Module | None:
    """The user's YAMNet up to its average; None for networks that begin fresh."""
    if variant.network != "yamnet":
        return None
    from lab.workloads.networks import weight_files
    from lab.workloads.networks.yamnet import embedding, yamnet

    made = yamnet()
    weight_files.load(made, WEIGHTS)
    return embedding(made)


def _train(variant: Variant, known: tasks.Classes, cache: Path, key: str) -> cached.Entry:
    from lab.workloads.continual.meta import meta_plan, train_extractor
    from lab.workloads.continual.resuming import Saved
    from lab.workloads.fitting import seeded

    plan, widths = meta_plan(variant.size, variant.meta, variant.network), _widths(variant)
    saved = Saved(cache / "workloads" / f"continual-network-{key[:32]}.unfinished.pt")
    with seeded(SEED):
        made = train_extractor(
            variant.recipe.base, variant.network, known, plan, SEED, variant.attention, widths,
            saved if variant.size == "paper" else None, _published(variant),
        )  # fmt: skip
    saved.done()
    weights = {name: value.numpy() for name, value in made.network.state_dict().items()}
    return cached.Entry("{}", {**weights, **{UNITS + name: value.numpy() for name, value in made.units.items()}})


def _produce(variant: Variant, cache: Path) -> cached.Entry:
    import torch

    from lab.workloads.continual.meta import latents
    from lab.workloads.fitting import seeded

    found = tasks.load(variant.data, patches=variant.network == "yamnet")
    for each in (found.known, found.unseen):
        # Before anything takes long: what a deployment needs must be there.
        asked = (variant.classes, variant.shots, variant.questions)
        tasks.draw(each.samples.shape[:2], *asked, np.random.default_rng(SEED))
    network, units = network_of(variant, found.known, cache)
    pools = [one.spread(variant.pool, variant.samples) for one in (found.known, found.unseen)]
    with seeded(SEED):
        known, unseen = (torch.from_numpy(one.images).flatten(0, 1) for one in pools)
        places = np.unique(np.linspace(0, len(known) - 1, CALIBRATION).astype(np.int64))
        with progress.step("compiling the extractor", quiet_below_s=2.0):
            model, extracting = _compiled(variant, network, known[places])
        with progress.step("running its reference", quiet_below_s=2.0), torch.no_grad():
            quantised = [model.input.quantize(one.permute(0, 2, 3, 1).numpy()) for one in (known, unseen)]
            integers = [extracting(one) for one in quantised]
            floats = latents(network, unseen).numpy()
    by_class = [one.samples.shape[:2] for one in pools]
    arrays: dict[str, cached.AnyArray] = {
        "known": integers[0].reshape(*by_class[0], -1),
        "unseen": integers[1].reshape(*by_class[1], -1),
        "unseen_float": floats.reshape(*by_class[1], -1),
        "inputs": quantised[1].reshape(*by_class[1], -1),
        **{UNITS + name: value for name, value in units.items()},
    }
    document = {"model": model_to_json(model), "name": found.name, "note": found.note}
    return cached.Entry(json.dumps(document), arrays)


def _compiled(variant: Variant, network: nn.Module, calibration: torch.Tensor) -> tuple[CompiledModel, Extracting]:
    """The extractor for a device, and what it must come to on the host: the integer reference to the bit, or PyTorch
    within rounding where it computes in float32."""
    if not variant.float_extractor:
        model, integer = lab.compiler.compile_with_reference(
            network, calibration[:1], calibration=calibration, name="extractor"
        )
        return model, integer.run_integer
    from lab.compiler.float_inference import compile_between_int8

    between = compile_between_int8(network, calibration[:1], calibration, name="extractor")
    return between, partial(_extracted, network, between)


def _extracted(network: nn.Module, between: CompiledModel, samples: Int8Array) -> Int8Array:
    import torch

    from lab.workloads.continual.meta import latents

    real = torch.from_numpy(between.input.dequantize(samples)).permute(0, 3, 1, 2)
    return between.output.quantize(latents(network, real).numpy())
