"""Classes of the continual workloads: what the device learns nobody has shown the host, and draws do not overlap."""

from __future__ import annotations

import numpy as np
import pytest

from lab.errors import ConfigError
from lab.workloads.continual import tasks
from lab.workloads.continual.tasks import Classes, Data, draw, load
from lab.workloads.data import omniglot, spoken_digits


@pytest.fixture(autouse=True)
def _made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made characters, whose source is no archive: small ones are made in a moment."""
    monkeypatch.delenv("LAB_DATA", raising=False)
    monkeypatch.setattr(tasks, "SIDE", 8)


@pytest.mark.parametrize("data", ["characters", "digits"])
def test_host_and_device_have_no_class_in_common(data: Data) -> None:
    found = load(data)
    assert not set(found.known.names) & set(found.unseen.names)
    assert found.known.samples.shape[1:] == (20, 8, 8)
    assert found.unseen.samples.shape[1:] == (20, 8, 8)
    for classes in (found.known, found.unseen):
        assert classes.samples.min() >= -1
        assert classes.samples.max() <= 1
    assert "Learnt on the host" in found.note
    assert len(tasks.digest(data)) >= 64


def test_speech_needs_its_archive_and_says_what_does_not() -> None:
    for asked in (load, tasks.digest):
        with pytest.raises(ConfigError, match="data=speech needs the spoken digits") as caught:
            asked("speech")
        assert "data=characters and data=digits run without it" in caught.value.hint


def test_speakers_of_the_device_are_not_heard_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    speakers, clip = ("theo", "george"), np.arange(4000, dtype=np.int16)
    recordings = spoken_digits.Recordings(
        clips=(clip,) * 80, digits=np.tile(np.arange(2), 40), speakers=tuple(np.repeat(speakers, 40).tolist()),
        takes=np.arange(80), digest="d",
    )  # fmt: skip
    monkeypatch.setenv("LAB_DATA", "somewhere")
    monkeypatch.setattr(spoken_digits, "load", lambda folder: recordings)
    found = load("speech")
    assert found.known.names == ("george 0", "george 1")
    assert found.unseen.names == ("theo 0", "theo 1")
    assert found.unseen.samples.shape == (2, 20, 49, 10)


def test_what_is_learnt_is_never_asked() -> None:
    drawn = draw((9, 12), 5, 4, 6, np.random.default_rng(2))
    values = np.arange(9 * 12, dtype=np.float32).reshape(9, 12)
    learnt, asked = drawn.learnt(values), drawn.asked(values)
    assert learnt.shape == (5, 4)
    assert asked.shape == (5, 6)
    assert len(set(learnt.ravel()) | set(asked.ravel())) == 5 * 10
    assert (learnt // 12 == drawn.classes[:, None]).all()
    assert (asked // 12 == drawn.classes[:, None]).all()


@pytest.mark.parametrize(
    ("classes", "shots", "questions"), [(1, 2, 2), (10, 2, 2), (3, 0, 2), (3, 2, 0), (3, 7, 6)]
)
def test_what_cannot_be_drawn_is_refused_with_what_there_is(classes: int, shots: int, questions: int) -> None:
    with pytest.raises(ConfigError, match=f"{classes} classes with {shots} samples") as caught:
        draw((9, 12), classes, shots, questions, np.random.default_rng(2))
    assert "2 to 9 classes" in caught.value.hint


def test_a_spread_takes_from_all_over() -> None:
    classes = Classes(np.arange(7, dtype=np.float32)[:, None], tuple("abcdefg"))
    assert classes.spread(3).names == ("a", "d", "g")
    assert classes.spread(99).names == classes.names


def test_the_data_of_the_environment_is_found_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load("characters").name == omniglot.MADE_NAME
    monkeypatch.setenv("LAB_DATA", "/nowhere")
    with pytest.raises(ConfigError, match="/nowhere"):
        tasks.digest("characters")
