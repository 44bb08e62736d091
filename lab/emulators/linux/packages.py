"""Debian packages for arm64, downloaded into the cache without touching this computer's own packages.

``apt-get`` runs in a private root (own lists, status and archives) with this computer's own Debian mirror, so that its
proxies, credentials and keys count and no host name is written anywhere; apt checks the archive's signature. What was
downloaded is named by its SHA-256 and noted in a lock file beside it, and from then on no network is needed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import unquote

from lab import progress
from lab.durable import replace_file
from lab.errors import ToolMissing
from lab.filelock import try_lock, wait_for_lock

SOURCES = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d"))
"""Where a Debian computer says which mirrors it uses."""

_APT_TIMEOUT_S = 900.0
_RELEASES = r"(?:bullseye|bookworm|trixie|forky|sid|oldoldstable|oldstable|stable|testing|unstable)"
_CONFIG = """\
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "2";
Dir::State "{root}/state";
Dir::State::status "{root}/status";
Dir::Cache "{root}/cache";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{root}/sources";
Dir::Etc::parts "{root}/parts";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "{root}/parts";
"""


@dataclass(frozen=True)
class PackageSet:
    """Packages that are fetched together.

    Attributes:
        name: of its lock file.
        suite: Debian release.
        packages: their names.
        resolved: names of packages that stand for the one they depend on, and the begin of that one's name: a kernel's
            name changes with every point release.
    """

    name: str
    suite: str
    packages: tuple[str, ...]
    resolved: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Package:
    """A package in the cache.

    Attributes:
        name, version: Debian's.
        sha256: of the file, in hexadecimal.
        path: the ``.deb`` file.
    """

    name: str
    version: str
    sha256: str
    path: Path


def linux_cache(cache: Path) -> Path:
    """The folder of everything emulated Linux devices need; copying it to another computer spares it the network."""
    return cache / "linux"


def cached(wanted: PackageSet, cache: Path) -> list[Package] | None:
    """The packages of a set if all lie in the cache, else None."""
    folder = linux_cache(cache) / "packages"
    try:
        lock = json.loads((folder / f"{wanted.name}.json").read_text())
        if lock["set"] != _definition(wanted):
            return None
        found = [
            Package(one["name"], one["version"], one["sha256"], folder / f"{one['sha256']}.deb")
            for one in lock["packages"]
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if all(one.path.is_file() for one in found) else None


def fetch(wanted: PackageSet, cache: Path, *, newest: bool = False, sources: Sequence[Path] = SOURCES) -> list[Package]:
    """The packages of a set, downloaded unless they lie in the cache.

    Args:
        wanted: which.
        cache: the lab's cache folder.
        newest: ask the archive for newer versions even if all are there.
        sources: files and folders that name the mirrors.

    Raises:
        ToolMissing: they are not in the cache and cannot be had: no apt, no Debian mirror, no network; says how to
            bring them here.
    """
    folder = linux_cache(cache) / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / f"{wanted.name}.lock"):
        found = None if newest else cached(wanted, cache)
        return found if found is not None else _download(wanted, cache, folder, sources)


def _download(wanted: PackageSet, cache: Path, folder: Path, sources: Sequence[Path]) -> list[Package]:
    with (
        progress.step(f"downloading {len(wanted.packages) + len(wanted.resolved)} arm64 packages of {wanted.suite}"),
        tempfile.TemporaryDirectory(dir=folder, prefix=".apt-") as scratch,
    ):
        apt = _Apt(Path(scratch), wanted.suite, cache, sources)
        apt.run("apt-get", "-q", "update")
        names = [*wanted.packages, *(apt.dependency(meta, prefix) for meta, prefix in wanted.resolved)]
        apt.run("apt-get", "-q", "download", *names)
        packages = sorted((_keep(file, folder) for file in Path(scratch).glob("*.deb")), key=lambda one: one.name)
    entries = [{"name": one.name, "version": one.version, "sha256": one.sha256} for one in packages]
    lock = {"set": _definition(wanted), "packages": entries}
    replace_file(folder / f"{wanted.name}.json", json.dumps(lock, indent=1).encode() + b"\n")
    return packages


def _definition(wanted: PackageSet) -> object:
    """The set as its lock file has it, so that a changed set is downloaded anew."""
    return json.loads(json.dumps(asdict(wanted)))


def _keep(file: Path, folder: Path) -> Package:
    """Move a downloaded package to its place; its name is ``name_version_architecture.deb``."""
    name, version, _ = unquote(file.stem).split("_")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    target = folder / f"{digest}.deb"
    file.replace(target)
    return Package(name, version, digest, target)


class _Apt:
    """apt with a private root in ``root``."""

    def __init__(self, root: Path, suite: str, cache: Path, sources: Sequence[Path]) -> None:
        self._root = root
        self._suite = suite
        self._cache = cache
        if shutil.which("apt-get") is None:
            raise self._error("apt-get is not installed")
        stanzas = list(mirrors(suite, sources))
        if not stanzas:
            raise self._error(f"no Debian mirror stands in {' or '.join(map(str, sources))}")
        for name in ("state/lists/partial", "cache/archives/partial", "sources", "parts"):
            (root / name).mkdir(parents=True)
        (root / "status").touch()
        (root / "sources" / "lab.sources").write_text("\n".join(stanzas))
        # The machine's own settings of how to fetch (proxies and the like), but none of its hooks.
        machine = subprocess.run(["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=False).stdout
        (root / "apt.conf").write_text(machine + _CONFIG.format(root=root))

    def run(self, program: str, *arguments: str) -> str:
        environment = {**os.environ, "APT_CONFIG": str(self._root / "apt.conf"), "LC_ALL": "C"}
        try:
            done = subprocess.run(
                [program, *arguments], cwd=self._root, env=environment, capture_output=True, text=True,
                timeout=_APT_TIMEOUT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise self._error(f"{program} {arguments[0]} took more than {_APT_TIMEOUT_S:g} s") from error
        if done.returncode:
            complaints = [line for line in done.stderr.splitlines() if line.startswith("E:")] or [done.stderr.strip()]
            raise self._error(f"{program} {arguments[-1]}: " + "\n  ".join(complaints)[-1000:])
        return done.stdout

    def dependency(self, meta: str, prefix: str) -> str:
        """The package that a package without content depends on."""
        found = re.findall(rf"Depends: ({re.escape(prefix)}\S+)", self.run("apt-cache", "depends", meta))
        if len(found) != 1:
            raise self._error(f"{meta} depends on {len(found)} packages {prefix}…, not one")
        return str(found[0])

    def _error(self, why: str) -> ToolMissing:
        return ToolMissing(
            f"the arm64 packages of Debian {self._suite} for emulated Linux devices are not in "
            f"{linux_cache(self._cache)} and cannot be downloaded: {why}",
            hint="run `lab image build` where the network is, once; or copy the folder "
            f"{linux_cache(self._cache)} from a Debian computer that has run it",
        )


def mirrors(suite: str, sources: Sequence[Path] = SOURCES) -> Iterator[str]:
    """This computer's Debian mirrors as stanzas of a ``.sources`` file that ask for another release (sources.list(5)).

    Args:
        suite: release to ask for.
        sources: files, and folders with files, of either format.
    """
    seen = set()
    for place in sources:
        for file in sorted(place.glob("*.*")) if place.is_dir() else [place]:
            if file.suffix not in (".list", ".sources") or not file.is_file():
                continue
            text = file.read_text(errors="replace")
            stanzas = _lines_as_stanzas(text) if file.suffix == ".list" else _stanzas(text)
            for fields in stanzas:
                suites = _translated(fields.get("Suites", ""), suite)
                key = (fields.get("URIs", ""), suites)
                if "deb" in fields.get("Types", "").split() and suites and key not in seen:
                    seen.add(key)
                    chosen = {**fields, "Types": "deb", "Suites": suites, "Components": "main"}
                    yield "".join(f"{name}: {value}\n" for name, value in chosen.items())


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    """Stanzas in deb822 format; values that go over several lines stay so."""
    for block in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in block.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace() and name:
                fields[name] += "\n" + line
            elif ":" in line:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        if fields.get("Enabled", "yes") != "no":
            yield fields


def _lines_as_stanzas(text: str) -> Iterator[dict[str, str]]:
    """Lines ``deb [signed-by=FILE] URI SUITE COMPONENT…``."""
    for found in re.finditer(r"^deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s", text, re.MULTILINE):
        key = re.search(r"signed-by=(\S+)", found[1] or "")
        signed = {"Signed-By": key[1]} if key else {}
        yield {"Types": "deb", "URIs": found[2], "Suites": found[3], **signed}


def _translated(suites: str, wanted: str) -> str:
    """The same parts of another release: the release itself, its updates and its security fixes."""
    found = re.findall(rf"(?:^|\s){_RELEASES}(|-updates|-security)(?=\s|$)", suites)
    return " ".join(f"{wanted}{part}" for part in dict.fromkeys(found))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time downloads or builds."""
    with path.open("ab") as handle:
        if not try_lock(handle.fileno()):
            with progress.step("waiting for another process that prepares the same"):
                wait_for_lock(handle.fileno())
        yield
