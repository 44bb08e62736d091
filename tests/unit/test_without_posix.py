"""What the lab needs of the system: nothing at import that Windows has not, and locks that die with their holders."""

from __future__ import annotations

import ast
import errno
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
from helpers.posix_free import MODULES, NAMES, poor_environment

import lab.filelock
import lab.transports.serial
from lab.build import tool_path
from lab.lease import holder, lease
from lab.transports.serial import SerialPort
from measurements.report import publish

_ROOT = Path(__file__).resolve().parents[2]
# Chooses between fcntl and the library filelock.
_CHOOSES = {"lab/filelock.py": {"fcntl"}}
# These use the names when asked for what Windows has not: QEMU, Renode and probes, pseudo-terminals, `lab nightly`,
# labgrid's services, this computer as a device.
_NEEDS = {
    "lab/emulators/linux/machine.py": {"socket.AF_UNIX"},
    "lab/emulators/load.py": {"socket.AF_UNIX"},
    "lab/emulators/meter_process.py": {"os.openpty", "os.set_blocking", "os.ttyname"},
    "lab/emulators/probe/qmp.py": {"socket.AF_UNIX"},
    "lab/emulators/probe/qtest.py": {"socket.AF_UNIX"},
    "lab/emulators/probe/rsp.py": {"socket.AF_UNIX"},
    "lab/emulators/pty_link.py": {"os.openpty", "os.set_blocking", "os.ttyname"},
    "lab/emulators/qemu.py": {"socket.AF_UNIX"},
    "lab/emulators/renode/machine.py": {"os.killpg", "signal.SIGKILL"},
    "lab/emulators/scripted_board.py": {"socket.AF_UNIX"},
    "lab/emulators/sshd.py": {"os.geteuid", "signal.SIGKILL"},
    "lab/emulators/unicorn/machine.py": {"socket.AF_UNIX"},  # the marker line, which only an emulated meter takes
    "lab/labgrid/supervise.py": {"os.killpg", "signal.SIGKILL"},
    "lab/power/tegrastats.py": {"os.set_blocking"},
    "lab/transports/local.py": {"os.killpg", "signal.SIGKILL"},
    "lab/transports/serial.py": {"os.major", "os.minor"},  # behind the platform's name
}


@cache
def _sources() -> list[tuple[str, ast.Module]]:
    return [
        (path.relative_to(_ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8")))
        for package in ("lab", "fixtures", "measurements")
        for path in sorted((_ROOT / package).rglob("*.py"))
    ]


def _at_import(node: ast.AST) -> Iterator[ast.AST]:
    """What is carried out when a module is imported."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _at_import(child)


def _imported(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.partition(".")[0] for alias in node.names}
    return {(node.module or "").partition(".")[0]} if isinstance(node, ast.ImportFrom) else set()


def _attribute(node: ast.AST) -> str:
    is_plain = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    return f"{node.value.id}.{node.attr}" if is_plain else ""  # type: ignore[attr-defined]


def _imports_at_once(tree: ast.AST) -> set[str]:
    return MODULES & {name for node in _at_import(tree) for name in _imported(node)}


def test_no_module_imports_what_only_posix_has() -> None:
    found = {path: names for path, tree in _sources() if (names := _imports_at_once(tree))}
    assert found == _CHOOSES


def test_names_that_only_posix_has_are_used_where_they_are_needed() -> None:
    found = {
        path: names for path, tree in _sources() if (names := NAMES & {_attribute(node) for node in ast.walk(tree)})
    }
    assert found == _NEEDS


def test_the_rule_itself() -> None:
    assert _imports_at_once(ast.parse("try:\n    import fcntl\nexcept ImportError:\n    pass")) == {"fcntl"}
    assert _imports_at_once(ast.parse("class A:\n    from tty import setraw")) == {"tty"}
    assert _imports_at_once(ast.parse("def later() -> None:\n    import termios")) == set()


IMPORT_ALL = """
import importlib, os, pkgutil, signal, socket, sys
assert not hasattr(os, "fork") and not hasattr(socket, "AF_UNIX") and not hasattr(signal, "SIGKILL")
import lab, fixtures, measurements
for package in (lab, fixtures, measurements):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError as error:
                assert error.name.startswith("pyocd"), (module.name, error)
                print(module.name)
"""


def test_every_module_can_be_imported_without_them(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL],
        env=poor_environment(tmp_path, tmp_path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert all(".probe" in name or "swd" in name or "rtt" in name for name in done.stdout.split()), done.stdout


def test_programs_are_found_where_pip_puts_them_beside_no_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows without a virtual environment they lie in a folder of their own."""
    program = tmp_path / "Scripts" / "cmake"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(sysconfig, "get_path", {"scripts": str(program.parent)}.get)
    assert tool_path("cmake") == program
    assert tool_path("ninja") is None


def test_a_socket_is_read_where_linux_and_its_files_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, size: int) -> bytes:
        raise OSError(errno.EBADF, "a socket is no file")

    monkeypatch.setattr(lab.transports.serial, "_QUICK_ACK", None)
    monkeypatch.setattr(os, "read", refuse)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = SerialPort(f"socket://127.0.0.1:{server.getsockname()[1]}")
        line, _ = server.accept()
        with line:
            line.sendall(b"hello")
            assert port.read(5.0) == b"hello"
            port.write(b"who")
            assert line.recv(3) == b"who"
        port.close()


# ---- locks --------------------------------------------------------------------------------------------------------


def _of_windows(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Another copy of the module, which found no fcntl; what it asks of the library is flock here."""
    real = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == "fcntl" else real(name, package)

    spec = importlib.util.spec_from_file_location("filelock_without_fcntl", lab.filelock.__file__)
    assert spec is not None
    assert spec.loader is not None
    copy = importlib.util.module_from_spec(spec)
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", find)
        spec.loader.exec_module(copy)
    assert not hasattr(copy, "fcntl")
    return copy


@pytest.fixture(params=["posix", "windows"])
def locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return lab.filelock if request.param == "posix" else _of_windows(monkeypatch)


def test_two_descriptors_exclude_each_other_until_one_is_closed(locks: ModuleType, tmp_path: Path) -> None:
    with (tmp_path / "lock").open("ab") as second:
        with (tmp_path / "lock").open("ab") as first:
            assert locks.try_lock(first.fileno())
            assert not locks.try_lock(second.fileno())
            assert not lab.filelock.try_lock(second.fileno(), shared=True), "one lock, whoever asks"
        assert locks.try_lock(second.fileno())
    assert (tmp_path / "lock").read_bytes() == b""


def test_sharing(locks: ModuleType, tmp_path: Path) -> None:
    with (tmp_path / "lock").open("ab") as first, (tmp_path / "lock").open("ab") as second:
        locks.wait_for_lock(first.fileno(), shared=True)
        assert locks.try_lock(second.fileno(), shared=True) == (locks is lab.filelock), "nobody shares on Windows"
        assert not locks.try_lock(second.fileno())


def test_waiting_ends_when_the_holder_lets_go(locks: ModuleType, tmp_path: Path) -> None:
    taken = threading.Event()

    def wait() -> None:
        with (tmp_path / "lock").open("ab") as mine:
            locks.wait_for_lock(mine.fileno())
            taken.set()

    with (tmp_path / "lock").open("ab") as first:
        assert locks.try_lock(first.fileno())
        waiter = threading.Thread(target=wait)
        waiter.start()
        assert not taken.wait(0.1)
    waiter.join()
    assert taken.is_set()


HOLD = """
import sys
from pathlib import Path
from lab.lease import lease
with lease("board", "a night", ttl_s=3600, folder=Path(sys.argv[1])) as held:
    print(held.record.token, flush=True)
    sys.stdin.read()
"""


def test_a_killed_holder_without_posix_frees_its_device(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        env=poor_environment(tmp_path, tmp_path), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        before = int(process.stdout.readline())
        seen = holder("board", folder=tmp_path)
        assert seen is not None
        assert seen.holder.startswith("somebody@")
        os.kill(process.pid, signal.SIGKILL)
    assert holder("board", folder=tmp_path) is None
    with lease("board", "mine", folder=tmp_path) as held:
        assert held.record.token > before


def test_where_links_are_refused_a_page_leads_to_the_newest_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        error = OSError(errno.EINVAL, "a required privilege is not held")
        error.winerror = 1314  # type: ignore[attr-defined]
        raise error

    monkeypatch.setattr(os, "symlink", refuse)
    for name in ("first run", "second"):
        page = publish(tmp_path / name / "index.html", tmp_path)
    assert page == tmp_path / "latest.html"
    assert "url=second/index.html" in page.read_text(encoding="utf-8")
    assert "url=first%20run/index.html" in publish(tmp_path / "first run" / "index.html", tmp_path).read_text()
