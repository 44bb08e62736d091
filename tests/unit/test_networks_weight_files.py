"""Weights from a user's file: another checkpoint's names, another head, and every way a file can be wrong."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from lab.errors import ConfigError
from lab.workloads.networks import ResNet, digits_mb
from lab.workloads.networks.weight_files import load


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    (tmp_path / "networks").mkdir()
    return tmp_path / "networks"


def small(classes: int = 10) -> ResNet:
    return ResNet((8, 16), 1, classes)


class Elsewhere(nn.Module):
    """The same network as others write it: other names, the same order."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        blocks = []
        for inputs, outputs, stride in ((8, 8, 1), (8, 16, 2)):
            block = nn.Module()
            block.conv1, block.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
            block.conv2, block.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
            changes = (nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            block.shortcut = nn.Sequential(*(changes if stride > 1 else ()))
            blocks.append(block)
        self.layers = nn.ModuleList(blocks)
        self.linear = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        relu = torch.relu
        x = relu(self.bn1(self.conv1(x)))
        for block in self.layers:
            y = block.bn2(block.conv2(relu(block.bn1(block.conv1(x)))))  # type: ignore[operator]
            x = relu(y + block.shortcut(x))  # type: ignore[operator]
        out: torch.Tensor = self.linear(x.mean((2, 3)))
        return out


def test_a_checkpoint_of_other_names_computes_the_same(folder: Path) -> None:
    torch.manual_seed(1)
    theirs, ours = Elsewhere().train(), small()
    x = torch.randn(4, 3, 16, 16)
    theirs(x)
    torch.save(theirs.state_dict(), folder / "resnet.pt")
    first = load(ours, "resnet")
    with torch.no_grad():
        assert torch.allclose(ours.eval()(x), theirs.eval()(x), atol=1e-6)
    theirs(x + 1)
    nn.init.zeros_(theirs.linear.bias)
    torch.save(theirs.state_dict(), folder / "resnet.pt")
    assert load(ours, "resnet") != first, "another file"


def test_a_head_for_other_classes_keeps_its_own_weights_where_it_may(folder: Path) -> None:
    torch.manual_seed(2)
    torch.save(small(1000).state_dict(), folder / "resnet.pt")
    ours = small(7)
    head = ours.get_parameter("classifier.weight").detach().clone()
    with pytest.raises(ConfigError, match=r"classifier.weight is of shape \(1000, 16\), resnet has \(7, 16\)"):
        load(ours, "resnet")
    load(ours, "resnet", head="classifier")
    assert torch.equal(ours.get_parameter("classifier.weight"), head)
    written = torch.load(folder / "resnet.pt", weights_only=True)
    assert torch.equal(ours.get_parameter("stem.conv.weight"), written["stem.conv.weight"])


class Command:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return Path, ("anywhere",)


def not_finite() -> OrderedDict[str, torch.Tensor]:
    state = small().state_dict()
    state["stem.conv.weight"][0] = float("nan")
    return OrderedDict(state)


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda path: None, r"resnet.pt cannot be read: No such file"),
        (lambda path: path.write_bytes(b"weights"), "is no file of tensors"),
        (lambda path: path.write_bytes(pickle.dumps(Command(), 2)), "is no file of tensors"),
        (lambda path: torch.save(torch.zeros(3), path), "something else than named tensors"),
        (lambda path: torch.save({"epoch": 3}, path), "something else than named tensors"),
        (lambda path: torch.save(digits_mb().state_dict(), path), "tensors, resnet has"),
        (lambda path: torch.save(ResNet((8, 24), 1, 10).state_dict(), path), r"is of shape \(24, 8, 3, 3\)"),
        (lambda path: torch.save(not_finite(), path), "values that are no numbers"),
    ],
)
def test_files_that_are_no_weights_of_the_network_are_refused(
    folder: Path, write: Callable[[Path], None], told: str
) -> None:
    write(folder / "resnet.pt")
    network = small()
    before = {name: one.clone() for name, one in network.state_dict().items()}
    with pytest.raises(ConfigError, match=told) as refused:
        load(network, "resnet")
    assert "networks/ with NAME.pt" in refused.value.hint
    assert all(torch.equal(one, before[name]) for name, one in network.state_dict().items()), "nothing half loaded"
