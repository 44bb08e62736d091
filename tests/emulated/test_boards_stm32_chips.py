"""Images of the STM32 boards, whole, on models of their parts: from reset to the results of a job, over the wire.

At full clock and the fastest rate, and at the internal oscillator where the external one is missing. None was ever run
on silicon.
"""

from __future__ import annotations

import pytest
from helpers.stm32_chips import powered_up
from helpers.stm32_models import bits
from helpers.strict_chips import Forbidden
from helpers.toolchain import SAMPLE_BYTES, board_kind, built, needs_qemu, tiny_output

from lab.artifact import Artifact
from lab.events import Done, Job, RegionEvent, ResultEvent
from lab.wire import Session
from lab.wire_frames import FrameDecoder, encode_frame

pytestmark = needs_qemu  # needs its compiler, to be exact

SAMPLES = bytes((i * 37) & 0xFF for i in range(3 * SAMPLE_BYTES))
EXPECTED = [tiny_output(SAMPLES[i : i + SAMPLE_BYTES]) for i in range(0, len(SAMPLES), SAMPLE_BYTES)]
INTERNAL_HZ = {"nucleo-f446re": 16_000_000, "stm32f4-discovery": 16_000_000, "nucleo-h743zi": 64_000_000}
PORTS = {"nucleo-f446re": 0x40020000, "stm32f4-discovery": 0x40020000, "nucleo-h743zi": 0x58020000}


@pytest.fixture(scope="module", params=sorted(INTERNAL_HZ))
def image(request: pytest.FixtureRequest) -> Artifact:
    return built(request.param)


def test_a_job_runs_from_reset_to_its_results(image: Artifact) -> None:
    chip = powered_up(image.board, image.path)
    session = Session(chip)
    hello = session.open(20.0, build_id=image.build_id, ask=False)
    assert (hello.board, hello.clock, hello.clock_hz) == (image.board, "dwt", board_kind(image.board).clock_hz)
    assert chip.baud == max(hello.baud_rates) == 921600
    session.put("samples", SAMPLES)
    chip.stores.clear()
    events = list(session.run(Job("infer", b"", 3, repeats=2, profile=True)))
    assert [event.data for event in events if isinstance(event, ResultEvent)] == EXPECTED
    regions = [event for event in events if isinstance(event, RegionEvent)]
    assert len(regions) == 12
    done = events[-1]
    assert isinstance(done, Done)
    assert 0 < done.stack_high_water < 1024
    assert chip.interrupts >= len(SAMPLES), "every byte came by interrupt"
    assert chip.overruns == 0
    pins = board_kind(image.board).pins
    assert pins is not None
    port = PORTS[image.board] + 0x400 * (ord(pins.marker[1]) - ord("A"))
    marker, layer = int(pins.marker[2:]), int((pins.layer_marker or "")[2:])
    edges = [value for address, value in chip.stores if address == port + 0x18]
    both_low = 1 << marker + 16 | 1 << layer + 16
    high = {pin: 1 << pin | both_low & ~(1 << pin + 16) for pin in (marker, layer)}
    assert edges == [high[marker], both_low] * 6 + [high[layer], both_low] * 6


def test_no_byte_is_lost_at_the_fastest_rate_while_a_job_runs(image: Artifact) -> None:
    """A question behind 900 bytes that flush the line, all of which arrive before the job is done."""
    chip = powered_up(image.board, image.path)
    Session(chip).open(20.0, ask=False)
    bytes_cycles = 950 * 10 * chip.part.core_hz // chip.baud
    job = {"t": "run", "s": 1, "j": "clock", "n": "", "c": bytes_cycles // 4, "w": 0, "r": 1, "f": 2, "q": 0}
    chip.write(encode_frame({"t": "hello", "s": 0, "v": 1}))
    chip.write(encode_frame(job) + bytes(900) + encode_frame({"t": "hello", "s": 0, "v": 1}))
    decoder = FrameDecoder()
    kinds = [message["t"] for message in decoder.feed(chip.read(0.0))]
    assert kinds == ["hello", "ack"], "the job is over before the last byte is there"
    while kinds.count("hello") < 2:
        kinds += [message["t"] for message in decoder.feed(chip.read(1.0))]
    assert kinds == ["hello", "ack", "events", "done", "hello"]
    assert chip.overruns == 0


def test_without_the_external_oscillator_hello_tells_the_true_clock(image: Artifact) -> None:
    chip = powered_up(image.board, image.path, frozenset({"hse"}))
    session = Session(chip)
    hello = session.open(20.0, ask=False)
    assert hello.clock_hz == INTERNAL_HZ[image.board] == chip.part.core_hz
    session.put("samples", SAMPLES)
    events = list(session.run(Job("infer", b"", 3)))
    assert [event.data for event in events if isinstance(event, ResultEvent)] == EXPECTED
    assert chip.overruns == 0


def test_every_set_and_way_of_the_data_cache_is_invalidated_before_it_is_on() -> None:
    chip = powered_up("nucleo-h743zi", built("nucleo-h743zi").path)
    Session(chip).open(20.0, ask=False)
    on = next(i for i, (address, value) in enumerate(chip.stores) if address == 0xE000ED14 and value & 1 << 16)
    lines = {value for address, value in chip.stores[:on] if address == 0xE000EF60}
    assert lines == {way << 30 | line << 5 for way in range(4) for line in range(128)}
    assert bits(chip.values[0xE000ED14], 17, 16) == 3


def test_the_models_forbid_what_silicon_does() -> None:
    chip = powered_up("nucleo-f446re", built("nucleo-f446re").path)
    for address, value, rule in [
        (0x40004408, 391, "a USART without a clock"),
        (0x40020018, 1 << 8, "pins without a clock"),
        (0x40000C28, 1, "a timer without a clock"),
        (0x40023808, 2, "a PLL that was not locked"),
        (0x40011000, 0, "nothing that start-up needs"),
    ]:
        with pytest.raises(Forbidden, match=rule):
            chip.write_register(address, value)
