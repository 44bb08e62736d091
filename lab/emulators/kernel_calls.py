"""Single kernels of ``firmware/runtime`` on an emulated core: any number of calls in one boot, with exact counts.

The image knows kernels by number only. Descriptors, tensors and scratch are placed in the memory that QEMU shares with
the host, each call is marked for the counting plug-in, and what an empty call costs is subtracted.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lab.emulators.qemu import Qemu, QemuMachine
from lab.emulators.tcg_plugin import MarkerCount
from lab.errors import CompileError, EmulatorError, ToolMissing
from lab.runtime_files import needed_sources
from lab.system_packages import install

FIRMWARE = Path(__file__).resolve().parents[2] / "firmware"
COMPILER = "arm-none-eabi-gcc"
FLAGS = ("-std=c99", "-O2", "-g", "-ffunction-sections", "-Wall", "-Wextra", "-Werror", "-Wl,--gc-sections")
EMPTY = "empty_kernel"
ARGUMENTS = 7
GUARD_BYTES = 32
GUARD = 0x5A
_CALL_BYTES = 4 * (1 + ARGUMENTS)
_HEADER_BYTES = 16
_FAULT = 0xFFFFFFFF
_ANSWER_S = 60.0
_WORDS = ("int32_t", "uint32_t", "float")

Array = npt.NDArray[np.generic]
Number = int | float | tuple[int, ...]


@dataclass(frozen=True)
class KernelArguments:
    """One call of ``kernel(&descriptor, input…, output[, scratch])``.

    Attributes:
        kernel: C function; ``<kernel>_t`` in ``<kernel>.h`` is its descriptor unless ``descriptor_of`` names another.
        arrays: what the descriptor points to, field to values.
        fields: its 32-bit fields.
        inputs: tensors, in the order of the parameters; ``None`` passes a null pointer.
        output_bytes: size of the output.
        scratch_bytes: size of the scratch; ``None`` where the kernel takes none, 0 passes a null pointer.
        descriptor_of: header and type of the descriptor.
        output_offset: bytes by which the output is out of alignment with words.
        output_before: what the output holds before the call; ``None`` for zeros.
        scratch_before: what the scratch holds before the call, such as a training state; ``None`` for the guard's byte.
    """

    kernel: str
    arrays: Mapping[str, Array]
    fields: Mapping[str, Number]
    inputs: Sequence[Array | None]
    output_bytes: int
    scratch_bytes: int | None = None
    descriptor_of: str = ""
    output_offset: int = 0
    output_before: Array | None = None
    scratch_before: Array | None = None


@dataclass(frozen=True)
class KernelResult:
    """What one call left.

    Attributes:
        output: its output.
        count: instructions, loads and stores of the call, without the call itself.
        inputs: what its inputs hold after the call, for kernels that change some of them; ``None`` for null pointers.
    """

    output: npt.NDArray[np.int8]
    count: MarkerCount
    inputs: tuple[Array | None, ...] = ()


@dataclass
class _Arena:
    """Addresses in the shared memory, handed out from its start, and what to write there."""

    cursor: int
    end: int
    writes: list[tuple[int, bytes]] = field(default_factory=list)

    def place(self, data: bytes, offset: int = 0) -> int:
        """Write data between guards at the next 16-byte boundary plus ``offset``; returns its address."""
        address = -(-(self.cursor + GUARD_BYTES) // 16) * 16 + offset
        guard = bytes([GUARD]) * GUARD_BYTES
        self.writes.append((address - GUARD_BYTES, guard + data + guard))
        self.cursor = address + len(data) + GUARD_BYTES
        if self.cursor > self.end:
            raise EmulatorError(f"the calls need {self.cursor - self.end} bytes more than the shared memory has")
        return address


def descriptor_fields(header: str) -> tuple[tuple[str, str], ...]:
    """Fields of ``<header>_t`` in order, each with its C type, which is ``*`` for pointers.

    The type may be another name of the type of an included header; fields of a nested struct are named ``outer.inner``.
    """
    text = re.sub(r"/\*.*?\*/", "", (FIRMWARE / "runtime" / f"{header}.h").read_text(), flags=re.DOTALL)
    alias = re.search(rf"typedef (\w+)_t {header}_t;", text)
    if alias is not None:
        return descriptor_fields(alias[1])
    body = re.search(rf"typedef struct \{{([^}}]*)\}} {header}_t;", text)
    if body is None:
        raise CompileError(f"{header}.h declares no {header}_t")
    found: list[tuple[str, str]] = []
    for declaration in filter(None, (part.strip() for part in body[1].split(";"))):
        kind, names = re.sub(r"^const\s+", "", declaration).split(maxsplit=1)
        for name in names.split(","):
            field_name = re.sub(r"\[\w+\]", "", name).strip(" *\n")
            if "*" in name or kind in _WORDS:
                found.append((field_name, "*" if "*" in name else kind))
            else:
                nested = descriptor_fields(kind.removesuffix("_t"))
                found += [(f"{field_name}.{inner}", inner_kind) for inner, inner_kind in nested]
    return tuple(found)


def packed(value: Number, kind: str) -> bytes:
    """A field as it lies in the descriptor."""
    if isinstance(value, tuple):
        return b"".join(packed(each, kind) for each in value)
    return struct.pack("<f", value) if kind == "float" else struct.pack("<I", int(value) & 0xFFFFFFFF)


def build_image(board: str, kernels: Sequence[str], folder: Path, cpu_flags: Sequence[str] | None = None) -> Path:
    """Build the image that calls ``kernels`` on a board; returns the ELF.

    Args:
        board: a folder of ``firmware/boards``.
        kernels: C functions, each in its own file of the runtime.
        folder: receives the image.
        cpu_flags: instead of the board's own.

    Raises:
        ToolMissing: no compiler.
        CompileError: the compiler refused; carries its words.
    """
    if shutil.which(COMPILER) is None:
        raise ToolMissing(f"{COMPILER} is not installed", hint=install("gcc-arm-none-eabi"))
    board_dir = FIRMWARE / "boards" / board
    described = re.search(r"^set\(LAB_CPU_FLAGS\s+(.*?)\)$", (board_dir / "board.cmake").read_text(), re.MULTILINE)
    if described is None:
        raise CompileError(f"{board} has no LAB_CPU_FLAGS in its board.cmake: it is no microcontroller")
    declared = "".join(f"void {kernel}(void);\n" for kernel in kernels)
    entries = "".join(f"    (kernel_t){kernel},\n" for kernel in kernels)
    table = folder / "kernels.c"
    table.write_text(
        f"{declared}static void {EMPTY}(void)\n{{\n}}\ntypedef void (*kernel_t)(void);\n"
        f"extern const kernel_t kernels[];\nconst kernel_t kernels[] = {{\n    (kernel_t){EMPTY},\n{entries}}};\n"
    )
    runtime = needed_sources(f'#include "{kernel}.h"' for kernel in kernels)
    elf = folder / "kernel_calls.elf"
    command: list[str | Path] = [COMPILER, *(described[1].split() if cpu_flags is None else cpu_flags), *FLAGS]
    command += ["-I", FIRMWARE / "runtime", "-I", board_dir, "--specs=nano.specs", "-nostartfiles"]
    command += ["-L", FIRMWARE / "boards" / "common", "-T", board_dir / "link.ld", "-o", elf]
    command += [table, FIRMWARE / "kernel_calls" / "main.c", *runtime, "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompileError(f"{COMPILER} refused the kernels:\n{done.stderr}")
    return elf


class KernelCore:
    """A running core that calls kernels; a context manager.

    Args:
        machine: what QEMU emulates; must share memory with the host.
        board: its folder in ``firmware/boards``.
        kernels: C functions that will be called.
        plugin: the counting plug-in.
        cpu_flags: compiler flags instead of the board's own.
    """

    def __init__(
        self,
        machine: QemuMachine,
        board: str,
        kernels: Sequence[str],
        plugin: Path,
        cpu_flags: Sequence[str] | None = None,
    ) -> None:
        self._machine, self._numbers = machine, {name: index for index, name in enumerate((EMPTY, *kernels))}
        with tempfile.TemporaryDirectory() as folder:
            elf = build_image(board, kernels, Path(folder), cpu_flags)
            self._qemu = Qemu(machine, elf, plugin=plugin)
            self._qemu.start()
        self._ticket = 0
        self._marks = 0

    def __enter__(self) -> KernelCore:
        self._qemu.release()
        return self

    def __exit__(self, *_: object) -> None:
        self._qemu.stop()

    def run(self, calls: Sequence[KernelArguments]) -> list[KernelResult]:
        """Run all calls, one after the other.

        Raises:
            EmulatorError: a kernel faulted, did not end or wrote outside its output and scratch, or the calls do not
                fit the shared memory.
        """
        base, size = self._machine.shared_address, self._machine.shared_bytes
        arena = _Arena(base + _HEADER_BYTES + _CALL_BYTES * (len(calls) + 1), base + size)
        rows = [struct.pack(f"<{1 + ARGUMENTS}I", self._numbers[EMPTY], *([0] * ARGUMENTS))]
        outputs: list[int] = []
        scratches: list[int] = []
        for call in calls:
            row, output, scratch = self._place(arena, call)
            rows.append(row)
            outputs.append(output)
            scratches.append(scratch)
        arena.writes.append((base + _HEADER_BYTES, b"".join(rows)))
        for address, data in arena.writes:
            self._qemu.write_memory(address, data)
        self._execute(len(rows))
        for call, output, scratch in zip(calls, outputs, scratches, strict=True):
            self._check_guards(call, output, call.output_bytes, "output")
            if call.scratch_bytes:
                self._check_guards(call, scratch, call.scratch_bytes, "scratch")
        inputs = [self._read_inputs(call, row) for call, row in zip(calls, rows[1:], strict=True)]
        counts = self._counts(len(rows))
        results = [np.frombuffer(self._qemu.read_memory(at, call.output_bytes), np.int8) for at, call in
                   zip(outputs, calls, strict=True)]  # fmt: skip
        return [
            KernelResult(output, count.since(counts[0]), after)
            for output, count, after in zip(results, counts[1:], inputs, strict=True)
        ]

    def _read_inputs(self, call: KernelArguments, row: bytes) -> tuple[Array | None, ...]:
        """What the inputs of a placed call hold now; their addresses follow kernel and descriptor."""
        found: list[Array | None] = []
        for array, address in zip(call.inputs, struct.unpack(f"<{1 + ARGUMENTS}I", row)[2:], strict=False):
            if array is None:
                found.append(None)
                continue
            self._check_guards(call, address, array.nbytes, "inputs")
            data = self._qemu.read_memory(address, array.nbytes)
            found.append(np.frombuffer(data, array.dtype).reshape(array.shape))
        return tuple(found)

    def _place(self, arena: _Arena, call: KernelArguments) -> tuple[bytes, int, int]:
        descriptor = b""
        for name, kind in descriptor_fields(call.descriptor_of or call.kernel):
            value = arena.place(call.arrays[name].tobytes()) if kind == "*" else call.fields[name]
            descriptor += packed(value, kind)
        arguments = [arena.place(descriptor)]
        for array in call.inputs:
            arguments.append(0 if array is None else arena.place(np.ascontiguousarray(array).tobytes()))
        before = bytes(call.output_bytes) if call.output_before is None else call.output_before.tobytes()
        output = arena.place(before, call.output_offset)
        arguments.append(output)
        scratch = 0
        if call.scratch_bytes is not None:
            guard = bytes([GUARD]) * call.scratch_bytes
            filled = guard if call.scratch_before is None else call.scratch_before.tobytes()
            scratch = arena.place(filled) if filled else 0
            arguments.append(scratch)
        arguments += [0] * (ARGUMENTS - len(arguments))
        return struct.pack(f"<{1 + ARGUMENTS}I", self._numbers[call.kernel], *arguments), output, scratch

    def _execute(self, count: int) -> None:
        base = self._machine.shared_address
        self._ticket += 1
        self._qemu.write_memory(base + 8, struct.pack("<I", count))
        self._qemu.write_memory(base, struct.pack("<I", self._ticket))
        deadline = time.monotonic() + _ANSWER_S
        while (answer := struct.unpack("<I", self._qemu.read_memory(base + 4, 4))[0]) != self._ticket:
            self._qemu.check_alive()
            if answer == _FAULT:
                raise EmulatorError("a kernel took a fault; its registers: " + str(dict(self._qemu.registers())))
            if time.monotonic() > deadline:
                raise EmulatorError(f"the kernels did not end within {_ANSWER_S:.0f} s")
            time.sleep(0.001)

    def _check_guards(self, call: KernelArguments, address: int, size: int, what: str) -> None:
        for at in (address - GUARD_BYTES, address + size):
            if set(self._qemu.read_memory(at, GUARD_BYTES)) != {GUARD}:
                raise EmulatorError(f"{call.kernel} wrote outside its {what} of {size} bytes")

    def _counts(self, rows: int) -> list[MarkerCount]:
        """One count per call; QEMU's stdio may lag behind the core."""
        expected = self._marks + 2 * rows
        deadline = time.monotonic() + 5.0
        marks = self._qemu.counts()
        while len(marks) < expected and time.monotonic() < deadline:
            time.sleep(0.01)
            marks = self._qemu.counts()
        if len(marks) != expected:
            raise EmulatorError(f"the counting plug-in saw {len(marks)} marks where {expected} were due")
        new = marks[self._marks :]
        self._marks = expected
        return [end.since(begin) for begin, end in zip(new[::2], new[1::2], strict=True)]
