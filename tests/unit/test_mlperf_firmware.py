"""The MLPerf Tiny personality as a sanitized process: every reply against a model of the protocol written apart."""

from __future__ import annotations

import ctypes
import re
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lab.build import MlperfMode, MlperfModel, build
from lab.compiler.model import CompiledModel, LayerInfo, TensorSpec
from lab.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
TINY_MODEL = ROOT / "tests" / "data" / "tiny_model"
VALUES = 64
BUFFER_BYTES = 96 * 96 * 3
MOST_INFERENCES = 10_000_000
# As in tests/data/tiny_model/model.c.
OFFSETS = np.concatenate([np.arange(8), np.zeros(56, np.int64)]).astype(np.uint8)
OUTPUT_SCALE, OUTPUT_ZERO = np.float32(1 / 256), -128
INPUT_SCALE, INPUT_ZERO = np.float32(0.25), -3


def tiny_model(input_values: int = VALUES, output_values: int = VALUES) -> CompiledModel:
    sources = {path.name: path.read_text() for path in TINY_MODEL.iterdir()}
    source, output = TensorSpec((input_values,), 0.25, -3), TensorSpec((output_values,), 1 / 256, -128)
    layer = LayerInfo("all", "elementwise", 64, 0, (64,), (64,))
    return CompiledModel("tiny", sources, source, output, (layer,), (), 96, 64, "0" * 64)


def network(tensor: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.int8]]:
    """What the tiny model computes."""
    return ((np.frombuffer(tensor, np.uint8) ^ 0x55) + OFFSETS).view(np.int8)


class Line:
    """The process's standard input and output."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._input, self._output = process.stdin, process.stdout

    def read(self) -> list[str]:
        """Lines up to and with ``m-ready``, byte for byte."""
        lines: list[str] = []
        while not lines or lines[-1] != "m-ready":
            line = self._output.readline()
            assert line.endswith(b"\r\n"), line
            lines.append(line[:-2].decode("ascii"))
        return lines

    def command(self, text: bytes) -> list[str]:
        self.send(text + b"%")
        return self.read()

    def send(self, data: bytes) -> None:
        self._input.write(data)
        self._input.flush()

    def close(self) -> None:
        self._input.close()


@contextmanager
def running(cache: Path, model: MlperfModel, mode: MlperfMode = "performance") -> Iterator[Line]:
    image = build(
        tiny_model(),
        "host",
        cache=cache,
        sanitize="address,undefined",
        personality="mlperf",
        mlperf_mode=mode,
        mlperf_model=model,
    )
    process = subprocess.Popen([image.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        line = Line(process)
        start = line.read()
        laps = [int(entry.removeprefix("m-lap-us-")) for entry in start[1:-2]]
        assert len(laps) == (mode == "performance")
        assert [start[0], *start[-2:]] == [f"m-timestamp-mode-{mode}", "m-init-done", "m-ready"]
        yield line
        line.close()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def cache(shared_cache: Path) -> Path:
    return shared_cache


# ---- the protocol, command by command -------------------------------------------------------------------------------


class Model:
    """What docs/mlperf.md says a device answers; kws01 on the tiny model."""

    def __init__(self) -> None:
        self.announced = 0
        self.data = b""
        self.result: str | None = None

    def answer(self, command: bytes) -> list[str]:
        """Lines before ``m-ready``; a timestamp is ``m-lap-us-*``."""
        if len(command) > 80:
            return ["e-[a command has at most 80 characters]"]
        text = command.replace(b"\0", b"?").decode("latin-1")
        words = [word for word in text.split(" ") if word]
        if not words:
            return ["e-[empty command]"]
        name, rest = words[0], words[1:]
        if name in {"name", "profile", "timestamp", "results", "help"}:
            return self._plain(name) if not rest else [f"e-[too many words after '{name}']"]
        if name in {"db", "infer"} and len(rest) > 3:
            return [f"e-[too many words after '{name}']"]
        if name == "db":
            return self._db(rest)
        if name == "infer":
            return self._infer(rest)
        return [f"e-[unknown command '{quoted(name)}']"]

    def _plain(self, name: str) -> list[str]:
        results = [self.result] if self.result else ["e-[no inference has run since the last load]"]
        return {
            "name": ["m-name-dut-[hil-lab host]"],
            "profile": ["m-profile-[ULPMark for tinyML Firmware V0.0.1]", "m-model-[kws01]"],
            "timestamp": ["m-lap-us-*"],
            "results": results,
            "help": ["*"] * 4,
        }[name]

    def _db(self, rest: list[str]) -> list[str]:
        if len(rest) == 2 and rest[0] == "load":
            return self._load(rest[1])
        if rest == ["print"]:
            lines = [self.data[at : at + 8] for at in range(0, len(self.data), 8)]
            return ["m-buffer-" + "-".join(f"{byte:02x}" for byte in line) for line in lines]
        if len(rest) != 1 or rest == ["load"]:
            return ["e-[db takes 'load N', 'print' or hex digits]"]
        digits = rest[0]
        if not re.fullmatch("[0-9a-fA-F]*", digits):
            return [f"e-[not all hex digits: '{quoted(digits)}']"]
        if len(digits) % 2:
            return ["e-[odd number of hex digits]"]
        left = self.announced - len(self.data)
        if len(digits) // 2 > left:
            return [f"e-[{left} bytes are expected, these are {len(digits) // 2}]"]
        self.data += bytes.fromhex(digits)
        return ["m-load-done"] if len(self.data) == self.announced else []

    def _load(self, count: str) -> list[str]:
        if not re.fullmatch("[0-9]+", count) or not 1 <= int(count) <= BUFFER_BYTES:
            return [f"e-[db load takes a number from 1 to {BUFFER_BYTES}]"]
        self.announced, self.data, self.result = int(count), b"", None
        return [f"m-[Expecting {int(count)} bytes]"]

    def _infer(self, rest: list[str]) -> list[str]:
        numbers = [int(word) for word in rest if re.fullmatch("[0-9]+", word)]
        if len(rest) != 2 or len(numbers) != 2 or numbers[0] < 1 or max(numbers) > MOST_INFERENCES:
            return [f"e-[infer takes N from 1 and W from 0, both to {MOST_INFERENCES}]"]
        if (self.announced, len(self.data)) != (VALUES, VALUES):
            return [f"e-[infer needs {VALUES} bytes, {len(self.data)} of {self.announced} are loaded]"]
        scores = (network(self.data).astype(np.int32) - OUTPUT_ZERO) * float(OUTPUT_SCALE)
        self.result = "m-results-[" + ",".join(f"{score:.3f}" for score in scores) + "]"
        start, laps = f"m-infer-start-{numbers[0]}", ["m-lap-us-*", "m-lap-us-*"]
        return [f"m-warmup-start-{numbers[1]}", "m-warmup-done", start, *laps, "m-infer-done", self.result]


def quoted(word: str) -> str:
    return "".join(character if " " <= character <= "~" else "?" for character in word)


def matches(lines: list[str], expected: list[str]) -> bool:
    patterns = [re.escape(line).replace(r"\*", ".+") for line in [*expected, "m-ready"]]
    return len(lines) == len(patterns) and all(map(re.fullmatch, patterns, lines))


_numbers = st.one_of(st.integers(0, 70), st.integers(0, 2**70), st.sampled_from([27648, 27649, 10_000_001])).map(str)
_hex = st.binary(min_size=0, max_size=38).map(bytes.hex)
_commands = st.one_of(
    st.sampled_from(["name", "profile", "timestamp", "results", "help", "db", "db load", "db print", "infer", ""]),
    st.just(f"db load {VALUES}"),
    st.builds("db load {}".format, _numbers),
    st.builds("db {}".format, _hex),
    st.binary(min_size=32, max_size=32).map(lambda data: f"db {data.hex().upper()}"),
    st.builds("infer {} {}".format, st.integers(0, 20), st.integers(0, 5)),
    st.builds("infer {} 0".format, _numbers.filter(lambda text: not 0 < int(text) <= MOST_INFERENCES)),
    st.builds("infer 1 {}".format, _numbers.filter(lambda text: not 70 < int(text) <= MOST_INFERENCES)),
    st.sampled_from(["infer 1 -1", "infer +1 0", "infer 1", "infer 1 0 0", "infer one 0", "infer 1.0 0"]),
    st.builds("db {}".format, st.text("0123456789abcdefxyz", min_size=1, max_size=30)),
    st.text(st.characters(max_codepoint=255, exclude_characters="%"), max_size=90),
    st.lists(st.sampled_from(["db", "load", "print", "infer", "1", "00", ""]), max_size=7).map(" ".join),
    st.integers(75, 200).map(lambda length: "x" * length),
)


@pytest.fixture(scope="module")
def device(cache: Path) -> Iterator[Line]:
    with running(cache, "kws01") as line:
        yield line


@pytest.fixture(scope="module")
def expected() -> Model:
    """Lives as long as the device: each example goes on where the one before it ended."""
    return Model()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(commands=st.lists(_commands, min_size=1, max_size=12))
@example(commands=["infer 1 0", f"db load {VALUES}", "db " + "7f" * 32, "infer 1 0", "db " + "80" * 33])
@example(commands=[f"db load {VALUES}", "db " + "7f" * 32, "db " + "80" * 32, "infer 2 1", "results", "db 00"])
@example(commands=["x" * 80, "x" * 81, "db 0 0 0 0 0", "\x00\x7f\xff"])
def test_every_reply_is_what_the_description_says(device: Line, expected: Model, commands: list[str]) -> None:
    for command in commands:
        sent = command.encode("latin-1")
        lines = device.command(sent)
        wanted = expected.answer(sent)
        assert matches(lines, wanted), (command, lines, wanted)


def test_a_command_may_arrive_in_any_pieces_and_many_at_once(device: Line, expected: Model) -> None:
    together = [b"db load 3", b"db 010203", b"db print"]
    device.send(b"".join(command + b"%" for command in together))
    for command in together:
        assert matches(device.read(), expected.answer(command))


def test_timestamps_never_go_back(device: Line) -> None:
    laps = [int(device.command(b"timestamp")[0].removeprefix("m-lap-us-")) for _ in range(50)]
    assert laps == sorted(laps)


def test_in_energy_mode_a_timestamp_is_no_line(cache: Path) -> None:
    with running(cache, "kws01", "energy") as line:
        assert line.command(b"timestamp") == ["m-ready"]
        line.command(f"db load {VALUES}".encode())
        line.command(b"db " + b"00" * 32)
        line.command(b"db " + b"00" * 32)
        lines = line.command(b"infer 2 1")
    assert lines[:4] == ["m-warmup-start-1", "m-warmup-done", "m-infer-start-2", "m-infer-done"]
    assert len(lines) == 6


# ---- inputs and results of the benchmarks ---------------------------------------------------------------------------


def infer(line: Line, data: bytes) -> list[str]:
    """Texts of the results."""
    assert line.command(f"db load {len(data)}".encode()) == [f"m-[Expecting {len(data)} bytes]", "m-ready"]
    for at in range(0, len(data), 31):
        line.command(b"db " + data[at : at + 31].hex().encode())
    return line.command(b"infer 1 0")[-2].removeprefix("m-results-[").removesuffix("]").split(",")


@pytest.mark.parametrize("model", ["ic01", "vww01"])
def test_pixels_are_taken_less_128(cache: Path, model: MlperfModel) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(4, VALUES)
    with running(cache, model) as line:
        results = [infer(line, row.tobytes()) for row in pixels]
    tensors = (pixels.astype(np.int16) - 128).astype(np.int8)
    wanted = [[f"{(int(q) + 128) / 256:.3f}" for q in network(row.tobytes())] for row in tensors]
    assert results == wanted


def reference_error(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> np.float32:
    """Quantise as C's round() does (halves away from zero), run, mean square error in float32, in order."""
    with np.errstate(all="ignore"):
        level = values / INPUT_SCALE
        rounded = np.copysign(np.floor(np.abs(level) + np.float32(0.5)), level) + INPUT_ZERO
        clipped = np.where(rounded >= 127, 127, np.where(rounded > -128, rounded, -128))
        output = (network(clipped.astype(np.int8).tobytes()).astype(np.int32) - OUTPUT_ZERO).astype(np.float32)
        difference = output * OUTPUT_SCALE - values
        total = np.float32(0)
        for one in difference:
            total = np.float32(total + one * one)
        return np.float32(total / np.float32(VALUES))


@pytest.fixture(scope="module")
def anomaly(cache: Path) -> Iterator[Line]:
    with running(cache, "ad01") as line:
        yield line


# Quarters and eighths: no case in which floor(x + 0.5) in float32 differs from round().
_reals = st.one_of(st.integers(-400, 400).map(lambda n: n / 8), st.sampled_from([3e4, -3e4, 1e30, -1e38]))


@settings(max_examples=40, deadline=None)
@given(values=st.lists(_reals, min_size=VALUES, max_size=VALUES))
def test_ad01_takes_float32_and_answers_the_mean_square_error(anomaly: Line, values: list[float]) -> None:
    array = np.array(values, "<f4")
    wanted = reference_error(array)
    text = "inf" if not wanted < 2.0**54 else f"{float(wanted):.3f}"
    assert infer(anomaly, array.tobytes()) == [text]


def test_ad01_survives_what_is_no_number(anomaly: Line) -> None:
    assert infer(anomaly, struct.pack("<64f", *[float("nan"), float("inf"), float("-inf")] + [0.0] * 61)) == ["nan"]
    assert infer(anomaly, struct.pack("<64f", *[float("inf")] + [0.0] * 63)) == ["inf"]


@pytest.mark.parametrize(
    ("model", "compiled", "message"),
    [
        ("kws01", tiny_model(BUFFER_BYTES + 1), "buffer has 27648"),
        ("ad01", tiny_model(BUFFER_BYTES // 4 + 1, BUFFER_BYTES // 4 + 1), "buffer has 27648"),
        ("ad01", tiny_model(64, 10), "64 inputs and 10 outputs"),
    ],
)
def test_a_model_that_cannot_be_fed_is_refused(
    cache: Path, model: MlperfModel, compiled: CompiledModel, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(compiled, "host", cache=cache, personality="mlperf", mlperf_model=model)


def test_there_are_no_test_jobs(cache: Path) -> None:
    with pytest.raises(ConfigError, match="belong to the runner"):
        build(tiny_model(), "host", cache=cache, personality="mlperf", test_jobs=True)


# ---- numbers --------------------------------------------------------------------------------------------------------

_Writer = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_uint8), ctypes.c_size_t)


class Text:
    """text.c, loaded into this process."""

    def __init__(self, folder: Path) -> None:
        stub = folder / "stub.c"
        stub.write_text(
            '#include "port.h"\n'
            "void (*writer)(const uint8_t *, size_t);\n"
            "void port_write(const uint8_t *bytes, size_t count) { writer(bytes, count); }\n"
        )
        library = folder / "libtext.so"
        firmware = ROOT / "firmware"
        includes = [f"-I{firmware / name}" for name in ("mlperf", "runner")]
        flags = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", *includes]
        subprocess.run(["gcc", *flags, stub, firmware / "mlperf" / "text.c", "-o", library], check=True)
        self._c = ctypes.CDLL(str(library))
        self._c.text_real.argtypes = (ctypes.c_float,)
        self._c.text_uint.argtypes = (ctypes.c_uint64,)
        self._written = b""
        self._writer = _Writer(self._take)
        ctypes.c_void_p.in_dll(self._c, "writer").value = ctypes.cast(self._writer, ctypes.c_void_p).value

    def _take(self, data: ctypes._Pointer[ctypes.c_uint8], count: int) -> None:
        self._written += bytes(data[:count])

    def _line(self) -> str:
        self._c.text_line()
        text, self._written = self._written.decode(), b""
        assert text.endswith("\r\n")
        return text[:-2]

    def real(self, value: float) -> str:
        self._c.text_real(value)
        return self._line()

    def whole(self, value: int) -> str:
        self._c.text_uint(value)
        return self._line()

    def long(self, text: str) -> str:
        self._c.text_string(text.encode())
        return self._line()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Text:
    return Text(tmp_path_factory.mktemp("text"))


@settings(max_examples=3000, deadline=None)
@given(value=st.floats(width=32, allow_nan=False, max_value=2.0**53, min_value=-(2.0**53)))
@example(value=0.0005)
@example(value=0.0625)
@example(value=0.1875)
@example(value=-0.0)
@example(value=0.99951171875)
@example(value=2.0**53)
def test_reals_are_rounded_as_printf_does(text: Text, value: float) -> None:
    """Python's own formatting of the exact value is the reference; both round exact halves to even."""
    assert text.real(value) == f"{value:.3f}"


@settings(max_examples=2000, deadline=None)
@given(eighths=st.integers(0, 2**20), power=st.integers(4, 12))
def test_reals_with_exact_halves(text: Text, eighths: int, power: int) -> None:
    value = float(np.float32(eighths / 2**power))
    assert text.real(value) == f"{value:.3f}"


def test_every_score_of_an_int8_output(text: Text) -> None:
    scores = [np.float32(1 / 256) * np.float32(level) for level in range(256)]
    assert [text.real(score) for score in scores] == [f"{float(score):.3f}" for score in scores]


def test_reals_beyond_all_use(text: Text) -> None:
    assert text.real(float("nan")) == "nan"
    assert [text.real(2.0**54), text.real(-(2.0**60)), text.real(float("inf"))] == ["inf", "-inf", "inf"]
    assert text.real(2.0**53) == "9007199254740992.000"


@given(value=st.integers(0, 2**64 - 1))
@example(value=2**64 - 1)
@example(value=0)
def test_whole_numbers(text: Text, value: int) -> None:
    assert text.whole(value) == str(value)


@given(length=st.integers(0, 700))
def test_lines_of_any_length(text: Text, length: int) -> None:
    long = "0123456789" * 70
    assert text.long(long[:length]) == long[:length]
