"""Optical recognition of handwritten digits: the 1,797 images of 8×8 pixels that scikit-learn carries.

Public source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
1998, test part. The file is read from the installed package without importing scikit-learn, which takes a second.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lab.errors import ConfigError

FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]

SOURCE = "scikit-learn's digits (UCI, Alpaydin and Kaynak 1998)"
CLASSES = 10
_PIXEL_MAX = 16.0
_HINT = "install scikit-learn >= 1.4 into this environment, or set LAB_DATA to a folder with the spoken digits"


@dataclass(frozen=True)
class Images:
    """Images and what they show.

    Attributes:
        pixels: float32, shape (n, 8, 8), 0 (paper) … 1 (ink).
        digits: int64, shape (n,), 0 … 9.
        digest: SHA-256 of the file they come from, hex.
    """

    pixels: FloatArray
    digits: IntArray
    digest: str

    def __len__(self) -> int:
        return len(self.digits)


def find() -> Path:
    """The file inside the installed scikit-learn.

    Raises:
        ConfigError: scikit-learn is not installed, or has no such file.
    """
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise ConfigError("scikit-learn, which carries the digits, is not installed", hint=_HINT)
    path = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    if not path.is_file():
        raise ConfigError(f"{path} does not exist: this scikit-learn carries no digits", hint=_HINT)
    return path


def digest(path: Path) -> str:
    """SHA-256 of the file, hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load(path: Path | None = None) -> Images:
    """Read all images.

    Args:
        path: a gzipped CSV with 64 pixels 0 … 16 and the digit in each row; default :func:`find`.

    Raises:
        ConfigError: the file is missing or is not such a CSV.
    """
    path = path or find()
    try:
        with gzip.open(path, "rt", encoding="ascii") as rows:
            table = np.loadtxt(rows, delimiter=",", ndmin=2)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"{path} cannot be read as gzipped CSV: {error}", hint=_HINT) from error
    if table.shape[1] != 65:
        raise ConfigError(f"{path} has {table.shape[1]} columns; 64 pixels and the digit are needed", hint=_HINT)
    pixels = (table[:, :64] / _PIXEL_MAX).astype(np.float32).reshape(-1, 8, 8)
    return Images(pixels, table[:, 64].astype(np.int64), digest(path))


def stratified_split(digits: IntArray, held_out_share: float, seed: int) -> tuple[IntArray, IntArray]:
    """Split indices so that every digit has the same share held out.

    Returns:
        Sorted indices of (training, held out); together all of them, each once.
    """
    generator = np.random.default_rng(seed)
    held_out: list[IntArray] = []
    for digit in np.unique(digits):
        members = np.flatnonzero(digits == digit)
        held_out.append(generator.permutation(members)[: round(held_out_share * len(members))])
    chosen = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(digits)), chosen), chosen
