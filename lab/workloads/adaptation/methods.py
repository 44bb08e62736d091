"""What each method makes of the source network: a compiled model, and the same stream in PyTorch. Imports torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import nn

import lab.compiler
from lab.compiler.graph import to_nhwc
from lab.compiler.model import CompiledModel
from lab.compiler.operations.optimizer import Adam, SgdMomentum
from lab.workloads import cache as cached
from lab.workloads.adaptation import meta_networks, networks, reference
from lab.workloads.adaptation.cloud import Cloud, ReceivingNetwork, adapted_by
from lab.workloads.adaptation.entropy_filter import THRESHOLDS
from lab.workloads.adaptation.options import COMPARED, DETECTOR, Options, learning_rate
from lab.workloads.adaptation.source import (
    SEED,
    calibration_images,
    foundation_network,
    learnt_images,
    source_network,
    source_states,
    stream,
)
from lab.workloads.base import Figure, FloatArray, Int8Array
from lab.workloads.data.corruptions import Stream
from lab.workloads.fitting import seeded

TAU, BALANCE = 0.9, 0.9
"""LeanTTA's share of the source's statistics and most weight of the distance (arXiv:2503.15889, section 3.2)."""
FALSE_ALARM_SAMPLES = 3000


@dataclass(frozen=True)
class Made:
    """A method compiled, and the same stream in PyTorch.

    Attributes:
        model: what is deployed.
        outcome: PyTorch's.
        initial: values of the variables before the stream, by name.
        states: source states that the device is sent; none of methods without.
        figures: what is recorded beside the measurements.
        integers: what an int8 network yields by the integer reference, (samples, values); None of others.
    """

    model: CompiledModel
    outcome: reference.Outcome
    initial: Mapping[str, FloatArray]
    states: tuple[reference.State, ...] = ()
    figures: tuple[Figure, ...] = ()
    integers: Int8Array | None = None


def make(options: Options, network: nn.Sequential, samples: torch.Tensor, cache: Path) -> Made:
    """Compile the method and go through the stream in PyTorch; call inside ``seeded``.

    Args:
        options: the variant.
        network: the source network, trained.
        samples: the stream, float32 (n, channels, height, width).
        cache: folder of what several methods share.
    """
    if options.method == "tent":
        return _tent(options, network, samples)
    if options.method == "od":
        return _on_demand(options, network, samples)
    if options.method == "cema":
        return _by_host(options, network, samples, cache)
    if options.method == "eco":
        return _eco(options, network, meta_network(options, network, cache), samples)
    if options.method == "meta":
        return _stateless(options, meta_network(options, network, cache), samples, options.batch)
    if options.method == "bn":
        adapting = networks.with_norms(network, networks.batch_norm_of_batch)
        return _stateless(options, adapting, samples, options.batch)
    if options.precision == "int8":
        return _in_int8(options, _by_sample(options, network), samples)
    return _stateless(options, _by_sample(options, network), samples, 1)


def pool_bytes(model: CompiledModel, states: Sequence[reference.State]) -> bytes:
    """The blob ``pool`` of the job ``adapt``: of each state the signature, then every variable in the model's order."""
    if model.training is None:
        return b""
    names = [one.name for one in model.training.variables]
    values = [[one.signature, *(one.variables[name] for name in names)] for one in states]
    return b"".join(np.ascontiguousarray(value, "<f4").tobytes() for state in values for value in state)


def false_alarms(network: nn.Module, clean: Stream) -> int:
    """How often the detector alarms on a stream without a shift, unadapted."""
    watch, count = reference.Watch(DETECTOR), 0
    for logits in reference.unchanged(network, torch.from_numpy(clean.images), len(clean)):
        if watch.sees(logits):
            count += 1
            watch.restart()
    return count


def _values(network: nn.Module, names: Sequence[str]) -> dict[str, FloatArray]:
    return {name: one.detach().numpy().copy() for name, one in network.named_parameters() if name in names}


def _by_sample(options: Options, network: nn.Sequential) -> nn.Sequential:
    if options.method not in ("alpha", "lean"):
        return network
    balance, whole = BALANCE if options.method == "lean" else 0.0, options.precision == "int8"
    return networks.with_norms(
        network,
        lambda norm, number: networks.SampleNorm(norm, TAU, balance, whole) if number < options.layers else norm,
    )


def _stateless(options: Options, network: nn.Module, samples: torch.Tensor, batch: int) -> Made:
    model = lab.compiler.compile(network, samples[:batch], precision="float32", name=f"tta_{options.method}")
    return Made(model, reference.Outcome(reference.unchanged(network, samples, batch), (), (), {}), {})


def _in_int8(options: Options, network: nn.Sequential, samples: torch.Tensor) -> Made:
    """Partial fusion (LeanTTA, section 3.3): convolutions in int8, whose norms are fused but those that adapt.

    The outcome is that of the same network in float32; what the device is held to is the integer reference.
    """
    model, graph = lab.compiler.compile_with_reference(
        network, samples[:1], calibration=calibration_images(options), name=f"tta_{options.method}"
    )
    inputs = model.input.quantize(to_nhwc(samples).numpy())
    outcome = reference.Outcome(reference.unchanged(network, samples, 1), (), (), {})
    return Made(model, outcome, {}, integers=graph.run_integer(inputs))


def _tent(options: Options, network: nn.Sequential, samples: torch.Tensor) -> Made:
    adapting = networks.with_norms(network, networks.batch_norm_of_batch)
    names = reference.affine_names(adapting)
    initial = _values(adapting, names)
    model = lab.compiler.compile(
        adapting, samples[: options.batch], loss=networks.entropy, target=torch.zeros(1), train=names,
        optimizer=Adam(), precision="float32", name="tta_tent",
    )  # fmt: skip
    return Made(model, reference.tent(adapting, samples, options.batch, learning_rate(options)), initial)


def _on_demand(options: Options, network: nn.Sequential, samples: torch.Tensor) -> Made:
    with_affine = options.affine > 0
    moving = networks.MovingNetwork(network, with_affine)
    names = reference.variable_names(moving)
    own = _values(moving, names)
    states = [replace(one, variables={**own, **one.variables}) for one in source_states(network, options)]
    model = lab.compiler.compile(
        moving, samples[:1], loss=networks.gated_entropy if with_affine else networks.no_loss, target=torch.zeros(1),
        train=names, precision="float32", name="tta_od",
    )  # fmt: skip
    compared = min(COMPARED, options.cached)
    outcome = reference.on_demand(moving, samples, states, DETECTOR, options.cached, compared, options.affine)
    clean = stream(replace(options, stream="clean", length=FALSE_ALARM_SAMPLES, only=-1))
    kept = options.cached * samples[0].numel() * samples.element_size()
    figures = (
        Figure("cache", kept, "bytes", "samples kept to be adapted to; here they lie in the stream"),
        Figure("pool", len(pool_bytes(model, states)), "bytes", "source states"),
        Figure(
            "false_alarms", false_alarms(network, clean), "1", f"of {FALSE_ALARM_SAMPLES} clean samples, in PyTorch"
        ),
    )
    return Made(model, outcome, states[0].variables, tuple(states), figures)


# ---- EcoTTA -------------------------------------------------------------------------------------------------------


def meta_network(options: Options, network: nn.Sequential, cache: Path) -> meta_networks.MetaNetwork:
    """The source network with meta networks, warmed up; cached."""
    with seeded(SEED):
        made = meta_networks.MetaNetwork(network)
    images, labels = learnt_images(options)
    sources = [Path(__file__).with_name(name) for name in ("meta_networks.py", "networks.py")]
    parts = {"network": options.network, "source": _digest(network), "torch": version("torch"),
             "epochs": str(options.epochs), "images": hashlib.sha256(images.numpy().tobytes()).hexdigest()}  # fmt: skip

    def produce() -> cached.Entry:
        with seeded(SEED):
            meta_networks.warm_up(made, images, labels, SEED, options.epochs)
        return cached.Entry("", _values(made, meta_networks.meta_names(made)))

    entry = cached.obtain(cache / "workloads", "adaptation-meta", cached.key(parts, sources), produce)
    reference.load(made, {one: value.astype(np.float32) for one, value in entry.arrays.items()})
    return made


def _digest(network: nn.Module) -> str:
    values = b"".join(one.numpy().tobytes() for one in network.state_dict().values())
    return hashlib.sha256(values).hexdigest()


def _eco(options: Options, source: nn.Sequential, network: meta_networks.MetaNetwork, samples: torch.Tensor) -> Made:
    names, some = meta_networks.meta_names(network), samples[: options.batch]
    initial = _values(network, names)
    model = lab.compiler.compile(
        network, some, loss=networks.confident_entropy, target=torch.zeros(1), train=names,
        optimizer=SgdMomentum(meta_networks.MOMENTUM), precision="float32", name="tta_eco",
    )  # fmt: skip
    outcome = reference.eco(network, samples, options.batch, learning_rate(options))
    return Made(model, outcome, initial, figures=(all_parameters(source, some),))


def all_parameters(network: nn.Sequential, some: torch.Tensor) -> Figure:
    """What adapting every parameter to this batch takes, as CoTTA does: planned, beside two more copies of them."""
    adapting = networks.with_norms(network, networks.batch_norm_of_batch)
    names = [name for name, _ in adapting.named_parameters()]
    model = lab.compiler.compile(
        adapting, some, loss=networks.entropy, target=torch.zeros(1), train=names, optimizer=Adam(),
        precision="float32", name="tta_all",
    )  # fmt: skip
    training = model.training
    variables = 0 if training is None else training.variables_bytes
    copies = 2 * sum(one.numel() * one.element_size() for one in adapting.parameters())
    note = f"arena {model.arena_bytes}, student and optimiser {variables}, teacher and source {copies} bytes"
    return Figure("peak_ram.all_parameters", model.arena_bytes + variables + copies, "bytes", note)


# ---- CEMA ---------------------------------------------------------------------------------------------------------


def cloud_of(options: Options, cache: Path) -> Cloud:
    """The host that adapts, as it begins."""
    return Cloud(source_network(options.network, cache), foundation_network(options, cache), options.batch)


def _by_host(options: Options, network: nn.Sequential, samples: torch.Tensor, cache: Path) -> Made:
    receiving = ReceivingNetwork(network)
    initial = receiving.received()
    model = lab.compiler.compile(
        receiving, samples[:1], loss=networks.no_loss, target=torch.zeros(1), train=list(initial), precision="float32",
        name="tta_cema",
    )  # fmt: skip
    sent = THRESHOLDS[options.upload]
    outcome = adapted_by(cloud_of(options, cache), receiving, samples.numpy(), sent, options.batch)
    return Made(model, outcome, initial)
