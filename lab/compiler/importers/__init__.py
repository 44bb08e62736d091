"""Model files → the same graph that PyTorch capture gives → the same planner and emitter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lab.compiler.model import CompiledModel, FloatArray
from lab.errors import CompileError, ToolMissing

if TYPE_CHECKING:
    from lab.compiler.quantized import QuantizedGraph

__all__ = ["MAXIMUM_FILE_BYTES", "SUFFIXES", "import_graph", "import_model"]

SUFFIXES = (".tflite", ".onnx")
MAXIMUM_FILE_BYTES = 64 << 20
"""Larger files are refused unread: no device of the lab has so much flash."""


def import_model(
    path: Path, *, name: str = "model", calibration: FloatArray | None = None, arena_limit_bytes: int | None = None
) -> tuple[CompiledModel, QuantizedGraph]:
    """Compile a ``.tflite`` or ``.onnx`` file to static C.

    An int8 file keeps its own quantisation, to the bit. A float32 file is quantised after training like a
    PyTorch module.

    Args:
        path: the file; its suffix tells the format.
        name: C identifier of the model.
        calibration: NHWC inputs ``(n, …)`` that set the ranges of a float32 file; not used for an int8 file.
        arena_limit_bytes: most arena bytes the device offers; no limit where ``None``.

    Returns:
        the compiled model, and the integer graph whose ``run_integer`` the C equals bit for bit.

    Raises:
        CompileError: no such file, a damaged one, operators that are not supported (all of them at once, with their
            places), a float32 file without calibration data, or an arena larger than the limit.
        ToolMissing: the package that reads the format is not installed.
    """
    graph = import_graph(path, calibration)
    from lab.compiler.driver import compile_quantized

    return compile_quantized(graph, name, arena_limit_bytes), graph


def import_graph(path: Path, calibration: FloatArray | None = None) -> QuantizedGraph:
    """The integer graph of a model file; see :func:`import_model`."""
    if path.suffix not in SUFFIXES:
        raise CompileError(f"{path} is no model file the lab reads", hint=f"it reads files ending in {SUFFIXES}")
    data = _read(path)
    try:
        if path.suffix == ".tflite":
            from lab.compiler.importers.tflite import import_tflite

            return import_tflite(data, str(path), calibration)
        from lab.compiler.importers.onnx import import_onnx

        return import_onnx(data, str(path), calibration)
    except ImportError as error:
        raise ToolMissing(
            f"{path.suffix} files need the package {error.name}, which is not installed",
            hint="pip install 'hil-lab[import]'",
        ) from error


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAXIMUM_FILE_BYTES:
            raise CompileError(f"{path} has {size} bytes; at most {MAXIMUM_FILE_BYTES} are read")
        return path.read_bytes()
    except OSError as error:
        raise CompileError(f"{path} cannot be read: {error.strerror or error}") from error
