"""``lab flash``, ``lab reset``, ``lab gdb`` and ``lab console`` with boards behind debug probes."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import tiny_workload
from helpers.probed import probed_entry, probed_image
from helpers.sandbox import environment
from helpers.toolchain import needs_qemu

from lab.cli import main
from lab.devices.connect import console_of
from lab.devices.probed import kept_id, probed_machine, swd_settings
from lab.emulators.probe.board import ProbedBoard
from lab.inventory import load_bench
from lab.paths import cache_dir, config_dir, project_root
from lab.transports.swd_image import read_image

pytestmark = needs_qemu

BENCH = config_dir() / "probed.yaml"


@contextmanager
def kept(name: str) -> Iterator[ProbedBoard]:
    """The board that ``lab emulate`` would keep for a device, kept by this process."""
    entry = probed_entry(name)
    with ProbedBoard(probed_machine(entry), kept_id(entry)) as board:
        yield board


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, private_lab: Path) -> None:
    # Images come from the user's cache, where the other tests have left them.
    monkeypatch.setenv("LAB_CACHE", str(_USERS_CACHE))
    tiny_workload.register()


_USERS_CACHE = cache_dir()


def lab(*arguments: str) -> str:
    done = CliRunner().invoke(main, ["--config", str(BENCH), *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def refused(*arguments: str) -> str:
    done = CliRunner().invoke(main, ["--config", str(BENCH), *arguments])
    assert done.exit_code != 0, done.output
    return done.output


def elf_of(name: str) -> Path:
    return probed_image(probed_entry(name)).path


def test_flash_writes_once_then_compares_and_the_board_runs() -> None:
    elf = elf_of("m4f-swd")
    digest = read_image(elf).digest[:16]
    with kept("m4f-swd") as board:
        first = lab("flash", "m4f-swd", str(elf))
        assert re.fullmatch(rf"m4f-swd: [\d.]+ KiB written in .* kB/s\) and read back; SHA-256 {digest}\n", first)
        again = lab("flash", "m4f-swd", str(elf))
        assert re.fullmatch(rf"m4f-swd: [\d.]+ KiB there already, compared in .* s; SHA-256 {digest}\n", again)
        stream = board.open_serial()
        try:
            assert lab("reset", "m4f-swd") == "m4f-swd: reset (system)\n"
            assert b"mps2-an386" in stream.read(10.0)
        finally:
            stream.close()


def test_flash_of_a_workload_on_a_board_of_its_own_says_that_it_ends() -> None:
    output = lab("flash", "m4f-swd", "--workload", "tiny")
    assert "written in" in output
    assert "`lab emulate m4f-swd` keeps one running" in output


def test_what_flash_and_reset_refuse(tmp_path: Path) -> None:
    assert "name an ELF or a workload, not both" in refused("flash", "m4f-swd", __file__, "--workload", "tiny")
    assert "is no ELF image" in refused("flash", "m4f-swd", __file__)
    assert "nothing to reset" in refused("reset", "m4f-swd")
    bench = tmp_path / "bench.yaml"
    bench.write_text("devices: {rv: {board: riscv32-virt, emulated: true}}")
    done = CliRunner().invoke(main, ["--config", str(bench), "flash", "rv", str(elf_of("m4f-swd"))])
    assert "device 'rv' (riscv32-virt) cannot be put behind a virtual probe" in done.output


@pytest.mark.parametrize("kind", ["system", "core", "pin", "emulated"])
def test_each_kind_of_reset_stops_at_the_reset_vector(kind: str) -> None:
    elf = elf_of("m4f-swd")
    with kept("m4f-swd"):
        lab("flash", "m4f-swd", str(elf))
        output = lab("reset", "m4f-swd", "--kind", kind, "--halt")
    assert output == f"m4f-swd: reset ({kind}), halted at {read_image(elf).address_of('reset_handler'):#010x}\n"


@pytest.mark.parametrize("name", ["m4f-swd", "m4f-rtt"])
def test_console_of_a_board_of_its_own_shows_the_hello(name: str) -> None:
    lines = lab("console", name, "--workload", "tiny", "--seconds", "1").splitlines()
    hello = next(json.loads(line) for line in lines if line.startswith("{"))
    assert (hello["t"], hello["d"], hello["mo"]) == ("hello", "mps2-an386", "tiny")


def test_console_finds_the_rings_of_a_board_that_runs_already(monkeypatch: pytest.MonkeyPatch) -> None:
    with kept("m4f-rtt"):
        assert "no RTT control block in [0x20000000, 0x20040000)" in refused("console", "m4f-rtt", "--seconds", "0.1")
        lab("flash", "m4f-rtt", str(elf_of("m4f-rtt")))
        lines = lab("console", "m4f-rtt", "--seconds", "0.5").splitlines()
        assert lines[0] == "# m4f-rtt on RTT over m4f-rtt"
        assert json.loads(lines[1])["mo"] == "tiny"
        monkeypatch.setattr("lab.console.image_on", lambda *_: None)
        lab("reset", "m4f-rtt")
        assert '"tiny"' in lab("console", "m4f-rtt", "--seconds", "0.5"), "also where the image is not at hand"


def test_gdb_prints_the_command_for_the_image_on_the_board_and_ends_with_ctrl_c(private_lab: Path) -> None:
    elf = elf_of("m4f-swd")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    with kept("m4f-swd"):
        lab("flash", "m4f-swd", str(elf))
        command = [sys.executable, "-m", "lab", "--config", str(BENCH), "gdb", "m4f-swd", "--port", port]
        private = environment(private_lab, _USERS_CACHE)
        with subprocess.Popen(command, env=private, stdout=subprocess.PIPE, text=True) as serving:
            assert serving.stdout is not None
            try:
                first = serving.stdout.readline()
                assert re.fullmatch(rf"\S*gdb\S* {elf} -ex 'target extended-remote localhost:{port}'\n", first)
                with socket.create_connection(("127.0.0.1", int(port)), timeout=10) as gdb:
                    question = b"qSupported:swbreak+"
                    gdb.sendall(b"+$%s#%02x" % (question, sum(question) % 256))
                    assert b"PacketSize=" in gdb.recv(4096) + gdb.recv(4096)
                # As Ctrl-C, which a shell may have told its background jobs to ignore.
                serving.send_signal(signal.SIGTERM)
                assert serving.wait(20) == 0
            finally:
                serving.kill()
        assert "there already" in lab("flash", "m4f-swd", str(elf)), "the probe is free again"


def test_gdb_says_when_the_elf_is_not_what_the_board_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.transports.swd.GDBServer.is_alive", lambda _: False)
    with kept("m4f-swd"):
        assert "runs no image that was built here" in lab("gdb", "m4f-swd", "--port", "33339")
        output = lab("gdb", "m4f-swd", str(elf_of("m4f-swd")), "--port", "33339")
    assert f"holds another image than {elf_of('m4f-swd')}" in output


def test_the_commands_of_the_guide_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but those that serve until Ctrl-C, which have tests of their own."""
    monkeypatch.setattr("lab.commands.flash.DEFAULT_WORKLOAD", "tiny")
    guide = (project_root() / "docs/swd.md").read_text()
    (block,) = re.findall(r"```sh\n(.*?)```", guide, re.DOTALL)
    start = "lab --config device_configs/probed.yaml "
    lines = [line.partition("#")[0] for line in block.splitlines()]
    shown = [line.removeprefix(start).split() for line in lines if line.startswith(start)]
    assert [arguments[0] for arguments in shown] == ["emulate", "flash", "reset", "console", "gdb"]
    with kept("m4f-swd"):
        for arguments in shown:
            if arguments[0] not in ("emulate", "gdb"):
                lab(*arguments)


def test_the_python_of_the_guide_runs() -> None:
    guide = (project_root() / "docs/swd.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    with kept("m4f-swd"):
        exec(compile(block, "docs/swd.md", "exec"), {"elf": elf_of("m4f-swd")})


def test_the_bench_of_the_guide_is_accepted(tmp_path: Path) -> None:
    guide = (project_root() / "docs/swd.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL)
    (tmp_path / "packs").mkdir()
    (tmp_path / "packs/Keil.STM32F4xx_DFP.2.17.1.pack").touch()
    (tmp_path / "bench.yaml").write_text(block)
    nucleo, quiet = load_bench(tmp_path / "bench.yaml").devices.values()
    settings = swd_settings(nucleo)
    assert (settings.unique_id, settings.frequency_hz) == ("066BFF343633464257254156", 4_000_000)
    assert settings.pack == tmp_path / "packs/Keil.STM32F4xx_DFP.2.17.1.pack"
    assert console_of(quiet) == "rtt"
