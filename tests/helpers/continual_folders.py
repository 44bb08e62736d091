"""Made data in the formats of MiniImageNet, ESC-50 and UrbanSound8K."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
from helpers.data_folders import write_wav
from PIL import Image


def write_mini_imagenet(
    root: Path, classes: Sequence[int] = (3, 1, 2), each: int = 3, layout: str = "images"
) -> dict[str, list[str]]:
    """The three lists with so many classes each, and images of 84×84 pixels, two of them of other sizes; all in
    ``images/``, or with another layout in a folder for each class. Yields the classes of each part, sorted."""
    folder = root / "mini-imagenet"
    generator = np.random.default_rng(12)
    made: dict[str, list[str]] = {}
    for start, count, part in zip((1, 101, 201), classes, ("train", "val", "test"), strict=True):
        made[part] = [f"n0{start + number:07}" for number in range(count)]
        lines = ["filename,label"]
        for one in reversed(made[part]):
            for place in range(each):
                name = f"{one}{place:08}.{'png' if place % 2 else 'jpg'}"
                lines.append(f"{name},{one}")
                path = folder / ("images" if layout == "images" else one) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                size = (100, 90) if place == 2 else (84, 84)
                Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
        (folder / f"{part}.csv").write_text("\n".join(lines) + "\n")
    return made


def write_esc50(root: Path, each: int = 1) -> dict[str, npt.NDArray[np.int16]]:
    """Five seconds of noise for each of fifty classes, as often as asked; yields the recordings by file."""
    generator = np.random.default_rng(13)
    lines, made = ["filename,fold,target,category,esc10,src_file,take"], {}
    for take in range(each):
        for target in range(49, -1, -1):
            name = f"{1 + target % 5}-{100_000 + target}-{'AB'[take]}-{target}.wav"
            made[name] = generator.integers(-9000, 9000, 220_500).astype(np.int16)
            write_wav(root / "ESC-50" / "audio" / name, made[name], 44_100)
            lines.append(f"{name},{1 + target % 5},{target},sound_{target},False,{100_000 + target},{'AB'[take]}")
    (root / "ESC-50" / "meta").mkdir()
    (root / "ESC-50" / "meta" / "esc50.csv").write_text("\n".join(lines) + "\n")
    return made


FORMS = (
    (44_100, 2, "PCM_16"), (48_000, 1, "PCM_24"), (8_000, 1, "PCM_U8"), (96_000, 2, "FLOAT"), (11_025, 1, "MS_ADPCM"),
)  # fmt: skip
"""Rate in Hz, channels and coding of UrbanSound8K's made recordings, in turn."""


def write_urbansound8k(root: Path, each: int = 5, seconds: float = 0.5) -> Path:
    """Tones of 300 Hz and 30 more for each class, half as loud as can be, ``each`` of ten classes; of two channels the
    second is silent."""
    folder = root / "UrbanSound8K"
    lines = ["slice_file_name,fsID,start,end,salience,fold,classID,class"]
    for take in range(each):
        rate_hz, channels, coding = FORMS[take % len(FORMS)]
        for target in range(10):
            fold = 1 + (take + target) % 10
            name = f"{1000 + take}-{target}-0-{take}.wav"
            tone = 0.5 * np.sin(2 * np.pi * (300 + 30 * target) * np.arange(int(seconds * rate_hz)) / rate_hz)
            path = folder / "audio" / f"fold{fold}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.stack([tone, 0 * tone][:channels], 1), rate_hz, coding)
            lines.append(f"{name},{1000 + take},0.0,{seconds},1,{fold},{target},noise_{target}")
    (folder / "metadata").mkdir()
    (folder / "metadata" / "UrbanSound8K.csv").write_text("\n".join(lines) + "\n")
    return folder
