"""The generated C as a reader meets it: the user's names, weights in flash unless trained, the plan in the header."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
import torch
from helpers.toolchain import needs_host_compiler
from torch import nn

from lab.compiler.operations.optimizer import Sgd, SgdMomentum
from lab.compiler.training import TrainingModel, compile_training
from lab.runtime_files import RUNTIME
from lab.workloads.networks import ZOO

WANTED = {
    "mlp": ("linear3.weight", "linear3.bias", "linear2.bias"),
    "digits-mb-16": ("classifier.weight", "classifier.bias", "block4.body.project.conv.weight"),
}
CASES = [("mlp", "float32"), ("mlp", "int8"), ("digits-mb-16", "float32"), ("digits-mb-16", "int8")]
EVERY_CASE = pytest.mark.parametrize(("network", "precision"), CASES)


@cache
def compiled(network: str, precision: str, immediate: bool = True) -> TrainingModel:
    """A network of which some parameters are trained; in float32 by an optimiser with state."""
    entry = ZOO[network]
    torch.manual_seed(0)
    return compile_training(
        entry.build(),
        entry.example(),
        loss=nn.functional.cross_entropy,
        train=WANTED[network],
        optimizer=Sgd() if precision == "int8" else SgdMomentum(),
        name="net",
        immediate=immediate,
        precision="int8" if precision == "int8" else "float32",
        calibration=entry.example(8),
    )


def code(network: str, precision: str) -> str:
    return compiled(network, precision).compiled.sources["model.c"]


def function(text: str, name: str) -> list[str]:
    """The statements of a function, without comments."""
    found = re.search(rf"^static \w+ {name}\([^{{]*\)\n{{\n(.*?)^}}", text, re.MULTILINE | re.DOTALL)
    assert found is not None, name
    body = re.sub(r"/\*.*?\*/", "", found[1])
    return [line.strip() for line in body.splitlines() if line.strip() and not line.strip().startswith("(void)")]


@EVERY_CASE
def test_every_step_is_a_function_named_after_the_users_module(network: str, precision: str) -> None:
    text = code(network, precision)
    model = compiled(network, precision)
    modules = {name.replace(".", "_") for name, one in ZOO[network].build().named_modules() if not list(one.children())}
    functions = re.findall(r"^static void (layer_\w+)\(", text, re.MULTILINE)
    training = model.compiled.training
    assert training is not None
    assert len(functions) == len(training.steps)
    for step, name in zip(training.steps, functions, strict=True):
        assert name == "layer_" + re.sub(r"\W", "_", step.name)
    convolutions = {name for name in modules if name.endswith("conv") or name.startswith(("linear", "classifier"))}
    assert convolutions <= {name.removeprefix("layer_") for name in functions}


@EVERY_CASE
def test_one_function_per_region_runs_the_steps_in_order(network: str, precision: str) -> None:
    text = code(network, precision)
    training = compiled(network, precision).compiled.training
    assert training is not None
    order = {phase: [step.name for step in training.steps if step.phase == phase] for phase in ("forward", "backward")}
    for phase, steps in order.items():
        calls = [line.split("(")[0] for line in function(text, f"train_{phase}") if line.startswith("layer_")]
        assert calls == ["layer_" + re.sub(r"\W", "_", name) for name in steps]
    assert "train_update" not in text, "every gradient is consumed at once"
    at_end = compiled(network, precision, False).compiled
    assert at_end.training is not None
    updates = [line for line in function(at_end.sources["model.c"], "train_update") if line.startswith("layer_")]
    assert len(updates) == sum(step.phase == "update" for step in at_end.training.steps) > 0


@EVERY_CASE
def test_weights_are_constants_unless_they_are_trained(network: str, precision: str) -> None:
    text, program = code(network, precision), compiled(network, precision).program
    declarations = re.findall(r"^(static(?: const)? \w+) (\w+)\[\d+\]", text, re.MULTILINE)
    arrays = {name: declared for declared, name in declarations}
    changing = {name for name, declared in arrays.items() if not declared.startswith("static const")}
    assert len(changing) == len(program.of_kind("parameter", "state"))
    for tensor in program.of_kind("parameter", "state"):
        label = f"{tensor.kind}_" + re.sub(r"\W", "_", tensor.name)
        assert label in changing
        begins = tensor.value is not None and bool(tensor.value.any())
        assert (f"{label}_initial" in arrays) == begins, "what starts at zero takes no flash"
    frozen = {f"{name}.weight" for name in ("linear1", "stem.conv")} - set(WANTED[network])
    for name in frozen & {tensor.name for tensor in program.of_kind("constant")}:
        assert arrays["constant_" + name.replace(".", "_")].startswith("static const")


@EVERY_CASE
def test_the_header_states_the_plan_and_how_to_call(network: str, precision: str) -> None:
    model = compiled(network, precision).compiled
    header = model.sources["model.h"]
    training = model.training
    assert training is not None
    for buffer in training.buffers:
        life = rf"{buffer.first} \.\. {buffer.last} +{re.escape(buffer.name)}$"
        assert re.search(rf"^ \* +{buffer.offset} +{buffer.size} +{life}", header, re.MULTILINE), buffer
    for variable in training.variables:
        assert re.search(rf"^ \* +{variable.size_bytes}  {re.escape(variable.name)}, ", header, re.MULTILINE)
    phases = [
        f"{phase} {sum(step.phase == phase for step in training.steps)} steps, {training.macs(phase)} MACs"
        for phase in ("forward", "backward")
    ]
    assert f"training: {'; '.join(phases)}" in header
    assert f"arena {training.arena_bytes} bytes, most bytes live at once {training.lower_bound_bytes}" in header
    assert f"{len(training.variables)}, {training.variables_bytes} bytes of RAM besides the arena" in header
    for call in ("lab_training_reset(", "->forward(", "->backward(", "->update(", "lab_model.infer(", "learning_rate"):
        assert call in header
    sizes = dict(re.findall(r"#define LAB_MODEL_(\w+)_BYTES (\d+)u", header))
    assert {name: int(size) for name, size in sizes.items()} == {
        "ARENA": model.arena_bytes,
        "INPUT": model.input.size,
        "OUTPUT": model.output.size,
        "TARGET": 4,
    }


@needs_host_compiler
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@EVERY_CASE
def test_compilers_take_it_without_a_warning(compiler: str, network: str, precision: str, tmp_path: Path) -> None:
    for name, text in compiled(network, precision).compiled.sources.items():
        (tmp_path / name).write_text(text)
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wunused-macros", "-fsyntax-only"]
    done = subprocess.run(
        [compiler, *flags, f"-I{RUNTIME}", str(tmp_path / "model.c")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


class Awkward(nn.Module):
    """Names that clash as C identifiers, and one that would end a comment."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.add_module("a_b", nn.Linear(4, 4))
        self.add_module("a", nn.Sequential())
        self.a.add_module("b", nn.Linear(4, 4))
        self.add_module("*/ x", nn.Linear(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return getattr(self, "*/ x")(self.a.b(self.a_b(x)))  # type: ignore[no-any-return]


@needs_host_compiler
def test_names_that_clash_or_end_comments_still_compile(tmp_path: Path) -> None:
    model = compile_training(
        Awkward(),
        torch.zeros(1, 4),
        loss=nn.functional.mse_loss,
        train=lambda name, _: True,
        optimizer=Sgd(),
    ).compiled
    for name, text in model.sources.items():
        (tmp_path / name).write_text(text)
    assert len(set(re.findall(r"^static void (layer_\w+)\(", model.sources["model.c"], re.MULTILINE))) > 3
    done = subprocess.run(
        ["gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{RUNTIME}", str(tmp_path / "model.c")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
