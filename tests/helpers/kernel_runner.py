"""One kernel of ``firmware/runtime`` on the host, called with the descriptor an operation asks for.

The descriptor is laid out from the kernel's own header, so a field that is missing, misspelt or of the wrong type in
Python fails here. Every tensor lies between guards of NaN: reading outside shows in the result, writing outside is
found.
"""

from __future__ import annotations

import ctypes
import re
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache, reduce
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from lab.compiler.host import TRAP_UNDEFINED, build_shared_library, needed_sources
from lab.compiler.program import DType, Operation, Tensor, TrainingState, Update
from lab.compiler.quantized import KernelCall
from lab.runtime_files import RUNTIME

GUARD_BYTES = 64
DTYPES: dict[torch.dtype, DType] = {
    torch.float32: "float32",
    torch.int8: "int8",
    torch.uint8: "uint8",
    torch.int32: "int32",
    torch.int64: "int32",
}
Number: TypeAlias = type[ctypes.c_int32] | type[ctypes.c_uint32] | type[ctypes.c_float]
Numbers: TypeAlias = (
    type[ctypes.Array[ctypes.c_int32]] | type[ctypes.Array[ctypes.c_uint32]] | type[ctypes.Array[ctypes.c_float]]
)
C_TYPES: dict[str, Number] = {"int32_t": ctypes.c_int32, "uint32_t": ctypes.c_uint32, "float": ctypes.c_float}


class StateStruct(ctypes.Structure):
    """``lab_training_state_t``."""

    _fields_ = (("learning_rate", ctypes.c_float), ("step", ctypes.c_uint32), ("random", ctypes.c_uint32))


@cache
def kernel_library(header_file: str) -> ctypes.CDLL:
    """The file of a header's kernels and what it needs, with undefined behaviour trapped."""
    sources = needed_sources([f'#include "{header_file}"'])
    with tempfile.TemporaryDirectory(prefix="lab_kernel_") as folder:
        library = Path(folder) / "kernel.so"
        build_shared_library(sources, library, flags=("-O2", *TRAP_UNDEFINED))
        return ctypes.CDLL(str(library))


@cache
def descriptor_type(header_file: str, name: str) -> type[ctypes.Structure]:
    """A descriptor as a kernel's header declares it, or one it includes: 32-bit integers, floats, arrays of them, and
    other descriptors."""
    header = _header(header_file)
    found = re.search(r"typedef struct \{([^}]*)\} " + name + ";", header)
    if found is None:
        raise AssertionError(f"{header_file} declares no {name}")
    fields: list[tuple[str, Number | Numbers | type[ctypes.Structure]]] = []
    for declaration in filter(None, (part.strip() for part in found[1].split(";"))):
        kind, names = declaration.split(maxsplit=1)
        for field in names.split(","):
            array = re.fullmatch(r"\s*(\w+)\[(\w+)\]", field)
            if kind not in C_TYPES:
                fields.append((field.strip(), descriptor_type(header_file, kind)))
                continue
            c_type = C_TYPES[kind]
            fields.append((array[1], c_type * _number(header, array[2])) if array else (field.strip(), c_type))
    return type(name, (ctypes.Structure,), {"_fields_": fields})


def _header(file: str) -> str:
    text = re.sub(r"/\*.*?\*/", "", (RUNTIME / file).read_text(), flags=re.DOTALL)
    return "".join([*map(_header, re.findall(r'#include "(lab_\w+\.h)"', text)), text])


def _number(header: str, text: str) -> int:
    if text.isdigit():
        return int(text)
    found = re.search(rf"#define {text} (\d+)", header)
    if found is None:
        raise AssertionError(f"{text} is not defined")
    return int(found[1])


def descriptor(call: KernelCall) -> ctypes.Structure:
    """The descriptor with an operation's values; every field is given exactly once, with its own type."""
    kind = descriptor_type(call.header or f"{call.kernel}.h", call.descriptor or f"{call.kernel}_t")
    declared = dict(_declared(kind))
    given = [name for name, _ in call.fields]
    if sorted(given) != sorted(declared):
        raise AssertionError(f"{call.kernel}: the header has {sorted(declared)}, the call gives {sorted(given)}")
    made = kind()
    for name, value in call.fields:
        if isinstance(value, tuple):
            array = getattr(made, name)
            if len(array) != len(value):
                raise AssertionError(f"{call.kernel}.{name} has {len(array)} items, the call gives {len(value)}")
            array[:] = value
        else:
            if isinstance(value, float) != (declared[name] is ctypes.c_float):
                raise AssertionError(f"{call.kernel}.{name} is {declared[name].__name__}, the call gives {value!r}")
            *outer, inner = name.split(".")
            setattr(reduce(getattr, outer, made), inner, value)
    return made


def _declared(kind: type[ctypes.Structure], prefix: str = "") -> Iterator[tuple[str, type]]:
    """Every field of a descriptor, of those inside it by their path, and its type."""
    for name, c_type, *_ in kind._fields_:
        if isinstance(c_type, type) and issubclass(c_type, ctypes.Structure):
            yield from _declared(c_type, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", c_type


class Guarded:
    """Memory between guards."""

    def __init__(self, size: int) -> None:
        self.memory = np.full(size + 2 * GUARD_BYTES + 16, 0xFF, dtype=np.uint8)
        self.start = GUARD_BYTES + -(self.memory.ctypes.data + GUARD_BYTES) % 16
        self.size = size

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Guarded:
        """A tensor's elements; int64 becomes int32 as everywhere in programs."""
        value = tensor.to(torch.int32) if tensor.dtype == torch.int64 else tensor
        data = np.frombuffer(value.detach().contiguous().numpy().tobytes(), dtype=np.uint8)
        made = cls(len(data))
        made.memory[made.start : made.start + made.size] = data
        return made

    @property
    def address(self) -> int:
        """Where the elements start."""
        return int(self.memory.ctypes.data) + self.start

    def check(self) -> None:
        """Raises where a guard was written to."""
        end = self.start + self.size
        if not ((self.memory[: self.start] == 0xFF).all() and (self.memory[end:] == 0xFF).all()):
            raise AssertionError("the kernel wrote outside its tensors")

    def read(self, like: torch.Tensor) -> torch.Tensor:
        """The elements, with the shape and type of ``like``."""
        dtype = torch.int32 if like.dtype == torch.int64 else like.dtype
        data = self.memory[self.start : self.start + self.size].tobytes()
        if not data:
            return like.clone()
        return torch.frombuffer(bytearray(data), dtype=dtype).reshape(like.shape)


def described(name: str, tensor: torch.Tensor) -> Tensor:
    """The description of a tensor."""
    return Tensor(name, tuple(tensor.shape), DTYPES[tensor.dtype])


def run_kernel(
    operation: Operation,
    inputs: Sequence[torch.Tensor | None],
    results: Sequence[torch.Tensor],
    *,
    written: Sequence[int] = (),
    over: int | None = None,
    state: TrainingState | None = None,
) -> list[torch.Tensor]:
    """Run an operation's kernel.

    Args:
        operation: the operation.
        inputs: its tensors.
        results: what the reference yielded; only shapes and types are used.
        written: for updates, the input each of the first outputs is; the pointer is passed once.
        over: input whose memory the first output takes.
        state: for updates.
    """
    tensors = [None if one is None else described(f"input{i}", one) for i, one in enumerate(inputs)]
    outputs = [described(f"output{i}", one) for i, one in enumerate(results)]
    call = operation.call(tensors, outputs)
    memories = [None if one is None else Guarded.of(one) for one in inputs]
    made: list[Guarded] = []
    for index, result in enumerate(results):
        place = written[index] if index < len(written) else over if index == 0 else None
        shared = None if place is None else memories[place]
        made.append(shared if shared is not None else Guarded.of(torch.zeros_like(result)))
    pointers = [None if memory is None else memory.address for memory in memories]
    pointers += [memory.address for memory in made[len(written) :]]
    scratch = Guarded(operation.scratch_bytes(tensors, outputs))
    if call.takes_scratch:
        pointers.append(scratch.address if scratch.size else None)
    arguments: list[object] = [ctypes.byref(descriptor(call)), *(ctypes.c_void_p(one) for one in pointers)]
    if call.takes_state:
        if state is None:
            raise AssertionError("an update needs a state")
        arguments.append(ctypes.byref(StateStruct(state.learning_rate, state.step, state.random)))
    function = getattr(kernel_library(call.header or f"{call.kernel}.h"), call.kernel)
    function.restype = None
    function(*arguments)
    for memory in [*memories, *made, scratch]:
        if memory is not None:
            memory.check()
    return [memory.read(result) for memory, result in zip(made, results, strict=True)]


def check_kernel(
    operation: Operation,
    inputs: Sequence[torch.Tensor | None],
    *,
    relative: float = 1e-6,
    absolute: float = 1e-7,
) -> list[torch.Tensor]:
    """The kernel equals the operation's reference, and to the bit itself where its output takes an input's memory."""
    if isinstance(operation, Update):
        raise AssertionError("use check_update")
    expected = operation.run(inputs)
    found = run_kernel(operation, inputs, expected, over=operation.extends)
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted.to(got.dtype), rtol=relative, atol=absolute, equal_nan=True)
    for index in operation.in_place:
        shared = inputs[index] if index < len(inputs) else None
        if shared is not None and shared.numel() == expected[0].numel():
            again = run_kernel(operation, inputs, expected, over=index)
            for got, wanted in zip(again, found, strict=True):
                torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)
    return found


def check_update(
    operation: Update,
    inputs: Sequence[torch.Tensor | None],
    written: Sequence[int],
    state: TrainingState,
    *,
    relative: float = 1e-6,
    absolute: float = 1e-7,
) -> list[torch.Tensor]:
    """The kernel of an update equals its reference."""
    expected = operation.apply(inputs, state)
    found = run_kernel(operation, inputs, expected, written=written, state=state)
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=relative, atol=absolute)
    return found
