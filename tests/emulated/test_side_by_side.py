"""``--workers``: devices in processes of their own. One dies and the others go on; a signal ends all in order."""

from __future__ import annotations

from pathlib import Path
from signal import SIGTERM

from helpers.inner_session import REACH, InnerSession
from helpers.sandbox import environment
from helpers.toolchain import needs_qemu

from measurements.store import Store

_PROGRAM = (
    """
import os
import signal
import sys
from contextlib import contextmanager
from dataclasses import replace

import lab.devices.connect
import lab.workloads
from helpers.tiny_workload import Tiny
from lab.cli import main
from lab.workloads.base import Claim
"""
    + REACH
    + """
class Claimed(Tiny):
    family = "training"
    claims = (Claim("S214", "Right.", "Table 1", "accuracy", "", "factor", None, "", against=("accuracy", "run")),)

WORKLOAD = Claimed()
lab.workloads._REGISTRY["tiny"] = "__main__"
real = lab.devices.connect.connected

@contextmanager
def connected(entry, cache, fence=None):
    with real(entry, cache, fence) as device:
        if entry.name == os.environ["ENDS"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if entry.name == os.environ["STOPS"]:
            reach("run")
        yield device

lab.devices.connect.connected = connected
if sys.argv[-1] != "worker":
    import lab.commands.side_by_side
    lab.commands.side_by_side.PROGRAM = (sys.executable, __file__)
main()
"""
)
_BENCH = """\
devices:
  left: {board: mps2-an386, emulated: true}
  right: {board: mps2-an386, emulated: true}
"""


def _started(folder: Path, name: str, places: dict[str, str], *more: str) -> InnerSession:
    place = folder / name
    place.mkdir()
    program = folder / "run.py"
    program.write_text(_PROGRAM)
    arguments = ("methods", "training", "--only", "tiny", "--device", "left,right", "--workers", "2", *more)
    return InnerSession(place, places, *arguments, program=program)


@needs_qemu
def test_one_process_dies_the_session_goes_on_and_a_signal_ends_all(tmp_path: Path, shared_cache: Path) -> None:
    bench = tmp_path / "bench.yaml"
    bench.write_text(_BENCH)
    places = dict(environment(tmp_path / "lab", shared_cache, LAB_CONFIG=str(bench), ENDS="right", STOPS=""))
    with _started(tmp_path, "first", places) as session:
        assert session.ended() == 1, session.output
        lines = session.output.splitlines()
    assert "left  | left: tiny passed" in lines
    died = "right: its process was ended by SIGKILL; what it had not measured by then is missing"
    assert died in lines
    (summary,) = (tmp_path / "lab" / "reports").glob("2*/summary.md")
    assert "its process was ended by SIGKILL" in summary.read_text()

    with _started(tmp_path, "second", {**places, "ENDS": "", "STOPS": "right"}, "--resume", summary.parent.name) as on:
        on.wait_for("run")
        on.wait_printed("left  | left: tiny passed in this session")
        assert len(on.children) >= 2, "a process of the lab and its emulator"
        on.send(SIGTERM)
        assert on.ended() == 128 + SIGTERM, on.output
        assert on.left_over() == []
    assert "right | ended by SIGTERM" in on.output
    assert "Traceback" not in on.output
    with Store(tmp_path / "lab" / "store") as store:
        assert [(run.provenance.device, run.status) for run in store.runs()] == [("left", "passed")]
