"""Images of a data set that are listed before they are read: of many thousands few may be wanted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lab.workloads.data.folders import Reader, Source
from lab.workloads.data.image_folder import read_images
from lab.workloads.data.labelled import IntArray, Labelled


@dataclass(frozen=True)
class ListedImages:
    """What there is of a part of a data set.

    Attributes:
        source, root: the data set and the user's folder of it.
        lists: text files that say what is what; they are hashed with the images.
        part: the domain of all images.
        classes: their names.
        files: of the images, relative to the folder.
        labels: int64 (n,), places in ``classes``.
    """

    source: Source
    root: Path
    lists: tuple[str, ...]
    part: str
    classes: tuple[str, ...]
    files: tuple[str, ...]
    labels: IntArray

    def __len__(self) -> int:
        return len(self.files)

    def read(self, side: int, places: IntArray | None = None) -> Labelled[np.uint8]:
        """Images: uint8 (n, 3, side, side), red, green, blue; the shorter side shrunk to ``side``, the middle kept.

        Args:
            side: pixels.
            places: which of them, in this order; all when left out.

        Raises:
            ConfigError: an image is missing or damaged, or Pillow is not installed.
        """
        chosen = np.arange(len(self)) if places is None else places
        reader = Reader(self.source, self.root)
        for one in self.lists:
            reader.read(one)
        images = read_images(reader, [self.files[place] for place in chosen], side)
        domains = (self.part,) * len(chosen)
        return Labelled(images, self.labels[chosen], self.classes, domains, self.source.name, reader.digest())
