"""Debian packages taken apart: a ``.deb`` is an ar(5) archive whose member ``data.tar.*`` holds the files (deb(5))."""

from __future__ import annotations

import io
import lzma
import re
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

from lab.errors import EmulatorError

_AR_MAGIC = b"!<arch>\n"
_LIBRARIES = ("usr/lib/aarch64-linux-gnu/android", "usr/lib/aarch64-linux-gnu", "lib/aarch64-linux-gnu", "lib")
_LINKS = 8
_MODULES = r"drivers/(virtio|net|char|cpufreq)/|net/|fs/overlayfs/"
_LEFT_OUT = re.compile(rf"usr/share/|usr/lib/debug/|lib/modules/[^/]*/kernel/(?!{_MODULES})")


@dataclass(frozen=True)
class Tree:
    """The files of unpacked packages, by path without a leading slash.

    Attributes:
        files: path to content.
        links: path to where a symbolic link leads.
    """

    files: Mapping[str, bytes]
    links: Mapping[str, str]

    def read(self, path: str) -> bytes:
        """Content of a file; links are followed inside the tree.

        Raises:
            EmulatorError: there is no such file.
        """
        for _ in range(_LINKS):
            if path in self.files:
                return self.files[path]
            if path not in self.links:
                break
            target = PurePosixPath("/", path).parent / self.links[path]
            path = _normal(target)
        raise EmulatorError(
            f"the Debian packages hold no file /{path}",
            hint="a package may have moved it: see lab/emulators/linux/recipes.py",
        )

    def library(self, name: str) -> bytes:
        """A shared library by its soname.

        Raises:
            EmulatorError: it is in none of the packages.
        """
        for folder in _LIBRARIES:
            path = f"{folder}/{name}"
            if path in self.files or path in self.links:
                return self.read(path)
        raise EmulatorError(
            f"no package of the image holds the library {name}",
            hint="add its package to the image's set in lab/emulators/linux/recipes.py",
        )

    def libraries_of(self, program: bytes) -> dict[str, bytes]:
        """All shared libraries a program needs, and those they need, by soname.

        Raises:
            EmulatorError: one is in none of the packages.
        """
        found: dict[str, bytes] = {}
        wanted = list(needed(program))
        while wanted:
            name = wanted.pop()
            if name not in found:
                found[name] = self.library(name)
                wanted += needed(found[name])
        return found


def _normal(path: PurePosixPath) -> str:
    parts: list[str] = []
    for part in path.parts[1:]:
        if part == "..":
            del parts[-1:]
        else:
            parts.append(part)
    return "/".join(parts)


def needed(program: bytes) -> list[str]:
    """Sonames an ELF file asks its loader for; nothing for a static one."""
    try:
        section = ELFFile(io.BytesIO(program)).get_section_by_name(".dynamic")
    except ELFError as error:
        raise EmulatorError(f"a program of the image is no ELF file: {error}") from error
    if not isinstance(section, DynamicSection):
        return []
    return [str(vars(tag)["needed"]) for tag in section.iter_tags("DT_NEEDED")]


def unpack(packages: Iterable[Path]) -> Tree:
    """Read the files of packages into memory, but for documentation and the kernel's modules that no guest needs.

    Raises:
        EmulatorError: a file is no Debian package, or damaged.
    """
    files: dict[str, bytes] = {}
    links: dict[str, str] = {}
    for path in packages:
        tree = _unpacked(path)
        files.update(tree.files)
        links.update(tree.links)
    return Tree(files, links)


# Images have most packages in common, and the kernel's takes seconds to decompress.
@lru_cache(maxsize=128)
def _unpacked(path: Path) -> Tree:
    files: dict[str, bytes] = {}
    links: dict[str, str] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(_data_of(path.read_bytes())), mode="r|*") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                if _LEFT_OUT.match(name):
                    continue
                if member.issym():
                    links[name] = member.linkname
                elif member.islnk():
                    files[name] = files[member.linkname.removeprefix("./")]
                elif (stream := archive.extractfile(member)) is not None:
                    files[name] = stream.read()
    except (ValueError, KeyError, OSError, EOFError, lzma.LZMAError, tarfile.TarError) as error:
        raise EmulatorError(
            f"{path} is no whole Debian package: {error}", hint=f"remove it and run `lab image build`: {path}"
        ) from error
    return Tree(files, links)


def _data_of(deb: bytes) -> bytes:
    """The member ``data.tar.*`` of an ar archive."""
    if not deb.startswith(_AR_MAGIC):
        raise ValueError("no ar archive")
    at = len(_AR_MAGIC)
    while at + 60 <= len(deb):
        header = deb[at : at + 60]
        name, size = header[:16].decode("ascii").strip(), int(header[48:58])
        body = deb[at + 60 : at + 60 + size]
        if name.startswith("data.tar") and len(body) == size:
            return body
        at += 60 + size + size % 2
    raise ValueError("it has no whole member data.tar")
