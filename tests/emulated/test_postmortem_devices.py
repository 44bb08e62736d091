"""Crashes, hangs and overflows as users meet them: on emulated devices, with the whole post-mortem in the error."""

from __future__ import annotations

import html
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import tiny_workload
from helpers.toolchain import SAMPLE_BYTES, built, machine_of, model_of, needs_qemu, tiny_model

from lab.artifact import Artifact
from lab.cli import main
from lab.devices.base import Identity
from lab.devices.emulated_mcu import EmulatedTarget, qemu_target
from lab.devices.mcu import Mcu
from lab.errors import Crash, CrashReport, DeviceError, EmulatorError, Hang, OutOfMemory, StackUse
from lab.events import Job
from lab.paths import cache_dir, config_dir, reports_dir, store_dir
from lab.postmortem.capture import examine_core
from lab.postmortem.image import Image
from measurements.store import Store

pytestmark = needs_qemu

USERS_CACHE = cache_dir()
# What calls a job, outermost last; inlined or not is the compiler's business.
CALLERS = ["handle_run", "handle", "session_receive", "lab_main", "run_on_process_stack"]
BOARDS = ("mps2-an386", "mps3-an547", "microbit")


@contextmanager
def deployed(board: str, artifact: Artifact) -> Iterator[tuple[Mcu, EmulatedTarget]]:
    target = qemu_target(machine_of(board))
    device = Mcu(Identity("m", board, "emulated", "QEMU", frozenset()), target)
    try:
        device.deploy(artifact)
        yield device, target
    finally:
        device.close()


def failure(
    board: str, job: Job, artifact: Artifact | None = None, silence_s: float = 60.0
) -> tuple[DeviceError, Artifact]:
    """What a job that fails raises."""
    artifact = artifact or built(board)
    with deployed(board, artifact) as (device, _), pytest.raises(DeviceError) as error:
        list(device.run(job, silence_s=silence_s))
    return error.value, artifact


def sabotaged(board: str, statement: str) -> Artifact:
    """The tiny model with a statement in its first layer."""
    sources = dict(tiny_model().sources)
    sources["model.c"] = sources["model.c"].replace("{\n    for", f"{{\n    {statement}\n    for", 1)
    assert statement in sources["model.c"]
    return built(board, model_of("sabotaged", sources, 96))


INFERENCE = Job("infer", bytes(SAMPLE_BYTES), 1, warmup=0)


def addr2line(artifact: Artifact, address: int) -> str:
    """What binutils make of an address."""
    command = ["arm-none-eabi-addr2line", "-f", "-s", "-e", str(artifact.path), hex(address)]
    function, place = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return f"{function} at {place.split()[0]}"


def functions(report: CrashReport) -> list[str]:
    return [frame.function for frame in report.backtrace]


def runner_stack(report: CrashReport) -> StackUse:
    return next(stack for stack in report.stacks if stack.name == "lab_stack")


@pytest.mark.parametrize("board", ["mps2-an386", "mps3-an547"])
def test_a_crash_tells_everything(board: str) -> None:
    error, artifact = failure(board, Job("crash", b"", 1))
    assert type(error) is Crash
    report, text = error.report, str(error)
    assert functions(report) == ["job_crash", *CALLERS]
    assert report.ended == ""
    assert report.region == "inference"
    assert [(fault.register, fault.name) for fault in report.faults] == [
        ("CFSR", "PRECISERR"),
        ("HFSR", "FORCED"),
        ("BFAR", "0x5fff0000"),
    ]
    place = addr2line(artifact, report.registers["pc"])
    assert report.location == place
    assert re.search(rf"#0 +{report.registers['pc']:#010x} {re.escape(place)}\n", text)
    # The stack that the device sent is what lies between the stack pointer and the stack's end.
    stack = runner_stack(report)
    assert stack.pointer == report.registers["sp"]
    assert sum(len(data) for _, data in report.memory) == stack.high - stack.pointer
    assert stack.high_water_bytes is not None
    assert stack.high - stack.pointer < stack.high_water_bytes < 1024
    assert not stack.overflowed
    for words in ("in region 'inference'", "faults:", "usually:", "registers:", "backtrace:", "stacks:", "thread mode"):
        assert words in text
    assert max(len(line) for line in text.splitlines()[1:]) <= 120


def test_a_crash_of_armv6m_has_no_fault_status_but_a_backtrace() -> None:
    """QEMU's micro:bit answers reads of nothing, so an undefined instruction makes the crash."""
    error, _ = failure("microbit", INFERENCE, sabotaged("microbit", '__asm__ volatile("udf #0");'))
    assert type(error) is Crash
    assert error.report.faults == ()
    assert error.report.region == "inference"
    assert functions(error.report)[-2:] == ["lab_main", "run_on_process_stack"]
    assert "model.c" in error.report.location


def test_a_crash_of_riscv_has_its_cause_and_a_backtrace() -> None:
    error, _ = failure("riscv32-virt", Job("crash", b"", 1))
    assert type(error) is Crash
    report = error.report
    assert [fault.name for fault in report.faults] == ["load access fault", f"{report.registers['mtval']:#010x}"]
    assert functions(report) == ["job_crash", *CALLERS[:-1], "run_on_stack"]
    assert report.region == "inference"
    assert report.location.startswith("job_crash at job_test.c:")


def test_a_hang_after_a_crash_shows_no_old_fault() -> None:
    for board in ("mps2-an386", "riscv32-virt", "riscv32-sifive-e"):
        with deployed(board, built(board)) as (device, _):
            with pytest.raises(Crash):
                list(device.run(Job("crash", b"", 1)))
            device.recover()
            with pytest.raises(Hang) as error:
                list(device.run(Job("hang", b"", 1), silence_s=0.3))
        assert functions(error.value.report)[0] == "job_hang"
        assert error.value.report.faults == ()


@pytest.mark.parametrize("board", BOARDS)
def test_a_hang_tells_where_the_core_is(board: str) -> None:
    error, artifact = failure(board, Job("hang", b"", 1), silence_s=0.3)
    assert type(error) is Hang
    report = error.report
    assert functions(report) == ["job_hang", *CALLERS]
    assert addr2line(artifact, report.registers["pc"]).startswith("job_hang at ")
    assert f"the core is at {report.location}" in str(error)
    assert report.faults == ()
    stack = runner_stack(report)
    assert stack.pointer == report.registers["sp"]
    # Read from the paint here, counted by the device after a job: the same function of the same memory.
    assert stack.high_water_bytes is not None
    assert stack.high - stack.pointer <= stack.high_water_bytes < stack.high - stack.low


def test_a_hang_inside_a_region_names_it() -> None:
    endless = sabotaged("mps2-an386", "for (volatile int i = 0;; i++) continue;")
    error, _ = failure("mps2-an386", INFERENCE, endless, silence_s=0.3)
    assert type(error) is Hang
    assert error.report.region == "inference"
    assert "in region 'inference'" in str(error)
    assert "model.c" in error.report.location


def test_a_core_goes_on_after_a_look_at_it() -> None:
    """A hang is looked at while the job still runs: a job that was only slow comes to its end."""
    artifact = built("mps2-an386")
    with deployed("mps2-an386", artifact) as (device, target):
        core = target.core()
        assert core is not None
        report = examine_core(core, artifact.path)
        assert functions(report)[-2:] == ["lab_main", "run_on_process_stack"]
        assert report.region == ""
        assert len(list(device.run(Job("infer", bytes(2 * SAMPLE_BYTES), 2)))) == 5


def test_a_lockup_keeps_what_the_emulator_said_last() -> None:
    error, _ = failure("mps2-an386", Job("lockup", b"", 1))
    assert type(error) is Crash
    assert functions(error.report) == ["port_lockup", "job_lockup"]
    # QEMU is gone, and the memory with it.
    assert "is not known" in error.report.ended
    assert runner_stack(error.report).high_water_bytes is None


@pytest.mark.parametrize("board", ["mps2-an386", "mps3-an547"])
def test_a_stack_overflow_is_said_so(board: str) -> None:
    error, _ = failure(board, Job("recurse", b"", 100_000))
    assert type(error) is OutOfMemory
    stack = runner_stack(error.report)
    assert stack.overflowed
    assert "OVERFLOWED" in str(error)
    assert set(functions(error.report)) == {"recurse"}
    # The device sends the deepest 4 KiB.
    assert sum(len(data) for _, data in error.report.memory) == 4096
    assert error.report.memory[0][0] == stack.low
    assert "… and" in str(error)


def test_an_overflow_of_the_arena_has_no_registers() -> None:
    error, _ = failure("mps2-an386", Job("overrun", b"", 1))
    assert type(error) is OutOfMemory
    assert error.report == CrashReport()
    assert "backtrace" not in str(error)


def test_a_post_mortem_that_fails_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise EmulatorError("the emulator has gone as well")

    artifact = built("mps2-an386")
    with deployed("mps2-an386", artifact) as (device, target):
        emulator = target.emulator
        assert emulator is not None
        monkeypatch.setattr(emulator, "hold", fail)
        with pytest.raises(Hang, match="'hang' sent nothing") as error:
            list(device.run(Job("hang", b"", 1), silence_s=0.3))
    assert error.value.__notes__ == ["no post-mortem: the emulator has gone as well"]


@pytest.mark.parametrize("board", BOARDS)
def test_memory_is_read_as_the_core_sees_it(board: str) -> None:
    """Against the image, and a system register."""
    artifact = built(board)
    image = Image(artifact.path)
    with deployed(board, artifact) as (_, target):
        core = target.core()
        assert core is not None
        with core.halted():
            code = image.read(image.entry, 64)
            assert core.read_memory(image.entry, 64) == code
            assert core.read_memory(0xE000ED00, 4)[3] == 0x41, "CPUID: the implementer is Arm"
            # QEMU's micro:bit answers reads of nothing with zeros.
            if board != "microbit":
                with pytest.raises(EmulatorError):
                    core.read_memory(0xF0000000, 64)


# ---- where users look -----------------------------------------------------------------------------------------------


def test_from_the_core_to_the_command_line_the_store_and_the_page(
    monkeypatch: pytest.MonkeyPatch, private_lab: Path
) -> None:
    """A workload whose model takes a fault at its third pass: the same text everywhere, and the figures before it."""
    monkeypatch.setenv("LAB_CACHE", str(USERS_CACHE))
    tiny_workload.register()
    counting = "static volatile int passes; if (++passes == 3) (void)*(volatile int *)0x5FFF0000u;"
    healthy = tiny_workload.model()
    broken = healthy.sources["model.c"].replace("{\n    xor", f"{{\n    {counting}\n    xor", 1)
    sources = {**healthy.sources, "model.c": broken}
    monkeypatch.setattr(tiny_workload, "model", lambda: replace(healthy, sources=sources, digest="3" * 64))

    done = CliRunner().invoke(main, ["--config", str(config_dir() / "emulated.yaml"), "run", "tiny", "--device", "m4f"])
    assert done.exit_code == 1, done.output
    with Store(store_dir()) as store:
        (run,) = store.runs()
    assert run.status == "failed"
    first = run.error.splitlines()[0]
    assert re.search(r"; the core was at infer at model\.c:\d+ in region 'inference'$", first)
    for words in ("CFSR PRECISERR", "BFAR 0x5fff0000", "#0  ", " time_sample at job_infer.c:", " lab_main at main.c:"):
        assert words in run.error
    assert run.error in done.output
    page = (reports_dir() / "latest" / "index.html").read_text()
    shown = re.search(r"<pre>(the device reported.*?)</pre>", page, re.DOTALL)
    assert shown is not None
    assert html.unescape(shown[1]) == run.error
    assert [record.n for record in run.records if record.metric == "cycles"] == [1], "the pass before the fault"
