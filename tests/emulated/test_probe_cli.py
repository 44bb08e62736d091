"""pyOCD's own command line, and gdb, against a board that `lab emulate` keeps running."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.sandbox import environment
from helpers.toolchain import needs_qemu

from lab.cli import main
from lab.emulators.probe.faults import LinkFaults

PYOCD = str(Path(sys.executable).with_name("pyocd"))

pytestmark = needs_qemu

_TIMEOUT_S = 60.0
_BENCH = """
devices:
  kept: {board: mps2-an386, emulated: true}
  other: {board: riscv32-virt, emulated: true}
"""
_PROGRAM = """
__attribute__((noinline)) static int deeper(int depth) { return depth == 0 ? 1 : 1 + deeper(depth - 1); }
volatile int counter;
volatile unsigned *const uart = (unsigned *)0x40004000;
void count(void) { counter += deeper(3); }
void start(void)
{
    uart[4] = 16;
    uart[2] = 3;
    counter = 0;
    for (const char *c = "hello from flash\\n"; *c; c++) {
        while (uart[1] & 1) {
        }
        uart[0] = *c;
    }
    for (;;)
        count();
}
void trap(void)
{
    for (;;) {
    }
}
__attribute__((section(".vectors"), used)) void *const vectors[16] = {(void *)0x20010000, start, trap, trap};
"""


@dataclass(frozen=True)
class _Kept:
    """A board that another process keeps."""

    process: subprocess.Popen[str]
    environment: Mapping[str, str]
    folder: Path
    port: str
    elf: Path

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=dict(self.environment), timeout=_TIMEOUT_S
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    @property
    def faults(self) -> LinkFaults:
        return LinkFaults(self.folder / "state" / "emulated" / "kept.faults")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def elf(folder: Path) -> Path:
    (folder / "program.c").write_text(_PROGRAM)
    made = folder / "program.elf"
    options = ["-mcpu=cortex-m4", "-mthumb", "-Og", "-g", "-ffreestanding", "-nostdlib", "-fno-optimize-sibling-calls"]
    places = ["-Wl,--section-start=.vectors=0", "-Wl,-Ttext=0x100", "-Wl,-Tbss=0x20000000", "-Wl,-estart"]
    command = ["arm-none-eabi-gcc", *options, *places, "-o", str(made), str(folder / "program.c")]
    subprocess.run(command, check=True, cwd=folder)
    return made


def _emulate(folder: Path, environment: Mapping[str, str], device: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lab", "--config", str(folder / "bench.yaml"), "emulate", device]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(environment))


@pytest.fixture(scope="module")
def kept(folder: Path, elf: Path) -> Iterator[_Kept]:
    (folder / "bench.yaml").write_text(_BENCH)
    places = environment(folder, folder / "cache")
    process = _emulate(folder, places, "kept")
    assert process.stdout is not None
    try:
        told = process.stdout.readline()
        port = re.search(r"mps2-an386 behind probe kept, serial port (/dev/\S+)", told)
        assert port, told + process.stdout.read()
        yield _Kept(process, places, folder, port.group(1), elf)
    finally:
        process.terminate()
        process.communicate(timeout=_TIMEOUT_S)
    assert process.returncode == 0
    assert list((folder / "state" / "emulated").iterdir()) == []


@pytest.fixture(scope="module")
def loaded(kept: _Kept) -> _Kept:
    """The board with the program in its flash."""
    kept.run(PYOCD, "load", "-u", "kept", str(kept.elf))
    return kept


def test_the_probe_is_listed_with_its_target(kept: _Kept) -> None:
    listed = kept.run(PYOCD, "list").stdout
    assert re.search(r"virtual probe, mps2-an386\s+kept\s+.*lab_mps2_an386", listed)


def test_what_was_loaded_runs_and_its_target_can_be_named(loaded: _Kept) -> None:
    steps = ("status", "halt", "status", "rw 0x0 4", "reset", "exit")
    named = ("-t", "lab_mps2_an386", "-u", "kept")
    told = loaded.run(PYOCD, "commander", *named, *(part for one in steps for part in ("-c", one))).stdout
    assert re.findall(r"Core 0.*:\s+(\w+)", told) == ["Running", "Halted"]
    assert re.search(r"00000000:\s+20010000", told), told
    descriptor = os.open(loaded.port, os.O_RDONLY | os.O_NOCTTY)
    try:
        said = b""
        while b"hello from flash\n" not in said:
            said += os.read(descriptor, 100)
    finally:
        os.close(descriptor)


def test_a_link_faulted_here_fails_the_command_there_once(loaded: _Kept) -> None:
    loaded.faults.no_ack(after_transfers=300)
    done = loaded.run(PYOCD, "load", "-u", "kept", str(loaded.elf), check=False)
    assert done.returncode != 0
    assert "No ACK" in done.stdout + done.stderr
    loaded.run(PYOCD, "load", "-u", "kept", str(loaded.elf))


def test_a_probe_unplugged_here_is_not_found_there(kept: _Kept) -> None:
    kept.faults.unplug()
    try:
        assert "kept" not in kept.run(PYOCD, "list").stdout
    finally:
        kept.faults.clear()


@pytest.mark.skipif(shutil.which("gdb-multiarch") is None, reason="gdb-multiarch is not installed (`lab doctor`)")
def test_gdb_over_pyocds_server(loaded: _Kept) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [PYOCD, "gdbserver", "-u", "kept", "-p", str(port), "-T", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(loaded.environment)
    ) as server:
        assert server.stdout is not None
        told = ""
        while f"listening on port {port}" not in told:
            line = server.stdout.readline()
            assert line, told
            told += line
        orders = (
            f"target extended-remote :{port}", "monitor reset halt", "maintenance flush register-cache",
            "break deeper if depth == 0", "continue", "backtrace", "print counter", "delete",
            "watch counter", "continue", "print counter", "stepi", "info registers msp", "compare-sections", "detach",
        )  # fmt: skip
        arguments = (*(f"-ex={order}" for order in orders), str(loaded.elf))
        told = loaded.run("gdb-multiarch", "-nx", "-batch", *arguments).stdout
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=_TIMEOUT_S)
    frames = re.findall(r"^#(\d+) .*?(deeper|count|start) \(", told, re.MULTILINE)
    assert frames == [(str(n), name) for n, name in enumerate([*["deeper"] * 4, "count", "start"])], told
    assert re.search(r"^\$1 = 0$", told, re.MULTILINE)
    # The watchpoint let one addition through.
    assert re.search(r"^\$2 = 4$", told, re.MULTILINE)
    assert re.search(r"^msp\s+0x2000ff..", told, re.MULTILINE)
    assert "Section .text" in told
    assert "MIS-MATCHED" not in told


@pytest.mark.parametrize(
    ("device", "words"), [("kept", "'kept' runs already"), ("other", "cannot be put behind a virtual probe")]
)
def test_what_cannot_be_emulated_is_refused(
    kept: _Kept, monkeypatch: pytest.MonkeyPatch, device: str, words: str
) -> None:
    monkeypatch.setenv("LAB_STATE", kept.environment["LAB_STATE"])
    done = CliRunner().invoke(main, ["--config", str(kept.folder / "bench.yaml"), "emulate", device])
    assert done.exit_code == 1
    assert words in done.output


def test_a_core_that_locks_up_costs_the_board_its_power_and_the_probe_stays(kept: _Kept) -> None:
    """A fault in the fetch of the hard fault handler, which ends QEMU."""
    assert kept.process.stdout is not None
    registry = kept.folder / "state" / "emulated" / "kept.json"
    before = json.loads(registry.read_text())["pid"]
    steps = (
        "halt", "ww 0xE000ED08 0x20003000", "ww 0x2000300c 0x70000001",
        "wh 0x20002000 0x6801", "wreg r0 0x70000000", "wreg pc 0x20002000", "wreg xpsr 0x01000000", "go",
    )  # fmt: skip
    kept.run(PYOCD, "commander", "-u", "kept", *(part for one in steps for part in ("-c", one)), check=False)
    for line in kept.process.stdout:
        if "memory is empty again" in line:
            break
    assert "behind probe kept" in kept.process.stdout.readline()
    assert json.loads(registry.read_text())["pid"] != before
