"""Identification registers, read by pyOCD's own tables of components and access ports."""

from __future__ import annotations

import pytest
from pyocd.coresight.ap import AP_TYPE_MAP
from pyocd.coresight.component_ids import COMPONENT_MAP
from pyocd.coresight.core_ids import CORE_TYPE_NAME

from lab.emulators.probe.rom_table import DWT, FPB, PROCESSORS, ROM_TABLE, SCS, Processor, identification, processor
from lab.emulators.probe.signals import BusFault

_ARM = 0x43B
_NAMES = {"SCS": SCS, "DWT": DWT, "FPB": FPB, "BPU": FPB}


@pytest.fixture(params=PROCESSORS.values(), ids=lambda one: one.name)
def kind(request: pytest.FixtureRequest) -> Processor:
    return request.param


def _peripheral_id(words: dict[int, int], base: int) -> tuple[int, int, int]:
    """Designer, part and class, as the CoreSight architecture puts them together (IHI 0029, B2.2)."""
    pid = [words[base + offset] for offset in (0xFE0, 0xFE4, 0xFE8, 0xFEC, 0xFD0)]
    cid = [words[base + offset] for offset in (0xFF0, 0xFF4, 0xFF8, 0xFFC)]
    assert (cid[0], cid[1] & 0xF, cid[2], cid[3]) == (0x0D, 0, 0x05, 0xB1)
    assert pid[2] & 8, "the designer is a JEDEC code"
    designer = (pid[4] & 0xF) << 8 | (pid[2] & 7) << 4 | pid[1] >> 4
    return designer, (pid[1] & 0xF) << 8 | pid[0], cid[1] >> 4


def test_the_table_lists_the_components_and_ends(kind: Processor) -> None:
    words = identification(kind)
    entries = [words[ROM_TABLE + 4 * index] for index in range(4)]
    assert [(ROM_TABLE + (entry & 0xFFFFF000)) & 0xFFFFFFFF for entry in entries[:3]] == [SCS, DWT, FPB]
    assert [entry & 3 for entry in entries] == [3, 3, 3, 0]
    assert _peripheral_id(words, ROM_TABLE)[2] == 1


def test_pyocd_knows_every_component_for_what_it_is(kind: Processor) -> None:
    words = identification(kind)
    found = set()
    for base in (SCS, DWT, FPB):
        designer, part, component_class = _peripheral_id(words, base)
        architecture = words.get(base + 0xFBC, 0) & 0xFFFF
        name = COMPONENT_MAP[designer, component_class, part, 0, architecture].name
        assert _NAMES[name] == base
        found.add(base)
        assert designer == _ARM
    assert found == {SCS, DWT, FPB}


def test_pyocd_knows_the_access_port_and_its_page(kind: Processor) -> None:
    idr = kind.ap_idr
    key = (idr >> 17 & 0x7FF, idr >> 13 & 0xF, idr >> 4 & 0xF, idr & 0xF)
    name, _, flags = AP_TYPE_MAP[key]
    assert name.startswith("AHB")
    assert kind.page_bytes == (0x1000 if flags & 1 else 0x400)


def test_a_processor_is_known_by_its_cpuid(kind: Processor) -> None:
    cpuid = 0x41 << 24 | kind.part << 4 | 1
    assert processor(cpuid) is kind
    assert any(name == kind.name for name in CORE_TYPE_NAME.values())


def test_an_unknown_processor_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BusFault, match=r"0x410fd140.*known: Cortex-M0, "):
        processor(0x410FD140)
