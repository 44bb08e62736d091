"""The page as a reader gets it: parsed back with html.parser, never compared with stored text."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import StoreError
from measurements.record import Buffer, Layer, Provenance, Record, Run, RunDetail, Source, Trace
from measurements.report import publish, render, write_report

VOID = {"meta", "link", "br", "hr", "img", "input", "rect", "path", "line"}
LAYERS = (
    ("stem", "conv2d 10x4 s2 + relu", 640_000, 2_624),
    ("blocks.0.dw", "depthwise 3x3 + relu", 72_000, 832),
    ("blocks.0.pw", "conv2d 1x1 + relu", 512_000, 4_352),
    ("blocks.1.dw", "depthwise 3x3 + relu", 72_000, 832),
    ("blocks.1.pw", "conv2d 1x1 + relu", 512_000, 4_352),
    ("pool", "mean over time and frequency", 8_000, 0),
    ("classifier", "linear", 640, 680),
)


def figure(
    region: str,
    metric: str,
    unit: str,
    raw: Sequence[float],
    source: Source = "emulated",
    note: str = "",
) -> Record:
    """Summarise ``raw`` with NumPy, independently of measurements.statistics."""
    values = np.asarray(raw, dtype=np.float64)
    spread = 1.96 * float(values.std()) / math.sqrt(len(values))
    middle = float(np.median(values))
    return Record(
        region,
        metric,
        unit,
        source,
        tuple(raw),
        len(raw),
        middle,
        middle - spread,
        middle + spread,
        float(np.percentile(values, 95)),
        float(np.percentile(values, 99)),
        float(raw[0]),
        "marker" if metric == "energy" else "none",
        0.0,
        note,
    )


def provenance(device: str = "m4-a", *, virtual: bool = True) -> Provenance:
    return Provenance(
        device=device,
        board="mps2-an386" if virtual else "nucleo-f446re",
        clock="virtual" if virtual else "dwt",
        clock_hz=25e6 if virtual else 180e6,
        emulator="qemu-system-arm 7.2.9" if virtual else "",
        meter="ppk2 (emulated)" if virtual else "ppk2 C0FFEE",
        meter_uncertainty=0.02,
        energy_model="board file mps2-an386, typical run currents" if virtual else "",
        workload="keyword-digits",
        variant="ds-cnn-s",
        parameters={"filters": "64", "blocks": "2"},
        seed=7,
        dataset="free spoken digits, speaker held out",
        dataset_digest="ab" * 32,
        artifact_digest="cd" * 32,
        build_id="0123456789abcdef",
        toolchain="arm-none-eabi-gcc 12.2.1",
        flags="-O2 -mcpu=cortex-m4 -mfpu=fpv4-sp-d16 -mfloat-abi=hard -ffunction-sections -fdata-sections",
        git_commit="da1b66b0c0ffee00112233445566778899aabbcc",
        git_dirty=True,
        lab_version="0.1.0",
    )


def detail() -> RunDetail:
    layers = tuple(
        Layer(i, name, operator, macs, weights, 900.0 + 1.6 * macs, 900 + int(1.6 * macs), macs // 2, macs // 9)
        for i, (name, operator, macs, weights) in enumerate(LAYERS)
    )
    sizes = (490, 8000, 8000, 8000, 8000, 8000, 64, 10)
    buffers = tuple(
        Buffer(f"act{i}" if i else "input", 0 if i % 2 else 8000, size, max(0, i - 1), min(i, 6))
        for i, size in enumerate(sizes)
    )
    return RunDetail(layers, buffers, 16_512, 16_000, (), ("Outputs equal the host build bit for bit.",))


def records(rng: np.random.Generator, *, virtual: bool = True) -> tuple[Record, ...]:
    cycles = [2_914_003.0] * 20 if virtual else [float(v) for v in rng.normal(1_480_000, 9_000, 60).round()]
    hz, source = (25e6, "emulated") if virtual else (180e6, "hardware")
    return (
        figure("inference", "latency", "s", [c / hz for c in cycles], _source(source), "virtual" if virtual else ""),
        figure("inference", "cycles", "cycles", cycles, _source(source)),
        figure("inference", "instructions", "instructions", cycles, _source(source)),
        figure(
            "inference",
            "energy",
            "J",
            [float(v) for v in rng.normal(1.25e-3, 6e-6, 20)],
            "modelled" if virtual else "hardware",
        ),
        figure("idle", "power", "W", [3.3e-3], "modelled" if virtual else "hardware"),
        figure("run", "accuracy", "1", [0.934], _source(source)),
        figure("run", "accuracy.reference", "1", [0.936], "modelled"),
        figure("run", "peak_ram", "bytes", [19_840.0], _source(source)),
        figure("run", "peak_ram.arena", "bytes", [16_512.0], _source(source)),
        figure("run", "peak_ram.stack", "bytes", [1_312.0], _source(source)),
        figure("run", "peak_ram.static", "bytes", [1_016.0], _source(source)),
        figure("run", "flash", "bytes", [41_300.0], _source(source)),
        *(
            figure(f"layer/{i:02d} {name}", "cycles", "cycles", [900.0 + 1.6 * macs] * 5, _source(source))
            for i, (name, _, macs, _) in enumerate(LAYERS)
        ),
    )


def _source(text: str) -> Literal["emulated", "hardware"]:
    return "hardware" if text == "hardware" else "emulated"


def make_run(number: int = 1, device: str = "m4-a", *, virtual: bool = True) -> Run:
    rng = np.random.default_rng(number)
    return Run(
        run_id=f"20261121T0900{number:02d}-{device}",
        session_id="session-1",
        started_ns=1_795_251_600_000_000_000 + number,
        status="passed",
        provenance=provenance(device, virtual=virtual),
        records=records(rng, virtual=virtual),
        detail=detail(),
        test="tests/hil/test_keyword.py::test_keyword[m4-a]",
    )


def failing_run() -> Run:
    run = make_run(3, "m7-b")
    return dataclasses.replace(
        run,
        status="error",
        error="m7-b: no frame for 2.0 s after `run`, pc <0x2f10> in conv2d_s8 at conv.c:88\n  -> run it again",
        retries=("reset by emulator restart: serial line closed",),
        records=run.records[-1:],
        detail=RunDetail(),
    )


def make_trace(passes: int = 20, peak_a: float = 0.0213) -> Trace:
    rng = np.random.default_rng(5)
    current = rng.normal(1.0e-3, 2e-5, 2_000 + passes * 3_000).astype(np.float32)
    logic = np.zeros(len(current), dtype=np.uint8)
    for index in range(passes):
        begin = 1_500 + index * 3_000
        current[begin : begin + 2_300] = rng.normal(9e-3, 3e-4, 2_300) + 3e-3 * np.sin(np.arange(2_300) / 140.0)
        logic[begin : begin + 2_300] = 1
    current[1_700] = peak_a
    current[4_000:4_080] = np.nan
    return Trace(0.25, 1e-5, 3.3, current, logic, 80)


def sample_page() -> tuple[list[Run], dict[str, Trace]]:
    """Two emulated devices that passed, one that failed, one on hardware."""
    runs = [make_run(1), make_run(2, "m7-a"), failing_run(), make_run(4, "rack-2", virtual=False)]
    return runs, {runs[0].run_id: make_trace(), runs[3].run_id: make_trace(4)}


class Reader(HTMLParser):
    """Collects what a test asks about, and checks that tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.badges: list[str] = []
        self.tags: list[str] = []
        self._stack: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self._stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in found.items()]
        if "id" in found:
            self.ids.append(found["id"])
        if tag not in VOID:
            self._stack.append((tag, found.get("class", "")))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._stack[-1][0] == tag
        self._stack.pop()

    def handle_data(self, data: str) -> None:
        if any(tag == "style" for tag, _ in self._stack):
            return
        self.texts.append(data)
        if self._stack and self._stack[-1][1].startswith("badge "):
            self.badges.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).replace("\u202f", "").split())


def read(runs: Sequence[Run], traces: dict[str, Trace] | None = None) -> Reader:
    return Reader(render(runs, traces or {}))
