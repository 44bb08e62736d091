"""The zoo: parameters and MACs of the reference, PyTorch's own recurrent and attention layers, folding."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lab.errors import ConfigError
from lab.workloads.networks import (
    ZOO,
    Bert,
    GruCell,
    VisionTransformer,
    digits_mb,
    folded,
    logits,
    mcunet_5fps,
    mlp,
    mobilenet_v2,
    proxylessnas_mobile,
    proxylessnas_w03,
    resnet18,
)
from lab.workloads.networks.attention import SelfAttention
from lab.workloads.networks.mobilenet_v2 import scaled

# Parameters with batch norm folded and MACs. The first six rows with MACs in the reference: methods-training.md,
# section 0.3; the others are counts by hand from the layer tables, checked against PyTorch's counter here.
REFERENCE = {
    "digits-mb-16": (25_466, 0.538),
    "digits-mb-32": (25_466, 2.149),
    "digits-mb-64": (25_466, 8.594),
    "ds-cnn": (22_604, 2.657),
    "resnet8": (77_706, 12.502),
    "mcunet": (470_834, 22.455),
    "digits-mb-48": (25_466, 4.834),
    "resnet18": (700_266, 35.047),
    "mobilenet-v2": (245_578, 16.648),
    "proxylessnas": (327_202, 18.621),
    "mlp": (8_970, 0.009),
    "imu-cnn": (32_230, 0.717),
    "gru": (4_620, 0.029),
    "vit": (207_946, 14.877),
    "bert": (545_924, 13.124),
}


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def macs(network: nn.Module, inputs: torch.Tensor) -> int:
    """By PyTorch's counter, which counts a MAC as two operations."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(inputs)
    return int(counter.get_total_flops()) // 2


def convolutions(network: nn.Module) -> int:
    return sum(isinstance(module, nn.Conv2d) for module in network.modules())


def test_every_network_has_a_reference() -> None:
    assert set(REFERENCE) == set(ZOO)


@pytest.mark.parametrize("name", sorted(ZOO))
def test_parameters_macs_and_shape(name: str) -> None:
    entry = ZOO[name]
    network = folded(entry.build())
    count, millions = REFERENCE[name]
    assert parameters(network) == count
    assert round(macs(network, entry.example()) / 1e6, 3) == millions
    assert logits(network, entry.example(batch=2)).shape == (2, entry.classes)


@pytest.mark.parametrize("name", sorted(set(ZOO) - {"digits-mb-16", "digits-mb-48", "digits-mb-64"}))
def test_gradients_reach_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    entry = ZOO[name]
    network = folded(entry.build())
    network(entry.example()).square().sum().backward()
    for path, parameter in network.named_parameters():
        gradient = parameter.grad
        assert gradient is not None, path
        assert bool(gradient.isfinite().all()), path


@pytest.mark.parametrize("name", ["digits-mb-16", "ds-cnn", "resnet8", "imu-cnn"])
def test_folding_keeps_the_numbers(name: str) -> None:
    torch.manual_seed(0)
    entry = ZOO[name]
    network = entry.build()
    with torch.no_grad():
        for _ in range(3):
            network(entry.example(batch=8, seed=1))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.weight.uniform_(0.5, 2.0)
                module.bias.uniform_(-1.0, 1.0)
    inputs = entry.example(batch=4, seed=2)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    result = folded(network)
    torch.testing.assert_close(logits(result, inputs), logits(network, inputs), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in result.modules())
    assert network.training
    assert not result.training
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_folding_leaves_other_networks_as_they_are() -> None:
    network = mlp((4, 3, 2))
    inputs = torch.randn(5, 4)
    assert torch.equal(logits(folded(network), inputs), logits(network, inputs))


def test_logits_restore_the_mode() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.9))
    first, second = (logits(network, torch.ones(1, 2)) for _ in range(2))
    assert network.training
    assert torch.equal(first, second)
    assert not first.requires_grad


def test_layers_of_the_published_tables() -> None:
    assert convolutions(mcunet_5fps()) == 42
    assert convolutions(mobilenet_v2()) == 51
    assert convolutions(proxylessnas_w03()) == 60
    assert convolutions(digits_mb()) == 13


def test_proxylessnas_mobile_is_the_published_checkpoints() -> None:
    """Its parameters with batch norm are 4,080,512 (repository osmr/imgclsmob), its cost is told as 320 M MACs."""
    network = proxylessnas_mobile()
    assert parameters(network) == 4_080_512
    assert convolutions(network) == 61
    assert {module.eps for module in network.modules() if isinstance(module, nn.BatchNorm2d)} == {1e-3}
    assert round(macs(folded(network.eval()), torch.zeros(1, 3, 224, 224)) / 1e6) == 320
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


def test_mobilenet_channels() -> None:
    channels = [module.out_channels for module in mobilenet_v2().modules() if isinstance(module, nn.Conv2d)]
    assert (channels[0], channels[-1]) == (16, 112)
    # Sandler et al. 2018, table 2, at full width.
    assert [scaled(width, 1.0) for width in (32, 16, 24, 96, 160, 320)] == [32, 16, 24, 96, 160, 320]
    # Never more than a tenth below what was asked for.
    assert all(scaled(channels, 0.35) >= 0.9 * 0.35 * channels for channels in range(8, 400))


def test_full_width_resnet18() -> None:
    # 11,173,962 is the usual count for CIFAR-10 with batch norm; folding leaves one bias per channel of 4,800.
    network = resnet18(width=64)
    assert parameters(network) == 11_173_962
    assert parameters(folded(network)) == 11_173_962 - 4_800


def test_gru_cell_equals_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = GruCell(5, 7), nn.GRUCell(5, 7)
    ours.input.load_state_dict({"weight": theirs.weight_ih, "bias": theirs.bias_ih})
    ours.hidden.load_state_dict({"weight": theirs.weight_hh, "bias": theirs.bias_hh})
    x, state = torch.randn(3, 5), torch.randn(3, 7)
    torch.testing.assert_close(ours(x, state), theirs(x, state))


def test_gru_classifier_reads_every_step() -> None:
    torch.manual_seed(0)
    network = ZOO["gru"].build()
    inputs = ZOO["gru"].example().requires_grad_()
    network(inputs).sum().backward()
    gradient = inputs.grad
    assert gradient is not None
    assert bool((gradient.abs().sum(dim=2) > 0).all())


def test_attention_equals_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = SelfAttention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    ours.query_key_value.load_state_dict({"weight": theirs.in_proj_weight, "bias": theirs.in_proj_bias})
    ours.project.load_state_dict(theirs.out_proj.state_dict())
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0])


def test_transformer_encoders_equal_torch() -> None:
    torch.manual_seed(0)
    vit = VisionTransformer(image=8, patch=4, width=12, depth=1, heads=3, classes=2)
    bert = Bert(vocabulary=9, length=5, width=12, depth=1, heads=3, classes=2)
    for blocks, norm_first in ((vit.blocks, True), (bert.blocks, False)):
        theirs = nn.TransformerEncoderLayer(
            12, 3, 48, dropout=0.0, activation="gelu", batch_first=True, norm_first=norm_first
        )
        ours = blocks[0]
        state = {
            "self_attn.in_proj_weight": ours.get_parameter("attention.query_key_value.weight"),
            "self_attn.in_proj_bias": ours.get_parameter("attention.query_key_value.bias"),
        }
        for name, path in (
            ("self_attn.out_proj", "attention.project"),
            ("linear1", "feed_forward.expand"),
            ("linear2", "feed_forward.project"),
            ("norm1", "norm1"),
            ("norm2", "norm2"),
        ):
            state |= {f"{name}.{part}": ours.get_parameter(f"{path}.{part}") for part in ("weight", "bias")}
        theirs.load_state_dict(state)
        x = torch.randn(2, 5, 12)
        torch.testing.assert_close(ours(x), theirs(x))


def test_patches_are_read_row_by_row() -> None:
    network = VisionTransformer(image=4, patch=2, width=4, depth=0, heads=1, classes=2)
    image = torch.randn(1, 3, 4, 4)
    tokens = network.patches(image).flatten(2).transpose(1, 2)
    weight, bias = network.patches.weight.flatten(1), network.patches.bias
    assert bias is not None
    torch.testing.assert_close(tokens[0, 1], weight @ image[0, :, 0:2, 2:4].flatten() + bias)


def test_examples_are_seeded() -> None:
    for entry in ZOO.values():
        assert torch.equal(entry.example(batch=2), entry.example(batch=2))
        assert not torch.equal(entry.example(batch=2), entry.example(batch=2, seed=1))
        assert entry.example().shape == (1, *entry.input_shape)
    assert ZOO["bert"].example(batch=50).max() < ZOO["bert"].vocabulary


def test_mlp_needs_two_sizes() -> None:
    with pytest.raises(ConfigError, match=r"an MLP of sizes \(3,\)"):
        mlp((3,))
