"""The MLPerf Tiny personality on emulated boards, through a PTY, by a client that shares no code with the lab."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from helpers.mlperf_client import MlperfClient

from lab.artifact import Artifact
from lab.build import build
from lab.compiler.model import CompiledModel, LayerInfo, TensorSpec
from lab.emulators.pty_link import PtyLink
from lab.emulators.qemu import Qemu, QemuMachine
from lab.postmortem.image import Image
from lab.transports.serial import SerialPort

TINY_MODEL = Path(__file__).resolve().parents[1] / "data" / "tiny_model"
PRINTED_US = 4
VALUES = 64
OFFSETS = np.concatenate([np.arange(8), np.zeros(56, np.int64)]).astype(np.uint8)


def built(board: str, cache: Path, fault: str = "") -> Artifact:
    """The tiny model; ``fault`` is C that every inference begins with."""
    border = TensorSpec((VALUES,), 1.0, 0)
    layers = (LayerInfo("all", "elementwise", 64, 0, (64,), (64,)),)
    sources = {path.name: path.read_text() for path in TINY_MODEL.iterdir()}
    begin = "static void infer(const void *input, void *output, uint8_t *arena)\n{\n"
    assert begin in sources["model.c"]
    sources["model.c"] = sources["model.c"].replace(begin, begin + fault)
    model = CompiledModel("tiny", sources, border, border, layers, (), 96, 64, "0" * 64)
    return build(model, board, cache=cache, personality="mlperf", mlperf_model="kws01")


@pytest.fixture(scope="module", params=["mps2-an386", "mps2-an500"])
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return built(request.param, tmp_path_factory.mktemp("cache"))


@contextmanager
def board(image: Artifact) -> Iterator[MlperfClient]:
    """The client on the board's PTY, opened before the board's first instruction."""
    with (
        Qemu(QemuMachine(image.board, 7, 0, 0, 0), image.path) as qemu,
        PtyLink(SerialPort(qemu.serial_url)) as link,
        MlperfClient(link.path) as client,
    ):
        qemu.release()
        yield client


def scores(sample: bytes) -> list[float]:
    values = ((np.frombuffer(sample, np.uint8) ^ 0x55) + OFFSETS).view(np.int8)
    return [float(f"{(int(value) + 128) / 256:.3f}") for value in values]


def test_start_up_and_identity(image: Artifact) -> None:
    with board(image) as client:
        mode, lap, done = client.until_ready()
        assert (mode, done) == ("m-timestamp-mode-performance", "m-init-done")
        assert int(lap.removeprefix("m-lap-us-")) < 1000
        assert client.command("name") == [f"m-name-dut-[hil-lab {image.board}]"]
        profile = client.command("profile")
    assert profile == ["m-profile-[ULPMark for tinyML Firmware V0.0.1]", "m-model-[kws01]"]


def test_accuracy_mode(image: Artifact) -> None:
    samples = [bytes((i * 37 + k) & 0xFF for i in range(VALUES)) for k in range(5)]
    with board(image) as client:
        client.until_ready()
        for sample in samples:
            client.load(sample)
            assert client.command("db print")[0] == "m-buffer-" + sample[:8].hex("-")
            _, results = client.infer(1, 0)
            assert results == scores(sample)


def test_performance_mode_repeats_to_a_printed_number_and_lasts_ten_seconds(image: Artifact) -> None:
    """Virtual microseconds: an instruction is 1/25 of one, whatever the host does.

    The protocol prints the first time stamp inside the window, and a number of one digit more takes 2 µs longer: 150
    windows lasted 5786 or 5787 µs with six digits, 5788 or 5789 µs with seven.
    """
    with board(image) as client:
        client.until_ready()
        client.load(bytes(VALUES))
        (start, end), _ = client.infer(1000, 10)
        (again, last), _ = client.infer(1000, 10)
        assert abs((last - again) - (end - start)) < PRINTED_US
        count = 1_050_000 * 10_000 // (end - start)
        (begin, finish), results = client.infer(count, 0)
    assert finish - begin >= 10_000_000
    assert abs((finish - begin) / (end - start) - count / 1000) < 0.01 * count / 1000
    assert results == scores(bytes(VALUES))


def test_wrong_commands_end_in_an_error_line_and_leave_the_board_well(image: Artifact) -> None:
    with board(image) as client:
        client.until_ready()
        for command, answer in (
            ("infer 1 0", "e-[infer needs 64 bytes, 0 of 0 are loaded]"),
            ("results", "e-[no inference has run since the last load]"),
            ("db load 27649", "e-[db load takes a number from 1 to 27648]"),
            ("db 00", "e-[0 bytes are expected, these are 1]"),
            ("x" * 4096, "e-[a command has at most 80 characters]"),
            ("\x00\xff\n", "e-[unknown command '???']"),
            ("infer 0 0", "e-[infer takes N from 1 and W from 0, both to 10000000]"),
            ("infer 99999999999999999999 0", "e-[infer takes N from 1 and W from 0, both to 10000000]"),
        ):
            assert client.command(command) == [answer]
        client.load(bytes(VALUES))
        assert client.infer(1, 0)[1] == scores(bytes(VALUES))


def test_a_fault_is_told_and_the_board_starts_anew(tmp_path: Path) -> None:
    image = built("mps2-an386", tmp_path, "(void)*(volatile int *)0x90000000u;\n")
    with board(image) as client:
        client.until_ready()
        client.load(bytes(VALUES))
        lines = client.command("infer 1 0")
        crash = next(line for line in lines if line.startswith("e-["))
        address = int(crash.partition("pc=0x")[2][:8], 16)
        assert Image(image.path).where(address).startswith("infer at model.c:")
        assert "bfar=0x90000000" in crash
        assert [lines[-3], lines[-1]] == ["m-timestamp-mode-performance", "m-init-done"]
        assert client.command("infer 1 0") == ["e-[infer needs 64 bytes, 0 of 0 are loaded]"]


def test_a_write_behind_the_arena_is_told(tmp_path: Path) -> None:
    with board(built("mps2-an386", tmp_path, "arena[LAB_MODEL_ARENA_BYTES] = 0;\n")) as client:
        client.until_ready()
        client.load(bytes(VALUES))
        assert client.command("infer 1 0")[-1] == "e-[the arena overflowed]"
