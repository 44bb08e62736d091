"""Omniglot: images as Pillow reads them, episodes that ask nothing they have shown, clear errors."""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lab.errors import ConfigError
from lab.workloads.data import omniglot
from lab.workloads.data.omniglot import ARCHIVES, DRAWERS, SIDE, Characters, episode

SET = "images_background_small"


def png(seed: int, *, side: int = SIDE, filtered: int = 0) -> bytes:
    """A black-and-white PNG of noise, its rows marked with this filter."""
    white = np.random.default_rng(seed).random((side, side)) < 0.8
    rows = np.pad(np.packbits(white, axis=1), ((0, 0), (1, 0)), constant_values=filtered)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(rows.tobytes()))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + data + chunk(b"IEND", b"")


def folder(
    at: Path, entries: Callable[[int], dict[str, bytes]], *, alphabets: tuple[str, str] = ("Greek", "Tagalog")
) -> Path:
    """A data folder of two archives; ``entries`` yields further files of an archive, in place of its own."""
    (at / "omniglot").mkdir(parents=True)
    lines = []
    for number, archive in enumerate(ARCHIVES, start=1):
        files = {
            f"{SET}{number}/{alphabet}/character{c:02}/{c:04}_{drawer:02}.png": png(drawer)
            for alphabet in {alphabets[0], alphabets[number - 1]}
            for c in (1, 2)
            for drawer in range(1, DRAWERS + 1)
        }
        with zipfile.ZipFile(path := at / "omniglot" / archive, "w") as made:
            for name, data in (files | entries(number)).items():
                made.writestr(name, data)
        lines.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  ./omniglot/{archive}\n")
    (at / "SHA256SUMS").write_text("".join(lines))
    return at


def nothing(number: int) -> dict[str, bytes]:
    return {}


def test_images_are_those_that_pillow_reads_and_keep_their_ink(tmp_path: Path) -> None:
    found = omniglot.load(folder(tmp_path, nothing), ARCHIVES[0], SIDE)
    assert found.images.shape == (2, DRAWERS, SIDE, SIDE)
    assert found.alphabets == ("Greek", "Greek")
    for drawer in range(DRAWERS):
        read = np.array(Image.open(io.BytesIO(png(drawer + 1))))
        assert np.array_equal(found.images[0, drawer] == 0, read)
    small = omniglot.load(tmp_path, ARCHIVES[0], 28).images
    assert small.shape == (2, DRAWERS, 28, 28)
    np.testing.assert_allclose(small.mean((2, 3)), found.images.mean((2, 3)), rtol=1e-5)


def test_alphabets_to_learn_from_and_to_be_asked_are_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_DATA", str(folder(tmp_path, nothing)))
    known, new = omniglot.background(20)
    assert (set(known.alphabets), set(new.alphabets)) == ({"Greek"}, {"Tagalog"})
    assert omniglot.name() == known.name == omniglot.NAME


def test_without_the_data_characters_are_made_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAB_DATA", raising=False)
    known, new = omniglot.background(16)
    assert omniglot.name() == known.name == omniglot.MADE_NAME != omniglot.NAME
    assert not set(known.alphabets) & set(new.alphabets)
    assert (len(known), len(new)) == (60, 60)
    again, _ = omniglot.background(16)
    assert np.array_equal(known.images, again.images)
    assert known.digest == omniglot.digest()
    # Drawings of one character are nearer to each other than to those of others, else nothing could be learnt.
    flat = known.images.reshape(60, DRAWERS, -1)
    centre = flat.mean(1)
    nearest = ((flat[:, :, None] - centre[None, None]) ** 2).sum(-1).argmin(-1)
    assert (nearest == np.arange(60)[:, None]).mean() > 0.5


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (lambda number: {f"{SET}{number}/Greek/character01/0001_20.png": b"no image"}, "is no PNG"),
        (lambda number: {f"{SET}{number}/Greek/character01/0001_20.png": png(1, side=32)}, "is no PNG"),
        (lambda number: {f"{SET}{number}/Greek/character03/0003_01.png": png(1)}, "03 is not drawn by 20 people"),
    ],
)
def test_drawings_that_cannot_be_used_are_named(
    tmp_path: Path, entries: Callable[[int], dict[str, bytes]], said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        omniglot.load(folder(tmp_path, entries), ARCHIVES[0], 20)
    assert "brendenlake/omniglot" in caught.value.hint


def test_a_filtered_image_is_refused() -> None:
    with pytest.raises(ConfigError, match="here is not 105x105 pixels of one unfiltered bit"):
        omniglot.read_bits(png(1, filtered=2), "here")


def test_missing_and_damaged_archives_say_how_to_get_the_real_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file") as caught:
        omniglot.load(tmp_path, ARCHIVES[0], 20)
    assert "unset LAB_DATA" in caught.value.hint
    at = folder(tmp_path / "damaged", nothing)
    with (at / "omniglot" / ARCHIVES[1]).open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ConfigError, match="is damaged or another version"):
        omniglot.load(at, ARCHIVES[1], 20)


def characters(count: int, drawers: int) -> Characters:
    """Each image's only pixel says whose it is."""
    marks = np.arange(count * drawers, dtype=np.float32).reshape(count, drawers, 1, 1)
    return Characters(marks, ("a",) * count, "marks", "")


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 6), st.integers(1, 4), st.integers(1, 4), st.integers(0, 5))
def test_an_episode_is_balanced_and_asks_nothing_that_was_shown(ways: int, shots: int, queries: int, seed: int) -> None:
    source = characters(7, 8)
    drawn = episode(source, ways, shots, queries, np.random.default_rng(seed))
    assert np.array_equal(drawn.support_labels, np.tile(np.arange(ways), shots))
    assert np.bincount(drawn.query_labels).tolist() == [queries] * ways
    shown, asked = drawn.support.ravel(), drawn.queries.ravel()
    assert len({*shown, *asked}) == ways * (shots + queries)
    whose = np.array(drawn.characters)
    assert np.array_equal(shown // 8, whose[drawn.support_labels])
    assert np.array_equal(asked // 8, whose[drawn.query_labels])


@pytest.mark.parametrize("sizes", [(1, 1, 1), (8, 1, 1), (2, 0, 1), (2, 1, 0), (2, 5, 4)])
def test_an_episode_that_cannot_be_drawn_is_refused_with_what_there_is(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="cannot be drawn from 7 classes of 8 images") as caught:
        episode(characters(7, 8), *sizes, np.random.default_rng(1))
    assert caught.value.hint.startswith("2 to 7 ways")
