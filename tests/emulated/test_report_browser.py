"""The report in headless Chromium: nothing loaded, nothing beside the screen, zoom by key, dark mode."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import pytest
from helpers.browser import ask, needs_chromium
from helpers.nights import Made, fill, run_of, session, trace_of

from measurements import load
from measurements.report import write_report
from measurements.report.night import NightCell, NightSummary
from measurements.report.trends import find_trends

pytestmark = needs_chromium

MATRIX = [
    Made("m4f", steps=((9, 1.05),)),
    Made("rack-1", "nucleo-f446re"),
    Made("m4f", workload="a-workload-with-quite-a-long-name", cycles=5_000),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    trends = find_trends(load(fill(folder / "store", MATRIX, 12)), session(11), 60)
    runs = [run_of(made, 11) for made in MATRIX]
    cells = [NightCell(run.provenance.device, run.provenance.workload, "", "passed", run_id=run.run_id) for run in runs]
    night = NightSummary("n", (*cells, NightCell("m9", "keyword-digits", "", "failed", "too slow")), (), 1.0, 2.0, 1)
    return write_report(
        runs, {run.run_id: trace_of(run) for run in runs[:2]}, folder, title="Nightly", trends=trends, night=night
    )


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_nothing_stands_beside_the_screen(page: Path, width: int, scheme: Literal["light", "dark"]) -> None:
    """Wide tables scroll in a box of their own; the page itself never scrolls sideways."""
    seen = ask(
        page,
        """for (const one of document.querySelectorAll("details")) one.open = true;
        await drawn();
        const wide = [...document.querySelectorAll("main *")].filter((one) =>
          one.getBoundingClientRect().right > innerWidth + 1 && !one.closest(".scroll, svg, .area, .xaxis"));
        return {width: innerWidth, page: document.documentElement.scrollWidth,
          wide: wide.map((one) => one.outerHTML.slice(0, 90)),
          back: getComputedStyle(document.body).backgroundColor,
          small: [...document.querySelectorAll("button")].filter((one) => one.checkVisibility()
            && (one.offsetHeight < 44 || one.offsetWidth < 44)).length,
          loaded: performance.getEntriesByType("resource").length};""",
        width=width,
        scheme=scheme,
    )
    assert seen["width"] == width
    assert seen["page"] == width
    assert seen["wide"] == []
    assert seen["small"] == 0, "a finger needs 44 px (WCAG 2.2, 2.5.5)"
    assert seen["loaded"] == 0
    brightness = sum(map(int, re.findall(r"\d+", str(seen["back"]))[:3]))
    assert (brightness < 150) == (scheme == "dark")


def test_a_power_trace_is_zoomed_by_keys_and_buttons(page: Path) -> None:
    seen = ask(
        page,
        """const place = document.querySelector(".power");
        place.closest("details").open = true;
        place.scrollIntoView();
        await drawn(); await drawn();
        const zoomer = place.querySelector(".zoomer"), canvas = zoomer.querySelector("canvas");
        const said = () => zoomer.querySelector("output").textContent.replaceAll("\\u00a0", " ");
        const press = (key) => canvas.dispatchEvent(new KeyboardEvent("keydown", {key, cancelable: true}));
        const click = (act) => zoomer.querySelector(`[data-act=${act}]`).click();
        const answers = {hidden: zoomer.hidden, still: place.querySelector(".still").checkVisibility(), whole: said()};
        press("n"); answers.first = said();
        press("n"); answers.second = said();
        press("+"); answers.closer = said();
        press("Home"); answers.home = said();
        click("in"); answers.half = said();
        click("right"); click("right"); click("right"); click("right"); answers.end = said();
        for (let k = 0; k < 40; k++) press("+");
        answers.deepest = said();
        const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        answers.drawn = pixels.some((value) => value > 0);
        return answers;""",
        fragment="#run-1",
    )
    assert seen["hidden"] is False
    assert seen["still"] is False
    assert seen["drawn"] is True
    assert seen["whole"] == seen["home"]
    assert str(seen["whole"]).startswith("0 s to 800.0 ms: ")
    assert "to 21.0 mA, mean 6.0" in str(seen["whole"])
    assert str(seen["first"]).startswith("7.500 ms to 37.50 ms: ")
    assert str(seen["second"]).startswith("47.50 ms to 77.50 ms: ")
    assert str(seen["closer"]).startswith("55.00 ms to 70.00 ms: ")
    assert re.search(r"mean (8\.9|9\.0)", str(seen["closer"]))
    assert str(seen["half"]).startswith("200.0 ms to 600.0 ms: ")
    assert str(seen["end"]).startswith("400.0 ms to 800.0 ms: ")
    assert re.match(r"[\d.]+ ms to [\d.]+ ms: ", str(seen["deepest"]))


def test_a_link_to_a_run_opens_its_section(page: Path) -> None:
    seen = ask(
        page,
        """await drawn();
        return {open: [...document.querySelectorAll("details.run")].map((one) => one.open),
          named: document.querySelectorAll("a[href='#run-3']").length};""",
        fragment="#run-3",
    )
    assert isinstance(seen["open"], list)
    assert seen["open"][2] is True
    assert seen["named"] == 3


def test_every_link_and_control_is_reached_by_tab(page: Path) -> None:
    seen = ask(
        page,
        """for (const one of document.querySelectorAll("details")) one.open = true;
        await drawn();
        const wanted = [...document.querySelectorAll("a[href], button, summary, canvas, .scroll")];
        return {lost: wanted.filter((one) => one.checkVisibility() && one.tabIndex < 0).length,
          unnamed: wanted.filter((one) => !(one.textContent.trim() || one.getAttribute("aria-label"))).length,
          count: wanted.length};""",
    )
    assert seen["lost"] == 0
    assert seen["unnamed"] == 0
    assert int(str(seen["count"])) > 30
