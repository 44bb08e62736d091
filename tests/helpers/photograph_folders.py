"""Made images in the formats of Imagenette, Tiny ImageNet and Visual Wake Words: a colour for each class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from lab.workloads.data.imagenette import CLASSES


def _write(path: Path, number: int, size: tuple[int, int], generator: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = generator.integers(0, 90, (size[1], size[0], 3), dtype=np.uint8)
    pixels[..., number % 3] += np.uint8(60 + 20 * (number // 3 % 5))
    Image.fromarray(pixels).save(path)


def write_imagenette(root: Path, each: int = 2, folder: str = "imagenette2-160") -> Path:
    """``each`` images of ten classes to train on, and one for validation, 24 by 20 pixels."""
    generator = np.random.default_rng(15)
    for number, one in enumerate(CLASSES):
        for part, count in (("train", each), ("val", 1)):
            for place in range(count):
                _write(root / folder / part / one / f"{one}_{place}.JPEG", number, (24, 20), generator)
    return root / folder


def write_tiny_imagenet(root: Path, classes: int = 200) -> Path:
    """An image of each class to train on, everywhere the same, and one of every tenth for validation, 64 by 64 pixels;
    the list has the classes in another order than that of their numbers."""
    folder, generator = root / "tiny-imagenet-200", np.random.default_rng(16)
    _write(colour := root / "colour.JPEG", 1, (64, 64), generator)
    content = colour.read_bytes()
    ids = [f"n{number:08}" for number in range(classes)]
    lines = []
    for number, one in enumerate(ids):
        (folder / "train" / one / "images").mkdir(parents=True)
        (folder / "train" / one / "images" / f"{one}_0.JPEG").write_bytes(content)
        if number % 10 == 3:
            name = f"val_{len(lines)}.JPEG"
            _write(folder / "val" / "images" / name, number, (64, 64), generator)
            lines.append(f"{name}\t{one}\t0\t0\t62\t62")
    (folder / "wnids.txt").write_text("\n".join(reversed(ids)) + "\n")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    return folder


def write_visual_wake_words(root: Path, each: int = 21) -> Path:
    """So many images of 96 by 96 pixels with a person, and as many without."""
    folder, generator = root / "vw_coco2014_96", np.random.default_rng(17)
    for number, one in enumerate(("non_person", "person")):
        for place in range(each):
            _write(folder / one / f"COCO_train2014_{place:012}.jpg", number, (96, 96), generator)
    return folder
