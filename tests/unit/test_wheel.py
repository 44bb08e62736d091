"""A wheel carries every file that the lab reads at run time, not only its Python."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from lab.paths import project_root

PACKAGES = ("lab", "fixtures", "measurements", "device_configs", "firmware")
NOT_OURS = shutil.ignore_patterns("__pycache__", "*.pyc", "*.so", ".*")


def test_a_wheel_has_every_file_and_no_other(tmp_path: Path) -> None:
    project, folder = tmp_path / "project", tmp_path / "dist"  # building leaves things behind, so it is done in a copy
    for package in PACKAGES:
        shutil.copytree(project_root() / package, project / package, ignore=NOT_OURS)
    files = {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()}
    assert {
        "lab/emulators/probe/flash_algorithm/memory_flash.S",
        "firmware/CMakeLists.txt",
        "firmware/boards/mps2-an386/link.ld",
        "device_configs/emulated.yaml",
    } < files
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(project_root() / name, project / name)
    command = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", command, str(folder)], cwd=project, capture_output=True, check=True)
    (wheel,) = folder.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert files - packed == set(), "name them in pyproject.toml under tool.setuptools.package-data"
    assert packed - files == set()
