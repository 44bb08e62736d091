"""The Joulescope driver on a stand-in for the maker's ``Driver``: signals come apart, late, twice or not at all."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import MeterError, ToolMissing
from lab.meter_config import JoulescopeConfig
from lab.power import joulescope
from lab.power.base import join
from lab.power.joulescope import Joulescope, Signal, Value, load_driver

PATH = "u/js220/001234"
CONFIG = JoulescopeConfig(kind="joulescope", model="js220", sample_rate=500_000)
GPI = [f"s/gpi/{bit}/" for bit in range(4)]
# Full-rate samples per sample of the current.
STEP = 4


class FakeDriver:
    """What ``pyjoulescope_driver.Driver`` does for us: topics that are published, callbacks that are called."""

    def __init__(self, paths: Sequence[str] = (PATH,)) -> None:
        self._paths = paths
        self.published: list[tuple[str, str | int]] = []
        self.calls: list[str] = []
        self.callbacks: dict[str, Callable[[str, Value], None]] = {}
        self.fails_at = ""

    def device_paths(self) -> Sequence[str]:
        return self._paths

    def open(self, device_prefix: str, mode: str | None = None) -> None:
        self.calls.append(f"open {device_prefix} {mode}")

    def close(self, device_prefix: str) -> None:
        self.calls.append(f"close {device_prefix}")

    def finalize(self) -> None:
        self.calls.append("finalize")

    def publish(self, topic: str, value: str | int) -> None:
        if self.fails_at and self.fails_at in topic:
            raise RuntimeError("jsdrv_publish failed 11")
        self.published.append((topic.removeprefix(f"{PATH}/"), value))

    def subscribe(self, topic: str, flags: list[str], fn: Callable[[str, Value], None]) -> None:
        assert flags == ["pub"]
        self.callbacks[topic] = fn

    def unsubscribe(self, topic: str, fn: Callable[[str, Value], None]) -> None:
        assert self.callbacks.pop(topic) == fn

    def send(self, name: str, sample_id: int, values: Sequence[float], step: int = STEP) -> None:
        topic = f"{PATH}/{name}!data"
        if "gpi" in name:
            data = np.packbits(np.array(values, np.uint8), bitorder="little")
        else:
            data = np.array(values, np.float32)
        self.callbacks[topic](topic, {"sample_id": sample_id, "decimate_factor": step, "data": data, "utc": 0})

    def send_all(self, sample_id: int, current: Sequence[float], levels: Sequence[int] = ()) -> None:
        """Current, voltage and inputs of the same samples; ``levels`` of input 0, the others are low."""
        self.send("s/i/", sample_id, current)
        self.send("s/v/", sample_id, [3.3] * len(current))
        for name in GPI:
            high = levels if name == GPI[0] and levels else [0] * len(current)
            self.send(name, sample_id, high)


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


def opened(driver: FakeDriver) -> Joulescope:
    return Joulescope(CONFIG, 3.3, lambda: driver)


def test_signals_are_put_on_one_axis(driver: FakeDriver) -> None:
    with opened(driver) as meter:
        meter.start()
        # The voltage begins two samples later than the current; input 0 is sampled at the full rate.
        driver.send("s/i/", 1000, [1e-3 * k for k in range(16)])
        driver.send("s/v/", 1008, [3.0 + 0.01 * k for k in range(14)])
        driver.send(GPI[0], 992, [0] * 40 + [1] * 32, step=1)
        driver.send(GPI[1], 1000, [1] * 16)
        for name in GPI[2:]:
            driver.send(name, 1000, [0] * 16)
        block = meter.read(1.0)
    assert block.first == 0
    assert block.current_a == pytest.approx([1e-3 * k for k in range(2, 16)])
    assert block.voltage_v == pytest.approx([3.0 + 0.01 * k for k in range(14)])
    # Input 0 rises at full-rate sample 1032: the ninth sample of the current, the seventh of the block.
    assert block.logic.tolist() == [2] * 6 + [3] * 8
    assert block.lost == 0


def test_a_signal_that_is_late_is_waited_for(driver: FakeDriver) -> None:
    with opened(driver) as meter:
        meter.start()
        driver.send("s/i/", 0, [1e-3] * 16)
        driver.send("s/v/", 0, [3.3] * 16)
        assert meter.read(0.0).current_a.size == 0
        for name in GPI:
            driver.send(name, 0, [0] * 8)
        assert meter.read(0.0).current_a.size == 8
        for name in GPI:
            driver.send(name, 32, [0] * 8)
        block = meter.read(0.0)
    assert (block.first, block.current_a.size) == (8, 8)


def test_missing_samples_are_nan_and_counted(driver: FakeDriver) -> None:
    with opened(driver) as meter:
        meter.start()
        driver.send_all(0, [1e-3] * 8, levels=[1] * 8)
        driver.send_all(5 * 8 * STEP, [2e-3] * 8, levels=[1] * 8)
        block = meter.read(1.0)
    assert np.isnan(block.current_a).tolist() == [False] * 8 + [True] * 32 + [False] * 8
    assert block.lost == 32
    assert block.voltage_v is not None
    assert np.isnan(block.voltage_v).sum() == 32
    assert block.logic.tolist() == [1] * 8 + [0] * 32 + [1] * 8


@pytest.mark.parametrize("name", ["s/i/", "s/v/", GPI[0]])
def test_a_gap_in_any_signal_is_lost(driver: FakeDriver, name: str) -> None:
    with opened(driver) as meter:
        meter.start()
        for other in ("s/i/", "s/v/", *GPI):
            value = 1.0 if "gpi" not in other else 1
            driver.send(other, 0, [value] * 8)
            if other != name:
                driver.send(other, 8 * STEP, [value] * 8)
            driver.send(other, 16 * STEP, [value] * 8)
        block = meter.read(1.0)
    assert np.isnan(block.current_a).tolist() == [False] * 8 + [True] * 8 + [False] * 8
    assert block.lost == 8


def test_what_the_driver_gives_as_nan_is_lost(driver: FakeDriver) -> None:
    with opened(driver) as meter:
        meter.start()
        driver.send_all(0, [1e-3, float("nan"), 1e-3, float("nan"), *[1e-3] * 4])
        assert meter.read(1.0).lost == 2


def test_repeated_samples_are_left_out(driver: FakeDriver) -> None:
    with opened(driver) as meter:
        meter.start()
        driver.send_all(0, [float(k) for k in range(8)])
        driver.send_all(0, [float(k) for k in range(8)])
        driver.send_all(4 * STEP, [float(k) for k in range(4, 12)])
        block = meter.read(1.0)
        assert meter.repeated == 8 + 4
    assert block.current_a.tolist() == list(range(12))


def test_saturation(driver: FakeDriver) -> None:
    with opened(driver) as meter:
        meter.start()
        driver.send_all(0, [1.0, 10.0, -11.0, 9.9, 1.0, 1.0, 1.0, 1.0])
        assert meter.read(1.0).saturated == 2


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(0, 2**63))
def test_however_the_stream_is_cut_the_samples_are_the_same(seed: int, parts: int, first: int) -> None:
    draw = random.Random(seed)
    driver = FakeDriver()
    current = [draw.random() for _ in range(96)]
    levels = [draw.randrange(2) for _ in range(96)]
    first -= first % STEP
    with opened(driver) as meter:
        meter.start()
        blocks = []
        names = ("s/i/", "s/v/", *GPI)
        queues = {name: sorted({0, 96, *(8 * draw.randrange(13) for _ in range(parts))}) for name in names}
        while any(len(cuts) > 1 for cuts in queues.values()):
            name = draw.choice([name for name, cuts in queues.items() if len(cuts) > 1])
            begin, end = queues[name].pop(0), queues[name][0]
            values = levels if name == GPI[2] else [0] * 96 if "gpi" in name else current
            driver.send(name, first + begin * STEP, values[begin:end])
            blocks.append(meter.read(0.0))
    block = join(blocks)
    assert block.current_a == pytest.approx(current, rel=1e-6)
    assert block.logic.tolist() == [level << 2 for level in levels]


def test_read_wakes_when_the_driver_calls(driver: FakeDriver) -> None:
    with opened(driver) as meter:
        meter.start()
        thread = threading.Thread(target=driver.send_all, args=(0, [1e-3] * 8))
        thread.start()
        block = meter.read(30.0)
        thread.join()
        block = join([block, meter.read(0.0)])
    assert block.current_a.size == 8


def test_the_instrument_is_set_up_and_let_go(driver: FakeDriver) -> None:
    with opened(driver) as meter:
        assert meter.info.identity == "Joulescope js220/001234"
        assert (meter.info.sample_rate_hz, meter.info.logic_inputs, meter.info.measures_voltage) == (500_000, 4, True)
        meter.start()
        driver.send_all(0, [1e-3] * 8)
        assert meter.stop().current_a.size == 8
    switched = ("s/i/", "s/v/", *GPI)
    assert driver.published == [
        ("h/fs", 500_000),
        ("s/i/range/mode", "auto"),
        ("s/v/range/mode", "auto"),
        *((f"{name}ctrl", 1) for name in switched),
        *((f"{name}ctrl", 0) for name in switched),
    ]
    assert driver.callbacks == {}
    assert driver.calls == [f"open {PATH} defaults", f"close {PATH}", "finalize"]


def test_leaving_a_running_stream_switches_it_off(driver: FakeDriver) -> None:
    with opened(driver) as meter:
        meter.start()
    assert ("s/i/ctrl", 0) in driver.published
    assert driver.calls[-1] == "finalize"


def test_a_second_stream_begins_anew(driver: FakeDriver) -> None:
    with opened(driver) as meter:
        for begin in (0, 80_000):
            meter.start()
            driver.send_all(begin, [1e-3] * 8)
            block = meter.stop()
            assert (block.first, block.current_a.size, block.lost) == (0, 8, 0)


@pytest.mark.parametrize(
    ("paths", "serial_number", "message"),
    [
        ([], None, "one JS220 was wanted; attached: none"),
        (["u/js110/000001"], None, "attached: u/js110/000001"),
        ([PATH, "u/js220/005678"], None, "one JS220 was wanted"),
        ([PATH], "5678", "one JS220 5678 was wanted"),
    ],
)
def test_instruments_that_are_not_there(paths: list[str], serial_number: str | None, message: str) -> None:
    config = JoulescopeConfig(kind="joulescope", model="js220", serial_number=serial_number)
    driver = FakeDriver(paths)
    with pytest.raises(MeterError, match=message):
        Joulescope(config, 3.3, lambda: driver).open()
    assert driver.calls == ["finalize"]


def test_one_of_two_by_its_number() -> None:
    config = JoulescopeConfig(kind="joulescope", model="js220", serial_number="005678")
    with Joulescope(config, 3.3, lambda: FakeDriver([PATH, "u/js220/005678"])) as meter:
        assert meter.info.identity.endswith("005678")


def test_a_driver_that_fails_is_told(driver: FakeDriver) -> None:
    driver.fails_at = "h/fs"
    with pytest.raises(MeterError, match="jsdrv_publish failed 11") as caught:
        opened(driver).open()
    assert caught.value.transient
    assert driver.calls[-1] == "finalize"


def test_an_instrument_that_is_pulled_out(driver: FakeDriver) -> None:
    with opened(driver) as meter:
        meter.start()
        driver.fails_at = "ctrl"
        with pytest.raises(MeterError, match="went away or refuses"):
            meter.stop()


def test_a_driver_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(joulescope, "import_module", missing)
    with pytest.raises(ToolMissing, match="pyjoulescope_driver is not installed") as caught:
        load_driver()
    assert "pip install" in caught.value.hint


def test_the_makers_driver_has_what_is_used() -> None:
    """The stand-in's methods are those of the real driver, which opens where no instrument is attached."""
    real = load_driver()
    try:
        assert isinstance(list(real.device_paths()), list)
        for name in ("open", "close", "publish", "subscribe", "unsubscribe", "finalize"):
            assert callable(getattr(real, name))
    finally:
        real.finalize()


def test_use_in_the_wrong_order() -> None:
    meter = Joulescope(CONFIG, 3.3)
    meter.close()
    with pytest.raises(MeterError, match="not open"):
        meter.start()
    with pytest.raises(MeterError, match="not started"):
        meter.read(0.1)


def test_a_signal_forgets_what_was_taken() -> None:
    signal = Signal(np.nan)
    signal.add(100, 2, np.arange(10, dtype=np.float32))
    assert signal.take(104, 112, 2).tolist() == [2, 3, 4, 5]
    assert (signal.begin, signal.end) == (112, 120)
    assert signal.take(112, 120, 4).tolist() == [6, 8]
