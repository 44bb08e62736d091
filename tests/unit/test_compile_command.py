"""``lab compile``: the table against PyTorch's own counts, the files it writes, and one message for each bad input."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from helpers.tflite_builder import Operator, Tensor, write
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lab.cli import main
from lab.commands.compile_network import Options, Outcome, compile_model, optimizer_of, report_lines
from lab.commands.compile_source import BIAS, EVERYTHING, LAST, identifier, selected
from lab.compiler.channels import Channels
from lab.compiler.layer_rows import CALLERS, LOSS_ROW, ROOT_ROW, LayerRow, layer_rows
from lab.compiler.operations.optimizer import Adam, Sgd, SgdMomentum
from lab.errors import CompileError
from lab.runtime_files import RUNTIME
from lab.workloads.networks import ZOO

pytestmark = pytest.mark.usefixtures("private_lab")

USERS = """
import torch
from torch import nn
from neighbour import CLASSES

class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = nn.Linear(6, 5), nn.Linear(6, 5), nn.Linear(5, CLASSES)

    def forward(self, x):
        return self.head(torch.relu(self.left(x)) + self.right(x))

def alone():
    return Branches()

def with_example():
    return Branches(), torch.zeros(1, 6)

def number():
    return 7

shape = 3
"""


def lab(*arguments: str) -> Result:
    """The outcome of ``lab compile …``; anything but a plain exit is a traceback for the user."""
    result = CliRunner().invoke(main, ["compile", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def refused(*arguments: str) -> str:
    """The one message of a refusal."""
    result = lab(*arguments)
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert "Traceback" not in result.output
    return result.output


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """A file of the user's, which imports its neighbour."""
    (tmp_path / "neighbour.py").write_text("CLASSES = 4\n")
    (tmp_path / "net.py").write_text(USERS)
    return tmp_path / "net.py"


def rows_of(done: Outcome) -> tuple[LayerRow, ...]:
    training = done.compiled.training
    return layer_rows(done.program, done.compiled.buffers if training is None else training.buffers)


def counted_macs(module: nn.Module, example: torch.Tensor) -> dict[str, int]:
    """Multiply-accumulates of each convolution and linear layer, by what PyTorch hands through it."""
    found: dict[str, int] = {}

    def note(name: str, layer: nn.Conv2d | nn.Linear) -> None:
        def hook(_: nn.Module, __: object, output: torch.Tensor) -> None:
            found[name] = output.numel() * layer.weight[0].numel()

        layer.register_forward_hook(hook)

    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            note(name, layer)
    with torch.no_grad():
        module.eval()(example)
    return found


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("network", ["mlp", "digits-mb-16"])
def test_macs_and_bytes_by_layer(network: str, precision: str) -> None:
    options = Options(loss="cross_entropy", precision="int8" if precision == "int8" else "float32")
    done = compile_model(network, options)
    rows = rows_of(done)
    expected = counted_macs(ZOO[network].build(), ZOO[network].example())
    assert {row.name: row.macs_forward for row in rows if row.macs_forward} == expected
    training = done.compiled.training
    assert training is not None
    assert sum(row.macs_forward for row in rows) == training.macs("forward")
    assert sum(row.macs_backward for row in rows) == training.macs("backward") + training.macs("update")
    assert sum(row.kept_bytes for row in rows) == sum(step.kept_bytes for step in training.steps)
    # The first layer hands no gradient on: its backward pass is the weight gradient alone.
    first, last = (name for name in (next(iter(expected)), list(expected)[-1]))
    backward = {row.name: row.macs_backward for row in rows}
    assert backward[first] == expected[first]
    assert backward[last] == 2 * expected[last]
    if precision == "float32":
        stored = sum(4 * value.numel() for _, value in ZOO[network].build().named_parameters())
        assert training.variables_bytes == stored
        statistics = sum(4 * value.numel() for name, value in ZOO[network].build().named_buffers() if "running" in name)
        assert sum(row.weights_bytes for row in rows) == stored + statistics


def test_what_the_outermost_module_computes_is_no_loss(users: Path) -> None:
    done = compile_model(f"{users}:with_example", Options(loss="mse_loss"))
    rows = {row.name: row for row in rows_of(done)}
    assert set(rows) == {"left", "right", "head", ROOT_ROW, LOSS_ROW}
    assert "binary" in rows[ROOT_ROW].kinds
    assert rows[LOSS_ROW].macs_forward == rows[LOSS_ROW].macs_backward == 0


@pytest.mark.parametrize("network", ["digits-mb-16", "vit"])
def test_forward_steps_are_named_after_the_layer_whose_parameters_they_read(network: str) -> None:
    program = compile_model(network, Options(loss="cross_entropy")).program
    read = [
        (step.source.module, name.rpartition(".")[0])
        for step in program.steps
        for name in step.inputs
        if step.phase == "forward" and name and program.tensors[name].kind == "parameter"
    ]
    assert read
    assert [layer for layer, owner in read if layer != owner] == []


def test_offsets_are_those_of_the_plan() -> None:
    done = compile_model("mlp", Options(loss="cross_entropy"))
    training = done.compiled.training
    assert training is not None
    rows = rows_of(done)
    by_name = {buffer.name: buffer.offset for buffer in training.buffers}
    # The activations are fused into the layers; the last one writes the caller's output.
    places = {"linear1": by_name["relu1"], "linear2": by_name["relu2"], "linear3": None}
    assert {row.name: row.offset for row in rows if row.name != LOSS_ROW} == places
    assert next(line for line in report_lines(done) if line.startswith("linear3")).endswith(CALLERS)
    lines = report_lines(done)
    ratio = training.arena_bytes / training.lower_bound_bytes
    assert any(f"arena        {training.arena_bytes} bytes" in line and f"ratio {ratio:.3f}" in line for line in lines)
    assert any(str(training.variables_bytes) in line for line in lines if line.startswith("variables"))
    total = next(line for line in lines if line.startswith("total"))
    assert [int(text) for text in re.findall(r"\d+", total)] == [
        sum(getattr(row, name) for row in rows)
        for name in ("macs_forward", "macs_backward", "weights_bytes", "activation_bytes", "kept_bytes")
    ]


def test_the_folder_holds_all_that_the_code_needs(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    result = lab("mlp", "--loss", "cross-entropy", "--train", "last", "--output", str(folder))
    assert result.exit_code == 0, result.output
    assert f"written: {folder}" in result.output
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"model.c", "model.h", "arena.svg", "runtime/lab_model.h", "runtime/lab_training.c"} <= written
    assert "runtime/lab_depthwise_conv2d.c" not in written, "the model has no such layer"
    for path in (folder / "runtime").rglob("*.[ch]"):
        assert path.read_bytes() == (RUNTIME / path.relative_to(folder / "runtime")).read_bytes()
        for header in re.findall(r'^\s*#include "([^"]+)"', path.read_text(), re.MULTILINE):
            assert (path.parent / header).is_file() or (folder / "runtime" / header).is_file(), f"{path}: {header}"
    drawing = ElementTree.parse(folder / "arena.svg").getroot()
    assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
    assert "linear3" in ElementTree.tostring(drawing, encoding="unicode")
    again = tmp_path / "again"
    lab("mlp", "--loss", "cross-entropy", "--train", "last", "--output", str(again))
    assert (again / "model.c").read_bytes() == (folder / "model.c").read_bytes()


def test_what_is_trained_when(users: Path) -> None:
    model = f"{users}:with_example"
    at_once = compile_model(model, Options(loss="mse_loss", train=("head.*", "left.bias")))
    at_end = compile_model(model, Options(loss="mse_loss", train=("head.*", "left.bias"), at_end=True))
    for done in (at_once, at_end):
        assert done.compiled.training is not None
        names = {variable.name for variable in done.compiled.training.variables}
        assert names == {"head.weight", "head.bias", "left.bias"}
    assert not any(step.phase == "update" for step in at_once.schedule.steps)
    assert sum(step.phase == "update" for step in at_end.schedule.steps) == 3
    assert at_once.schedule.arena_bytes <= at_end.schedule.arena_bytes


def test_a_share_of_the_channels_is_trained() -> None:
    assert selected(["*.weight@inputs=0.5", "last"], ["a.weight", "a.bias", "b.weight", "b.bias"]) == {
        "a.weight": Channels(inputs=0.5), "b.weight": None, "b.bias": None,
    }  # fmt: skip
    quarter = {"a.weight": Channels(outputs=0.25), "a.bias": None}
    assert selected(["all@outputs=0.25"], ["a.weight", "a.bias"]) == quarter
    whole, half = (
        compile_model("mlp", Options(loss="cross_entropy", train=(f"linear2.weight{share}", "last")))
        for share in ("", "@inputs=0.5")
    )
    backward = [next(row.macs_backward for row in rows_of(one) if row.name == "linear2") for one in (whole, half)]
    # Nothing before the layer is trained: its backward pass is the weight gradient alone.
    assert backward == [64 * 64, 64 * 32]
    assert half.schedule.arena_bytes <= whole.schedule.arena_bytes


def test_recomputing_makes_the_arena_smaller() -> None:
    plain = compile_model("digits-mb-16", Options(loss="cross_entropy", train=("last", "block1.*")))
    wanted = plain.schedule.arena_bytes - 1024
    options = Options(loss="cross_entropy", train=("last", "block1.*"), recompute_bytes=wanted)
    assert compile_model("digits-mb-16", options).schedule.arena_bytes < plain.schedule.arena_bytes


def test_a_function_with_or_without_an_example(users: Path) -> None:
    named = lab(f"{users}:with_example", "--loss", "mse")
    assert named.exit_code == 0, named.output
    assert named.output.startswith("with_example: float32 training by SGD")
    shaped = lab(f"{users}:alone", "--input-shape", "6", "--batch", "3", "--loss", "mse", "--optimizer", "adam")
    assert shaped.exit_code == 0, shaped.output
    assert "Adam(" in shaped.output
    assert "batch 3" in shaped.output


def test_inference_is_int8_and_takes_calibration(users: Path, tmp_path: Path) -> None:
    assert "int8 inference" in lab("digits-mb-16").output
    data = tmp_path / "inputs.npy"
    np.save(data, np.random.default_rng(0).normal(size=(16, 6)))
    result = lab(f"{users}:with_example", "--calibration", str(data))
    assert result.exit_code == 0, result.output
    assert "int8 inference" in result.output
    assert "variables" not in result.output


def test_a_model_file_is_compiled_and_not_trained(tmp_path: Path) -> None:
    weights = np.eye(4, dtype=np.int8)
    tensors = [
        Tensor("input", (1, 4), scales=(0.1,), zero_points=(0,)),
        Tensor("weights", (4, 4), scales=(0.1,), zero_points=(0,), value=weights),
        Tensor("bias", (4,), "int32", scales=(0.01,), zero_points=(0,), value=np.zeros(4, np.int32)),
        Tensor("output", (1, 4), scales=(0.1,), zero_points=(0,)),
    ]
    path = tmp_path / "my-model.tflite"
    path.write_bytes(write(tensors, [Operator("FULLY_CONNECTED", (0, 1, 2), (3,))], (0,), (3,)))
    result = lab(str(path))
    assert result.exit_code == 0, result.output
    assert result.output.startswith("my_model: int8 inference, 1 steps")
    assert "a model file: it can be run, not trained" in refused(str(path), "--loss", "mse")
    assert "has its own shapes" in refused(str(path), "--input-shape", "4")
    assert "cannot be read" in refused(str(tmp_path / "absent.onnx"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("mlpp",), ("MODEL is 'mlpp'", "did you mean 'mlp'", "path/to/file.py:function")),
        (("absent.py:net",), ("there is no file absent.py",)),
        (("mlp", "--train", "last"), ("--train is for training", "--loss")),
        (("mlp", "--at-end"), ("--at-end is for training",)),
        (("mlp", "--precision", "float32"), ("--precision float32 is for training",)),
        (("mlp", "--loss", "mse", "--train", "linear4.*"), ("'linear4.*' names no parameter", "linear1.weight")),
        (("mlp", "--loss", "mse", "--train", "last@inputs=2"), ("'inputs=2' is no share of channels", "@inputs=0.5")),
        (("mlp", "--loss", "mse", "--train", "last@rows=0.5"), ("'rows=0.5' is no share of channels",)),
        (("mlp", "--loss", "mse", "--optimizer", "sdg"), ("--optimizer is 'sdg'", "sgd, momentum, adam, adamw")),
        (("mlp", "--loss", "mse", "--optimizer", "adam:beta3=1"), ("no setting 'beta3'", "beta1, beta2")),
        (("mlp", "--loss", "mse", "--optimizer", "sgd:weight_decay=x"), ("'weight_decay=x' has no number",)),
        (("mlp", "--loss", "mse", "--optimizer", "adam:beta1=1"), ("beta1 is 1.0",)),
        (("mlp", "--loss", "mse", "--arena-limit", "100"), ("training needs an arena of", "100 bytes are allowed")),
        (("mlp", "--arena-limit", "many"), ("'many' is not a size",)),
        (("mlp", "--input-shape", "3,x"), ("--input-shape is '3,x'", "1,28,28")),
        (("mlp", "--loss", "mse", "--input-shape", "64"), ("--input-shape is 64; mlp takes 1,8,8",)),
        (("mlp", "--batch", "2"), ("--batch is for training",)),
        (("mlp", "--device", "m4f", "--arena-limit", "1"), ("--device and --arena-limit",)),
        (("mlp", "--device", "m4g"), ("m4g",)),
        (("mlp", "--name", "no name"), ("is not a C identifier",)),
        (("mlp", "--calibration", "absent.npy"), ("calibration data absent.npy cannot be read",)),
        (("mlp", "--loss", "mse", "--precision", "int8", "--optimizer", "adam"), ("SGD without momentum",)),
    ],
)
def test_bad_input_is_refused_by_name(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    message = refused(*arguments)
    for word in words:
        assert word in message


def test_a_users_file_that_does_not_work_is_named(users: Path) -> None:
    assert "has no function 'nothing'" in refused(f"{users}:nothing", "--loss", "mse")
    assert "with_example" in refused(f"{users}:nothing", "--loss", "mse")
    assert "has no function 'shape'" in refused(f"{users}:shape", "--loss", "mse")
    assert "returned int" in refused(f"{users}:number", "--loss", "mse")
    assert "--input-shape" in refused(f"{users}:alone", "--loss", "mse")
    assert "needs calibration data" in refused(f"{users}:with_example")
    for option, value in (("--batch", "2"), ("--input-shape", "7")):
        assert "returned an example of shape 1,6" in refused(f"{users}:with_example", "--loss", "mse", option, value)
    (users.parent / "broken.py").write_text("def net(:\n")
    assert "broken.py is no valid Python: line 1" in refused(f"{users.parent / 'broken.py'}:net")
    (users.parent / "lonely.py").write_text("import a_package_nobody_has\n")
    assert "a_package_nobody_has" in refused(f"{users.parent / 'lonely.py'}:net")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 6), np.int8), "holds int8"),
        (np.full((3, 6), np.nan, np.float32), "NaN or infinite"),
        (np.zeros((3, 7), np.float32), "the example is"),
    ],
)
def test_calibration_that_does_not_fit_is_refused(
    users: Path, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], words: str
) -> None:
    path = users.parent / "inputs.npy"
    np.save(path, array)
    assert words in refused(f"{users}:with_example", "--calibration", str(path), "--loss", "mse", "--precision", "int8")


def test_what_does_not_fit_the_device_is_refused_with_its_bytes() -> None:
    message = refused("digits-mb-64", "--loss", "cross-entropy", "--device", "m4f")
    assert "training needs an arena of" in message
    assert "<- largest" in message


NAMES = st.lists(
    st.from_regex(r"[ab]{1,2}(\.[ab]){0,2}\.(weight|bias)", fullmatch=True), min_size=1, max_size=8, unique=True
)


@given(NAMES, st.lists(st.sampled_from([EVERYTHING, LAST, BIAS, "a*", "*.weight", "b.?.bias"]), min_size=1, max_size=3))
def test_patterns_choose_names_in_order(names: list[str], patterns: list[str]) -> None:
    owner = names[-1].rsplit(".", 1)[0]
    means = {
        EVERYTHING: lambda _: True,
        LAST: lambda name: name.rsplit(".", 1)[0] == owner,
        BIAS: lambda name: name.endswith(".bias"),
    }
    sets = [
        {name for name in names if means.get(one, lambda name, one=one: fnmatch(name, one))(name)} for one in patterns
    ]
    if all(sets):
        expected = [name for name in names if any(name in one for one in sets)]
        assert list(selected(patterns, names)) == expected
        assert list(selected([",".join(patterns)], names).items()) == [(name, None) for name in expected]
    else:
        with pytest.raises(CompileError, match="names no parameter"):
            selected(patterns, names)


def test_optimisers_by_text() -> None:
    assert optimizer_of("sgd:weight_decay=0.5") == Sgd(weight_decay=0.5)
    assert optimizer_of("momentum:nesterov=1,momentum=0.8") == SgdMomentum(0.8, nesterov=True)
    assert optimizer_of("adam:beta1=0.5") == Adam(beta1=0.5)
    assert optimizer_of("adamw") == Adam(weight_decay=torch.optim.AdamW([torch.zeros(1)]).defaults["weight_decay"],
                                         decoupled=True)  # fmt: skip


@given(st.text(max_size=12))
def test_any_name_makes_an_identifier(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", identifier(name))
