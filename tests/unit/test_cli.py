"""The command line: what it prints, its exit status, and one message instead of a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from helpers import tiny_workload
from helpers.toolchain import needs_host_compiler
from hypothesis import given
from hypothesis import strategies as st

import lab.workloads
from lab.bench import Bench
from lab.cli import main
from lab.heard import split
from lab.inventory import Device as Entry
from lab.paths import config_dir
from lab.wire_frames import encode_frame
from lab.wire_messages import Message
from lab.workloads.base import Workload
from measurements.store import Store

BENCH = [device.name for device in Bench.load(config_dir() / "emulated.yaml").devices]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workload ``tiny`` beside the real ones."""
    monkeypatch.setattr(lab.workloads, "_REGISTRY", dict(lab.workloads._REGISTRY))
    tiny_workload.register()


def call(*arguments: str) -> Result:
    """The outcome of ``lab …``; anything but a plain exit is a traceback for the user."""
    result = CliRunner().invoke(main, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


pytestmark = pytest.mark.usefixtures("private_lab")


# devices, workloads, doctor


def test_devices_lists_the_bench_with_its_state() -> None:
    result = call("devices")
    assert result.exit_code == 0
    rows = {line.split()[0]: line for line in result.output.splitlines() if line}
    assert set(rows) == {"NAME", *BENCH, "bench:"}
    assert "mps2-an386" in rows["m4f"]
    assert "cortex-m7" in rows["m7"]
    assert "hardware" in rows["host"]
    assert rows["bench:"].endswith("device_configs/emulated.yaml")


def test_devices_says_why_one_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = call("devices")
    assert result.exit_code == 0
    (line,) = [line for line in result.output.splitlines() if line.startswith("m4f")]
    assert "apt-get install qemu-system-arm" in line


def test_devices_of_another_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = tmp_path / "mine.yaml"
    bench.write_text("devices:\n  here: {board: host}\n")
    assert "here" in call("--config", str(bench), "devices").output
    monkeypatch.setenv("LAB_CONFIG", str(bench))
    assert "here" in call("devices").output
    assert "m4f" in call("--config", str(config_dir() / "emulated.yaml"), "devices").output


@pytest.mark.parametrize("command", [("devices",), ("doctor",), ("run", "spoken-digits"), ("console", "m4f")])
def test_a_wrong_bench_is_one_message(tmp_path: Path, command: tuple[str, ...]) -> None:
    bench = tmp_path / "wrong.yaml"
    bench.write_text("devices:\n  here:\n    board: host\n    tagz: [a]\n")
    result = call("--config", str(bench), *command)
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {bench}:4:5: devices.here.tagz: unknown key 'tagz'; did you mean 'tags'?")


def test_workloads_lists_ids_with_titles() -> None:
    result = call("workloads")
    assert result.exit_code == 0
    table, _, lacking = result.output.partition("\n\n")
    rows = [line.split() for line in table.splitlines()]
    assert [row[0] for row in rows] == ["ID", *sorted(lab.workloads._REGISTRY)]
    partial = {one.id for one in lab.workloads.all_workloads() if one.missing}
    assert {row[0] for row in rows if "partial" in row} == partial
    assert {line.split(" lacks ")[0] for line in lacking.splitlines()} == partial


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("methods", "trainin"), "no method of a family 'trainin' has claims"),
        (("methods", "training", "--only", "sparse-updat"), "training has no method 'sparse-updat'"),
        (("methods", "training", "--device", "m99"), "m99"),
    ],
)
def test_methods_that_there_are_not_are_named(command: tuple[str, ...], told: str) -> None:
    result = call(*command)
    assert result.exit_code == 1
    assert told in result.output


def test_a_method_is_left_out_of_devices_of_other_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def run_everywhere(cells: list[tuple[Entry, Workload]], *_: object, **__: object) -> int:
        asked.extend((entry.name, method.id) for entry, method in cells)
        return 0

    monkeypatch.setattr("lab.commands.running.run_everywhere", run_everywhere)
    monkeypatch.setattr("lab.workloads.training.sparse_update.SparseUpdate.classes", ("mcu", "linux"))
    result = call("methods", "training", "--device", "m4f", "--device", "host", "--only", "sparse-update,tinytl")
    assert result.exit_code == 0
    assert asked == [("m4f", "sparse-update"), ("m4f", "tinytl"), ("host", "tinytl")]
    assert "host: left out: sparse-update runs on devices of class mcu, linux" in result.output


def test_doctor_fails_and_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = call("doctor")
    assert result.exit_code == 1
    lines = result.output.splitlines()
    place = next(number for number, line in enumerate(lines) if "QEMU for Arm" in line)
    assert lines[place].split()[0] == "MISSING"
    remedy = lines[place + 1].strip()
    assert remedy.startswith("-> apt-get install qemu-system-arm, or pip install 'hil-lab[emulate-pip]'")


def test_doctor_passes_where_nothing_needed_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from lab import doctor
    from lab.doctor import Finding

    found = [
        Finding("tools", "QEMU for Arm", "ok", "7.2"),
        Finding("tools", "clang", "off", "not installed", "apt-get install clang"),
        Finding("data", "store", "warning", "little room"),
    ]
    monkeypatch.setattr(doctor, "diagnose", lambda config: found)
    result = call("doctor")
    assert result.exit_code == 0
    assert [" ".join(line.split()) for line in result.output.splitlines() if line] == [
        "tools",
        "ok QEMU for Arm: 7.2",
        "off clang: not installed",
        "-> apt-get install clang",
        "data",
        "WARNING store: little room",
    ]


# run


def test_run_with_an_unknown_workload_is_one_message(private_lab: Path) -> None:
    result = call("run", "spoken-digit")
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        f"Error: there is no workload 'spoken-digit'; there are: {', '.join(sorted(lab.workloads._REGISTRY))}, "
        "and model files (.tflite, .onnx) by path",
        "  -> did you mean 'spoken-digits'?",
    ]
    assert not (private_lab / "store").exists()


def test_run_with_an_unknown_device_is_one_message() -> None:
    result = call("run", "spoken-digits", "--device", "m4")
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert f"unknown device 'm4'; did you mean 'm4f'? allowed: {', '.join(sorted(BENCH))}" in result.output


def test_run_takes_devices_named_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def run_everywhere(cells: list[tuple[Entry, Workload]], *_: object, **__: object) -> int:
        asked.extend(entry.name for entry, _ in cells)
        return 0

    monkeypatch.setattr("lab.commands.running.run_everywhere", run_everywhere)
    for named in (("--device", "m7", "--device", "m4f"), ("--device", "m4f,m7")):
        asked.clear()
        assert call("run", "spoken-digits", *named).exit_code == 0
        assert asked == ["m4f", "m7"]


@pytest.mark.parametrize("option", ["--repeats=0", "--samples=0", "--repeats=x"])
def test_wrong_usage_has_status_2(option: str) -> None:
    assert call("run", "spoken-digits", option).exit_code == 2


@pytest.mark.usefixtures("tiny")
def test_a_device_without_a_meter_gives_no_energy(private_lab: Path) -> None:
    done = call("run", "tiny", "--device", "host", "--energy", "1")
    assert done.exit_code == 1
    assert done.output == "host: skipped: it has no meter, and --energy asks for energy\n"
    assert not list(private_lab.glob("store/traces/*"))


@pytest.mark.usefixtures("no_tools_of_pip")
def test_run_without_tools_says_why_it_skips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = call("run", "spoken-digits", "--device", "m4f")
    assert result.exit_code == 1
    assert result.output.startswith("m4f: skipped: ")
    assert "cmake is not installed: apt-get install cmake" in result.output
    assert "report:" not in result.output


@needs_host_compiler
@pytest.mark.usefixtures("tiny")
def test_run_measures_stores_and_reports(private_lab: Path) -> None:
    result = call("run", "tiny", "--device", "host", "--repeats", "2", "--samples", "3")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert "host: tiny passed" in lines
    latency = next(line.split() for line in lines if line.split()[:2] == ["inference", "latency"])
    assert latency[-2:] == ["n=6", "hardware"]
    page = Path(next(line.removeprefix("report: ") for line in lines if line.startswith("report: ")))
    assert page.is_file()
    assert page.is_relative_to(private_lab / "reports")
    with Store(private_lab / "store") as store:
        (run,) = store.runs()
    assert (run.status, run.test, run.session_id) == ("passed", "", page.parent.name)


@needs_host_compiler
@pytest.mark.usefixtures("tiny")
def test_a_run_that_fails_is_told_stored_and_reported(private_lab: Path) -> None:
    result = call("run", "tiny", "--device", "host", "--variant", "refused")
    assert result.exit_code == 1
    assert "host: accuracy 0.1 is below its floor of 0.9" in result.output
    assert "report: " in result.output
    with Store(private_lab / "store") as store:
        assert [run.status for run in store.runs()] == ["failed"]


@needs_host_compiler
@pytest.mark.usefixtures("tiny")
def test_a_variant_that_does_not_exist_makes_no_run(private_lab: Path) -> None:
    result = call("run", "tiny", "--device", "host", "--variant", "huge")
    assert result.exit_code == 1
    assert "host: tiny has no variant 'huge'" in result.output
    assert "report: " not in result.output


# report


def test_a_report_of_nothing(private_lab: Path) -> None:
    result = call("report")
    assert result.exit_code == 1
    assert result.output == f"Error: {private_lab / 'store'} holds no runs yet\n"
    assert call("report", "--list").output.split() == ["SESSION", "RUN", "DEVICE", "WORKLOAD", "STATUS"]


@needs_host_compiler
@pytest.mark.usefixtures("tiny")
def test_reports_are_written_again_from_the_store(private_lab: Path) -> None:
    for _ in range(2):
        assert call("run", "tiny", "--device", "host", "--samples", "1").exit_code == 0
    listed = call("report", "--list")
    rows = [line.split() for line in listed.output.splitlines()[1:]]
    assert [row[2:] for row in rows] == [["host", "tiny", "passed"]] * 2
    sessions = [row[0] for row in rows]
    assert len(set(sessions)) == 2
    for page in (private_lab / "reports").glob("*/index.html"):
        page.unlink()
    latest = private_lab / "reports" / sessions[1] / "index.html"
    assert call("report").output.strip().splitlines()[-1] == f"report: {latest}"
    assert latest.is_file()
    first = private_lab / "reports" / sessions[0] / "index.html"
    assert f"report: {first}" in call("report", sessions[0]).output
    assert first.is_file()
    unknown = call("report", "19990101")
    assert unknown.exit_code == 1
    assert "holds no runs of session '19990101'; `lab report --list` names them" in unknown.output


def test_a_broken_store_is_one_message(private_lab: Path) -> None:
    (private_lab / "store").write_text("no store")
    result = call("report")
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert str(private_lab / "store") in result.output


# console


def test_console_of_a_device_without_one() -> None:
    result = call("console", "host")
    assert result.exit_code == 1
    assert "'host' has no console: neither emulated nor serial" in result.output


def test_console_of_an_unknown_device() -> None:
    result = call("console", "hoost")
    assert result.exit_code == 1
    assert "unknown device 'hoost'; did you mean 'host'?" in result.output


_MESSAGE: Message = {"t": "hello", "board": "host", "n": 3}


def test_split_shows_frames_as_json() -> None:
    frame = encode_frame(_MESSAGE)
    assert split(frame) == ([json.dumps(_MESSAGE)], b"")
    assert split(b"\x00" + frame + b"\x00\x00" + frame[:5]) == ([json.dumps(_MESSAGE)], frame[:5])


def test_split_shows_bytes_by_their_length() -> None:
    (line,), _ = split(encode_frame({"t": "result", "d": bytes(17)}))
    assert json.loads(line) == {"t": "result", "d": "17 bytes"}


def test_split_shows_whole_lines_of_text_at_once() -> None:
    assert split(b"booting\r\nclock ok\nhal") == (["booting", "clock ok"], b"hal")
    assert split(b"no line yet") == ([], b"no line yet")


def test_split_shows_what_is_no_frame_as_text() -> None:
    damaged = bytearray(encode_frame(_MESSAGE))
    damaged[4] ^= 0x10
    lines, rest = split(bytes(damaged) + encode_frame(_MESSAGE))
    assert lines[-1] == json.dumps(_MESSAGE)
    assert len(lines) > 1
    assert rest == b""
    assert split(b"panic!\x00") == (["panic!"], b"")


def test_split_keeps_a_frame_that_holds_a_newline_until_it_is_whole() -> None:
    frame = encode_frame({"t": "log", "m": "two\nlines", "x": 200})
    assert b"\n" in frame
    for cut in range(len(frame)):
        assert split(frame[:cut]) == ([], frame[:cut])


@given(
    st.lists(
        st.one_of(
            st.dictionaries(st.text("abc", min_size=1), st.integers(0, 2**32), min_size=1, max_size=3),
            st.text("xyz ", min_size=1, max_size=5).filter(str.strip),
        ),
        max_size=6,
    ),
    st.data(),
)
def test_split_shows_the_same_however_the_bytes_come(messages: list[Message | str], data: st.DataObject) -> None:
    stream = b"".join(
        one.encode() + b"\x00" if isinstance(one, str) else encode_frame(one) for one in messages
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    shown: list[str] = []
    pending = b""
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        lines, pending = split(pending + stream[begin:end])
        shown += lines
    assert shown == split(stream)[0]
    assert pending == b""
