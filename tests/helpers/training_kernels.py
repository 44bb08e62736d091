"""The kernels of training, called one by one on the host: descriptors as their headers declare them, guarded memory."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lab.compiler.host import TRAP_UNDEFINED, build_shared_library
from lab.emulators.kernel_calls import descriptor_fields
from lab.runtime_files import RUNTIME

Float: TypeAlias = npt.NDArray[np.float32]
Int8: TypeAlias = npt.NDArray[np.int8]
Int32: TypeAlias = npt.NDArray[np.int32]
Array: TypeAlias = Float | Int8 | Int32
Field: TypeAlias = int | float | Array

GUARD_BYTES = 64
_KINDS: Mapping[str, type[ctypes.c_int32] | type[ctypes.c_float] | type[ctypes.c_void_p]] = {
    "int32_t": ctypes.c_int32,
    "float": ctypes.c_float,
    "*": ctypes.c_void_p,
}
_OWN = re.compile(
    r"lab_(q_|(de)?quantize|f32_(matmul|conv2d|depthwise|channel|tile|sink|product|gather|weight_taps|axpy|zeros))"
)


class State(ctypes.Structure):
    """``lab_training_state_t``."""

    _fields_ = (("learning_rate", ctypes.c_float), ("step", ctypes.c_uint32), ("random", ctypes.c_uint32))


def sources() -> list[Path]:
    """The runtime's files that train."""
    return sorted(path for path in RUNTIME.glob("lab_*.c") if _OWN.match(path.stem))


def descriptor(kernel: str, fields: Mapping[str, Field]) -> ctypes.Structure:
    """The kernel's descriptor as its header declares it, nested structs flattened (``layer.batch``).

    Every field must be given; arrays must outlive it.
    """
    declared = {name: _KINDS[kind] for name, kind in descriptor_fields(kernel)}
    if declared.keys() != fields.keys():
        raise ValueError(f"{kernel} has the fields {sorted(declared)}, not {sorted(fields)}")
    made: ctypes.Structure = type(kernel, (ctypes.Structure,), {"_fields_": list(declared.items())})()
    for name, value in fields.items():
        setattr(made, name, value.ctypes.data if isinstance(value, np.ndarray) else value)
    return made


class Guarded:
    """A copy of an array between bytes that nobody may change. As floats they are NaN: reading them shows."""

    def __init__(self, array: Array) -> None:
        self._array = array
        self._memory = np.full(array.nbytes + 2 * GUARD_BYTES, 0xFF, dtype=np.uint8)
        self._memory[GUARD_BYTES : GUARD_BYTES + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    @property
    def address(self) -> int:
        """Where the copy lies."""
        return self._memory.ctypes.data + GUARD_BYTES

    def take_back(self) -> None:
        """Copy into the array; raises if the bytes around the copy changed."""
        inside = self._memory[GUARD_BYTES : GUARD_BYTES + self._array.nbytes]
        before, after = self._memory[:GUARD_BYTES], self._memory[GUARD_BYTES + inside.size :]
        if not ((before == 0xFF).all() and (after == 0xFF).all()):
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
