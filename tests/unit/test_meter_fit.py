"""``lab meter fit``: from a table or the store to a section that a board file takes."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from helpers.store_runs import make_run

from lab.cli import main
from lab.inventory import load_board
from lab.paths import config_dir
from measurements.instruction_energy import EnergyRow
from measurements.record import Run, Source
from measurements.statistics import make_record
from measurements.store import Store

TRUTH = (3.6e-3, 0.22e-9, 0.11e-9, 0.17e-9)
BENCH = """\
devices:
  nucleo:
    board: nucleo-f446re
    serial: {by_id: A1B2C3}
    meter: {kind: ppk2, serial_number: A1B2C3, voltage_v: 3.3}
"""


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAB_STORE", str(tmp_path / "store"))
    (tmp_path / "bench.yaml").write_text(BENCH)
    return tmp_path


def rows(count: int, noise: float = 0.01) -> list[EnergyRow]:
    random = np.random.default_rng(4)
    found = []
    for _ in range(count):
        instructions = 10 ** random.uniform(5, 7)
        loads, stores = instructions * random.uniform(0, 0.6), instructions * random.uniform(0, 0.4)
        duration = instructions * 10e-9 * 10 ** random.uniform(0, 1.3)
        energy = float(np.dot(TRUTH, (duration, instructions, loads, stores)))
        found.append(EnergyRow(duration, instructions, loads, stores, energy * (1 + noise * random.standard_normal())))
    return found


def table(path: Path, measured: list[EnergyRow]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["program", "energy_j", "duration_s", "instructions", "loads", "stores"])
        for k, row in enumerate(measured):
            writer.writerow([f"p{k}", row.energy_j, row.duration_s, row.instructions, row.loads, row.stores])
    return path


def fit(places: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--config", str(places / "bench.yaml"), "meter", "fit", "nucleo", *arguments])


def test_a_table_becomes_a_section_whose_intervals_hold_the_truth(places: Path) -> None:
    done = fit(places, "--csv", str(table(places / "rows.csv", rows(40))))
    assert done.exit_code == 0, done.output
    model = yaml.safe_load(done.output)["energy_model"]
    assert "to 40 measurements (rows.csv)" in model["source"]
    names = ("idle_mw", "instruction_nj", "load_nj", "store_nj")
    for name, true in zip(names, np.array(TRUTH) * [1e3, 1e9, 1e9, 1e9], strict=True):
        figure = model["classes"][name]
        interval = re.search(r"95 % interval (\S+) to (\S+)", figure["source"])
        assert interval is not None
        assert float(interval[1]) <= true <= float(interval[2])
        assert float(interval[1]) <= figure["value"] <= float(interval[2])
    assert model["idle_current_a"] == pytest.approx(TRUTH[0] / 3.3, rel=0.1)


def test_a_board_file_takes_the_section(places: Path) -> None:
    done = fit(places, "--csv", str(table(places / "rows.csv", rows(20))))
    text = (config_dir() / "boards" / "nucleo-f446re.yaml").read_text()
    assert "energy_model" not in text
    path = places / "nucleo-f446re.yaml"
    path.write_text(text.rstrip() + "\n" + done.output)
    model = load_board(path).energy_model
    assert model is not None
    assert model.classes is not None
    assert model.classes.instruction_nj.value == pytest.approx(0.22, rel=0.2)


def test_classes_of_a_table_become_fields_that_a_board_file_takes(places: Path) -> None:
    random = np.random.default_rng(8)
    path = places / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        names = ["energy_j", "duration_s", "instructions", "loads", "stores", "multiplies", "divides", "floats"]
        writer.writerow(names)
        for row in rows(40, 0.0):
            multiplies, divides = row.instructions * random.uniform(0, 0.4, 2)
            energy_j = row.energy_j + 0.15e-9 * multiplies + 1.9e-9 * divides
            writer.writerow(
                [energy_j, row.duration_s, row.instructions, row.loads, row.stores, multiplies, divides, 0]
            )  # fmt: skip
    done = fit(places, "--csv", str(path))
    assert done.exit_code == 0, done.output
    assert "# no float_nj: no row has any" in done.output
    board = places / "nucleo-f446re.yaml"
    board.write_text((config_dir() / "boards" / board.name).read_text().rstrip() + "\n" + done.output)
    model = load_board(board).energy_model
    assert model is not None
    assert model.classes is not None
    assert model.classes.multiply_nj is not None
    assert model.classes.multiply_nj.value == pytest.approx(0.15, rel=1e-3)
    assert model.classes.divide_nj is not None
    assert model.classes.divide_nj.value == pytest.approx(1.9, rel=1e-3)
    assert model.classes.float_nj is None


def test_the_meters_class_widens_the_intervals(places: Path) -> None:
    path = str(table(places / "rows.csv", rows(40)))
    widths = []
    for uncertainty in ("0", "0.1"):
        model = yaml.safe_load(fit(places, "--csv", path, "--meter-uncertainty", uncertainty).output)["energy_model"]
        interval = re.search(r"interval (\S+) to (\S+)", model["classes"]["idle_mw"]["source"])
        assert interval is not None
        widths.append(float(interval[2]) - float(interval[1]))
    assert widths[1] > widths[0] + 2 * 0.09 * 3.6


def test_rows_too_alike_are_refused(places: Path) -> None:
    same = [EnergyRow(n * 1e-8, n, 0.3 * n, 0.1 * n, n * 1e-9) for n in np.linspace(1e5, 1e6, 12)]
    done = fit(places, "--csv", str(table(places / "rows.csv", same)))
    assert done.exit_code == 1
    assert "too alike" in done.output
    assert "energy_model" not in done.output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("duration_s,instructions\n1,2\n", "rows.csv:2"),
        ("duration_s,instructions,loads,stores,energy_j\n1,2,3,4,5\n1,x,3,4,5\n", "rows.csv:3"),
        ("duration_s,instructions,loads,stores,energy_j\n1,2,3\n", "rows.csv:2"),
        ("", "0 measurements"),
    ],
)
def test_a_table_that_is_none(places: Path, text: str, message: str) -> None:
    (places / "rows.csv").write_text(text)
    done = fit(places, "--csv", str(places / "rows.csv"))
    assert done.exit_code == 1
    assert message in done.output


def test_one_source_of_rows_must_be_named(places: Path) -> None:
    for arguments in ([], ["--csv", "x.csv", "--counts-from", "mps2-an386"]):
        done = fit(places, *arguments)
        assert done.exit_code == 2
        assert "--counts-from" in done.output
    assert "cannot be read" in fit(places, "--csv", "nothing.csv").output


def _measured(number: int, row: EnergyRow, source: Source = "hardware") -> Run:
    records = (
        make_record("inference", "latency", "s", "hardware", [row.duration_s]),
        make_record("inference", "energy", "J", source, [row.energy_j]),
    )
    run = make_run(number, device="nucleo", workload=f"p{number}", records=records)
    return replace(run, provenance=replace(run.provenance, board="nucleo-f446re", emulator="", meter_uncertainty=0.05))


def _counted(number: int, row: EnergyRow) -> Run:
    named = [("instructions", row.instructions), ("loads", row.loads), ("stores", row.stores)]
    named += [("multiplies", row.multiplies)] if row.multiplies else []
    records = [make_record("inference", name, name, "emulated", [value]) for name, value in named]
    return make_run(number, device="m4f", workload=f"p{number}", records=records)


def test_runs_of_the_store_are_joined_with_the_counts_of_an_emulated_board(places: Path) -> None:
    measured = rows(20)
    with Store(places / "store") as store:
        for number, row in enumerate(measured):
            store.save(_measured(number, row))
            store.save(_counted(number, row))
        store.save(_measured(99, measured[0]))  # nobody counted it
    done = fit(places, "--counts-from", "mps2-an386")
    assert done.exit_code == 0, done.output
    assert "to 20 measurements (nucleo, counts of mps2-an386)" in done.output
    assert "hold the meter's ±5 %" in done.output
    by_table = fit(places, "--csv", str(table(places / "rows.csv", measured)), "--meter-uncertainty", "0.05").output
    values = [re.findall(r"value: (\S+)", text) for text in (done.output, by_table)]
    assert values[0] == values[1]


def test_modelled_energy_is_not_fitted_to(places: Path) -> None:
    """A model fitted to what it said itself would look like a measurement."""
    with Store(places / "store") as store:
        for number, row in enumerate(rows(10)):
            store.save(_measured(number, row, "modelled"))
            store.save(_counted(number, row))
    done = fit(places, "--counts-from", "mps2-an386")
    assert done.exit_code == 1
    assert "0 energies measured on 'nucleo'" in done.output
    assert "counts of 10 programs" in done.output


def test_stored_counts_of_classes_are_used(places: Path) -> None:
    random = np.random.default_rng(9)
    with Store(places / "store") as store:
        for number, row in enumerate(rows(20, 0.0)):
            multiplies = row.instructions * random.uniform(0, 0.4)
            dearer = replace(row, energy_j=row.energy_j + 0.15e-9 * multiplies, multiplies=multiplies)
            store.save(_measured(number, dearer))
            store.save(_counted(number, dearer))
    done = fit(places, "--counts-from", "mps2-an386")
    assert done.exit_code == 0, done.output
    classes = yaml.safe_load(done.output)["energy_model"]["classes"]
    assert classes["multiply_nj"]["value"] == pytest.approx(0.15, rel=1e-3)
    assert "divide_nj" not in classes
