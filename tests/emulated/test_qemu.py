"""Real QEMU with real firmware: start, exact counts, every way to die, and nothing left behind."""

from __future__ import annotations

import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.toolchain import (
    EMULATED_BOARDS,
    SAMPLE_BYTES,
    built,
    counting_plugin,
    machine_of,
    model_of,
    needs_qemu,
    running,
    tiny_output,
)

from lab.compiler.model import CompiledModel
from lab.devices.base import RegionCount
from lab.devices.emulated_mcu import match_counts, qemu_target
from lab.emulators.probe import rsp
from lab.emulators.qemu import Qemu
from lab.emulators.tcg_plugin import MarkerCount
from lab.errors import ConfigError, Crash, EmulatorError, Hang, OutOfMemory, ProtocolError
from lab.events import Done, Event, Job, RegionEvent, ResultEvent
from lab.wire import Session

pytestmark = needs_qemu

BOARD = EMULATED_BOARDS[0]
SAMPLES = random.Random(1).randbytes(4 * SAMPLE_BYTES)
JOB = Job("infer", SAMPLES, 4, warmup=1, repeats=2, profile=True, quiet_us=200)


def job(name: str, count: int = 1) -> Job:
    return Job(name, b"", count)


def eventually(holds: Callable[[], bool], within_s: float = 10.0) -> bool:
    """Poll until it holds; False at the bound."""
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def run(session: Session, job: Job, memory: Qemu | None = None) -> list[Event]:
    session.put("samples", job.blob, memory)
    return list(session.run(job))


def figures(events: list[Event]) -> tuple[list[int], list[int], Done]:
    """Cycles per inference, cycles per layer, and the last event: all that must repeat.

    Without the cycles of the whole job: it sends absolute times, and how long COBS takes depends on their zeros.
    """
    regions = [event for event in events if isinstance(event, RegionEvent)]
    by_region = [[event.cycles for event in regions if event.region == name] for name in ("inference", "layer")]
    done = events[-1]
    assert isinstance(done, Done)
    return by_region[0], by_region[1], replace(done, cycles=0)


@pytest.mark.parametrize("board", EMULATED_BOARDS)
def test_start_to_results(board: str) -> None:
    with running(board, built(board)) as (qemu, _, session):
        hello = session.hello
        assert (hello.board, hello.clock, hello.model) == (board, "virtual", "tiny")
        assert hello.blob_address == machine_of(board).shared_address
        events = run(session, JOB, qemu)
    results = [event for event in events if isinstance(event, ResultEvent)]
    expected = [tiny_output(SAMPLES[at : at + SAMPLE_BYTES]) for at in range(0, len(SAMPLES), SAMPLE_BYTES)]
    assert [(result.index, result.data) for result in results] == list(enumerate(expected))
    inferences, layers, done = figures(events)
    assert (len(inferences), len(layers)) == (8, 8)
    assert (done.events, done.results) == (16, 4)
    # The model's own arithmetic takes at least one instruction for each byte it loads, changes and stores.
    assert min(inferences) > 2 * 3 * SAMPLE_BYTES / 4


@pytest.mark.parametrize("board", EMULATED_BOARDS)
def test_counts_repeat_exactly(board: str) -> None:
    """In one instance, in fresh ones, over the wire or through shared memory."""
    artifact = built(board)
    with running(board, artifact) as (qemu, _, session):
        first = figures(run(session, JOB, qemu))
        assert figures(run(session, JOB, qemu)) == first
        assert figures(run(session, JOB, None)) == first
    with running(board, artifact) as (qemu, _, session):
        assert figures(run(session, JOB, qemu)) == first
    with running(board, artifact) as (qemu, _, session):
        assert figures(run(session, JOB, None)) == first
    # One sample is as good as another to this model, and so is one pass.
    assert len(set(first[0])) == 1
    assert len(set(first[1])) == 2


def counted(board: str, model: CompiledModel | None = None, job: Job = JOB) -> tuple[list[RegionCount], list[int]]:
    """The plug-in's counts, and the cycles of the same passes by the runner's own clock without the plug-in."""
    artifact = built(board, model)
    target = qemu_target(machine_of(board), plugin=counting_plugin())
    with running(board, artifact) as (qemu, _, session):
        cycles = [event.cycles for event in run(session, job, qemu) if isinstance(event, RegionEvent)]
    return target.count(artifact, job), cycles


@pytest.mark.parametrize("board", EMULATED_BOARDS)
def test_the_runners_clock_counts_instructions(board: str) -> None:
    """Two independent counts: QEMU's clock read by the firmware, and our plug-in. They differ by the edges' own
    instructions, the same for every pass through a region of one kind."""
    counts, cycles = counted(board)
    for region in ("inference", "layer"):
        extra = {
            count.instructions - spent
            for count, spent in zip(counts, cycles, strict=True)
            if count.region == region
        }
        assert len(extra) == 1, extra
        assert 0 <= extra.pop() < 100


def test_the_plugin_repeats_exactly() -> None:
    assert counted(BOARD) == counted(BOARD)


def accesses(loads: int, stores: int) -> CompiledModel:
    """A model whose first layer loads, and whose second layer stores, so often."""
    body_loads = "\n    ".join(["(void)*from;"] * loads)
    body_stores = "\n    ".join(["*to = 0;"] * stores)
    source = f"""
#include "model.h"
#include "lab_model.h"
static volatile int8_t cell;
static const char *const layer_names[] = {{"loads", "stores"}};
__attribute__((noinline)) static void load(const volatile int8_t *from)
{{
    (void)from;
    {body_loads}
}}
__attribute__((noinline)) static void store(volatile int8_t *to)
{{
    (void)to;
    {body_stores}
}}
static void infer(const void *input, void *output, uint8_t *arena)
{{
    (void)input, (void)output, (void)arena;
    load(&cell);
    store(&cell);
}}
static void infer_profiled(const void *input, void *output, uint8_t *arena, lab_layer_hook hook, void *context)
{{
    (void)input, (void)output, (void)arena;
    hook(context, 0, 1);
    load(&cell);
    hook(context, 0, 0);
    hook(context, 1, 1);
    store(&cell);
    hook(context, 1, 0);
}}
const lab_model_t lab_model = {{
    .name = "accesses", .input_bytes = {SAMPLE_BYTES}, .output_bytes = {SAMPLE_BYTES},
    .arena_bytes = LAB_MODEL_ARENA_BYTES, .layer_count = 2, .layer_names = layer_names,
    .infer = infer, .infer_profiled = infer_profiled,
}};
"""
    return model_of("accesses", {"model.c": source, "model.h": "#define LAB_MODEL_ARENA_BYTES 16\n"}, 16)


def test_loads_and_stores_are_those_the_code_makes() -> None:
    """Straight lines of volatile accesses, one instruction each: only their numbers differ between the models."""
    once = replace(JOB, repeats=1, count=1, blob=SAMPLES[:SAMPLE_BYTES])
    plain, more_loads, more_stores = (
        {(count.region, count.index): count for count in counted(BOARD, accesses(*numbers), once)[0]}
        for numbers in ((10, 10), (110, 10), (10, 47))
    )
    for other, loads, stores, busy_layer in ((more_loads, 100, 0, 0), (more_stores, 0, 37, 1)):
        for key, count in other.items():
            busy = key in {("inference", 0), ("layer", busy_layer)}
            base = plain[key]
            assert count.loads - base.loads == busy * loads, key
            assert count.stores - base.stores == busy * stores, key
            assert count.instructions - base.instructions == busy * (loads + stores), key


def test_marks_that_do_not_match_the_events() -> None:
    marks = [MarkerCount(n, n, n) for n in range(3)]
    with pytest.raises(EmulatorError, match=r"saw 3 stores .* 1 events make 2"):
        match_counts([RegionEvent("inference", 0, 0, 1)], marks)


def test_counting_needs_the_plugin() -> None:
    with pytest.raises(EmulatorError, match="plug-in was not built"):
        qemu_target(machine_of(BOARD)).count(built(BOARD), JOB)
    refused = pytest.raises(EmulatorError, match="without the counting")
    with running(BOARD, built(BOARD)) as (qemu, _, _session), refused:
        qemu.counts()


def test_many_side_by_side() -> None:
    """Seven instances of all boards, each on a port of its own; all of them work, none hears another."""
    boards = list(itertools.islice(itertools.cycle(EMULATED_BOARDS), 7))
    inputs = [random.Random(seed).randbytes(SAMPLE_BYTES) for seed in range(len(boards))]
    with ExitStack() as stack:
        instances = [stack.enter_context(running(board, built(board))) for board in boards]
        assert len({port.name for _, port, _ in instances}) == len(boards)
        jobs = [Job("infer", data, 1, quiet_us=0) for data in inputs]
        for (qemu, _, session), one in zip(instances, jobs, strict=True):
            session.put("samples", one.blob, qemu)
        streams = [session.run(one) for (_, _, session), one in zip(instances, jobs, strict=True)]
        # One event of each at a time, so that all of them run at once.
        at_once = list(zip(*streams, strict=True))
        found = [event.data for events in at_once for event in events if isinstance(event, ResultEvent)]
        assert found == [tiny_output(data) for data in inputs]
        pids = [qemu.pid for qemu, _, _ in instances]
    assert not any(map(is_running, pids))


def test_system_reset_keeps_the_link() -> None:
    artifact = built(BOARD)
    with running(BOARD, artifact) as (qemu, port, session):
        before = figures(run(session, JOB, qemu))
        pid, url = qemu.pid, qemu.serial_url
        qemu.reset()
        again = Session(port, board_is_alive=qemu.check_alive)
        again.open(20.0, build_id=artifact.build_id, ask=False)
        assert figures(run(again, JOB, qemu)) == before
        assert (qemu.pid, qemu.serial_url) == (pid, url)


def test_a_reset_by_the_firmware_keeps_the_link() -> None:
    with running(BOARD, built(BOARD)) as (qemu, _, session):
        before = figures(run(session, JOB, qemu))
        session.reset()
        session.open(20.0, ask=False)
        assert figures(run(session, JOB, qemu)) == before


# ---- QEMU itself dies ---------------------------------------------------------------------------------------------


def leftovers() -> set[Path]:
    own = f"lab-qemu-{os.getpid()}-*"
    return {*Path(tempfile.gettempdir()).glob(own), *Path("/dev/shm").iterdir()}


def test_a_machine_qemu_does_not_know() -> None:
    before = leftovers()
    with pytest.raises(EmulatorError, match=r"(?s)no-such-machine.*unsupported machine type"):
        Qemu(replace(machine_of(BOARD), machine="no-such-machine"), built(BOARD).path).start()
    assert leftovers() == before


def test_an_image_that_is_not_there() -> None:
    with pytest.raises(EmulatorError, match=r"(?s)ended with status 1.*nowhere\.elf"):
        Qemu(machine_of(BOARD), Path("/nowhere.elf")).start()


def test_a_plugin_that_is_not_there() -> None:
    with pytest.raises(EmulatorError, match=r"(?s)ended with status 1.*nowhere\.so"):
        Qemu(machine_of(BOARD), built(BOARD).path, plugin=Path("/nowhere.so")).start()


def test_a_meter_that_does_not_listen(tmp_path: Path) -> None:
    with pytest.raises(EmulatorError, match=r"(?s)ended with status 1.*nobody"):
        Qemu(machine_of(BOARD), built(BOARD).path, marker_socket=tmp_path / "nobody").start()


def test_a_folder_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(EmulatorError, match=r"cannot be started in .*ddd.*too long") as error:
        Qemu(machine_of(BOARD), built(BOARD).path).start()
    assert "TMPDIR" in error.value.hint
    assert list(deep.iterdir()) == []


def test_a_relative_path_to_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = built(BOARD)
    monkeypatch.chdir(artifact.path.parent)
    with running(BOARD, replace(artifact, path=Path(artifact.path.name))) as (_, _, session):
        assert session.hello.build_id == artifact.build_id


def test_qemu_killed_in_the_middle_of_a_job() -> None:
    with running(BOARD, built(BOARD)) as (qemu, _, session):
        events = session.run(replace(job("clock", 200), repeats=1_000_000))
        next(events)
        os.kill(qemu.pid, signal.SIGKILL)
        with pytest.raises(EmulatorError, match="ended with status -9") as error:
            list(events)
    assert error.value.transient


def test_qemu_killed_between_jobs() -> None:
    with running(BOARD, built(BOARD)) as (qemu, _, session):
        os.kill(qemu.pid, signal.SIGKILL)
        assert eventually(lambda: not is_running(qemu.pid))
        with pytest.raises(EmulatorError, match="ended with status -9"):
            run(session, JOB)
        with pytest.raises(EmulatorError, match="monitor"):
            qemu.registers()


def test_memory_is_checked() -> None:
    spec = machine_of(BOARD)
    with running(BOARD, built(BOARD)) as (qemu, _, _session):
        qemu.write_memory(spec.shared_address + 5, b"abc")
        assert qemu.read_memory(spec.shared_address + 4, 5) == b"\0abc\0"
        end = spec.shared_address + spec.shared_bytes
        for address, size in ((spec.shared_address - 1, 2), (end - 1, 2), (0x5FFF0000, 1)):
            with pytest.raises(EmulatorError):
                qemu.write_memory(address, b"\xaa" * size)
        with pytest.raises(EmulatorError):
            qemu.read_memory(0x5FFF0000, 1)
        word = qemu.read_memory(0, 4)
        qemu.write_memory(0, word[::-1])
        assert qemu.read_memory(0, 4) == word[::-1], "flash can be written, too"
    with pytest.raises(EmulatorError, match="not started"):
        qemu.read_memory(spec.shared_address, 1)


def test_nothing_works_before_start_and_stop_may_come_twice() -> None:
    qemu = Qemu(machine_of(BOARD), built(BOARD).path)
    for use in (qemu.release, qemu.reset, qemu.registers, lambda: qemu.pid, qemu.check_alive):
        with pytest.raises(EmulatorError):
            use()
    qemu.start()
    qemu.stop()
    qemu.stop()
    with pytest.raises(EmulatorError, match="not running"):
        qemu.release()


# ---- the device dies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("board", EMULATED_BOARDS)
def test_a_fault_is_a_crash_with_registers_and_region(board: str) -> None:
    with running(board, built(board)) as (_, _port, session):
        with pytest.raises(Crash) as error:
            run(session, job("crash"))
        assert {"pc", "lr", "sp", "cfsr", "bfar"} <= error.value.report.registers.keys()
        assert error.value.report.registers["bfar"] == 0x5FFF0000
        assert error.value.report.region == "inference"
        # The runner restarts by itself, and the host notices instead of going on.
        with pytest.raises(ProtocolError, match="restarted by itself"):
            run(session, JOB)
        session.open(20.0)
        assert len(run(session, JOB)) == 21


def test_a_lockup_is_a_crash_with_registers() -> None:
    with running(BOARD, built(BOARD)) as (_, _port, session):
        with pytest.raises(Crash, match="locked up") as error:
            run(session, job("lockup"))
        assert {"pc", "sp", "lr", "xpsr"} <= error.value.report.registers.keys()


@pytest.mark.parametrize(("name", "count", "place"), [("overrun", 1, "arena"), ("recurse", 1_000_000, "stack")])
def test_an_overflow_is_out_of_memory(name: str, count: int, place: str) -> None:
    with running(BOARD, built(BOARD)) as (_, _port, session), pytest.raises(OutOfMemory, match=place):
        run(session, job(name, count))


def test_a_hang_is_seen_and_the_core_can_be_found() -> None:
    with running(BOARD, built(BOARD)) as (qemu, _, session):
        session.put("samples", b"")
        with pytest.raises(Hang, match="'hang' sent nothing"):
            list(session.run(job("hang"), silence_s=0.3))
        registers = qemu.registers()
        assert {"r0", "r12", "sp", "lr", "pc", "xpsr"} <= registers.keys()


# ---- nothing is left behind ---------------------------------------------------------------------------------------

OWNER = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from helpers.toolchain import built, machine_of
    from lab.emulators.qemu import Qemu
    qemu = Qemu(machine_of({board!r}), built({board!r}).path)
    qemu.start()
    qemu.release()
    print(qemu.pid, flush=True)
    time.sleep(600)
"""


def test_kill_9_of_the_owner_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    built(BOARD)
    # A place of its own: any other test that starts QEMU meanwhile would do the sweeping.
    private = Path(tempfile.mkdtemp(prefix="lab-"))
    monkeypatch.setenv("TMPDIR", str(private))
    monkeypatch.setattr(tempfile, "tempdir", str(private))
    shared_before = set(Path("/dev/shm").iterdir())
    script = textwrap.dedent(OWNER.format(tests=str(Path(__file__).parents[1]), board=BOARD))
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert is_running(pid)
        assert set(Path("/dev/shm").iterdir()) <= shared_before
    finally:
        owner.kill()
        owner.communicate()
    assert eventually(lambda: not is_running(pid), within_s=5.0)
    assert set(Path("/dev/shm").iterdir()) <= shared_before
    folder = list(private.glob(f"lab-qemu-{owner.pid}-*"))
    # Whoever starts QEMU next sweeps up the folder of the dead.
    with Qemu(machine_of(BOARD), built(BOARD).path):
        assert len(folder) == 1
        assert not folder[0].exists()
    private.rmdir()




# ---- faults -------------------------------------------------------------------------------------------------------


def test_faults_need_a_machine() -> None:
    qemu = Qemu(machine_of(BOARD), built(BOARD).path)
    spec = machine_of(BOARD)
    for inject in (qemu.raise_nmi, qemu.bite_watchdog, qemu.freeze_clock, lambda: qemu.flip_bit(0, 0)):
        with pytest.raises(EmulatorError, match="not running"):
            inject()
    qemu.power_cut()
    bare = Qemu(replace(spec, nmi_path="", watchdog=None, stop_clock=()), built(BOARD).path)
    for inject in (bare.raise_nmi, bare.bite_watchdog, bare.freeze_clock):
        with pytest.raises(ConfigError, match="allowed: flip-flash, flip-ram, power-cut"):
            inject()


def test_a_held_machine_stays_held_through_faults() -> None:
    artifact = built(BOARD)
    with Qemu(machine_of(BOARD), artifact.path) as qemu:
        first = qemu.read_memory(0, 8)
        before = qemu.registers()["pc"]
        for _ in range(2):
            qemu.flip_bit(4, 7)
            assert qemu.registers()["pc"] == before
        qemu.freeze_clock()
        assert qemu.registers()["pc"] == before
        assert qemu.read_memory(0, 8) == first
        port = qemu.open_serial()
        qemu.release()
        hello = Session(port, board_is_alive=qemu.check_alive).open(20.0, ask=False)
        assert hello.build_id == artifact.build_id
        port.close()


def test_faults_share_the_debug_ports_of_a_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = built(BOARD)
    with Qemu(machine_of(BOARD), artifact.path, debug=True) as qemu:
        port = qemu.open_serial()
        qemu.release()
        session = Session(port, board_is_alive=qemu.check_alive)
        session.open(20.0, ask=False)
        word = qemu.read_memory(0x1000, 4)
        qemu.flip_bit(0x1000, 0)
        assert qemu.read_memory(0x1000, 4) == bytes([word[0] ^ 1]) + word[1:]
        qemu.flip_bit(0x1000, 0)
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(qemu.folder / "gdb"))
            # A debugger that connects stops the machine, once QEMU has seen it.
            while "running" in qemu._running().execute("human-monitor-command", **{"command-line": "info status"}):
                time.sleep(0.01)
            monkeypatch.setattr(rsp, "_TIMEOUT_S", 0.2)
            with pytest.raises(EmulatorError, match="is a probe in use"):
                qemu.flip_bit(0x1000, 0)
        # That left it stopped.
        qemu.release()
        session.open(20.0)
        qemu.raise_nmi()
        with pytest.raises(Crash, match="NMI"):
            list(session.run(Job("clock", b"", 1000, repeats=100_000)))
        port.close()


def test_power_comes_back_with_empty_ram() -> None:
    with Qemu(machine_of(BOARD), built(BOARD).path) as qemu:
        place = machine_of(BOARD).shared_address
        qemu.write_memory(place, b"kept")
        qemu.power_cut()
        qemu.power_cut()
        with pytest.raises(EmulatorError, match="no power: its supply was cut") as error:
            qemu.check_alive()
        assert error.value.transient
        qemu.start()
        assert qemu.read_memory(place, 4) == bytes(4)
        qemu.check_alive()
