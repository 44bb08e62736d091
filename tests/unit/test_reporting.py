"""The end of a session: its id, its report and its mirror."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.nights import Made, fill, session
from hypothesis import given
from hypothesis import strategies as st

from lab.cli import main
from lab.errors import ConfigError
from lab.reporting import mirror, new_session_id, report_session, trends
from measurements.store import Store


@given(st.lists(st.integers(0, 4 * 10**15), min_size=2, max_size=10, unique=True))
def test_session_ids_sort_by_time_to_the_microsecond(moments_us: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        ids = []
        for moment in sorted(moments_us):
            patch.setattr(time, "time_ns", lambda moment=moment: moment * 1000 + 999)
            ids.append(new_session_id())
    assert ids == sorted(set(ids))


def test_a_session_id_is_the_time_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_795_254_731_654_277_113)
    assert new_session_id() == "20261121-095211-654277"


def test_a_session_that_measured_nothing_has_no_report(tmp_path: Path) -> None:
    Store(tmp_path / "store").close()
    assert report_session(tmp_path / "store", "20260101-000000-000000", tmp_path / "reports") is None
    assert not (tmp_path / "reports").exists()


@pytest.mark.usefixtures("private_lab")
def test_without_a_mirror_nothing_is_sent_and_nothing_said(tmp_path: Path) -> None:
    assert mirror(tmp_path / "none") == ""
    assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("private_lab")
def test_half_a_mirror_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_INFLUX_URL", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="LAB_INFLUX_"):
        mirror(tmp_path / "store")


@pytest.mark.parametrize(
    ("kind", "begins"),
    [
        ("markdown", "## Measurement report\n"),
        ("junit", "<?xml "),
        ("csv", "session_id,run_id,"),
        ("latex", "\\begin{table}"),
    ],
)
def test_a_session_is_written_in_every_form(private_lab: Path, kind: str, begins: str) -> None:
    fill(private_lab / "store", [Made("m4f", steps=((2, 1.01),))], 3)
    told = CliRunner().invoke(main, ["report", "--as", kind])
    assert told.exit_code == 0, told.output
    assert told.output.startswith(begins)
    target = private_lab / "somewhere" / "file"
    written = CliRunner().invoke(main, ["report", session(0), "--as", kind, "--output", str(target)])
    assert written.output == f"report: {target}\n"
    text = target.read_bytes().decode()
    assert text.startswith(begins)
    assert text != told.output
    assert ("### Regressions" in told.output) == (kind == "markdown")
    missing = CliRunner().invoke(main, ["report", "1999", "--as", kind])
    assert missing.exit_code == 1
    assert "holds no runs of session '1999'" in missing.output


def test_the_page_by_hand_shows_the_nights_before(private_lab: Path) -> None:
    fill(private_lab / "store", [Made("m4f", steps=((2, 1.01),))], 3)
    page = private_lab / "reports" / session(2) / "index.html"
    assert CliRunner().invoke(main, ["report"]).output == f"report: {page}\n"
    assert "▲ worse" in page.read_text()
    assert CliRunner().invoke(main, ["report", "--nights", "0"]).exit_code == 0
    assert "▲ worse" not in page.read_text()


def test_only_so_many_sessions_are_read_for_the_nights_before(tmp_path: Path) -> None:
    fill(tmp_path, [Made("m4f")], 12)
    assert {len(one.values) for one in trends(tmp_path, session(11), 2).histories} == {2}
    assert {len(one.values) for one in trends(tmp_path, session(11), 60).histories} == {12}
