"""Visual Wake Words: photographs of 96×96 pixels, with a person or without.

Chowdhery et al. 2019, "Visual Wake Words Dataset", of COCO 2014's photographs; read as MLPerf Tiny hands it round
(Banbury et al. 2021): ``vw_coco2014_96`` with the folders ``person`` and ``non_person``. It has no parts. The reference
of MLPerf Tiny splits it by Keras: of each class the first tenth of the files, sorted by name, is for validation.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from lab.workloads.data.folders import Reader, Source
from lab.workloads.data.listed_images import ListedImages

Part: TypeAlias = Literal["train", "val"]

VISUAL_WAKE_WORDS = Source(
    name="Visual Wake Words",
    folder="vw_coco2014_96",
    origin="MLPerf Tiny, mlcommons/tiny on GitHub, of COCO 2014",
    licence="annotations CC BY 4.0; the images under Flickr's terms",
    layout="person/*.jpg and non_person/*.jpg",
)
CLASSES = ("non_person", "person")
SIDE = 96
SUFFIXES = (".jpg", ".jpeg", ".png")
HELD_OUT = 0.1


def listed(part: Part) -> ListedImages:
    """The images of a part, by class and name; label 1 has a person.

    Raises:
        ConfigError: ``LAB_DATA`` has no such folder, or a class has too few images for both parts.
    """
    reader = Reader(VISUAL_WAKE_WORDS)
    chosen = []
    for one in CLASSES:
        found = reader.files(one, *SUFFIXES)
        border = int(HELD_OUT * len(found))
        if not border:
            raise VISUAL_WAKE_WORDS.refused(
                f"{reader.root / one} has {len(found)} images ({', '.join(SUFFIXES)}); ten at least are needed, one of "
                "which is for validation"
            )
        chosen.append(found[:border] if part == "val" else found[border:])
    labels = np.repeat(np.arange(len(CLASSES)), [len(files) for files in chosen])
    files = tuple(file for files in chosen for file in files)
    return ListedImages(VISUAL_WAKE_WORDS, reader.root, (), part, CLASSES, files, labels)
