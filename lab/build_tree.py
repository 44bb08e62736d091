"""Build trees of CMake and Ninja that are kept between firmware builds, so that only the model is compiled anew.

A tree serves one board with one set of options and one compiler. Nobody else builds in it meanwhile: who finds it
taken makes another one, and waits for nobody. After a build all that belongs to the model is removed, and a note of the
rest is written: the SHA-256 of every file in the tree, of every file outside that the compiler read, as Ninja lists
them, and of all the firmware's files. A tree without a note (its build failed or was killed), or with one that does not
hold any more, is thrown away. So an object is only ever used again for the very files it was made of, whatever their
times say.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from lab.filelock import try_lock

_IMAGES = "firmware.*"
_OF_THE_MODEL = ("lab_model", "lab_image")  # what firmware/CMakeLists.txt lets see the model's folder


@dataclass(frozen=True)
class BuildTree:
    """A folder to build in.

    Attributes:
        folder: where; may not exist yet.
        inputs: digest of the files it is built from.
        settings: what CMake was told there; empty where nothing is built yet.
        read: SHA-256 by path of files outside that its objects were made of.
        lock: open file whose lock makes it ours; None where nobody else can find it.
    """

    folder: Path
    inputs: str
    settings: Mapping[str, str]
    read: Mapping[str, str]
    lock: int | None = None

    @property
    def model(self) -> Path:
        """Where the model's sources go."""
        return self.folder / "model"

    @property
    def objects(self) -> Path:
        """Where CMake and Ninja build."""
        return self.folder / "objects"

    @property
    def used(self) -> bool:
        """Whether there are objects of an earlier build."""
        return bool(self.settings)

    @property
    def _note(self) -> Path:
        return self.folder / "note.json"


@dataclass(frozen=True)
class Tools:
    """What builds.

    Attributes:
        cmake, ninja: the programs.
        environment: all variables they see.
    """

    cmake: Path
    ninja: Path
    environment: Mapping[str, str]

    def run(self, *command: str | Path, lock: int | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program to its end; both its outputs as one text.

        Args:
            command: the program and its arguments.
            lock: open file whose lock the program and its children hold as well: where this process is killed, its
                compilers run on, and nobody else may have their tree meanwhile.
        """
        # On Windows locks belong to a process, and no descriptor is passed on.
        inherited = () if lock is None or sys.platform == "win32" else (lock,)
        return subprocess.run(
            [str(part) for part in command],
            pass_fds=inherited,
            env=dict(self.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
        )


@contextmanager
def borrow(trees: Path, name: str, inputs: str, private: Path) -> Iterator[BuildTree]:
    """A tree that nobody else has until the end of the block.

    Args:
        trees: folder of the cache that keeps them.
        name: what all builds in the tree have in common.
        inputs: digest of all files that builds in it may read in the firmware's folder.
        private: folder to build in, and not to keep, where the cache can keep none.
    """
    with ExitStack() as held:
        try:
            tree = _verified(*_untaken(trees / name, held), inputs)
        except OSError:
            # Not writable, no room, a file system without locks: whether that matters, the build will find out.
            tree = BuildTree(private, inputs, {}, {})
        yield tree


def build_in(
    tree: BuildTree, files: Mapping[str, bytes], settings: Mapping[str, str], tools: Tools, firmware: Path
) -> str:
    """Build a model in a tree.

    Args:
        tree: where.
        files: the model's, contents by name.
        settings: CMake's, for ``firmware/CMakeLists.txt``.
        tools: what to build with.
        firmware: the folder with ``CMakeLists.txt``.

    Returns:
        Nothing where there is an image; else what the tool that failed printed.

    Raises:
        OSError: the tree cannot be written.
    """
    printed = _attempt(tree, files, settings, tools, firmware)
    if printed and tree.used:
        # It may be the tree's fault.
        fresh = replace(tree, settings={}, read={})
        _remove(tree.folder)
        printed = _attempt(fresh, files, settings, tools, firmware)
    return printed


def keep(tree: BuildTree, settings: Mapping[str, str], tools: Tools) -> None:
    """Leave a tree, in which a build succeeded, for the next one. Where that cannot be done the tree is not used again.

    Args:
        tree: where the build was.
        settings: what CMake was told.
        tools: what it was built with.
    """
    with suppress(OSError):
        _remove_model(tree)
        read = dict(tree.read)
        for path in _files_read(tree, tools):
            if path not in read:
                read[path] = _sha256(Path(path))
        inside = {path.relative_to(tree.folder).as_posix(): _sha256(path) for path in _files_in(tree.objects)}
        note = {"inputs": tree.inputs, "settings": dict(settings), "read": read, "inside": inside}
        tree._note.write_text(json.dumps(note), encoding="utf-8")


def _untaken(folder: Path, held: ExitStack) -> tuple[Path, int]:
    """A tree that is now locked by us, and the file that is locked; the lock ends with ``held``."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in itertools.count():
        descriptor = os.open(folder / f"{number}.lock", os.O_RDWR | os.O_CREAT, 0o666)
        held.callback(os.close, descriptor)
        if try_lock(descriptor):
            break
    return folder / str(number), descriptor


def _verified(folder: Path, lock: int, inputs: str) -> BuildTree:
    """The tree with what is known of it; emptied where its note is missing or does not hold."""
    unused = BuildTree(folder, inputs, {}, {}, lock)
    try:
        note = json.loads(unused._note.read_text(encoding="utf-8"))
        tree = replace(unused, settings=note["settings"], read=note["read"])
        inside = {folder / path: digest for path, digest in note["inside"].items()}
        outside = {Path(path): digest for path, digest in tree.read.items()}
        holds = (
            note["inputs"] == inputs
            and set(_files_in(tree.objects)) == inside.keys()
            and all(_sha256(path) == digest for path, digest in (inside | outside).items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        holds = False
    if holds:
        return tree
    _remove(folder)
    return unused


def _attempt(
    tree: BuildTree, files: Mapping[str, bytes], settings: Mapping[str, str], tools: Tools, firmware: Path
) -> str:
    tree._note.unlink(missing_ok=True)
    _remove_model(tree)
    tree.model.mkdir(parents=True)
    for name, content in files.items():
        (tree.model / name).write_bytes(content)
    if tree.settings != settings:
        values = [f"-D{key}={value}" for key, value in settings.items()]
        done = tools.run(tools.cmake, "-G", "Ninja", "-S", firmware, "-B", tree.objects, *values, lock=tree.lock)
        if done.returncode != 0:
            return _said("cmake", done)
    done = tools.run(tools.ninja, "-C", tree.objects, lock=tree.lock)
    if done.returncode == 0 and not any(tree.objects.glob(_IMAGES)):
        # CMake says nothing of a file that it could not write to its end.
        return f"{done.stdout}\nnothing failed, and there is no image"
    return _said("ninja", done) if done.returncode != 0 else ""


def _said(tool: str, failed: subprocess.CompletedProcess[str]) -> str:
    """What a tool that failed printed; one that was killed by a signal prints nothing."""
    return failed.stdout or f"{tool} ended with status {failed.returncode} and said nothing"


def _remove_model(tree: BuildTree) -> None:
    _remove(tree.model)
    for library in _OF_THE_MODEL:
        _remove(tree.objects / "CMakeFiles" / f"{library}.dir")
    for image in tree.objects.glob(_IMAGES):
        image.unlink()


def _remove(folder: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _files_read(tree: BuildTree, tools: Tools) -> Iterable[str]:
    """The files outside the tree of which its objects were made."""
    listed = tools.run(tools.ninja, "-C", tree.objects, "-t", "deps").stdout
    paths = {tree.objects / line[4:] for line in listed.splitlines() if line.startswith("    ")}
    return sorted(str(path) for path in paths if not path.is_relative_to(tree.folder))


def _files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
