"""The local store: what was saved comes back, whoever saves, and bad input overwrites nothing."""

from __future__ import annotations

import gzip
import multiprocessing
import sqlite3
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.errors import StoreError
from measurements.record import Buffer, Layer, Provenance, Record, Run, RunDetail, Trace
from measurements.statistics import make_record
from measurements.store import Store, new_run_id
from measurements.store.schema import SCHEMA_VERSION

TEXT = st.text(max_size=20)
START_NS = 1_700_000_000_000_000_000
NUMBER = st.floats(allow_nan=False, allow_infinity=False)


def provenance(device: str = "mcu-0") -> Provenance:
    return Provenance(
        device=device, board="mps2-an386", clock="virtual", clock_hz=25e6, emulator="qemu 7.2", meter="ppk2 emulated",
        meter_uncertainty=0.15, energy_model="datasheet", workload="kws", variant="int8", parameters={"w": "1"}, seed=7,
        dataset="fsdd", dataset_digest="d" * 64, artifact_digest="a" * 64, build_id="b" * 16, toolchain="gcc 12.2",
        flags="-O2", git_commit="c" * 40, git_dirty=True, lab_version="0.1.0", temperature_c=21.5, throttled=False,
    )  # fmt: skip


def make_run(run_id: str = "run-1", *, session: str = "s1", started_ns: int = START_NS) -> Run:
    return Run(
        run_id=run_id,
        session_id=session,
        started_ns=started_ns,
        status="passed",
        provenance=provenance(),
        records=(
            make_record("inference", "latency", "s", "emulated", [0.012, 0.011, 0.013], alignment="marker"),
            make_record("inference", "cycles", "cycles", "emulated", [300000.0] * 7, note="virtual"),
        ),
        detail=RunDetail(
            layers=(Layer(0, "conv1", "conv2d", 1000, 64, cycles=5.5), Layer(1, "fc", "linear", 10, 4, instructions=7)),
            buffers=(Buffer("x", 0, 490, 0, 1),),
            arena_bytes=4096,
            lower_bound_bytes=4000,
            events=(("inference", 0, 100, 300100), ("layer", 3, 110, 200)),
            notes=("emulated",),
        ),
        error="",
        retries=("deploy: timed out",),
        test="tests/hil/test_kws.py::test_latency[mcu-0]",
    )


def make_trace(samples: int = 1000, seed: int = 1) -> Trace:
    rng = np.random.default_rng(seed)
    current = rng.lognormal(-5, 1, samples).astype(np.float32)
    current[::97] = np.nan
    logic = rng.integers(0, 256, samples).astype(np.uint8)
    return Trace(t0_s=0.125, dt_s=1e-5, voltage_v=3.3, current_a=current, logic=logic, lost=samples // 97)


def same_trace(one: Trace, other: Trace) -> bool:
    return (
        (one.t0_s, one.dt_s, one.voltage_v, one.lost) == (other.t0_s, other.dt_s, other.voltage_v, other.lost)
        and one.current_a.tobytes() == other.current_a.tobytes()
        and one.logic.tobytes() == other.logic.tobytes()
        and (one.current_a.dtype, one.logic.dtype) == (other.current_a.dtype, other.logic.dtype)
    )


def test_a_run_comes_back_whole_after_reopening(tmp_path: Path) -> None:
    run, trace = make_run(), make_trace()
    with Store(tmp_path) as store:
        assert store.latest_session() is None
        store.save(run, trace)
    with Store(tmp_path) as store:
        assert store.run("run-1") == run
        assert store.runs() == [run]
        loaded = store.trace("run-1")
        assert loaded is not None
        assert same_trace(loaded, trace)
        check = store.verify()
    assert (check.runs, check.records, check.traces, check.problems, check.leftovers) == (1, 2, 1, (), ())


def test_a_run_without_a_trace_has_none(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.save(make_run())
        assert store.trace("run-1") is None
        with pytest.raises(StoreError, match="holds no run 'run-2'"):
            store.run("run-2")


RECORDS = st.builds(
    Record,
    region=TEXT, metric=TEXT, unit=st.just("s"), source=st.sampled_from(["hardware", "emulated", "modelled"]),
    raw=st.lists(NUMBER, max_size=5).map(tuple), n=st.integers(0, 2**40), median=NUMBER,
    ci_low=NUMBER, ci_high=NUMBER, p95=NUMBER, p99=NUMBER, first=NUMBER,
    alignment=st.sampled_from(["marker", "host-time", "whole-run", "none"]), lost_fraction=NUMBER, note=TEXT,
)  # fmt: skip
EVENTS = st.tuples(TEXT, st.integers(0, 2**31), st.integers(0, 2**63), st.integers(0, 2**63))
LAYERS = st.builds(
    Layer, index=st.integers(0, 99), name=TEXT, operator=TEXT, macs=st.integers(0, 2**40),
    weights_bytes=st.integers(0, 2**31), cycles=st.none() | NUMBER, loads=st.none() | st.integers(0, 2**53),
)  # fmt: skip
DETAILS = st.builds(
    RunDetail, layers=st.lists(LAYERS, max_size=3).map(tuple), arena_bytes=st.integers(0, 2**32),
    events=st.lists(EVENTS, max_size=4).map(tuple), notes=st.lists(TEXT, max_size=2).map(tuple), task=TEXT,
    target_accuracy=st.floats(0.0, 1.0),
)  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    records=st.lists(RECORDS, max_size=4, unique_by=lambda record: (record.region, record.metric)),
    detail=DETAILS,
    started_ns=st.integers(0, START_NS),
    texts=st.tuples(TEXT, TEXT, TEXT),
)
def test_any_run_round_trips(
    tmp_path: Path, records: list[Record], detail: RunDetail, started_ns: int, texts: tuple[str, str, str]
) -> None:
    session, test, error = texts
    run = replace(
        make_run(new_run_id(), session=session, started_ns=started_ns),
        records=tuple(records), detail=detail, test=test, error=error, retries=texts,
    )  # fmt: skip
    with Store(tmp_path / run.run_id) as store:
        store.save(run)
        assert store.run(run.run_id) == run


def test_half_surrogates_are_spelled_out(tmp_path: Path) -> None:
    run = replace(make_run(), error="device said \udcff")
    with Store(tmp_path) as store:
        store.save(run)
        assert store.verify().problems == ()
        assert store.run("run-1").error == "device said \\udcff"


def test_the_tables_hold_every_field_of_a_record(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / "lab.sqlite") as db:
        columns = {row[1] for row in db.execute("PRAGMA table_info(records)")}
    assert columns == {field.name for field in fields(Record)} | {"run_id", "position"}


def test_the_database_is_durable_and_has_a_version(tmp_path: Path) -> None:
    with Store(tmp_path), sqlite3.connect(tmp_path / "lab.sqlite") as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone() == (str(SCHEMA_VERSION),)


def test_saving_a_run_again_changes_nothing_but_other_content_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.save(make_run(), make_trace())
        store.save(make_run(), make_trace())
        assert store.runs() == [make_run()]
        assert len(store.pending()) == 1
        with pytest.raises(StoreError, match="already holds a run run-1 with other content; nothing was overwritten"):
            store.save(replace(make_run(), status="failed"))
        assert store.runs() == [make_run()]


def test_two_records_of_one_metric_are_named(tmp_path: Path) -> None:
    run = make_run()
    with Store(tmp_path) as store:
        with pytest.raises(StoreError, match="two records of region 'inference' and metric 'latency'"):
            store.save(replace(run, records=(run.records[0], run.records[0])))
        assert store.runs() == []


def test_a_run_can_be_amended_at_its_end_only(tmp_path: Path) -> None:
    run = make_run()
    added = make_record("run", "accuracy", "1", "emulated", [0.97])
    with Store(tmp_path) as store:
        with pytest.raises(StoreError, match="holds no run 'run-1' to amend"):
            store.amend(run)
        store.save(run, make_trace())
        later = replace(run, status="failed", error="assert 0.97 > 0.98", records=(*run.records, added))
        store.amend(later)
        store.amend(later)
        assert store.runs() == [later]
        with pytest.raises(StoreError, match="changed or missing; nothing was overwritten"):
            store.amend(replace(run, records=(added,)))
        assert store.runs() == [later]
        assert store.trace("run-1") is not None
        assert store.verify().problems == ()
        mirrored = [gzip.decompress(block.lines).decode() for block in store.pending()]
    assert [text.count("\n") + 1 for text in mirrored] == [2, 1]
    assert mirrored[1].startswith("accuracy,board=mps2-an386,")


@pytest.mark.parametrize("run_id", ["", "../x", "a/b", ".hidden", "x" * 200, "a\nb"])
def test_a_run_id_that_cannot_be_a_file_name_is_refused(tmp_path: Path, run_id: str) -> None:
    with Store(tmp_path) as store, pytest.raises(StoreError, match="cannot be a file name"):
        store.save(make_run(run_id), make_trace())
    assert list(tmp_path.rglob("*.parquet")) == []


def test_sessions_limits_and_order(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for number in (3, 1, 2, 0):
            session = "even" if number % 2 == 0 else "odd"
            store.save(make_run(f"run-{number}", session=session, started_ns=1000 + number))
        assert [run.run_id for run in store.runs()] == ["run-0", "run-1", "run-2", "run-3"]
        assert [run.run_id for run in store.runs("even")] == ["run-0", "run-2"]
        assert [run.run_id for run in store.runs(limit=2)] == ["run-2", "run-3"]
        assert store.runs("none") == []
        assert store.latest_session() == "odd"


def test_run_ids_sort_by_time_and_differ() -> None:
    ids = [new_run_id() for _ in range(500)]
    assert len(set(ids)) == 500
    assert [name.split("-")[0] for name in ids] == sorted(name.split("-")[0] for name in ids)


def test_a_newer_schema_is_refused_and_untouched(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.save(make_run())
    with sqlite3.connect(tmp_path / "lab.sqlite") as db:
        db.execute(f"UPDATE meta SET value = '{SCHEMA_VERSION + 1}'")
    before = (tmp_path / "lab.sqlite").read_bytes()
    with pytest.raises(StoreError, match=f"has schema version {SCHEMA_VERSION + 1}; .* Nothing was changed") as caught:
        Store(tmp_path)
    assert "upgrade the lab" in caught.value.hint
    assert (tmp_path / "lab.sqlite").read_bytes() == before


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "lab.sqlite") as db:
        db.execute("CREATE TABLE songs (title TEXT)")
    with pytest.raises(StoreError, match=r"not a store of this lab; its tables are \['songs'\]"):
        Store(tmp_path)


def test_a_file_that_is_no_database_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "lab.sqlite").write_bytes(b"these are not the bytes you are looking for" * 100)
    with pytest.raises(StoreError, match=r"lab\.sqlite: cannot be opened: file is not a database") as caught:
        Store(tmp_path)
    assert "move lab.sqlite aside" in caught.value.hint


def test_damage_inside_the_database_is_found_and_traces_stay_readable(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for number in range(40):
            run = make_run(f"run-{number:02}", started_ns=START_NS + number)
            store.save(run, make_trace(10) if number == 0 else None)
    database = tmp_path / "lab.sqlite"
    content = bytearray(database.read_bytes())
    pages = len(content) // 4096
    for page in range(pages // 3, pages):
        content[page * 4096 : page * 4096 + 2048] = b"\xa5" * 2048
    database.write_bytes(content)
    with Store(tmp_path) as store:
        with pytest.raises(StoreError, match=r"lab\.sqlite: .*malformed") as caught:
            store.runs()
        assert "The traces are files of their own" in caught.value.message
        assert ".recover" in caught.value.hint
        try:
            problems = store.verify().problems
        except StoreError as error:
            problems = (error.message,)
        assert problems
    assert (tmp_path / "traces" / "run-00.parquet").is_file()


def test_a_damaged_trace_is_found_by_verify_and_named_on_reading(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.save(make_run(), make_trace())
        path = tmp_path / "traces" / "run-1.parquet"
        path.write_bytes(path.read_bytes()[:-20])
        (tmp_path / "traces" / ".run-2.parquet.123.tmp").write_bytes(b"torn")
        with pytest.raises(StoreError, match=r"run-1\.parquet: the trace cannot be read"):
            store.trace("run-1")
        check = store.verify()
        assert len(check.problems) == 1
        assert "run-1.parquet" in check.problems[0]
        assert [leftover.name for leftover in check.leftovers] == [".run-2.parquet.123.tmp"]
        assert store.run("run-1") == make_run()


def test_a_changed_row_is_found_by_verify(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.save(make_run())
        with sqlite3.connect(tmp_path / "lab.sqlite") as db:
            db.execute("UPDATE records SET median = 0 WHERE metric = 'latency'")
        assert store.verify().problems == ("run run-1: content differs from its digest",)


def test_a_run_with_fields_of_a_newer_lab_says_so(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.save(make_run())
        with sqlite3.connect(tmp_path / "lab.sqlite") as db:
            db.execute("UPDATE runs SET provenance = json_set(provenance, '$.humidity', 0.4)")
        with pytest.raises(StoreError, match=r"run run-1 holds what this lab does not know.*humidity"):
            store.runs()


def _save_many(path: Path, worker: int, count: int) -> None:
    with Store(path) as store:
        for number in range(count):
            start_ns = START_NS + 100 * worker + number
            run = make_run(f"run-{worker}-{number:03}", session=f"s{worker}", started_ns=start_ns)
            store.save(run, make_trace(20, seed=worker))


def test_several_processes_open_and_save_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_save_many, args=(tmp_path, worker, 15)) for worker in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    with Store(tmp_path) as store:
        ids = [run.run_id for run in store.runs()]
        assert len(ids) == len(set(ids)) == 60
        check = store.verify()
    assert (check.runs, check.traces, check.problems, check.leftovers) == (60, 60, (), ())


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, measurements, measurements.store, measurements.store.influx, measurements.energy\n"
        "print(*sorted({'pandas', 'pyarrow', 'influxdb_client', 'scipy', 'matplotlib', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
