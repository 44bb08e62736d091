"""``lab bisect`` over a real git history of the lab itself, with an emulated microcontroller at every commit."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.sandbox import TESTS, environment
from helpers.toolchain import needs_qemu

from lab.paths import project_root

pytestmark = [needs_qemu, pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")]

_PARTS = ("lab", "measurements", "fixtures", "firmware", "device_configs")
_IDENTITY = ("-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
# One instruction more in the second layer, and nothing else.
_FUNCTION = "static void offset_layer(const int8_t *input, int8_t *output)\n{\n"
_DEARER = f'{_FUNCTION}    __asm__ volatile("nop");\n'


def git(folder: Path, *arguments: str) -> str:
    command = ("git", "-C", str(folder), *_IDENTITY, *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A repository of the lab with the tiny workload, and five commits: name → hash; ``root`` is its folder."""
    root = tmp_path_factory.mktemp("history")
    for part in _PARTS:
        shutil.copytree(project_root() / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(project_root() / "pyproject.toml", root)
    (root / ".gitignore").write_text("__pycache__/\n")
    workloads = root / "lab" / "workloads"
    shutil.copy(TESTS / "helpers" / "tiny_workload.py", workloads / "inference" / "tiny.py")
    shutil.copytree(TESTS / "data" / "tiny_model", workloads / "data" / "tiny_model")
    registry = workloads / "__init__.py"
    entry = '    "spoken-digits":'
    registry.write_text(registry.read_text().replace(entry, f'    "tiny": "lab.workloads.inference.tiny",\n{entry}'))
    git(root, "init", "-q")
    model = workloads / "data" / "tiny_model" / "model.c"
    commits = {"root": str(root)}
    for name in ("start", "words", "dearer", "more words", "end"):
        (root / "notes.txt").write_text(name)
        if name == "dearer":
            text = model.read_text()
            assert _FUNCTION in text
            model.write_text(text.replace(_FUNCTION, _DEARER))
        git(root, "add", "-A")
        git(root, "commit", "-q", "-m", name)
        commits[name] = git(root, "rev-parse", "HEAD")
    return commits


def test_the_commit_that_costs_one_instruction_is_found(
    history: dict[str, str], tmp_path: Path, shared_cache: Path
) -> None:
    root = Path(history["root"])
    command = [sys.executable, "-m", "lab", "bisect", "tiny", "--device", "m4f", "--samples", "4"]
    command += ["--good", "HEAD~4", "--bad", "HEAD", "--repository", str(root)]
    private = environment(tmp_path, shared_cache)
    done = subprocess.run(command, cwd=root, env=private, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert f"first bad commit: {history['dearer']} dearer" in lines
    (figures,) = [line for line in lines if line.startswith("instructions [inference]: ")]
    assert figures.endswith("instructions (+1)")
    (layer,) = [line for line in lines if "layer" in line]
    assert re.fullmatch(r"  layer 01 offset: \+1 (instructions|cycles) per pass", layer)
    probed = {line.split()[0] for line in lines if re.match(r"[0-9a-f]{10}  (good|bad) ", line)}
    assert len(probed) == 4, "two ends and two steps are enough for three commits between"
    assert git(root, "status", "--porcelain") == ""
    assert git(root, "rev-parse", "HEAD") == history["end"]
    assert not (tmp_path / "store").exists(), "the user's store is left alone"
