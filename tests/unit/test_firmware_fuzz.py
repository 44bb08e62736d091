"""The C side of the wire under libFuzzer with address and undefined-behaviour sanitizers, a bounded number of runs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "firmware" / "fuzz" / "run.sh"
RUNS = {"frames": 100_000, "session": 30_000, "mlperf": 30_000}


@pytest.mark.parametrize("target", RUNS)
def test_no_input_makes_the_device_misbehave(target: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(SCRIPT), target, f"-runs={RUNS[target]}", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    counted = re.search(r"Done (\d+) runs", done.stderr)
    assert counted is not None
    assert int(counted[1]) >= RUNS[target]
    assert not list((tmp_path / "findings").iterdir())


def test_the_fuzzer_reaches_whole_jobs(tmp_path: Path) -> None:
    """The seeds alone must cover the jobs, or the runs above prove little."""
    subprocess.run([str(SCRIPT), "session", "-runs=1", str(tmp_path)], capture_output=True, check=True)
    done = subprocess.run(
        [
            str(tmp_path / "fuzz-session"),
            "-runs=1",
            "-print_funcs=-1",
            "-print_coverage=1",
            str(SCRIPT.parent / "seeds/session"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    covered = set(re.findall(r"^COVERED_FUNC: hits: \d+ edges: \S+ (\w+)", done.stderr, re.MULTILINE))
    assert {"job_infer", "infer_profiled", "blob_adopt", "blob_put", "memory_arena_guard_intact"} <= covered
    assert {"forward", "backward", "update", "step_profiled", "job_parameters", "job_forget"} <= covered
    assert {"sample_at", "message_text", "job_restore", "read_u32"} <= covered
    assert {"session_window", "job_window", "refuse_loss", "port_doze"} <= covered
    assert {"set_baud", "job_filter", "entropy_filter_takes", "softmax_entropy"} <= covered
