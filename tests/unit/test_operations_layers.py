"""Normalisation, pooling and embeddings: kernels against PyTorch, lowering against autograd."""

from __future__ import annotations

import pytest
import torch
from helpers.joint_check import Applied, check_program, lowered
from helpers.kernel_runner import check_kernel, check_update
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from lab.compiler.joint import export_inference
from lab.compiler.lowering import lower
from lab.compiler.operations.embedding import Embedding, EmbeddingGradient, EmbeddingSgd
from lab.compiler.operations.normalisation import (
    BatchNorm,
    BatchNormInputGradient,
    GroupNorm,
    GroupNormInputGradient,
    Groups,
    NormScaleGradient,
)
from lab.compiler.operations.pool import (
    AvgPool2d,
    AvgPool2dGradient,
    MaxPool2d,
    MaxPool2dGradient,
    MaxPool2dPlaces,
    Windows,
)
from lab.compiler.program import TrainingState
from lab.errors import CompileError

SIZES = st.integers(1, 5)


def values(seed: int, *shape: int) -> torch.Tensor:
    """Normal numbers of standard deviation three."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3


@settings(max_examples=60)
@given(
    batch=SIZES,
    positions=SIZES,
    groups=SIZES,
    channels=SIZES,
    scaled=st.booleans(),
    shifted=st.booleans(),
    seed=st.integers(0, 99),
)
def test_group_norm_and_its_gradients(
    batch: int, positions: int, groups: int, channels: int, scaled: bool, shifted: bool, seed: int
) -> None:
    sizes = Groups(batch, positions, groups, channels)
    x = values(seed, batch, groups * channels, positions)
    scale = values(seed + 1, groups * channels) if scaled else None
    shift = values(seed + 2, groups * channels) if shifted else None
    physical = x.transpose(1, 2).contiguous()
    epsilon = 1e-2  # a group of one element has no variance; PyTorch's own numbers are noise where epsilon is tiny
    y, mean, deviation = check_kernel(
        GroupNorm(sizes, epsilon), [physical, scale, shift], relative=2e-5, absolute=2e-5
    )
    x = x.requires_grad_()
    wanted = functional.group_norm(x, groups, scale, shift, epsilon) if positions * channels > 1 else None
    g = values(seed + 3, batch, groups * channels, positions)
    physical_g = g.transpose(1, 2).contiguous()
    (found,) = check_kernel(
        GroupNormInputGradient(sizes), [physical_g, physical, mean, deviation, scale], relative=1e-4, absolute=2e-4
    )
    check_kernel(NormScaleGradient(sizes), [physical_g, physical, mean, deviation], relative=1e-4, absolute=1e-4)
    if wanted is not None:
        torch.testing.assert_close(y.transpose(1, 2), wanted.detach(), rtol=1e-4, atol=1e-4)
        (gradient,) = torch.autograd.grad(wanted, x, g)
        torch.testing.assert_close(found.transpose(1, 2), gradient, rtol=2e-4, atol=1e-3)


def test_a_large_mean_costs_no_digits() -> None:
    x = values(1, 1, 64) + 1e4
    y, _, _ = check_kernel(GroupNorm(Groups(1, 1, 1, 64), 1e-5), [x, None, None], relative=1e-3, absolute=1e-3)
    torch.testing.assert_close(y, functional.layer_norm(x.double(), (64,)).float(), rtol=1e-3, atol=1e-3)


@given(positions=SIZES, channels=SIZES, scaled=st.booleans(), shifted=st.booleans(), seed=st.integers(0, 99))
def test_batch_norm(positions: int, channels: int, scaled: bool, shifted: bool, seed: int) -> None:
    x, mean, deviation = values(seed, positions, channels), values(seed + 1, channels), values(seed + 2, channels).abs()
    scale = values(seed + 3, channels) if scaled else None
    shift = values(seed + 4, channels) if shifted else None
    inputs = [x, mean, deviation, scale, shift]
    check_kernel(BatchNorm(positions, channels), inputs, relative=1e-5, absolute=1e-5)
    check_kernel(BatchNormInputGradient(positions, channels), [x, deviation, scale], relative=1e-5)


@st.composite
def windows(draw: st.DrawFn, *, dilated: bool) -> Windows:
    """Windows PyTorch accepts."""
    pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))
    kernel, stride = draw(pairs), draw(pairs)
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2))) if dilated else (1, 1)
    padding = (draw(st.integers(0, kernel[0] // 2)), draw(st.integers(0, kernel[1] // 2)))
    size = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    batch, channels, ceil = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.booleans())
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    assume(all(s + 2 * p >= r for s, p, r in zip(size, padding, reach, strict=True)))
    probe = functional.max_pool2d(torch.zeros(1, 1, *size), kernel, stride, padding, dilation, ceil_mode=ceil)
    output = (probe.shape[2], probe.shape[3], channels)
    made = Windows(batch, (*size, channels), output, kernel, stride, padding, dilation)
    assume(made.touch_input)
    return made


@settings(max_examples=60)
@given(sizes=windows(dilated=False), count_padding=st.booleans(), divisor=st.sampled_from([0, 3]))
def test_average_pooling_and_its_gradient(sizes: Windows, count_padding: bool, divisor: int) -> None:
    layer = AvgPool2d(sizes, count_padding=count_padding, divisor=divisor)
    check_kernel(layer, [values(3, sizes.batch, *sizes.input)], relative=1e-5, absolute=1e-5)
    check_kernel(AvgPool2dGradient(layer), [values(4, sizes.batch, *sizes.output)], relative=1e-5, absolute=1e-5)


@given(batch=st.integers(1, 2), size=st.tuples(SIZES, SIZES), output=st.tuples(SIZES, SIZES), channels=SIZES)
def test_adaptive_pooling_and_its_gradient(
    batch: int, size: tuple[int, int], output: tuple[int, int], channels: int
) -> None:
    layer = AvgPool2d(Windows(batch, (*size, channels), (*output, channels), (0, 0), (0, 0), (0, 0)), adaptive=True)
    check_kernel(layer, [values(5, batch, *size, channels)], relative=1e-5, absolute=1e-5)
    check_kernel(AvgPool2dGradient(layer), [values(6, batch, *output, channels)], relative=1e-5, absolute=1e-5)


@settings(max_examples=60)
@given(sizes=windows(dilated=True), ties=st.booleans())
def test_max_pooling_and_its_gradient(sizes: Windows, ties: bool) -> None:
    x = values(7, sizes.batch, *sizes.input)
    x = x.round() if ties else x
    check_kernel(MaxPool2d(sizes), [x], relative=0, absolute=0)
    _, places = check_kernel(MaxPool2dPlaces(sizes), [x], relative=0, absolute=0)
    gradient = values(8, sizes.batch, *sizes.output)
    operation = MaxPool2dGradient(MaxPool2d(sizes))
    (found,) = check_kernel(operation, [gradient, places], relative=1e-6, absolute=1e-6)
    image = sizes.image(x).requires_grad_()
    y, _ = MaxPool2d(sizes).find(image)
    (wanted,) = torch.autograd.grad(y, image, sizes.result(gradient))
    torch.testing.assert_close(found, wanted.permute(0, 2, 3, 1), rtol=1e-6, atol=1e-6)


def test_windows_of_more_than_a_byte_can_count() -> None:
    sizes = Windows(1, (20, 17, 2), (1, 1, 2), (20, 17), (1, 1), (0, 0))
    x = values(9, 1, 20, 17, 2)
    _, places = check_kernel(MaxPool2dPlaces(sizes), [x], relative=0, absolute=0)
    assert places.dtype == torch.int32
    check_kernel(MaxPool2dGradient(MaxPool2d(sizes)), [values(10, 1, 1, 1, 2), places], relative=0, absolute=0)


INDICES = st.lists(st.integers(-2, 7), min_size=1, max_size=8)


@given(indices=INDICES, columns=SIZES, ignored=st.integers(-1, 5), seed=st.integers(0, 99))
def test_embeddings(indices: list[int], columns: int, ignored: int, seed: int) -> None:
    count, rows = len(indices), 6
    table, chosen = values(seed, rows, columns), torch.tensor(indices)
    (found,) = check_kernel(Embedding(count, rows, columns), [table, chosen])
    inside = (chosen >= 0) & (chosen < rows)
    torch.testing.assert_close(found[inside], table[chosen[inside]])
    assert found[~inside].isnan().all()
    gradient = EmbeddingGradient(count, rows, columns, ignored)
    g = values(seed + 1, count, columns)
    check_kernel(gradient, [g, chosen], relative=1e-5, absolute=1e-6)
    state = TrainingState(0.1)
    update = EmbeddingSgd(gradient, 0.5)
    (updated,) = check_update(update, [g, chosen, table], (2,), state, relative=1e-5, absolute=1e-6)
    read = {index for index in indices if 0 <= index < rows and index != ignored}
    untouched = [row for row in range(rows) if row not in read]
    assert torch.equal(updated[untouched], table[untouched])


class Scaled(nn.Module):
    """A layer of a scaled sample."""

    def __init__(self, layer: nn.Module, channels: int, rank: int) -> None:
        super().__init__()
        self.layer = layer
        self.scale = nn.Parameter(values(11, channels, *(1,) * (rank - 2)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``layer(x · scale)``."""
        y: torch.Tensor = self.layer(x * self.scale)
        return y


def randomised(layer: nn.Module) -> nn.Module:
    """A layer with parameters and buffers that are not the defaults."""
    generator = torch.Generator().manual_seed(12)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, 0.5, generator=generator)
    for name, buffer in layer.named_buffers():
        if buffer.dtype == torch.float32:
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + ("var" in name) * 0.5)
    return layer


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "layer_norm": (nn.LayerNorm(6), (2, 4, 6)),
    "layer_norm_plain": (nn.LayerNorm(6, elementwise_affine=False), (2, 4, 6)),
    "layer_norm_of_images": (nn.LayerNorm((4, 3, 5)), (2, 4, 3, 5)),
    "group_norm": (nn.GroupNorm(2, 4), (2, 4, 3, 5)),
    "group_norm_of_sequences": (nn.GroupNorm(2, 4), (2, 4, 5)),
    "instance_norm": (nn.InstanceNorm2d(4, affine=True), (1, 4, 3, 5)),
    "batch_norm": (nn.BatchNorm2d(4), (2, 4, 3, 5)),
    "batch_norm_of_sequences": (nn.BatchNorm1d(4), (2, 4, 5)),
    "batch_norm_of_features": (nn.BatchNorm1d(4), (3, 4)),
    "batch_norm_plain": (nn.BatchNorm2d(4, affine=False), (2, 4, 3, 5)),
    "batch_norm_of_batch": (nn.BatchNorm2d(4, track_running_stats=False), (2, 4, 3, 5)),
    "rms_norm": (nn.RMSNorm(6), (2, 4, 6)),
    "avg_pool": (nn.AvgPool2d(3, 2, 1), (2, 4, 7, 6)),
    "avg_pool_ceil": (nn.AvgPool2d((2, 3), ceil_mode=True, count_include_pad=False), (2, 4, 7, 5)),
    "avg_pool_of_sequences": (nn.AvgPool1d(3, 2), (2, 4, 9)),
    "global_pool": (nn.AdaptiveAvgPool2d(1), (2, 4, 3, 5)),
    "adaptive_pool": (nn.AdaptiveAvgPool2d((2, 3)), (2, 4, 5, 7)),
    "adaptive_pool_even": (nn.AdaptiveAvgPool2d((2, 3)), (2, 4, 4, 6)),
    "adaptive_pool_of_sequences": (nn.AdaptiveAvgPool1d(3), (2, 4, 7)),
    "max_pool": (nn.MaxPool2d(3, 2, 1), (2, 4, 7, 6)),
    "max_pool_ceil": (nn.MaxPool2d(2, ceil_mode=True), (2, 4, 7, 5)),
    "max_pool_dilated": (nn.MaxPool2d(2, 1, dilation=2), (2, 4, 7, 5)),
    "max_pool_of_sequences": (nn.MaxPool1d(2), (2, 4, 8)),
}


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_layers_are_lowered_with_their_gradients(name: str) -> None:
    layer, shape = LAYERS[name]
    module = Scaled(randomised(layer), shape[1], len(shape))
    sample = values(13, *shape)
    with torch.no_grad():
        target = values(14, *module.eval()(sample).shape)
    check_program(module, sample, target, lambda y, t: (y * t).sum(), relative=1e-4, absolute=2e-4)


@pytest.mark.parametrize("trained", [["layer.weight"], ["layer.bias"], ["scale"]])
@pytest.mark.parametrize("name", ["layer_norm", "group_norm", "batch_norm"])
def test_only_the_gradients_asked_for_are_computed(name: str, trained: list[str]) -> None:
    from lab.compiler.joint import export_training

    layer, shape = LAYERS[name]
    module = Scaled(randomised(layer), shape[1], len(shape))
    joint = export_training(module, values(1, *shape), values(2, *shape), lambda y, t: (y * t).sum(), trained)
    kinds = {step.operation.kind for step in lower(joint).steps if step.phase == "backward"}
    asked = {"layer.weight": "norm.scale_gradient", "scale": f"{name}.input_gradient"}.get(trained[0])
    assert {kind for kind in kinds if "norm" in kind} == ({asked} if asked else set())


class Words(nn.Module):
    """Embeddings of words, averaged."""

    def __init__(self, padding: int | None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4, padding_idx=padding)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores."""
        y: torch.Tensor = self.head(self.embedding(x).mean(1))
        return y


@pytest.mark.parametrize("padding", [None, 2])
def test_embeddings_are_lowered_with_their_gradients(padding: int | None) -> None:
    indices = torch.tensor([[1, 2, 2, 5], [6, 1, 0, 2]])
    check_program(Words(padding), indices, torch.tensor([0, 2]), nn.CrossEntropyLoss(), absolute=1e-5)


class Tokens(nn.Module):
    """A transformer's block on a sequence: layer norm, attention, GELU, mean, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu", norm_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores."""
        y: torch.Tensor = self.head(self.block(x).mean(1))
        return y


class Recurrent(nn.Module):
    """Two steps of a GRU cell."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(5, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores."""
        state = self.cell(x[:, 0], torch.zeros(len(x), 4))
        y: torch.Tensor = self.head(self.cell(x[:, 1], state))
        return y


class Residual(nn.Module):
    """A convolutional block with everything around it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU6(), nn.MaxPool2d(2))
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.GroupNorm(2, 4), nn.Hardswish())
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores."""
        y = self.stem(x)
        y = functional.silu(self.block(y) + y) * functional.hardsigmoid(y.mean((2, 3), keepdim=True))
        z: torch.Tensor = self.head(functional.adaptive_avg_pool2d(y, 1).flatten(1))
        return z


NETWORKS: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "tokens": (Tokens, (2, 5, 8)),
    "recurrent": (Recurrent, (2, 2, 5)),
    "residual": (Residual, (2, 2, 12, 12)),
}


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_whole_networks(name: str) -> None:
    torch.manual_seed(15)
    network, shape = NETWORKS[name]
    check_program(network(), values(16, *shape), torch.tensor([2, 0]), nn.CrossEntropyLoss(), absolute=1e-5)


def test_places_of_maxima_are_kept_for_training_alone() -> None:
    module = Scaled(nn.MaxPool2d(2), 3, 4)
    inference = lower(export_inference(module, values(17, 1, 3, 4, 4)))
    assert [type(step.operation) for step in inference.steps][1] is MaxPool2d
    program = lowered(module, values(17, 1, 3, 4, 4), values(18, 1, 3, 2, 2), lambda y, t: (y * t).sum())
    (places,) = [tensor for tensor in program.tensors.values() if tensor.dtype == "uint8"]
    assert places.size_bytes == 12


def test_a_window_in_the_padding_alone_is_refused() -> None:
    with pytest.raises(CompileError, match="padding alone"):
        lowered(
            Applied(lambda x: functional.max_pool2d(x, (1, 2), 1, (0, 1), (1, 2)), (1,)),
            torch.ones(1, 1, 1, 1),
            torch.ones(1, 1, 1, 1),
            lambda y, t: (y * t).sum(),
        )


def test_what_is_not_supported_is_refused_with_its_place() -> None:
    with pytest.raises(CompileError, match="batch dimension"):
        lowered(
            Applied(lambda x: functional.avg_pool2d(x, 2), (1,)),
            torch.ones(3, 4, 4),
            torch.ones(3, 2, 2),
            lambda y, t: (y * t).sum(),
        )
