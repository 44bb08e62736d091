"""What the messages of the runner protocol say; ``docs/wire.md`` is the specification."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import cast

from lab.errors import Crash, CrashReport, DeviceError, OutOfMemory, ProtocolError, WorkloadError
from lab.events import ClockKind, Done, Event, Hello, LogEvent, MetricEvent, RegionEvent, ResultEvent
from lab.printable import printable

_PASS = struct.Struct("<II")
_BAUD = struct.Struct("<I")

Value = int | float | str | bytes | bool | None | Mapping[str, int]
Message = Mapping[str, Value]


def tells_of_a_fault(message: Mapping[str, Value]) -> bool:
    """Whether a frame may follow a gap: a fault cuts off the frame that was being sent, and ends the job anyway."""
    kind = message.get("t")
    return kind == "stack" or (kind == "error" and message.get("p") == "fault")


def integer_field(message: Mapping[str, Value], key: str) -> int:
    """A number of at least 0.

    Raises:
        ProtocolError: it is missing or something else.
    """
    value = message.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ProtocolError(f"frame {message.get('t')!r}: {key!r} is {value!r}, expected a number of at least 0")
    return value


def _text_field(message: Mapping[str, Value], key: str) -> str:
    value = message.get(key)
    if not isinstance(value, str):
        raise ProtocolError(f"frame {message.get('t')!r}: {key!r} is {value!r}, expected text")
    return printable(value)


def bytes_field(message: Mapping[str, Value], key: str) -> bytes:
    """A byte string.

    Raises:
        ProtocolError: it is missing or something else.
    """
    value = message.get(key)
    if not isinstance(value, bytes):
        raise ProtocolError(f"frame {message.get('t')!r}: {key!r} is {value!r}, expected bytes")
    return value


def parse_hello(message: Mapping[str, Value]) -> Hello:
    """What a device says of itself.

    Raises:
        ProtocolError: a field is missing or makes no sense.
    """
    kind = _text_field(message, "k")
    if kind not in ("dwt", "systick", "cntvct", "monotonic", "virtual"):
        raise ProtocolError(f"the device names an unknown clock kind {kind!r}")
    if integer_field(message, "h") == 0:
        raise ProtocolError("frame 'hello': 'h' is 0, expected the rate of the clock in Hz")
    return Hello(
        protocol=integer_field(message, "v"),
        build_id=_text_field(message, "b"),
        board=_text_field(message, "d"),
        clock=cast(ClockKind, kind),
        clock_hz=integer_field(message, "h"),
        mtu=integer_field(message, "u"),
        credits=integer_field(message, "cr"),
        blob_address=integer_field(message, "ba"),
        blob_bytes=integer_field(message, "bs"),
        arena_bytes=integer_field(message, "ar"),
        stack_bytes=integer_field(message, "st"),
        model=_text_field(message, "mo"),
        baud_rates=_parse_baud_rates(message),
    )


def _parse_baud_rates(message: Mapping[str, Value]) -> tuple[int, ...]:
    packed = bytes_field(message, "br") if "br" in message else b""
    if len(packed) % _BAUD.size:
        raise ProtocolError(f"frame 'hello': 'br' has {len(packed)} bytes, expected a multiple of {_BAUD.size}")
    return tuple(baud for (baud,) in _BAUD.iter_unpack(packed))


def parse_event(message: Mapping[str, Value]) -> Event | None:
    """The event of a message that is one; None of any other.

    Raises:
        ProtocolError: a field is missing or makes no sense.
    """
    match message.get("t"):
        case "event":
            begin, end = integer_field(message, "b"), integer_field(message, "e")
            if end < begin:
                raise ProtocolError(f"frame 'event': 'e' is {end}, before 'b' {begin}")
            passes = integer_field(message, "c") if "c" in message else 1
            return RegionEvent(_text_field(message, "r"), integer_field(message, "i"), begin, end, passes)
        case "metric":
            return parse_metric(message)
        case "result":
            return ResultEvent(integer_field(message, "i"), bytes_field(message, "d"), _optional_name(message))
        case "log":
            return LogEvent(_text_field(message, "m"))
        case "done":
            numbers = [integer_field(message, key) for key in ("y", "a", "c", "n", "x")]
            return Done(*numbers)
        case _:
            return None


def parse_passes(message: Mapping[str, Value]) -> Iterator[Event]:
    """Passes that share a frame, each followed by its result where there are results."""
    passes, results = bytes_field(message, "p"), bytes_field(message, "d") if "d" in message else b""
    count, rest = divmod(len(passes), _PASS.size)
    if count == 0 or rest or len(results) % count:
        raise ProtocolError(
            f"frame 'events': 'p' has {len(passes)} bytes and 'd' {len(results)}, which is no whole number of passes"
        )
    region, first, end = _text_field(message, "r"), integer_field(message, "i"), integer_field(message, "b")
    size = len(results) // count
    for number, (gap, cycles) in enumerate(_PASS.iter_unpack(passes)):
        begin = end + gap
        end = begin + cycles
        yield RegionEvent(region, first + number, begin, end)
        if size:
            yield ResultEvent(first + number, results[number * size : (number + 1) * size])


def parse_metric(message: Mapping[str, Value]) -> MetricEvent:
    """A named figure.

    Raises:
        ProtocolError: a field is missing or makes no sense.
    """
    value = message.get("v")
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ProtocolError(f"frame {message.get('t')!r}: 'v' is {value!r}, expected a number")
    return MetricEvent(_text_field(message, "n"), float(value))


def _optional_name(message: Mapping[str, Value]) -> str:
    return _text_field(message, "n") if "n" in message else ""


def join_result(message: Mapping[str, Value], partial: dict[int, bytearray]) -> ResultEvent | None:
    """Collect a result that comes in several frames; the result once it is whole."""
    index, offset, total = (integer_field(message, key) for key in ("i", "o", "z"))
    so_far = partial.setdefault(index, bytearray())
    if offset != len(so_far):
        raise ProtocolError(f"result {index}: a piece at offset {offset} came after {len(so_far)} bytes")
    so_far += bytes_field(message, "d")
    if len(so_far) > total:
        raise ProtocolError(f"result {index}: {len(so_far)} bytes came, {total} were announced")
    if len(so_far) < total:
        return None
    return ResultEvent(index, bytes(partial.pop(index)), _optional_name(message))


def check_joined(partial: Mapping[int, bytearray]) -> None:
    """Refuse an end of a job that came before the last piece of a result.

    Raises:
        ProtocolError: a result is not whole.
    """
    for index, so_far in partial.items():
        raise ProtocolError(f"result {index}: the job ended after {len(so_far)} bytes of it")


def _parse_report(message: Mapping[str, Value], stack: tuple[tuple[int, bytes], ...]) -> CrashReport:
    registers = message.get("g")
    pairs = registers.items() if isinstance(registers, Mapping) else ()
    found = {printable(str(name)): value for name, value in pairs if isinstance(value, int)}
    high_water = integer_field(message, "y") if "y" in message else None
    region = printable(str(message.get("r", "")))
    return CrashReport(found, region=region, memory=stack, stack_high_water_bytes=high_water)


def parse_error(
    message: Mapping[str, Value], stack: tuple[tuple[int, bytes], ...] = ()
) -> DeviceError | WorkloadError:
    """The error that a device reports, with the stack that it sent before."""
    code, text, place = str(message.get("c")), str(message.get("m", "")), str(message.get("p", ""))
    where = f" at {place}" if place else ""
    said = f"the device reported {code!r}{where}: {text}"
    if code == "crash":
        return Crash(said, report=_parse_report(message, stack))
    if code == "overflow":
        hint = "more stack or a larger arena, or a smaller model"
        return OutOfMemory(said, hint=hint, report=_parse_report(message, stack))
    if code == "nan":
        return WorkloadError(said, hint="a smaller learning rate, or samples of a smaller scale")
    return ProtocolError(said)
