"""``network=cnn|ds-cnn``: a grid of variants in one run and one report."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from lab.cli import main
from lab.commands import running
from lab.comparison import alternatives
from lab.errors import LabError, WorkloadError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("",)),
        ("a=1,b=x", ("a=1,b=x",)),
        ("a=1|2,b=x|y", ("a=1,b=x", "a=1,b=y", "a=2,b=x", "a=2,b=y")),
        ("update=lite+bias|last", ("update=lite+bias", "update=last")),
        ("pytorch,a=1|2", ("pytorch,a=1", "pytorch,a=2")),
    ],
)
def test_a_grid_is_every_combination_in_order(text: str, expected: tuple[str, ...]) -> None:
    assert alternatives(text) == expected


def test_every_variant_of_a_grid_runs_even_where_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def run(entry: object, method: object, variant: str, *_: object, **__: object) -> LabError | None:
        ran.append(variant)
        return WorkloadError("wrong answers") if variant == "network=cnn,data=digits" else None

    monkeypatch.setattr(running, "_run", run)
    monkeypatch.setattr("lab.doctor.availability", lambda entry: "")
    monkeypatch.setattr("lab.reporting.report_session", lambda *_, **__: "page")
    monkeypatch.setattr("lab.reporting.mirror", lambda _: "")
    grid = "network=cnn|ds-cnn,data=digits|characters"
    done = CliRunner().invoke(main, ["run", "metacl-bench", "--device", "m4f", "--variant", grid])
    assert ran == [
        "network=cnn,data=digits", "network=cnn,data=characters", "network=ds-cnn,data=digits",
        "network=ds-cnn,data=characters",
    ]  # fmt: skip
    assert done.exit_code == 1
    ran.clear()
    assert CliRunner().invoke(main, ["run", "metacl-bench", "--device", "m4f"]).exit_code == 0
    assert ran == [""]
