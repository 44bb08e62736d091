"""Peak memory of a run: what the device's high-water marks and the ELF say, against the plan."""

from __future__ import annotations

from measurements.record import Record, Source
from measurements.statistics import make_record

RUN = "run"
WHOLE = ("peak_ram.process", "peak_ram.unified", "peak_ram.gpu")
"""Metrics of whole processes and devices: no parts of ``peak_ram``, which is that of the model's own memory."""


def memory_records(
    *,
    arena_high_water: int,
    stack_high_water: int,
    planned_arena_bytes: int,
    static_ram_bytes: int,
    flash_bytes: int,
    weights_bytes: int,
    source: Source,
    variables_bytes: int = 0,
) -> tuple[Record, ...]:
    """Records of region ``run``: ``peak_ram`` and its parts, ``flash`` and its weights, all in bytes.

    The total is the sum of the parts: each part's own peak, so an upper bound where they do not peak together.

    Args:
        arena_high_water: most arena bytes the device ever touched (painted).
        stack_high_water: most stack bytes it ever used (painted).
        planned_arena_bytes: arena that the compiler planned; the note says whether the device agrees.
        static_ram_bytes: ``.data`` and ``.bss`` without arena, stack and sample store.
        flash_bytes: code, constants and initialised data.
        weights_bytes: the part of ``flash_bytes`` that is weights.
        source: of the device's figures.
        variables_bytes: RAM of what training changes, parameters and optimiser state; 0 without training.
    """
    total = arena_high_water + stack_high_water + static_ram_bytes + variables_bytes
    figures: tuple[tuple[str, int, str], ...] = (
        ("peak_ram", total, f"arena and stack high-water plus static{' and variables' if variables_bytes else ''}"),
        ("peak_ram.activations", arena_high_water, _agreement(planned_arena_bytes, arena_high_water)),
        ("peak_ram.stack", stack_high_water, "painted stack"),
        ("peak_ram.static", static_ram_bytes, "from the ELF; without arena, stack and sample store"),
        ("flash", flash_bytes, "from the ELF"),
        ("flash.weights", weights_bytes, "from the ELF"),
    )
    if variables_bytes:
        variables = ("peak_ram.variables", variables_bytes, "trained parameters and optimiser state, from the ELF")
        figures = (*figures, variables)
    return tuple(make_record(RUN, metric, "bytes", source, [size], note=note) for metric, size, note in figures)


def _agreement(planned: int, measured: int) -> str:
    if measured == planned:
        return f"the device's high-water mark equals the plan of {planned} bytes"
    if measured < planned:
        return f"the device touched {planned - measured} bytes less than the plan of {planned} bytes"
    return f"THE DEVICE TOUCHED {measured - planned} BYTES MORE THAN THE PLAN OF {planned} BYTES"
