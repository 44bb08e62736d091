"""A Python on a device that runs workloads in PyTorch, and how it gets there.

Either a virtual environment that is there already, which is checked and never changed; or an environment made of a
folder of wheels on this computer. That one is named by the wheels' digests and lies in ``<folder>/envs/<digest>``:
other wheels make another environment, and nothing is ever upgraded in place. What both hold (interpreter, packages
and versions) is recorded by its digest.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab.artifact import Artifact
from lab.config_fields import reveal
from lab.devices.machine import absolute
from lab.environment_config import PythonPayload
from lab.errors import ConfigError, InfrastructureError
from lab.transports.remote import Finished, Remote

SCRIPT = Path(__file__).with_name("payload_runner.py")
COMPLETE = "lab-complete.json"
INSTALL_S = 1800.0
_ASK_S = 180.0
_TORCH_WHEELS_HINT = "put torch's wheel for the device's Python and all it needs into the folder: pip download torch"

# Run on the device: what its Python is and has. PyTorch, which takes long to load, is asked only where a GPU may be.
_DESCRIBE = """
import json, platform, re, subprocess
from glob import glob
from importlib.metadata import distributions
packages = {d.metadata['Name'].lower().replace('_', '-'): d.version for d in distributions() if d.metadata['Name']}
version, machine = platform.python_version(), platform.machine()

def told(path, pattern):
    try:
        found = re.search(pattern, open(path).read())
    except OSError:
        return ''
    return found.group(1) if found else ''

def titled(name, mhz):
    return '%s, %.0f MHz' % (name, mhz) if mhz else '%s, clock unknown' % name

def gpu_mhz(torch):
    asked = ['nvidia-smi', '--query-gpu=clocks.max.sm', '--format=csv,noheader,nounits', '--id=0']
    try:
        return float(subprocess.run(asked, capture_output=True, timeout=20).stdout.split()[0])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return 1e-3 * getattr(torch.cuda.get_device_properties(0), 'clock_rate', 0)

khz = told('/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq', '([0-9]+)')
mhz = 1e-3 * float(khz) if khz else float(told('/proc/cpuinfo', 'cpu MHz[^:]*: *([0-9.]+)') or 0)
accelerators = {'cpu': titled(told('/proc/cpuinfo', 'model name[^:]*: *(.*)') or machine, mhz)}
files = glob('/dev/nvidia[0-9]*') + glob('/dev/nvhost-gpu') + glob('/dev/nvgpu') + glob('/dev/dxg')
lacking = 'no GPU of NVIDIA under /dev'
if 'torch' in packages and files:
    import torch
    if torch.cuda.is_available():
        accelerators['cuda'], lacking = titled(torch.cuda.get_device_name(0), gpu_mhz(torch)), ''
    else:
        lacking = '%s, and a PyTorch for CUDA %s that finds no GPU' % (files[0], torch.version.cuda or '(none)')
print(json.dumps({
    'version': version, 'machine': machine, 'packages': packages, 'accelerators': accelerators, 'lacking': lacking,
}))
"""

_WHICH_PYTHON = "import platform, sys; print('%d.%d' % sys.version_info[:2], platform.machine())"

# The new environment runs the pip of the interpreter it was made by: pip's own copy takes long to be unpacked, and
# needs a package (ensurepip) that Debian leaves out. `--python` does the same, of newer pips only.
_WHERE_PIP_IS = "import os, pip; print(os.path.dirname(os.path.dirname(pip.__file__)))"
_RUN_PIP = "import runpy, sys; sys.path.append(sys.argv.pop(1)); runpy.run_module('pip', run_name='__main__')"
# A library that the device lacks and an instruction that its processor lacks show here, not in a run.
_LOAD = "import importlib.util as u; u.find_spec('torch') and __import__('torch')"


@dataclass(frozen=True)
class PythonEnvironment:
    """A Python on a device.

    Attributes:
        program: its interpreter, absolute.
        version: such as ``3.11.2``.
        machine: its architecture.
        packages: names (lower case, hyphens) and versions.
        accelerators: what PyTorch can compute on, ``cpu`` and ``cuda``: the name and clock of each.
        lacking: what was found in place of a GPU, empty where there is one.
        made: whether the lab made it of wheels.
    """

    program: str
    version: str
    machine: str
    packages: Mapping[str, str]
    accelerators: Mapping[str, str] = field(default_factory=dict)
    lacking: str = ""
    made: bool = False

    @property
    def digest(self) -> str:
        """SHA-256 of interpreter and packages, hex."""
        text = json.dumps([self.version, self.machine, sorted(self.packages.items())])
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def title(self) -> str:
        """For records: ``Python 3.11.2, torch 2.8.0, environment 0123456789abcdef``."""
        return f"Python {self.version}, torch {self.packages.get('torch', 'none')}, environment {self.digest[:16]}"


def environment_on(remote: Remote, config: PythonPayload, folder: str) -> PythonEnvironment:
    """The Python of a device, checked; made first where it is to be made of wheels and is not there.

    Args:
        remote: the device.
        config: the section ``python`` of the bench file.
        folder: where the lab keeps its files there, absolute.

    Raises:
        ConfigError: no such environment, no PyTorch in it, wheels that cannot be installed there, or one the lab made
            that was changed since.
        InfrastructureError: the connection or the device's disk failed.
    """
    if config.venv is not None:
        found = _described(remote, f"{absolute(remote, reveal(config.venv)).rstrip('/')}/bin/python", made=False)
        hint = "install torch into that environment by hand; the lab changes nothing in it"
    else:
        found = _made(remote, config, folder)
        hint = _TORCH_WHEELS_HINT
    if "torch" not in found.packages:
        raise ConfigError(f"{remote.name}: {found.program} has no PyTorch", hint=hint)
    return found


def payload_command(
    remote: Remote, environment: PythonEnvironment, artifact: Artifact, place: str
) -> tuple[str, ...]:
    """Send a program and its runner; the command that runs them.

    Args:
        remote: the device.
        environment: its Python.
        artifact: the exported program; its file is named after the model.
        place: the program's folder there.
    """
    script = remote.push(SCRIPT, f"{place}/{SCRIPT.name}")
    program = remote.push(artifact.path, f"{place}/program.pt2")
    # -I: neither the user's packages nor PYTHON… of the login shell get in.
    told = (artifact.build_id, artifact.board, artifact.path.stem, artifact.accelerator)
    return (environment.program, "-I", script.path, program.path, *told)


def wheels_in(folder: Path) -> dict[str, str]:
    """The wheels of a folder: name to SHA-256, sorted by name.

    Raises:
        ConfigError: there is no such folder, or no wheel in it.
    """
    found = sorted(folder.glob("*.whl"))
    if not found:
        raise ConfigError(f"python.wheels: {folder} holds no wheel", hint=_TORCH_WHEELS_HINT)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def environment_key(config: PythonPayload) -> str:
    """What names the environment that a folder of wheels makes: SHA-256 of the interpreter's name and the wheels, hex.

    Raises:
        ConfigError: there is no such folder, or no wheel in it.
    """
    wheels = wheels_in(Path(reveal(config.wheels or "")))
    text = json.dumps([reveal(config.interpreter), sorted(wheels.items())])
    return hashlib.sha256(text.encode()).hexdigest()


def _made(remote: Remote, config: PythonPayload, folder: str) -> PythonEnvironment:
    source = Path(reveal(config.wheels or ""))
    interpreter, wheels = reveal(config.interpreter), wheels_in(source)
    place = f"{folder}/envs/{environment_key(config)[:32]}"
    recorded = remote.run(("cat", f"{place}/{COMPLETE}"))
    if recorded.status != 0:
        _make(remote, interpreter, source, wheels, folder, place)
        found = _described(remote, f"{place}/bin/python", made=True)
        _check_wheels(remote, found, wheels)
        _must(remote, ("sh", "-c", 'cat > "$0"', f"{place}/{COMPLETE}"), stdin=found.digest.encode())
        return found
    found = _described(remote, f"{place}/bin/python", made=True)
    if found.digest != recorded.text:
        raise ConfigError(
            f"{remote.name}: {place} holds other packages than those it was made of: somebody changed it",
            hint=f"remove that folder on the device, and it is made anew: rm -r {place}",
        )
    return found


def _make(
    remote: Remote, interpreter: str, source: Path, wheels: Mapping[str, str], folder: str, place: str
) -> None:
    """Make an environment; one that was begun and not finished is thrown away."""
    # Before hundreds of megabytes are sent: would they be refused there?
    told = _must(remote, (interpreter, "-I", "-c", _WHICH_PYTHON)).text.split()
    for name in wheels:
        _check_tags(remote.name, name, *told)
    pushed = [
        remote.push(source / name, f"{folder}/wheels/{digest[:32]}/{name}").path for name, digest in wheels.items()
    ]
    _must(remote, ("rm", "-rf", place))
    pip = _must(remote, (interpreter, "-I", "-c", _WHERE_PIP_IS), hint="there: apt-get install python3-pip").text
    _must(remote, (interpreter, "-I", "-m", "venv", "--without-pip", place), hint="there: apt-get install python3-venv")
    # What the interpreter itself has, which its pip brings into view, does not count as installed.
    options = ("install", "--quiet", "--ignore-installed", "--disable-pip-version-check", "--no-index", "--no-deps")
    install = (f"{place}/bin/python", "-I", "-c", _RUN_PIP, pip, *options, *pushed)
    _must(remote, install, hint=f"are these wheels for the device's Python and processor? {_TORCH_WHEELS_HINT}")
    _must(remote, (f"{place}/bin/python", "-I", "-c", _LOAD), hint="PyTorch does not load there: see its words")


def _check_tags(device: str, name: str, version: str, machine: str) -> None:
    """Refuse a wheel for another Python or processor, by the tags in its name (PEP 425, PEP 600).

    Args:
        device: whose Python it is.
        name: of the wheel's file.
        version: the device's Python's, such as ``3.11``.
        machine: the device's architecture, such as ``aarch64``.
    """
    pythons, abis, platforms = (part.split(".") for part in name.removesuffix(".whl").split("-")[-3:])
    major, minor = version.split(".")
    own = {f"{kind}{major}{end}" for kind in ("py", "cp") for end in ("", minor)}
    older = {f"cp{major}{number}" for number in range(2, int(minor))} if "abi3" in abis else set()
    for_python = not (own | older).isdisjoint(pythons)
    for_machine = any(one == "any" or re.fullmatch(rf".*linux.*_{machine}", one) for one in platforms)
    if not (for_python and for_machine):
        raise ConfigError(
            f"{device}: {name} is for {'.'.join(pythons)} on {'.'.join(platforms)}; the device has Python {version} on "
            f"{machine}",
            hint=f"pip download --only-binary=:all: --no-deps --python-version {version} "
            f"--platform manylinux_2_28_{machine} {name.split('-')[0]}",
        )


def _check_wheels(remote: Remote, found: PythonEnvironment, wheels: Mapping[str, str]) -> None:
    """That every wheel is there in its very version."""
    for name in wheels:
        package, version = (re.sub(r"[-_.]+", "-", part) if number == 0 else part for number, part in
                            enumerate(name.split("-")[:2]))  # fmt: skip
        there = {re.sub(r"[-_.]+", "-", one): which for one, which in found.packages.items()}.get(package.lower())
        if there != version:
            raise ConfigError(
                f"{remote.name}: {name} was installed, and {package} is {there or 'not there'} in {found.program}",
                hint="two wheels of one package in the folder? keep one",
            )


def _described(remote: Remote, program: str, *, made: bool) -> PythonEnvironment:
    finished = remote.run((program, "-I", "-c", _DESCRIBE), timeout_s=_ASK_S)
    if finished.status != 0:
        raise ConfigError(
            f"{remote.name}: {program} does not run: {_last_words(finished)}",
            hint="python.venv: is the folder of a virtual environment on the device, without /bin/python",
        )
    try:
        told = json.loads(finished.stdout)
        return PythonEnvironment(
            program, told["version"], told["machine"], told["packages"], told["accelerators"], told["lacking"], made
        )
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{remote.name}: {program} printed {finished.text[:80]!r}, not what it is") from error


def _must(remote: Remote, command: Sequence[str], *, stdin: bytes = b"", hint: str = "") -> Finished:
    finished = remote.run(command, timeout_s=INSTALL_S, stdin=stdin)
    if finished.status == 0:
        return finished
    words = _last_words(finished)
    if "No space left" in words:
        raise InfrastructureError(f"{remote.name}: its disk is full: {words}", hint="free some space there")
    raise ConfigError(f"{remote.name}: {' '.join(command[:4])} … failed: {words}", hint=hint)


def _last_words(finished: Finished) -> str:
    lines = finished.stderr.decode(errors="replace").strip().splitlines()
    return " ".join(lines[-2:])[:300] or f"status {finished.status}"
