"""The emulated Otii server: our client and the maker's own against it, and closed forms as the truth."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from otii_tcp_client.otii_client import LicensingMode, OtiiClient, OtiiClientException
from otii_tcp_client.otii_exception import Otii_Exception
from pydantic import SecretStr

from lab.emulators.energy_model import EnergyModel
from lab.emulators.load import ScriptedLoad, Segment
from lab.emulators.otii import EmulatedOtii, Faults
from lab.errors import MeterError
from lab.meter_config import OtiiConfig
from lab.power.base import SampleBlock, join
from lab.power.otii import Otii, OtiiConnection
from lab.power.recorder import Recorder
from lab.wire_frames import encode_frame

CLOCK_HZ = 25_000_000
BOARD = EnergyModel(3.3, 20e-6, 12e-3, 1e-3, "test")
RATE = 4_000
SCRIPT = ScriptedLoad(
    [
        segment
        for k in range(5)
        for segment in (Segment(0.1501, 10e-6 * (k + 1)), Segment(0.0502, 20e-3 * (k + 1), 1 + 2 * (k % 2), 3.3, 1e-4))
    ]
    + [Segment(0.3, 1e-6)]
)


def config(peer: EmulatedOtii, **settings: object) -> OtiiConfig:
    reached = {"host": peer.host, "tcp_port": peer.tcp_port}
    return OtiiConfig.model_validate({"kind": "otii", "emulated": True, "sample_rate": RATE, **reached, **settings})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedOtii]:
    """A server without faults that plays the script to one client after another."""
    with EmulatedOtii(tmp_path_factory.mktemp("otii"), CLOCK_HZ, SCRIPT) as peer:
        yield peer


@contextmanager
def emulated(
    tmp_path: Path,
    load: EnergyModel | ScriptedLoad = SCRIPT,
    faults: Faults = Faults(),  # noqa: B008 - frozen
    **settings: object,
) -> Iterator[tuple[Otii, EmulatedOtii]]:
    with (
        EmulatedOtii(tmp_path, CLOCK_HZ, load, faults=faults) as peer,
        Otii(config(peer, **settings), 3.3) as meter,
    ):
        yield meter, peer


def stream(meter: Otii) -> SampleBlock:
    meter.start()
    return meter.stop()


def energy_j(block: SampleBlock, begin: int, end: int) -> float:
    assert block.voltage_v is not None
    power = block.current_a[begin:end].astype(np.float64) * block.voltage_v[begin:end]
    return float(np.sum(power)) / RATE


def test_energy_of_each_burst_is_the_closed_form(server: EmulatedOtii) -> None:
    with Otii(config(server), 3.3) as meter:
        assert meter.info.identity == "Otii Arc Lab Arc"
        assert meter.info.measures_voltage
        block = stream(meter)
    assert block.lost == block.saturated == 0
    assert block.current_a.size == SCRIPT.due(RATE)
    steps = np.diff((block.logic & 1).astype(int), prepend=0)
    rises, falls = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    assert len(rises) == len(falls) == 5
    for begin, end, (time_s, _) in zip(rises, falls, SCRIPT.edges_s()[::2], strict=True):
        assert -1e-9 <= begin / RATE - time_s < 1 / RATE
        truth = SCRIPT.truth(begin / RATE, end / RATE)
        # float32 samples of doubles sent as decimals.
        assert energy_j(block, begin, end) == pytest.approx(truth.energy_j, rel=1e-6)
    assert np.count_nonzero(np.diff((block.logic >> 1).astype(int)) == 1) == 2


def test_the_makers_own_client_reads_the_same(server: EmulatedOtii) -> None:
    """otii-tcp-client, unmodified: it reserves a licence, records, and fetches what our client fetches."""
    client = OtiiClient().connect(host=server.host, port=server.tcp_port, try_for_seconds=5)
    device = client.get_devices()[0]
    device.set_max_current(0.5)
    device.set_main_voltage(3.3)
    device.set_channel_samplerate("mc", RATE)
    for channel in ("mc", "mv", "i1"):
        device.enable_channel(channel, True)
    project = client.create_project()
    device.add_to_project()
    device.set_main(True)
    project.start_recording()
    project.stop_recording()
    recording = project.get_last_recording()
    assert recording is not None
    count = recording.get_channel_data_count(device.id, "mc")
    current = recording.get_channel_data(device.id, "mc", 0, count)
    edges = recording.get_channel_data(device.id, "i1", 0, recording.get_channel_data_count(device.id, "i1"))
    client.disconnect()
    with Otii(config(server), 3.3) as meter:
        block = stream(meter)
    assert current["interval"] == 1 / RATE
    assert np.array_equal(np.array(current["values"], np.float32), block.current_a)
    theirs = [(round(one["timestamp"] * RATE), one["value"]) for one in edges["values"]]
    steps = np.diff((block.logic & 1).astype(int), prepend=0)
    assert theirs == [(int(k), bool(steps[k] > 0)) for k in np.flatnonzero(steps)]


def test_the_makers_client_is_told_of_errors(server: EmulatedOtii) -> None:
    client = OtiiClient().connect(host=server.host, port=server.tcp_port, licensing=LicensingMode.MANUAL)
    device = client.get_devices()[0]
    with pytest.raises(Otii_Exception) as caught:
        device.set_main(True)
    assert caught.value.type == "No license"
    with pytest.raises(Otii_Exception) as caught:
        device.set_main_voltage(9.0)
    assert caught.value.type == "Invalid key value"
    with pytest.raises(Otii_Exception) as caught:
        device.calibrate()
    assert caught.value.type == "Invalid command"
    client.disconnect()


def test_the_makers_client_without_a_licence(tmp_path: Path) -> None:
    with (
        EmulatedOtii(tmp_path, CLOCK_HZ, SCRIPT, faults=Faults(licensed="taken")) as peer,
        pytest.raises(OtiiClientException, match="Cannot reserve licenses"),
    ):
        OtiiClient().connect(host=peer.host, port=peer.tcp_port, try_for_seconds=0)


def test_the_marker_of_a_board_drives_it(tmp_path: Path) -> None:
    with emulated(tmp_path, BOARD) as (meter, peer), socket.socket(socket.AF_UNIX) as line:
        line.connect(str(peer.marker_path))
        with Recorder(meter) as recorder:
            for k in range(20):
                for time_s, bits in ((k * 0.1 + 0.05, 1), (k * 0.1 + 0.09, 0)):
                    line.sendall(encode_frame({"c": round(time_s * CLOCK_HZ), "m": bits}))
            block = recorder.finish(windows=20, quiet_s=0.0, stall_s=0.5)
    assert np.count_nonzero(np.diff((block.logic & 1).astype(int)) == 1) == 20
    active = block.current_a[block.logic == 1].astype(np.float64)
    assert active.size == 20 * 160
    assert float(np.sum(active)) / RATE * 3.3 == pytest.approx(20 * BOARD.energy_j(0.04), rel=1e-6)


def test_blocks_follow_each_other_and_hold_back_what_may_still_change(server: EmulatedOtii) -> None:
    with Otii(config(server), 3.3) as meter:
        meter.start()
        first = meter.read(5.0)
        assert first.current_a.size == SCRIPT.due(RATE) - RATE // 2
        last = meter.stop()
    assert join([first, last]).current_a.size == SCRIPT.due(RATE)


def test_streams_and_clients_follow_each_other(server: EmulatedOtii) -> None:
    with Otii(config(server), 3.3) as meter:
        first, second = stream(meter), stream(meter)
        meter.start()
    with Otii(config(server), 3.3) as meter:
        third = stream(meter)
    for other in (second, third):
        assert other.first == 0
        assert np.array_equal(other.current_a, first.current_a)


def test_gaps_are_nan_and_in_their_places(tmp_path: Path) -> None:
    with emulated(tmp_path, faults=Faults(drop_every=500)) as (meter, _):
        block = stream(meter)
    # One of each 500; the last run of the recording ends with its last sample.
    assert block.lost == SCRIPT.due(RATE) // 500
    assert np.flatnonzero(np.isnan(block.current_a)).tolist() == list(range(499, block.current_a.size, 500))
    truth = SCRIPT.samples(0, block.current_a.size, RATE).current_a
    there = ~np.isnan(block.current_a)
    assert block.current_a[there] == pytest.approx(truth[there], rel=1e-6)


def test_a_sample_that_comes_twice_ends_the_stream(tmp_path: Path) -> None:
    """Times that go back leave nothing to go by: which of the two is right is not known."""
    with (
        emulated(tmp_path, faults=Faults(duplicate_every=500)) as (meter, _),
        pytest.raises(MeterError, match=r"a sample of 0\.12475 s came after sample 500"),
    ):
        stream(meter)


def test_values_that_are_no_numbers_are_lost(tmp_path: Path) -> None:
    with emulated(tmp_path, faults=Faults(corrupt_every=700)) as (meter, _):
        block = stream(meter)
    assert block.lost == SCRIPT.due(RATE) // 700
    assert np.flatnonzero(np.isnan(block.current_a)).tolist() == list(range(699, block.current_a.size, 700))


def test_a_limit_that_is_reached_is_saturation(tmp_path: Path) -> None:
    with emulated(tmp_path, limit_a=0.05) as (meter, _):
        block = stream(meter)
    assert block.saturated == 1
    # The output went off: there is no current behind the first burst above 50 mA.
    assert not block.current_a[int(np.argmax(block.current_a)) + 1 :].any()


def test_a_server_that_hangs_up(tmp_path: Path) -> None:
    with (
        emulated(tmp_path, faults=Faults(disconnect_after=1000)) as (meter, _),
        pytest.raises(MeterError, match="went away") as caught,
    ):
        stream(meter)
    assert caught.value.transient


@pytest.mark.parametrize(
    ("faults", "settings", "message"),
    [
        (Faults(refuse="arc_set_main_voltage"), {}, "refuses arc_set_main_voltage: Command failure"),
        (Faults(licensed="taken"), {}, "no automation licence is free"),
        (Faults(), {"device": "Other"}, "Other was wanted; attached: Lab Arc"),
        (Faults(), {"sample_rate": 3_500}, "samples at 4000 Hz, not at 3500 Hz"),
        (Faults(licensed="login"), {"username": "lab", "password": SecretStr("wrong")}, "Could not login"),
    ],
)
def test_what_the_server_refuses(tmp_path: Path, faults: Faults, settings: dict[str, object], message: str) -> None:
    with pytest.raises(MeterError, match=message) as caught, emulated(tmp_path, faults=faults, **settings):
        pass
    assert "wrong" not in str(caught.value)


def test_a_licence_behind_an_account(tmp_path: Path) -> None:
    account = {"username": "lab", "password": SecretStr("secret")}
    with emulated(tmp_path, faults=Faults(licensed="login"), **account) as (meter, peer):
        assert stream(meter).lost == 0
        meter.close()
        connection = OtiiConnection(peer.host, peer.tcp_port)
        assert connection.ask("otii_is_logged_in") == {"logged_in": False}
        assert connection.ask("otii_has_license", license_type="Automation") == {"has_license": False}
        connection.close()


def test_the_output_can_be_switched(server: EmulatedOtii) -> None:
    with Otii(config(server), 3.3) as meter:
        meter.set_output(False)
        assert not stream(meter).current_a.any()


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(MeterError, match="no Otii server") as caught:
        OtiiConnection("127.0.0.1", port)
    assert "otii_server" in caught.value.hint


@pytest.mark.parametrize("greeting", [b"SSH-2.0-OpenSSH_9.2\r\n", b'{"info": "other"}\r\n', b"[1]\r\n"])
def test_another_server(greeting: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        def greet() -> None:
            peer, _ = other.accept()
            with peer:
                peer.sendall(greeting)

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(MeterError, match="not an Otii server"):
            OtiiConnection("127.0.0.1", port)
        thread.join()


def test_use_in_the_wrong_order() -> None:
    meter = Otii(OtiiConfig(kind="otii"), 3.3)
    meter.close()
    with pytest.raises(MeterError, match="not open"):
        _ = meter.info
    with pytest.raises(MeterError, match="not started"):
        meter.read(0.1)
