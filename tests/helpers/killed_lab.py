"""``lab run`` in a process of its own, which kill -9 ends at a chosen moment."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

from helpers import kept_workload
from helpers.inner_session import descendants

import lab.inventory
import lab.wire
import measurements.report
from lab.cli import main
from lab.devices.mcu import Mcu
from lab.events import Event, Job
from measurements.store import Store

DEVICE = "m4f"
ARGUMENTS = ("run", kept_workload.NAME, "--device", DEVICE)


def prepare_the_bench() -> None:
    """The emulated board, with its meter, is taken for one of its kind: whoever uses it holds its lease."""
    kept_workload.register()
    lab.inventory.Device.needs_lease = property(lambda _: True)  # type: ignore[assignment, method-assign]


def killed_in(phase: str, environment: Mapping[str, str], folder: Path) -> set[int]:
    """Run ``lab run`` until kill -9 ends it in a phase.

    Args:
        phase: a key of :data:`TRAPS`.
        environment: whole environment.
        folder: takes what it says.

    Returns:
        The processes that it had then, and that had not ended when it had.
    """
    reader, writer = os.pipe()
    with (folder / "killed.log").open("wb") as log, os.fdopen(reader, "rb") as told:
        process = subprocess.Popen(
            (sys.executable, "-m", "helpers.killed_lab", phase, str(writer)), cwd=folder, env=environment,
            pass_fds=(writer,), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(writer)
        said = told.readline()
        status = process.wait()
    assert status == -signal.SIGKILL, (folder / "killed.log").read_text(errors="replace")
    return set(json.loads(said))


def all_gone(pids: set[int], within_s: float) -> bool:
    """Whether processes end, those that their parent does not wait for among them (pidfd_open(2))."""
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if not select.select([handle], [], [], within_s)[0]:
                return False
        finally:
            os.close(handle)
    return True


# ---- in the process that is killed -----------------------------------------------------------------------------------


def _die() -> NoReturn:
    os.write(int(sys.argv[2]), json.dumps(sorted(descendants(os.getpid()))).encode() + b"\n")
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("nothing runs on after SIGKILL")


def _at_the_rename_of_what_was_prepared() -> None:
    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if event == "os.rename" and str(arguments[1]).endswith(".npz"):
            _die()

    sys.addaudithook(audit)


def _while_the_compiler_runs() -> None:
    """Some compilers are started and the lab waits for them."""

    def watch() -> None:
        while not any(compiles(pid) for pid in descendants(os.getpid())):
            time.sleep(0.001)
        _die()

    def compiles(pid: int) -> bool:
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/comm").read_text().startswith("cc1")
        return False

    threading.Thread(target=watch, daemon=True).start()


def _while_the_image_starts() -> None:
    lab.wire.Session.open = lambda *_, **__: _die()  # type: ignore[method-assign]


def _between_two_metered_samples() -> None:
    def run(device: Mcu, job: Job, *, silence_s: float = 60.0) -> Iterator[Event]:
        for number, event in enumerate(plain(device, job, silence_s=silence_s)):
            if job.marker_line and number == 4:
                _die()
            yield event

    plain = Mcu.run
    Mcu.run = run  # type: ignore[method-assign, assignment]


def _in_the_transaction() -> None:
    Store._insert_records = lambda *_: _die()  # type: ignore[method-assign]


def _before_the_report_is_found() -> None:
    measurements.report.publish = lambda *_: _die()


TRAPS: Mapping[str, Callable[[], None]] = {
    "prepare": _at_the_rename_of_what_was_prepared,
    "build": _while_the_compiler_runs,
    "deploy": _while_the_image_starts,
    "run": _between_two_metered_samples,
    "store": _in_the_transaction,
    "report": _before_the_report_is_found,
}
"""By phase: what makes this process die in it."""

if __name__ == "__main__":
    prepare_the_bench()
    TRAPS[sys.argv[1]]()
    main(ARGUMENTS)
