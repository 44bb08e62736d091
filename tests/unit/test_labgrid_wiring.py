"""From labgrid's resources to serial ports, SSH and switches, and from places to devices."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

import pytest
from helpers.toolchain import board_kind
from hypothesis import given
from hypothesis import strategies as st

from lab.connection_config import SerialPort, SshHost
from lab.errors import ConfigError, TransportError
from lab.inventory import DeviceConfig
from lab.labgrid.config import LabgridConfig, PlaceSsh
from lab.labgrid.places import device_of, unusable
from lab.labgrid.records import FENCE, HOLDER, OURS, OWNER, PID, PURPOSE, SINCE, Match, Place, Resource, Value
from lab.labgrid.wiring import wired
from lab.meter_config import Ppk2Config
from lab.switch_config import ShellyPlug

HERE = LabgridConfig()
BOARD = DeviceConfig(board="nucleo-f446re", place="p")
RFC2217 = "ign_set_control&timeout=15"


def resource(cls: str, name: str = "r", exporter: str = "e", **params: Value) -> Resource:
    return Resource((exporter, "g", name), cls, params, acquired="p")


def never(destination: str, host: str, port: int) -> tuple[str, int]:
    raise AssertionError("no tunnel was asked for")


def wire(*resources: Resource, config: DeviceConfig = BOARD, labgrid: LabgridConfig = HERE) -> DeviceConfig:
    return wired(config, resources, labgrid, never)


@pytest.mark.parametrize(
    ("params", "url", "baud"),
    [
        ({"host": "127.0.0.1", "port": 4001, "speed": 9600}, f"rfc2217://127.0.0.1:4001?{RFC2217}", 9600),
        ({"host": "localhost", "port": 4001}, f"rfc2217://localhost:4001?{RFC2217}", 115200),
        ({"host": "127.0.0.1", "port": 1, "protocol": "raw"}, "socket://127.0.0.1:1", 115200),
        ({"host": "127.0.0.1", "port": 1, "protocol": "rfc2217"}, f"rfc2217://127.0.0.1:1?{RFC2217}", 115200),
    ],
)
def test_a_network_serial_port_is_a_url(params: Mapping[str, Value], url: str, baud: int) -> None:
    assert wire(resource("NetworkSerialPort", **params)).serial == SerialPort(port=url, baud=baud)


def test_what_the_bench_file_says_itself_stays() -> None:
    own = SerialPort(port="socket://127.0.0.1:9")
    config = BOARD.model_copy(update={"serial": own})
    assert wire(resource("NetworkSerialPort", host="127.0.0.1", port=1), config=config).serial == own


def test_serial_ports_on_other_computers_take_a_tunnel_or_trust() -> None:
    far = resource("NetworkSerialPort", host="192.0.2.7", port=4001)
    with pytest.raises(ConfigError, match=r"192\.0\.2\.7:4001, another computer, where everybody can write") as refused:
        wire(far)
    assert "tunnels: {e: user@192.0.2.7}" in refused.value.hint
    trusted = LabgridConfig(unprotected=True)
    assert wire(far, labgrid=trusted).serial == SerialPort(port=f"rfc2217://192.0.2.7:4001?{RFC2217}")


@pytest.mark.parametrize(
    ("labgrid", "host", "expected"),
    [
        (LabgridConfig(tunnels={"e": "me@bench"}), "127.0.0.1", ("me@bench", "127.0.0.1", 4001)),
        (LabgridConfig(tunnels={"e": "me@bench"}), "192.0.2.7", ("me@bench", "192.0.2.7", 4001)),
        (LabgridConfig(tunnel="me@hub"), "127.0.0.1", ("me@hub", "127.0.0.1", 4001)),
        (LabgridConfig(tunnel="me@hub", tunnels={"e": "me@bench"}), "127.0.0.1", ("me@bench", "127.0.0.1", 4001)),
    ],
)
def test_a_tunnel_leads_to_the_exporter(labgrid: LabgridConfig, host: str, expected: tuple[str, str, int]) -> None:
    asked = []

    def reach(destination: str, to: str, port: int) -> tuple[str, int]:
        asked.append((destination, to, port))
        return "127.0.0.1", 7

    found = wired(BOARD, [resource("NetworkSerialPort", host=host, port=4001)], labgrid, reach)
    assert asked == [expected]
    assert found.serial == SerialPort(port=f"rfc2217://127.0.0.1:7?{RFC2217}")


def test_a_service_is_ssh_with_the_bench_files_keys_and_never_the_exporters_password() -> None:
    labgrid = LabgridConfig(ssh=PlaceSsh(key="/k", agent=True, known_hosts="/h"))
    service = resource("NetworkService", address="192.0.2.9", username="root", password="hunter2")
    config = DeviceConfig(board="raspberry-pi-5", place="p")
    found = wire(service, config=config, labgrid=labgrid).ssh
    assert found == SshHost(host="192.0.2.9", user="root", port=22, key="/k", agent=True, known_hosts="/h")
    assert found is not None
    assert found.password is None


def test_a_power_port_that_the_lab_has_too_is_a_switch_where_a_meter_can_confirm_it() -> None:
    metered = BOARD.model_copy(update={"meter": Ppk2Config(kind="ppk2", serial_number="1")})
    shelly = resource("NetworkPowerPort", model="shelly_gen1", host="http://192.0.2.3/", index="2")
    switch = wire(shelly, config=metered).power_switch
    assert switch == ShellyPlug(kind="shelly", host="192.0.2.3", generation=1, outlet=2)
    assert wire(shelly).power_switch is None
    assert wire(resource("NetworkPowerPort", model="apc", host="x", index="1"), config=metered).power_switch is None
    bad = resource("NetworkPowerPort", model="shelly_gen2", host="http://a b/", index="0")
    with pytest.raises(ConfigError, match="no address of a plug: 'a b'"):
        wire(bad, config=metered)


@pytest.mark.parametrize(
    "params", [{}, {"host": "127.0.0.1"}, {"port": 1}, {"host": "", "port": 1}, {"host": "127.0.0.1", "port": True}]
)
def test_a_port_that_is_not_served_is_the_exporters_failure(params: Mapping[str, Value]) -> None:
    with pytest.raises(TransportError, match="the exporter 'e' does not serve it") as failed:
        wire(resource("NetworkSerialPort", **params))
    assert failed.value.transient
    broken = Resource(("e", "g", "r"), "NetworkSerialPort", {}, {"broken": "start failed"})
    with pytest.raises(TransportError, match="does not serve it: start failed"):
        wire(broken)


def test_two_ports_of_one_kind_are_told_apart_by_a_person() -> None:
    ports = [resource("NetworkSerialPort", name, host="127.0.0.1", port=1) for name in ("a", "b")]
    with pytest.raises(ConfigError, match=r"e/g/NetworkSerialPort/a, e/g/NetworkSerialPort/b: several resources"):
        wire(*ports)


_WORD = st.text("ab*?[]!", max_size=4)


@given(_WORD, _WORD, _WORD, _WORD, st.text("ab", max_size=3), st.text("ab", max_size=3))
def test_patterns_are_labgrids(exporter: str, group: str, cls: str, name: str, one: str, two: str) -> None:
    """labgrid's rule: every part as ``fnmatchcase`` has it."""
    expected = all(
        fnmatchcase(found, pattern)
        for found, pattern in ((one, exporter), (two, group), ("N", cls), (one + two, name))
    )
    assert Match(exporter, group, cls, name).fits((one, two, one + two), "N") == expected


def test_a_place_lacks_what_no_exporter_offers_or_what_is_not_attached() -> None:
    place = Place("p", matches=(Match("e", "g", "*"), Match("f", "*", "*")))
    there = resource("NetworkService")
    assert place.lacking([there]) == [Match("f", "*", "*")]
    unplugged = Resource(("f", "x", "y"), "NetworkSerialPort", available=False)
    assert place.lacking([there, unplugged]) == [Match("f", "*", "*")]
    assert place.lacking([there, Resource(("f", "x", "y"), "NetworkSerialPort")]) == []
    assert place.having([there, unplugged]) == [there, unplugged]


def test_a_place_says_who_holds_it() -> None:
    tags = {OWNER: "o", HOLDER: "me@host", PID: "7", PURPOSE: "a nightly", SINCE: "yesterday", FENCE: "12"}
    ours = Place("p", f"host/me{OURS}7-a", tags)
    assert ours.describe() == "me@host (pid 7) for 'a nightly' since yesterday"
    assert (ours.fence, ours.by_lab) == (12, True)
    theirs = Place("p", "host/person", tags)
    assert theirs.describe() == "host/person (labgrid)"
    assert not theirs.by_lab
    assert Place("p", tags={FENCE: "twelve"}).fence == 0


def test_tags_choose_the_board_and_become_tags() -> None:
    boards = {"nucleo-f446re": board_kind("nucleo-f446re")}
    tags = {"board": "nucleo-f446re", "site": "berlin", "odd": "a b", FENCE: "3"}
    device = device_of(Place("p1", tags=tags), HERE, boards, "bench.yaml:1")
    assert (device.name, device.board.kind, device.config.place, device.tags) == (
        "p1", "nucleo-f446re", "p1", ("site-berlin",),
    )  # fmt: skip
    assert (device.labgrid, device.needs_lease) == (HERE, True)
    assert unusable(Place("p1", tags=tags), boards) == ""
    assert "no tag board" in unusable(Place("p1", tags={FENCE: "3"}), boards)
    assert "did you mean 'nucleo-f446re'" in unusable(Place("p1", tags={"board": "nucleo-f446r"}), boards)
    assert "none that a device can have" in unusable(Place("-p", tags=tags), boards)
