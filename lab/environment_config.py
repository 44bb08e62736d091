"""What a device with an operating system is set to as a bench file has it, and its Python for workloads in PyTorch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lab.config_fields import Bytes, Hertz, Strict, Text


class PythonPayload(Strict):
    """A Python on the device that runs a workload in PyTorch.

    ``venv`` is a folder that is there, checked and never changed; ``wheels`` a folder on this computer from which an
    environment is made on the device, named by their digests.
    """

    venv: Text | None = None
    wheels: Text | None = None
    interpreter: Text = "python3"

    @model_validator(mode="after")
    def _one_of(self) -> PythonPayload:
        if (self.venv is None) == (self.wheels is None):
            raise ValueError("exactly one of venv and wheels is needed")
        return self


class EnvironmentConfig(Strict):
    """How a device with an operating system is set up while it measures; what is left out stays as it is.

    ``nvpmodel`` is a power mode's number, ``cores`` are those the workload may run on, ``memory_limit_bytes`` what it
    may use. ``wait_cool_c``: the hottest zone may be at most so hot before a run begins.
    """

    governor: Text | None = None
    frequency_hz: Hertz | None = None
    nvpmodel: Annotated[int, Field(ge=0)] | None = None
    jetson_clocks: bool | None = None
    cores: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False, min_length=1)] | None = None
    memory_limit_bytes: Bytes | None = None
    wait_cool_c: Annotated[float, Field(gt=0)] | None = None
    max_load: Annotated[float, Field(gt=0, description="background load, runnable processes per core")] | None = None
    screen: Literal["on", "off"] | None = None
    airplane_mode: bool | None = None
