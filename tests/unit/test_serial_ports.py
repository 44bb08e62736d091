"""Which port is meant: choices among attached ports that the tests make up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lab.connection_config import SerialPort
from lab.errors import ConfigError, TransportError
from lab.inventory import load_bench
from lab.transports.serial_ports import (
    PortChoice,
    choice_of,
    describe,
    find_port,
    first_port,
    is_remote,
    named_by,
    yaml_line,
)


@dataclass(frozen=True)
class Port:
    """One attached port, as ``serial.tools.list_ports`` describes it."""

    device: str
    serial_number: str | None = None
    vid: int | None = None
    pid: int | None = None
    location: str | None = None
    interface: str | None = None
    description: str = "n/a"


STLINK = Port("/dev/ttyACM3", "066BFF34", 0x0483, 0x374B, "1-3.2:1.2")
# A Pico with two CDC ports, and a twin of it without a serial number on another hub.
PICO_CONSOLE = Port("/dev/ttyACM0", "E661", 0x2E8A, 0x000A, "1-3.3:1.0", "Console")
PICO_DATA = Port("/dev/ttyACM1", "E661", 0x2E8A, 0x000A, "1-3.3:1.2", "Data")
BRIDGE = Port("/dev/ttyUSB0", None, 0x1A86, 0x7523, "1-4")
TWIN_BRIDGE = Port("/dev/ttyUSB1", None, 0x1A86, 0x7523, "1-5.1")
BUILT_IN = Port("/dev/ttyS0")
ATTACHED = (STLINK, PICO_DATA, PICO_CONSOLE, BRIDGE, TWIN_BRIDGE, BUILT_IN)


def lister(*ports: Port) -> Callable[[], tuple[Port, ...]]:
    return lambda: ports


@pytest.mark.parametrize(
    ("entry", "device"),
    [
        ({"by_id": "066BFF34"}, STLINK.device),
        ({"usb": "0483:374B"}, STLINK.device),
        ({"usb": "2e8a:000a", "interface": 2}, PICO_DATA.device),
        ({"by_id": "E661", "interface": "Console"}, PICO_CONSOLE.device),
        ({"location": "1-3.3:1.2"}, PICO_DATA.device),
        ({"location": "1-5.1"}, TWIN_BRIDGE.device),
        ({"location": "1-4", "interface": 0}, BRIDGE.device),
        ({"port": "socket://rack:4000"}, "socket://rack:4000"),
        ({"by_id": "/dev/serial/by-id/usb-x"}, "/dev/serial/by-id/usb-x"),
    ],
)
def test_a_port_by_what_does_not_change(entry: dict[str, str | int], device: str) -> None:
    assert find_port(choice_of(SerialPort.model_validate(entry)), lister(*ATTACHED)) == device


def test_a_hub_path_is_no_prefix() -> None:
    with pytest.raises(TransportError, match=r'location: "1-5"} is attached'):
        find_port(PortChoice(location="1-5"), lister(*ATTACHED))


@pytest.mark.parametrize(
    ("choice", "way_out"),
    [
        (PortChoice(by_id="E661"), "one of interface: (2, 0)"),
        (PortChoice(usb="1a86:7523"), 'one of location: ("1-4", "1-5.1")'),
        (PortChoice(interface=0), "location: "),
    ],
)
def test_an_ambiguous_choice_says_what_would_tell_them_apart(choice: PortChoice, way_out: str) -> None:
    with pytest.raises(TransportError) as error:
        find_port(choice, lister(*ATTACHED))
    assert f"serial ports are {choice}: " in error.value.message
    assert way_out in error.value.hint


def test_twins_that_usb_does_not_tell_apart() -> None:
    twins = replace(BRIDGE, location=None), replace(BRIDGE, device="/dev/ttyUSB7", location=None)
    with pytest.raises(TransportError) as error:
        find_port(PortChoice(usb="1a86:7523"), lister(*twins))
    assert "/dev/serial/by-path" in error.value.hint


def test_an_absent_port_lists_all_that_are_there() -> None:
    with pytest.raises(TransportError) as error:
        find_port(PortChoice(by_id="GONE"), lister(*ATTACHED))
    for port in ATTACHED:
        assert describe(port) in error.value.message
    assert "/dev/ttyS0 (no USB port)" in error.value.message
    assert '/dev/ttyUSB0 (usb: "1a86:7523", interface: 0, location: "1-4")' in error.value.message
    with pytest.raises(TransportError, match="attached: none"):
        find_port(PortChoice(by_id="GONE"), lister())


def test_an_instrument_serves_on_its_first_port() -> None:
    ninth, tenth = (Port(f"/dev/ttyACM{k}", "PPK", 0x1915, 0xC00A, f"1-1:1.{k}") for k in (9, 10))
    assert first_port(None, "PPK", lister(tenth, ninth)) == "/dev/ttyACM9"
    assert first_port("socket://h:1", None, lister()) == "socket://h:1"
    assert first_port(None, "/dev/serial/by-id/x", lister()) == "/dev/serial/by-id/x"
    with pytest.raises(TransportError, match=r'{by_id: "PPK"} is attached'):
        first_port(None, "PPK", lister(STLINK))


@pytest.mark.parametrize(
    ("url", "remote"),
    [
        ("socket://rack:1", True), ("rfc2217://rack:1", True), ("socket://localhost:1", True),
        ("/dev/ttyACM0", False), ("/dev/pts/1", False), ("loop://", False),
    ],
)  # fmt: skip
def test_what_is_remote(url: str, remote: bool) -> None:
    """A tunnel's end is on this computer, and the board is not: the address does not matter."""
    assert is_remote(url) == remote


# ---- the line to write ----------------------------------------------------------------------------------------------

PORTS = st.builds(
    Port,
    device=st.integers(0, 99).map(lambda number: f"/dev/ttyACM{number}"),
    serial_number=st.sampled_from([None, "", "0001", "1e5", "A:B", "066BFF"]),
    vid=st.sampled_from([0x0483, 0x1234]),
    pid=st.sampled_from([0x5678, 0x0012]),
    location=st.sampled_from([None, "1-1", "1-1.4", "1-1:1.0", "1-1:1.2", "2-1:1.2"]),
    interface=st.sampled_from([None, "Data"]),
)


@given(st.lists(PORTS, max_size=6, unique_by=lambda port: port.device))
def test_the_line_to_write_means_its_port_and_no_other(attached: list[Port]) -> None:
    for port in attached:
        line = yaml_line(port, attached)
        if line:
            entry = yaml.safe_load(line)["serial"]
            assert find_port(choice_of(SerialPort.model_validate(entry)), lister(*attached)) == port.device
        else:
            # All that it can be named by together means another as well.
            assert sum(named_by(port).matches(one) for one in attached) > 1


def test_the_shortest_line_is_shown() -> None:
    assert yaml_line(STLINK, ATTACHED) == 'serial: {by_id: "066BFF34"}'
    assert yaml_line(PICO_DATA, ATTACHED) == 'serial: {by_id: "E661", interface: 2}'
    assert yaml_line(BRIDGE, ATTACHED) == 'serial: {usb: "1a86:7523", location: "1-4"}'
    assert yaml_line(BUILT_IN, ATTACHED) == ""


# ---- the bench file -------------------------------------------------------------------------------------------------


def bench(folder: Path, serial: str) -> Path:
    path = folder / "bench.yaml"
    path.write_text(f"devices:\n  a:\n    board: nucleo-f446re\n    serial: {serial}\n")
    return path


def test_a_full_entry(tmp_path: Path) -> None:
    text = '{usb: "0483:374b", location: 1-3.2, interface: VCP, max_baud: 921600, reset: {line: rts, pulse_s: 50 ms}}'
    config = load_bench(bench(tmp_path, text)).devices["a"].config.serial
    assert config is not None
    assert config.max_baud == 921600
    assert config.reset is not None
    assert (config.reset.line, config.reset.active, config.reset.pulse_s) == ("rts", "low", 0.05)
    assert choice_of(config) == PortChoice(None, None, "0483:374b", "VCP", "1-3.2")


@pytest.mark.parametrize(
    ("serial", "words"),
    [
        ("{interface: 2}", "exactly one of by_id and port is needed, or usb or location"),
        ("{port: /dev/serial/by-path/x, by_id: A}", "exactly one of by_id and port"),
        ("{port: socket://h:1, location: 1-3}", "a path or URL is one port already: location does not go with it"),
        ("{by_id: /dev/serial/by-id/x, interface: 0}", "interface does not go with it"),
        ("{usb: 483:374b}", "serial.usb"),
        ("{location: ttyACM0}", "serial.location"),
        ("{by_id: A, interface: -1}", "serial.interface"),
        ("{by_id: A, baud: 230400, max_baud: 115200}", "max_baud 115200 is less than baud 230400"),
        ("{by_id: A, reset: {line: cts}}", "found 'cts'; did you mean 'rts'? allowed: dtr, rts"),
        ("{by_id: A, reset: {active: low}}", "serial.reset.line: is missing"),
        ("{by_id: A, reset: {line: dtr, pulse_s: 9}}", "serial.reset.pulse_s"),
    ],
)
def test_wrong_entries_are_refused_with_their_place(tmp_path: Path, serial: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_bench(bench(tmp_path, serial))
    assert "bench.yaml:4" in error.value.message
    assert words in error.value.message
