"""The search over real git histories, with figures that are read from a file of each commit."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.night_runs import HARDWARE, PROVENANCE, counted, night, noisy, save

from lab.bisect import Measured, Probe, Question, _figure, last_change, measuring, resolve, search
from lab.cli import main
from lab.errors import ConfigError, LabError, WorkloadError
from measurements import load
from measurements.record import Layer, RunDetail
from measurements.regression import histories

_IDENTITY = ("-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")


class History:
    """A repository whose commits carry a figure in the file ``cost``; ``-`` cannot be measured."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.git("init", "-q", "-b", "main")
        self.measured: list[str] = []

    def git(self, *arguments: str) -> str:
        command = ("git", "-C", str(self.root), *_IDENTITY, *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def commit(self, cost: str) -> str:
        (self.root / "cost").write_text(cost)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", f"costs {cost}")
        return self.git("rev-parse", "HEAD")

    def measure(self, commit: str) -> Measured:
        self.measured.append(commit)
        text = self.git("show", f"{commit}:cost")
        if text == "-":
            raise WorkloadError("does not build")
        layer = Layer(0, "conv", "conv", 0, 0, instructions=int(float(text)))
        return Measured(float(text), "instructions", "." not in text, RunDetail(layers=(layer,)))


@pytest.fixture
def repository(tmp_path: Path) -> History:
    return History(tmp_path)


@pytest.mark.parametrize("first_bad", range(1, 10))
def test_the_first_bad_commit_is_found_wherever_it_is(repository: History, first_bad: int) -> None:
    commits = [repository.commit("101" if number >= first_bad else "100") for number in range(10)]
    answer = search(repository.root, commits[0], commits[-1], repository.measure)
    assert answer.suspects == (commits[first_bad],)
    assert (answer.before.value, answer.after.value) == (100.0, 101.0)
    assert [(layer.name, layer.difference) for layer in answer.layers] == [("00 conv", 1.0)]
    assert len(repository.measured) <= 2 + 4, "eight between two ends are halved at most four times"
    assert len(set(repository.measured)) == len(repository.measured)


def test_an_improvement_can_be_searched_too(repository: History) -> None:
    commits = [repository.commit(cost) for cost in ("100", "100", "90", "90")]
    assert search(repository.root, commits[0], commits[-1], repository.measure).suspects == (commits[2],)


def test_of_several_changes_the_one_that_crosses_half_the_way_is_named(repository: History) -> None:
    commits = [repository.commit(cost) for cost in ("100", "102", "102", "190", "190", "200")]
    answer = search(repository.root, commits[0], commits[-1], repository.measure)
    assert answer.suspects == (commits[3],)
    assert (answer.before.value, answer.after.value) == (102.0, 190.0)


def test_a_commit_that_does_not_build_is_passed_over(repository: History) -> None:
    commits = [repository.commit(cost) for cost in ("100", "-", "100", "-", "101", "-", "101")]
    told: list[Probe] = []
    answer = search(repository.root, commits[0], commits[-1], repository.measure, told.append)
    assert answer.suspects == (commits[4], commits[3])
    skipped = [probe for probe in told if probe.verdict == "skipped"]
    assert all(probe.reason == "does not build" for probe in skipped)
    assert commits[3] in {probe.commit for probe in skipped}
    assert answer.probes == tuple(told)


def test_a_change_that_came_by_a_merge_is_found_in_its_branch(repository: History) -> None:
    """The merge itself changes nothing, nor does the other side of it."""
    start = repository.commit("100")
    repository.git("checkout", "-q", "-b", "side")
    repository.commit("100")
    culprit = repository.commit("150")
    repository.git("checkout", "-q", "main")
    (repository.root / "other").write_text("x")
    repository.git("add", "-A")
    repository.git("commit", "-q", "-m", "other")
    repository.git("merge", "-q", "--no-ff", "-m", "merge", "side")
    assert search(repository.root, start, "HEAD", repository.measure).suspects == (culprit,)


def test_nothing_is_searched_where_the_ends_do_not_differ(repository: History) -> None:
    commits = [repository.commit(cost) for cost in ("100", "101", "100")]
    with pytest.raises(ConfigError, match="do not differ: 100 and 100 instructions"):
        search(repository.root, commits[0], commits[-1], repository.measure)


def test_a_noisy_figure_has_to_differ_by_more_than_its_noise(repository: History) -> None:
    commits = [repository.commit(cost) for cost in ("100.0", "100.5")]
    with pytest.raises(ConfigError, match="do not differ"):
        search(repository.root, commits[0], commits[-1], repository.measure)


def test_the_good_commit_has_to_come_first(repository: History) -> None:
    commits = [repository.commit(cost) for cost in ("100", "101")]
    with pytest.raises(ConfigError, match="is not an ancestor"):
        search(repository.root, commits[1], commits[0], repository.measure)
    with pytest.raises(ConfigError, match="is not an ancestor"):
        search(repository.root, commits[0], commits[0], repository.measure)


def test_an_end_that_cannot_be_measured_ends_the_search(repository: History) -> None:
    commits = [repository.commit(cost) for cost in ("-", "101")]
    with pytest.raises(LabError, match="does not build"):
        search(repository.root, commits[0], commits[1], repository.measure)


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_an_unknown_revision_is_named(
    repository: History, tmp_path_factory: pytest.TempPathFactory, where: str
) -> None:
    repository.commit("1")
    root = repository.root if where == "inside" else tmp_path_factory.mktemp("no-checkout")
    with pytest.raises(ConfigError, match="there is no commit 'v0'"):
        resolve(root, "v0")


# ---- commits from the store ---------------------------------------------------------------------------------------

QUESTION = Question("kws", "m4f")


def test_the_latest_regression_of_the_store_gives_the_commits(tmp_path: Path) -> None:
    costs = [100.0, 101.0, 101.0, 105.0, 105.0, 90.0]
    known = histories(load(save(tmp_path, [night(i, counted([cost])) for i, cost in enumerate(costs)])))
    change = last_change(known, QUESTION)
    assert (change.last_good_commit, change.first_bad_commit) == ("c2", "c3")


def test_without_a_regression_the_commits_have_to_be_named(tmp_path: Path) -> None:
    known = histories(load(save(tmp_path, [night(i, counted([100.0])) for i in range(3)])))
    with pytest.raises(ConfigError, match="no regression in 3 nights"):
        last_change(known, QUESTION)


@pytest.mark.parametrize("changes", [{"git_dirty": True}, {"git_commit": ""}])
def test_edited_trees_cannot_be_searched(tmp_path: Path, changes: dict[str, object]) -> None:
    runs = [night(0, counted([100.0])), night(1, counted([101.0]), **changes)]
    with pytest.raises(ConfigError, match="only commits can be searched"):
        last_change(histories(load(save(tmp_path, runs))), QUESTION)


# ---- the command --------------------------------------------------------------------------------------------------


@pytest.fixture
def command(private_lab: Path, repository: History, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """``lab bisect`` with a made-up device: the figure is read from the commit."""

    class _Measuring:
        def __init__(self, root: Path, question: Question) -> None:
            assert root == repository.root
            assert (question.workload, question.device) == ("kws", "m4f")

        def __enter__(self) -> Callable[[str], Measured]:
            return repository.measure

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr("lab.bisect.measuring", _Measuring)

    def run(*arguments: str) -> tuple[int, str]:
        words = ["bisect", "kws", "--device", "m4f", "--repository", str(repository.root), *arguments]
        result = CliRunner().invoke(main, words)
        return result.exit_code, result.output

    return run


def test_the_command_tells_each_step_and_names_the_commit(
    repository: History, command: Callable[..., tuple[int, str]]
) -> None:
    commits = [repository.commit(cost) for cost in ("1000", "1000", "1001", "1001")]
    status, output = command("--good", commits[0], "--bad", "HEAD")
    assert status == 0
    lines = output.splitlines()
    assert lines[:2] == [
        f"{commits[0][:10]}  good     1,000 instructions  costs 1000",
        f"{commits[3][:10]}  bad      1,001 instructions  costs 1001",
    ]
    assert lines[-3:] == [
        f"first bad commit: {commits[2]} costs 1001",
        "instructions [inference]: 1,000 -> 1,001 instructions (+1)",
        "  layer 00 conv: +1 instructions per pass",
    ]


def test_the_command_says_so_where_suspects_remain(
    repository: History, command: Callable[..., tuple[int, str]]
) -> None:
    commits = [repository.commit(cost) for cost in ("1000", "-", "1001")]
    status, output = command("--good", commits[0], "--bad", commits[2])
    assert status == 1
    assert "the first bad commit is one of these" in output
    assert all(commit in output for commit in commits[1:])
    assert "does not build" in output


def test_the_command_takes_the_commits_from_the_store(
    repository: History, command: Callable[..., tuple[int, str]], private_lab: Path
) -> None:
    commits = [repository.commit(cost) for cost in ("1000", "1000", "1001")]
    runs = [
        night(0, counted([1000.0]), git_commit=commits[0]),
        night(1, counted([1001.0]), git_commit=commits[2]),
        night(2, noisy([1.0]), provenance=HARDWARE),
    ]
    assert PROVENANCE.device == "m4f"
    save(private_lab / "store", runs)
    status, output = command()
    assert (status, output.splitlines()[0]) == (0, "instructions went from 1,000 to 1,001 (+0.10%)")
    assert f"first bad commit: {commits[2]}" in output


def test_good_and_bad_go_together(command: Callable[..., tuple[int, str]]) -> None:
    status, output = command("--good", "HEAD")
    assert (status, "--good and --bad go together" in output) == (2, True)


# ---- what one commit measured -------------------------------------------------------------------------------------


def figure(folder: Path, commit: str, metric: str = "instructions") -> Measured:
    """Of the only run in the store, which is of commit ``c3``."""
    save(folder, [night(3, counted([5.0, 8.0]), noisy([2.0], metric="energy", unit="J"))])
    return _figure(folder, commit, Question("kws", "m4f", metric))


def test_counts_of_a_commit_are_the_mean_of_its_repeats(tmp_path: Path) -> None:
    measured = figure(tmp_path, "c3")
    assert (measured.value, measured.unit, measured.exact) == (6.5, "instructions", True)
    assert not figure(tmp_path, "c3", "energy").exact


def test_a_run_of_another_tree_than_asked_is_no_measurement_of_the_commit(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="measured c3 instead of c4"):
        figure(tmp_path, "c4")


def test_a_figure_that_was_not_measured_is_named_with_those_that_were(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match=r"no loads \[inference\] was measured; there is energy \[inf.*, instruct"):
        figure(tmp_path, "c3", "loads")


@pytest.mark.parametrize(
    ("program", "told"),
    [("import sys; sys.exit('no such board')", "no such board"),
     ("import sys; sys.exit(7)", "`lab run` ended with 7"),
     ("import threading; threading.Event().wait()", "not measured within 1 s")],
)  # fmt: skip
def test_a_commit_whose_own_lab_does_not_measure_is_set_aside_with_what_it_said(
    repository: History, private_lab: Path, program: str, told: str
) -> None:
    package = repository.root / "lab"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(program)
    commit = repository.commit("1")
    with (
        measuring(repository.root, Question("kws", "m4f", timeout_s=1.0)) as measure,
        pytest.raises(WorkloadError) as caught,
    ):
        measure(commit)
    assert caught.value.message == told
