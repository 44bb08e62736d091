"""Omniglot: handwritten characters of many alphabets, each drawn once by 20 people; and few-shot episodes of them.

Public source: https://github.com/brendenlake/omniglot (MIT), the two small background sets, five alphabets each. The
lab reads the archives straight from the zip. Without them it draws characters of its own: random strokes, which differ
from drawer to drawer by jitter and a small affine map. The two never pass for each other: the name says which.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lab.errors import ConfigError
from lab.workloads.data.spoken_digits import CHECKSUMS

FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]

NAME = "Omniglot, small background sets"
MADE_NAME = "made characters of random strokes"
SOURCE = "brendenlake/omniglot on GitHub, MIT"
FOLDER = "omniglot"
ARCHIVES = ("images_background_small1.zip", "images_background_small2.zip")
SIDE = 105
DRAWERS = 20
HINT = (
    f"get the two archives {' and '.join(ARCHIVES)} of Omniglot ({SOURCE}), put them into {FOLDER}/ of a folder with "
    f"their {CHECKSUMS} and set LAB_DATA to that folder; or unset LAB_DATA to run on {MADE_NAME}"
)
_DRAWING = re.compile(r"images_background_small\d/(?P<alphabet>[^/]+)/(?P<character>[^/]+)/\d+_(?P<drawer>\d+)\.png")
_MADE_ALPHABETS = 6
_MADE_CHARACTERS = 20
_MADE_SEED = 20


@dataclass(frozen=True)
class Characters:
    """Drawn characters; or other classes, that few-shot tasks are drawn from alike.

    Attributes:
        images: float32, (characters, drawers, side, side), 0 (paper) … 1 (ink); of other classes (classes, images,
            channels, side, side), 0 … 1.
        alphabets: of each character; names of other classes.
        name: of the data, for records.
        digest: SHA-256, hex, of the archive, or of what makes the images.
    """

    images: FloatArray
    alphabets: tuple[str, ...]
    name: str
    digest: str

    def __len__(self) -> int:
        return len(self.alphabets)

    def without(self, alphabets: Iterable[str]) -> Characters:
        """Those of other alphabets."""
        gone = set(alphabets)
        kept = [number for number, alphabet in enumerate(self.alphabets) if alphabet not in gone]
        return Characters(self.images[kept], tuple(self.alphabets[number] for number in kept), self.name, self.digest)


@dataclass(frozen=True)
class Episode:
    """A few-shot task; labels are 0 … ways − 1.

    Attributes:
        characters: number of each way's character in its set.
        support, queries: float32, (n, side, side), or (n, channels, side, side); the support's images come in rounds,
            one of each way.
        support_labels, query_labels: int64, (n,).
    """

    characters: tuple[int, ...]
    support: FloatArray
    support_labels: IntArray
    queries: FloatArray
    query_labels: IntArray


def episode(characters: Characters, ways: int, shots: int, queries: int, generator: np.random.Generator) -> Episode:
    """Draw a task: ``ways`` characters, of each ``shots`` images to learn from and ``queries`` others to be asked.

    Raises:
        ConfigError: more ways than characters, or more images of a character than there are; or fewer than two ways,
            one shot, one query.
    """
    drawers = characters.images.shape[1]
    if not (2 <= ways <= len(characters) and shots >= 1 and queries >= 1 and shots + queries <= drawers):
        raise ConfigError(
            f"an episode of {ways} ways, {shots} shots and {queries} queries each cannot be drawn from "
            f"{len(characters)} classes of {drawers} images ({characters.name})",
            hint=f"2 to {len(characters)} ways; at least one shot and one query, together at most {drawers}",
        )
    chosen = generator.permutation(len(characters))[:ways]
    orders = np.stack([generator.permutation(drawers)[: shots + queries] for _ in chosen])
    images = characters.images[chosen[:, None], orders].swapaxes(0, 1)
    labels = np.tile(np.arange(ways), shots + queries)
    flat = np.ascontiguousarray(images).reshape(-1, *images.shape[2:])
    border = ways * shots
    return Episode(
        tuple(int(one) for one in chosen), flat[:border], labels[:border], flat[border:], labels[border:]
    )


def find() -> Path | None:
    """What ``LAB_DATA`` names; None where it is not set."""
    named = os.environ.get("LAB_DATA", "")
    return Path(named) if named else None


def name() -> str:
    """Name of what :func:`background` reads."""
    return MADE_NAME if find() is None else NAME


def background(side: int) -> tuple[Characters, Characters]:
    """Characters to learn from, and those of alphabets that are not among them, by ``LAB_DATA``.

    Args:
        side: pixels along a side.

    Raises:
        ConfigError: ``LAB_DATA`` is set and its archives cannot be used.
    """
    folder = find()
    if folder is None:
        every = make(side)
        known = sorted(set(every.alphabets))[: _MADE_ALPHABETS // 2]
        return every.without(set(every.alphabets) - set(known)), every.without(known)
    first, second = (load(folder, archive, side) for archive in ARCHIVES)
    return first, second.without(first.alphabets)


def digest() -> str:
    """SHA-256, hex, of all that :func:`background` reads; the archives are checked.

    Raises:
        ConfigError: as :func:`background`.
    """
    folder = find()
    if folder is None:
        return made_digest()
    return hashlib.sha256("".join(verify(folder, archive) for archive in ARCHIVES).encode()).hexdigest()


def verify(folder: Path, archive: str) -> str:
    """Check an archive against the checksums.

    Args:
        folder: what ``LAB_DATA`` names; the checksums lie there or beside the archives.
        archive: one of ``ARCHIVES``.

    Returns:
        Its SHA-256, hex.

    Raises:
        ConfigError: archive or checksums are missing, or do not agree.
    """
    path = folder / FOLDER / archive
    found = hashlib.sha256(_read(path)).hexdigest()
    sums = folder / CHECKSUMS if (folder / CHECKSUMS).is_file() else folder / FOLDER / CHECKSUMS
    listed = {}
    for line in _read(sums).decode(errors="replace").splitlines():
        value, _, name = line.partition(" ")
        listed[Path(name.strip().removeprefix("*")).name] = value
    if listed.get(archive) != found:
        said = listed.get(archive, "nothing")
        raise ConfigError(
            f"{path} is damaged or another version: its SHA-256 is {found}, {sums} says {said}", hint=HINT
        )
    return found


def load(folder: Path, archive: str, side: int) -> Characters:
    """Read a set, every image shrunk to ``side`` by the mean of what a pixel covers.

    Raises:
        ConfigError: see :func:`verify`; or the archive is no zip, lacks drawings, or one is no such image.
    """
    checked = verify(folder, archive)
    path = folder / FOLDER / archive
    found: dict[tuple[str, str], dict[int, FloatArray]] = {}
    shrink = _covering(SIDE, side)
    try:
        with zipfile.ZipFile(path) as opened:
            for entry in sorted(opened.namelist()):
                if match := _DRAWING.fullmatch(entry):
                    ink = 1.0 - read_bits(opened.read(entry), f"{path}:{entry}")
                    drawn = found.setdefault((match["alphabet"], match["character"]), {})
                    drawn[int(match["drawer"])] = shrink @ ink @ shrink.T
    except zipfile.BadZipFile as error:
        raise ConfigError(f"{path} cannot be read as a zip archive: {error}", hint=HINT) from error
    wrong = [f"{key[0]}/{key[1]}" for key, drawn in found.items() if len(drawn) != DRAWERS]
    if wrong or not found:
        what = f"{wrong[0]} is not drawn by {DRAWERS} people" if wrong else "it holds no drawings"
        raise ConfigError(f"{path}: {what}", hint=HINT)
    images = np.stack([np.stack([drawn[one] for one in sorted(drawn)]) for drawn in found.values()])
    return Characters(images.astype(np.float32), tuple(alphabet for alphabet, _ in found), NAME, checked)


def read_bits(png: bytes, where: str) -> FloatArray:
    """A square black-and-white PNG of one bit a pixel, (105, 105): 1 is white.

    Raises:
        ConfigError: it is none, or damaged; says where.
    """
    chunks: dict[bytes, bytes] = {}
    at = 8
    while at + 8 <= len(png):
        size, kind = struct.unpack_from(">I4s", png, at)
        chunks[kind] = chunks.get(kind, b"") + png[at + 8 : at + 8 + size]
        at += 12 + size
    row = -(-SIDE // 8)
    try:
        # One bit, grey, without interlacing (PNG specification, 11.2.2).
        plain = chunks[b"IHDR"] == struct.pack(">IIBBBBB", SIDE, SIDE, 1, 0, 0, 0, 0)
        lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(SIDE, 1 + row)
    except (KeyError, ValueError, zlib.error) as error:
        raise ConfigError(f"{where} is no PNG image, or damaged: {error}", hint=HINT) from error
    if not plain or not set(lines[:, 0]) <= {0}:
        raise ConfigError(f"{where} is not {SIDE}x{SIDE} pixels of one unfiltered bit", hint=HINT)
    return np.unpackbits(lines[:, 1:], axis=1)[:, :SIDE].astype(np.float32)


def make(side: int) -> Characters:
    """Characters of random strokes: six alphabets of 20, by 20 drawers; the same at every call."""
    generator = np.random.default_rng(_MADE_SEED)
    count = _MADE_ALPHABETS * _MADE_CHARACTERS
    grid = (np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1) + 0.5) / side
    images = np.zeros((count, DRAWERS, side, side), np.float32)
    for number in range(count):
        strokes = [generator.uniform(0.15, 0.85, (4, 2)) for _ in range(generator.integers(2, 4))]
        for drawer in range(DRAWERS):
            bent = np.eye(2) + generator.normal(0, 0.12, (2, 2))
            moved = generator.normal(0, 0.03, 2)
            for stroke in strokes:
                points = (stroke + generator.normal(0, 0.035, stroke.shape) - 0.5) @ bent + 0.5 + moved
                images[number, drawer] = np.maximum(images[number, drawer], _stroke(points, grid, 0.6 / side + 0.02))
    names = tuple(f"made{number // _MADE_CHARACTERS}" for number in range(count))
    return Characters(images, names, MADE_NAME, made_digest())


def made_digest() -> str:
    """SHA-256, hex, of what the made characters depend on: this file and NumPy's version."""
    return hashlib.sha256(Path(__file__).read_bytes() + np.__version__.encode()).hexdigest()


def _stroke(points: npt.NDArray[np.float64], grid: npt.NDArray[np.float64], width: float) -> npt.NDArray[np.float64]:
    """Ink of a cubic Bézier curve: 1 within ``width``, fading over as much again."""
    t = np.linspace(0, 1, 9)[:, None]
    weights = np.concatenate([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], 1)
    curve = weights @ points
    square = (grid[:, :, None, 0] - curve[:, 0]) ** 2 + (grid[:, :, None, 1] - curve[:, 1]) ** 2
    distance: npt.NDArray[np.float64] = np.sqrt(square.min(-1))
    return np.clip(2 - distance / width, 0, 1)


def _covering(source: int, target: int) -> FloatArray:
    """(target, source): the share of each source pixel in the mean of a target pixel."""
    edges = np.linspace(0, source, target + 1)
    pixels = np.arange(source)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    shares: FloatArray = (np.clip(overlap, 0, None) * target / source).astype(np.float32)
    return shares


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint=HINT) from error
