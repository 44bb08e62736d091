"""Looking devices up and choosing among them."""

from __future__ import annotations

import pytest

from lab.bench import Bench
from lab.errors import ConfigError
from lab.paths import config_dir


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench.load(config_dir() / "emulated.yaml")


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("m7", ["m7"]),
        ("m7, m4f", ["m4f", "m7"]),
        ("class:mcu", ["m4f", "m7", "m55"]),
        ("class:host", ["host"]),
        ("cpu:cortex-m7", ["m7"]),
        ("cpu:cortex-m55", ["m55"]),
        ("board:mps2-an386", ["m4f"]),
        ("feature:meter", ["m4f", "m7", "m55"]),
        ("class:mcu+feature:fpu-dp", ["m7", "m55"]),
        ("class:mcu+feature:fpu-dp,host", ["m7", "m55", "host"]),
        ("source:hardware", ["host"]),
        ("class:host+feature:meter", []),
    ],
)
def test_selection(bench: Bench, expression: str, names: list[str]) -> None:
    assert [device.name for device in bench.select(expression)] == names


def test_nothing_said_means_all(bench: Bench) -> None:
    assert bench.select("") == list(bench.devices)
    assert bench.select(" , ") == list(bench.devices)


def test_get_returns_the_named_device(bench: Bench) -> None:
    assert bench.get("m7").board.kind == "mps2-an500"


@pytest.mark.parametrize(
    ("expression", "what", "nearest"),
    [("m4g", "device 'm4g'", "m4f"), ("clas:mcu", "aspect 'clas'", "class"), ("cpu:cortex-m8", "cpu", "cortex-m7")],
)
def test_an_unknown_term_names_the_nearest_and_all(bench: Bench, expression: str, what: str, nearest: str) -> None:
    with pytest.raises(ConfigError) as caught:
        bench.select(expression)
    assert what in caught.value.message
    assert f"did you mean '{nearest}'" in caught.value.message
    assert "emulated.yaml" in caught.value.message


def test_an_unknown_name_is_refused_with_the_names_there_are(bench: Bench) -> None:
    with pytest.raises(ConfigError, match="allowed: m4f, m7, m55, host"):
        bench.get("raspberry")
