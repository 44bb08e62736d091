"""docs/workloads/ has a page for each workload, in one order, and the options of every command on it are taken."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import pytest

from lab.bench import Bench
from lab.comparison import alternatives
from lab.torch_programs import split_accelerator, split_variant
from lab.workloads import all_workloads, get, options
from lab.workloads.training import digits_transfer

DOCS = Path(__file__).parents[2] / "docs"
PAGES = DOCS / "workloads"
WORKLOADS = {one.id: one for one in all_workloads()}
SECTIONS = ("## The method", "## On the device", "## Figures", "## Run it")
BENCH = DOCS.parent / "device_configs" / "emulated.yaml"
OWN_READERS = ("layer-recovery", "spoken-digits")
"""Each has one option, which it reads itself; tests of their own say which values are taken."""


class Taken(Exception):
    """The options were read and allowed; nothing is prepared."""


def commands() -> Iterator[tuple[str, str, str]]:
    """Workload, device and variant of every `lab run` on the pages."""
    for page in sorted(PAGES.glob("*.md")):
        for line in re.findall(r"^(?:\w+=\S+ )?lab run (.*)$", page.read_text(), re.MULTILINE):
            name, *words = shlex.split(line, comments=True)
            named = {flag: value for flag, value in pairwise(words) if flag.startswith("--")}
            size = f"size={named['--size']}" if "--size" in named else ""
            yield name, named["--device"], ",".join(filter(None, (size, named.get("--variant", ""))))


def test_every_workload_has_a_page_and_every_page_a_workload() -> None:
    assert {page.stem for page in PAGES.glob("*.md")} == set(WORKLOADS)
    listed = (DOCS / "workloads.md").read_text()
    assert set(re.findall(r"\]\(workloads/([\w-]+)\.md\)", listed)) == set(WORKLOADS)


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_page_has_its_sections_in_order(name: str) -> None:
    page = (PAGES / f"{name}.md").read_text()
    title, head = page.split("\n\n")[:2]
    assert title == f"# {name}"
    assert f"Family: {WORKLOADS[name].family}" in head
    assert all(system in head for system in WORKLOADS[name].systems)
    headings = [line for line in page.splitlines() if line in SECTIONS]
    assert headings == list(SECTIONS)
    assert "--size paper" in page or "size=paper" in page


@pytest.mark.parametrize(("name", "device", "variant"), sorted(set(commands())))
def test_a_command_of_a_page_is_taken(
    name: str, device: str, variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (entry,) = Bench.load(BENCH).select(device)
    assert entry.board.device_class in WORKLOADS[name].classes
    if name in OWN_READERS:
        return
    original = options.read

    def read(*arguments: object) -> NoReturn:
        original(*arguments)  # type: ignore[arg-type, type-var]
        raise Taken

    monkeypatch.setattr(options, "read", read)
    monkeypatch.setattr(digits_transfer, "read", read)
    for chosen in alternatives(variant) or ("",):
        on_pytorch, own = split_variant(chosen)
        with pytest.raises(Taken):
            get(name).prepare(tmp_path, split_accelerator(own)[1] if on_pytorch else own)
