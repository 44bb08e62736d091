"""The session with a coordinator, with a stand-in for the helper process that talks to it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lab.errors import InfrastructureError, ToolMissing
from lab.labgrid import client, environment
from lab.labgrid.client import Coordinator, CoordinatorLost, Refused, new_name
from lab.labgrid.config import LabgridConfig
from lab.labgrid.records import Match, Place, Resource

_CONFIG = LabgridConfig(coordinator="127.0.0.1:1")
_READY = """
import json, sys
def say(**message): print(json.dumps(message), flush=True)
say(place={"name": "p", "acquired": "", "tags": {"board": "b"}, "matches": [["e", "g", "*", "*"]], "resources": []})
say(resource={"path": ["e", "g", "r"], "cls": "NetworkService", "params": {"address": "a", "port": 22}, "extra": {},
              "acquired": "", "available": True})
say(ready=True)
requests = (json.loads(line) for line in sys.stdin)
"""


def _helper(folder: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\n{program}")
    path.chmod(0o755)
    monkeypatch.setattr(client, "labgrid_python", lambda: str(path))


def test_what_the_coordinator_tells_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = """
for request in requests:
    say(answer=request["id"])
    say(place={"name": "p", "acquired": sys.argv[4], "tags": request.get("tags", {}), "matches": [], "resources": []})
    say(gone_resource=["e", "g", "r"])
    say(gone_place="p") if request["do"] == "release" else None
"""
    _helper(tmp_path, monkeypatch, _READY + more)
    with Coordinator(_CONFIG) as session:
        assert session.places == [Place("p", "", {"board": "b"}, (Match("e", "g", "*", "*"),))]
        assert session.resources == [Resource(("e", "g", "r"), "NetworkService", {"address": "a", "port": 22})]
        session.tag("p", {"k": "v"})
        session.wait(lambda: not session.resources, 30.0)
        assert session.place("p") == Place("p", session.name, {"k": "v"})
        session.release("p", session.name)
        session.wait(lambda: not session.places, 30.0)
        assert session.place("p") is None


@pytest.mark.parametrize(
    ("code", "kind"),
    [("FAILED_PRECONDITION", Refused), ("UNAVAILABLE", CoordinatorLost), ("DEADLINE_EXCEEDED", CoordinatorLost)],
)
def test_a_no_is_told_from_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, kind: type[InfrastructureError]
) -> None:
    answer = f'\nfor request in requests: say(answer=request["id"], refused="{code}", text="place is acquired")'
    _helper(tmp_path, monkeypatch, _READY + answer)
    with Coordinator(_CONFIG) as session, pytest.raises(kind, match="place is acquired") as refused:
        session.acquire("p")
    assert type(refused.value) is kind
    assert refused.value.transient


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        ("next(requests)", "its helper has ended"),
        ("next(requests); sys.exit('no route to it')", "no route to it"),
        ("next(requests); say(lost='it closed the connection')", "it closed the connection"),
        ("next(requests); print('{', flush=True); next(requests)", "its helper said what it never says: {"),
    ],
)
def test_a_coordinator_that_goes_away_in_a_call_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, said: str
) -> None:
    _helper(tmp_path, monkeypatch, f"{_READY}\n{ending}")
    with Coordinator(_CONFIG) as session:
        with pytest.raises(CoordinatorLost, match=said):
            session.acquire("p")
        with pytest.raises(CoordinatorLost, match=said):
            session.release("p", "x")
        assert said in session.lost


def test_nobody_there_is_told_in_the_helpers_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _helper(tmp_path, monkeypatch, 'import sys; sys.exit("first line\\nconnection refused")')
    with pytest.raises(CoordinatorLost, match=r"labgrid coordinator 127\.0\.0\.1:1: connection refused"):
        Coordinator(_CONFIG)


def test_a_coordinator_that_says_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "CONNECT_S", 0.1)
    _helper(tmp_path, monkeypatch, "import sys; sys.stdin.read()")
    with pytest.raises(CoordinatorLost, match=r"it said nothing for 0\.1 s"):
        Coordinator(_CONFIG)


def test_a_password_in_labgrids_files_is_not_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _helper(tmp_path, monkeypatch, _READY.replace('"port": 22', '"password": "canary"') + "\nlist(requests)")
    with Coordinator(_CONFIG) as session:
        assert "canary" not in repr(session.resources)


def test_the_helper_gets_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_INFLUX_TOKEN", "canary")
    told = '\nimport os\nsay(place={"name": os.environ.get("LAB_INFLUX_TOKEN", "none"), "acquired": "", "tags": {},'
    _helper(tmp_path, monkeypatch, _READY.replace("say(ready=True)", f'{told} "matches": []}})\nsay(ready=True)'))
    with Coordinator(_CONFIG) as session:
        assert [place.name for place in session.places] == ["none", "p"]


def test_every_session_has_a_name_of_its_own_that_labgrids_tools_can_show() -> None:
    names = {new_name() for _ in range(100)}
    assert len(names) == 100
    assert {name.count("/") for name in names} == {1}


def test_where_labgrid_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_LABGRID", str(tmp_path))
    with pytest.raises(ToolMissing, match=r"labgrid is not installed") as missing:
        environment.labgrid_python()
    assert "lab labgrid install" in missing.value.hint
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    assert environment.labgrid_python() == str(tmp_path / "bin" / "python")
    with pytest.raises(ToolMissing, match="labgrid-exporter is not installed beside"):
        environment.labgrid_program("labgrid-exporter")


def test_what_pip_says_is_in_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_LABGRID", str(tmp_path))
    (tmp_path / "bin").mkdir()
    pip = tmp_path / "bin" / "python"
    pip.write_text("#!/bin/sh\necho no such package >&2\nexit 1\n")
    pip.chmod(0o755)
    with pytest.raises(ToolMissing, match=r"pip cannot install labgrid 26\.0\.1 into .*: no such package"):
        environment.install()
