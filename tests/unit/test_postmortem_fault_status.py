"""Fault registers in words, against the bit tables of the architecture manuals, written down here by hand."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import FaultBit
from lab.postmortem.fault_status import decode, describe_xpsr, exception_name, exception_return

# Armv7-M ARM (DDI 0403E) B3.2.15 and, for STKOF, Armv8-M ARM (DDI 0553) the description of CFSR: mask of each bit.
CFSR = {
    0x00000001: "IACCVIOL",
    0x00000002: "DACCVIOL",
    0x00000008: "MUNSTKERR",
    0x00000010: "MSTKERR",
    0x00000020: "MLSPERR",
    0x00000100: "IBUSERR",
    0x00000200: "PRECISERR",
    0x00000400: "IMPRECISERR",
    0x00000800: "UNSTKERR",
    0x00001000: "STKERR",
    0x00002000: "LSPERR",
    0x00010000: "UNDEFINSTR",
    0x00020000: "INVSTATE",
    0x00040000: "INVPC",
    0x00080000: "NOCP",
    0x00100000: "STKOF",
    0x01000000: "UNALIGNED",
    0x02000000: "DIVBYZERO",
}
MMARVALID, BFARVALID, SFARVALID = 0x80, 0x8000, 0x40
# B3.2.16; C1.6.1 with the PMU of Armv8.1-M; Armv8-M ARM, the description of SFSR.
HFSR = {0x2: "VECTTBL", 0x40000000: "FORCED", 0x80000000: "DEBUGEVT"}
DFSR = {0x1: "HALTED", 0x2: "BKPT", 0x4: "DWTTRAP", 0x8: "VCATCH", 0x10: "EXTERNAL", 0x20: "PMU"}
SFSR = {0x01: "INVEP", 0x02: "INVIS", 0x04: "INVER", 0x08: "AUVIOL", 0x10: "INVTRAN", 0x20: "LSPERR", 0x80: "LSERR"}
TABLES = {"cfsr": CFSR, "hfsr": HFSR, "dfsr": DFSR, "sfsr": SFSR}
ADDRESS_BITS = {"cfsr": MMARVALID | BFARVALID, "hfsr": 0, "dfsr": 0, "sfsr": SFARVALID}
WORDS = st.integers(0, 0xFFFFFFFF)


def names(**registers: int) -> list[tuple[str, str]]:
    return [(fault.register, fault.name) for fault in decode(registers)]


@pytest.mark.parametrize(
    ("register", "mask", "name"),
    [(register, mask, name) for register, table in TABLES.items() for mask, name in table.items()],
)
def test_every_bit_has_its_name_meaning_and_cause(register: str, mask: int, name: str) -> None:
    (fault,) = decode({register: mask})
    assert (fault.register, fault.name) == (register.upper(), name)
    assert fault.meaning
    # What a debugger does has no cause to look for.
    assert bool(fault.cause) is (register != "dfsr")


@given(register=st.sampled_from(sorted(TABLES)), value=WORDS)
def test_every_bit_is_told_once_and_reserved_ones_are_called_so(register: str, value: int) -> None:
    faults = decode({register: value})
    told = 0
    for fault in faults:
        assert fault.register == register.upper()
        if fault.name.startswith("bit "):
            mask = 1 << int(fault.name.removeprefix("bit "))
            assert mask not in TABLES[register]
            assert fault.meaning.startswith("reserved")
        else:
            (mask,) = (mask for mask, name in TABLES[register].items() if name == fault.name)
        assert not told & mask
        told |= mask
    assert told == value & ~ADDRESS_BITS[register]


@given(registers=st.dictionaries(st.sampled_from(["cfsr", "hfsr", "dfsr", "afsr", "sfsr", "mmfar", "bfar", "sfar",
                                                  "mcause", "mtval", "pc", "odd"]), WORDS))  # fmt: skip
def test_whatever_comes_is_told_in_words(registers: dict[str, int]) -> None:
    for fault in decode(registers):
        assert isinstance(fault, FaultBit)
        assert fault.name
        assert fault.meaning
        assert fault.register.lower() in registers


@pytest.mark.parametrize(
    ("register", "status", "valid"),
    [("mmfar", "cfsr", MMARVALID), ("bfar", "cfsr", BFARVALID), ("sfar", "sfsr", SFARVALID)],
)
def test_an_address_is_told_where_it_is_valid(register: str, status: str, valid: int) -> None:
    assert names(**{status: valid, register: 0x1234}) == [(register.upper(), "0x00001234")]
    assert names(**{status: 0, register: 0x1234}) == []
    assert names(**{status: valid}) == []


def test_registers_of_a_real_crash() -> None:
    """A load from nowhere that escalated: FORCED, PRECISERR and the address."""
    assert names(cfsr=0x8200, hfsr=0x40000000, bfar=0x5FFF0000, mmfar=0x5FFF0000) == [
        ("CFSR", "PRECISERR"),
        ("HFSR", "FORCED"),
        ("BFAR", "0x5fff0000"),
    ]


def test_afsr_is_the_chips_own() -> None:
    assert names(afsr=0) == []
    (fault,) = decode({"afsr": 3})
    assert "its manual" in fault.meaning


# ---- xPSR ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (0, "thread mode"), (2, "NMI"), (3, "HardFault"), (4, "MemManage"), (5, "BusFault"), (6, "UsageFault"),
        (7, "SecureFault"), (8, "reserved exception 8"), (11, "SVCall"), (12, "DebugMonitor"),
        (13, "reserved exception 13"), (14, "PendSV"), (15, "SysTick"), (16, "interrupt 0"), (511, "interrupt 495"),
    ],
)  # fmt: skip
def test_exception_numbers(number: int, name: str) -> None:
    """Armv7-M ARM table B1-4."""
    assert exception_name(0x61000000 | number) == name


@pytest.mark.parametrize(
    ("xpsr", "words"),
    [
        (0x01000000, "no flags, thread mode"),
        (0x61000003, "ZC, HardFault"),
        (0xF9000010, "NZCVQ, interrupt 0"),
        (0x00000000, "no flags, not in Thumb state, thread mode"),
        (0x01000400, "no flags, in an IT block or an interrupted load or store of several registers, thread mode"),
        (0x03000000, "no flags, in an IT block or an interrupted load or store of several registers, thread mode"),
        (0x010F0200, "no flags, thread mode"),
    ],
)
def test_xpsr(xpsr: int, words: str) -> None:
    assert describe_xpsr(xpsr) == words


# ---- EXC_RETURN ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "thread", "process", "floats"),
    [
        (0xFFFFFFF1, False, False, False),
        (0xFFFFFFF9, True, False, False),
        (0xFFFFFFFD, True, True, False),
        (0xFFFFFFE1, False, False, True),
        (0xFFFFFFE9, True, False, True),
        (0xFFFFFFED, True, True, True),
    ],
)
def test_the_six_values_of_armv7m(value: int, thread: bool, process: bool, floats: bool) -> None:
    """Armv7-M ARM tables B1-8 and B1-9."""
    returned = exception_return(value)
    assert returned is not None
    assert (returned.to_thread, returned.process_stack, returned.float_frame) == (thread, process, floats)
    assert not returned.callee_saved
    assert ("process stack" in str(returned)) is process
    assert ("thread mode" in str(returned)) is thread


@pytest.mark.parametrize(
    ("value", "secure", "callee_saved"),
    [
        (0xFFFFFFFD, True, False),  # secure interrupted by secure
        (0xFFFFFFFC, True, True),  # secure interrupted by non-secure: all registers were put away
        (0xFFFFFFDD, True, True),  # secure by secure, after a tail-chain: they still lie there
        (0xFFFFFFBC, False, False),  # non-secure interrupted by non-secure
        (0xFFFFFFBD, False, False),  # non-secure interrupted by secure
    ],
)
def test_values_of_armv8m(value: int, secure: bool, callee_saved: bool) -> None:
    """Armv8-M ARM, PopStack(): ``toSecure && (EXC_RETURN.ES == 0 || EXC_RETURN.DCRS == 0)``."""
    returned = exception_return(value)
    assert returned is not None
    assert (returned.secure, returned.callee_saved) == (secure, callee_saved)


@given(st.integers(0, 0xFFFFFF7F))
def test_addresses_are_no_exc_return(address: int) -> None:
    assert exception_return(address) is None


def test_the_link_register_at_reset_is_no_exc_return() -> None:
    assert exception_return(0xFFFFFFFF) is None


# ---- RISC-V -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mcause", "expected"),
    [
        (2, [("MCAUSE", "illegal instruction")]),
        (5, [("MCAUSE", "load access fault"), ("MTVAL", "0x40000000")]),
        (7, [("MCAUSE", "store/AMO access fault"), ("MTVAL", "0x40000000")]),
        (10, [("MCAUSE", "code 10")]),
        (0x80000007, [("MCAUSE", "interrupt 7")]),
    ],
)
def test_mcause(mcause: int, expected: list[tuple[str, str]]) -> None:
    """RISC-V Privileged Architecture 1.12, table 3.6."""
    mtval = 0x40000000 if mcause in (5, 7) else 0
    assert names(mcause=mcause, mtval=mtval) == expected


# ---- the hosted runner ----------------------------------------------------------------------------------------------


def test_signals_are_those_of_this_system() -> None:
    for one in (signal.SIGILL, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV):
        assert names(signal=int(one), address_low=0x1000, address_high=0x7FFF)[0] == ("SIGNAL", one.name)
    assert names(signal=11, address_low=0xDEAD0000, address_high=0x7FFF)[1] == ("ADDRESS", "0x7fffdead0000")
    assert names(signal=3)[0] == ("SIGNAL", "number 3")
