"""Bench and board files: what is accepted, and one clear message for everything that is not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lab.config_fields import reveal
from lab.errors import ConfigError
from lab.inventory import Board, board_files, json_schema, load_bench, load_board
from lab.paths import config_dir, default_config, project_root

_HARDWARE = """\
devices:
  nucleo:
    board: nucleo-f446re
    serial: {by_id: 066BFF343633464257254156, baud: 921600}
    meter: {kind: ppk2, serial_number: C4DF0A1B2C3D, voltage_v: 1.8}
    power_switch: {kind: uhubctl, location: 1-1.4, outlet: 2}
    tags: [desk]
"""

_LINUX_BOARD = """\
kind: pi
title: A small Linux computer
device_class: linux
cpu: cortex-a53
clock_hz: 1.2 GHz
memory: {flash_bytes: 1 GiB, ram_bytes: 512 MiB, arena_limit_bytes: 64 MiB}
firmware_board: null
nominal_voltage_v: 5.0
"""

_LINUX = """\
devices:
  pi:
    board: pi
    ssh:
      host: pi.local
      user: !env LAB_TEST_USER
      host_key: ssh-ed25519 AAAA
      password: !env LAB_TEST_PASSWORD
"""


def _bench(folder: Path, text: str) -> Path:
    path = folder / "bench.yaml"
    path.write_text(text)
    return path


def _refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_bench(_bench(folder, text))
    return str(caught.value)


def test_the_emulated_bench() -> None:
    bench = load_bench(config_dir() / "emulated.yaml")
    m4f, m7, host = (bench.devices[name] for name in ("m4f", "m7", "host"))
    assert (m4f.board.cpu, m7.board.cpu, host.board.device_class) == ("cortex-m4f", "cortex-m7", "host")
    assert m4f.board.memory.arena_limit_bytes == 256 * 1024
    assert m7.board.memory.arena_limit_bytes == 512 * 1024
    assert m4f.board.energy_model is not None
    assert "not a measurement" in m4f.board.energy_model.source
    assert m4f.meter is not None
    assert m4f.meter.emulated
    assert m4f.meter_voltage_v == 3.3
    assert host.meter is None
    assert not any(device.needs_lease for device in bench.devices.values())


def test_the_example_bench_and_every_board_file_are_valid() -> None:
    example = load_bench(config_dir() / "bench.example.yaml")
    assert example.devices["nucleo"].needs_lease
    assert example.devices["nucleo"].board.firmware_board == "nucleo-f446re"
    for kind, path in board_files(config_dir()).items():
        assert load_board(path).kind == kind


def test_hardware_is_read(tmp_path: Path) -> None:
    device = load_bench(_bench(tmp_path, _HARDWARE)).devices["nucleo"]
    assert device.config.serial is not None
    assert device.config.serial.baud == 921600
    assert device.meter_voltage_v == 1.8
    assert device.features == ("fpu", "dsp", "meter", "power-switch")
    assert device.origin == f"{tmp_path / 'bench.yaml'}:2:3"


def test_a_bench_may_bring_boards_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_TEST_USER", "canary-user")
    monkeypatch.setenv("LAB_TEST_PASSWORD", "canary-word")
    (tmp_path / "boards").mkdir()
    (tmp_path / "boards" / "pi.yaml").write_text(_LINUX_BOARD)
    bench = load_bench(_bench(tmp_path, _LINUX))
    ssh = bench.devices["pi"].config.ssh
    assert ssh is not None
    assert ssh.password is not None
    assert (reveal(ssh.user), reveal(ssh.password), reveal(ssh.host)) == ("canary-user", "canary-word", "pi.local")
    assert "canary" not in repr(bench)
    assert "canary" not in str(ssh)
    assert "canary" not in ssh.model_dump_json()


def test_secrets_are_hidden_in_errors_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_TEST_SECRET", "canary")
    text = "devices:\n  a:\n    board: !env LAB_TEST_SECRET\n    emulated: !env LAB_TEST_SECRET\n"
    message = _refusal(tmp_path, text)
    assert "devices.a.emulated" in message
    assert "canary" not in message


def test_a_missing_variable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAB_TEST_USER", raising=False)
    message = _refusal(tmp_path, _LINUX)
    assert "bench.yaml:6:13: devices.pi.ssh.user: the environment variable LAB_TEST_USER is not set" in message


def test_a_secret_in_plain_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_TEST_USER", "someone")
    message = _refusal(tmp_path, _LINUX.replace("!env LAB_TEST_PASSWORD", "canary"))
    assert "devices.pi.ssh.password" in message
    assert "!env" in message
    assert "canary" not in message


@pytest.mark.parametrize(
    ("found", "replacement", "parts"),
    [
        ("voltage_v", "voltage", ["5:54", "meter.voltage: unknown key", "did you mean 'voltage_v'?", "marker_input"]),
        ("power_switch", "powerswitch", ["6:5", "devices.nucleo.powerswitch", "did you mean 'power_switch'?"]),
        ("kind: ppk2", "kind: ppk3", ["5:13", "found 'ppk3'", "did you mean 'ppk2'?", "allowed: ppk2"]),
        ("1.8", "18.0", ["meter.voltage_v", "found 18.0", "less than or equal to 5"]),
        ("921600", "fast", ["serial.baud", "found 'fast'", "integer"]),
        ("921600", "'921600'", ["serial.baud", "found '921600'", "integer"]),
        ("nucleo-f446re", "nucleo-f446", ["3:5", "unknown board 'nucleo-f446'", "did you mean 'nucleo-f446re'?"]),
        ("    board: nucleo-f446re\n", "", ["2:3", "devices.nucleo.board: is missing"]),
        ("by_id: 066BFF343633464257254156", "port: /dev/ttyACM0", ["order in which boards are plugged", "by-id"]),
        ("by_id: 066BFF343633464257254156", "by_id: /dev/ttyUSB1", ["neither a USB serial number"]),
        ("by_id: 066BFF343633464257254156", "by_id: ttyUSB1", ["is a port, not a USB serial number"]),
        ("by_id: 066BFF343633464257254156", "port: COM3", ["order in which boards are plugged"]),
        ("by_id: 066BFF343633464257254156", "port: /tmp/x", ["does not name a port for good"]),
        ("by_id: 066BFF343633464257254156, ", "", ["exactly one of by_id and port"]),
        ("serial_number: C4DF0A1B2C3D, ", "", ["exactly one of serial_number and port"]),
        ("[desk]", "desk", ["devices.nucleo.tags", "found 'desk'"]),
        ("[desk]", "[1]", ["devices.nucleo.tags", "found 1"]),
        ("board: nucleo-f446re", "board: host\n    emulated: true", ["board 'host' has no emulator"]),
        ("serial: {by_id: 066BFF343633464257254156, baud: 921600}", "swd: {unique_id: A}", ["needs serial:", "swd"]),
        ("serial_number: C4DF0A1B2C3D", "emulated: true", ["meter.emulated", "is used as hardware here"]),
        ("tags: [desk]", "tags: [desk]\n    tags: [shelf]", ["8:5", "'tags' stands twice", "first on line 7"]),
        ("[desk]", "[desk", ["not YAML", "bench.yaml:8:1"]),
        ("[desk]", "!!python/object:os.system x", ["tags", "python/object"]),
        ("[desk]", "!include x", ["unknown tag '!include'", "!env NAME"]),
        ("[desk]", "!!int x", ["tags", "no value of type"]),
        ("tags: [desk]", "tags: &a [*a]", ["nested deeper"]),
        ("  nucleo:", "  bad name:", ["bad name"]),
        ("devices:", "device:", ["unknown key 'device'", "did you mean 'devices'?"]),
    ],
)
def test_what_is_wrong_is_said_with_place_and_way_out(
    tmp_path: Path, found: str, replacement: str, parts: list[str]
) -> None:
    assert _HARDWARE.count(found) == 1
    message = _refusal(tmp_path, _HARDWARE.replace(found, replacement))
    assert "bench.yaml" in message
    assert "\n  -> " in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("port", ["/dev/serial/by-path/x", "socket://localhost:99", "rfc2217://h:1", "/dev/pts/3"])
def test_ports_that_stay_are_allowed(tmp_path: Path, port: str) -> None:
    text = _HARDWARE.replace("by_id: 066BFF343633464257254156", f"port: '{port}'")
    serial = load_bench(_bench(tmp_path, text)).devices["nucleo"].config.serial
    assert serial is not None
    assert serial.port == port


def test_an_emulated_device_has_no_ports_of_its_own(tmp_path: Path) -> None:
    text = "devices:\n  m:\n    board: mps2-an386\n    emulated: true\n    serial: {by_id: A}\n"
    assert "starts with ports of its own; found serial" in _refusal(tmp_path, text)


def test_several_problems_are_all_told(tmp_path: Path) -> None:
    message = _refusal(tmp_path, _HARDWARE.replace("voltage_v", "voltage").replace("outlet: 2", "outlet: 0"))
    assert "2 problems" in message
    assert "meter.voltage" in message
    assert "power_switch.outlet" in message


@pytest.mark.parametrize("text", ["", "[]", "just text", "devices:\n"])
def test_files_without_devices_are_refused(tmp_path: Path, text: str) -> None:
    assert "bench.yaml" in _refusal(tmp_path, text)


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    _bench(tmp_path, _HARDWARE)
    with pytest.raises(ConfigError, match=r"no such file; did you mean 'bench\.yaml'"):
        load_bench(tmp_path / "bensh.yaml")


def test_a_folder_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_bench(tmp_path)
    path = tmp_path / "bench.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_bench(path)


@pytest.mark.parametrize(
    ("found", "replacement", "parts"),
    [
        ("kind: pi", "kind: pie", ["found 'pie'", "must be the file's name 'pi'"]),
        ("1.2 GHz", "fast", ["clock_hz", "'fast' is not a rate", "180 MHz"]),
        ("512 MiB", "512 MB B", ["memory.ram_bytes", "is not a size", "256 KiB"]),
        ("64 MiB", "1 GiB", ["memory", "more than ram_bytes"]),
        ("device_class: linux", "device_class: linus", ["did you mean 'linux'?", "mcu, linux, phone, host"]),
        ("cpu: cortex-a53\n", "", ["cpu: is missing"]),
        ("ram_bytes: 512 MiB", "ram: 512 MiB", ["memory.ram: unknown key", "ram_bytes"]),
    ],
)
def test_board_files_are_checked(tmp_path: Path, found: str, replacement: str, parts: list[str]) -> None:
    path = tmp_path / "pi.yaml"
    path.write_text(_LINUX_BOARD.replace(found, replacement))
    with pytest.raises(ConfigError) as caught:
        load_board(path)
    for part in parts:
        assert part in str(caught.value)


def test_sizes_and_rates_of_a_board(tmp_path: Path) -> None:
    path = tmp_path / "pi.yaml"
    path.write_text(_LINUX_BOARD)
    board = load_board(path)
    assert isinstance(board, Board)
    assert (board.clock_hz, board.memory.flash_bytes) == (1_200_000_000, 2**30)


@pytest.mark.parametrize("model", ["bench", "board"])
def test_the_committed_schema_is_up_to_date(model: str) -> None:
    committed = (config_dir() / f"{model}.schema.json").read_text()
    assert json.loads(committed) == json_schema("bench" if model == "bench" else "board")


def test_the_schema_accepts_sizes_as_text_and_refuses_unknown_keys() -> None:
    schema = json_schema("board")
    definitions = schema["$defs"]
    assert isinstance(definitions, dict)
    memory = definitions["Memory"]
    assert memory["additionalProperties"] is False
    assert {"type": "string"} in memory["properties"]["ram_bytes"]["anyOf"]


def test_a_thousand_devices_are_read_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "devices:\n" + "".join(f"  d{i}: {{board: mps2-an386, emulated: true}}\n" for i in range(1000))
    devices = load_bench(_bench(tmp_path, text)).devices
    assert list(devices) == [f"d{i}" for i in range(1000)]
    assert len({id(device.board) for device in devices.values()}) == 1


def test_the_default_bench_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAB_CONFIG", raising=False)
    assert default_config() == config_dir() / "emulated.yaml"
    monkeypatch.setenv("LAB_CONFIG", str(tmp_path / "mine.yaml"))
    assert default_config() == tmp_path / "mine.yaml"


@pytest.mark.parametrize("kind", ["mps2-an386", "mps2-an500", "mps3-an547"])
def test_board_files_agree_with_the_firmware(kind: str) -> None:
    board = load_board(config_dir() / "boards" / f"{kind}.yaml")
    header = (project_root() / "firmware" / "boards" / kind / "board.h").read_text()
    defined = {name: int(value, 0) for name, value in re.findall(r"#define (\w+) (0x[0-9a-fA-F]+|\d+)u\b", header)}
    assert board.qemu is not None
    assert board.qemu.marker_address == defined["BOARD_MARKER"]
    assert board.clock_hz == defined["BOARD_CLOCK_HZ"]
    assert board.qemu.shared_memory is not None
    assert board.qemu.shared_memory.address == defined["BOARD_BLOB_ADDRESS"]
    assert board.qemu.shared_memory.bytes >= defined["BOARD_BLOB_BYTES"]
