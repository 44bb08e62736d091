"""The controller is killed with -9 in each phase of a run: the next session finds nothing broken, and passes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from faults.catalogue import of
from faults.fault import Fault
from helpers import kept_workload
from helpers.killed_lab import ARGUMENTS, DEVICE, all_gone, killed_in
from helpers.sandbox import environment, private_places
from helpers.toolchain import needs_qemu

import lab.inventory
from lab.cli import main
from lab.lease import holder, waiting
from measurements.store import Store

pytestmark = needs_qemu

GONE_S = 60.0
"""Compilers that have nobody to report to end when they are done."""


@dataclass(frozen=True)
class Places:
    """Where the killed sessions and those after them work."""

    folder: Path
    cache: Path
    temporary: Path

    def run_ids(self) -> list[str]:
        """The runs of the store, which is sound."""
        with Store(self.folder / "store") as store:
            assert store.verify().problems == ()
            return store.run_ids()

    def forget(self, phase: str) -> None:
        """What would make the phase short."""
        if phase == "prepare":
            shutil.rmtree(self.cache / "workloads", ignore_errors=True)
        if phase == "build":
            shutil.rmtree(self.cache / "builds", ignore_errors=True)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """One store and one cache for all: each test begins where the one before it left them."""
    folder = tmp_path_factory.mktemp("killed")
    # Sockets lie in there, and their paths have to be short.
    with tempfile.TemporaryDirectory(prefix="killed-") as temporary:
        yield Places(folder, folder / "cache", Path(temporary))


@pytest.fixture
def places(shared: Places, monkeypatch: pytest.MonkeyPatch) -> Places:
    for name, value in private_places(shared.folder, shared.cache).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(lab.inventory.Device, "needs_lease", property(lambda _: True))
    monkeypatch.setattr(tempfile, "tempdir", str(shared.temporary))
    kept_workload.register()
    return shared


def session() -> str:
    """One session that nobody disturbs; what it printed."""
    done = CliRunner().invoke(main, ARGUMENTS, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("fault", of("The controller is killed"), ids=str)
def test_the_next_session_finds_nothing_broken(fault: Fault, places: Places) -> None:
    phase = fault.name.rpartition(" ")[2]
    before = places.run_ids()
    places.forget(phase)
    its = environment(places.folder, places.cache, TMPDIR=str(places.temporary))
    had = killed_in(phase, its, places.folder)
    assert all_gone(had, GONE_S)
    assert holder(DEVICE) is None
    assert waiting() == []
    after = places.run_ids()
    assert after[: len(before)] == before
    assert len(after) - len(before) == ("the run" in fault.kept)
    told = session()
    (latest,) = set(places.run_ids()) - set(after)
    assert (places.folder / "reports" / "latest").exists()
    assert "report: " in told
    assert list(places.temporary.glob("lab-*")) == [], "folders of the killed one are swept"
    with Store(places.folder / "store") as store:
        run = store.run(latest)
        assert run.status == "passed"
        assert store.trace(latest) is not None
