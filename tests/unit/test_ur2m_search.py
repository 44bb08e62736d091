"""UR2M's search for a network: what fits is what compiles to fit, the best of it is taken, and nothing fits is told."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.data_folders import write_ecg5000, write_recordings, write_wav
from helpers.toolchain import needs_host_compiler

from lab.compiler.host import HostModel
from lab.errors import ConfigError
from lab.workloads import get
from lab.workloads.data import ecg5000
from lab.workloads.uncertainty import series_scenes, ur2m
from lab.workloads.uncertainty.architecture_search import Budget, Candidate, Search, macs_of
from lab.workloads.uncertainty.scenes import CLEAN, SHIFTED, UNKNOWN, Task

ROOMY = Budget(1 << 20, 1 << 20, 1e6, 1.0)
SMALL = "data=ecg,epochs=1,evaluated=10"


def search(task: Task, budget: Budget = ROOMY, **changes: object) -> Search:
    """Of four networks on made beats, one epoch each."""
    variant = ur2m.parse("data=ecg,epochs=1")
    whole = Search(
        [(8, 3), (8, 4), (16, 3), (16, 4)], lambda width, blocks: ur2m.backbone(
            replace(variant, width=width, blocks=blocks)  # type: ignore[call-arg]
        ), task, budget, "grid", "per-operation", ur2m.plan_of(variant), "int8",
    )  # fmt: skip
    return replace(whole, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def beats() -> Task:
    return series_scenes.made_beats_task((4, 4, 2))


def candidates(macs: int = 100) -> list[Candidate]:
    return [Candidate(8, 3, macs, 1), Candidate(16, 3, 2 * macs, 1), Candidate(16, 4, 3 * macs, 1)]


# ---- what fits and what is best ------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"arena_bytes": 99}, {"flash_bytes": 199}, {"latency_ms": 149.0}])
def test_each_budget_is_kept_to(changes: dict[str, float]) -> None:
    one, budget = Candidate(8, 3, 300, 200, 100), Budget(100, 200, 150.0, 2.0)
    assert one.within(budget)
    assert not one.within(Budget(**{**asdict(budget), **changes}))


def test_nothing_that_fits_is_told_with_what_the_smallest_takes(
    beats: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {(8, 3): (80_000, 9_000, 3_104), (8, 4): (106_000, 9_400, 3_104), (16, 3): (250_000, 18_500, 5_344),
             (16, 4): (340_000, 19_600, 5_344)}  # fmt: skip
    monkeypatch.setattr(Search, "_measured", lambda self, *pair: Candidate(*pair[:2], *sizes[pair[:2]]))
    assert len(search(beats, replace(ROOMY, latency_ms=2.0, macs_per_ms=1e5)).fitting()) == 2
    with pytest.raises(ConfigError) as refused:
        search(beats, replace(ROOMY, latency_ms=10.0, macs_per_ms=1000.0)).run(tmp_path)
    told = str(refused.value)
    assert "none of 4 networks fits into 1024 KiB of arena, 1024 KiB of flash and 10 ms; the smallest" in told
    assert "3 blocks of 8 channels, takes 3.0 KiB, 8.8 KiB and 80.0 ms" in told
    assert "latency=" in (refused.value.hint or "")


def test_operations_are_counted_before_anything_is_compiled(beats: Task) -> None:
    whole = search(beats)
    sample = torch.from_numpy(beats.scene.images[:1])
    # 140 places, three blocks of eight channels, and 80 inputs to eight outputs three times.
    macs = 140 * (8 + 72 + 64 + 2 * (64 + 72 + 64)) + 3 * 80 * 8
    assert macs_of(whole.network(8, 3), sample) == macs
    tight = replace(whole, budget=replace(ROOMY, latency_ms=1.0))
    flash = 16 * 26 + 3 * 16 * 41 + 3 * 160 * 8
    assert tight._measured(16, 4, sample) == Candidate(16, 4, macs_of(whole.network(16, 4), sample), flash)


def test_the_papers_best_has_the_highest_accuracy_for_its_operations(beats: Task) -> None:
    accuracies = dict(zip(candidates(), (0.4, 0.9, 0.9), strict=True))
    assert [one.macs for one in search(beats).best(accuracies)] == [200, 100, 300]
    assert [one.macs for one in search(beats, objective="accuracy").best(accuracies)] == [200, 300, 100]


def competed(
    beats: Task, monkeypatch: pytest.MonkeyPatch, how: str, count: int
) -> tuple[list[tuple[int, int]], int, int]:
    """Trainings (width, epochs), the width that wins, and all epochs; wider ones are more accurate."""
    trained: list[tuple[int, int]] = []

    def accuracy(self: Search, one: Candidate, epochs: int) -> float:
        trained.append((one.width, epochs))
        return one.width / 100

    monkeypatch.setattr(Search, "accuracy", accuracy)
    left = [Candidate(width, 3, 100, 1) for width in range(1, count + 1)]
    monkeypatch.setattr(Search, "fitting", lambda self: left)
    plan = replace(ur2m.plan_of(ur2m.parse("data=ecg")), epochs=8)
    found = search(beats, how=how, plan=plan)._produce()
    document = found.document
    assert f'"candidates": 4, "fitting": {count}' in document
    total = int(document.rpartition(": ")[2].rstrip("}"))
    width = int(document.partition('"width": ')[2].partition(",")[0])
    return trained, width, total


def test_halving_trains_half_of_the_networks_twice_as_long(beats: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, width, total = competed(beats, monkeypatch, "halving", 5)
    assert trained == [(1, 2), (2, 2), (3, 2), (4, 2), (5, 2), (5, 4), (4, 4), (3, 4), (5, 8), (4, 8)]
    assert (width, total) == (5, 10 + 12 + 16)


def test_a_grid_trains_every_network_to_the_end(beats: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, width, total = competed(beats, monkeypatch, "grid", 3)
    assert trained == [(1, 8), (2, 8), (3, 8)]
    assert (width, total) == (3, 24)


def test_one_network_that_fits_is_taken_without_training(beats: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    assert competed(beats, monkeypatch, "halving", 1) == ([], 1, 0)


@needs_host_compiler
def test_the_network_that_was_found_is_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ur2m, "CI_WIDTHS", (8, 16))
    monkeypatch.setattr(ur2m, "CI_BLOCKS", (3,))
    variant = f"{SMALL},search=grid,precision=float32,latency=20"
    prepared = get("ur2m").prepare(tmp_path / "cache", variant)
    figures = {one.metric: one.value for one in prepared.figures}
    # Sixteen channels take 41 ms at 6,000 operations in each.
    assert (figures["search.candidates"], figures["search.fitting"]) == (2, 1)
    assert figures["macs.exit.3"] == pytest.approx(figures["search.latency"] * 1000 * ur2m.M4F_NARROW_MACS_PER_MS)
    assert prepared.parameters["width"] == "8"
    assert figures["search.arena"] == prepared.model.arena_bytes
    assert figures["search.flash"] == prepared.model.weights_bytes
    assert any("Of 2 networks 1 fit; chosen: 3 blocks of 8." in fact for fact in prepared.facts)
    samples = np.frombuffer(prepared.job.blob, np.float32).reshape(10, -1)
    outputs = np.ascontiguousarray(HostModel(prepared.model, tmp_path).run(samples)).view(np.int8)
    scores = {one.metric: one.value for one in prepared.check(outputs)}
    assert scores["same_exit"] == scores["agreement"] == 1
    monkeypatch.setattr(Search, "_produce", lambda self: pytest.fail("it is in the cache"))
    chosen = ur2m.parse(f"{variant},threshold=0")
    deep, _ = ur2m.searched(chosen, ur2m.task_of(chosen), tmp_path / "cache")
    assert isinstance(deep, ur2m.BlocksVariant)
    assert (deep.width, deep.blocks) == (8, 3), "the same network for all thresholds"


# ---- beats and sounds ----------------------------------------------------------------------------------------------


def test_beats_are_levelled_and_drawn_out_in_rows() -> None:
    beat = np.arange(140, dtype=np.float32)[None]
    found = series_scenes.as_map(beat, 4)
    assert found.shape == (1, 1, 10, 56)
    straight = np.interp(np.linspace(0, 139, 560), np.arange(140), beat[0])
    np.testing.assert_allclose(found.reshape(-1), straight, rtol=1e-5)
    np.testing.assert_array_equal(series_scenes.as_map(beat, 1).reshape(-1), beat[0])
    level = series_scenes.level(3 * beat + 7)
    assert abs(level.mean()) < 1e-5
    assert level.std() == pytest.approx(1, rel=1e-4)


def test_made_beats_are_asked_of_people_nobody_has_trained_on(beats: Task) -> None:
    task = series_scenes.made_beats_task((40, 30, 10))
    images, labels = task.training()
    assert set(np.bincount(labels).tolist()) == {len(labels) // 4}, "rare kinds are filled up"
    assert task.judged is not None
    parts = [{one.tobytes() for one in each} for each in (images, task.judged()[0], task.scene.images)]
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    scene = task.scene
    assert [int((scene.kinds == kind).sum()) for kind in (CLEAN, SHIFTED, UNKNOWN)] == [40, 30, 10]
    np.testing.assert_array_equal(scene.labels == -1, scene.kinds == UNKNOWN)
    again = series_scenes.made_beats_task((40, 30, 10))
    np.testing.assert_array_equal(again.scene.images, scene.images)
    np.testing.assert_array_equal(again.training()[0], images)


def test_each_shift_is_what_it_is_said_to_be() -> None:
    generator = np.random.default_rng(4)
    clean = series_scenes.level(np.sin(np.linspace(0, 12, 140))[None].repeat(7, 0).astype(np.float32))
    beats = clean.copy()
    kinds = np.array([CLEAN] + [SHIFTED] * 6)
    series_scenes.shift_beats(beats, kinds, generator)
    np.testing.assert_array_equal(beats[0], clean[0])
    np.testing.assert_allclose(beats.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(beats.std(1), 1, rtol=1e-3)
    # The scale of what is left of the clean beat, and what was added.
    flat = np.abs(np.diff(beats[[3, 6]], axis=1)) < 1e-6
    assert flat.sum(1).tolist() == [34, 34], "a quarter is lost"
    noise = [np.diff(beats[place], 2).std() for place in (1, 2, 4, 5)]
    assert min(noise[0], noise[2]) > 10 * max(noise[1], noise[3])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    return tmp_path


def test_the_users_beats_are_asked_of_the_part_for_tests(folder: Path) -> None:
    write_ecg5000(folder, ".ts")
    task = series_scenes.ecg5000_task((10, 8, 5))
    images, labels = task.training()
    assert images.shape == (2 * 4 * 9, 1, 10, 56)
    assert np.bincount(labels).tolist() == [18] * 4
    tests = series_scenes.as_map(series_scenes.level(ecg5000.load("TEST").samples[:, 0]), 4)
    known = {one.tobytes(): label for one, label in zip(tests, ecg5000.load("TEST").labels, strict=True)}
    for kind, image, label in zip(task.scene.kinds, task.scene.images, task.scene.labels, strict=True):
        if kind != SHIFTED:
            assert known[image.tobytes()] == (4 if kind == UNKNOWN else label)
    assert task.dataset.name == "ECG5000"
    assert task.judged is not None
    assert np.bincount(task.judged()[1]).tolist() == [3, 2, 1, 1], "a quarter"
    made = ur2m.backbone(ur2m.parse("size=paper,data=ecg5000,width=32"))
    maps = made.parts()[0].eval()(torch.from_numpy(task.scene.images))
    assert maps.shape == (23, 32, 10, 56)
    assert made.head(0, 8)(maps).shape == (23, 8)
    assert sum(one.numel() for one in made.head(0, 8).parameters()) == 10 * 32 * 8 + 8, "pools of five by two"


def test_sounds_of_0_4_s_are_the_papers_21_frames(folder: Path) -> None:
    write_recordings(folder, "ears", ("chewing", "speaking"), others=("coughing",), each=12)
    task = ur2m.task_of(ur2m.parse("size=paper,data=ears,evaluated=10"))
    images, labels = task.training()
    assert images.shape[1:] == (1, 10, 21)
    assert np.bincount(labels).tolist() == [18, 18], "three of four, each as it is and with noise"
    scene = task.scene
    assert [int((scene.kinds == kind).sum()) for kind in (CLEAN, SHIFTED, UNKNOWN)] == [4, 4, 2]
    assert ur2m.backbone(ur2m.parse("size=paper,data=ears")).exits == 3
    write_recordings(folder, "plain", ("chewing", "speaking"))
    with pytest.raises(ConfigError, match="no class that train/ lacks"):
        series_scenes.sounds_task("plain", 4, (4, 4, 2))
    write_recordings(folder, "few", ("chewing", "speaking"), others=("coughing",), each=9)
    with pytest.raises(ConfigError, match="leaves 14 recordings to train on, a quarter of 18 judges; at least 16"):
        series_scenes.sounds_task("few", 250, (4, 4, 2))


@needs_host_compiler
def test_a_folder_of_recordings_is_the_whole_workload_and_another_rate_is_told(folder: Path) -> None:
    """Of the folder alone, trained, compiled and answered by the C as PyTorch answers it."""
    there = write_recordings(folder, "ears", ("chewing", "speaking"), others=("coughing",), each=11)
    asked = "size=paper,data=ears,width=32,blocks=3,epochs=1,evaluated=10"
    prepared = ur2m.WORKLOAD.prepare(folder / "cache", asked)
    assert prepared.dataset.name == "recordings of ears"
    assert prepared.job.count == 10
    found = {one.metric: one.value for one in prepared.check(prepared.reference_outputs)}
    assert found["same_exit"] == 1
    assert found["output_error"] < 1e-3
    # Another recording is another data set, not what is cached.
    write_wav(there / "train" / "chewing" / "000.wav", np.zeros(6400, np.int16), 44_100)
    with pytest.raises(ConfigError, match=r"000\.wav is 44100 Hz, .* 16000 Hz, 1 channel, 2 bytes are") as refused:
        ur2m.WORKLOAD.prepare(folder / "cache", asked)
    assert "16 kHz" in refused.value.hint


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("data=ears", "digits or ecg"),
        ("data=ecg,width=64", "8, 16, 24, 32"),
        ("data=ecg,search=random", "none, grid, halving"),
        ("data=ecg,latency=0", "more than 0"),
        ("data=ecg,latency=nan", "no finite number"),
        ("size=paper,objective=size", "per-operation, accuracy"),
        ("search=grid", "has no option 'search'"),
    ],
)
def test_options_that_cannot_be_are_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        ur2m.parse(text)
    assert told in str(refused.value)
