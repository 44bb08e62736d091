"""From the registers of a stopped core to the calls that led there.

Three ways to find a caller, best first: the image's call-frame information (DWARF 5, section 6.4); the link register,
for innermost code without any, such as a jump to nowhere; and a search of the stack for a return address, marked as
such, since it may be left over from a call that has long returned. Return addresses are believed only where a call
ends right before them. Exception frames: Armv7-M ARM B1.5.6; Armv8-M ARM, PushStack() and
PopStack().
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lab.errors import StackFrame
from lab.postmortem.fault_status import ExceptionReturn, exception_return
from lab.postmortem.image import ARM, FrameRules, Image
from lab.postmortem.memory import Memory, read_word

MOST_FRAMES = 64
_SCANNED_BYTES = 4096
_BASIC_FRAME_BYTES = 32
_FLOAT_FRAME_BYTES = 104
_CALLEE_SAVED_BYTES = 40
_SECURE_FLOAT_BYTES = 64
_PADDED = 1 << 9
_FPCCR = 0xE000EF34
_FPCCR_TREAT_AS_SECURE = 1 << 26
# What the link register holds at reset: nothing called this.
_AT_RESET = 0xFFFFFFFF
_STACKED = ("r0", "r1", "r2", "r3", "r12", "lr", "pc", "xpsr")


@dataclass(frozen=True)
class Backtrace:
    """Calls, innermost first.

    Attributes:
        frames: the calls.
        ended: why there are no more; empty where the last one is the first that ever ran.
    """

    frames: tuple[StackFrame, ...]
    ended: str = ""


@dataclass(frozen=True)
class _State:
    """The registers inside one frame.

    Attributes:
        registers: known values by name; ``pc`` is not among them.
        pc: the instruction that runs or is returned to; None where not known.
        found: as :class:`lab.errors.StackFrame`.
    """

    registers: Mapping[str, int]
    pc: int | None
    found: str

    @property
    def is_exact(self) -> bool:
        """Whether ``pc`` is the very instruction, not the one behind a call."""
        return self.found in ("registers", "exception")


def unwind(image: Image, memory: Memory, registers: Mapping[str, int]) -> Backtrace:
    """The backtrace of a stopped core.

    Args:
        image: what runs on it.
        memory: what can be read of its memory.
        registers: lower-case names; ``sp`` at least. ``psp`` is needed to get from a handler to code on the process
            stack. Without ``pc`` the stack is searched.
    """
    return _Unwinder(image, memory, registers).run()


class _Unwinder:
    def __init__(self, image: Image, memory: Memory, registers: Mapping[str, int]) -> None:
        self._image = image
        self._memory = memory
        self._psp = registers.get("psp")
        known = {name: value for name, value in registers.items() if name in image.machine.registers}
        known.pop("pc", None)
        self._start = _State(known, registers.get("pc"), "registers")
        self._frames: list[StackFrame] = []
        self._ended = ""

    def run(self) -> Backtrace:
        state: _State | None = self._start
        seen = set()
        while state is not None:
            place = (state.pc, state.registers.get(self._sp))
            if place in seen:
                self._ended = "the stack leads back to itself"
                break
            seen.add(place)
            if state.pc is not None:
                self._add(state, state.pc)
            if len(self._frames) >= MOST_FRAMES:
                self._ended = f"more than {MOST_FRAMES} calls"
                break
            state = self._caller(state)
        return Backtrace(tuple(self._frames), self._ended)

    @property
    def _sp(self) -> str:
        return self._image.machine.registers[self._image.machine.sp]

    @property
    def _ra(self) -> str:
        return self._image.machine.registers[self._image.machine.ra]

    def _add(self, state: _State, pc: int) -> None:
        places = self._image.places(pc if state.is_exact else pc - 1)
        for place in places[:-1]:
            self._frames.append(StackFrame(pc, place.function, place.line, "inlined"))
        function, line = (places[-1].function, places[-1].line) if places else ("", "")
        self._frames.append(StackFrame(pc, function, line, state.found))

    def _caller(self, state: _State) -> _State | None:
        """The frame a frame returns to; None, and the reason noted, where there is none."""
        if state.pc is not None and self._is_outermost(state.pc if state.is_exact else state.pc - 1):
            return None
        rules = None if state.pc is None else self._image.frame_rules(state.pc if state.is_exact else state.pc - 1)
        if rules is not None and not state.is_exact and self._image.machine.ra not in {*rules.saved, *rules.kept}:
            # It has called and not kept where to return to: start-up code, which never does.
            return None
        caller = None if rules is None else self._follow(rules, state)
        if caller is None and state.is_exact:
            caller = self._by_link_register(state)
        if caller is None:
            return self._by_search(state)
        address = caller.pc or 0
        returned = exception_return(address) if self._image.machine is ARM else None
        if returned is not None:
            return self._interrupted(caller, returned)
        if self._image.follows_call(address):
            return caller
        if address == _AT_RESET:
            return None
        return self._by_search(state)

    def _is_outermost(self, address: int) -> bool:
        function = self._image.function_at(address)
        return function is not None and function.address <= self._image.entry < function.end

    # ---- the ways to a caller --------------------------------------------------------------------------------

    def _follow(self, rules: FrameRules, state: _State) -> _State | None:
        names = self._image.machine.registers
        if rules.cfa_register >= len(names) or names[rules.cfa_register] not in state.registers:
            return None
        frame_end = state.registers[names[rules.cfa_register]] + rules.cfa_offset
        registers = dict(state.registers)
        for number, offset in rules.saved.items():
            if number >= len(names):
                continue
            value = read_word(self._memory, frame_end + offset)
            if value is None:
                registers.pop(names[number], None)
            else:
                registers[names[number]] = value
        for number, other in rules.kept.items():
            if number < len(names) and other < len(names) and names[other] in state.registers:
                registers[names[number]] = state.registers[names[other]]
        registers[self._sp] = frame_end
        address = registers.get(self._ra)
        return None if address is None else _State(registers, _branched_to(address), "unwound")

    def _by_link_register(self, state: _State) -> _State | None:
        address = state.registers.get(self._ra)
        if address is None:
            return None
        return replace(state, pc=_branched_to(address), found="link-register")

    def _by_search(self, state: _State) -> _State | None:
        start = state.registers.get(self._sp)
        if start is None:
            self._ended = "the stack pointer is not known"
            return None
        for address in range(start & ~3, (start & ~3) + _SCANNED_BYTES, 4):
            word = read_word(self._memory, address)
            if word is None:
                self._ended = f"what lies on the stack from {address:#010x} on is not known"
                return None
            # A return address has its Thumb bit.
            if (word & 1 or self._image.machine is not ARM) and self._image.follows_call(_branched_to(word)):
                registers = {**state.registers, self._sp: address + 4, self._ra: word}
                return _State(registers, _branched_to(word), "scan")
        self._ended = f"no return address in {_SCANNED_BYTES} bytes of stack from {start:#010x} on"
        return None

    # ---- exceptions ------------------------------------------------------------------------------------------

    def _interrupted(self, handler: _State, returned: ExceptionReturn) -> _State | None:
        """The code an exception interrupted, from its frame; ``handler`` has the registers the handler began with."""
        pointer = self._psp if returned.process_stack else handler.registers.get(self._sp)
        if pointer is None:
            self._ended = "the process stack pointer is not known, so what the exception interrupted is not either"
            return None
        registers = dict(handler.registers)
        if returned.callee_saved:
            for number in range(8):
                value = read_word(self._memory, pointer + 8 + 4 * number)
                if value is not None:
                    registers[f"r{4 + number}"] = value
            pointer += _CALLEE_SAVED_BYTES
        for index, name in enumerate(_STACKED):
            value = read_word(self._memory, pointer + 4 * index)
            if value is None:
                self._ended = f"the exception frame at {pointer:#010x} cannot be read"
                return None
            registers[name] = value
        status = registers.pop("xpsr")
        size = self._frame_bytes(returned) + (4 if status & _PADDED else 0)
        registers[self._sp] = pointer + size
        return _State(registers, registers.pop("pc"), "exception")

    def _frame_bytes(self, returned: ExceptionReturn) -> int:
        if not returned.float_frame:
            return _BASIC_FRAME_BYTES
        # Secure code may ask that s16 to s31 are kept out of reach, too (Armv8-M ARM, FPCCR.TS). Reserved before.
        control = read_word(self._memory, _FPCCR) or 0
        secure_float = _SECURE_FLOAT_BYTES if returned.secure and control & _FPCCR_TREAT_AS_SECURE else 0
        return _FLOAT_FRAME_BYTES + secure_float


def _branched_to(address: int) -> int:
    """The instruction a return address leads to. An EXC_RETURN is no address and stays as it is."""
    return address if address >= 0xFFFFFF00 else address & ~1
