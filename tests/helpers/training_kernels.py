"""The kernels of training, called one by one on the host: descriptors as their headers declare them, guarded memory."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lab.compiler.host import RUNTIME, TRAP_UNDEFINED, build_shared_library

Float: TypeAlias = npt.NDArray[np.float32]
Int8: TypeAlias = npt.NDArray[np.int8]
Int32: TypeAlias = npt.NDArray[np.int32]
Array: TypeAlias = Float | Int8 | Int32
Field: TypeAlias = "int | float | Array | Mapping[str, Field]"

GUARD_BYTES = 64
_SCALARS: Mapping[str, type[ctypes.c_int32] | type[ctypes.c_float]] = {
    "int32_t": ctypes.c_int32,
    "float": ctypes.c_float,
}
_OWN = re.compile(r"lab_(q_|f32_(matmul|conv2d|depthwise|channel|tile|sink|product|gather|weight_taps|vector))")
_STRUCT = re.compile(r"typedef struct \{(.*?)\} (\w+);", re.DOTALL)
_ALIAS = re.compile(r"typedef (\w+_t) (\w+_t);")
_FIELD = re.compile(r"(const )?(\w+) (\*?)([\w, ]+);")
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


class State(ctypes.Structure):
    """``lab_training_state_t``."""

    _fields_ = (("learning_rate", ctypes.c_float), ("step", ctypes.c_uint32), ("random", ctypes.c_uint32))


def sources() -> list[Path]:
    """The runtime's files that train."""
    return sorted(path for path in RUNTIME.glob("lab_*.c") if _OWN.match(path.stem))


def descriptor_type(name: str, header: str) -> type[ctypes.Structure]:
    """A struct as declared in a header, or in the header it is an alias from."""
    text = _COMMENT.sub("", (RUNTIME / f"{header}.h").read_text())
    structs = {found.group(2): found.group(1) for found in _STRUCT.finditer(text)}
    aliases = {found.group(2): found.group(1) for found in _ALIAS.finditer(text)}
    if name in aliases:
        return descriptor_type(aliases[name], aliases[name].removesuffix("_t"))
    fields: list[tuple[str, type]] = []
    for _, kind, pointer, names in _FIELD.findall(structs[name]):
        for field in names.split(", "):
            if pointer:
                fields.append((field, ctypes.c_void_p))
            elif kind in _SCALARS:
                fields.append((field, _SCALARS[kind]))
            else:
                fields.append((field, descriptor_type(kind, kind.removesuffix("_t"))))
    return type(name, (ctypes.Structure,), {"_fields_": fields})


def descriptor(kernel: str, fields: Mapping[str, Field]) -> ctypes.Structure:
    """The kernel's descriptor; every field must be given. Arrays must outlive it."""
    return _filled(descriptor_type(f"{kernel}_t", kernel), fields)


def _filled(kind: type[ctypes.Structure], fields: Mapping[str, Field]) -> ctypes.Structure:
    declared = {field[0]: field[1] for field in kind._fields_}
    if declared.keys() != fields.keys():
        raise ValueError(f"{kind.__name__} has the fields {sorted(declared)}, not {sorted(fields)}")
    made = kind()
    for name, value in fields.items():
        if isinstance(value, np.ndarray):
            setattr(made, name, value.ctypes.data)
        elif isinstance(value, Mapping):
            setattr(made, name, _filled(declared[name], value))
        else:
            setattr(made, name, value)
    return made


class Guarded:
    """A copy of an array with bytes around it that nobody may change."""

    def __init__(self, array: Array) -> None:
        self._array = array
        self._memory = np.full(array.nbytes + 2 * GUARD_BYTES, 0xA5, dtype=np.uint8)
        self._memory[GUARD_BYTES : GUARD_BYTES + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    @property
    def address(self) -> int:
        """Where the copy lies."""
        return self._memory.ctypes.data + GUARD_BYTES

    def take_back(self) -> None:
        """Copy into the array; raises if the bytes around the copy changed."""
        inside = self._memory[GUARD_BYTES : GUARD_BYTES + self._array.nbytes]
        if not ((self._memory[:GUARD_BYTES] == 0xA5).all() and (self._memory[GUARD_BYTES + inside.size :] == 0xA5).all()):
            raise MemoryError("a kernel wrote outside its tensors")
        self._array[...] = inside.view(self._array.dtype).reshape(self._array.shape)


class Kernels:
    """The host build."""

    def __init__(self, folder: Path, flags: Sequence[str] = ("-O2", *TRAP_UNDEFINED)) -> None:
        build_shared_library(sources(), folder / "training.so", flags=flags)
        self._library = ctypes.CDLL(str(folder / "training.so"))

    def call(
        self, kernel: str, fields: Mapping[str, Field], *arrays: Array | None, state: State | None = None
    ) -> None:
        """Call a kernel; arrays are changed in place. Raises if it wrote outside of them."""
        described = descriptor(kernel, fields)
        copies = [None if array is None else Guarded(array) for array in arrays]
        addresses = [ctypes.c_void_p(None if copy is None else copy.address) for copy in copies]
        more = [] if state is None else [ctypes.byref(state)]
        function = getattr(self._library, kernel)
        function.restype = None
        function(ctypes.byref(described), *addresses, *more)
        for copy in copies:
            if copy is not None:
                copy.take_back()
