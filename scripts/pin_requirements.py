"""Writes requirements/ci.txt: what is installed here of the project's dependencies, each pinned by version and SHA-256;
and requirements/labgrid.txt: the same of labgrid, which has an environment of its own (docs/labgrid.md).

Run it in the project's environment after dependencies have changed: ``.venv/bin/python scripts/pin_requirements.py``.
PyTorch and the packages only it needs are left out: its CPU build has another digest than the ordinary one, and
``scripts/setup.sh`` takes what it can get of it.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lab.labgrid.environment import labgrid_python

_PROJECT = "hil-lab"
_EXTRAS = ("dev", "influx")
_LEFT_OUT = {"torch"}
_TARGET = Path(__file__).resolve().parent.parent / "requirements" / "ci.txt"


def closure(name: str, extras: tuple[str, ...]) -> dict[str, str]:
    """Installed packages that a package needs, and those they need: canonical name to version."""
    found: dict[str, str] = {}
    waiting = [(name, extras)]
    seen: set[tuple[str, tuple[str, ...]]] = set()
    while waiting:
        wanted = waiting.pop()
        if wanted in seen:
            continue
        seen.add(wanted)
        package, with_extras = wanted
        lines = _own_requirements() if package == _PROJECT else _installed(package, found)
        for line in lines:
            needed = Requirement(line)
            key = canonicalize_name(needed.name)
            marker = needed.marker
            asked = marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *with_extras))
            if asked and key not in _LEFT_OUT:
                waiting.append((key, tuple(sorted(needed.extras))))
    return found


def _own_requirements() -> list[str]:
    """The project's, from its own file: what is installed of it may be of an earlier one."""
    project = tomllib.loads((_TARGET.parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].items()
    return [*project["dependencies"], *(_with_extra(line, extra) for extra, lines in extras for line in lines)]


def _with_extra(line: str, extra: str) -> str:
    needed, semicolon, marker = line.partition(";")
    return f"{needed}; extra == '{extra}'{f' and ({marker})' if semicolon else ''}"


def _installed(package: str, found: dict[str, str]) -> list[str]:
    """What an installed package needs; notes its version."""
    try:
        installed = distribution(package)
    except PackageNotFoundError:
        sys.exit(f"{package} is needed and not installed: run `make setup` first")
    found[package] = installed.version
    return installed.requires or []


def hashes(packages: dict[str, str]) -> dict[str, str]:
    """SHA-256 of the file that pip would install of each, by pip's own report; nothing is installed."""
    pins = [f"{name}=={version}" for name, version in packages.items()]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet",
               "--report", "-", *pins]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"pip cannot say what it would install:\n{done.stderr}")
    found: dict[str, str] = {}
    for item in json.loads(done.stdout)["install"]:
        digest = item["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
        if digest is None:
            sys.exit(f"pip tells no SHA-256 of {item['metadata']['name']}")
        found[canonicalize_name(item["metadata"]["name"])] = digest
    return found


def of_labgrid() -> dict[str, str]:
    """Packages of labgrid's environment: canonical name to version."""
    command = [labgrid_python(), "-m", "pip", "list", "--format", "json"]
    listed = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    found = {canonicalize_name(one["name"]): one["version"] for one in listed}
    return {name: version for name, version in found.items() if name not in ("pip", "setuptools")}


def write(target: Path, packages: dict[str, str]) -> None:
    """Write one file."""
    digests = hashes(packages)
    where = f"{sys.version_info.major}.{sys.version_info.minor} {platform.system()} {platform.machine()}"
    lines = [f"# platform: {where}", "# Made by scripts/pin_requirements.py; docs/security.md says what for."]
    lines += [f"{name}=={packages[name]} --hash=sha256:{digests[name]}" for name in sorted(packages)]
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{target}: {len(packages)} packages for {where}")


def main() -> None:
    """Write the files."""
    write(_TARGET, closure(_PROJECT, _EXTRAS))
    write(_TARGET.with_name("labgrid.txt"), of_labgrid())


if __name__ == "__main__":
    main()
