"""Unwinding on made-up memory: what the stack of a healthy core does not show, and nothing may hang or raise.

Against gdb on real stops: tests/emulated/test_postmortem_gdb.py.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
from helpers.fault_program import M4F, M33, build_faults
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import ConfigError, EmulatorError, StackFrame
from lab.postmortem.image import Image
from lab.postmortem.memory import KeptMemory, LiveMemory, read_word
from lab.postmortem.stack import GUARD_BYTES, PAINT, Bounds, examine, high_water
from lab.postmortem.unwind import MOST_FRAMES, Backtrace, unwind

pytestmark = pytest.mark.skipif(
    shutil.which("arm-none-eabi-gcc") is None, reason="not installed: arm-none-eabi-gcc (`lab doctor` says how)"
)
STACK = 0x20000400
WORDS = st.integers(0, 0xFFFFFFFF)
UNWOUND_R = {f"r{number}": 0 for number in range(13)}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return Image(build_faults(M4F, tmp_path_factory.mktemp("faults")))


@pytest.fixture(scope="module")
def secure_image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return Image(build_faults(M33, tmp_path_factory.mktemp("faults")))


def address_of(image: Image, function: str) -> int:
    return next(one.address for one in image.functions if one.name.partition(".")[0] == function)


def return_address(image: Image, function: str) -> int:
    """The address behind the first call in a function, with its Thumb bit."""
    start = next(one for one in image.functions if one.name.partition(".")[0] == function)
    return next(at for at in range(start.address + 4, start.end, 2) if image.follows_call(at)) | 1


def kept(image: Image, words: list[int], at: int = STACK) -> KeptMemory:
    return KeptMemory(image, [(at, struct.pack(f"<{len(words)}I", *words))])


def functions(backtrace: Backtrace) -> list[str]:
    return [frame.function.partition(".")[0] for frame in backtrace.frames if frame.found != "inlined"]


def kinds(backtrace: Backtrace) -> list[str]:
    return [frame.found for frame in backtrace.frames if frame.found != "inlined"]


# ---- innermost frames ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pc", [0, 0x20000100, 0xDEADBEEE])
def test_a_jump_to_nowhere_is_told_by_the_link_register(image: Image, pc: int) -> None:
    lr = return_address(image, "begin")
    backtrace = unwind(image, kept(image, [0] * 16), {**UNWOUND_R, "pc": pc, "lr": lr, "sp": STACK})
    first, second = backtrace.frames[:2]
    assert first == StackFrame(pc, "", "", "registers")
    assert (second.address, second.function, second.found) == (lr & ~1, "begin", "link-register")


def test_without_a_usable_link_register_the_stack_is_searched(image: Image) -> None:
    called = return_address(image, "deep")
    words = [0, called & ~1, STACK, 0x12345678, called, 0, 0, 0]
    backtrace = unwind(image, kept(image, words), {"pc": 0, "lr": 0x1000001, "sp": STACK})
    assert functions(backtrace) == ["", "deep"]
    assert kinds(backtrace) == ["registers", "scan"]
    assert "what lies on the stack from" in backtrace.ended


def test_without_a_program_counter_the_stack_is_searched(image: Image) -> None:
    backtrace = unwind(image, kept(image, [0, return_address(image, "begin"), 0]), {"sp": STACK})
    assert functions(backtrace) == ["begin"]
    assert kinds(backtrace) == ["scan"]


def test_without_registers_there_is_no_backtrace(image: Image) -> None:
    assert unwind(image, kept(image, []), {}) == Backtrace((), "the stack pointer is not known")


def test_the_first_function_ever_has_no_caller(image: Image) -> None:
    registers = {"pc": image.entry + 2, "lr": 0xFFFFFFFF, "sp": STACK}
    backtrace = unwind(image, kept(image, []), registers)
    assert functions(backtrace) == ["reset_handler"]
    assert backtrace.ended == ""


def test_a_return_address_that_no_call_precedes_is_not_believed(image: Image) -> None:
    """The start of a function is code, but nothing returns there."""
    wrong = address_of(image, "deep") | 1
    assert not image.follows_call(wrong & ~1)
    words = [wrong] * 6
    registers = {"pc": address_of(image, "provoke"), "lr": wrong, "sp": STACK}
    assert functions(unwind(image, kept(image, words), registers)) == ["provoke"]


def test_endless_recursion_ends(image: Image) -> None:
    """A stack full of one return address: told a bounded number of times."""
    called = return_address(image, "handle")
    backtrace = unwind(image, kept(image, [called] * 1024), {"pc": called & ~1, "lr": called, "sp": STACK})
    assert len(backtrace.frames) == MOST_FRAMES
    assert str(MOST_FRAMES) in backtrace.ended


# ---- exception frames ---------------------------------------------------------------------------------------------


def exception_words(pc: int, lr: int, xpsr: int = 0x01000000) -> list[int]:
    return [0xA0, 0xA1, 0xA2, 0xA3, 0xAC, lr, pc, xpsr]


def entered(image: Image, exc_return: int, **more: int) -> Mapping[str, int]:
    """The registers at the first instruction of a handler."""
    return {**UNWOUND_R, "pc": address_of(image, "fault_handler"), "lr": exc_return, "sp": STACK, **more}


@pytest.mark.parametrize(("exc_return", "frame_bytes"), [(0xFFFFFFF9, 32), (0xFFFFFFE9, 104)])
@pytest.mark.parametrize("padded", [False, True])
def test_the_frame_below_the_handler(image: Image, exc_return: int, frame_bytes: int, padded: bool) -> None:
    """Armv7-M ARM B1.5.7: bit 9 of the stacked xPSR says that a word was skipped to align the frame."""
    pc, begin = address_of(image, "settled"), return_address(image, "begin")
    frame = exception_words(pc, begin, 0x01000200 if padded else 0x01000000)
    # settled() has saved nothing at its first instruction: sp is where begin() left it; begin() saved r4 and lr there.
    rules = image.frame_rules((begin & ~1) - 1)
    assert rules is not None
    gap = [0] * ((frame_bytes - 32 + (4 if padded else 0)) // 4)
    saved = [0] * (rules.cfa_offset // 4)
    saved[(rules.cfa_offset + rules.saved[14]) // 4] = return_address(image, "reset_handler")
    backtrace = unwind(image, kept(image, [*frame, *gap, *saved]), entered(image, exc_return))
    assert kinds(backtrace)[:3] == ["registers", "exception", "unwound"]
    assert functions(backtrace)[:3] == ["fault_handler", "settled", "begin"]
    assert backtrace.frames[1].address == pc


def test_a_frame_on_the_process_stack_needs_its_pointer(image: Image) -> None:
    memory = kept(image, exception_words(address_of(image, "settled"), 0xFFFFFFFF), STACK + 0x100)
    known = unwind(image, memory, entered(image, 0xFFFFFFFD, psp=STACK + 0x100))
    assert functions(known) == ["fault_handler", "settled"]
    unknown = unwind(image, memory, entered(image, 0xFFFFFFFD))
    assert functions(unknown) == ["fault_handler"]
    assert "process stack pointer" in unknown.ended
    unreadable = unwind(image, memory, entered(image, 0xFFFFFFFD, psp=STACK + 0x8000))
    assert "exception frame at 0x20008400 cannot be read" in unreadable.ended


def test_secure_code_interrupted_by_non_secure_keeps_its_registers_below(secure_image: Image) -> None:
    """Armv8-M ARM, PushCalleeStack(): signature, a reserved word, r4 to r11, then the frame."""
    image = secure_image
    pc = address_of(image, "settled")
    below = [0xFEFA125B, 0, *range(4, 12)]
    words = [*below, *exception_words(pc, 0xFFFFFFFF)]
    backtrace = unwind(image, kept(image, words), entered(image, 0xFFFFFFF8))
    assert [frame.address for frame in backtrace.frames if frame.found == "exception"] == [pc]
    assert image.has_security


def test_secure_floating_point_registers_may_be_stacked_as_well(secure_image: Image) -> None:
    """Armv8-M ARM, FPCCR.TS: s16 to s31 follow, 64 bytes more."""
    image = secure_image
    pc, begin = address_of(image, "settled"), return_address(image, "begin")
    rules = image.frame_rules((begin & ~1) - 1)
    assert rules is not None
    saved = [0] * (rules.cfa_offset // 4)
    saved[(rules.cfa_offset + rules.saved[14]) // 4] = return_address(image, "reset_handler")
    words = [*exception_words(pc, begin), *[0] * (72 // 4), *[0] * (64 // 4), *saved]
    control = (0xE000EF34, (1 << 26).to_bytes(4, "little"))
    memory = KeptMemory(image, [(STACK, struct.pack(f"<{len(words)}I", *words)), control])
    backtrace = unwind(image, memory, entered(image, 0xFFFFFFE9))
    assert functions(backtrace) == ["fault_handler", "settled", "begin", "reset_handler"]
    assert "scan" not in kinds(backtrace)


# ---- nothing may surprise it --------------------------------------------------------------------------------------


@given(words=st.lists(WORDS, max_size=200), registers=st.dictionaries(
    st.sampled_from([*UNWOUND_R, "sp", "lr", "pc", "psp", "xpsr", "cfsr"]), WORDS))  # fmt: skip
def test_garbage_gives_an_end(image: Image, words: list[int], registers: dict[str, int]) -> None:
    backtrace = unwind(image, kept(image, words), registers)
    assert len(backtrace.frames) <= MOST_FRAMES + 8
    assert all(frame.found in {"registers", "unwound", "inlined", "exception", "link-register", "scan"}
               for frame in backtrace.frames)  # fmt: skip


@given(data=st.data())
def test_plausible_garbage_gives_an_end(image: Image, data: st.DataObject) -> None:
    """Words that look like return addresses, exception returns and stack addresses."""
    calls = [at | 1 for at in range(0x40, 0x400, 2) if image.follows_call(at)]
    exits = [0xFFFFFFF1, 0xFFFFFFF9, 0xFFFFFFE9, 0xFFFFFFED, 0xFFFFFFFD, 0xFFFFFFFF]
    plausible = st.sampled_from([*calls, *exits, *range(STACK, STACK + 256, 4), 0x01000000])
    words = data.draw(st.lists(plausible, min_size=64, max_size=64))
    registers = {name: data.draw(plausible) for name in ("lr", "psp", "r7", "r11")}
    registers |= {"sp": STACK, "pc": data.draw(st.sampled_from(calls)) & ~1}
    assert len(unwind(image, kept(image, words), registers).frames) <= MOST_FRAMES + 8


# ---- memory -------------------------------------------------------------------------------------------------------


def test_neighbouring_pieces_are_one(image: Image) -> None:
    memory = KeptMemory(image, [(STACK + 6, b"ghij"), (STACK, b"abcdef")])
    assert memory.read(STACK + 4, 4) == b"efgh"
    assert memory.read(STACK + 8, 4) is None
    assert read_word(memory, STACK) == int.from_bytes(b"abcd", "little")
    code = image.read(image.entry, 2)
    assert code is not None
    assert memory.read(image.entry, 2) == code


def test_a_probe_is_asked_once_and_never_for_what_the_image_knows(image: Image) -> None:
    asked = []

    def read(address: int, size: int) -> bytes:
        asked.append((address, size))
        if address >= 0x30000000:
            raise EmulatorError("nothing is there")
        return bytes(size)

    memory = LiveMemory(image, read)
    memory.preload(STACK, 64)
    assert memory.read(STACK + 8, 4) == bytes(4)
    assert memory.read(STACK + 100, 4) == memory.read(STACK + 100, 4) == bytes(4)
    assert memory.read(0x30000000, 4) is None
    assert memory.read(0x30000000, 4) is None
    assert memory.read(image.entry, 4) is not None
    assert memory.read(0xFFFFFFFE, 4) is None
    assert asked == [(STACK, 64), (STACK + 100, 4), (0x30000000, 4)]


# ---- stacks -------------------------------------------------------------------------------------------------------


@given(used=st.integers(0, 256))
def test_high_water_is_what_was_written_over_the_paint(image: Image, used: int) -> None:
    words = [PAINT] * (256 - used) + [7] * used
    assert high_water(kept(image, words), Bounds("s", STACK, STACK + 1024)) == (None if used == 256 else 4 * used)


def test_high_water_counts_from_the_deepest_word(image: Image) -> None:
    words = [PAINT] * 4 + [1] + [PAINT] * 11
    assert high_water(kept(image, words), Bounds("s", STACK, STACK + 64)) == 48
    assert high_water(kept(image, words), Bounds("s", STACK, STACK + 68)) is None


@pytest.mark.parametrize(
    ("registers", "told", "pointer", "overflowed"),
    [
        ({"sp": 0x20000700}, 512, 0x20000700, False),
        ({"sp": 0x20001000, "psp": 0x20000700}, 512, 0x20000700, False),
        ({"sp": 0x20000700}, 2048 - GUARD_BYTES, 0x20000700, False),
        ({"sp": 0x20000700}, 2048 - GUARD_BYTES + 4, 0x20000700, True),
        ({"sp": 0x1FFFFFF8}, None, 0x1FFFFFF8, True),
        ({"sp": 0x20001000, "psp": 0x1FFFFF00}, None, 0x1FFFFF00, True),
        ({}, None, None, False),
    ],
)
def test_bounds_and_overflow(
    image: Image, registers: Mapping[str, int], told: int | None, pointer: int | None, overflowed: bool
) -> None:
    stack = image.variable("lab_stack")
    assert stack is not None
    assert (stack.address, stack.size) == (0x20000000, 2048)
    use = examine(image, kept(image, []), registers, told)[0]
    assert (use.low, use.high) == (0x20000000, 0x20000800)
    assert (use.pointer, use.high_water_bytes, use.overflowed) == (pointer, told, overflowed)


# ---- images -------------------------------------------------------------------------------------------------------


def test_what_is_no_image_for_a_microcontroller(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    for path, words in (
        (tmp_path / "none.elf", "cannot be read: No such file"),
        (tmp_path / "text", "is no ELF image"),
        (Path("/bin/true"), "is for EM_.*, not for a microcontroller"),
    ):
        with pytest.raises(ConfigError, match=words):
            Image(path)


def test_every_instruction_has_a_place_and_a_rule(image: Image) -> None:
    for function in image.functions:
        for address in range(function.address, function.end, 2):
            places = image.places(address)
            assert places[-1].function == function.name
            if ".c:" in places[0].line:
                assert image.frame_rules(address) is not None or function.name == "begin_on_process_stack"
