"""Real firmware on a line that damages what is sent at a wrong rate, and behind RFC 2217."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from helpers.rfc2217_server import Rfc2217Server
from helpers.toolchain import built, machine_of, needs_qemu, tiny_output
from helpers.uart_line import UartLine

from lab.artifact import Artifact
from lab.connection_config import SerialPort as SerialConfig
from lab.devices.base import Identity
from lab.devices.mcu import Mcu
from lab.devices.wired_mcu import SerialTarget
from lab.emulators.pty_link import PtyLink
from lab.emulators.qemu import Qemu
from lab.emulators.tcg_plugin import QEMU
from lab.errors import Hang
from lab.events import Job, ResultEvent
from lab.transports.base import ByteStream
from lab.transports.serial import SerialPort
from lab.wire import Session
from lab.wire_frames import FrameDecoder, encode_frame

pytestmark = [needs_qemu, pytest.mark.filterwarnings("ignore:set(Daemon|Name):DeprecationWarning")]
BOARD = "mps2-an386"
SAMPLE = bytes(range(64))
FASTEST = 1 << 31


@pytest.fixture(scope="module")
def image() -> Artifact:
    return built(BOARD)


@contextmanager
def board_on(line: UartLine, image: Artifact) -> Iterator[None]:
    """QEMU with the board's UART on the device's end; it sets that terminal's rate by the UART's divider.

    Without ``-icount``, so that half a second of the board's clock is one of ours, as on a board.
    """
    command = [QEMU, "-M", BOARD, "-display", "none", "-nodefaults", "-kernel", str(image.path)]
    command += ["-chardev", f"serial,id=uart,path={line.device_path}", "-serial", "chardev:uart"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def computes(session: Session) -> bool:
    """Whether a job over the line gives what the model computes."""
    session.put("samples", SAMPLE)
    results = [event.data for event in session.run(Job("infer", SAMPLE, 1)) if isinstance(event, ResultEvent)]
    return results == [tiny_output(SAMPLE)]


@pytest.mark.parametrize(("noisy_from", "agreed"), [(None, 921600), (921600, 460800)])
def test_board_and_host_agree_on_the_fastest_rate_that_carries_data(
    image: Artifact, noisy_from: int | None, agreed: int
) -> None:
    with UartLine(noisy_from) as line, ExitStack() as stack:
        # First, since opening a port throws away what came before: the board says hello as it starts.
        port = SerialPort(line.host_path, 115200, max_baud=FASTEST)
        stack.enter_context(board_on(line, image))
        session = Session(port)
        hello = session.open(30.0, build_id=image.build_id, ask=False)
        assert hello.baud_rates == (115200, 230400, 460800, 921600)
        assert line.ends == (agreed, agreed)
        assert computes(session)
        session.reset()
        assert port.baud == 115200
        session.open(10.0, build_id=image.build_id, ask=False)
        assert line.ends == (agreed, agreed)
        port.close()
        # A host that died at that rate, and the next one that knows nothing of it.
        port = SerialPort(line.host_path, 115200)
        session = Session(port)
        before = line.damaged_bytes
        session.open(5.0)
        assert line.ends == (115200, 115200)
        assert line.damaged_bytes > before
        assert computes(session)
        port.close()


@pytest.mark.parametrize("request_", [{"b": 38400}, {"b": 115201}, {}, {"b": 230400, "d": b"x"}])
def test_a_rate_that_the_board_has_not_is_refused_and_nothing_changes(
    image: Artifact, request_: dict[str, int | bytes]
) -> None:
    with Qemu(machine_of(BOARD), image.path) as qemu:
        qemu.release()
        port = qemu.open_serial()
        for message in ({"t": "hello", "s": 0, "v": 1}, {"t": "baud", "s": 1, **request_}):
            port.write(b"\0" + encode_frame(message))
        refused = next(message for message in frames(port) if message["t"] == "error")
        assert (refused["c"], refused["p"], refused["a"]) == ("input", "b", 1)
        port.write(encode_frame({"t": "baud", "s": 1, "b": 115200, "d": b"\0probe"}))
        answers = frames(port)
        assert next(answers) == {"t": "ack", "a": 1}
        assert next(answers)["d"] == b"\0probe"
        port.close()


def frames(port: ByteStream) -> Iterator[dict[str, Any]]:
    decoder = FrameDecoder()
    while came := port.read(20.0):
        yield from decoder.feed(came)


def test_a_reset_line_behind_rfc_2217_resets_the_board(image: Artifact) -> None:
    with Qemu(machine_of(BOARD), image.path) as qemu, PtyLink(qemu.open_serial()) as link:
        qemu.release()

        pressed = [False]

        def reset_pin(line: str, asserted: bool) -> None:
            if line == "rts":
                pressed.append(asserted)
                if pressed[-2:] == [True, False]:
                    qemu.reset()

        with Rfc2217Server(link.path, reset_pin) as server:
            config = SerialConfig.model_validate({"port": "socket://x:1", "reset": {"line": "rts", "pulse_s": 0.01}})
            target = SerialTarget(config.model_copy(update={"port": server.url}))
            device = Mcu(Identity("rack", BOARD, "hardware", "", frozenset(), remote=target.remote), target)
            device.deploy(image)
            list(device.run(Job("infer", SAMPLE, 1)))
            server.lines.clear()
            # The board says hello by itself: a session that was not reset would be refused as a repetition.
            assert device.reset("power").build_id == image.build_id
            assert [asserted for name, asserted in server.lines if name == "rts"] == [True, False]
            done = list(device.run(Job("infer", SAMPLE, 1)))
            assert [one.data for one in done if isinstance(one, ResultEvent)] == [tiny_output(SAMPLE)]
            with pytest.raises(Hang):
                list(device.run(Job("hang", b"", 1), silence_s=0.5))
            device.close()
            # Whoever comes next finds a board that hangs.
            server.lines.clear()
            device = Mcu(device.identity, SerialTarget(config.model_copy(update={"port": server.url})))
            assert device.deploy(image).build_id == image.build_id
            assert [asserted for name, asserted in server.lines if name == "rts"][-2:] == [True, False]
            device.close()


def test_a_rate_is_agreed_on_through_rfc_2217(image: Artifact) -> None:
    with UartLine(noisy_from=460800) as line, Rfc2217Server(line.host_path) as server, ExitStack() as stack:
        port = SerialPort(server.url, 115200, max_baud=460800)
        stack.enter_context(board_on(line, image))
        session = Session(port)
        session.open(30.0, build_id=image.build_id, ask=False)
        assert line.ends == (230400, 230400)
        assert computes(session)
        session.leave()
        assert line.ends == (115200, 115200)
        port.close()


def test_a_device_is_left_at_its_first_rate(image: Artifact) -> None:
    with UartLine() as line, board_on(line, image):
        target = SerialTarget(SerialConfig.model_validate({"port": line.host_path}))
        device = Mcu(Identity("desk", BOARD, "hardware", "", frozenset()), target)
        device.deploy(image)
        assert line.ends == (921600, 921600)
        device.close()
        # The host's end keeps what it was set to last.
        assert line.ends == (115200, 115200)
