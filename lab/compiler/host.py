"""The generated C on this machine: built into a shared library and called in process."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from lab.compiler.model import CompiledModel, Int8Array
from lab.errors import CompileError, ToolMissing

RUNTIME = Path(__file__).resolve().parents[2] / "firmware" / "runtime"
WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
TRAP_UNDEFINED = ("-fsanitize=undefined", "-fno-sanitize-recover=all", "-fsanitize-undefined-trap-on-error")


class ModelStruct(ctypes.Structure):
    """``lab_model_t`` of ``lab_model.h``."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("input_bytes", ctypes.c_uint32),
        ("output_bytes", ctypes.c_uint32),
        ("arena_bytes", ctypes.c_uint32),
        ("layer_count", ctypes.c_uint32),
        ("layer_names", ctypes.POINTER(ctypes.c_char_p)),
        ("infer", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)),
        ("infer_profiled", ctypes.c_void_p),
        ("output_scale", ctypes.c_float),
        ("output_zero_point", ctypes.c_int32),
        ("input_scale", ctypes.c_float),
        ("input_zero_point", ctypes.c_int32),
        ("input_is_float", ctypes.c_uint32),
        ("output_is_float", ctypes.c_uint32),
        ("training", ctypes.c_void_p),
    )


def runtime_sources() -> list[Path]:
    """The C files of the runtime, in a fixed order."""
    return sorted(RUNTIME.glob("*.c"))


def build_shared_library(
    sources: Iterable[Path], output: Path, *, compiler: str = "gcc", flags: Sequence[str] = ("-O2",)
) -> None:
    """Compile C99 sources against the runtime, warnings as errors.

    Raises:
        ToolMissing: the compiler is not installed.
        CompileError: the compiler refused; its own words are in the message.
    """
    if shutil.which(compiler) is None:
        raise ToolMissing(f"C compiler '{compiler}' is not installed", hint=f"apt-get install {compiler}")
    command = [compiler, *WARNINGS, *flags, "-fPIC", "-shared", f"-I{RUNTIME}", "-o", str(output)]
    done = subprocess.run([*command, *map(str, sources)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompileError(
            f"{compiler} refused the generated code:\n{done.stderr}", hint="this is a defect of the lab's compiler"
        )


class HostModel:
    """A compiled model on the host.

    Args:
        compiled: the model.
        folder: existing folder for sources and library.
        compiler: C compiler.
        flags: its flags.

    Raises:
        ToolMissing: the compiler is not installed.
        CompileError: the compiler refused the code.
    """

    def __init__(
        self, compiled: CompiledModel, folder: Path, *, compiler: str = "gcc", flags: Sequence[str] = ("-O2",)
    ) -> None:
        for name, text in compiled.sources.items():
            (folder / name).write_text(text, encoding="utf-8")
        library_path = folder / f"{compiled.digest[:16]}.so"
        build_shared_library(
            [folder / "model.c", *runtime_sources()],
            library_path,
            compiler=compiler,
            flags=[*flags, f"-I{folder}"],
        )
        self._library = ctypes.CDLL(str(library_path))
        self._model = ModelStruct.in_dll(self._library, "lab_model")

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Layer names as linked into the image."""
        return tuple(self._model.layer_names[index].decode() for index in range(self._model.layer_count))

    @property
    def arena_bytes(self) -> int:
        """Arena the linked model says it needs."""
        return int(self._model.arena_bytes)

    @property
    def output_quantization(self) -> tuple[float, int]:
        """Scale (as float32) and zero point of the output, as linked into the image."""
        return float(self._model.output_scale), int(self._model.output_zero_point)

    def run(self, samples: Int8Array, *, arena_fill: int = 0) -> Int8Array:
        """Run int8 samples ``(n, …)``, one by one in one arena, to ``(n, output bytes)``.

        Args:
            samples: NHWC samples, back to back.
            arena_fill: byte the arena holds before the first sample.

        Raises:
            ValueError: samples of another size or type.
            CompileError: the code wrote past its arena.
        """
        count = len(samples)
        if samples.dtype != np.int8 or samples.size != count * self._model.input_bytes:
            raise ValueError(f"samples are {samples.dtype} {samples.shape}; one is {self._model.input_bytes} int8")
        flat = np.ascontiguousarray(samples).reshape(count, -1)
        outputs = np.zeros((count, self._model.output_bytes), dtype=np.int8)
        guard = 64
        memory = np.full(self.arena_bytes + 2 * guard, arena_fill, dtype=np.uint8)
        start = -memory.ctypes.data % 16 + 16
        memory[:start] = memory[start + self.arena_bytes :] = 0xA5
        for index in range(count):
            self._model.infer(flat[index].ctypes.data, outputs[index].ctypes.data, memory.ctypes.data + start)
        if not ((memory[:start] == 0xA5).all() and (memory[start + self.arena_bytes :] == 0xA5).all()):
            raise CompileError(f"the code wrote outside its arena of {self.arena_bytes} bytes", hint="please report it")
        return outputs
