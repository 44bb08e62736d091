"""Power traces on disk: one Parquet file per run.

Float32 current (zstd over BYTE_STREAM_SPLIT) and uint8 logic inputs; no time column, since sample ``k`` stands for
``t0_s + k·dt_s``, which is in the file's metadata. A file is written under a temporary name, fsynced and renamed, so a
``.parquet`` in the folder is always whole.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np

from lab.errors import StoreError
from measurements.record import Trace

SUFFIX = ".parquet"
_FORMAT = "lab-trace-1"
_ROW_GROUP = 1 << 20


def write_trace(path: Path, trace: Trace) -> None:
    """Write a trace durably: when this returns, it survives a crash and a power cut.

    Args:
        path: the final name; its folder exists.

    Raises:
        StoreError: the trace is malformed or the file could not be written; nothing of it is left then.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if trace.current_a.ndim != 1 or trace.current_a.shape != trace.logic.shape:
        raise StoreError(
            f"{path}: the trace's current has shape {trace.current_a.shape} and its logic inputs {trace.logic.shape}; "
            "both must be one-dimensional and of one length"
        )
    metadata = {
        "format": _FORMAT,
        "t0_s": repr(float(trace.t0_s)),
        "dt_s": repr(float(trace.dt_s)),
        "voltage_v": repr(float(trace.voltage_v)),
        "lost": str(int(trace.lost)),
    }
    schema = pa.schema([("current_a", pa.float32()), ("logic", pa.uint8())], metadata=metadata)
    columns = [trace.current_a.astype(np.float32, copy=False), trace.logic.astype(np.uint8, copy=False)]
    table = pa.Table.from_arrays([pa.array(column) for column in columns], schema=schema)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            pq.write_table(
                table,
                file,
                row_group_size=_ROW_GROUP,
                compression="zstd",
                use_dictionary=["logic"],
                use_byte_stream_split=["current_a"],
                write_statistics=False,
            )
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except (OSError, pa.ArrowException) as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(f"{path}: the trace could not be written: {error}", hint=_way_out(error)) from error


def read_trace(path: Path) -> Trace:
    """Read a trace back, bit for bit.

    Raises:
        StoreError: the file is missing, damaged or not one of ours.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(
            f"{path}: the trace cannot be read: {error}",
            hint="the run's records do not depend on it; restore the file from a copy or delete it",
        ) from error
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if metadata.get("format") != _FORMAT:
        raise StoreError(f"{path}: is a Parquet file but not a trace of this lab ({_FORMAT})")
    return Trace(
        t0_s=float(metadata["t0_s"]),
        dt_s=float(metadata["dt_s"]),
        voltage_v=float(metadata["voltage_v"]),
        current_a=table.column("current_a").to_numpy(),
        logic=table.column("logic").to_numpy(),
        lost=int(metadata["lost"]),
    )


def trace_digest(trace: Trace) -> str:
    """SHA-256 of a trace's samples and facts, hex: the same for equal traces, however they are encoded."""
    facts = (float(trace.t0_s), float(trace.dt_s), float(trace.voltage_v), int(trace.lost), trace.current_a.size)
    digest = hashlib.sha256(repr(facts).encode())
    digest.update(np.ascontiguousarray(trace.current_a, dtype="<f4").view(np.uint8).data)
    digest.update(np.ascontiguousarray(trace.logic, dtype=np.uint8).data)
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
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _way_out(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return "free space on that disk, or move the store with LAB_STORE"
    return "this is a defect of the lab; keep the message"
