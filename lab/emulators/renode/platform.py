"""Platform descriptions (.repl): copied for one run, without what would be fetched from the network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from lab.errors import ConfigError

_USING = re.compile(r'^(using\s+)"([^"]+)"(.*)$')
_FETCHES = re.compile(r"^\s+ApplySVD\s+@https?://")
_ENTRY = re.compile(r"^\w+:\s*$")
_INIT = re.compile(r"^\s+init:\s*$")
_MARKS = (Path(".renode-root"), Path("platforms/cpus"))
_PACKAGED = Path("/opt/renode")


def root_of(program: Path) -> Path | None:
    """The folder of Renode's own platform descriptions' root; None where it is not found near the program."""
    for folder in (*program.parents, _PACKAGED):
        if any((folder / mark).exists() for mark in _MARKS):
            return folder
    return None


def copy_platform(name: str, roots: Sequence[Path], folder: Path) -> Path:
    """Copy a description, and those it uses, into a folder.

    Args:
        name: path of the description, below one of ``roots`` or absolute.
        roots: where descriptions lie, the first that has it counts.
        folder: for the copies.

    Returns:
        The copy. It names the copies of what it uses by absolute paths and fetches nothing.

    Raises:
        ConfigError: a description does not exist, or uses itself.
    """
    copies: dict[Path, Path] = {}
    return _copy(_find(name, roots, None), roots, folder, copies, ())


def _copy(source: Path, roots: Sequence[Path], folder: Path, copies: dict[Path, Path], users: tuple[Path, ...]) -> Path:
    if source in users:
        raise ConfigError(f"{source} uses itself: {' uses '.join(map(str, (*users, source)))}")
    if source in copies:
        return copies[source]
    lines = []
    for line in source.read_text(encoding="utf-8-sig").splitlines():
        using = _USING.match(line)
        if using:
            used = _find(using[2], roots, source)
            line = f'{using[1]}"{_copy(used, roots, folder, copies, (*users, source))}"{using[3]}'
        lines.append(line)
    copy = folder / f"{len(copies)}-{source.name}"
    copies[source] = copy
    copy.write_text("\n".join(_offline(lines)) + "\n")
    return copy


def _find(name: str, roots: Sequence[Path], user: Path | None) -> Path:
    near = () if user is None or not name.startswith(".") else (user.parent,)
    for root in (*near, *roots):
        found: Path = root / name
        if found.is_file():
            return found.resolve()
    asked = f"{user} uses" if user is not None else "the board file names"
    raise ConfigError(
        f"{asked} the platform {name!r}; it is in none of {', '.join(map(str, roots))}",
        hint="is this Renode complete? RENODE has to name the program beside its folder `platforms`",
    )


def _offline(lines: Sequence[str]) -> list[str]:
    """Without commands that fetch, and without the heads that are left with nothing below them."""
    kept = [line for line in lines if not _FETCHES.match(line)]
    for head in (_INIT, _ENTRY):
        kept = [line for k, line in enumerate(kept) if not head.match(line) or _has_body(kept, k)]
    return kept


def _has_body(lines: Sequence[str], head: int) -> bool:
    below = (line for line in lines[head + 1 :] if line.strip() and not line.strip().startswith("//"))
    return _depth(next(below, "")) > _depth(lines[head])


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())
