"""Folded batch norms: the same function in fewer layers; float32 training of what is trained stays PyTorch's."""

from __future__ import annotations

import pytest
import torch
from helpers.random_networks import Case, cases
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lab.compiler.training_passes import fold_batch_norm
from lab.errors import CompileError


def norms(module: nn.Module) -> list[str]:
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
    return [name for name, child in module.named_modules() if isinstance(child, kinds)]


@settings(max_examples=8, deadline=None)
@given(case=cases(), everything=st.booleans())
def test_the_function_stays(case: Case, everything: bool) -> None:
    (sample, _), before = case.samples, [parameter.clone() for parameter in case.module.parameters()]
    folded = fold_batch_norm(case.module, sample, everything=everything)
    assert norms(folded) == []
    with torch.no_grad():
        torch.testing.assert_close(folded(sample), case.module(sample), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(*pair) for pair in zip(before, case.module.parameters(), strict=True))


@settings(max_examples=8, deadline=None)
@given(case=cases(), data=st.data())
def test_layers_that_train_keep_their_norm(case: Case, data: st.DataObject) -> None:
    trained = data.draw(st.lists(st.sampled_from(case.names), unique=True))
    folded = fold_batch_norm(case.module, case.samples[0], trained=trained)
    blocks = {name.removesuffix(".norm") for name in norms(case.module)}
    touched = {block for block in blocks if any(name.startswith(f"{block}.") for name in trained)}
    assert {name.removesuffix(".norm") for name in norms(folded)} == touched
    kept = dict(folded.named_parameters())
    for name, parameter in case.module.named_parameters():
        if name in trained:
            assert torch.equal(kept[name], parameter)


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "conv1d": (nn.Sequential(nn.Conv1d(3, 4, 3, bias=False), nn.BatchNorm1d(4)), (2, 3, 7)),
    "grouped": (nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)), (2, 4, 5, 5)),
    "depthwise": (nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4, affine=False)), (2, 4, 5, 5)),
    "linear": (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), (2, 3)),
    "linear_plain": (nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4)), (2, 3)),
}


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_every_kind_of_layer_is_folded(name: str) -> None:
    module, shape = LAYERS[name]
    torch.manual_seed(0)
    module.train()(torch.randn(8, *shape[1:]))
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    sample = torch.randn(shape)
    folded = fold_batch_norm(module, sample)
    assert norms(folded) == []
    with torch.no_grad():
        torch.testing.assert_close(folded(sample), module.eval()(sample), rtol=1e-4, atol=1e-5)


class Shared(nn.Module):
    """A convolution whose output two layers read."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised and plain."""
        y = self.conv(x)
        z: torch.Tensor = self.norm(y) + y
        return z


def test_a_norm_that_cannot_be_folded_stays_or_is_refused() -> None:
    sample = torch.randn(1, 1, 5, 5)
    assert norms(fold_batch_norm(Shared(), sample)) == ["norm"]
    with pytest.raises(CompileError, match=r"'norm'.*cannot be folded") as refused:
        fold_batch_norm(Shared(), sample, everything=True)
    assert "float32" in str(refused.value.hint)
