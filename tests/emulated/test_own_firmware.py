"""docs/compiler.md, "In your own firmware", done to the letter: on this machine and on the emulated Cortex-M4F."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers.toolchain import needs_host_compiler, needs_qemu
from torch import nn

from lab.cli import main
from lab.paths import project_root
from lab.workloads.networks import ZOO

STEPS, CLASSES, RATE = 300, 10, 0.1
TIMEOUT_S = 120.0
CORES = {
    "m4": ["-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"],
    "m55": ["-mcpu=cortex-m55", "-mfloat-abi=hard"],
    "m0": ["-mcpu=cortex-m0"],
}


def section() -> str:
    text = (project_root() / "docs" / "compiler.md").read_text()
    return text.split("## In your own firmware\n")[1].split("\n## ")[0]


def commands() -> list[str]:
    """The section's shell commands, in order, with their continuation lines."""
    blocks = re.findall(r"^```sh\n(.*?)^```", section(), re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def command(*words: str) -> str:
    """The one command that holds all words."""
    (found,) = [line for line in commands() if all(word in line for word in words)]
    return found


def shell(line: str, folder: Path) -> str:
    """Run a command as a reader would, with this installation's ``lab``; nothing on standard error is a pass."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        line, shell=True, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    assert done.stderr == ""
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the section's files, and the network compiled by its first command."""
    folder = tmp_path_factory.mktemp("firmware")
    blocks = re.findall(r"^```c\n(.*?)^```", section(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    for block in blocks:
        named = re.match(r"/\* (\w+\.c): ", block)
        assert named is not None, "each block names its file"
        (folder / named[1]).write_text(block)
    assert "written: net" in shell(command("lab compile"), folder)
    return folder


def losses_of(lines: list[str]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Losses by step; the steps must be numbered without a gap."""
    pairs = [line.split() for line in lines]
    assert [int(step) for step, _ in pairs] == list(range(1, STEPS + 1))
    return np.array([float(loss) for _, loss in pairs])


def by_pytorch() -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The same training in PyTorch: same first weights, same samples, same order."""
    torch.manual_seed(0)
    module = ZOO["mlp"].build()
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE)
    losses = []
    for step in range(STEPS):
        label = step % CLASSES
        sample = (torch.arange(64) % CLASSES == label).to(torch.float32).reshape(1, 1, 8, 8)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(module(sample), torch.tensor([label]))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)


@needs_host_compiler
def test_on_this_machine(project: Path) -> None:
    shell(command("gcc -std", "port_host.c"), project)
    losses = losses_of(shell(command("./train"), project).splitlines())
    # Four digits are printed; training carries the rounding of 300 steps on.
    assert losses == pytest.approx(by_pytorch(), abs=1e-3)
    assert losses[-CLASSES:].mean() < 0.02 < 2.0 < losses[:CLASSES].mean()


@needs_qemu
def test_on_an_emulated_core(project: Path) -> None:
    shell(command("arm-none-eabi-gcc"), project)
    lines: list[str] = []
    # The core idles for ever behind its last line: whoever reads ends it. The timer is for a core that says nothing.
    words = shlex.split(command("qemu-system-arm"))
    with subprocess.Popen(
        words, cwd=project, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    ) as qemu:
        timer = threading.Timer(TIMEOUT_S, qemu.kill)
        timer.start()
        try:
            assert qemu.stdout is not None
            for line in qemu.stdout:
                lines.append(line)
                if len(line.split()) == 1:
                    break
        finally:
            timer.cancel()
            qemu.kill()
    assert lines[-1:] == ["0\n"], "main has recognised its class"
    assert losses_of(lines[:-1]) == pytest.approx(by_pytorch(), abs=1e-3)


@pytest.fixture(
    scope="module",
    params=[
        ("digits-mb-16", "--loss", "cross-entropy", "--precision", "int8"),
        ("digits-mb-16",),
        ("gru", "--loss", "cross-entropy", "--optimizer", "adam", "--at-end"),
    ],
    ids=["int8 training", "int8 inference", "float32 training"],
)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``lab compile`` writes, with a main that links everything."""
    made = tmp_path_factory.mktemp("any_core")
    result = CliRunner().invoke(main, ["compile", *request.param, "--output", str(made)])
    assert result.exit_code == 0, result.output
    reset = "    lab_training_reset(lab_model.training);\n" if "--loss" in request.param else ""
    (made / "main.c").write_text(
        '#include "model.h"\n'
        "static uint8_t arena[LAB_MODEL_ARENA_BYTES] __attribute__((aligned(16)));\n"
        "static float in[LAB_MODEL_INPUT_BYTES], out[LAB_MODEL_OUTPUT_BYTES];\n"
        f"int main(void)\n{{\n{reset}    lab_model.infer(in, out, arena);\n    return 0;\n}}\n"
    )
    return made


@needs_qemu
@pytest.mark.parametrize("core", sorted(CORES))
def test_the_folder_is_all_that_a_core_needs(core: str, folder: Path, tmp_path: Path) -> None:
    sources = [folder / "main.c", folder / "model.c", *sorted((folder / "runtime").glob("*.c"))]
    done = subprocess.run(
        ["arm-none-eabi-gcc", *CORES[core], "-mthumb", "-std=c99", "-O2", "-Wall", "-Wextra", "-Werror",
         "-nostartfiles", "-Wl,-e,main", f"-I{folder}", f"-I{folder / 'runtime'}", *sources, "-lm",
         "-o", tmp_path / "firmware.elf"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
