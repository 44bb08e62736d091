"""Networks with exits: the C returns where PyTorch's first sure exit is, and computes nothing behind it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lab.compiler.exits import leave
from lab.compiler.float_inference import compile_float_inference, program_of
from lab.compiler.host import TRAP_UNDEFINED, HostModel
from lab.errors import CompileError

SAMPLES, CLASSES, EXITS = 40, 4, 3


class Exits(nn.Module):
    """Three stages, each with an exit: probabilities, number of the exit, margin."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(1 if n == 0 else 6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
            for n in range(EXITS)
        )
        self.heads = nn.ModuleList(nn.Linear(6, CLASSES) for _ in range(EXITS))
        self.threshold = threshold

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor | None = None
        for number, (stage, head) in enumerate(zip(self.stages, self.heads, strict=True)):
            x = stage(x)
            shares = torch.softmax(4 * head(x.mean((2, 3))), 1)
            margin = shares.square().sum(1, keepdim=True) - self.threshold
            place = torch.full((len(shares), 1), float(number))
            output = leave(torch.cat([shares, place, margin], 1), output)
        if output is None:
            raise TypeError("no exit")
        return output


def samples() -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return 3 * torch.randn((SAMPLES, 1, 6, 5), generator=generator)


def nhwc(x: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return x.permute(0, 2, 3, 1).contiguous().numpy()


def expected(module: nn.Module) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    with torch.no_grad():
        yielded: torch.Tensor = module.eval()(samples())
    return yielded.numpy()


def test_a_row_keeps_the_first_answer_that_is_sure() -> None:
    first = torch.tensor([[1.0, 0.0], [2.0, -0.1], [3.0, float("nan")]])
    second = torch.tensor([[4.0, -1.0], [5.0, -1.0], [6.0, 0.5]])
    assert torch.equal(leave(first, None), first) or torch.isnan(first).any()
    assert torch.equal(leave(second, leave(first, None)), torch.stack([first[0], second[1], second[2]]))


def test_the_c_leaves_where_pytorch_does(tmp_path: Path) -> None:
    module = Exits(0.475).eval()
    model = compile_float_inference(module, samples()[:1], name="exits")
    found = HostModel(model, tmp_path, flags=("-O1", *TRAP_UNDEFINED)).run(nhwc(samples()), arena_fill=0xFF)
    wanted = expected(module)
    places = np.bincount(wanted[:, CLASSES].astype(int), minlength=EXITS)
    assert (places > 2).all(), "every exit is taken"
    np.testing.assert_array_equal(found[:, CLASSES], wanted[:, CLASSES])
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(("threshold", "place"), [(2.0, EXITS - 1), (0.0, 0)])
def test_thresholds_that_never_or_always_leave(tmp_path: Path, threshold: float, place: int) -> None:
    model = compile_float_inference(Exits(threshold), samples()[:1], name="exits")
    found = HostModel(model, tmp_path).run(nhwc(samples()))
    assert set(found[:, CLASSES]) == {place}


def test_nothing_behind_an_exit_runs_and_the_last_one_returns_anyhow() -> None:
    source = compile_float_inference(Exits(0.475), samples()[:1], name="exits").sources["model.c"]
    begin, profiled = source.index("static void infer("), source.index("static void infer_profiled(")
    inference = source[begin:profiled]
    assert inference.count("return;") == EXITS - 1
    assert inference.index("layer_leave(") < inference.index("return;") < inference.index("layer_stages_1_0(")
    assert "return;" not in source[profiled:], "a profiled pass goes through every exit"


def test_in_int8_the_stages_are_integers_and_the_heads_are_not(tmp_path: Path) -> None:
    module = Exits(0.475).eval()
    calibration = samples() + 0.1
    model = compile_float_inference(module, samples()[:1], name="exits", calibration=calibration)
    quantised = model.input.quantize(nhwc(samples()))
    found = HostModel(model, tmp_path).run(quantised)
    program = program_of(module, samples()[:1], calibration)
    reference = [program.run(torch.from_numpy(one[None]), None, {})[program.output].numpy()[0] for one in quantised]
    np.testing.assert_allclose(found, np.stack(reference), atol=1e-5)
    operators = [layer.operator for layer in model.layers]
    assert operators.count("matmul") == operators.count("dequantize") == operators.count("leave") == EXITS
    assert model.input.dtype == "int8"
    assert model.output.dtype == "float32"
    wanted = expected(module)
    assert np.mean(found[:, CLASSES] == wanted[:, CLASSES]) > 0.8
    same = found[:, CLASSES] == wanted[:, CLASSES]
    np.testing.assert_allclose(found[same, :CLASSES], wanted[same, :CLASSES], atol=0.06)


def test_what_cannot_leave_is_refused() -> None:
    with pytest.raises(CompileError, match="2 samples cannot leave at once"):
        compile_float_inference(Exits(0.475), samples()[:2])


class Clamped(nn.Module):
    """A sum and a clamp behind the classifier, where nothing is quantised."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.stage = nn.Conv2d(1, 6, 3)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.head(self.stage(x).mean((2, 3)))
        return torch.relu(found + found.square() - 0.2)


def test_a_clamp_behind_a_sum_of_floats_stays_a_clamp(tmp_path: Path) -> None:
    module = Clamped().eval()
    model = compile_float_inference(module, samples()[:1], name="clamped", calibration=samples())
    found = HostModel(model, tmp_path).run(model.input.quantize(nhwc(samples())))
    wanted = expected(module)
    assert (wanted == 0).any()
    assert (wanted > 0.1).any()
    assert (found >= 0).all()
    np.testing.assert_allclose(found, wanted, atol=0.05 * wanted.max())
