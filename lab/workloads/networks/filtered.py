"""Convolutions whose gradients PyTorch computes on patches (gradient filtering), for comparison with the compiler's."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from lab.errors import ConfigError


class _FilteredConvolution(torch.autograd.Function):
    """The convolution, with the gradients of Yang et al., "Efficient On-device Training via Gradient Filtering", 2023,
    section 3, written in NCHW and with no code of the compiler's.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, layer: nn.Conv2d, side: int
    ) -> torch.Tensor:
        high, wide = side * layer.stride[0], side * layer.stride[1]
        ctx.save_for_backward(functional.avg_pool2d(x, (high, wide)) * (high * wide), weight)
        ctx.side, ctx.groups, ctx.reach = side, layer.groups, (high, wide)  # type: ignore[attr-defined]
        return torch.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        sums, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        groups: int = ctx.groups  # type: ignore[attr-defined]
        means = functional.avg_pool2d(gradient, ctx.side)  # type: ignore[attr-defined]
        coarse = torch.conv_transpose2d(means, weight.sum((2, 3), keepdim=True), groups=groups)
        back = functional.interpolate(coarse, scale_factor=ctx.reach)  # type: ignore[attr-defined]
        samples, _, rows, columns = means.shape
        grouped = [one.reshape(samples, groups, -1, rows, columns) for one in (means, sums)]
        tap = torch.einsum("ngohw,ngihw->goi", *grouped).reshape(len(weight), -1, 1, 1)
        return back, tap.expand_as(weight), gradient.sum((0, 2, 3)), None, None


class FilteredConv2d(nn.Module):
    """A convolution with filtered gradients; shares the parameters of the one it stands for.

    Args:
        layer: the convolution; its parameters become those of this module, under the same names.
        side: positions of the output map along a side of a patch; it divides the map.
    """

    def __init__(self, layer: nn.Conv2d, side: int) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self._sizes = [layer]
        self.side = side

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sizes = (self._sizes[0], self.side)
        filtered: torch.Tensor = _FilteredConvolution.apply(x, self.weight, self.bias, *sizes)  # type: ignore[no-untyped-call]
        return filtered


def with_filtered_gradients(network: nn.Module, patches: Mapping[str, int]) -> nn.Module:
    """A copy whose convolutions compute their gradients on patches; parameters keep their names.

    Args:
        network: any module.
        patches: path of a convolution to the side of its patches.

    Raises:
        ConfigError: a path that is no convolution's.
    """
    made = copy.deepcopy(network)
    for path, side in patches.items():
        layer = dict(made.named_modules()).get(path)
        if not isinstance(layer, nn.Conv2d):
            raise ConfigError(f"'{path}' is no convolution of the network", hint="name one by its module path")
        parent, _, name = path.rpartition(".")
        setattr(made.get_submodule(parent), name, FilteredConv2d(layer, side))
    return made
