"""Data sets that a user has: each is a folder of its own in the one that ``LAB_DATA`` names, as it is published.

The lab carries none of them. What is missing is told with where it comes from; what is read is hashed, so that records
say which data they are of.
"""

from __future__ import annotations

import csv
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from lab.errors import ConfigError


@dataclass(frozen=True)
class Source:
    """A public data set.

    Attributes:
        name: as people call it.
        folder: its folder below that of ``LAB_DATA``.
        origin: who publishes it.
        licence: under which it may be used.
        layout: what the folder holds, in words.
    """

    name: str
    folder: str
    origin: str
    licence: str
    layout: str

    @property
    def hint(self) -> str:
        """How a user comes to it."""
        return (
            f"get {self.name} ({self.origin}; {self.licence}), put it as {self.folder}/ with {self.layout} into a "
            "folder and set LAB_DATA to that folder; docs/data.md says more"
        )

    def refused(self, what: str) -> ConfigError:
        """The error that says what is wrong with the user's copy."""
        return ConfigError(what, hint=self.hint)

    def find(self) -> Path:
        """The user's folder.

        Raises:
            ConfigError: ``LAB_DATA`` is not set, or has no such folder.
        """
        named = os.environ.get("LAB_DATA", "")
        if not named:
            raise self.refused(f"{self.name} is needed, and LAB_DATA is not set")
        path = Path(named) / self.folder
        if not path.is_dir():
            raise self.refused(f"{self.name} is needed, and there is no folder {path}")
        return path


class Reader:
    """Reads files of a data set and hashes all that it reads.

    Args:
        source: the data set.
        root: its folder; what :meth:`Source.find` yields when left out.

    Raises:
        ConfigError: as :meth:`Source.find`.
    """

    def __init__(self, source: Source, root: Path | None = None) -> None:
        self.source = source
        self.root = source.find() if root is None else root
        self._hashes: dict[str, str] = {}

    def read(self, name: str) -> bytes:
        """A file's content.

        Args:
            name: relative to the folder, with ``/``.

        Raises:
            ConfigError: it cannot be read.
        """
        path = self.root / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise self.source.refused(f"{path} cannot be read: {error.strerror}") from error
        self._hashes[name] = hashlib.sha256(content).hexdigest()
        return content

    def text(self, name: str) -> str:
        """A text file's content, UTF-8.

        Raises:
            ConfigError: it cannot be read, or is no text.
        """
        try:
            return self.read(name).decode()
        except UnicodeDecodeError as error:
            raise self.source.refused(f"{self.root / name} is no text: {error}") from error

    def table(self, name: str, columns: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Rows of a file of comma-separated values with a line of names: these columns, in this order.

        The first row is line 2 of the file; what a row lacks is empty.

        Raises:
            ConfigError: it cannot be read, is no text, or lacks a column.
        """
        table = csv.DictReader(self.text(name).splitlines(), restval="")
        if missing := sorted(set(columns) - set(table.fieldnames or ())):
            raise self.source.refused(f"{self.root / name} has no column '{missing[0]}'")
        return [tuple(row[column] for column in columns) for row in table]

    def folders(self, name: str = "") -> tuple[str, ...]:
        """Names of the folders in a folder, sorted; without those that begin with ``_`` or ``.``."""
        found = (one.name for one in (self.root / name).glob("*/") if one.is_dir())
        return tuple(sorted(one for one in found if one[0] not in "_."))

    def files(self, name: str, *suffixes: str) -> tuple[str, ...]:
        """Files in a folder by their suffixes in lower case, sorted; relative to the data set's folder."""
        found = (self.root / name).iterdir() if (self.root / name).is_dir() else iter(())
        return tuple(sorted(f"{name}/{one.name}" for one in found if one.suffix.lower() in suffixes and one.is_file()))

    def digest(self) -> str:
        """SHA-256, hex, of the names and contents of all that was read so far."""
        lines = (f"{value}  {name}\n" for name, value in sorted(self._hashes.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()
