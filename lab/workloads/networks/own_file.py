"""A ``.pt2`` file as plain data: its calls and its tensors, read without ``torch.export.load``. No torch in here.

``torch.export.load`` of PyTorch 2.13 runs code that a file brings: it unpickles constants and weights that are marked
so, and evaluates symbolic sizes as Python. What ``export`` writes of an ordinary network needs none of that: a JSON
text of calls, and tensors as raw bytes. These alone are read here, and everything else is refused.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lab.workloads.data.folders import Reader, Source

Float32Array: TypeAlias = npt.NDArray[np.float32]
Argument: TypeAlias = "int | float | bool | str | Value | Sequence[Argument] | None"

OWN_NETWORKS = Source(
    name="a network of your own",
    folder="networks",
    origin="trained and exported by you",
    licence="yours",
    layout="NAME.pt2, written by torch.export.save(torch.export.export(network.eval(), (example,)), 'NAME.pt2') with "
    "an example of one sample",
)
SCHEMA = 8
"""Major version of the format that this reads: what PyTorch 2.13 writes."""
MOST_BYTES = 128 << 20
MOST_CALLS = 1024
MOST_ELEMENTS = 16 << 20
FLOAT32, INT64, STRIDED = 7, 5, 7
"""Codes of the format."""
POSITIONAL = 1


class Unreadable(ValueError):
    """What a file has that is not read, in words."""


@dataclass(frozen=True)
class Value:
    """The result of a call, a tensor of the file, or the input, by its name."""

    name: str


@dataclass(frozen=True)
class Called:
    """One call.

    Attributes:
        target: ``aten.conv2d.default``.
        positional, named: arguments.
        output: name of the result.
        shape: of the result, for a batch of one.
    """

    target: str
    positional: tuple[Argument, ...]
    named: Mapping[str, Argument]
    output: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """What a file holds.

    Attributes:
        calls: in order.
        tensors: by the name that calls have for them.
        input, output: names.
        input_shape: with the batch, which is one.
    """

    calls: tuple[Called, ...]
    tensors: Mapping[str, Float32Array]
    input: str
    output: str
    input_shape: tuple[int, ...]


def find(name: str) -> tuple[Program, str]:
    """The program in ``networks/NAME.pt2`` of ``LAB_DATA``, and the file's SHA-256, hex.

    Raises:
        ConfigError: there is no such file, or as :func:`read`.
    """
    reader = Reader(OWN_NETWORKS)
    content = reader.read(f"{name}.pt2")
    try:
        return read(content), reader.digest()
    except Unreadable as error:
        raise OWN_NETWORKS.refused(f"{reader.root / name}.pt2 cannot be used: {error}") from error


def read(content: bytes) -> Program:
    """The program in a ``.pt2`` file.

    Raises:
        Unreadable: it is no such file, a damaged one, or holds more than calls and plain tensors.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return _Reader(archive).program()
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, RecursionError, json.JSONDecodeError) as error:
        raise Unreadable(f"it is no file of torch.export.save: {error}") from error


class _Reader:
    """Reads the entries of an archive.

    Raises:
        Unreadable: the archive is too large, or does not hold one model.
    """

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        if (size := sum(one.file_size for one in archive.infolist())) > MOST_BYTES:
            raise Unreadable(f"it holds {size} bytes; at most {MOST_BYTES} are read")
        models = [name for name in archive.namelist() if name.endswith(".json") and "/models/" in f"/{name}"]
        if len(models) != 1:
            raise Unreadable(f"it holds {len(models)} programs of torch.export; one is read")
        self._model = models[0]
        self._root, _, self._name = self._model.rpartition("models/")

    def program(self) -> Program:
        whole = _mapping(self._json(self._model))
        version = _at(whole, "schema_version", "major")
        if version != SCHEMA:
            raise Unreadable(
                f"it is of version {version} of the format; {SCHEMA} is read: export it by another PyTorch"
            )
        graph = _mapping(_at(whole, "graph_module", "graph"))
        shapes = {name: _shape(meta) for name, meta in _mapping(_at(graph, "tensor_values")).items()}
        stored = self._tensors("weights") | self._tensors("constants")
        tensors: dict[str, Float32Array] = {}
        inputs = []
        for spec in _items(_at(whole, "graph_module", "signature", "input_specs")):
            kind, (place, name) = _input_of(spec)
            if kind == "user_input":
                inputs.append(place)
            elif (found := stored.get(name)) is not None:
                tensors[place] = found
        if len(inputs) != 1:
            raise Unreadable(f"it takes {len(inputs)} inputs; one is read")
        nodes = _items(_at(graph, "nodes"))
        if len(nodes) > MOST_CALLS:
            raise Unreadable(f"it has {len(nodes)} calls; at most {MOST_CALLS} are read")
        calls = tuple(_called(_mapping(node), shapes) for node in nodes)
        outputs = [_text(_at(one, "as_tensor", "name")) for one in _items(_at(graph, "outputs"))]
        if len(outputs) != 1:
            raise Unreadable(f"it returns {len(outputs)} values; one is read")
        return Program(calls, tensors, inputs[0], outputs[0], _known(shapes, inputs[0]))

    def _json(self, name: str) -> object:
        try:
            found: object = json.loads(self._archive.read(name))
        except KeyError as error:
            raise Unreadable(f"it lacks {name}") from error
        return found

    def _tensors(self, kind: str) -> dict[str, Float32Array]:
        """Float tensors by their names in the module; counters, which are whole numbers, are passed over."""
        folder = f"{self._root}data/{kind}/"
        stem = self._name.removesuffix(".json")
        config = _mapping(_at(self._json(f"{folder}{stem}_{kind}_config.json"), "config"))
        found = {}
        for name, one in config.items():
            if _at(one, "use_pickle") is not False:
                raise Unreadable(
                    f"its tensor '{name}' is pickled, and a pickle can run code: plain tensors alone are read"
                )
            meta = _mapping(_at(one, "tensor_meta"))
            if meta.get("dtype") == INT64:
                continue
            found[name] = self._tensor(name, meta, f"{folder}{_text(_at(one, 'path_name'))}")
        return found

    def _tensor(self, name: str, meta: Mapping[str, object], entry: str) -> Float32Array:
        shape = _shape(meta)
        strides = [_integer(_at(one, "as_int")) for one in _items(_at(meta, "strides"))]
        dense = [math.prod(shape[place + 1 :]) for place in range(len(shape))]
        plain = meta.get("layout") == STRIDED and _at(meta, "storage_offset", "as_int") == 0
        alike = all(size == 1 or one == two for size, one, two in zip(shape, strides, dense, strict=True))
        if meta.get("dtype") != FLOAT32 or not plain or not alike:
            raise Unreadable(f"its tensor '{name}' is not one of float32 in rows: export network.float(), its "
                             "parameters contiguous")  # fmt: skip
        try:
            content = self._archive.read(entry)
        except KeyError as error:
            raise Unreadable(f"it lacks {entry}") from error
        if len(content) != 4 * math.prod(shape):
            raise Unreadable(f"its tensor '{name}' has {len(content)} bytes; {shape} takes {4 * math.prod(shape)}")
        values = np.frombuffer(content, "<f4").reshape(shape).astype(np.float32)
        if not np.isfinite(values).all():
            raise Unreadable(f"its tensor '{name}' holds values that are no numbers")
        return values


def _input_of(spec: object) -> tuple[str, tuple[str, str]]:
    """Kind of an input, its name for calls, and its name in the module."""
    ((kind, one),) = _mapping(spec).items() or (("", {}),)
    if kind == "user_input":
        return kind, (_text(_at(one, "arg", "as_tensor", "name")), "")
    named = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}
    if kind not in named:
        raise Unreadable(f"it has an input of the kind '{kind}'; parameters, buffers and one tensor are read")
    return kind, (_text(_at(one, "arg", "name")), _text(_at(one, named[kind])))


def _called(node: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]]) -> Called:
    target = _text(_at(node, "target")).removeprefix("torch.ops.")
    outputs = _items(_at(node, "outputs"))
    if len(outputs) != 1:
        raise Unreadable(f"its call of {target} has {len(outputs)} results; one is read")
    output = _text(_at(outputs[0], "as_tensor", "name"))
    positional: list[Argument] = []
    named: dict[str, Argument] = {}
    for one in _items(_at(node, "inputs")):
        value = _argument(target, _mapping(_at(one, "arg")))
        if _at(one, "kind") == POSITIONAL:
            positional.append(value)
        else:
            named[_text(_at(one, "name"))] = value
    return Called(target, tuple(positional), named, output, _known(shapes, output))


def _argument(target: str, argument: Mapping[str, object]) -> Argument:
    ((kind, value),) = argument.items() or (("", None),)
    if kind == "as_tensor":
        return Value(_text(_at(value, "name")))
    if kind == "as_tensors":
        return tuple(Value(_text(_at(one, "name"))) for one in _items(value))
    if kind in ("as_ints", "as_floats"):
        return tuple(_number(one) for one in _items(value))
    if kind in ("as_int", "as_float"):
        return _number(value)
    if kind == "as_bool":
        return bool(value)
    if kind == "as_string":
        return _text(value)
    if kind == "as_none":
        return None
    raise Unreadable(f"its call of {target} has an argument of the kind '{kind}'; tensors and plain numbers are read, "
                     "shapes must be fixed")  # fmt: skip


# ---- JSON that is what it should be ------------------------------------------------------------------------------


def _at(value: object, *names: str) -> object:
    for name in names:
        value = _mapping(value).get(name)
    return value


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise Unreadable(f"where a table should be stands {value!r:.40}")
    return value


def _items(value: object) -> list[object]:
    if not isinstance(value, list):
        raise Unreadable(f"where a list should be stands {value!r:.40}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise Unreadable(f"where a name should be stands {value!r:.40}")
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise Unreadable(f"where a whole number should be stands {value!r:.40}: shapes must be fixed")
    return value


def _number(value: object) -> int | float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise Unreadable(f"where a number should be stands {value!r:.40}")
    return value


def _shape(meta: object) -> tuple[int, ...]:
    sizes = tuple(_integer(_mapping(one).get("as_int")) for one in _items(_at(meta, "sizes")))
    if any(size < 1 for size in sizes) or math.prod(sizes) > MOST_ELEMENTS:
        raise Unreadable(f"it has a tensor of the shape {sizes}; at most {MOST_ELEMENTS} values are read")
    return sizes


def _known(shapes: Mapping[str, tuple[int, ...]], name: str) -> tuple[int, ...]:
    if name not in shapes:
        raise Unreadable(f"it does not say the shape of '{name}'")
    return shapes[name]
