"""Which commit did it: search the history between a good and a bad commit by measuring.

Every commit that is looked at is checked out in a clone of its own and measured there by its own ``lab run``, with its
own firmware and compiler passes; the repository and the store of the user are left alone. Merges and commits that
cannot be measured are handled as by ``git bisect``, whose choice of commits (``git rev-list --bisect-all``) is used.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from lab.errors import ConfigError, LabError, ToolMissing, WorkloadError
from lab.paths import cache_dir, config_dir, state_dir
from measurements.baseline import figure_of
from measurements.record import RunDetail
from measurements.regression import (
    MINIMUM_EFFECT,
    Change,
    History,
    MovedLayer,
    detect,
    is_exact,
    moved_layers,
    relative_change,
)
from measurements.store import Store

Verdict = Literal["good", "bad", "skipped"]

_GIT_TIMEOUT_S = 120.0
_SHOWN_LINES = 3


@dataclass(frozen=True)
class Question:
    """What is measured at every commit.

    Attributes:
        workload, variant, device: what runs where.
        metric, region: which figure is followed.
        samples: use only the first so many samples; None for all.
        config: bench file; the commit's own emulated bench where it is that one.
        timeout_s: longest time that one commit may take.
    """

    workload: str
    device: str
    metric: str = "instructions"
    region: str = "inference"
    variant: str = ""
    samples: int | None = None
    config: Path = field(default_factory=lambda: config_dir() / "emulated.yaml")
    timeout_s: float = 1800.0


@dataclass(frozen=True)
class Measured:
    """The figure at one commit, in ``unit``; ``exact`` says that it repeats exactly."""

    value: float
    unit: str
    exact: bool
    detail: RunDetail = field(default_factory=RunDetail)


@dataclass(frozen=True)
class Probe:
    """One commit that was looked at; ``measured`` is None, with the ``reason``, where it could not be measured."""

    commit: str
    subject: str
    verdict: Verdict
    measured: Measured | None
    reason: str = ""


@dataclass(frozen=True)
class Answer:
    """What the search found.

    Attributes:
        suspects: the first bad commit alone, or, newest first, all that it may be where some could not be measured.
        probes: every commit that was looked at, in order; the two ends come first.
        before, after: the figure at the last good commit that was measured, and at the first bad one.
        layers: layers of the model whose cost differs between these two.
    """

    suspects: tuple[str, ...]
    probes: tuple[Probe, ...]
    before: Measured
    after: Measured
    layers: tuple[MovedLayer, ...]


def search(
    repository: Path,
    good: str,
    bad: str,
    measure: Callable[[str], Measured],
    tell: Callable[[Probe], None] = lambda probe: None,
) -> Answer:
    """Find the first bad commit between two.

    A commit is bad where its figure is at least half way from that of the good end to that of the bad one, so that the
    change that matters most is found where several changed it.

    Args:
        repository: a git checkout.
        good, bad: revisions; the good one is an ancestor of the bad one.
        measure: measures a commit; a :class:`LabError` from it sets the commit aside.
        tell: is told of every probe as it ends.

    Raises:
        ConfigError: a revision is unknown, the good one is no ancestor, or the figure does not differ between them.
        LabError: one of the two ends cannot be measured.
    """
    first, last = resolve(repository, good), resolve(repository, bad)
    if first == last or _git(repository, "merge-base", first, last) != first:
        raise ConfigError(
            f"{good} ({first[:10]}) is not an ancestor of {bad} ({last[:10]})",
            hint="name an older commit that is good and a newer one that is bad",
        )
    probes: dict[str, Probe] = {}

    def note(commit: str, verdict: Verdict, measured: Measured | None, reason: str = "") -> None:
        subject = _git(repository, "log", "-1", "--format=%s", commit)
        probes[commit] = Probe(commit, subject, verdict, measured, reason)
        tell(probes[commit])

    at_first, at_last = measure(first), measure(last)
    _check_ends(good, at_first, bad, at_last)
    note(first, "good", at_first)
    note(last, "bad", at_last)
    known_good, known_bad = [first], last
    while (commit := _next(repository, known_good, known_bad, probes)) is not None:
        try:
            measured = measure(commit)
        except LabError as error:
            note(commit, "skipped", None, error.message)
            continue
        if _is_bad(measured, at_first, at_last):
            known_bad = commit
            note(commit, "bad", measured)
        else:
            known_good.append(commit)
            note(commit, "good", measured)
    suspects = _git(repository, "rev-list", known_bad, "--not", *known_good).split()
    before = _last_good(repository, known_good, known_bad, probes) or at_first
    after = probes[known_bad].measured or at_last
    return Answer(
        tuple(suspects), tuple(probes.values()), before, after, moved_layers(before.detail, after.detail)
    )


def _check_ends(good: str, at_good: Measured, bad: str, at_bad: Measured) -> None:
    least = 0.0 if at_good.exact else MINIMUM_EFFECT
    if at_good.value == at_bad.value or abs(relative_change(at_good.value, at_bad.value)) < least:
        raise ConfigError(
            f"{good} and {bad} do not differ: {at_good.value:.12g} and {at_bad.value:.12g} {at_good.unit}",
            hint="check the two commits, the metric and the region; --samples may leave out what got slower",
        )


def _is_bad(measured: Measured, at_good: Measured, at_bad: Measured) -> bool:
    return abs(measured.value - at_bad.value) <= abs(measured.value - at_good.value)


def _next(repository: Path, good: list[str], bad: str, probes: dict[str, Probe]) -> str | None:
    """The untested commit that halves the rest best; None where none is left."""
    ranked = _git(repository, "rev-list", "--bisect-all", bad, "--not", *good).splitlines()
    return next((commit for commit in (line.split()[0] for line in ranked) if commit not in probes), None)


def _last_good(repository: Path, good: list[str], bad: str, probes: dict[str, Probe]) -> Measured | None:
    """What was measured at the nearest good ancestor of the first bad commit."""
    ancestors = _git(repository, "rev-list", bad).split()
    return next((probes[commit].measured for commit in ancestors if commit in good), None)


def resolve(repository: Path, revision: str) -> str:
    """Full hash of a revision.

    Raises:
        ConfigError: the repository does not know it, or is none.
    """
    try:
        return _git(repository, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    except ConfigError as error:
        raise ConfigError(
            f"{repository}: there is no commit {revision!r}", hint="`git log --oneline` lists commits"
        ) from error


def last_change(known: list[History], question: Question) -> Change:
    """The latest regression in the histories of what is asked.

    Raises:
        ConfigError: there is none, or its commits are not known well enough to search between them.
    """
    subject = (question.device, question.workload, question.variant, question.region, question.metric)
    of_it = [history for history in known if history.key.subject[:5] == subject]
    found = [
        (history.started_ns[change.index], change)
        for history in of_it
        for change in detect(history)
        if change.kind == "regression"
    ]
    what = f"{question.device}: {question.workload}: {question.metric} [{question.region}]"
    if not found:
        nights = sum(len(history.values) for history in of_it)
        raise ConfigError(
            f"{what}: no regression in {nights} nights of the store",
            hint="name the commits: --good REVISION --bad REVISION",
        )
    change = max(found, key=lambda one: one[0])[1]
    for commit in (change.last_good_commit, change.first_bad_commit):
        if not commit or commit.endswith("-dirty"):
            raise ConfigError(
                f"{what}: the regression lies between {change.last_good_commit or 'an unknown commit'} and "
                f"{change.first_bad_commit or 'an unknown commit'}: only commits can be searched, not edited trees",
                hint="name the commits: --good REVISION --bad REVISION",
            )
    return change


# ---- measuring a commit -------------------------------------------------------------------------------------------


@contextmanager
def measuring(repository: Path, question: Question) -> Iterator[Callable[[str], Measured]]:
    """Measures commits of a repository in a clone that is removed in the end."""
    with TemporaryDirectory(prefix="lab-bisect-") as folder:
        clone = Path(folder) / "clone"
        _git(repository, "clone", "--quiet", "--shared", "--no-checkout", str(repository.absolute()), str(clone))

        def measure(commit: str) -> Measured:
            _git(clone, "checkout", "--quiet", "--force", "--detach", commit)
            _git(clone, "clean", "-dffxq")
            store = Path(folder) / f"store-{commit}"
            _run_in(clone, store, question)
            return _figure(store, commit, question)

        yield measure


def _run_in(clone: Path, store: Path, question: Question) -> None:
    """Run the workload with the lab of a checkout."""
    command = [sys.executable, "-m", "lab", "run", question.workload, "--device", question.device]
    command += ["--variant", question.variant] if question.variant else []
    command += ["--samples", str(question.samples)] if question.samples is not None else []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LAB_INFLUX_")}
    environment.pop("LAB_CONFIG", None)
    if question.config != config_dir() / "emulated.yaml":
        environment["LAB_CONFIG"] = str(question.config)
    environment |= {
        "LAB_STORE": str(store),
        "LAB_STATE": str(state_dir()),
        "LAB_CACHE": str(cache_dir()),
        "LAB_REPORTS": str(store.parent / "reports"),
        "PYTHONPATH": str(clone),
        # Sources that change within a second and keep their size would be taken from stale byte code.
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    try:
        done = subprocess.run(
            command, cwd=clone, env=environment, capture_output=True, text=True, timeout=question.timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise WorkloadError(f"not measured within {question.timeout_s:g} s") from error
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise WorkloadError("; ".join(lines[-_SHOWN_LINES:]) or f"`lab run` ended with {done.returncode}")


def _figure(folder: Path, commit: str, question: Question) -> Measured:
    with Store(folder) as store:
        runs = store.runs()
    for run in runs:
        if run.provenance.git_commit != commit:
            raise WorkloadError(
                f"measured {run.provenance.git_commit or 'a tree without git'} instead of {commit}",
                hint="the clone's own package must come first on the import path",
            )
        for record in run.records:
            if (record.region, record.metric) == (question.region, question.metric):
                exact = is_exact(record.metric, record.source, run.provenance.clock)
                return Measured(figure_of(record, exact), record.unit, exact, run.detail)
    there = sorted({f"{record.metric} [{record.region}]" for run in runs for record in run.records})
    raise WorkloadError(f"no {question.metric} [{question.region}] was measured; there is {', '.join(there) or 'none'}")


def _git(repository: Path, *arguments: str) -> str:
    """Standard output of git, stripped.

    Raises:
        ToolMissing: git is not installed.
        ConfigError: git refuses.
    """
    program = shutil.which("git")
    if program is None:
        raise ToolMissing("git is not installed", hint="apt install git")
    command = (program, "-C", str(repository), *arguments)
    done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=False)
    if done.returncode != 0:
        said = done.stderr.strip() or f"it ended with {done.returncode}"
        raise ConfigError(f"{repository}: git {arguments[0]}: {said}", hint="--repository names a git checkout")
    return done.stdout.strip()
