"""Networks of the user's own: a .pt2 file is read as data, built anew, and nothing in it is run."""

from __future__ import annotations

import copy
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from lab.errors import ConfigError
from lab.workloads.networks.evaluation import exported
from lab.workloads.networks.own import Own, load, matching

MODEL = "models/model.json"


class Branches(nn.Module):
    """Convolutions with and without norms behind them, a sum, pools, and a reshape that names its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.depthwise = nn.Conv2d(4, 4, 3, padding="same", groups=4, bias=False)
        self.norm, self.alone = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.drop, self.last = nn.Dropout(), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = torch.relu(x + self.norm(self.depthwise(x)))
        x = functional.hardtanh(self.alone(functional.max_pool2d(x, 2)), 0.0, 6.0)
        x = functional.adaptive_avg_pool2d(x, 2)
        answer: torch.Tensor = self.last(self.drop(x.view(x.shape[0], -1)))
        return answer


@cache
def branches() -> Branches:
    torch.manual_seed(3)
    made = Branches().eval()
    for one in (made.norm, made.alone):
        nn.init.normal_(one.running_mean if one.running_mean is not None else torch.empty(0))
        nn.init.uniform_(one.weight, 0.5, 2)
    return made


@cache
def saved() -> bytes:
    return exported(branches(), torch.randn(1, 2, 8, 8))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    (tmp_path / "networks").mkdir()
    return tmp_path / "networks"


def put(folder: Path, content: bytes) -> Own:
    (folder / "mine.pt2").write_bytes(content)
    return load("mine")


def changed(change: Callable[[str, bytes], bytes]) -> bytes:
    """The saved network with its entries changed; ``change`` is given each without the folder in front."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved())) as source, zipfile.ZipFile(target, "w") as made:
        for one in source.infolist():
            made.writestr(one.filename, change(one.filename.partition("/")[2], source.read(one)))
    return target.getvalue()


def in_json(entry: str, change: Callable[[dict[str, object]], object]) -> bytes:
    """The saved network with one JSON entry changed in place."""

    def one(name: str, content: bytes) -> bytes:
        if name != entry:
            return content
        document = json.loads(content)
        change(document)
        return json.dumps(document).encode()

    return changed(one)


def test_the_network_answers_as_the_exported_one_and_can_be_trained(folder: Path) -> None:
    own, x = put(folder, saved()), torch.randn(5, 2, 8, 8)
    assert (own.input_shape, own.outputs) == ((2, 8, 8), 3)
    torch.testing.assert_close(own.network(x), branches()(x), atol=1e-5, rtol=1e-5)
    layers = [one for one in own.network.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    assert [type(one) for one in layers] == [nn.Conv2d, nn.Conv2d, nn.Linear]
    norms = [one for one in own.network.modules() if isinstance(one, nn.BatchNorm2d)]
    assert len(norms) == 1, "the norm right behind a convolution is folded into it"
    own.network(x).sum().backward()
    assert all(one.weight.grad is not None and one.bias is not None and one.bias.grad is not None for one in layers)
    copied = copy.deepcopy(own.network)
    torch.testing.assert_close(copied(x), own.network(x))
    with pytest.raises(ConfigError, match=r"takes a sample of the shape \(2, 8, 8\); the data's is \(1, 4, 4\)"):
        matching("mine", (1, 4, 4), 3)
    with pytest.raises(ConfigError, match="yields 3 values a sample; the data have 4 classes"):
        matching("mine", (2, 8, 8), 4)


class Touch:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_pickles_in_a_file_are_never_read(folder: Path) -> None:
    mark = folder / "mark"
    bomb = pickle.dumps(Touch(mark))

    def poisoned(name: str, content: bytes) -> bytes:
        return bomb if name.startswith("data/") and not name.endswith(".json") else content

    with pytest.raises(ConfigError, match=r"has \d+ bytes; .* takes"):
        put(folder, changed(poisoned))
    samples = changed(lambda name, content: bomb if name.startswith("data/sample_inputs") else content)
    assert put(folder, samples).outputs == 3
    marked = changed(lambda name, content: content.replace(b'"use_pickle": false', b'"use_pickle": true'))
    with pytest.raises(ConfigError, match="is pickled, and a pickle can run code"):
        put(folder, marked)
    assert not mark.exists()
    act, given = Touch(mark).__reduce__()
    act(*given)
    assert mark.exists(), "what the pickle would have done"


def nodes(document: dict[str, object]) -> list[dict[str, object]]:
    found = document["graph_module"]["graph"]["nodes"]  # type: ignore[index]
    assert isinstance(found, list)
    return found


def shape_of_input(document: dict[str, object]) -> list[dict[str, object]]:
    found = document["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]  # type: ignore[index]
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda one: nodes(one)[0].update(target="os.system"), "the compiler has no operator os.system"),
        (lambda one: nodes(one)[0].update(target="torch.ops.aten.fft_fft.default"), "no operator aten.fft_fft.default"),
        (lambda one: nodes(one)[0].update(target="torch.ops.aten.convolution.default"), "without run_decompositions"),
        (lambda one: nodes(one)[2].update(inputs=[{"kind": 1, "arg": {"as_sym_int": "x"}}]), "shapes must be fixed"),
        (lambda one: nodes(one).pop(0), "which nothing before it computes"),
        (lambda one: nodes(one).__setitem__(0, {}), "where a name should be stands None"),
        (lambda one: one.update(schema_version={"major": 9}), "of version 9 of the format"),
        (lambda one: nodes(one).extend(nodes(one)[:1] * 2000), "at most 1024 are read"),
        (lambda one: one["graph_module"]["graph"].update(outputs=[]), "it returns 0 values"),
        (lambda one: shape_of_input(one)[2].update(as_int=1 << 40), "of the shape (1, 2, 1099511627776, 8)"),
        (lambda one: shape_of_input(one)[1].update(as_int=3), "its calls do not fit together"),
        (lambda one: shape_of_input(one)[2].update(as_int=1 << 19), "at most 16777216 are allowed"),
    ],
)  # fmt: skip
def test_what_is_no_plain_network_is_refused(
    folder: Path, change: Callable[[dict[str, object]], object], told: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        put(folder, in_json(MODEL, change))
    assert told in str(refused.value)
    assert "torch.export.save" in (refused.value.hint or "")


def test_what_is_no_file_of_export_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"mine\.pt2 cannot be read"):
        load("mine")
    with pytest.raises(ConfigError, match=r"no file of torch\.export\.save"):
        put(folder, b"PK nothing")
    with pytest.raises(ConfigError, match=r"no file of torch\.export\.save|cannot be used"):
        put(folder, saved()[: len(saved()) // 2])
    training = exported(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.randn(3, 1, 2, 2))
    with pytest.raises(ConfigError, match=r"shape \(3, 1, 2, 2\); .* an example of one sample"):
        put(folder, training)
