"""The images of digits, against scikit-learn's own loader."""

from __future__ import annotations

import gzip
import importlib.machinery
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import ConfigError
from lab.workloads.data import digits


def test_equals_scikit_learns_own_loader() -> None:
    from sklearn.datasets import load_digits

    theirs = load_digits()
    ours = digits.load()
    np.testing.assert_array_equal(ours.pixels, theirs.images / 16)
    np.testing.assert_array_equal(ours.digits, theirs.target)
    assert len(ours) == 1797
    assert ours.digest == digits.digest(digits.find())


@given(seed=st.integers(0, 1000), share=st.floats(0.1, 0.5))
def test_split_is_stratified_and_complete(seed: int, share: float) -> None:
    labels = np.random.default_rng(seed).integers(0, 10, 400)
    training, held_out = digits.stratified_split(labels, share, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([training, held_out])), np.arange(400))
    for digit in range(10):
        of_digit = np.count_nonzero(labels == digit)
        assert abs(np.count_nonzero(labels[held_out] == digit) - share * of_digit) <= 0.5


def test_split_depends_on_the_seed_alone() -> None:
    labels = digits.load().digits
    np.testing.assert_array_equal(
        digits.stratified_split(labels, 0.2, 1)[1], digits.stratified_split(labels, 0.2, 1)[1]
    )
    other = digits.stratified_split(labels, 0.2, 2)[1]
    assert not np.array_equal(digits.stratified_split(labels, 0.2, 1)[1], other)


def test_names_a_file_that_is_no_gzip(tmp_path: Path) -> None:
    path = tmp_path / "digits.csv.gz"
    path.write_bytes(b"not gzip")
    with pytest.raises(ConfigError, match=r"digits\.csv\.gz cannot be read as gzipped CSV"):
        digits.load(path)


def test_names_a_file_with_other_columns(tmp_path: Path) -> None:
    path = tmp_path / "digits.csv.gz"
    path.write_bytes(gzip.compress(b"1,2,3\n4,5,6\n"))
    with pytest.raises(ConfigError, match="has 3 columns; 64 pixels and the digit"):
        digits.load(path)


def test_says_when_scikit_learn_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> None:
        return None

    monkeypatch.setattr(digits, "find_spec", nothing)
    with pytest.raises(ConfigError, match="scikit-learn, which carries the digits, is not installed"):
        digits.find()


def test_says_when_scikit_learn_has_no_digits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = importlib.machinery.ModuleSpec("sklearn", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]

    def empty(name: str) -> importlib.machinery.ModuleSpec:
        return spec

    monkeypatch.setattr(digits, "find_spec", empty)
    with pytest.raises(ConfigError, match="does not exist"):
        digits.find()
