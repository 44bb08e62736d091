"""The section ``labgrid:`` and the key ``place:`` of bench files, and places as devices, without a coordinator."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from lab.bench import Bench
from lab.errors import ConfigError
from lab.inventory import load_bench
from lab.labgrid import places
from lab.labgrid.config import LabgridConfig, is_loopback
from lab.labgrid.lease import wired
from lab.labgrid.records import Place

PLACE = "devices: {far: {board: nucleo-f446re, place: n1}}\n"


def _bench(folder: Path, text: str) -> Path:
    path = folder / "bench.yaml"
    path.write_text(text)
    return path


def test_a_place_stands_for_the_ports(tmp_path: Path) -> None:
    section = "labgrid: {coordinator: '127.0.0.1:1', ttl: 1 min}\n"
    device = Bench.load(_bench(tmp_path, section + PLACE)).get("far")
    assert device.labgrid == LabgridConfig(coordinator="127.0.0.1:1", ttl=60.0)
    assert device.needs_lease
    with pytest.raises(ConfigError, match="has ports only while it is held"):
        wired(device, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PLACE, r"bench.yaml:1:\d+: devices.far.place: 'n1' is a place of which coordinator\?"),
        ("labgrid: {}\n", r"devices: is missing; only labgrid: \{discover: true\}"),
        ("labgrid: {coordinator: 'hub:20408'}\n" + PLACE, "'hub' is another computer"),
        ("labgrid: {coordinator: '0.0.0.0:20408'}\n" + PLACE, "is another computer"),
        ("labgrid: {coordinator: hub}\n" + PLACE, r"bench.yaml:1:\d+: labgrid.coordinator"),
        ("labgrid: {tunnel: -oProxyCommand=x}\n" + PLACE, r"bench.yaml:1:\d+: labgrid.tunnel"),
        ("labgrid: {tunnels: {e: 'a b'}}\n" + PLACE, r"labgrid.tunnels.e"),
        ("labgrid: {ttl: 0.5}\n" + PLACE, r"labgrid.ttl"),
        ("labgrid: {port: 1}\n" + PLACE, "unknown key 'port'"),
        ("labgrid: {}\ndevices: {d: {board: mps2-an386, emulated: true, place: n}}\n", "starts with ports of its own"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_bench(_bench(tmp_path, text))


@pytest.mark.parametrize("more", ["tunnel: me@hub", "unprotected: true"])
def test_a_coordinator_elsewhere_takes_a_tunnel_or_trust(tmp_path: Path, more: str) -> None:
    text = f"labgrid: {{coordinator: 'hub:20408', {more}}}\n" + PLACE
    assert load_bench(_bench(tmp_path, text)).labgrid is not None


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("[::1]", True), ("::1", True), ("localhost", True),
        ("0.0.0.0", False), ("", False), ("::", False), ("192.0.2.1", False), ("hub", False), ("localhost.evil", False),
    ],
)  # fmt: skip
def test_only_loopback_is_this_computer(host: str, here: bool) -> None:
    assert is_loopback(host) == here


class _Coordinator:
    """Stands for a session; its places are fixed."""

    places = (
        Place("desk", tags={"board": "nucleo-f446re", "site": "berlin"}),
        Place("unknown", tags={"board": "toaster"}),
        Place("untagged"),
        Place("named", tags={"board": "mps2-an386"}),
    )

    def __init__(self, config: LabgridConfig) -> None:
        self.config = config

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def test_places_join_the_devices_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "Coordinator", _Coordinator)
    text = "labgrid: {discover: true}\ndevices: {mine: {board: mps2-an386, place: named}}\n"
    bench = Bench.load(_bench(tmp_path, text))
    assert [device.name for device in bench.devices] == ["mine", "desk"]
    assert [device.name for device in bench.select("tag:site-berlin")] == ["desk"]
    assert Bench.load(_bench(tmp_path, "labgrid: {discover: true}\n")).get("named").config.place == "named"


def test_a_place_and_a_device_of_one_name_are_no_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "Coordinator", _Coordinator)
    text = "labgrid: {discover: true}\ndevices: {desk: {board: mps2-an386, emulated: true}}\n"
    with pytest.raises(ConfigError, match=r"bench.yaml:2:\d+: devices.desk: a place of 127.0.0.1:20408 has this name"):
        load_bench(_bench(tmp_path, text))


def test_a_bench_without_labgrid_imports_nothing_of_it(tmp_path: Path) -> None:
    import subprocess
    import sys

    path = _bench(tmp_path, "devices: {m: {board: mps2-an386, emulated: true}}\n")
    program = (
        f"import sys\nfrom pathlib import Path\nfrom lab.bench import Bench\nBench.load(Path({str(path)!r}))\n"
        "assert not {'grpc', 'labgrid', 'lab.labgrid.client', 'lab.labgrid.held'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
