"""EcoTTA: network and loss against their equations, compiled steps against PyTorch, memory, what is refused."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.toolchain import needs_host_compiler
from torch import nn
from torch.nn import functional

import lab.compiler
from lab.compiler.host import HostTraining
from lab.compiler.model import CompiledModel
from lab.compiler.operations.optimizer import Adam, SgdMomentum
from lab.errors import ConfigError, WorkloadError
from lab.paths import cache_dir
from lab.workloads import get
from lab.workloads.adaptation import meta_networks, networks, reference
from lab.workloads.adaptation.options import ECO_RATE, NETWORKS, Options, learning_rate, parse
from lab.workloads.base import Prepared
from lab.workloads.fitting import seeded

BATCH = 4
VARIANT = "network=small,length=32,batch=4"
"""As in the test on an emulated board, and so the same preparation; the source network is that of other tests."""
NOTHING = torch.zeros(1)


def meta_network(widths: tuple[int, ...] = (4, 4, 6, 6)) -> meta_networks.MetaNetwork:
    """Random weights and statistics; sure enough of itself that some entropies lie below the margin and some above."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = networks.source_network(widths).eval()
        for layer in network:
            if isinstance(layer, nn.BatchNorm2d):
                mean, variance = networks.statistics(layer)
                mean.normal_(0, 0.1)
                variance.uniform_(0.5, 1.5)
        made = meta_networks.MetaNetwork(network)
        with torch.no_grad():
            dict(made.named_parameters())["tail.2.weight"].mul_(30)
    return made


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(5))


def compiled(network: meta_networks.MetaNetwork, batch: int) -> CompiledModel:
    return lab.compiler.compile(
        network, images(batch), loss=networks.confident_entropy, target=NOTHING,
        train=meta_networks.meta_names(network), optimizer=SgdMomentum(meta_networks.MOMENTUM), precision="float32",
        name="eco",
    )  # fmt: skip


# ---- the network and its loss ----


def test_a_part_is_the_frozen_part_normalised_and_a_block_beside_it() -> None:
    network = meta_network()
    part = network.parts[1]
    assert isinstance(part, meta_networks.MetaPart)
    x = torch.rand(3, 4, 16, 16)
    with torch.no_grad():
        own, both = part(x)
        frozen = part.frozen(x)
        beside = functional.conv2d(x, part.conv.weight, stride=2, padding=1)
        parts = [
            functional.batch_norm(one, None, None, norm.weight, norm.bias, True)
            for one, norm in ((frozen, part.norm), (beside, part.conv_norm))
        ]
    torch.testing.assert_close(own, frozen)
    torch.testing.assert_close(both, parts[0] + parts[1].clamp_min(0), atol=1e-5, rtol=1e-5)
    assert both.shape == (3, 4, 8, 8)


def test_the_penalty_is_the_mean_distance_of_the_parts_outputs_and_moves_nothing_that_is_frozen() -> None:
    network, x = meta_network(), images(BATCH)
    made = network(x)
    expected, seen = 0.0, x
    for part in network.parts:
        own, both = part(seen)
        expected += functional.l1_loss(both, own).item()
        seen = both
    assert made.penalty.item() == pytest.approx(meta_networks.DISTILLATION * expected, rel=1e-5)
    names = set(meta_networks.meta_names(network))
    assert names == {
        f"parts.{part}.{own}"
        for part in range(4)
        for own in ("norm.weight", "norm.bias", "conv.weight", "conv_norm.weight", "conv_norm.bias")
    }
    found = reference.eco(network, images(2 * BATCH), BATCH, 0.1)
    fresh = dict(meta_network().named_parameters())
    moved = {name for name, one in network.named_parameters() if not torch.equal(one, fresh[name])}
    assert moved == names == set(found.variables)
    assert found.adapted == (0, 1)


def test_entropy_counts_where_the_network_is_sure_and_in_part_at_the_margin() -> None:
    logits = torch.zeros(3, 10)
    logits[0, 0], logits[1, 0] = 9.0, 0.5
    nats = torch.special.entr(logits.softmax(1)).sum(1)
    assert nats[0] < 0.4 * math.log(10) < nats[1]
    assert networks.confident_entropy(logits, NOTHING).item() == pytest.approx(nats[0].item(), rel=1e-4)
    assert networks.confident_entropy(logits[1:], NOTHING).item() == 0.0
    at = torch.zeros(1, 10)
    low, high = 0.0, 9.0
    for _ in range(60):
        at[0, 0] = (low + high) / 2
        nats_at = torch.special.entr(at.softmax(1)).sum().item()
        low, high = (at[0, 0].item(), high) if nats_at > networks.CONFIDENT_NATS else (low, at[0, 0].item())
    # Half of it counts, and a sum of shares below one is not divided by.
    found = networks.confident_entropy(at, NOTHING).item()
    assert found == pytest.approx(networks.CONFIDENT_NATS / 2, rel=1e-3)


def test_warming_up_teaches_the_meta_networks_alone_and_repeats_to_the_bit() -> None:
    x, labels = images(256), torch.arange(256) % 10
    made = [meta_network((2, 2, 2, 2)) for _ in range(2)]
    for one in made:
        with seeded(1):
            meta_networks.warm_up(one, x, labels, 1, 10)
    first, again, fresh = (one.state_dict() for one in (*made, meta_network((2, 2, 2, 2))))
    assert all(torch.equal(first[name], again[name]) for name in first)
    moved = {name for name in first if not torch.equal(first[name], fresh[name])}
    assert moved == set(meta_networks.meta_names(made[0]))


# ---- as compiled ----


@cache
def step_by_step() -> CompiledModel:
    return compiled(meta_network(), BATCH)


@needs_host_compiler
def test_steps_as_compiled_are_pytorchs(tmp_path: Path) -> None:
    network, x, rate = meta_network(), images(6 * BATCH), 1e-2
    device = HostTraining(step_by_step(), tmp_path)
    begun = {name: one.detach().numpy().copy() for name, one in network.named_parameters()}
    for begin in range(0, len(x), BATCH):
        batch = x[begin : begin + BATCH].permute(0, 2, 3, 1).contiguous().numpy()
        device.step(batch, np.zeros(1, np.float32), rate)
    expected = reference.eco(network, x, BATCH, rate).variables
    found = device.variables()
    for name, value in expected.items():
        assert np.abs(value - begun[name]).max() > 1e-3, "every variable moves"
        np.testing.assert_allclose(found[name], value, atol=2e-5, err_msg=name)


def test_frozen_parts_of_many_layers_need_less_memory_than_adapting_every_layer() -> None:
    source = networks.source_network(tuple(width for width in (4, 4, 6, 6) for _ in range(4))).eval()
    tent = networks.with_norms(source, networks.batch_norm_of_batch)
    other = lab.compiler.compile(
        tent, images(BATCH), loss=networks.entropy, target=NOTHING, train=reference.affine_names(tent),
        optimizer=Adam(), precision="float32", name="tent",
    )  # fmt: skip
    deep = compiled(meta_networks.MetaNetwork(source), BATCH).arena_bytes
    assert deep < 1.1 * step_by_step().arena_bytes, "of three more layers a part, frozen, a bit for every ReLU is kept"
    assert deep < 0.8 * other.arena_bytes


# ---- the workload ----


@cache
def prepared() -> Prepared:
    return get("eco-tta").prepare(cache_dir(), VARIANT)


def test_preparation_describes_the_stream_and_what_adapting_everything_takes() -> None:
    made = prepared()
    assert made.job.name == "adapt"
    assert made.job.parameters == {"always": 1, "lr": ECO_RATE}
    assert made.job.count == 128 // 4
    assert made.stream is not None
    assert made.stream.samples == 128
    assert made.model.training is not None
    assert made.model.training.batch == 4
    figures = {figure.metric: figure.value for figure in made.figures}
    copies = sum(one.numel() for one in networks.source_network(NETWORKS["small"]).parameters()) * 4
    assert figures["peak_ram.all_parameters"] > 5 * copies, "the student, Adam's two moments, the teacher, the source"
    scores = {score.metric: score for score in made.check(made.reference_outputs)}
    assert scores["agreement"].value == 1
    assert scores["accuracy_gain"].value > 0


def test_variables_that_stayed_where_they_were_are_refused() -> None:
    made = prepared()
    assert made.stream is not None
    assert made.model.training is not None
    unchanged = {one.name: bytes(one.size_bytes) for one in made.model.training.variables}
    with pytest.raises(WorkloadError, match="the device's variables are off PyTorch's by"):
        made.stream.check(range(made.job.count), unchanged)


def test_the_meta_networks_are_cached_by_the_source_network_and_are_the_same_unadapted() -> None:
    made = get("eco-tta").prepare(cache_dir(), f"{VARIANT},method=meta")
    assert made.job.name == "infer"
    assert made.model.training is None
    first = made.reference_outputs.view(np.float32).reshape(-1, 10)[:4]
    second = prepared().reference_outputs.view(np.float32).reshape(-1, 10)[:4]
    np.testing.assert_allclose(first, second, atol=1e-4, err_msg="before the first step both are one network")


def test_batches_of_one_are_defined_and_what_does_not_fit_is_refused() -> None:
    defaults = Options(method="eco", stream="shifts", length=64)
    assert learning_rate(parse("eco-tta", "batch=1", defaults)) == ECO_RATE
    network = meta_network()
    found = reference.eco(network, images(2), 1, 1e-3)
    assert np.isfinite(found.outputs).all()
    with pytest.raises(ConfigError, match="no whole number of batches of 48"):
        get("eco-tta").prepare(cache_dir(), "batch=48,length=10")
    with pytest.raises(ConfigError, match="epochs=0 is not allowed"):
        parse("eco-tta", "epochs=0", defaults)
