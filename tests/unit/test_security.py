"""What files and devices say cannot make the lab run code, leave a folder, or forge its tables."""

from __future__ import annotations

import ast
import contextlib
import errno
import io
import os
import re
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.child_environment import for_children, keep_from_children
from lab.emulators.linux.debs import unpack
from lab.errors import ConfigError, EmulatorError
from lab.inventory import load_bench
from lab.lease_records import file_name
from lab.power.hwmon import find_chips
from lab.transports.local import LocalRemote
from lab.transports.remote_files import RemoteFiles

_ROOT = Path(__file__).resolve().parents[2]
_SAFE = {"safe_load", "safe_load_all", "safe_dump", "safe_dump_all"}
_SAFE_LOADERS = {"SafeLoader", "CSafeLoader"}


def _sources() -> list[Path]:
    return [path for package in ("lab", "fixtures", "measurements", "scripts", "tests", "benchmarks")
            for path in sorted((_ROOT / package).rglob("*.py"))]  # fmt: skip


def _unsafe_calls(path: Path) -> list[str]:
    """Calls into PyYAML that build objects, and pickles: by the syntax tree, not by words."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        of = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
        name = node.func.attr
        loader = next((one.value for one in node.keywords if one.arg == "Loader"), None)
        safe_loader = isinstance(loader, ast.Attribute) and loader.attr in _SAFE_LOADERS
        if of == "yaml" and (name.startswith(("load", "full_", "unsafe_")) or name == "compose") and not safe_loader:
            found.append(f"{path}:{node.lineno}: yaml.{name}")
        if of in ("pickle", "marshal", "shelve", "dill", "joblib") and name in ("load", "loads", "open"):
            found.append(f"{path}:{node.lineno}: {of}.{name}")
        if name == "extractall" and not any(one.arg == "filter" for one in node.keywords):
            found.append(f"{path}:{node.lineno}: extractall without a filter")
    return found


def test_yaml_is_loaded_safely_and_nothing_is_unpickled_anywhere() -> None:
    assert [one for path in _sources() for one in _unsafe_calls(path)] == []


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    calls = ("yaml.load(x)", "yaml.load(x, Loader=yaml.Loader)", "yaml.unsafe_load(x)", "pickle.loads(x)",
             "t.extractall()")  # fmt: skip
    bad.write_text("\n".join(calls))
    assert len(_unsafe_calls(bad)) == 5
    bad.write_text("yaml.safe_load(x)\nyaml.compose(x, Loader=yaml.CSafeLoader)\n")
    assert _unsafe_calls(bad) == []


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['touch {proof}']",
        "!!python/object/new:subprocess.Popen [[touch, '{proof}']]",
        "!!python/name:os.system",
        "!!python/module:os",
        "!exec 'touch {proof}'",
    ],
)
def test_a_bench_file_runs_nothing(tmp_path: Path, value: str) -> None:
    proof = tmp_path / "proof"
    bench = tmp_path / "bench.yaml"
    bench.write_text(f"devices:\n  one:\n    board: {value.format(proof=proof)}\n")
    with pytest.raises(ConfigError, match=r"bench\.yaml:3"):
        load_bench(bench)
    assert not proof.exists()


def _deb(path: Path, members: list[tarfile.TarInfo]) -> Path:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for member in members:
            member.size = 3 if member.isreg() else 0
            archive.addfile(member, io.BytesIO(b"bad") if member.isreg() else None)
    body = data.getvalue()
    header = f"{'data.tar.gz':<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(body):<10}`\n".encode()
    path.write_bytes(b"!<arch>\n" + header + body + b"\n" * (len(body) % 2))
    return path


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


def test_a_package_is_read_into_memory_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that climb, absolute names, links to outside and devices: none becomes a file of this computer."""
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    outside = tmp_path / "outside"
    names = ["../outside", str(outside), "./../../outside", "usr/../../outside"]
    members = [_member(name) for name in names]
    members += [_member("link", tarfile.SYMTYPE, str(outside)), _member("null", tarfile.CHRTYPE)]
    tree = unpack([_deb(tmp_path / "bad.deb", members)])
    assert set(tree.files) == {name.removeprefix("./") for name in names}
    assert list(inside.iterdir()) == []
    assert not outside.exists()


def test_a_hard_link_to_what_the_package_does_not_hold_is_refused(tmp_path: Path) -> None:
    member = _member("stolen", tarfile.LNKTYPE, "/etc/passwd")
    with pytest.raises(EmulatorError, match="no whole Debian package"):
        unpack([_deb(tmp_path / "bad.deb", [member])])


@given(st.text(min_size=1))
def test_a_device_of_any_name_has_its_lease_inside_the_folder(name: str) -> None:
    made = file_name(name)
    assert re.fullmatch(r"[A-Za-z0-9_%-]+", made)
    assert Path("/leases") / f"{made}.json" == Path(os.path.normpath(f"/leases/{made}.json"))


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a/b", "..", ".hidden", "two words", "a\u202eb", "x\x1b[2J"])
def test_a_bench_refuses_names_that_are_paths_or_steer_a_terminal(tmp_path: Path, name: str) -> None:
    bench = tmp_path / "bench.yaml"
    escaped = name.encode("unicode_escape").decode()
    bench.write_text(f'devices:\n  "{escaped}": {{board: mps2-an386, emulated: true}}\n', encoding="utf-8")
    with pytest.raises(ConfigError):
        load_bench(bench)


def test_children_get_no_variable_that_a_bench_took_as_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_TEST_CANARY", "canary")
    monkeypatch.setenv("LAB_INFLUX_TOKEN", "canary")
    assert for_children()["LAB_TEST_CANARY"] == "canary"
    keep_from_children("LAB_TEST_CANARY")
    assert "canary" not in for_children(OTHER="told").values()
    assert for_children(OTHER="told")["OTHER"] == "told"


def test_what_every_process_needs_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """``user: !env USER``, and a test that names PATH, must not leave children without their programs."""
    monkeypatch.setenv("PATH", "/somewhere")
    keep_from_children("PATH")
    assert for_children()["PATH"] == "/somewhere"


@pytest.mark.parametrize("name", ["../up", "..", ".", "/etc/passwd", "a/b"])
def test_a_device_that_names_paths_in_a_folder_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Whoever looks through a folder joins its names to paths."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "ls").write_text(f"#!/bin/sh\necho in0_input\necho '{name}'\n")
    (tools / "ls").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    with contextlib.closing(LocalRemote()) as device, contextlib.closing(RemoteFiles(device)) as files:
        with pytest.raises(OSError, match="which is a path") as error:
            files.names("/sys/class/hwmon")
        assert error.value.errno == errno.EIO
        assert find_chips(files, "/sys/class/hwmon") == []
