"""Words that say where a run's figures come from."""

from __future__ import annotations

from dataclasses import dataclass

from measurements.record import Run


@dataclass(frozen=True)
class Badge:
    """A word of provenance; ``kind`` is its CSS class."""

    kind: str
    text: str
    title: str


def badges(run: Run) -> tuple[Badge, ...]:
    """Say in words where the run's figures come from."""
    provenance = run.provenance
    sources = {record.source for record in run.records}
    emulated = bool(provenance.emulator) or "emulated" in sources
    modelled = bool(provenance.energy_model) or any(
        record.source == "modelled" and record.metric.split(".")[0] in ("energy", "power") for record in run.records
    )
    found: list[Badge] = []
    if emulated:
        found.append(Badge("emulated", "emulated", f"Ran on {provenance.emulator or 'an emulator'}."))
    else:
        found.append(Badge("hardware", "hardware", "Ran on a real device."))
    if provenance.clock == "virtual":
        found.append(Badge("virtual", "virtual time", "One tick of the clock is one instruction."))
    elif provenance.clock == "guest":
        found.append(Badge("virtual", "virtual time", "Its system's time advances with the instructions it executes."))
    if modelled:
        found.append(Badge("modelled", "modelled energy", provenance.energy_model or "Energy comes from a model."))
    if provenance.throttled:
        reasons = () if run.detail.environment is None else run.detail.environment.throttled
        found.append(Badge("throttled", "throttled", "; ".join(reasons) or "The device was held back."))
    return tuple(found)
