"""The Otii driver's reading of recordings: any answer of a server is a sample, a loss that is told, or an error."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import MeterError
from lab.power.otii import Json, OtiiConnection, _Recording

RATE = 1_000

scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
lists = st.lists(scalars, max_size=4)
answers = st.one_of(scalars, lists, st.dictionaries(st.text(), st.one_of(scalars, lists), max_size=3))


class Stub:
    """Channels as a server holds them; an answer may be replaced by anything."""

    def __init__(self, channels: dict[str, dict[str, Json]], replaced: dict[str, Json] | None = None) -> None:
        self._channels = channels
        self._replaced = replaced or {}

    def ask(self, command: str, **data: Json) -> dict[str, Json]:
        channel = self._channels.get(str(data["channel"]), {"values": []})
        values = channel["values"]
        assert isinstance(values, list)
        if command == "recording_get_channel_data_count":
            return {"count": len(values), **self._replaced.get("count", {})}  # type: ignore[dict-item]
        return channel | self._replaced.get("data", {})  # type: ignore[operator]


def recording(channels: dict[str, dict[str, Json]], **replaced: Json) -> _Recording:
    stub = cast("OtiiConnection", Stub(channels, replaced))
    return _Recording(stub, "Arc1", 0, RATE, 5.0)


def analog(values: list[Json], timestamp: float = 0.0, interval: float = 1 / RATE) -> dict[str, Json]:
    return {"data_type": "analog", "timestamp": timestamp, "interval": interval, "values": values}


def test_a_recording_by_hand() -> None:
    block = recording(
        {
            "mc": analog([0.001, 0.002, None, 0.004, 0.005], timestamp=3.25),
            "mv": analog([3.3, 3.2], timestamp=3.25, interval=0.004),
            "i1": {"values": [{"timestamp": 3.2505, "value": True}, {"timestamp": 3.253, "value": False}]},
            "i2": {"values": [{"timestamp": 3.254, "value": True}]},
        }
    ).take(0.0)
    assert block.current_a == pytest.approx([0.001, 0.002, np.nan, 0.004, 0.005], nan_ok=True)
    assert block.voltage_v == pytest.approx([3.3, 3.3, np.nan, 3.3, 3.2], nan_ok=True)
    # An edge belongs to the first sample that begins at or behind it.
    assert block.logic.tolist() == [0, 1, 0, 0, 2]
    assert block.lost == 1


def test_the_last_part_is_held_back() -> None:
    one = recording({"mc": analog([0.001] * 1000), "mv": analog([3.3] * 1000)})
    assert one.take(0.5).current_a.size == 500


def test_a_main_output_that_is_off_at_the_end_has_tripped() -> None:
    one = recording({"mc": analog([0.001] * 10), "mv": analog([3.3])})
    assert one.take(0.0, tripped=True).saturated == 1


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"timestamp": None}, "gives no times"),
        ({"timestamp": float("inf")}, "gives no times"),
        ({"interval": 0}, "gives no times"),
        ({"values": []}, "gives no samples"),
        ({"values": {"a": 1}}, "gives no samples"),
    ],
)
def test_answers_that_are_none(replaced: Json, message: str) -> None:
    with pytest.raises(MeterError, match=message):
        recording({"mc": analog([0.001] * 10)}, data=replaced).take(0.0)


@pytest.mark.parametrize("timestamp", [-5.0, 1e9])
def test_times_that_jump(timestamp: float) -> None:
    channel = analog([0.001] * 10)
    one = recording({"mc": channel, "mv": analog([3.3])})
    one.take(0.0)
    channel["values"] = [0.001] * 20
    channel["timestamp"] = timestamp
    with pytest.raises(MeterError, match="came after sample 10"):
        one.take(0.0)


@pytest.mark.parametrize("edge", [7, None, {"timestamp": None}, {"value": True}, {"timestamp": -1.0, "value": True}])
def test_edges_that_are_none(edge: Json) -> None:
    edges: dict[str, Json] = {"values": [{"timestamp": 0.0, "value": True}, edge]}
    with pytest.raises(MeterError, match="gives no edge"):
        recording({"mc": analog([0.001] * 10), "i1": edges}).take(0.0)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(["timestamp", "interval", "values"]), answers), answers)
def test_any_answer_is_samples_or_an_error(replaced: dict[str, Json], count: Json) -> None:
    counted = {} if count is None else {"count": count if not isinstance(count, int) else min(count, 20)}
    one = recording({"mc": analog([0.001] * 4), "mv": analog([3.3])}, data=cast("Json", replaced), count=counted)
    try:
        block = one.take(0.0)
    except MeterError:
        return
    assert block.lost == int(np.count_nonzero(np.isnan(block.current_a)))
    assert block.voltage_v is not None
    assert block.current_a.size == block.logic.size == block.voltage_v.size
