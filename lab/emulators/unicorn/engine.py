"""The part of Unicorn's Python binding that is used here, with types: the binding itself has none."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Protocol, cast

import unicorn.unicorn_py3.unicorn as binding
from unicorn import arm_const as registers
from unicorn import unicorn_const as constants

from lab.emulators.unicorn.bus import PAGE_BYTES

__all__ = ["Engine", "EngineError", "c_function", "constants", "hook_c_function", "new_engine", "registers"]

EngineError: type[binding.UcError] = binding.UcError


class Engine(Protocol):
    """One ``unicorn.Uc``; addresses and sizes in bytes."""

    def mem_map_ptr(self, address: int, size: int, perms: int, ptr: int) -> None: ...

    def mmio_map(
        self,
        address: int,
        size: int,
        read_cb: Callable[[Engine, int, int, int], int],
        user_data_read: int,
        write_cb: Callable[[Engine, int, int, int, int], None],
        user_data_write: int,
    ) -> None: ...

    def hook_add(
        self, htype: int, callback: Callable[..., bool | None], user_data: object = None, begin: int = 1, end: int = 0
    ) -> int: ...

    def emu_start(self, begin: int, until: int) -> None: ...

    def emu_stop(self) -> None: ...

    def reg_read(self, reg_id: int) -> int: ...

    def reg_write(self, reg_id: int, value: int) -> None: ...

    def ctl_remove_cache(self, lbound: int, ubound: int) -> None: ...


def new_engine(cpu_model: int) -> Engine:
    """An engine for one of Unicorn's Cortex-M cores (``UC_CPU_ARM_…``)."""
    # UC_MODE_MCLASS would make a Cortex-M33 of every one of them.
    engine = binding.Uc(constants.UC_ARCH_ARM, constants.UC_MODE_THUMB)
    engine.ctl_set_cpu_model(cpu_model)
    engine.ctl_set_page_size(PAGE_BYTES)
    engine.ctl_set_tlb_mode(constants.UC_TLB_VIRTUAL)
    return cast(Engine, engine)


def c_function(name: str) -> int | None:
    """Address of one of Unicorn's own functions."""
    return ctypes.cast(getattr(binding.uclib, name), ctypes.c_void_p).value


def hook_c_function(
    engine: Engine, kind: int, function: int | None, context: ctypes.Structure, first: int, last: int
) -> int:
    """Have translated code call a C function; the binding takes Python ones only. Returns Unicorn's status."""
    handle = ctypes.c_size_t()
    return int(
        binding.uclib.uc_hook_add(
            cast(binding.Uc, engine)._uch,
            ctypes.byref(handle),
            kind,
            ctypes.c_void_p(function),
            ctypes.byref(context),
            ctypes.c_uint64(first),
            ctypes.c_uint64(last),
        )
    )
