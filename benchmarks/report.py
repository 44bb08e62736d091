"""Loading a report of 100 runs, each with a power trace and 60 nights of history.

The page is opened in headless Chromium, in a frame of a page of ours that takes the time from the moment the address is
set to the load event, with style and layout done. An empty page is opened the same way in turns: what that takes is the
browser's own. Other load on the machine can only slow a turn down, so the best turn of each counts.
Claim: the report takes less than a second, the empty page's time subtracted.
The time to write the report is printed too.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import Claim, spread, verdict

from measurements.record import Buffer, Layer, Provenance, Run, RunDetail, Trace
from measurements.regression import History, SeriesKey, detect
from measurements.report import write_report
from measurements.report.trends import Found, Trends
from measurements.statistics import make_record

RUNS, NIGHTS, TURNS = 100, 60, 9
BOUND_S = 1.0
_CLOCK = """<!DOCTYPE html><body><iframe style="width:1280px;height:2000px"></iframe><script>
const frame = document.querySelector("iframe"), begin = performance.now();
frame.onload = () => {
  frame.getBoundingClientRect();
  document.title = "done";
  const told = document.createElement("pre");
  told.textContent = "took " + (performance.now() - begin) + " ms";
  document.body.append(told);
};
frame.src = "PAGE";
</script>"""


def made_run(number: int, rng: np.random.Generator) -> Run:
    cycles = [float(value) for value in rng.normal(1_480_000, 9_000, 60).round()]
    joules = [float(value) for value in rng.normal(1.25e-3, 6e-6, 60)]
    provenance = Provenance(
        device=f"rack-{number % 10}", board="nucleo-f446re", clock="dwt", clock_hz=180e6, emulator="", meter="ppk2",
        meter_uncertainty=0.02, energy_model="", workload=f"workload-{number // 10}", variant="", parameters={}, seed=1,
        dataset="digits", dataset_digest="ab" * 32, artifact_digest="cd" * 32, build_id="0" * 16,
        toolchain="arm-none-eabi-gcc 12.2.1", flags="-O2", git_commit="c0ffee" * 6, git_dirty=False, lab_version="0",
    )  # fmt: skip
    records = (
        make_record("inference", "latency", "s", "hardware", [value / 180e6 for value in cycles]),
        make_record("inference", "cycles", "cycles", "hardware", cycles),
        make_record("inference", "energy", "J", "hardware", joules),
        make_record("run", "accuracy", "1", "hardware", [float(rng.uniform(0.8, 0.99))]),
        make_record("run", "peak_ram", "bytes", "hardware", [float(rng.integers(8_000, 90_000))]),
        make_record("run", "flash", "bytes", "hardware", [41_300.0]),
    )
    layers = tuple(Layer(index, f"layer{index}", "conv2d", 10_000, 800, 40_000.0) for index in range(20))
    buffers = tuple(Buffer(f"act{index}", 8_000 * (index % 2), 8_000, index, index + 1) for index in range(19))
    detail = RunDetail(layers, buffers, 16_000, 16_000)
    return Run(f"run-{number:03}", "night", 10**18 + number, "passed", provenance, records, detail)


def made_trace(rng: np.random.Generator) -> Trace:
    current = rng.normal(1e-3, 2e-5, 100_000).astype(np.float32)
    logic = np.zeros(len(current), np.uint8)
    for begin in range(1_000, 100_000, 5_000):
        current[begin : begin + 3_000] += 8e-3
        logic[begin : begin + 3_000] = 1
    return Trace(0.0, 1e-5, 3.3, current, logic)


def made_trends(runs: list[Run], rng: np.random.Generator) -> Trends:
    found, histories = [], []
    for number, run in enumerate(runs):
        for record in run.records[:3]:
            p = run.provenance
            key = SeriesKey(p.device, p.workload, "", "inference", record.metric, "hardware", p.board, p.toolchain,
                            unit=record.unit)  # fmt: skip
            values = record.median * rng.normal(1.0, 0.005, NIGHTS)
            values[40:] *= 1.05 if number % 4 == 0 else 1.0
            nights = tuple(10**18 + night * 86_400 * 10**9 for night in range(NIGHTS))
            commits = tuple(f"{night:040x}" for night in range(NIGHTS))
            history = History(key, tuple(values), commits, commits, nights, exact=False)
            histories.append(history)
            found += [Found(history, change, True) for change in detect(history)]
    return Trends(tuple(histories), tuple(found))


def load_ms(folder: Path, page: Path) -> float:
    clock = folder / "clock.html"
    clock.write_text(_CLOCK.replace("PAGE", page.as_uri()))
    browser = next(path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name)))
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile",
        "--allow-file-access-from-files", "--dump-dom", clock.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return float(done.stdout.partition("<pre>took ")[2].partition(" ms")[0])


def main() -> int:
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        raise SystemExit("Chromium is not installed (Debian package chromium)")
    rng = np.random.default_rng(1)
    runs = [made_run(number, rng) for number in range(RUNS)]
    traces = {run.run_id: made_trace(rng) for run in runs}
    trends = made_trends(runs, rng)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.perf_counter()
        page = write_report(runs, traces, folder / "report", trends=trends)
        print(f"written in {time.perf_counter() - began:.2f} s, {page.stat().st_size / 1e6:.2f} MB")
        empty = folder / "empty.html"
        empty.write_text("<!DOCTYPE html><title>empty</title>")
        load_ms(folder, page)
        turns = [(load_ms(folder, page), load_ms(folder, empty)) for _ in range(TURNS)]
    report, nothing = zip(*turns, strict=True)
    taken_s = (min(report) - min(nothing)) / 1e3
    seen = f"{spread(report, 'ms')}; empty page {spread(nothing, 'ms')}"
    return verdict([Claim(f"loading a report of {RUNS} runs, s", seen, taken_s, BOUND_S)])


if __name__ == "__main__":
    sys.exit(main())
