"""A method and its baselines on one device in one session, and what comes of the paper's claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TypeAlias

from lab import progress
from lab.devices.base import Device
from lab.errors import DoesNotFit, NoPyTorch, WorkloadError
from lab.inventory import Device as Entry
from lab.measured import Measurement
from lab.metered import EnergyPlan
from lab.runs import deploy, measure
from lab.torch_programs import VARIANT, split_variant
from lab.workloads.base import Claim, DeviceClass, Workload
from measurements.claims import ClaimResult
from measurements.effects import Value, effect, share
from measurements.record import Run
from measurements.store import Store

Arm: TypeAlias = Callable[[str], Measurement]
"""Deploys and measures the workload in a variant, and returns what is in the store by then."""


@dataclass(frozen=True)
class Comparison:
    """A method and its baselines, measured.

    Attributes:
        method: the method's first measurement, whose run holds the claims.
        baselines: the first measurement of each baseline by its variant; of what does not fit there is none.
        claims: what came of each claim; empty where nothing was compared.
    """

    method: Measurement
    baselines: Mapping[str, Measurement]
    claims: tuple[ClaimResult, ...]

    def check(self) -> None:
        """Refuse claims that do not hold.

        Raises:
            WorkloadError: a bound is broken; says by how much, and what the paper has.
        """
        if self.method.run.status != "passed":
            raise WorkloadError(self.method.run.error, hint="the workload's page under docs/workloads says what it is")


@dataclass(frozen=True)
class Sizes:
    """How much is measured of each arm: as in :func:`lab.runs.measure`, and ``rounds`` of :func:`compare`."""

    repeats: int = 1
    samples: int | None = None
    rounds: int = 1
    energy: EnergyPlan | None = None


def run_on(
    entry: Entry,
    device: Device,
    workload: Workload,
    variant: str,
    store: Store,
    session_id: str,
    sizes: Sizes,
    cache: Path,
    *,
    baselines: bool = True,
    told: Callable[[Run], None] = lambda run: None,
) -> Comparison:
    """Deploy and measure a method and its baselines on a device; see :func:`compare`.

    Args:
        entry, device: the bench entry and the connected device.
        workload, variant: the method.
        store, session_id: where the runs go.
        sizes: how much is measured.
        cache: where prepared workloads and images lie.
        baselines: whether those run too.
        told: gets each run as soon as it is stored.

    Raises:
        LabError: as :func:`lab.runs.deploy` and :func:`lab.runs.measure`.
    """

    def arm(chosen: str) -> Measurement:
        deployment = deploy(entry, device, workload.id, cache, chosen)
        measurement = measure(
            deployment, store, session_id, repeats=sizes.repeats, samples=sizes.samples, energy=sizes.energy
        )
        told(measurement.run)
        return measurement

    on = entry.board.device_class
    return compare(workload, variant, arm, store, rounds=sizes.rounds, baselines=baselines, on=on)


def compare(
    workload: Workload,
    variant: str,
    arm: Arm,
    store: Store,
    *,
    rounds: int = 1,
    baselines: bool = True,
    on: DeviceClass = "mcu",
) -> Comparison:
    """Measure a method and its baselines, and write what comes of the claims into the method's run.

    Several rounds are interleaved, every second one in the opposite order, so that a drift of the device meets all
    alike. A bound counts for the default variant and the data for which it was stated; of others ours is told.

    Args:
        workload: the method.
        variant: of the method; an option that it sets itself is no baseline's to set.
        arm: measures one variant.
        store: holds the runs.
        rounds: how often each is measured.
        baselines: without them the method runs alone, and claims of its own run are all that is judged.
        on: class of the device; a bound counts where it was stated for this class.

    Raises:
        LabError: what went wrong with the method or a baseline. A baseline that does not fit the device, or that
            needs PyTorch where there is none, is not an error: its claims say so.
        WorkloadError: what a baseline computed is not acceptable; raised after all others were measured and the claims
            that need none of it were judged.
    """
    names = baselines_of(workload, variant) if baselines else ()
    done, lacking, refused = _measured(workload, variant, arm, ("", *names), rounds)
    claimed = [claim for claim in workload.claims if not claim.baseline or claim.baseline in names]
    method, default = done[""][0], not split_variant(variant)[1]
    data = method.run.provenance.dataset
    claims = tuple(
        _judge(
            claim, variant, done, lacking,
            enforced=default and on in claim.bound_on and claim.bound_data in ("", data),
        )
        for claim in claimed
    )  # fmt: skip
    if claims:
        method = replace(method, run=_with_claims(method.run, claims))
        store.amend(method.run)
    if refused:
        raise refused[0]
    return Comparison(method, {name: done[name][0] for name in names if done[name]}, claims)


def _measured(
    workload: Workload, variant: str, arm: Arm, order: Sequence[str], rounds: int
) -> tuple[dict[str, list[Measurement]], dict[str, str], list[WorkloadError]]:
    """Every arm by its name, why there is none of some, and what of theirs was not acceptable."""
    done: dict[str, list[Measurement]] = {name: [] for name in order}
    lacking: dict[str, str] = {}
    refused: list[WorkloadError] = []
    for number in range(rounds):
        for name in order if number % 2 == 0 else reversed(order):
            if name in lacking:
                continue
            try:
                done[name].append(arm(joined(variant, name)))
            except (DoesNotFit, NoPyTorch, WorkloadError) as error:
                if not name:
                    raise
                if isinstance(error, WorkloadError):
                    refused.append(error)
                lacking[name] = error.message.splitlines()[0]
                progress.say(f"  {workload.id} ({joined(variant, name)}): {lacking[name]}")
    return done, lacking, refused


def baselines_of(workload: Workload, variant: str) -> tuple[str, ...]:
    """Baselines that run beside a variant: none of those that would change what the variant asks for."""
    asked = _options(variant)
    return tuple(one for one in workload.baselines if not _options(one) & asked)


def joined(variant: str, baseline: str) -> str:
    """The variant of a baseline: its options after the method's own; ``pytorch`` comes first."""
    asked = [split_variant(one) for one in (variant, baseline)]
    first = VARIANT if any(on_pytorch for on_pytorch, _ in asked) else ""
    return ",".join(filter(None, (first, *(own for _, own in asked))))


def alternatives(variant: str) -> tuple[str, ...]:
    """The variants of a grid: ``network=cnn|ds-cnn,data=x|y`` is four of them, the last option changing fastest."""
    items = [item.partition("=") for item in variant.split(",") if item]
    each = [[f"{name}{equals}{value}" for value in values.split("|")] for name, equals, values in items]
    return tuple(",".join(chosen) for chosen in product(*each))


def _options(variant: str) -> set[str]:
    return {item.partition("=")[0] for item in variant.split(",") if item}


def _judge(
    claim: Claim,
    variant: str,
    done: Mapping[str, Sequence[Measurement]],
    lacking: Mapping[str, str],
    *,
    enforced: bool,
) -> ClaimResult:
    found = ClaimResult(
        system=claim.system, text=claim.text, source=claim.source, metric=claim.metric, region=claim.region,
        form=claim.form, paper=claim.paper, why=claim.why, at_least=claim.at_least, at_most=claim.at_most,
        baseline=joined(variant, claim.baseline) if claim.baseline else "", enforced=enforced,
    )  # fmt: skip
    if claim.baseline in lacking:
        return replace(found, missing=lacking[claim.baseline])
    place = claim.against or (claim.metric, claim.region)
    method = [_value(one, claim.metric, claim.region) for one in done[""]]
    base = [_value(one, *place) for one in done[claim.baseline]]
    for values, (metric, region) in ((method, (claim.metric, claim.region)), (base, place)):
        if None in values:
            return replace(found, missing=f"no {metric} of {region!r} was measured here")
    known = [one for one in method if one is not None], [one for one in base if one is not None]
    compared = effect(claim.form, *known)
    found = replace(found, method=known[0][0].value, base=known[1][0].value, unit=_unit(done[""][0], claim))
    if compared is None:
        return replace(found, missing="one of the two figures is 0")
    return replace(found, ours=compared.value, low=compared.low, high=compared.high, rounds=len(known[0]))


def _value(measurement: Measurement, metric: str, region: str) -> Value | None:
    for score in measurement.scores:
        if region == "run" and score.metric == metric and score.trials:
            return share(score.value, score.trials)
    for record in measurement.run.records:
        if (record.metric, record.region) == (metric, region):
            return Value(record.median, record.ci_low, record.ci_high)
    return None


def _unit(measurement: Measurement, claim: Claim) -> str:
    return measurement.record(claim.metric, claim.region).unit


def _with_claims(run: Run, claims: tuple[ClaimResult, ...]) -> Run:
    """The run with its claims; failed where one is broken."""
    told = replace(run, detail=replace(run.detail, claims=claims))
    broken = [
        f"{one.system}, {one.source}: {one.metric} of {one.region!r} against {one.baseline or 'its own run'} is "
        f"{one.found}; it must be {one.bound} (the paper: {one.said})"
        for one in claims
        if one.verdict == "broken"
    ]
    return replace(told, status="failed", error="\n".join(("a claim does not hold:", *broken))) if broken else told
