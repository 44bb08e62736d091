"""JUnit XML: the figures as properties, for CI systems that draw them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from xml.etree import ElementTree as ET

from measurements.record import Run
from measurements.report.night import NightCell, NightSummary, Verdict

# Of these XML 1.0 allows none, not even escaped (W3C, Extensible Markup Language 1.0, production 2).
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_VERDICTS: Mapping[str, Verdict] = {
    "passed": "passed", "failed": "failed", "error": "infrastructure", "incomplete": "infrastructure",
}  # fmt: skip


def properties(run: Run) -> Iterator[tuple[str, object]]:
    """``device.metric[region] unit`` → median, where each figure came from, and the run that holds it."""
    device = run.provenance.device
    yield f"{device}.run_id", run.run_id
    for record in run.records:
        yield f"{device}.{record.metric}[{record.region}] {record.unit}", record.median
        yield f"{device}.{record.metric}[{record.region}].source", record.source


def render_junit(runs: Sequence[Run], *, title: str = "lab", night: NightSummary | None = None) -> str:
    """Return JUnit XML, one test case per cell of the night, else one per run.

    What the product did wrong is a ``failure``, what the bench did wrong an ``error``; not reached is ``skipped``.

    Args:
        runs: the runs.
        title: name of the suite.
        night: the night, where the runs are one's.
    """
    by_id = {run.run_id: run for run in runs}
    cells = night.cells if night is not None else tuple(_as_cell(run) for run in runs)
    suite = ET.Element("testsuite", name=_clean(title))
    counts = {"failure": 0, "error": 0, "skipped": 0}
    for cell in cells:
        case = ET.SubElement(
            suite, "testcase", classname=_clean(cell.device), name=_clean(cell.subject), time=f"{cell.seconds:.3f}"
        )
        _add_properties(case, by_id.get(cell.run_id))
        kind = _kind(cell)
        if kind:
            counts[kind] += 1
            first = cell.message.splitlines()[0] if cell.message else cell.verdict
            ET.SubElement(case, kind, type=cell.verdict, message=_clean(first)).text = _clean(cell.message)
        if cell.retries:
            ET.SubElement(case, "system-out").text = _clean("\n".join(f"tried again: {why}" for why in cell.retries))
    suite.set("tests", str(len(cells)))
    for kind, attribute in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        suite.set(attribute, str(counts[kind]))
    suite.set("time", f"{sum(cell.seconds for cell in cells):.3f}")
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _as_cell(run: Run) -> NightCell:
    provenance = run.provenance
    return NightCell(
        provenance.device,
        provenance.workload,
        provenance.variant,
        _VERDICTS[run.status],
        run.error,
        run.retries,
        run.run_id,
    )


def _kind(cell: NightCell) -> str:
    return {"passed": "", "failed": "failure", "unreached": "skipped"}.get(cell.verdict, "error")


def _add_properties(case: ET.Element, run: Run | None) -> None:
    if run is None:
        return
    holder = ET.SubElement(case, "properties")
    for name, value in properties(run):
        ET.SubElement(holder, "property", name=_clean(name), value=_clean(str(value)))


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
