"""One workload on one device, from preparation to records: what the pytest plugin and the command line share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lab import progress
from lab.artifact import Accelerator, Artifact
from lab.attempt import Attempt, Status
from lab.build import build, check_fits, runner_ram_bytes
from lab.deployment import Deployment, evidence_of
from lab.devices.base import Device, Rung
from lab.devices.connect import console_of
from lab.errors import ConfigError, Hang, HostKeyChanged, InfrastructureError, LabError, LeaseLost
from lab.interrupt import limited
from lab.inventory import Device as Entry
from lab.measured import Measurement
from lab.metered import EnergyPlan
from lab.passes import Capture, collect
from lab.provenance import checkout, lab_version
from lab.torch_programs import (
    artifact_of,
    in_pytorch,
    named,
    require_accelerator,
    split_accelerator,
    split_variant,
)
from lab.training import checkpoint, forget
from lab.workloads import get
from lab.workloads.base import Prepared, Room, Survey
from measurements.record import Provenance, Record, Run, RunDetail
from measurements.store import Store, new_run_id
from measurements.training import training_latency_records

COUNTING_CLOCKS = frozenset(("dwt", "systick", "cntvct", "virtual"))


def deploy(
    entry: Entry, device: Device, workload: str, cache: Path, variant: str = "", *, limit_s: float | None = None
) -> Deployment:
    """Prepare a workload, build it for a device and put it there; everything that was done before is cached.

    Args:
        entry: the bench entry.
        device: the connected device.
        workload, variant: what to deploy.
        cache: where prepared workloads and images lie.
        limit_s: how long putting the image there and starting it may take; None for ever. Preparing and building are
            this computer's work, which takes long once.

    Raises:
        ConfigError: unknown workload, no firmware for the board, or the model does not fit.
        NoPyTorch: the variant is ``pytorch``, and the device has no Python, or not the accelerator that was asked for.
        DeviceError, InfrastructureError: the image does not start, or not in time.
    """
    board = entry.board
    if board.firmware_board is None:
        raise ConfigError(
            f"board {board.kind!r} has no firmware yet",
            hint="add a folder in firmware/boards and name it in the board file",
        )
    on_pytorch, own_variant = split_variant(variant)
    accelerator: Accelerator = "cpu"
    if on_pytorch:
        accelerator, own_variant = split_accelerator(own_variant)
        require_accelerator(device, accelerator)
    prepared = get(workload).prepare(cache, own_variant)
    if on_pytorch:
        prepared, program = in_pytorch(workload, prepared, accelerator)
        artifact = artifact_of(program, prepared.model.name, board.firmware_board, cache, accelerator)
        return _started(entry, device, workload, variant, prepared, artifact, limit_s)
    survey: tuple[Record, ...] = ()
    if prepared.survey is not None:
        first = Prepared(
            prepared.survey.model, prepared.survey.jobs[0], prepared.dataset, prepared.reference_outputs, prepared.seed,
            prepared.parameters, prepared.check,
        )  # fmt: skip
        artifact = _built(entry, workload, first, cache)
        surveying = _started(entry, device, workload, variant, first, artifact, limit_s)
        prepared, survey = _surveyed(surveying, prepared.survey)
    artifact = _built(entry, workload, prepared, cache)
    return replace(_started(entry, device, workload, variant, prepared, artifact, limit_s), survey=survey)


def _built(entry: Entry, workload: str, prepared: Prepared, cache: Path) -> Artifact:
    """The image of a model that fits the device's board."""
    board = entry.board
    name, memory = board.firmware_board or "", board.memory
    check_fits(prepared.model, memory.flash_bytes, memory.ram_bytes, memory.arena_limit_bytes, name)
    with progress.step(f"building {workload} for {board.kind}", quiet_below_s=2.0):
        console, peaks = console_of(entry), prepared.roofline is not None
        return build(prepared.model, name, cache=cache, console=console, peaks=peaks, job_bytes=_job_bytes(prepared))


def _job_bytes(prepared: Prepared) -> int:
    """Of the job that sends most."""
    jobs = [prepared.job, *([] if prepared.training is None else [prepared.training.job])]
    return max(sum(map(len, job.all_blobs.values())) for job in jobs)


def _surveyed(deployment: Deployment, survey: Survey) -> tuple[Prepared, tuple[Record, ...]]:
    """Run the jobs of a survey; what it decides on, and what the last job took, in regions of its own."""
    device, entry, hello = deployment.device, deployment.entry, deployment.hello
    forget(device)
    capture = Capture()
    for number, job in enumerate(survey.jobs, start=1):
        capture = Capture()
        title = f"{deployment.workload} on {entry.name}: survey {number} of {len(survey.jobs)}"
        count = job.count * job.repeats
        with progress.step(title, quiet_below_s=2.0) as step:
            for _ in collect(device, replace(job, marker_line=False), capture):
                step.update(len(capture.metrics), count)
    memory = entry.board.memory
    room = Room(memory.ram_bytes - runner_ram_bytes(entry.board.firmware_board or ""), memory.arena_limit_bytes)
    prepared = survey.decide(checkpoint(device).variables, room)
    taken = training_latency_records(capture.events, hello.clock_hz, hello.clock, device.identity.source)
    return prepared, tuple(replace(one, region=one.region.replace("train.", "survey.")) for one in taken)


def _started(
    entry: Entry,
    device: Device,
    workload: str,
    variant: str,
    prepared: Prepared,
    artifact: Artifact,
    limit_s: float | None,
) -> Deployment:
    with limited(limit_s, lambda: _late_deploy(entry, workload, limit_s), ladder=True):
        hello = device.deploy(artifact)
    if device.identity.source == "emulated":
        # Also the counter of a real board's image: what an emulator advances are instructions.
        hello = replace(hello, clock="virtual" if hello.clock in COUNTING_CLOCKS else "guest")
    return Deployment(entry, device, workload, variant, prepared, named(artifact, device), hello)


def _late_deploy(entry: Entry, workload: str, limit_s: float | None) -> InfrastructureError:
    return InfrastructureError(
        f"{entry.name}: the phase deploy of {workload} took longer than its limit of {limit_s:g} s",
        hint="is the link to the device slow or dead? --lab-timeout-deploy sets the limit",
    )


def _late_run(deployment: Deployment, limit_s: float | None) -> Hang:
    return Hang(
        f"{deployment.entry.name}: the phase run of {deployment.workload} took longer than its limit of {limit_s:g} s",
        hint="--lab-timeout-run sets the limit",
    )


def not_deployed(
    entry: Entry, device: Device, workload: str, variant: str, error: LabError, session_id: str, test: str
) -> Run:
    """The record of a deployment that failed on the device or the bench: no figures, but why and what was seen.

    Args:
        entry, device, workload, variant: as for :func:`deploy`.
        error: what it raised.
        session_id: what the run belongs to.
        test: pytest node id.
    """
    tree = checkout()
    provenance = Provenance(
        device=entry.name, board=entry.board.kind, clock="", clock_hz=0.0, emulator=device.identity.emulator, meter="",
        meter_uncertainty=0.0, energy_model="", workload=workload, variant=variant, parameters={}, seed=0, dataset="",
        dataset_digest="", artifact_digest="", build_id="", toolchain="", flags="", git_commit=tree.commit,
        git_dirty=tree.dirty, lab_version=lab_version(),
    )  # fmt: skip
    return Run(
        run_id=new_run_id(),
        session_id=session_id,
        started_ns=time.time_ns(),
        status=status_of(error),
        provenance=provenance,
        records=(),
        detail=RunDetail(evidence=evidence_of(device)),
        error=str(error),
        test=test,
    )


def measure(
    deployment: Deployment,
    store: Store,
    session_id: str,
    *,
    repeats: int = 1,
    test: str = "",
    samples: int | None = None,
    energy: EnergyPlan | None = None,
    reruns: Sequence[str] = (),
    limit_s: float | None = None,
) -> Measurement:
    """Run the deployed workload and turn what comes back into records; stored before it is returned.

    Passes: all samples for latency, memory and results; the first 32 with the power meter; one sample layer by layer;
    one with the emulator's exact counts. Where the workload is trained on the device, training comes first in each of
    them, and the device is left with the values of the first. A transient failure of the bench is tried again once on
    the recovered device.

    Args:
        deployment: from :func:`deploy`.
        store: where the run goes, whatever becomes of it.
        session_id: what the run belongs to.
        repeats: timed passes over each sample.
        test: pytest node id.
        samples: use only the first so many samples.
        energy: how long and how often energy is measured; without it, long windows on hardware and short ones on
            emulators.
        reruns: why the whole test ran before; kept in the run.
        limit_s: how long all passes may take, seconds; None for ever.

    Raises:
        Hang: not done within ``limit_s``.
        MeasurementRejected: energy was measured and must not be published; everything else was measured to its end,
            and is stored with the reason and the trace.
        LabError: what went wrong; the run is stored with what was captured and the error's text. Where the store fails
            as well, a note on the error says so.
    """
    retries: list[str] = []
    while True:
        attempt = Attempt(deployment, session_id, test, (*reruns, *retries), energy)
        try:
            with limited(limit_s, lambda: _late_run(deployment, limit_s)):
                measurement = attempt.measure(repeats, samples)
        except LabError as error:
            if retries or not (isinstance(error, InfrastructureError) and error.transient):
                attempt.keep(store, error, status_of(error))
                raise
            rung = _recovered(deployment, attempt, store, error, limit_s)
            retries.append(f"{error.message.splitlines()[0]} (recovered by {rung})")
        except BaseException as error:
            # Ctrl-C and the time-outs of pytest are no errors of the lab; what was captured is kept all the same.
            attempt.keep(store, error, "incomplete")
            raise
        else:
            store.save(measurement.run, measurement.trace)
            return measurement


def _recovered(
    deployment: Deployment, attempt: Attempt, store: Store, error: LabError, limit_s: float | None
) -> Rung:
    """Bring the device back after an attempt; where it stays away, the attempt is kept and the reason raised."""
    try:
        with limited(limit_s, lambda: _late_run(deployment, limit_s), ladder=True):
            return deployment.device.recover()
    except (HostKeyChanged, LeaseLost) as worse:
        # What the device cannot be brought back from is what a person has to know.
        attempt.keep(store, worse, status_of(worse))
        raise
    except LabError as worse:
        attempt.keep(store, error, status_of(error))
        raise error from worse


def status_of(error: BaseException) -> Status:
    """``error`` when the bench failed, ``failed`` when the device, the workload or the test did."""
    return "error" if isinstance(error, InfrastructureError) else "failed"
