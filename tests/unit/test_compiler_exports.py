"""The quick way to a functional graph gives PyTorch's, and the graph of training begins as that of inference."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram
from torch.nn.attention import SDPBackend, sdpa_kernel

from lab.compiler import capture, joint

IMAGE = torch.ones(1, 3, 8, 8)


class Products(nn.Module):
    """Composite operators within composite operators, and views."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of (1, C, H, W)."""
        return torch.einsum("bchw->bhwc", x).matmul(torch.ones(3, 2)).chunk(2, 1)[0].sum((1, 2)).pow(2)


class Attention(nn.Module):
    """Attention over the pixels of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.GroupNorm(1, 3), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of (1, 3, H, W)."""
        rows = self.norm(x).flatten(2)[:, :, :8]
        return torch.as_tensor(self.attention(rows, rows, rows)[0])


def layers() -> nn.Module:
    """Layers that write in place, alias, or are gone in evaluation mode."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding="same"), nn.BatchNorm2d(4), nn.ReLU6(inplace=True), nn.Hardswish(), nn.Dropout(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Softmax(1),
    )  # fmt: skip


def exported(kind: type[nn.Module] | None) -> ExportedProgram:
    module = (layers() if kind is None else kind()).eval()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        return torch.export.export(module, (IMAGE,))


def calls(program: ExportedProgram) -> list[tuple[str, ...]]:
    """Every node: what it is, what it reads, what it yields and where it comes from."""
    return [
        (node.op, str(node.target), str(node.args), str(node.kwargs), str(node.meta.get("val")), str(place(node)))
        for node in program.graph.nodes
    ]


def place(node: torch.fx.Node) -> object:
    return capture.place_of(node) if node.op == "call_function" else ""


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", [None, Products, Attention])
def test_inference_keeps_what_pytorch_keeps(kind: type[nn.Module] | None) -> None:
    program = exported(kind)
    with torch.no_grad():
        assert calls(capture._functional(program)) == calls(program.run_decompositions({}))


def test_training_computes_forward_as_inference_does() -> None:
    """The same calls at the same places; autograd adds detaches, the loss a product and a sum."""
    module = Attention().eval()
    inference = joint.export_inference(module, IMAGE)
    names = [name for name, _ in module.named_parameters()]
    target = torch.ones_like(module(IMAGE))
    training = joint.export_training(module, IMAGE, target, lambda y, t: (y * t).sum(), names)
    ours = [call for call in training.nodes[: training.forward_count] if _computes(call)][:-2]
    theirs = [call for call in inference.nodes if _computes(call)]
    assert [str(call.target) for call in ours] == [str(call.target) for call in theirs]
    assert [training.places[call] for call in ours] == [inference.places[call] for call in theirs]


def _computes(call: torch.fx.Node) -> bool:
    return not joint.is_getitem(call) and "detach" not in str(call.target)
