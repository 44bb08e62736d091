"""Probes in bench files: what is accepted, what is refused and in which words; what they become."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.toolchain import model_of, tiny_model

from lab.build import build
from lab.devices.connect import console_of
from lab.devices.probed import probed_machine, swd_settings
from lab.doctor import availability
from lab.errors import ConfigError
from lab.inventory import Device, load_bench
from lab.transports import swd_settings as settings_module


def device(folder: Path, entry: str) -> Device:
    bench = folder / "bench.yaml"
    bench.write_text(f"devices:\n  one: {{{entry}}}\n")
    return load_bench(bench).devices["one"]


def refusal(folder: Path, entry: str) -> str:
    with pytest.raises(ConfigError) as refused:
        device(folder, entry)
    assert f"{folder}/bench.yaml:2:" in str(refused.value), "file and line are named"
    return str(refused.value)


def test_a_real_probe_with_all_it_can_have(tmp_path: Path) -> None:
    pack = tmp_path / "Maker.pack"
    pack.touch()
    probe = "unique_id: '0123', frequency: 500 kHz, under_reset: true, rtt: true, pack: Maker.pack"
    one = device(tmp_path, f"board: nucleo-f446re, swd: {{{probe}}}")
    settings = swd_settings(one)
    assert (settings.unique_id, settings.target, settings.pack) == ("0123", one.board.pyocd_target, pack)
    assert (settings.frequency_hz, settings.under_reset, console_of(one)) == (500_000, True, "rtt")
    assert one.needs_lease


def test_a_serial_port_is_needed_unless_the_line_goes_through_the_probe(tmp_path: Path) -> None:
    assert "needs serial:; found swd" in refusal(tmp_path, "board: nucleo-f446re, swd: {unique_id: '0123'}")
    both = device(tmp_path, "board: nucleo-f446re, serial: {by_id: '9'}, swd: {unique_id: '0123'}")
    assert console_of(both) == "uart"


def test_a_virtual_probe_goes_with_an_emulated_board(tmp_path: Path) -> None:
    one = device(tmp_path, "board: mps2-an386, emulated: true, swd: {emulated: true}")
    machine = probed_machine(one)
    assert (machine.board, machine.target, machine.machine.machine) == ("mps2-an386", "lab_mps2_an386", "mps2-an386")
    assert swd_settings(one, "given").unique_id == "given"
    assert not one.needs_lease


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("board: mps2-an386, emulated: true, swd: {}", "exactly one of unique_id and emulated: true"),
        ("board: mps2-an386, emulated: true, swd: {emulated: true, unique_id: x}", "exactly one of unique_id"),
        ("board: mps2-an386, emulated: true, swd: {unique_id: x}", "a real probe on an emulated device"),
        ("board: nucleo-f446re, serial: {by_id: '9'}, swd: {emulated: true}", "a virtual probe on hardware"),
        ("board: host, swd: {unique_id: x}", "board 'host' names no pyocd_target"),
        ("board: nucleo-f446re, serial: {by_id: '9'}, swd: {unique_id: x, pack: no.pack}", "no.pack does not exist"),
        ("board: nucleo-f446re, serial: {by_id: '9'}, swd: {unique_id: x, pack: part.zip}", "pack"),
        ("board: nucleo-f446re, serial: {by_id: '9'}, swd: {unique_id: x, frequency: fast}", "frequency"),
        ("board: nucleo-f446re, serial: {by_id: '9'}, swd: {uniqe_id: x}", "did you mean 'unique_id'?"),
        ("board: mps2-an386, emulated: true, swd: {emulated: true}, serial: {by_id: '9'}", "found serial"),
    ],
)
def test_what_is_refused(entry: str, words: str, tmp_path: Path) -> None:
    assert words in refusal(tmp_path, entry)


def test_a_device_without_a_probe_says_what_to_add(tmp_path: Path) -> None:
    wired = device(tmp_path, "board: nucleo-f446re, serial: {by_id: '9'}")
    with pytest.raises(ConfigError, match="'one' has no debug probe"):
        swd_settings(wired)
    with pytest.raises(ConfigError, match=r"'one' .nucleo-f446re. cannot be put behind a virtual probe"):
        probed_machine(wired)


def test_any_board_of_qemu_can_be_put_behind_a_virtual_probe(tmp_path: Path) -> None:
    """``swd: {emulated: true}`` says how the lab deploys; `lab emulate`, `flash` and `gdb` need no such line."""
    one = device(tmp_path, "board: mps2-an386, emulated: true")
    assert probed_machine(one).target == "lab_mps2_an386"
    assert swd_settings(one, "probe-7").unique_id == "probe-7"


def test_without_pyocd_a_device_is_skipped_with_the_way_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = device(tmp_path, "board: mps2-an386, emulated: true, swd: {emulated: true}")
    assert "pyOCD" not in availability(one)
    monkeypatch.setattr(settings_module.importlib.util, "find_spec", lambda _: None)
    assert availability(one).endswith("pyOCD is not installed, its debug probe needs it: pip install 'hil-lab[swd]'")


def test_a_process_has_no_rings(tmp_path: Path) -> None:
    model = tiny_model()
    with pytest.raises(ConfigError, match="host is a process and has no debug probe for RTT"):
        build(model_of("rings", model.sources, 96), "host", cache=tmp_path, console="rtt")


def test_nothing_but_an_open_probe_imports_pyocd() -> None:
    modules = ("lab.cli", "lab.devices.connect", "lab.console", "lab.doctor", "lab.commands.gdb", "lab.runs")
    block = f"import sys; sys.modules['pyocd'] = None; import {', '.join(modules)}"
    subprocess.run([sys.executable, "-c", block], check=True)
