"""What a build yields and a device runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

Accelerator: TypeAlias = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class MemoryUse:
    """Sizes read from the ELF, bytes.

    Attributes:
        flash_bytes: code, constants and initialised data.
        weights_bytes: the part of ``flash_bytes`` that is model weights.
        static_ram_bytes: ``.data`` and ``.bss`` without the arena, the stack and the sample store.
        arena_bytes: the model's arena.
        stack_bytes: reserved stack.
        variables_bytes: RAM of the model's variables, which training changes; not part of ``static_ram_bytes``.
    """

    flash_bytes: int
    weights_bytes: int
    static_ram_bytes: int
    arena_bytes: int
    stack_bytes: int
    variables_bytes: int = 0


@dataclass(frozen=True)
class Artifact:
    """A runnable image, content-addressed.

    Attributes:
        path: the ELF.
        board: board kind it was built for.
        build_id: first 16 hex digits of the digest of everything that went into the build; the firmware reports it.
        digest: SHA-256 of the ELF, hex.
        toolchain: compiler and version.
        flags: compiler flags that matter for speed.
        memory: sizes from the ELF.
        cached: whether the build was served from the cache.
        runtime: what runs it: itself, or a Python on the device (:mod:`lab.devices.python_payload`).
        accelerator: what PyTorch computes on there; of no matter where the image runs itself.
    """

    path: Path
    board: str
    build_id: str
    digest: str
    toolchain: str
    flags: str
    memory: MemoryUse
    cached: bool = False
    runtime: Literal["native", "pytorch"] = "native"
    accelerator: Accelerator = "cpu"
