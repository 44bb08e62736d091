"""The energy model of a board as its file has it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from lab.config_fields import Seconds, Strict


class EnergyFigure(Strict):
    """One number of an energy model: where it comes from, and between which figures published measurements lie."""

    value: Annotated[float, Field(ge=0)]
    published: Annotated[tuple[float, float], Field(strict=False, description="lowest and highest")] | None = None
    source: Annotated[str, Field(min_length=1, description="or the word assumed, and why")]

    @field_validator("published")
    @classmethod
    def _in_order(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 <= value[0] <= value[1]:
            raise ValueError(f"published must be the lowest figure and the highest, not {list(value)}")
        return value


class InstructionEnergy(Strict):
    """Energy by what is executed: of every instruction, and so much more of one that loads or stores; of idling.

    The last four are so much more of a multiplication, a division, a branch, and an instruction of the floating-point
    or vector extension; without them such an instruction costs what any one does.
    """

    idle_mw: EnergyFigure
    instruction_nj: EnergyFigure
    load_nj: EnergyFigure
    store_nj: EnergyFigure
    multiply_nj: EnergyFigure | None = None
    divide_nj: EnergyFigure | None = None
    branch_nj: EnergyFigure | None = None
    float_nj: EnergyFigure | None = None


class EnergyModel(Strict):
    """A two-level current model: ``settle_s`` is the time constant of a step between idle and active.

    It feeds the emulated meter. ``classes`` say the same by class of instruction: at one instruction per clock without
    loads and stores both draw the same, to one percent.
    """

    idle_current_a: Annotated[float, Field(ge=0)]
    active_current_a: Annotated[float, Field(ge=0)]
    settle_s: Seconds
    source: Annotated[str, Field(min_length=1)]
    classes: InstructionEnergy | None = None
