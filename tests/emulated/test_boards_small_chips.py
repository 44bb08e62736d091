"""Images of the nRF52840-DK and the Raspberry Pi Pico, whole, on models of their chips that forbid what silicon does:
from the boot block to the results of a job, over the wire, at the fastest rate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.strict_chips import Chip, Forbidden, Nrf52840, Rp2040
from helpers.toolchain import SAMPLE_BYTES, board_kind, built, needs_qemu, tiny_output

from lab.artifact import Artifact
from lab.events import Done, Job, RegionEvent, ResultEvent
from lab.wire import Session
from lab.wire_frames import FrameDecoder, encode_frame

pytestmark = needs_qemu  # needs its compiler, to be exact

SAMPLES = bytes((i * 37) & 0xFF for i in range(3 * SAMPLE_BYTES))
BOARDS = {"nrf52840-dk": "dwt", "rpi-pico": "systick"}
MARKER = {"nrf52840-dk": (0x50000804, 1), "rpi-pico": (0xD0000010, 2)}  # GPIO OUT, first pin


def nrf(path: Path) -> Chip:
    chip = Nrf52840(path)
    chip.boot()
    return chip


def pico(path: Path) -> Chip:
    chip = Rp2040(path)
    chip.run_boot_block()
    return chip


POWER_UP: dict[str, Callable[[Path], Chip]] = {"nrf52840-dk": nrf, "rpi-pico": pico}


@pytest.fixture(scope="module", params=sorted(BOARDS))
def image(request: pytest.FixtureRequest) -> Artifact:
    return built(request.param)


def test_a_job_runs_from_reset_to_its_results(image: Artifact) -> None:
    chip = POWER_UP[image.board](image.path)
    session = Session(chip)
    hello = session.open(20.0, build_id=image.build_id, ask=False)
    assert (hello.board, hello.clock, hello.clock_hz) == (
        image.board,
        BOARDS[image.board],
        board_kind(image.board).clock_hz,
    )
    assert chip.baud == max(hello.baud_rates)
    session.put("samples", SAMPLES)
    events = list(session.run(Job("infer", b"", 3, repeats=2, profile=True)))
    outputs = [event.data for event in events if isinstance(event, ResultEvent)]
    assert outputs == [tiny_output(SAMPLES[i : i + SAMPLE_BYTES]) for i in range(0, len(SAMPLES), SAMPLE_BYTES)]
    assert len({event.cycles for event in events if isinstance(event, RegionEvent)}) == 1
    done = events[-1]
    assert isinstance(done, Done)
    assert 0 < done.stack_high_water < 1024
    # 32-byte receivers and smaller ones: the bytes went through the interrupt.
    assert chip.interrupts > len(SAMPLES) / 32


def test_the_marker_pins_rise_and_fall_once_per_region(image: Artifact) -> None:
    chip = POWER_UP[image.board](image.path)
    session = Session(chip)
    session.open(20.0, ask=False)
    session.put("samples", SAMPLES)
    chip.stores.clear()
    list(session.run(Job("infer", b"", 3, profile=True)))
    register, first_pin = MARKER[image.board]
    values = [value for address, value in chip.stores if address == register]
    running, layer = 1 << first_pin, 2 << first_pin
    assert values == [running, 0] * 3 + [layer, 0] * 2 * 3


# ---- receiving ----


def busy(image: Artifact) -> Chip:
    """A chip in a job that does not look at the line."""
    chip = POWER_UP[image.board](image.path)
    Session(chip).open(20.0, ask=False)
    greet(chip)
    chip.write(b"\0" + encode_frame({"t": "run", "s": 1, "j": "clock", "c": 300_000, "r": 1}))
    wait_for(chip, "ack")
    return chip


def greet(chip: Chip) -> None:
    """Start its session anew."""
    chip.write(b"\0" + encode_frame({"t": "hello", "s": 0, "v": 1}))
    wait_for(chip, "hello")


def wait_for(chip: Chip, *types: str) -> None:
    """Read until a message of each type has come."""
    decoder, missing = FrameDecoder(), set(types)
    decoder.feed(b"\0")
    for _ in range(50):
        missing -= {str(message["t"]) for message in decoder.feed(chip.read(0.0))}
        if not missing:
            return
    pytest.fail(f"the chip sent no {', '.join(missing)}")


def test_a_frame_that_comes_during_a_job_is_not_lost(image: Artifact) -> None:
    """The longest there is, and a repetition's beginning: the interrupt takes them while the program computes."""
    chip = busy(image)
    chip.write(bytes(900) + encode_frame({"t": "hello", "s": 0, "v": 1, "x": bytes(900)}))
    assert chip.overruns == 0
    wait_for(chip, "done", "hello")


def test_a_line_that_is_flooded_during_a_job_works_again_after_it(image: Artifact) -> None:
    chip = busy(image)
    chip.write(b"flood" * 800)
    assert chip.overruns > 0
    wait_for(chip, "done")
    greet(chip)


# ---- what start-up leaves ----


def test_clock_and_pins_of_the_pico() -> None:
    chip = Rp2040(built("rpi-pico").path)
    chip.run_boot_block()
    Session(chip).open(20.0, ask=False)
    assert chip.core_hz == 125e6
    functions = [chip.values[0x40014004 + 8 * pin] & 31 for pin in range(4)]
    assert functions == [2, 2, 5, 5]  # UART twice, SIO twice
    assert chip.values[0xD0000020] == 0b1100
    assert chip.values[0x4005802C] == 1 << 9 | 12
    assert chip.values[0xE000ED08] == 0x10000100


def test_clock_pins_and_supply_of_the_nrf() -> None:
    chip = Nrf52840(built("nrf52840-dk").path)
    chip.boot()
    Session(chip).open(20.0, ask=False)
    assert chip.values[0x40000000] == 1  # the crystal
    assert chip.values[0x40000578] == 1  # the DC/DC converter
    assert chip.values[0x4001E540] == 1  # the flash's cache
    assert (chip.values[0x4000250C], chip.values[0x40002514]) == (6, 8)
    assert chip.values[0x50000818] == 0b110  # outputs of port 1


@pytest.mark.parametrize(
    ("variant", "locked", "said"),
    [(b"AAF0", False, [0x5A]), (b"AAF0", True, [0xFFFFFFFF]), (b"AAG1", False, [0x5A]), (b"AAD0", False, [])],
)
def test_the_debug_port_stays_as_it_was(variant: bytes, locked: bool, said: list[int]) -> None:
    chip = Nrf52840(built("nrf52840-dk").path, variant=variant, locked=locked)
    chip.boot()
    Session(chip).open(20.0, ask=False)
    assert [value for address, value in chip.stores if address == 0x40000558] == said


@pytest.mark.parametrize("quad", [True, False])
def test_the_boot_block_sets_the_flash_to_quad_reads(quad: bool) -> None:
    """A part that came without four lines allowed is given them first; one that has them is left alone."""
    chip = Rp2040(built("rpi-pico").path, quad=quad)
    chip.run_boot_block()
    commands = [command[0] for command in chip.flash_chip.commands]
    assert commands == [0x35] if quad else commands[:3] == [0x35, 0x06, 0x01]
    assert chip.flash_chip.status2 & 2
    assert chip.stack_pointer == int.from_bytes(chip.memory(0x10000100, 4), "little")


def test_the_models_forbid_what_silicon_does() -> None:
    """A model that lets everything pass would show nothing."""
    chip = Rp2040(built("rpi-pico").path)
    for address, value, rule in [
        (0x40034000, 0x41, "block in reset"),
        (0x40028008, 125, "block in reset"),
        (0x4000803C, 1, "a PLL that does not run"),
        (0x40008030, 2, "a crystal that has not started"),
    ]:
        with pytest.raises(Forbidden, match=rule):
            chip.write_register(address, value)
    other = Nrf52840(built("nrf52840-dk").path)
    with pytest.raises(Forbidden, match="was not started"):
        other.write_register(0x4000251C, 0x41)
    other.write_register(0x40002500, 4)
    with pytest.raises(Forbidden, match="only while it is off"):
        other.write_register(0x4000250C, 6)
