"""The drawing of a training step's arena in headless Chromium: scrolls by itself, readable in either scheme."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from helpers.browser import ask, needs_chromium
from helpers.nights import Made, run_of

from lab.commands.compile_network import Options, compile_model
from measurements.record import ArenaSchedule
from measurements.report import write_report

pytestmark = needs_chromium

LEAST_CONTRAST = 4.5
"""WCAG 2.2, success criterion 1.4.3."""


@pytest.fixture(scope="module")
def schedule() -> ArenaSchedule:
    return compile_model("digits-mb-16", Options(loss="cross_entropy", precision="int8", train=("last",))).schedule


@pytest.fixture(scope="module")
def page(schedule: ArenaSchedule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = run_of(Made("m4f"), 1)
    detail = replace(run.detail, training=schedule)
    return write_report([replace(run, detail=detail)], {}, tmp_path_factory.mktemp("arena"))


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(…)`` (WCAG 2.2, glossary)."""
    channels = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_the_drawing_is_readable_and_scrolls_by_itself(
    page: Path, schedule: ArenaSchedule, width: int, scheme: Literal["light", "dark"]
) -> None:
    seen = ask(
        page,
        """for (const one of document.querySelectorAll("details")) one.open = true;
        await drawn();
        const svg = document.querySelector("svg.arena");
        const fill = (one) => getComputedStyle(one).fill;
        const kinds = ["forward", "kept", "backward"].map((kind) => svg.querySelector(`g > rect.buffer.${kind}`));
        return {page: document.documentElement.scrollWidth, scrolls: !!svg.closest(".scroll"),
          back: fill(svg.querySelector("rect.back")),
          text: [...svg.querySelectorAll("text:not(.name)")].map(fill),
          names: [...svg.querySelectorAll("text.name")].map(fill),
          kinds: kinds.map(fill),
          hatched: getComputedStyle(kinds[1].nextElementSibling).fill,
          tips: [...svg.querySelectorAll("g > title")].map((one) => one.textContent)};""",
        width=width,
        scheme=scheme,
    )
    assert seen["page"] == width
    assert seen["scrolls"] is True
    texts, names, kinds, tips = seen["text"], seen["names"], seen["kinds"], seen["tips"]
    assert isinstance(texts, list)
    assert isinstance(names, list)
    assert isinstance(kinds, list)
    assert isinstance(tips, list)
    assert min(contrast(text, str(seen["back"])) for text in texts) >= LEAST_CONTRAST
    assert min(contrast(name, kind) for name in names for kind in kinds) >= LEAST_CONTRAST
    assert len(set(kinds)) == 3
    assert "hatch" in str(seen["hatched"])
    assert [tip.split(":")[0] for tip in tips] == [buffer.name for buffer in schedule.buffers]
    assert (luminance(str(seen["back"])) < 0.2) == (scheme == "dark")
