"""The arrows of the design: who may import whom, and what stays out of a light import."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_HEAVY = ("torch", "pandas", "pyarrow", "matplotlib", "sklearn", "scipy")

# A layer may import itself and the layers of lower rank. Modules of `lab` that are not named here are leaves that
# anyone in `lab` may import (rank 0).
_RANKS = {
    "fixtures": 6,
    "lab.cli": 6,
    "lab.__main__": 6,
    "lab.commands": 6,
    "lab.runs": 5,
    "lab.attempt": 5,
    "lab.run_records": 5,
    "lab.passes": 5,
    "lab.measured": 5,
    "lab.deployment": 5,
    "lab.comparison": 5,
    "lab.layer_probe": 5,
    "lab.roofline": 5,
    "lab.metered": 5,
    "lab.os_records": 5,
    "lab.torch_programs": 5,
    "lab.calibrations": 5,
    "lab.energy_truth": 5,
    "lab.mlperf": 5,
    "lab.console": 5,
    "lab.reporting": 5,
    "lab.nightly": 5,
    "lab.baselines": 5,
    "lab.bisect": 5,
    "lab.workloads": 4,
    "lab.compiler": 3,
    "lab.devices": 3,
    "lab.doctor": 3,
    "lab.training": 3,
    "lab.postmortem": 2,
    "lab.transports": 2,
    "lab.emulators": 2,
    "lab.power": 2,
    "lab.environment": 2,
}
# Neighbours of equal rank that must not know each other.
_STRANGERS = {("lab.transports", "lab.compiler"), ("lab.compiler", "lab.devices"), ("lab.devices", "lab.compiler")}
# Protocols and frozen dataclasses without behaviour: anyone may name them.
_PLAIN_DATA = {"lab.compiler.model", "lab.transports.base", "lab.transports.remote"}
_PLAIN_RECORDS = "measurements.environment"
_LAB_MODULES_OF_MEASUREMENTS = {"lab.errors", "lab.filelock", "lab.printable"}


def _modules() -> Iterator[tuple[str, Path]]:
    for package in ("lab", "fixtures", "measurements"):
        for path in sorted((_ROOT / package).rglob("*.py")):
            parts = path.relative_to(_ROOT).with_suffix("").parts
            yield ".".join(part for part in parts if part != "__init__"), path


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _imports(tree: ast.AST, *, lazy: bool) -> Iterator[str]:
    """Absolute names a module imports; with ``lazy`` also those inside functions and for type checking."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide who imports whom"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif lazy or not (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or _is_type_checking(node)):
            yield from _imports(node, lazy=lazy)


def _layer(name: str) -> str:
    matches = [layer for layer in _RANKS if name == layer or name.startswith(f"{layer}.")]
    return max(matches, key=len, default="")


def _violation(importer: str, imported: str) -> str:
    """Why an import is against the design, empty when it is not."""
    package = imported.partition(".")[0]
    if package not in ("lab", "fixtures", "measurements"):
        return ""
    if importer.startswith("measurements"):
        allowed = package == "measurements" or any(
            imported == module or imported.startswith(f"{module}.") for module in _LAB_MODULES_OF_MEASUREMENTS
        )
        return "" if allowed else "measurements may import only lab.errors, lab.filelock and lab.printable from lab"
    if imported.startswith(f"{_PLAIN_RECORDS}."):
        return ""
    if package == "measurements":
        rank = _RANKS.get(_layer(importer), 0)
        return (
            "" if rank >= _RANKS["lab.runs"] else "only runs, reporting, the CLI and fixtures may import measurements"
        )
    if any(imported == module or imported.startswith(f"{module}.") for module in _PLAIN_DATA):
        return ""
    above, below = _layer(importer), _layer(imported)
    if above == below or not below:
        return ""
    if (above, below) in _STRANGERS:
        return f"{above} must not know {below}"
    if _RANKS[below] > _RANKS.get(above, 0) or (_RANKS[below] == _RANKS.get(above, 0) and below == "lab.doctor"):
        return f"{below} stands above {above or 'the leaves of lab'}"
    return ""


def test_imports_point_downwards() -> None:
    modules = list(_modules())
    assert len(modules) > 20
    wrong = []
    for name, path in modules:
        for imported in _imports(ast.parse(path.read_text()), lazy=True):
            reason = _violation(name, imported)
            if reason:
                wrong.append(f"{path.relative_to(_ROOT)} imports {imported}: {reason}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("importer", "imported", "wrong"),
    [
        ("lab.transports.serial", "lab.devices.mcu", True),
        ("lab.transports.serial", "lab.compiler.memory", True),
        ("lab.compiler.driver", "lab.devices.mcu", True),
        ("lab.devices.mcu", "lab.transports.serial.open", False),
        ("lab.devices.mcu", "lab.workloads.base", True),
        ("lab.environment.thermal", "measurements.environment.Zone", False),
        ("lab.environment.thermal", "measurements.record.Record", True),
        ("lab.environment.thermal", "lab.devices.linux", True),
        ("lab.inventory", "lab.emulators.qemu", True),
        ("lab.workloads.inference.kws", "lab.compiler.driver", False),
        ("lab.workloads.inference.kws", "measurements.record", True),
        ("lab.workloads.inference.kws", "lab.cli", True),
        ("measurements.capture", "lab.events", True),
        ("measurements.capture", "lab.errors.StoreError", False),
        ("measurements.store.local", "lab.filelock.wait_for_lock", False),
        ("measurements.capture", "measurements.record", False),
        ("fixtures.plugin", "measurements.record", False),
        ("lab.errors", "fixtures.plugin", True),
        ("lab.power.ppk2", "numpy", False),
    ],
)
def test_the_rules_themselves(importer: str, imported: str, wrong: bool) -> None:
    assert bool(_violation(importer, imported)) == wrong


@pytest.mark.parametrize("module", ["fixtures.plugin", "lab.cli", "lab.inventory", "lab.doctor", "measurements"])
def test_light_modules_import_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*(name for name in {_HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=_ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
