"""The workload of S086: its variants, its networks, and that what is probed is what is prepared."""

from __future__ import annotations

from pathlib import Path

import pytest

import lab.workloads
from lab.errors import ConfigError
from lab.workloads.security.layer_recovery import PROFILED, LayerRecovery, ProbedDigits


def test_it_is_registered_for_its_system() -> None:
    workload = lab.workloads.get("layer-recovery")
    assert (workload.family, workload.systems) == ("security", ("S086",))


@pytest.mark.parametrize("variant", ["network=rnn", "cnn", "network="])
def test_an_unknown_variant_is_named(variant: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="allowed are the empty one and network=cnn, network=mlp"):
        LayerRecovery().prepare(tmp_path, variant)


@pytest.mark.parametrize(("kind", "layers"), [("cnn", 7), ("mlp", 3)])
def test_the_networks_have_the_layers_that_are_to_be_found(kind: str, layers: int) -> None:
    import torch
    from torch import nn

    network = ProbedDigits(kind, "").network()
    shapes = (nn.Conv2d, nn.Linear, nn.MaxPool2d, nn.AvgPool2d)
    assert sum(isinstance(module, shapes) for module in network.modules()) == layers
    assert network(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


def test_the_samples_do_not_overlap() -> None:
    samples = ProbedDigits("cnn", "").samples(1)
    training = {image.tobytes() for image in samples.training}
    held_out = [image.tobytes() for image in samples.held_out]
    assert len(held_out) == 359
    assert sum(image in training for image in held_out) == 0


def test_the_analyst_knows_every_kind_that_the_networks_have() -> None:
    assert {one.kind for one in PROFILED} == {"conv2d", "depthwise_conv2d", "max_pool2d", "avg_pool2d", "linear"}
    assert all(0 < one.loads_per_instruction + one.stores_per_instruction < 1 for one in PROFILED)
