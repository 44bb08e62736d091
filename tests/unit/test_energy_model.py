"""The closed forms of the energy model against numerical integration and their own laws."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from lab.emulators.energy_model import Edge, EnergyModel, LoadProfile
from lab.errors import ConfigError, EmulatorError

BOARD = EnergyModel(3.3, 20e-6, 12e-3, 40e-6, "test")

models = st.builds(
    EnergyModel,
    st.floats(0.8, 5.0),
    st.floats(0.0, 1e-3),
    st.floats(0.0, 0.5),
    st.sampled_from([0.0, 1e-6, 3e-5, 1e-3]),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Edge]:
    gaps = draw(st.lists(st.floats(0.0, 5e-3), max_size=12))
    active = draw(st.lists(st.booleans(), min_size=len(gaps), max_size=len(gaps)))
    return [Edge(float(time), bit) for time, bit in zip(np.cumsum(gaps), active, strict=True)]


def test_active_window_by_hand() -> None:
    model = EnergyModel(2.0, 1e-3, 5e-3, 0.0)
    assert model.energy_j(0.5) == pytest.approx(2.0 * 5e-3 * 0.5)
    assert model.net_energy_j(0.5) == pytest.approx(2.0 * 4e-3 * 0.5)
    assert model.idle_power_w == pytest.approx(2e-3)


def test_settling_current_by_hand() -> None:
    times = np.array([0.0, 0.9e-3, 1e-3, 1e-3 + 40e-6, 2e-3])
    expected = [20e-6, 20e-6, 20e-6, 12e-3 - (12e-3 - 20e-6) / math.e, 12e-3]
    assert BOARD.current(times, [Edge(1e-3, True)]) == pytest.approx(expected, rel=1e-9)


def test_energy_of_a_window_is_voltage_times_its_charge() -> None:
    for active_s in (1e-6, 40e-6, 1e-3, 0.2):
        charge = BOARD.charge(2e-3, 2e-3 + active_s, [Edge(2e-3, True), Edge(2e-3 + active_s, False)])
        assert BOARD.energy_j(active_s) == pytest.approx(3.3 * charge, rel=1e-9)


def test_charge_lost_to_the_rising_edge_comes_back_after_the_falling_one() -> None:
    edges = [Edge(1e-3, True), Edge(6e-3, False)]
    stepped = EnergyModel(3.3, 20e-6, 12e-3)
    assert BOARD.charge(0, 20e-3, edges) == pytest.approx(stepped.charge(0, 20e-3, edges), rel=1e-9)
    assert BOARD.charge(1e-3, 6e-3, edges) < stepped.charge(1e-3, 6e-3, edges)


@settings(max_examples=60, deadline=None)
@given(models, histories(), st.floats(0, 0.03), st.floats(0, 0.03))
def test_charge_is_the_integral_of_the_current(model: EnergyModel, edges: list[Edge], a: float, b: float) -> None:
    begin_s, end_s = sorted((a, b))
    profile = LoadProfile(model, edges)

    def at(time_s: float) -> float:
        return float(profile.current(np.array([time_s]))[0])

    corners = sorted({begin_s, end_s, *(edge.time_s for edge in edges if begin_s < edge.time_s < end_s)})
    # Steep settling needs its own intervals, or the quadrature steps over it.
    cuts = sorted(
        {c + k * model.settle_s for c in corners for k in (0, 1, 4, 12) if c + k * model.settle_s <= end_s} | {end_s}
    )
    numeric = 0.0
    for left, right in itertools.pairwise(cuts):
        inset = (right - left) * 1e-9
        numeric += integrate.quad(at, left + inset, right - inset, epsabs=0, epsrel=1e-8)[0]
    assert model.charge(begin_s, end_s, edges) == pytest.approx(numeric, rel=1e-6, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(models, histories(), st.floats(0, 0.06))
def test_forgetting_the_past_changes_nothing_later(model: EnergyModel, edges: list[Edge], before_s: float) -> None:
    whole, short = LoadProfile(model, edges), LoadProfile(model, edges)
    short.forget(before_s)
    later = before_s + np.linspace(0, 0.05, 101)
    assert np.array_equal(whole.current(later), short.current(later))
    assert np.array_equal(whole.charge(later), short.charge(later))


@settings(max_examples=60, deadline=None)
@given(models, histories())
def test_current_stays_between_the_levels(model: EnergyModel, edges: list[Edge]) -> None:
    low, high = sorted((model.idle_current_a, model.active_current_a))
    current = LoadProfile(model, edges).current(np.linspace(0, 0.06, 301))
    assert np.all(current >= low - 1e-15)
    assert np.all(current <= high + 1e-15)


def test_edges_must_be_in_order() -> None:
    profile = LoadProfile(BOARD, [Edge(2e-3, True)])
    with pytest.raises(EmulatorError, match="order of their times"):
        profile.mark(Edge(1e-3, False))


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_impossible_numbers_are_refused(place: int, value: float) -> None:
    numbers = [3.3, 1e-6, 1e-3, 0.0]
    numbers[place] = value
    voltage_v, idle_a, active_a, settle_s = numbers
    name = dataclasses.fields(EnergyModel)[place].name
    with pytest.raises(ConfigError, match=name):
        EnergyModel(voltage_v, idle_a, active_a, settle_s)
