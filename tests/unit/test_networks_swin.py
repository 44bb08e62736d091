"""Swin's parts against PyTorch's own attention, window by window, and in C."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from helpers.toolchain import needs_host_compiler
from torch import nn
from torch.nn import functional

from lab.compiler.float_inference import compile_float_inference
from lab.compiler.host import HostModel
from lab.workloads.networks.swin import PatchMerging, SwinBlock, moved
from lab.workloads.uncertainty.lgvit_swin import WindowTransformer
from lab.workloads.uncertainty.networks import SoftmaxExits

WIDTH, HEADS, GRID, SIDE, BY = 6, 2, 6, 3, 1
TINY = WindowTransformer(2, 16, 2, 8, (2, 1), (2, 4), 4, ((2, "every"),))


def block(by: int) -> SwinBlock:
    torch.manual_seed(4)
    made = SwinBlock(WIDTH, HEADS, GRID, SIDE, by).eval()
    nn.init.normal_(made.attention.table)
    return made


def attention_of_pytorch(made: SwinBlock) -> nn.MultiheadAttention:
    own = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).eval()
    ours = (made.attention.query_key_value, made.attention.project)
    with torch.no_grad():
        for target, source in zip(own.parameters(), (x for one in ours for x in (one.weight, one.bias)), strict=True):
            target.copy_(source)
    return own


def region(row: int, column: int, by: int) -> tuple[bool, bool]:
    """Whether a patch of the moved map comes from the other end of the image."""
    return row >= GRID - by, column >= GRID - by


def by_windows(made: SwinBlock, x: torch.Tensor, by: int) -> torch.Tensor:
    """A block's attention, by PyTorch's, one window after the other with its patches' own coordinates."""
    own, found = attention_of_pytorch(made), torch.zeros_like(x)
    shifted = torch.roll(made.norm1(x), (-by, -by), (1, 2))
    for top in range(0, GRID, SIDE):
        for left in range(0, GRID, SIDE):
            places = [(top + row, left + column) for row in range(SIDE) for column in range(SIDE)]
            tokens = torch.stack([shifted[:, row, column] for row, column in places], 1)
            bias = torch.zeros(HEADS, len(places), len(places))
            for i, (row, column) in enumerate(places):
                for j, (other_row, other_column) in enumerate(places):
                    entry = (row - other_row + SIDE - 1) * (2 * SIDE - 1) + column - other_column + SIDE - 1
                    bias[:, i, j] = made.attention.table[entry]
                    if region(row, column, by) != region(other_row, other_column, by):
                        bias[:, i, j] = -torch.inf
            answer = own(tokens, tokens, tokens, attn_mask=bias.repeat(len(x), 1, 1))[0]
            for number, (row, column) in enumerate(places):
                found[:, row, column] = answer[:, number]
    return torch.roll(found, (by, by), (1, 2))


def test_a_block_is_pytorchs_attention_in_each_window_moved_or_not() -> None:
    x = torch.randn(2, GRID, GRID, WIDTH, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for by in (0, BY):
            made = block(by)
            wanted = x + by_windows(made, x, by)
            wanted = wanted + made.feed_forward(made.norm2(wanted))
            torch.testing.assert_close(made(x), wanted, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(block(0)(x), block(BY)(x), atol=1e-2)
    assert torch.equal(moved(x, 2), torch.roll(x, (-2, -2), (1, 2)))
    assert SwinBlock(WIDTH, HEADS, SIDE, SIDE, BY).by == 0, "one window is the whole map"


def test_merging_takes_the_four_neighbours_row_by_row_within_columns() -> None:
    merging = PatchMerging(WIDTH).eval()
    x = torch.randn(1, 4, 4, WIDTH)
    corners = [x[:, row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
    normal = functional.layer_norm(torch.cat(corners, -1), (4 * WIDTH,))
    torch.testing.assert_close(merging(x), normal @ merging.reduction.weight.T)


def test_tensors_are_in_the_order_of_timms_checkpoints() -> None:
    """As ``swin_base_patch4_window7_224`` has them: merging, norm first, begins a stage, and buffers are none."""
    shapes = [tuple(one.shape) for one in nn.Sequential(*TINY.parts(), TINY.end(5)).state_dict().values()]
    embedding = [(8, 2, 2, 2), (8,), (8,), (8,)]

    def of_block(width: int, heads: int) -> list[tuple[int, ...]]:
        linear = [(o * width, i * width) for o, i in ((3, 1), (1, 1), (4, 1), (1, 4))]
        biased = [one for shape in linear for one in (shape, shape[:1])]
        return [(width,), (width,), (49, heads), *biased[:4], (width,), (width,), *biased[4:]]

    merging, end = [(32,), (32,), (16, 32)], [(16,), (16,), (5, 16), (5,)]
    assert shapes == [*embedding, *2 * of_block(8, 2), *merging, *of_block(16, 4), *end]


@needs_host_compiler
def test_a_tiny_twin_with_exits_is_pytorch_in_c(tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = SoftmaxExits(TINY.parts(), TINY.exit_heads(TINY.exits, 4), 0.5)
    for head in network.heads:
        nn.init.normal_(head.classifier.weight)
    x = torch.randn(12, 2, 16, 16)
    with torch.no_grad():
        wanted = network.eval()(x).numpy()
    assert len(set(wanted[:, 4])) > 1
    model = compile_float_inference(network, x[:1])
    found = HostModel(model, tmp_path).run(x.permute(0, 2, 3, 1).contiguous().numpy())
    np.testing.assert_allclose(found, wanted, atol=1e-5)
