"""This computer as a device of its own: a real OpenSSH server on the loopback address, with keys of its own.

Its keys, its settings and the folder that the lab uses are made anew at each start and removed at the end. It knows
nothing of the machine's own SSH server. Started by root it lets root in, started by somebody else only that user.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from lab.child_environment import for_children
from lab.connection_config import SshHost
from lab.emulator_config import LoopbackEmulator
from lab.emulators.process import end, spawn
from lab.errors import EmulatorError, ToolMissing
from lab.system_packages import install
from lab.transports.remote_command import kill_line, new_mark

_ADDRESS = "127.0.0.1"
_PROGRAM = "sshd"
# Debian and most others keep it where only root's PATH looks.
_PLACES = os.pathsep.join(("/usr/sbin", "/usr/local/sbin", "/usr/lib/ssh", "/usr/libexec"))
_PRIVILEGE_SEPARATION = Path("/run/sshd")
_START_S = 15.0
_LOOK_EVERY_S = 0.005
_VARIABLE = "LAB_LOOPBACK"
_TRIES = 5
_LISTENS = re.compile(rb"Server listening on \S+ port (\d+)")
_TAKEN = b"Address already in use"

# A home of its own keeps the user's start-up files out, which bash would run before each command.
# StrictModes would look at the folders above ours, such as /tmp, which all may write to; ours is closed to others.
_SETTINGS = """Port {port}
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
UsePAM no
UseDNS no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowUsers {user}
SetEnv {variable}={mark} HOME={folder}/device
PrintMotd no
PrintLastLog no
LogLevel VERBOSE
Subsystem sftp internal-sftp
"""


class LoopbackSshd:
    """An OpenSSH server on 127.0.0.1; see :class:`lab.emulators.base.LinuxEmulator`.

    Args:
        section: of the board file.
        cache: not used: nothing of it is worth keeping.
        settings: more lines for its settings file, before ours: the first of a kind counts (sshd_config(5)).
    """

    kind = "sshd"

    def __init__(self, section: LoopbackEmulator, cache: Path, *, settings: str = "") -> None:
        self._settings = settings
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._mark = new_mark()
        self._last_words = ""
        self.version = _version()

    def start(self) -> SshHost:
        """Start it with new keys and wait until it can be logged in to.

        Raises:
            ToolMissing: OpenSSH's server or ``ssh-keygen`` is not installed.
            EmulatorError: it does not start; carries its own words.
        """
        self.stop()
        program = _program()
        folder = Path(tempfile.mkdtemp(prefix="lab-sshd-"))
        self._folder = folder
        for name in ("host_key", "user_key"):
            _make_key(folder / name)
        (folder / "device").mkdir()
        if os.geteuid() == 0:
            _PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
        self._guard = _start_guard(self._mark, folder)
        port = self._listen(program, folder)
        host_key = " ".join((folder / "host_key.pub").read_text().split()[:2])
        return SshHost(
            host=_ADDRESS, port=port, user=getpass.getuser(), key=str(folder / "user_key"), host_key=host_key,
            folder=str(folder / "device"),
        )  # fmt: skip

    def check_alive(self) -> None:
        """Return while it runs.

        Raises:
            EmulatorError: it ended; carries its own words.
        """
        if self._process is None or self._process.poll() is not None:
            said = self.console()[-500:]
            raise EmulatorError(f"the SSH server on the loopback is not running: {said}", transient=True)

    def console(self) -> str:
        """What it logged so far."""
        if self._folder is None:
            return self._last_words
        return (self._folder / "log").read_text(errors="replace")

    def power_cut(self) -> None:
        """End the server and all connections at once; what runs in them loses its input."""
        if self._process is not None:
            sessions = _descendants(self._process.pid)
            end(self._process)
            for one in sessions:
                # It may have ended with the server.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.write(b"\n")
            self._guard.stdin.close()
            self._guard.wait()
            self._guard = None

    def stop(self) -> None:
        """End it and all connections, and remove its folder; safe to call twice."""
        self.power_cut()
        self._process = None
        if self._folder is not None:
            self._last_words = self.console()
            shutil.rmtree(self._folder)
            self._folder = None

    def __enter__(self) -> LoopbackSshd:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _listen(self, program: str, folder: Path) -> int:
        """Start the server on a port that is free; somebody else may take it first."""
        for _ in range(_TRIES):
            port = _free_port()
            settings = _SETTINGS.format(
                port=port, address=_ADDRESS, folder=folder, user=getpass.getuser(), variable=_VARIABLE, mark=self._mark
            )
            (folder / "settings").write_text(self._settings + settings)
            log = folder / "log"
            with log.open("wb") as file:
                process = spawn((program, "-D", "-e", "-f", str(folder / "settings")), cwd=folder, log=file)
            self._process = process
            said = _wait_for_port(process, log)
            if _LISTENS.search(said):
                return port
            end(process)
            if _TAKEN not in said:
                break
        self.stop()
        raise EmulatorError(f"{program} did not start: {said.decode(errors='replace').strip()[-500:]}")


def _version() -> str:
    done = subprocess.run((_program(), "-V"), capture_output=True, check=False)
    # Older ones know no -V; all of them name themselves in what they then say.
    found = re.search(rb"OpenSSH_[\w.]+", done.stderr + done.stdout)
    return found.group().decode() if found else "OpenSSH"


def _program() -> str:
    """The server's absolute path: it starts itself anew for each connection and insists on one."""
    found = shutil.which(_PROGRAM) or shutil.which(_PROGRAM, path=_PLACES)
    if found is None:
        raise ToolMissing("sshd is not installed", hint=f"{install('openssh-server')} (its own service need not run)")
    return os.path.abspath(found)


def _make_key(path: Path) -> None:
    try:
        done = subprocess.run(
            ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(path)),
            capture_output=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise ToolMissing("ssh-keygen is not installed", hint=install("openssh-client")) from error
    if done.returncode:
        raise EmulatorError(f"ssh-keygen: {done.stderr.decode(errors='replace').strip()}")


def _free_port() -> int:
    with socket.create_server((_ADDRESS, 0)) as server:
        return int(server.getsockname()[1])


def _wait_for_port(process: subprocess.Popen[bytes], log: Path) -> bytes:
    """What it logged until it listens or ended, or until the time is over."""
    deadline = time.monotonic() + _START_S
    while True:
        ended = process.poll() is not None
        said = log.read_bytes()
        if ended or _LISTENS.search(said) or time.monotonic() > deadline:
            return said
        time.sleep(_LOOK_EVERY_S)


def _start_guard(mark: str, folder: Path) -> subprocess.Popen[bytes]:
    """A shell that waits for a line or the end of its input, and kills what is left then.

    The end without a line is ours: nobody else is left to remove the folder with its keys.
    """
    kill = f"( {kill_line(mark, _VARIABLE)}\n)"
    line = f"if read -r line; then {kill}; else {kill}; rm -rf {shlex.quote(str(folder))}; fi"
    return subprocess.Popen(
        ("sh", "-c", line), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True, env=for_children(),
    )  # fmt: skip


def _descendants(ancestor: int) -> list[int]:
    """Processes below one, by ``/proc`` (proc(5), stat: the parent is the second field behind the name)."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text(errors="replace").rpartition(")")[2].split()[1])
    found = [ancestor]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]
