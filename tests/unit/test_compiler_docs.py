"""docs/compiler.md says what holds: its example runs, its commands exist, every file and pass it names is there."""

from __future__ import annotations

import re
import shlex

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import lab.compiler.training_passes
from lab.cli import main
from lab.compiler import passes
from lab.compiler.channels import Channels
from lab.compiler.model import CompiledModel
from lab.compiler.operations.optimizer import Sgd
from lab.compiler.training import compile_training
from lab.errors import CompileError
from lab.paths import project_root
from lab.workloads.networks import ZOO

TEXT = (project_root() / "docs" / "compiler.md").read_text()
COMPILER = project_root() / "lab" / "compiler"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def test_the_example_runs() -> None:
    (example,) = blocks("python")
    names: dict[str, object] = {}
    exec(example, names)
    inference, trained = names["inference"], names["trained"]
    assert isinstance(inference, CompiledModel)
    assert isinstance(trained, CompiledModel)
    assert trained.training is not None
    assert {variable.name for variable in trained.training.variables} == {"5.weight", "5.bias"}
    assert inference.training is None


def test_every_command_is_one() -> None:
    lines = [line.split("#")[0] for block in blocks("sh") for line in block.splitlines() if line.startswith("lab ")]
    assert len(lines) == 5
    known = CliRunner().invoke(main, ["compile", "--help"]).output
    for words in map(shlex.split, lines):
        assert words[:2] == ["lab", "compile"]
        assert words[2] in ZOO or words[2].endswith((".tflite", ".py:build"))
        for option in (word for word in words if word.startswith("--")):
            assert option in known
    for option in re.findall(r"`(--[a-z-]+)", TEXT):
        assert option in known


def test_the_sparse_command_fits_its_device() -> None:
    (line,) = [line.split("#")[0] for block in blocks("sh") for line in block.splitlines() if "@inputs" in line]
    result = CliRunner().invoke(main, shlex.split(line)[1:])
    assert result.exit_code == 0, result.output
    assert "int8 training by SGD" in result.output


def test_the_mapping_of_channels_trains_as_written() -> None:
    (literal,) = re.findall(r"`train=(\{.*?\})`", TEXT.replace("\n", " "))
    train = eval(literal, {"Channels": Channels})
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Identity(),
                           nn.Linear(4, 3))  # fmt: skip
    compiled = compile_training(
        module, torch.zeros(1, 2, 6, 6), loss=nn.functional.cross_entropy, train=train,
        optimizer=Sgd(),
    ).compiled  # fmt: skip
    assert compiled.training is not None
    assert {variable.name for variable in compiled.training.variables} == set(train)


def test_every_pass_is_in_the_table_and_every_row_is_a_pass() -> None:
    table = TEXT.split("## Passes\n")[1].split("\n\n")[0]
    rows = [line.split("|")[1:4] for line in table.splitlines()[2:]]
    named = {name: (inference.strip(), training.strip()) for names, inference, training in rows
             for name in re.findall(r"`(\w+)`", names)}  # fmt: skip
    in_training = {name for name, (_, training) in named.items() if training}
    in_inference = {name for name, (inference, _) in named.items() if inference}
    assert in_training == set(lab.compiler.training_passes.__all__)
    assert in_inference == {one.__name__ for one in passes.PASSES}


def test_every_file_it_names_is_there() -> None:
    roots = (COMPILER, project_root(), project_root() / "firmware")
    named = set(re.findall(r"`((?:[\w-]+/)*[\w-]+\.(?:py|md)|(?:[\w-]+/)+)`", TEXT)) - {"net/"}
    assert len(named) > 20
    written = {"net.py", "model.c", "model.h"}
    for name in named - written:
        assert any((root / name).exists() for root in roots), name


def test_the_error_it_shows_is_the_one_that_comes() -> None:
    class Unknown(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.i0(x)

    module = nn.Sequential(nn.Linear(4, 4), Unknown())
    (shown,) = blocks("text")
    operator = re.match(r"operator (\S+) at", shown)
    assert operator is not None
    with pytest.raises(CompileError) as caught:
        compile_training(
            module, torch.zeros(1, 4), loss=nn.functional.mse_loss, train=["0.weight"],
            optimizer=Sgd(),
        )  # fmt: skip
    pattern = re.escape(shown.splitlines()[0])
    pattern = pattern.replace(re.escape("features.3.act"), "1").replace(re.escape("net.py:12"), r".*\.py:\d+")
    assert re.match(pattern, str(caught.value)), caught.value
    assert "supported aten operators:" in str(caught.value)
