"""Energy of a processor by what it does: fitted to measurements, with intervals.

    E = P_idle·t + e_instruction·n + e_load·l + e_store·s + e_multiply·m + e_divide·d + e_branch·b + e_float·f

with t the duration and n, l, s the numbers of instructions, loads and stores, and m, d, b, f those of multiplications,
divisions, branches and floating-point instructions: every instruction costs ``e_instruction``, one of a class that much
more. These are the classes that the counting plug-in tells apart. The last four are fitted where the rows tell them
from the rest; where they do not, such an instruction costs what any one does, and the fit says which and why.

The coefficients are found by least squares with none below zero, each row weighted by its energy, since errors of
energy measurements are relative ones. Intervals are those of ordinary least squares (Student's t, 95 %) less what is
below zero, widened to hold the estimate, and widened by the class uncertainty of the meter: its gain is one constant
for all rows and no number of rows averages it out.

Sources:
    V. Tiwari, S. Malik, A. Wolfe, "Power analysis of embedded software: a first step towards software power
    minimization", IEEE Transactions on VLSI Systems 2(4), 1994: energy as a sum over instructions executed.
    C. L. Lawson, R. J. Hanson, *Solving Least Squares Problems*, 1974, chapter 23: the problem solved here; with few
    unknowns all sets of positive ones are tried.
    D. A. Belsley, E. Kuh, R. E. Welsch, *Regression Diagnostics*, 1980, chapter 3: the condition number of columns
    scaled to unit length, harmful from 30 on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lab.errors import ConfigError

NAMES = ("idle", "instruction", "load", "store")
EXTRA = ("multiply", "divide", "branch", "float")
"""Classes that are fitted where the rows tell them from the rest."""
MAX_CONDITION = 30.0
MIN_SPARE_ROWS = 3

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class EnergyRow:
    """One measurement.

    Attributes:
        duration_s: seconds.
        instructions, loads, stores: counts.
        energy_j: gross energy, joule.
        multiplies, divides, branches, floats: counts; 0 where nobody counted them.
    """

    duration_s: float
    instructions: float
    loads: float
    stores: float
    energy_j: float
    multiplies: float = 0.0
    divides: float = 0.0
    branches: float = 0.0
    floats: float = 0.0

    @property
    def amounts(self) -> tuple[float, ...]:
        """What the coefficients of :data:`NAMES` and :data:`EXTRA` are multiplied with, in that order."""
        counted = (self.multiplies, self.divides, self.branches, self.floats)
        return (self.duration_s, self.instructions, self.loads, self.stores, *counted)


@dataclass(frozen=True)
class Coefficient:
    """One of :data:`NAMES` or :data:`EXTRA` with its 95 % interval: watt for ``idle``, joule for the others."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class InstructionFit:
    """The model.

    Attributes:
        idle, instruction, load, store: its coefficients.
        rows: how many measurements.
        worst_residual: greatest relative difference between a measurement and the model.
        condition: condition number of the scaled columns.
        meter_uncertainty: class uncertainty that the intervals hold, relative.
        extra: coefficients of those of :data:`EXTRA` that the rows tell apart.
        left_out: why the others are not among them; by name.
    """

    idle: Coefficient
    instruction: Coefficient
    load: Coefficient
    store: Coefficient
    rows: int
    worst_residual: float
    condition: float
    meter_uncertainty: float
    extra: Mapping[str, Coefficient] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    def energy_j(self, row: EnergyRow) -> float:
        """What the model says of a row, joule."""
        values = [one.value for one in (self.idle, self.instruction, self.load, self.store)]
        values += [self.extra[name].value if name in self.extra else 0.0 for name in EXTRA]
        return float(np.array(row.amounts) @ values)


def fit_instruction_energy(rows: Sequence[EnergyRow], meter_uncertainty: float = 0.0) -> InstructionFit:
    """Fit the model.

    Args:
        rows: measurements of programs that differ in their mix of the four.
        meter_uncertainty: class uncertainty of the meter, relative.

    Raises:
        ConfigError: too few rows, numbers that cannot be, or rows too alike to tell the four apart; says which.
    """
    table = np.array([[*row.amounts, row.energy_j] for row in rows], np.float64).reshape(-1, len(NAMES + EXTRA) + 1)
    _check(table)
    columns = table[:, :-1] / table[:, -1:]
    names, left_out = _told_apart(columns)
    columns = columns[:, [(NAMES + EXTRA).index(name) for name in names]]
    lengths = np.linalg.norm(columns, axis=0)
    scaled = columns / lengths
    condition = float(np.linalg.cond(scaled))
    if condition > MAX_CONDITION:
        raise ConfigError(
            f"the rows are too alike: the condition number of their columns is {condition:.3g}, at most "
            f"{MAX_CONDITION:g} tells the four apart; {_alike(scaled, names)}",
            hint="add programs with another mix: one that waits, one that only computes, one that copies memory, and "
            "one that only reads it",
        )
    ones = np.ones(len(table))
    estimate = non_negative(scaled, ones)
    free = np.linalg.lstsq(scaled, ones, rcond=None)[0]
    spare = len(table) - len(names)
    noise = float(np.linalg.norm(scaled @ free - 1)) / math.sqrt(spare)
    spread = noise * np.sqrt(np.diag(np.linalg.inv(scaled.T @ scaled))) * _student(spare)
    found = []
    for value, middle, half, length in zip(estimate, free, spread, lengths, strict=True):
        low = min(max(middle - half, 0.0), value) * (1 - meter_uncertainty)
        high = max(middle + half, value) * (1 + meter_uncertainty)
        found.append(Coefficient(float(value / length), float(low / length), float(high / length)))
    idle, instruction, load, store, *others = found
    worst = float(np.abs(scaled @ estimate - 1).max())
    extra = dict(zip(names[len(NAMES) :], others, strict=True))
    return InstructionFit(
        idle, instruction, load, store, len(table), worst, condition, meter_uncertainty, extra, left_out
    )


def _told_apart(columns: FloatArray) -> tuple[tuple[str, ...], dict[str, str]]:
    """The classes that the rows tell apart, :data:`NAMES` always among them; of the others, why not.

    Args:
        columns: amounts of :data:`NAMES` and :data:`EXTRA` by energy, shape (rows, 8).
    """
    place = {name: k for k, name in enumerate(NAMES + EXTRA)}
    left_out = {name: "no row has any" for name in EXTRA if not columns[:, place[name]].any()}
    names = [name for name in (*NAMES, *EXTRA) if name not in left_out]

    def condition(chosen: Sequence[str]) -> float:
        part = columns[:, [place[name] for name in chosen]]
        return float(np.linalg.cond(part / np.linalg.norm(part, axis=0)))

    while len(names) > len(NAMES):
        few = len(columns) < len(names) + MIN_SPARE_ROWS
        if not few and condition(names) <= MAX_CONDITION:
            break
        # The one without which the others are told apart best.
        rest = [[name for name in names if name != one] for one in names[len(NAMES) :]]
        best = min(rest, key=condition)
        (gone,) = set(names) - set(best)
        left_out[gone] = (
            f"{len(columns)} rows are too few for {len(names)} unknowns" if few
            else f"the rows do not tell it from the others (condition number {condition(names):.3g} with it)"
        )  # fmt: skip
        names = best
    return tuple(names), left_out


def non_negative(matrix: FloatArray, target: FloatArray) -> FloatArray:
    """The x without negative elements that brings ``matrix @ x`` closest to ``target``; for few columns.

    Args:
        matrix: shape (rows, columns).
        target: shape (rows,).
    """
    count = matrix.shape[1]
    best, distance = np.zeros(count), float(np.linalg.norm(target))
    for size in range(1, count + 1):
        for chosen in itertools.combinations(range(count), size):
            part = np.linalg.lstsq(matrix[:, chosen], target, rcond=None)[0]
            off = float(np.linalg.norm(matrix[:, chosen] @ part - target))
            if (part >= 0).all() and off < distance:
                best = np.zeros(count)
                best[list(chosen)] = part
                distance = off
    return best


def _check(table: FloatArray) -> None:
    least = len(NAMES) + MIN_SPARE_ROWS
    if len(table) < least:
        raise ConfigError(
            f"{len(table)} measurements; at least {least} are needed for {len(NAMES)} unknowns and their intervals",
            hint="measure more programs",
        )
    for k, row in enumerate(table):
        if not np.isfinite(row).all() or (row < 0).any() or row[0] <= 0 or row[-1] <= 0:
            raise ConfigError(
                f"row {k + 1} holds a number that cannot be: {row.tolist()}",
                hint="duration and energy are above 0, counts not below",
            )
    for name, column in zip(NAMES, table.T, strict=False):
        if not column.any():
            raise ConfigError(f"no row has anything of {name!r}", hint="add programs that do, or counts of them")


def _alike(scaled: FloatArray, names: Sequence[str]) -> str:
    """The two columns that go together most."""
    cosines = scaled.T @ scaled
    one, other = max(itertools.combinations(range(len(names)), 2), key=lambda pair: float(cosines[pair]))
    return f"most alike are {names[one]!r} and {names[other]!r} (cosine {cosines[one, other]:.5f})"


def _student(degrees: int) -> float:
    from scipy import stats

    return float(stats.t.ppf(0.975, degrees))
