"""Meters in bench files: every kind is read, what it cannot do is refused, and each kind has a driver."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from lab.doctor import availability
from lab.emulators.meters import MODULES as PEERS
from lab.errors import ConfigError
from lab.inventory import load_bench
from lab.meter_config import JoulescopeConfig, Lpm01aConfig, MeterConfig, OtiiConfig, Ppk2Config, SerialMeter
from lab.paths import project_root
from lab.power import registry
from lab.power.lpm01a import Lpm01a
from lab.power.otii import Otii
from lab.power.ppk2 import Ppk2
from lab.power.registry import MODULES, make_meter, missing_package

_BENCH = """\
devices:
  nucleo:
    board: nucleo-f446re
    serial: {{by_id: 066BFF343633464257254156}}
    meter: {}
"""
_ADAPTER: TypeAdapter[MeterConfig] = TypeAdapter(MeterConfig)


def models() -> dict[str, type[BaseModel]]:
    """Kind to model, from the union itself."""
    union, *_ = get_args(MeterConfig)
    return {get_args(model.model_fields["kind"].annotation)[0]: model for model in get_args(union)}


def refusal(folder: Path, meter: str) -> str:
    path = folder / "bench.yaml"
    path.write_text(_BENCH.format(meter))
    with pytest.raises(ConfigError) as caught:
        load_bench(path)
    return str(caught.value)


def test_every_kind_has_a_driver_and_every_driver_a_kind() -> None:
    assert set(MODULES) == set(models())


def test_what_can_be_emulated_has_a_peer() -> None:
    emulated = {kind for kind, model in models().items() if model.model_fields["emulated"].annotation is bool}
    assert emulated == set(PEERS)


@pytest.mark.parametrize("kind", ["ppk2", "lpm01a", "otii"])
def test_peers_are_where_the_table_says(kind: str) -> None:
    assert callable(import_module(PEERS[kind]).peer)


@pytest.mark.parametrize("kind", sorted(models()))
def test_every_kind_has_the_common_fields(kind: str) -> None:
    fields = models()[kind].model_fields
    assert {"emulated", "voltage_v", "marker_input"} <= set(fields)
    assert not fields["voltage_v"].is_required()


@pytest.mark.parametrize(
    ("meter", "parts"),
    [
        ("{kind: lpm01b, port: /dev/pts/1}", ["5:13", "meter.kind", "did you mean 'lpm01a'?", "ppk2", "joulescope"]),
        ("{port: /dev/pts/1}", ["5:5", "devices.nucleo.meter: kind: is missing"]),
        ("{kind: lpm01a, port: /dev/pts/1, formt: ascii}", ["unknown key 'formt'", "did you mean 'format'?"]),
        ("{kind: lpm01a, port: /dev/pts/1, format: text}", ["meter.format", "allowed: ascii, binary"]),
        ("{kind: lpm01a, port: /dev/pts/1, sample_rate: 10000}", ["10000", "format: ascii", "at most 5000", "binary"]),
        (
            "{kind: lpm01a, port: /dev/pts/1, sample_rate: 20000, format: binary, output: energy}",
            ["output: energy", "at most 10000"],
        ),
        ("{kind: lpm01a, port: /dev/pts/1, function: high}", ["function: high", "50000 or 100000"]),
        ("{kind: lpm01a, port: /dev/pts/1, voltage_v: 5.0}", ["meter.voltage_v", "found 5.0", "3.3"]),
        ("{kind: lpm01a, port: /dev/pts/1, marker_input: 1}", ["marker_input", "found 1"]),
        ("{kind: lpm01a, port: /dev/ttyACM0}", ["order in which boards are plugged"]),
        ("{kind: lpm01a}", ["exactly one of serial_number and port"]),
        ("{kind: lpm01a, emulated: true, port: /dev/pts/1}", ["starts with its device"]),
        ("{kind: joulescope, model: js320}", ["meter.model", "allowed: js110, js220"]),
        ("{kind: joulescope, model: js220, emulated: true}", ["meter.emulated", "found True"]),
        ("{kind: otii, password: hunter2}", ["meter.password", "!env"]),
        ("{kind: otii, marker_input: 2}", ["marker_input", "found 2"]),
        ("{kind: monsoon, limit_a: 9.0}", ["limit_a", "found 9.0"]),
    ],
)
def test_what_is_wrong_is_said_with_place_and_way_out(tmp_path: Path, meter: str, parts: list[str]) -> None:
    message = refusal(tmp_path, meter)
    for part in parts:
        assert part in message
    assert "hunter2" not in message


def test_the_driver_is_made_of_the_entry() -> None:
    found = make_meter(Ppk2Config(kind="ppk2", port="/dev/pts/1", source=False), 3.0)
    assert isinstance(found, Ppk2)
    assert isinstance(make_meter(Lpm01aConfig(kind="lpm01a", port="/dev/pts/1"), 3.0), Lpm01a)
    assert isinstance(make_meter(OtiiConfig(kind="otii"), 3.0), Otii)


def test_a_voltage_from_the_board_is_checked_too() -> None:
    """The bench file may leave it out, and the board's nominal one may be more than the meter can give."""
    with pytest.raises(ConfigError, match=r"5\.0 V asked of an LPM01A"):
        make_meter(Lpm01aConfig(kind="lpm01a", port="/dev/pts/1"), 5.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "js110", "marker_input": 2}, "has inputs 0 to 1"),
        ({"model": "js220", "sample_rate": 2_000_000}, "1000000 or a part of it"),
        ({"model": "js220", "sample_rate": 300_000}, "1000000 or a part of it"),
    ],
)
def test_what_one_model_cannot_do(settings: dict[str, object], message: str) -> None:
    config = JoulescopeConfig.model_validate({"kind": "joulescope", **settings})
    with pytest.raises(ConfigError, match=message):
        make_meter(config, 3.0)


def test_packages_of_meters(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [kind for kind in MODULES if missing_package(kind)] == []
    monkeypatch.setattr(registry, "find_spec", lambda _: None)
    missing = {kind: missing_package(kind) for kind in MODULES}
    assert {kind for kind, remedy in missing.items() if remedy} == {"monsoon", "joulescope", "scpi", "nvml"}
    extras = tomllib.loads((project_root() / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for remedy in filter(None, missing.values()):
        assert re.fullmatch(r"pip install 'hil-lab\[(\w+)\]'", remedy)[1] in extras  # type: ignore[index]


def test_doctor_names_what_a_meter_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bench.yaml"
    path.write_text(_BENCH.format("{kind: monsoon}"))
    device = load_bench(path).devices["nucleo"]
    monkeypatch.setattr(registry, "find_spec", lambda _: None)
    assert "its monsoon meter needs is not installed: pip install 'hil-lab[monsoon]'" in availability(device, list)


def test_a_model_read_by_itself() -> None:
    config = _ADAPTER.validate_python({"kind": "ppk2", "emulated": True})
    assert isinstance(config, SerialMeter)
    assert config.port is None
    with pytest.raises(ValidationError):
        _ADAPTER.validate_python({"kind": "ppk2"})
