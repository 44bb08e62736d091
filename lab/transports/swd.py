"""A board behind a debug probe (SWD), through pyOCD: flash, reset, registers, memory, breakpoints.

Importing this module imports pyOCD, which takes half a second: others import it through
:func:`lab.transports.swd_settings.open_swd`.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeAlias

from pyocd.core import exceptions as pyocd_errors
from pyocd.core.helpers import ConnectHelper
from pyocd.core.memory_map import MemoryType
from pyocd.core.session import Session
from pyocd.core.target import Target
from pyocd.coresight.core_ids import ARM_CortexM4, ARM_CortexM7, CoreArchitecture, CortexMExtension
from pyocd.flash.loader import MemoryLoader
from pyocd.gdbserver.gdbserver import GDBServer
from pyocd.probe.debug_probe import DebugProbe

from lab.errors import ConfigError, InfrastructureError, LabError, ProbeError
from lab.progress import step
from lab.transports.swd_errors import CONNECTING, FlashUse, explain, in_use, lost, no_probe, unknown_target
from lab.transports.swd_image import (
    Architecture,
    Core,
    FloatUnit,
    Image,
    Range,
    check_core,
    check_place,
    digest_of,
)
from lab.transports.swd_log import PROBE_LOG, keep_log
from lab.transports.swd_settings import Connect, ResetKind, SwdSettings

CoreState: TypeAlias = Literal["running", "halted", "reset", "sleeping", "lockup"]
BreakpointKind: TypeAlias = Literal["auto", "hardware", "software"]
Access: TypeAlias = Literal["read", "write", "read-write"]

CORE_REGISTERS = (*(f"r{number}" for number in range(13)), "sp", "lr", "pc", "xpsr", "msp", "psp", "control")
_MAINLINE_REGISTERS = ("primask", "basepri", "faultmask")
# What matters of its warnings is an error of ours; the rest is evidence where something fails.
keep_log()

_read_packs: set[Path] = set()
_CHUNK_BYTES = 1 << 16
_FIRST_LOOK_BYTES = 1 << 10
_POLL_S = 0.002

_RESETS: Mapping[ResetKind, Target.ResetType] = {
    "system": Target.ResetType.SYSTEM,
    "core": Target.ResetType.VECTRESET,
    "pin": Target.ResetType.NSRST,
    "emulated": Target.ResetType.EMULATED,
}
_BREAKPOINTS: Mapping[BreakpointKind, Target.BreakpointType] = {
    "auto": Target.BreakpointType.AUTO,
    "hardware": Target.BreakpointType.HW,
    "software": Target.BreakpointType.SW,
}
_WATCHPOINTS: Mapping[Access, Target.WatchpointType] = {
    "read": Target.WatchpointType.READ,
    "write": Target.WatchpointType.WRITE,
    "read-write": Target.WatchpointType.READ_WRITE,
}
_STATES: Mapping[Target.State, CoreState] = {
    Target.State.RUNNING: "running",
    Target.State.HALTED: "halted",
    Target.State.RESET: "reset",
    Target.State.SLEEPING: "sleeping",
    Target.State.LOCKUP: "lockup",
}


@dataclass(frozen=True)
class Flashed:
    """What came of a deployment.

    Attributes:
        image_bytes: bytes of the image.
        programmed_bytes: bytes that were written; 0 where flash held the image already.
        digest: SHA-256 of what was read back, which is that of the image.
        program_s: seconds for erasing and writing.
        read_s: seconds for reading, before and after.
    """

    image_bytes: int
    programmed_bytes: int
    digest: str
    program_s: float
    read_s: float


class Swd:
    """An open session with one board; a context manager that closes it.

    While it is open nobody else can use the probe. Every method raises :class:`lab.errors.ProbeError` when the probe
    is lost or the board stops answering. Calls from several threads take turns.

    Args:
        settings: how the board is reached.
        connect: see :func:`lab.transports.swd_settings.open_swd`.
        probe: the probe itself; None looks for the one with the unique id.

    Attributes:
        settings: as given.
        core: the core, as it says of itself.
    """

    def __init__(self, settings: SwdSettings, connect: Connect = "halt", probe: DebugProbe | None = None) -> None:
        self.settings = settings
        self._lock = threading.RLock()
        self._resume_at_end = True
        self._session = _session(settings, connect, probe)
        try:
            with self._told(CONNECTING):
                self._session.open()
                self.core = _core_of(self._session)
        except LabError:
            self._abandon()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- flash -----------------------------------------------------------------------------------------------

    @property
    def flash_ranges(self) -> tuple[Range, ...]:
        """Flash of the part that holds programs."""
        return self._ranges(MemoryType.FLASH)

    @property
    def ram_ranges(self) -> tuple[Range, ...]:
        """RAM of the part."""
        return self._ranges(MemoryType.RAM)

    def _ranges(self, kind: MemoryType) -> tuple[Range, ...]:
        regions = self._session.target.memory_map.iter_matching_regions(type=kind)
        return tuple(Range(one.start, one.end + 1) for one in regions)

    def flash(self, image: Image) -> Flashed:
        """Put an image into flash, sector by sector, and read it back; the core is left at its reset vector.

        Flash that holds the image already is not written again: it wears out. Reading back is never left out, since
        a flash algorithm may report success and have written nothing.

        Raises:
            ConfigError: the image is for another core, or lies outside flash; nothing was written.
            ProbeError: the probe or the board was lost, flash refuses to be written (locked?), or reads back
                different; the first address that does is named.
        """
        check_core(image, self.core)
        check_place(image, self.flash_ranges, self.settings.target)
        # What a write that breaks off leaves behind is no program to be let loose.
        self._resume_at_end = False
        self.reset("system", halt=True)
        started = time.perf_counter()
        held = self.holds(image)
        looked = programmed = time.perf_counter()
        if not held:
            self._program(image)
            programmed = time.perf_counter()
            self._verify(image)
        verified = time.perf_counter()
        self.reset("system", halt=True)
        self._resume_at_end = True
        read_s = (looked - started) + (verified - programmed)
        return Flashed(image.size, 0 if held else image.size, image.digest, programmed - looked, read_s)

    def holds(self, image: Image) -> bool:
        """Whether flash holds an image; looks no further than the first difference."""
        for segment in image.segments:
            position, size = 0, _FIRST_LOOK_BYTES
            while position < len(segment.data):
                expected = segment.data[position : position + size]
                if self._read_flash(segment.address + position, len(expected)) != expected:
                    return False
                position, size = position + size, _CHUNK_BYTES
        return True

    def _program(self, image: Image) -> None:
        target = self._session.target
        title = f"flashing {self.settings.target} over {self.settings.unique_id}"
        with step(title, quiet_below_s=2.0) as progress, self._told("programming", "write"):
            loader = MemoryLoader(
                self._session,
                progress=lambda share: progress.update(int(share * image.size), image.size, "bytes"),
                chip_erase="sector",
                smart_flash=False,
                keep_unwritten=False,
            )
            for segment in image.segments:
                loader.add_data(segment.address, list(segment.data))
            loader.commit()
            # The algorithm leaves flash in its programming mode until it is told that all is done.
            for region in target.memory_map.iter_matching_regions(type=MemoryType.FLASH):
                if region.flash is not None:
                    region.flash.cleanup()

    def _verify(self, image: Image) -> None:
        read = [self._read_flash(segment.address, len(segment.data)) for segment in image.segments]
        digest = digest_of(read)
        if digest == image.digest:
            return
        differing = [
            (segment.address + offset, wanted, got)
            for segment, data in zip(image.segments, read, strict=True)
            for offset, (wanted, got) in enumerate(zip(segment.data, data, strict=True))
            if wanted != got
        ]
        address, wanted, got = differing[0]
        raise ProbeError(
            f"{self.settings.target} reads back different from {image.path}: first at {address:#010x}, "
            f"{got:#04x} instead of {wanted:#04x}; {len(differing)} of {image.size} bytes differ "
            f"(SHA-256 {digest[:12]}, not {image.digest[:12]})",
            hint="flash is worn out or write-protected, or the flash algorithm is not for this part: check "
            "pyocd_target, deploy again at a lower frequency",
            transient=True,
        )

    # ---- run control -----------------------------------------------------------------------------------------

    @property
    def state(self) -> CoreState:
        """What the core does now."""
        with self._told("asking for the core's state"):
            return _STATES[self._session.target.get_state()]

    def halt(self) -> None:
        """Stop the core."""
        with self._told("halting"):
            self._session.target.halt()
        self.wait_for_halt(1.0)

    def resume(self) -> None:
        """Let the core go on from where it is."""
        with self._told("resuming"):
            self._session.target.resume()

    def step(self) -> None:
        """Execute one instruction with interrupts masked; the core must be halted."""
        with self._told("stepping"):
            self._session.target.step()

    def reset(self, kind: ResetKind = "system", *, halt: bool = False) -> None:
        """Reset.

        Args:
            kind: ``system`` (AIRCR.SYSRESETREQ), ``core`` (AIRCR.VECTRESET; Armv7-M only, peripherals keep their
                state), ``pin`` (the probe's reset line) or ``emulated`` (registers are written, nothing is reset).
            halt: stop at the first instruction; else the core runs.

        Raises:
            ConfigError: this core has no such reset.
        """
        if kind == "core" and self.core.architecture not in ("v7-M", "v7E-M"):
            raise ConfigError(
                f"{self.core.name} has no core reset (AIRCR.VECTRESET is of Armv7-M)",
                hint="--kind system resets core and peripherals",
            )
        with self._told(f"resetting ({kind})"):
            if halt:
                self._session.target.reset_and_halt(_RESETS[kind])
            else:
                self._session.target.reset(_RESETS[kind])

    def wait_for_halt(self, timeout_s: float) -> bool:
        """Wait until the core halts, at a breakpoint for instance; whether it did."""
        deadline = time.monotonic() + timeout_s
        while self.state != "halted":
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Halt the core for a look around; it goes on afterwards where it was running before."""
        was_halted = self.state == "halted"
        if not was_halted:
            self.halt()
        try:
            yield
        finally:
            if not was_halted:
                self.resume()

    # ---- registers and memory --------------------------------------------------------------------------------

    def registers(self) -> Mapping[str, int]:
        """Core registers, lower-case names (``r0`` … ``sp lr pc xpsr msp psp control`` and, on Armv7-M and later
        mainline cores, ``primask basepri faultmask``). A running core is halted for it."""
        mainline = self.core.architecture not in ("v6-M", "v8-M.base")
        names = [*CORE_REGISTERS, *(_MAINLINE_REGISTERS if mainline else ("primask",))]
        with self.halted(), self._told("reading registers"):
            values = self._session.target.read_core_registers_raw(names)
        return dict(zip(names, map(int, values), strict=True))

    def read_register(self, name: str) -> int:
        """One register of a halted core, as its bits; ``s0`` … and ``fpscr`` too where there is a floating-point unit.

        Raises:
            ConfigError: the core has no such register.
        """
        with self._told(f"reading {name}"), self._known_register(name):
            return int(self._session.target.read_core_register_raw(name))

    def write_register(self, name: str, value: int) -> None:
        """Set one register of a halted core.

        Raises:
            ConfigError: the core has no such register.
        """
        with self._told(f"writing {name}"), self._known_register(name):
            self._session.target.write_core_register_raw(name, value)

    @contextmanager
    def _known_register(self, name: str) -> Iterator[None]:
        try:
            yield
        except KeyError as error:
            hint = "r0 to r12, sp, lr, pc, xpsr, msp, psp, control …"
            raise ConfigError(f"{self.core.name} has no register {name!r}", hint=hint) from error

    def read_memory(self, address: int, size: int) -> bytes:
        """Bytes of memory, also while the core runs; software breakpoints are not seen.

        Raises:
            ProbeError: nothing answers there; the address is named.
        """
        return self._read(self._session.target.read_memory_block32, address, size)

    def _read_flash(self, address: int, size: int) -> bytes:
        # No software breakpoints lie in flash, so the words need not be looked through for them one by one.
        return self._read(self._session.target.selected_core.ap.read_memory_block32, address, size, "read")

    def _read(
        self, words_at: Callable[[int, int], Sequence[int]], address: int, size: int, flash: FlashUse = ""
    ) -> bytes:
        start, end = address & ~3, (address + size + 3) & ~3
        words = (end - start) // 4
        with self._told(f"reading {size} bytes at {address:#010x}", flash):
            read = words_at(start, words) if words else ()
        return struct.pack(f"<{words}I", *read)[address - start : address - start + size]

    def write_memory(self, address: int, data: bytes) -> None:
        """Place bytes in RAM, also while the core runs; see :class:`lab.transports.base.MemoryPort`.

        Raises:
            ProbeError: nothing answers there; the address is named.
        """
        aligned = address % 4 == 0 and len(data) % 4 == 0
        with self._told(f"writing {len(data)} bytes at {address:#010x}"):
            if aligned:
                self._session.target.write_memory_block32(address, list(struct.unpack(f"<{len(data) // 4}I", data)))
            else:
                self._session.target.write_memory_block8(address, list(data))

    # ---- breakpoints -----------------------------------------------------------------------------------------

    def set_breakpoint(self, address: int, kind: BreakpointKind = "auto") -> None:
        """Stop before the instruction at ``address``.

        In flash every kind takes one of the core's few hardware breakpoints; code in RAM has room for as many software
        breakpoints as are wanted.

        Raises:
            ProbeError: none of that kind can be had there, or all are taken.
        """
        with self._told(f"setting a breakpoint at {address:#010x}"):
            placed = self._session.target.set_breakpoint(address, _BREAKPOINTS[kind])
        if not placed:
            raise ProbeError(
                f"no {kind} breakpoint can be set at {address:#010x}: the core's are taken, or none reaches there",
                hint="remove another one; code in RAM can have software breakpoints",
            )

    def remove_breakpoint(self, address: int) -> None:
        """Take a breakpoint away; nothing happens where there is none."""
        with self._told(f"removing the breakpoint at {address:#010x}"):
            self._session.target.remove_breakpoint(address)

    def set_watchpoint(self, address: int, size: Literal[1, 2, 4], access: Access) -> None:
        """Stop after data at ``address``, a multiple of ``size``, was accessed.

        Raises:
            ProbeError: the core has none, or all are taken.
        """
        with self._told(f"setting a watchpoint at {address:#010x}"):
            placed = self._session.target.set_watchpoint(address, size, _WATCHPOINTS[access])
        if not placed:
            raise ProbeError(f"no {access} watchpoint can be set at {address:#010x}: all are taken, or there are none")

    def remove_watchpoint(self, address: int, size: Literal[1, 2, 4], access: Access) -> None:
        """Take a watchpoint away."""
        with self._told(f"removing the watchpoint at {address:#010x}"):
            self._session.target.remove_watchpoint(address, size, _WATCHPOINTS[access])

    # ---- gdb -------------------------------------------------------------------------------------------------

    @contextmanager
    def serving_gdb(self, port: int) -> Iterator[Callable[[], bool]]:
        """Serve gdb's remote protocol on ``port`` of this computer; yields a function that says whether it still does.

        Raises:
            InfrastructureError: the port is taken.
        """
        self._session.options["gdbserver_port"] = port
        self._session.options["persist"] = True
        # Nothing here speaks semihosting, whose console would be a second port that may be taken.
        self._session.options["stdio_mode"] = "off"
        try:
            server = GDBServer(self._session, core=0, target_running=self.state != "halted")
        except OSError as error:
            raise InfrastructureError(
                f"port {port} cannot be served: {error.strerror}", hint="name another one with --port"
            ) from error
        self._session.gdbservers[0] = server
        server.start()
        try:
            yield server.is_alive
        finally:
            server.stop()

    # ---- end -------------------------------------------------------------------------------------------------

    def close(self, *, resume: bool | None = None) -> None:
        """Let go of the probe; safe to call twice.

        Args:
            resume: whether the core runs afterwards, with its debug unit off; by default it does unless the last
                deployment failed.
        """
        with self._lock:
            if not self._session.is_open:
                return
            self._session.options["resume_on_disconnect"] = self._resume_at_end if resume is None else resume
            try:
                self._session.close()
            except (pyocd_errors.Error, OSError):
                self._abandon()

    def _abandon(self) -> None:
        """Close what is left of a session whose probe or board has gone: it can only fail, and has said so already."""
        self._session.context_state.suppress_disconnect_error = True
        self._session.options["resume_on_disconnect"] = False
        self._session.close()

    @contextmanager
    def _told(self, doing: str, flash: FlashUse = "") -> Iterator[None]:
        """Errors of pyOCD as errors of the lab, which say who was doing what to which board."""
        with self._lock:
            try:
                yield
            except pyocd_errors.Error as error:
                PROBE_LOG.note(f"{self.settings.unique_id}: failed while {doing}: {type(error).__name__}: {error}")
                raise explain(error, doing, self.settings, flash) from error
            except OSError as error:
                # Of the USB library, where a probe vanishes.
                PROBE_LOG.note(f"{self.settings.unique_id}: lost while {doing}: {error}")
                raise lost(error, doing, self.settings, flash) from error


def _session(settings: SwdSettings, connect: Connect, given: DebugProbe | None) -> Session:
    # pyOCD keeps the targets of a pack, and reading one takes it a second.
    pack = None if settings.pack is None or settings.pack in _read_packs else str(settings.pack)
    try:
        probe = given or _probe(settings)
        session = Session(
            probe,
            # The bench file alone says how: pyocd.yaml or pyocd_user.py in the working directory would change it
            # unseen, and so would PYOCD_PROJECT_DIR, to which pyOCD changes the directory.
            no_config=True,
            user_script=os.devnull,
            project_dir=os.getcwd(),
            # Unlocking erases the whole part. That is for the user to ask for.
            auto_unlock=False,
            target_override=settings.target,
            pack=pack,
            frequency=settings.frequency_hz,
            connect_mode=connect,
            # The firmware reports its faults itself; a core that is caught on its way to the handler cannot.
            vector_catch="none",
            hide_programming_progress=True,
        )
    except pyocd_errors.TargetSupportError as error:
        raise unknown_target(settings, error) from error
    except pyocd_errors.Error as error:
        raise explain(error, "looking for the probe", settings) from error
    except OSError as error:
        raise ConfigError(f"CMSIS-Pack {settings.pack} cannot be read: {error}", hint="correct `pack:`") from error
    if settings.pack is not None:
        _read_packs.add(settings.pack)
    return session


def _probe(settings: SwdSettings) -> DebugProbe:
    # Asked for one id, pyOCD takes the first that matches, also in part; a bench may not depend on which that is.
    attached = ConnectHelper.get_all_connected_probes(blocking=False, print_wait_message=False)
    found = [one for one in attached if one.unique_id == settings.unique_id]
    if len(found) != 1:
        raise no_probe(settings, [(one.unique_id, one.description) for one in attached], len(found))
    if found[0].is_open:
        raise in_use(settings)
    return found[0]


def _core_of(session: Session) -> Core:
    core = session.target.selected_core
    if core is None or core.core_type == 0:
        # pyOCD goes on where a register could not be read while it looked around.
        raise ProbeError("the core says nothing of itself (CPUID reads 0)", hint="connect again", transient=True)
    extensions = set(core.extensions)
    architecture: Architecture
    match core.architecture:
        case CoreArchitecture.ARMv6M:
            architecture = "v6-M"
        case CoreArchitecture.ARMv7M:
            # Both always have the DSP instructions; ID_ISAR3 tells so on silicon, not on every emulator.
            architecture = "v7E-M" if core.core_type in (ARM_CortexM4, ARM_CortexM7) else "v7-M"
        case CoreArchitecture.ARMv8M_BASE:
            architecture = "v8-M.base"
        case _:
            architecture = "v8.1-M.main" if tuple(core.architecture_version) >= (8, 1) else "v8-M.main"
    unit: FloatUnit = "none"
    if core.has_fpu:
        unit = "FPv5-SP" if CortexMExtension.FPU_V5 in extensions else "FPv4-SP"
        unit = "FPv5-DP" if CortexMExtension.FPU_DP in extensions else unit
    vectors = CortexMExtension.MVE in extensions
    described = [architecture, *([unit] if unit != "none" else []), *(["MVE"] if vectors else [])]
    return Core(f"a {core.name} ({', '.join(described)})", architecture, unit, vectors)
