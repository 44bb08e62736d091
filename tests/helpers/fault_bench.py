"""A device that takes a fault on the lab's own way, and what has to hold afterwards."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from faults.fault import BY_HAND, NONE_NEEDED, Fault
from helpers import faulty_workload

import fixtures.trust
from lab import health, runs
from lab.artifact import Artifact
from lab.cli import main
from lab.devices.base import Device, Evident, Identity, ResetKind, Rung
from lab.devices.emulated_mcu import EmulatedTarget
from lab.devices.mcu import Mcu
from lab.emulators.base import McuEmulator
from lab.errors import DeviceError, InfrastructureError, LabError
from lab.events import Event, Hello, Job
from lab.inventory import Device as Entry
from lab.paths import cache_dir
from lab.power.base import Meter
from lab.quarantine import quarantined
from measurements.record import Run, Trace
from measurements.store import Store

SESSION = "faults"
FAULTED = "test_that_meets_the_fault"
PASSES = 100


@dataclass
class Struck:
    """A device of the bench to which something happens in the middle of a job; otherwise it is that device.

    Attributes:
        device: from :func:`lab.devices.connect.connected`.
        strike: what happens; None once it has.
        after: after so many events of a job; negative: before its first.
        silence_s: what stands for the minute of silence after which a device hangs, until it met its fault; None: that
            minute.
        met: errors after which the lab has climbed the device's ladder by itself.
    """

    device: Device
    strike: Callable[[], None] | None = None
    after: int = 4
    silence_s: float | None = None
    met: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Exact counts run on an instance of their own, which no fault reaches.
        capabilities = self.device.identity.capabilities - {"counts"}
        self.identity: Identity = replace(self.device.identity, capabilities=capabilities)

    def deploy(self, artifact: Artifact) -> Hello:
        return self.device.deploy(artifact)

    def run(self, job: Job, *, silence_s: float = 60.0) -> Iterator[Event]:
        if self.strike is not None and self.after < 0:
            strike, self.strike = self.strike, None
            strike()
        events = self.device.run(job, silence_s=self.silence_s or silence_s)
        for number, event in enumerate(events):
            if number == self.after and self.strike is not None:
                strike, self.strike = self.strike, None
                strike()
            yield event

    def reset(self, kind: ResetKind) -> Hello:
        return self.device.reset(kind)

    def recover(self) -> Rung:
        error = sys.exc_info()[1]
        if error is not None:
            self.met.append(error)
        return self.device.recover()

    def meter(self) -> Meter | None:
        return self.device.meter()

    def evidence(self) -> Mapping[str, str]:
        return self.device.evidence() if isinstance(self.device, Evident) else {}

    def close(self) -> None:
        self.device.close()


@dataclass(frozen=True)
class Aftermath:
    """What a test left that met a fault.

    Attributes:
        error: what it ended with; None where it passed.
        run: as stored.
        trace: as stored, None where there is none.
        noted: the line of the device's history.
        verdict: what was said of the device.
    """

    error: LabError | None
    run: Run
    trace: Trace | None
    noted: health.Outcome
    verdict: fixtures.trust.Verdict


def kept(run: Run, trace: Trace | None) -> tuple[str, ...]:
    """What the store holds of a run, in the words of the catalogue."""
    metrics = {record.metric for record in run.records}
    seen = dict(run.detail.evidence)
    there = {
        f"a run marked `{run.status}`": True,
        "its latencies": "latency" in metrics,
        "its energy": "energy" in metrics,
        "the crash report": "registers:" in run.error,
        "the console": bool(seen.get("console")),
        "the probe's log": bool(seen.get("probe")),
        "the trace": trace is not None,
        "why energy is rejected": bool(run.detail.rejections),
        "why it was measured again": bool(run.retries),
    }
    return tuple(word for word, is_there in there.items() if is_there)


class FaultBench:
    """One device and a store of the test's own.

    Args:
        entry: the device's entry in a bench file.
        device: connected.
        folder: takes the store.
    """

    def __init__(self, entry: Entry, device: Device, folder: Path) -> None:
        self.entry = entry
        self.device = Struck(device)
        self.folder = folder / "store"

    @property
    def emulator(self) -> McuEmulator:
        """What an emulated board runs in now."""
        assert isinstance(self.device.device, Mcu)
        target = self.device.device._target
        assert isinstance(target, EmulatedTarget)
        assert target.emulator is not None
        return target.emulator

    @property
    def image(self) -> Artifact:
        """What is deployed."""
        assert isinstance(self.device.device, Mcu)
        return self.device.device._deployed()

    def suffer(self, strike: Callable[[], None] | None = None, variant: str = "", repeats: int = PASSES) -> Aftermath:
        """Deploy and measure as the plugin does, meet the fault, and have the device looked after.

        Args:
            strike: makes the fault happen in the middle of a job; None where it is there before, or in the variant.
            variant: of the workload ``faulty``.
            repeats: passes over the samples; so many that there is a middle.
        """
        device, error = self.device, None
        device.strike = strike
        with Store(self.folder) as store:
            try:
                self._measure(store, FAULTED, variant, repeats)
            except LabError as caught:
                error = caught
            # The check and the next test may be slow.
            device.silence_s = None
            assert device.strike is None, "the fault came"
            (run,) = store.runs()
            trace = store.trace(run.run_id)
        verdict = self.look_after(FAULTED, error)
        return Aftermath(error, run, trace, health.outcomes(self.folder, self.entry.name)[-1], verdict)

    def look_after(self, test: str, error: BaseException | None) -> fixtures.trust.Verdict:
        """What the plugin does after a test on hardware."""
        return fixtures.trust.look_after(
            self.entry, self.device, test, error, store=self.folder, cache=cache_dir()
        )

    def mended(self) -> None:
        """A person has seen to the cause, and says so."""
        assert self.entry.name in quarantined(self.folder)
        done = CliRunner().invoke(main, ["device", "heal", self.entry.name], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert not quarantined(self.folder)

    def next_test_passes(self) -> None:
        """A test that knows nothing of what was before it."""
        with Store(self.folder) as store:
            self._measure(store, "test_that_comes_next", "", 1)
            assert [run.status for run in store.runs() if run.test == "test_that_comes_next"] == ["passed"]
        assert self.look_after("test_that_comes_next", None) == fixtures.trust.Verdict()

    def _measure(self, store: Store, test: str, variant: str, repeats: int) -> None:
        workload = faulty_workload.NAME
        try:
            deployment = runs.deploy(self.entry, self.device, workload, cache_dir(), variant)
        except (DeviceError, InfrastructureError) as error:
            store.save(runs.not_deployed(self.entry, self.device, workload, variant, error, SESSION, test))
            raise
        runs.measure(deployment, store, SESSION, repeats=repeats, test=test)


def hold(fault: Fault, bench: FaultBench, after: Aftermath) -> None:
    """What stands in the catalogue is what happened, and the next test on the device passes."""
    by_hand = fault.recovery.startswith(BY_HAND)
    # What follows a semicolon is done by a person.
    rung = fault.recovery.partition(";")[0]
    found: dict[str, object] = {"error": type(after.error) if after.error is not None else None}
    if fault.ends == "measured again":
        assert after.error is None, after.error
        (met,) = bench.device.met
        assert isinstance(met, InfrastructureError)
        found["error"] = type(met)
        (retry,) = after.run.retries
        found["recovery"] = retry.rpartition("(recovered by ")[2].rstrip(")")
    else:
        found["recovery"] = fault.recovery if by_hand else after.noted.rung or NONE_NEEDED
    found["kept"] = kept(after.run, after.trace)
    said = {"error": fault.error, "recovery": fault.recovery if by_hand else rung, "kept": fault.kept}
    assert found == said, f"{found} and not {said}: {after.error}"
    assert after.noted.verdict == _NOTED.get(fault.side if after.error is not None else "", "product")
    assert after.verdict.trusted == (not by_hand)
    if by_hand:
        bench.mended()
    bench.next_test_passes()


_NOTED: Mapping[str, health.Verdict] = {"": "passed", "infrastructure": "infrastructure", "device": "device"}


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A computer that is busy with other things changes no rung and no rate."""
    monkeypatch.setattr("lab.devices.mcu.RESYNC_TIMEOUT_S", 10.0)
    monkeypatch.setattr("lab.wire_link._BAUD_ACKNOWLEDGE_S", 10.0)


@pytest.fixture(autouse=True)
def faulty_health_check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The health check takes the image that is there already; the store is the test's own."""
    monkeypatch.setenv("LAB_STORE", str(tmp_path / "store"))
    faulty_workload.register()
    monkeypatch.setattr(fixtures.trust, "HEALTH_WORKLOAD", faulty_workload.NAME)
