"""Power traces on disk: one Parquet file per run.

Float32 current (zstd over BYTE_STREAM_SPLIT), uint8 logic inputs and, where the meter measured it, a float32 voltage;
no time column, since sample ``k`` stands for ``t0_s + k·dt_s``, which is in the file's metadata. A file is written
under a temporary name, fsynced and renamed, so a ``.parquet`` in the folder is always whole. A long trace is written
while it is recorded (:class:`TraceWriter`): one row group at a time is in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self

import numpy as np

from lab.errors import StoreError
from measurements.record import Float32Array, Trace, UInt8Array

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

SUFFIX = ".parquet"
_FORMAT = "lab-trace-1"
_FACTS = ("format", "t0_s", "dt_s", "voltage_v", "lost")
_ROW_GROUP = 1 << 20


class TraceWriter:
    """Writes a trace block by block; the file appears under its name, durably, when the context is left without error.

    Example::

        with TraceWriter(path, t0_s=0.0, dt_s=0.5e-6, voltage_v=3.3) as writer:
            for block in blocks:
                writer.append(block.current_a, block.logic, lost=block.lost)

    Args:
        path: the final name; its folder exists.
        t0_s, dt_s, voltage_v: as in :class:`measurements.record.Trace`.
        measures_voltage: whether each block comes with a voltage per sample.

    Raises:
        StoreError: the file could not be written, by any method; nothing of it is left then.
    """

    def __init__(
        self, path: Path, *, t0_s: float, dt_s: float, voltage_v: float, measures_voltage: bool = False
    ) -> None:
        import pyarrow as pa

        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._facts = {
            "format": _FORMAT,
            "t0_s": repr(float(t0_s)),
            "dt_s": repr(float(dt_s)),
            "voltage_v": repr(float(voltage_v)),
        }
        columns = [("current_a", pa.float32()), ("logic", pa.uint8())]
        self._schema: pa.Schema = pa.schema(columns + [("voltage_v", pa.float32())] * measures_voltage)
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_samples = 0
        self._lost = 0
        self._file: IO[bytes] | None = None
        self._parquet: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            self._file = self._temporary.open("wb")
            self._parquet = pq.ParquetWriter(
                self._file,
                self._schema,
                compression="zstd",
                use_dictionary=["logic"],
                use_byte_stream_split=[name for name in self._schema.names if name != "logic"],
                write_statistics=False,
            )
        except (OSError, pa.ArrowException) as error:
            raise self._failed(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._finish()
        else:
            self._discard()

    def append(
        self, current_a: Float32Array, logic: UInt8Array, voltage_v: Float32Array | None = None, *, lost: int = 0
    ) -> None:
        """Add consecutive samples, each array of shape (n,); ``lost`` of them were lost.

        Raises:
            StoreError: arrays that do not fit each other or what was announced, or the file could not be written.
        """
        import pyarrow as pa

        arrays: list[Float32Array | UInt8Array] = [
            current_a.astype(np.float32, copy=False),
            logic.astype(np.uint8, copy=False),
        ]
        if voltage_v is not None:
            arrays.append(voltage_v.astype(np.float32, copy=False))
        shapes = [array.shape for array in arrays]
        if current_a.ndim != 1 or len(set(shapes)) > 1 or len(arrays) != len(self._schema):
            raise StoreError(
                f"{self._path}: the trace's current has shape {current_a.shape} and its logic inputs {logic.shape}"
                f"{'' if voltage_v is None else f', its voltage {voltage_v.shape}'}; all must be one-dimensional and "
                f"of one length, {'with' if len(self._schema) == 3 else 'without'} a voltage per sample"
            )
        self._lost += lost
        for begin in range(0, current_a.size, _ROW_GROUP):
            # A copy, so that the caller may use its buffers again.
            parts = [pa.array(np.array(array[begin : begin + _ROW_GROUP])) for array in arrays]
            self._waiting.append(pa.record_batch(parts, schema=self._schema))
            self._waiting_samples += len(parts[0])
            if self._waiting_samples >= _ROW_GROUP:
                self._write_group()

    def _write_group(self) -> None:
        import pyarrow as pa

        if self._parquet is None:
            raise StoreError(f"{self._path}: append outside the writer's with statement")
        try:
            self._parquet.write_table(pa.Table.from_batches(self._waiting, self._schema), row_group_size=2 * _ROW_GROUP)
        except (OSError, pa.ArrowException) as error:
            raise self._failed(error) from error
        self._waiting, self._waiting_samples = [], 0

    def _finish(self) -> None:
        import pyarrow as pa

        self._write_group()
        if self._parquet is None or self._file is None:
            return
        try:
            self._parquet.add_key_value_metadata({**self._facts, "lost": str(self._lost)})
            self._parquet.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._temporary.replace(self._path)
            sync_folder(self._path.parent)
        except (OSError, pa.ArrowException) as error:
            raise self._failed(error) from error

    def _discard(self) -> None:
        import pyarrow as pa

        # An open Parquet writer would write its footer when it is collected; what fails here has failed before.
        with contextlib.suppress(OSError, pa.ArrowException):
            if self._parquet is not None:
                self._parquet.close()
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _failed(self, error: Exception) -> StoreError:
        self._discard()
        return StoreError(f"{self._path}: the trace could not be written: {error}", hint=_way_out(error))


def write_trace(path: Path, trace: Trace) -> None:
    """Write a trace durably: when this returns, it survives a crash and a power cut.

    Args:
        path: the final name; its folder exists.

    Raises:
        StoreError: the trace is malformed or the file could not be written; nothing of it is left then.
    """
    writer = TraceWriter(
        path,
        t0_s=trace.t0_s,
        dt_s=trace.dt_s,
        voltage_v=trace.voltage_v,
        measures_voltage=trace.measured_v is not None,
    )
    with writer:
        writer.append(trace.current_a, trace.logic, trace.measured_v, lost=trace.lost)


def read_trace(path: Path) -> Trace:
    """Read a trace back, bit for bit.

    Raises:
        StoreError: the file is missing, damaged or not one of ours.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            table = file.read(use_threads=False)
            told = file.metadata.metadata or {}
    except (OSError, pa.ArrowException) as error:
        raise StoreError(
            f"{path}: the trace cannot be read: {error}",
            hint="the run's records do not depend on it; restore the file from a copy or delete it",
        ) from error
    metadata = {key.decode(): value.decode() for key, value in told.items() if key.decode("ascii", "replace") in _FACTS}
    if metadata.get("format") != _FORMAT:
        raise StoreError(f"{path}: is a Parquet file but not a trace of this lab ({_FORMAT})")
    try:
        return Trace(
            t0_s=float(metadata["t0_s"]),
            dt_s=float(metadata["dt_s"]),
            voltage_v=float(metadata["voltage_v"]),
            current_a=table.column("current_a").to_numpy(),
            logic=table.column("logic").to_numpy(),
            lost=int(metadata["lost"]),
            measured_v=table.column("voltage_v").to_numpy() if "voltage_v" in table.column_names else None,
        )
    except (KeyError, ValueError) as error:
        raise StoreError(f"{path}: the trace cannot be read: {error}", hint="restore the file from a copy") from error


def trace_digest(trace: Trace) -> str:
    """SHA-256 of a trace's samples and facts, hex: the same for equal traces, however they are encoded."""
    facts = (float(trace.t0_s), float(trace.dt_s), float(trace.voltage_v), int(trace.lost), trace.current_a.size)
    digest = hashlib.sha256(repr(facts).encode())
    digest.update(np.ascontiguousarray(trace.current_a, dtype="<f4").view(np.uint8).data)
    digest.update(np.ascontiguousarray(trace.logic, dtype=np.uint8).data)
    if trace.measured_v is not None:
        digest.update(np.ascontiguousarray(trace.measured_v, dtype="<f4").view(np.uint8).data)
    return digest.hexdigest()


def copy_trace(source: Path, target: Path) -> None:
    """Copy a trace file durably, as :func:`write_trace` writes one.

    Raises:
        StoreError: the file could not be read or written; nothing of the copy is left then.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with source.open("rb") as original, temporary.open("wb") as file:
            shutil.copyfileobj(original, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(f"{target}: the trace could not be copied: {error}", hint=_way_out(error)) from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable; a rename is not until its folder is."""
    if not hasattr(os, "O_DIRECTORY"):
        return  # Windows opens no folders; NTFS keeps a journal of names.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _way_out(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return "free space on that disk, or move the store with LAB_STORE"
    return "this is a defect of the lab; keep the message"
