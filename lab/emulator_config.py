"""Emulators as a board file has them: one model per kind, told apart by ``kind``. See ``docs/emulation.md``."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from lab.config_fields import Bytes, Hertz, Strict, Text


class SharedMemory(Strict):
    """A window of the guest that the host can map."""

    address: Annotated[int, Field(ge=0)]
    bytes: Bytes


class RegisterWrite(Strict):
    """A 32-bit word that is stored somewhere in the guest."""

    address: Annotated[int, Field(ge=0)]
    value: Annotated[int, Field(ge=0, lt=2**32)]


class Watchdog(Strict):
    """A watchdog that the emulator models. ``cmsdk`` is Arm DDI 0479's, which Luminary's parts have as well."""

    kind: Literal["cmsdk"]
    address: Annotated[int, Field(ge=0)]


class QemuEmulator(Strict):
    """A QEMU machine. One instruction takes ``2**icount_shift`` ns of virtual time (``-icount``).

    ``nmi_path`` is the QOM path of the object with the core's NMI line; ``stop_clock`` stops what the firmware measures
    with. A fault whose field is left out cannot be injected.
    """

    kind: Literal["qemu"]
    program: Literal["qemu-system-arm", "qemu-system-riscv32"] = "qemu-system-arm"
    machine: str
    icount_shift: Annotated[int, Field(ge=0, le=10)]
    shared_memory: SharedMemory | None = None
    marker_address: Annotated[int, Field(ge=0)] | None = None
    card_bytes: Annotated[
        Bytes | None, Field(description="an empty SD card in the machine's slot, of so many bytes: a power of two")
    ] = None
    nmi_path: str | None = None
    watchdog: Watchdog | None = None
    stop_clock: Annotated[tuple[RegisterWrite, ...], Field(strict=False)] = ()


class RenodeEmulator(Strict):
    """A Renode platform: ``platform`` is a .repl file, ``uart`` the peripheral that carries the wire."""

    kind: Literal["renode"]
    platform: str
    uart: str
    mips: Annotated[int, Field(gt=0, description="PerformanceInMips: instructions per microsecond of virtual time")]
    iwdg: Annotated[
        int | None, Field(ge=0, description="address of an STM32's independent watchdog, for the fault `watchdog`")
    ] = None


class UnicornEmulator(Strict):
    """Unicorn with our own models of the board's peripherals: ``peripherals`` names the set."""

    kind: Literal["unicorn"]
    peripherals: str


class GuestEmulator(Strict):
    """A 64-bit Arm Linux in QEMU, booted from an image that the lab builds of Debian packages (``lab image build``).

    ``image`` says what is in it; ``model``, ``compatible`` and ``clocks_hz`` are what its device tree says it is. One
    instruction takes ``2**icount_shift`` ns of virtual time whatever the clock is set to, and instructions can be
    counted exactly.
    """

    kind: Literal["qemu-linux"]
    image: Literal["pi", "pi-python", "jetson", "phone"]
    cpu: str = "cortex-a72"
    cpus: Annotated[int, Field(ge=1, le=8)] = 1
    memory_bytes: Bytes = 256 << 20
    icount_shift: Annotated[int, Field(ge=0, le=10)] = 1
    model: Text | None = None
    compatible: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[a-z0-9][A-Za-z0-9,._+-]*$")], ...], Field(strict=False)
    ] = ()
    clocks_hz: Annotated[
        tuple[Hertz, ...], Field(strict=False, description="steps of the cores' clock that cpufreq offers")
    ] = ()


class LoopbackEmulator(Strict):
    """This computer as a device of its own: an OpenSSH server on the loopback address."""

    kind: Literal["sshd"]


EmulatorKind: TypeAlias = Literal["qemu", "renode", "unicorn", "qemu-linux", "sshd"]
McuEmulatorConfig: TypeAlias = QemuEmulator | RenodeEmulator | UnicornEmulator
Emulator: TypeAlias = Annotated[
    QemuEmulator | RenodeEmulator | UnicornEmulator | GuestEmulator | LoopbackEmulator, Field(discriminator="kind")
]
