"""The energy model by class of instruction: recovered from data with known truth, refused where it cannot be."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from lab.errors import ConfigError
from lab.inventory import board_files, load_board
from lab.paths import config_dir
from measurements.instruction_energy import (
    NAMES,
    Coefficient,
    EnergyRow,
    InstructionFit,
    fit_instruction_energy,
    non_negative,
)

TRUTH = (3.6e-3, 0.22e-9, 0.11e-9, 0.17e-9)


def programs(seed: int, count: int, noise: float, truth: tuple[float, ...] = TRUTH) -> list[EnergyRow]:
    """Programs of many mixes: waiting, computing, reading, writing."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        instructions = 10 ** random.uniform(5, 7)
        loads, stores = instructions * random.uniform(0, 0.6), instructions * random.uniform(0, 0.4)
        duration = instructions * 40e-9 * 10 ** random.uniform(0, 1.3)
        energy = float(np.dot(truth, (duration, instructions, loads, stores)))
        rows.append(EnergyRow(duration, instructions, loads, stores, energy * (1 + noise * random.standard_normal())))
    return rows


def coefficients(fit: InstructionFit) -> list[Coefficient]:
    return [fit.idle, fit.instruction, fit.load, fit.store]


def test_without_noise_the_truth_is_found_exactly() -> None:
    fit = fit_instruction_energy(programs(1, 12, 0.0))
    for one, true in zip(coefficients(fit), TRUTH, strict=True):
        assert one.value == pytest.approx(true, rel=1e-9)
        assert one.high - one.low < 1e-6 * true
    assert fit.worst_residual < 1e-9


def test_the_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """95 % of 1200 intervals; the binomial's own spread is 0.6 %."""
    inside = total = 0
    for seed in range(300):
        fit = fit_instruction_energy(programs(seed, 30, 0.02))
        for one, true in zip(coefficients(fit), TRUTH, strict=True):
            inside += one.low <= true <= one.high
            total += 1
            assert one.low <= one.value <= one.high
    assert 0.93 <= inside / total <= 0.975


def test_a_class_that_costs_nothing_is_not_made_negative() -> None:
    truth = (3.6e-3, 0.22e-9, 0.0, 0.17e-9)
    for seed in range(20):
        fit = fit_instruction_energy(programs(seed, 25, 0.03, truth))
        assert fit.load.value >= 0
        assert fit.load.low == 0.0
        assert fit.load.high > 0


def test_more_rows_narrow_the_interval_and_the_meters_class_stays() -> None:
    few, many = (fit_instruction_energy(programs(5, count, 0.02)).instruction for count in (12, 200))
    assert many.high - many.low < 0.5 * (few.high - few.low)
    classed = fit_instruction_energy(programs(5, 200, 0.02), meter_uncertainty=0.1).instruction
    assert classed.low == pytest.approx(many.low * 0.9)
    assert classed.high == pytest.approx(many.high * 1.1)


def test_the_model_predicts_what_it_was_not_fitted_to() -> None:
    fit = fit_instruction_energy(programs(7, 60, 0.01))
    for row in programs(8, 20, 0.0):
        assert fit.energy_j(row) == pytest.approx(row.energy_j, rel=0.03)


def test_programs_of_one_mix_are_refused_with_the_reason() -> None:
    """As an emulator in virtual time gives them: every instruction takes as long, every network loads as often."""
    rows = [EnergyRow(n * 40e-9, n, 0.31 * n, 0.12 * n, n * 0.37e-9) for n in np.linspace(1e5, 1e6, 20)]
    with pytest.raises(ConfigError, match="too alike") as caught:
        fit_instruction_energy(rows)
    assert "condition number" in str(caught.value)
    assert "one that waits" in str(caught.value)


EXTRA_TRUTH = {"multiply": 0.15e-9, "divide": 1.9e-9, "branch": 0.3e-9, "float": 0.4e-9}
COUNTS = {"multiply": "multiplies", "divide": "divides", "branch": "branches", "float": "floats"}


def richer(seed: int, count: int, noise: float, most: dict[str, float] | None = None) -> list[EnergyRow]:
    """Programs that multiply, divide, branch and compute in floating point as well, each up to a share of their own."""
    random = np.random.default_rng(seed + 1000)
    shares = {"multiply": 0.4, "divide": 0.1, "branch": 0.2, "float": 0.5} | (most or {})
    rows = []
    for row in programs(seed, count, 0.0):
        amounts = {name: row.instructions * random.uniform(0, share) for name, share in shares.items()}
        energy = row.energy_j + sum(EXTRA_TRUTH[name] * amount for name, amount in amounts.items())
        energy *= 1 + noise * random.standard_normal()
        counted = {COUNTS[name]: amount for name, amount in amounts.items()}
        rows.append(replace(row, energy_j=energy, **counted))
    return rows


def test_classes_of_instructions_are_found_exactly_without_noise() -> None:
    fit = fit_instruction_energy(richer(1, 30, 0.0))
    assert fit.left_out == {}
    for name, true in EXTRA_TRUTH.items():
        assert fit.extra[name].value == pytest.approx(true, rel=1e-8)
    for one, true in zip(coefficients(fit), TRUTH, strict=True):
        assert one.value == pytest.approx(true, rel=1e-8)
    for row in richer(2, 5, 0.0):
        assert fit.energy_j(row) == pytest.approx(row.energy_j, rel=1e-8)


def test_the_intervals_of_classes_hold_the_truth() -> None:
    inside = total = 0
    for seed in range(60):
        fit = fit_instruction_energy(richer(seed, 60, 0.02))
        for name, one in fit.extra.items():
            inside += one.low <= EXTRA_TRUTH[name] <= one.high
            total += 1
    assert total >= 200
    assert 0.92 <= inside / total <= 0.98


def test_a_class_that_the_rows_do_not_tell_apart_is_left_out_and_named() -> None:
    """Every program multiplies once for each load, as kernels of one kind do."""
    rows = [replace(row, multiplies=row.loads) for row in richer(3, 40, 0.005)]
    fit = fit_instruction_energy(rows)
    assert set(fit.extra) == {"divide", "branch", "float"}
    assert "do not tell it from the others" in fit.left_out["multiply"]
    # What multiplies is then in what goes along with it; nothing else is touched.
    assert fit.extra["divide"].low <= EXTRA_TRUTH["divide"] <= fit.extra["divide"].high


def test_classes_nobody_counted_and_too_few_rows_for_them() -> None:
    assert fit_instruction_energy(programs(1, 12, 0.0)).left_out == dict.fromkeys(EXTRA_TRUTH, "no row has any")
    fit = fit_instruction_energy(richer(4, 9, 0.0))
    assert len(fit.extra) == 2
    assert all("9 rows are too few" in why for why in fit.left_out.values())


def test_the_refusal_names_the_columns_that_go_together() -> None:
    rows = [
        EnergyRow(row.duration_s, row.instructions, row.loads, 0.5 * row.loads, row.energy_j)
        for row in programs(2, 20, 0.01)
    ]
    with pytest.raises(ConfigError, match="'load' and 'store'"):
        fit_instruction_energy(rows)


def test_too_few_rows() -> None:
    with pytest.raises(ConfigError, match="6 measurements; at least 7"):
        fit_instruction_energy(programs(1, 6, 0.0))
    fit_instruction_energy(programs(1, 7, 0.0))


@pytest.mark.parametrize(("field", "value"), [(0, 0.0), (0, -1.0), (1, float("nan")), (2, -5.0), (4, 0.0)])
def test_numbers_that_cannot_be(field: int, value: float) -> None:
    rows = programs(1, 10, 0.0)
    numbers = [rows[3].duration_s, rows[3].instructions, rows[3].loads, rows[3].stores, rows[3].energy_j]
    numbers[field] = value
    rows[3] = EnergyRow(*numbers)
    with pytest.raises(ConfigError, match="row 4 holds"):
        fit_instruction_energy(rows)


@pytest.mark.parametrize(("field", "name"), [("instructions", "instruction"), ("loads", "load"), ("stores", "store")])
def test_a_column_of_zeros(field: str, name: str) -> None:
    rows = [replace(row, **{field: 0.0}) for row in programs(1, 10, 0.0)]
    with pytest.raises(ConfigError, match=f"'{name}'"):
        fit_instruction_energy(rows)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(4, 12))
def test_non_negative_least_squares_is_that_of_scipy(seed: int, rows: int) -> None:
    random = np.random.default_rng(seed)
    matrix, target = random.standard_normal((rows, len(NAMES))), random.standard_normal(rows)
    expected, distance = optimize.nnls(matrix, target)
    found = non_negative(matrix, target)
    assert (found >= 0).all()
    assert float(np.linalg.norm(matrix @ found - target)) == pytest.approx(distance, rel=1e-9)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)


BOARD = """\
kind: plain
title: A board
device_class: mcu
cpu: cortex-m4f
clock_hz: 100 MHz
memory: {{flash_bytes: 1 MiB, ram_bytes: 256 KiB, arena_limit_bytes: 128 KiB}}
firmware_board: null
nominal_voltage_v: 3.0
energy_model:
  idle_current_a: 0.001
  active_current_a: 0.011
  settle_s: 1.0e-6
  source: a test
  classes:
    idle_mw: {{value: {idle}, source: a test}}
    instruction_nj: {{value: {instruction}, published: {published}, source: a test}}
    load_nj: {{value: 0.1, source: a test}}
    store_nj: {{value: 0.2, source: assumed}}
"""


def board(folder: Path, idle: float = 3.0, instruction: float = 0.3, published: str = "[0.2, 0.6]") -> Path:
    path = folder / "plain.yaml"
    path.write_text(BOARD.format(idle=idle, instruction=instruction, published=published))
    return path


def test_a_board_whose_two_models_agree(tmp_path: Path) -> None:
    """3 V: 1 mA is 3 mW; 10 mA more are 30 mW, at 100 MHz 0.3 nJ a clock."""
    model = load_board(board(tmp_path)).energy_model
    assert model is not None
    assert model.classes is not None
    assert model.classes.instruction_nj.published == (0.2, 0.6)
    assert model.classes.store_nj.published is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"idle": 3.1}, "draws 3.1 mW idle, by idle_current_a 3 mW at 3 V"),
        ({"instruction": 0.31}, "draws 34 mW active, by active_current_a 33 mW"),
        ({"published": "[0.6, 0.2]"}, "the lowest figure and the highest"),
        ({"published": "[0.6]"}, "published"),
    ],
)
def test_a_board_whose_two_models_differ_is_refused(
    tmp_path: Path, changes: dict[str, float | str], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_board(board(tmp_path, **changes))  # type: ignore[arg-type]


def test_every_emulated_board_with_a_model_tells_where_its_figures_come_from() -> None:
    modelled = 0
    for path in board_files(config_dir()).values():
        model = load_board(path).energy_model
        if model is None:
            continue
        modelled += 1
        assert model.classes is not None, path.name
        figures = [getattr(model.classes, name) for name in type(model.classes).model_fields]
        for figure in filter(None, figures):
            assert figure.published is not None or re.search("assumed|No published", figure.source), path.name
    assert modelled >= 6


def test_the_published_spread_is_what_the_tables_give() -> None:
    """Energy over clocks from MLPerf Tiny's results: µJ, ms and MHz of anomaly detection, images, keywords, persons."""
    tables = {
        "mps2-an386": (120, (529, 17_760, 5_630, 16_500), (7.6, 227, 74.7, 225)),
        "mps2-an500": (280, (236, 7_600, 2_360, 6_930), (1.8, 54.9, 16.4, 50.3)),
    }
    for kind, (mhz, energies, times) in tables.items():
        per_clock = [1e-6 * uj / (1e-3 * ms * 1e6 * mhz) * 1e9 for uj, ms in zip(energies, times, strict=True)]
        model = load_board(board_files(config_dir())[kind]).energy_model
        assert model is not None
        assert model.classes is not None
        assert model.classes.instruction_nj.published == pytest.approx((min(per_clock), max(per_clock)), abs=0.005)
