"""docs/data.md says what holds: its example runs, and its table has every data set that a loader reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab.errors import ConfigError
from lab.workloads.data import (
    cifar10,
    cifar100,
    ecg5000,
    esc50,
    image_folder,
    imagenette,
    inertial,
    mini_imagenet,
    mnist,
    sound_folder,
    speech_commands,
    tiny_imagenet,
    urbansound8k,
    visual_wake_words,
)
from lab.workloads.data.folders import Source
from lab.workloads.networks.weight_files import NETWORK_FILES

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
SOURCES = (
    cifar10.CIFAR10, cifar10.CIFAR10_C, cifar100.CIFAR100, speech_commands.SPEECH_COMMANDS, inertial.UCI_HAR,
    mini_imagenet.MINI_IMAGENET, esc50.ESC50, inertial.PAMAP2, image_folder.source("NAME"), ecg5000.ECG5000,
    sound_folder.source("NAME"), NETWORK_FILES, imagenette.IMAGENETTE, tiny_imagenet.TINY_IMAGENET,
    visual_wake_words.VISUAL_WAKE_WORDS, urbansound8k.URBANSOUND8K,
    *mnist.SOURCES.values(),
)  # fmt: skip


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.folder)
def test_every_folder_stands_in_the_table_with_its_licence(source: Source) -> None:
    row = next(line for line in PAGE.splitlines() if f"| `{source.folder}/` |" in line)
    licence = source.licence.removeprefix("whatever it ").removeprefix("comes ")
    assert ("none stated" if licence.startswith("no licence stated") else licence) in row


def test_the_error_is_the_one_that_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    with pytest.raises(ConfigError) as refused:
        cifar10.cifar10_c()
    said = re.search(r"```\n(CIFAR-10-C is needed.*?)\n  -> (.*?) …\n```", PAGE, re.DOTALL)
    assert said is not None
    assert str(refused.value).splitlines()[0] == said[1].replace("/data", str(tmp_path))
    assert refused.value.hint.startswith(said[2])


def test_the_example_parts_movements_as_it_says() -> None:
    example = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert example is not None
    names: dict[str, object] = {}
    exec(compile(example[1], "docs/data.md", "exec"), names)
    movements, known, stranger = (names[name] for name in ("movements", "known", "stranger"))
    assert len(known) + len(stranger) == len(movements)  # type: ignore[arg-type]
    assert len(movements.tasks(2)) == 3  # type: ignore[attr-defined]
