"""A workload on an emulated phone, over real ADB: the same records as everywhere, without root."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import tiny_workload
from helpers.toolchain import entry, needs_host_compiler

from lab.devices.base import Device
from lab.devices.connect import connected
from lab.devices.linux import Linux
from lab.doctor import availability
from lab.environment_config import EnvironmentConfig
from lab.errors import Crash, OutOfMemory
from lab.events import Job
from lab.paths import cache_dir
from lab.runs import deploy, measure
from measurements.store import Store

pytestmark = needs_host_compiler


@pytest.fixture(scope="module")
def phone() -> Iterator[Device]:
    found = entry("phone")
    if reason := availability(found):
        pytest.skip(reason)
    tiny_workload.register()
    with connected(found, cache_dir()) as device:
        yield device


def test_records_of_a_phone(phone: Device, tmp_path: Path) -> None:
    deployment = deploy(entry("phone"), phone, "tiny", cache_dir())
    with Store(tmp_path) as store:
        run = measure(deployment, store, "s").run
    records = {(one.region, one.metric): one for one in run.records}
    assert records["run", "bit_exact"].median == 1.0
    assert records["inference", "instructions"].median > tiny_workload.SIZE
    assert records["run", "peak_ram.process"].median > 100_000
    assert (run.provenance.clock, run.provenance.board) == ("guest", "android-phone")
    environment = run.detail.environment
    assert environment is not None
    before = environment.at("before")
    assert before is not None
    assert before.battery is not None
    assert before.screen_on is not None


def test_a_runner_that_is_killed(phone: Device, tmp_path: Path) -> None:
    assert isinstance(phone, Linux)
    deployment = deploy(entry("phone"), phone, "tiny", cache_dir())
    assert phone.remote.run(("id", "-u")).text == "2000", "the shell's user, not root"
    phone.remote.run(("sh", "-c", 'kill -9 $(cat "$0"/*.pid)', phone.folder))
    with Store(tmp_path) as store:
        with pytest.raises(Crash, match="ended by SIGKILL"):
            measure(deployment, store, "s")
        assert phone.recover() == "restart"
        assert measure(deployment, store, "s").run.status == "passed"


def test_a_budget_for_memory_needs_no_root(phone: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples that do not fit into it: the connection lives on, and a job that keeps within it runs."""
    assert isinstance(phone, Linux)
    artifact = deploy(entry("phone"), phone, "tiny", cache_dir()).artifact
    connection, small = phone.remote, Job("infer", bytes(tiny_workload.SIZE), 1)

    def allow(limit_bytes: int) -> None:
        assert isinstance(phone, Linux)
        monkeypatch.setattr(phone, "_environment", EnvironmentConfig(memory_limit_bytes=limit_bytes))
        monkeypatch.setattr(phone, "_memory", None)
        phone.deploy(artifact)

    allow(64 << 20)
    assert list(phone.run(small))
    usual = phone.process_memory()[0]
    assert usual.note.partition("limited to 67108864 bytes: ")[2].startswith("VmHWM is compared with it")
    # The room that the runner has for samples is many times the budget and not refused: it is not touched.
    limit = usual.size_bytes + (192 << 10)
    allow(limit)
    assert list(phone.run(small))
    with pytest.raises(OutOfMemory) as caught:
        list(phone.run(Job("infer", bytes(512 << 10), 1)))
    said = re.search(r"the runner used (\d+) bytes at most \(VmHWM\), the limit is (\d+) bytes", caught.value.message)
    assert said is not None
    assert int(said[2]) == limit < int(said[1]) < limit + (1 << 20)
    assert phone.recover() == "restart"
    assert list(phone.run(small))
    assert phone.remote is connection
