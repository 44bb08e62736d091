"""The generated C on this machine: built into a shared library and called in process."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lab.compiler.model import CompiledModel, FloatArray
from lab.errors import CompileError, ToolMissing
from lab.runtime_files import RUNTIME, needed_sources
from lab.system_packages import install

SampleArray: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.int8] | npt.NDArray[np.int32]
TargetArray: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.int32]

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
        ("load", ctypes.CFUNCTYPE(None, ctypes.c_uint32)),
        ("network_count", ctypes.c_uint32),
    )


def build_shared_library(
    sources: Iterable[Path],
    output: Path,
    *,
    compiler: str = "gcc",
    flags: Sequence[str] = ("-O2",),
    include: Path | None = None,
) -> None:
    """Compile C99 sources against the runtime, warnings as errors.

    Args:
        sources: C files, of the runtime and others.
        output: the library.
        compiler: C compiler.
        flags: its flags.
        include: folder of headers that are not the runtime's.

    Raises:
        ToolMissing: the compiler is not installed.
        CompileError: the compiler refused; its own words are in the message.
    """
    if shutil.which(compiler) is None:
        raise ToolMissing(f"C compiler '{compiler}' is not installed", hint=install(compiler))
    inputs = [
        _runtime_object(source, compiler, tuple(flags)) if source.is_relative_to(RUNTIME) else source
        for source in sources
    ]
    included = [] if include is None else [f"-I{include}"]
    _compile([compiler, *WARNINGS, *flags, *included, "-fPIC", "-shared", f"-I{RUNTIME}"], [*inputs, "-lm"], output)


@cache
def _runtime_object(source: Path, compiler: str, flags: tuple[str, ...]) -> Path:
    """A file of the runtime, compiled once per process: it takes ten times as long as most models."""
    output = Path(tempfile.mkdtemp(dir=_object_folder().name)) / f"{source.stem}.o"
    _compile([compiler, *WARNINGS, *flags, "-fPIC", "-c", f"-I{RUNTIME}"], [source], output)
    return output


@cache
def _object_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="lab-runtime-")


def _compile(command: Sequence[str], inputs: Sequence[Path | str], output: Path) -> None:
    done = subprocess.run([*command, "-o", output, *inputs], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompileError(
            f"{command[0]} refused the generated code:\n{done.stderr}", hint="this is a defect of the lab's compiler"
        )


class TrainingState(ctypes.Structure):
    """``lab_training_state_t`` of ``lab_training.h``."""

    _fields_ = (("learning_rate", ctypes.c_float), ("step", ctypes.c_uint32), ("random", ctypes.c_uint32))


class VariableStruct(ctypes.Structure):
    """``lab_variable_t``."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("initial", ctypes.c_void_p),
        ("bytes", ctypes.c_uint32),
    )


class TrainingStruct(ctypes.Structure):
    """``lab_training_t``."""

    _fields_ = (
        ("target_bytes", ctypes.c_uint32),
        ("target_classes", ctypes.c_uint32),
        ("variable_count", ctypes.c_uint32),
        ("variables", ctypes.POINTER(VariableStruct)),
        ("step_count", ctypes.c_uint32),
        ("step_names", ctypes.POINTER(ctypes.c_char_p)),
        ("forward", ctypes.CFUNCTYPE(ctypes.c_float, *[ctypes.c_void_p] * 4)),
        ("backward", ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4)),
        ("update", ctypes.c_void_p),
        ("step_profiled", ctypes.c_void_p),
        ("learn", ctypes.c_void_p),
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
        for name, content in compiled.binaries.items():
            (folder / name).write_bytes(content)
        library_path = folder / f"{compiled.digest[:16]}.so"
        build_shared_library(
            [
                *(folder / name for name in sorted(compiled.sources) if name.endswith(".c")),
                *needed_sources(compiled.sources.values()),
            ],
            library_path,
            compiler=compiler,
            flags=flags,
            include=folder,
        )
        self._library = ctypes.CDLL(str(library_path))
        self._model = ModelStruct.in_dll(self._library, "lab_model")
        self._input_dtype = np.dtype(compiled.input.dtype)

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

    def load(self, network: int) -> None:
        """Make a network of a model that holds several the one that infers.

        Raises:
            ValueError: there is no such network.
        """
        if not 0 <= network < self._model.network_count:
            raise ValueError(f"network {network} of a model that holds {self._model.network_count}")
        self._model.load(network)

    def run(self, samples: SampleArray, *, arena_fill: int = 0) -> SampleArray:
        """Run samples ``(n, …)``, one by one in one arena, to ``(n, output elements)``.

        Args:
            samples: NHWC samples of the model's type, back to back.
            arena_fill: byte the arena holds before the first sample.

        Raises:
            ValueError: samples of another size or type.
            CompileError: the code wrote past its arena.
        """
        count = len(samples)
        dtype = self._input_dtype
        if samples.dtype != dtype or samples.nbytes != count * self._model.input_bytes:
            size = self._model.input_bytes
            raise ValueError(f"samples are {samples.dtype} {samples.shape}; one is {size} bytes of {dtype}")
        flat = np.ascontiguousarray(samples).reshape(count, -1)
        output_dtype = np.dtype(np.float32 if self._model.output_is_float else np.int8)
        outputs = np.zeros((count, self._model.output_bytes // output_dtype.itemsize), dtype=output_dtype)
        arena = _Arena(self.arena_bytes, arena_fill)
        for index in range(count):
            self._model.infer(flat[index].ctypes.data, outputs[index].ctypes.data, arena.address)
        arena.check()
        return outputs


class HostTraining(HostModel):
    """A compiled model that trains on the host; arguments and errors as for :class:`HostModel`."""

    def __init__(
        self, compiled: CompiledModel, folder: Path, *, compiler: str = "gcc", flags: Sequence[str] = ("-O2",)
    ) -> None:
        super().__init__(compiled, folder, compiler=compiler, flags=flags)
        if compiled.training is None:
            raise ValueError(f"model '{compiled.name}' is compiled for inference only")
        self._compiled_training = compiled.training
        self._training = ctypes.cast(self._model.training, ctypes.POINTER(TrainingStruct)).contents
        self._update = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(self._training.update or 0)
        self._learn = ctypes.CFUNCTYPE(ctypes.c_float, *[ctypes.c_void_p] * 5)(self._training.learn or 0)
        self._arena = _Arena(self.arena_bytes, 0)
        self.state = TrainingState(0.0, 0, 1)
        self.reset()

    def reset(self) -> None:
        """Set every variable to what it was compiled with."""
        self._library.lab_training_reset(ctypes.byref(self._training))
        self.state = TrainingState(0.0, 0, 1)

    def step(self, sample: SampleArray, target: TargetArray, learning_rate: float) -> float:
        """One training step on one batch; yields the loss before the update.

        Raises:
            ValueError: a sample or target of another size.
            CompileError: the code wrote past its arena.
        """
        for what, found, expected in (
            ("sample", sample.nbytes, self._model.input_bytes),
            ("target", target.nbytes, self._training.target_bytes),
        ):
            if found != expected:
                raise ValueError(f"a {what} of a step has {expected} bytes, found {found}")
        self.state.learning_rate = learning_rate
        self.state.step += 1
        sample_data, target_data = sample.tobytes(), target.tobytes()
        output = np.zeros(self._model.output_bytes, dtype=np.uint8)
        where, state = self._arena.address, ctypes.addressof(self.state)
        if self._training.learn:
            loss = self._learn(sample_data, target_data, output.ctypes.data, where, state)
        else:
            loss = self._training.forward(sample_data, target_data, output.ctypes.data, where)
            self._training.backward(sample_data, target_data, where, state)
        if self._training.update:
            self._update(where, state)
        self._arena.check()
        return float(loss)

    def variables(self) -> dict[str, FloatArray]:
        """Every variable as PyTorch holds it."""
        return self._compiled_training.to_torch(self.raw_variables())

    def raw_variables(self) -> dict[str, bytes]:
        """Every variable as it lies in memory."""
        variables = [self._training.variables[index] for index in range(self._training.variable_count)]
        return {one.name.decode(): ctypes.string_at(one.data, one.bytes) for one in variables}

    def write(self, values: Mapping[str, bytes]) -> None:
        """Give variables the bytes that :meth:`raw_variables` tells, those that are named.

        Raises:
            ValueError: another size.
        """
        for index in range(self._training.variable_count):
            variable = self._training.variables[index]
            data = values.get(variable.name.decode())
            if data is None:
                continue
            if len(data) != variable.bytes:
                raise ValueError(f"variable '{variable.name.decode()}' has {variable.bytes} bytes, found {len(data)}")
            ctypes.memmove(variable.data, data, variable.bytes)


class _Arena:
    """Aligned memory with guards on both sides."""

    GUARD = 64

    def __init__(self, size: int, fill: int) -> None:
        self._memory = np.full(size + 2 * self.GUARD, fill, dtype=np.uint8)
        self._start = -self._memory.ctypes.data % 16 + 16
        self._size = size
        self._memory[: self._start] = self._memory[self._start + size :] = 0xA5
        self.address = self._memory.ctypes.data + self._start

    def check(self) -> None:
        """Raises: CompileError: something was written outside."""
        outside = (self._memory[: self._start], self._memory[self._start + self._size :])
        if not all((part == 0xA5).all() for part in outside):
            raise CompileError(f"the code wrote outside its arena of {self._size} bytes", hint="please report it")
