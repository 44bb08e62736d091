"""Devices with an operating system: single-board computers over SSH, and any other Linux that can be logged in to.

What is run lies in ``<folder>/builds/<digest>/`` on the device and is sent only where it does not lie there yet. It is
a process that speaks docs/wire.md over its standard input and output; all figures are timed by the device's own clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Literal, NoReturn

from lab.artifact import Artifact
from lab.devices.base import Evident, Identity, PowerAction, ResetKind, Rung
from lab.devices.hosted import check_machine, counted, ended, explain_fault, own_bytes
from lab.devices.machine import Machine, absolute
from lab.devices.python_payload import PythonEnvironment, environment_on, payload_command
from lab.environment import (
    EnvironmentLog,
    MemoryWatch,
    UnifiedMemory,
    hands_of,
    measuring,
    pinned,
    undo_left_over,
)
from lab.environment_config import EnvironmentConfig, PythonPayload
from lab.errors import (
    ConfigError,
    DeviceError,
    HostKeyChanged,
    InfrastructureError,
    LabError,
    LeaseLost,
    NoPyTorch,
    OutOfMemory,
    ProtocolError,
    TransportError,
)
from lab.events import Event, Hello, Job
from lab.fence import Fence
from lab.heard import Heard
from lab.power.base import Meter
from lab.printable import printable
from lab.transports.remote import Remote, RemoteProcess
from lab.wire import Session
from measurements.environment import MemoryFigure

HELLO_TIMEOUT_S = 15.0
PYTHON_HELLO_TIMEOUT_S = 600.0  # PyTorch takes minutes to load on an emulated core of a busy computer
RECONNECT_S = 60.0
_RESYNC_S = 1.0
_PROBE_S = 5.0


class Linux:
    """A computer that runs the runner as a process.

    Args:
        identity: what it is.
        machine: how it is reached.
        folder: where the lab keeps its files there.
        meter: makes its meter, given the connection; None where it is not metered.
        python: the Python that runs workloads in PyTorch there; None where there is none.
        environment: how it is set up while it measures.
        kind: whether it is looked at as a Linux computer or as a phone.
        unified_memory: whether its GPU shares its memory, as a Jetson's does: then that of the whole device is watched.
        fence: the lease under which it is used; None where nobody else can reach it.
    """

    def __init__(
        self,
        identity: Identity,
        machine: Machine,
        folder: str,
        *,
        meter: Callable[[Remote], Meter] | None = None,
        python: PythonPayload | None = None,
        environment: EnvironmentConfig | None = None,
        kind: Literal["linux", "phone"] = "linux",
        unified_memory: bool = False,
        fence: Fence | None = None,
    ) -> None:
        self.identity = identity
        self._machine = machine
        self._folder = folder
        self._make_meter = meter
        self._python = python
        self._environment = environment or EnvironmentConfig()
        self._kind = kind
        self._has_unified_memory = unified_memory
        self._fence = fence
        self._unified: UnifiedMemory | None = None
        self._memory: MemoryWatch | None = None
        self._remote: Remote | None = None
        self._process: RemoteProcess | None = None
        self._session: Session | None = None
        self._artifact: Artifact | None = None
        self._heard = Heard()
        self._command: tuple[str, ...] = ()
        self._found_python: PythonEnvironment | None = None
        self._architecture = ""
        self._place = ""

    @property
    def remote(self) -> Remote:
        """The connection, opened at first use.

        Raises:
            ConfigError, InfrastructureError: the device cannot be reached.
        """
        if self._remote is None:
            self._remote = self._machine.connect()
        return self._remote

    # ---- deploying ----

    def deploy(self, artifact: Artifact) -> Hello:
        """Put the image there, where it does not lie there yet, start it and open a session with it.

        Raises:
            ConfigError: the image was built for another board or architecture, or needs a Python that is not there.
            InfrastructureError: no connection, no room on the device, or nothing may be executed there.
            DeviceError: the runner does not start.
            LeaseLost: somebody else holds the device; it was left alone.
        """
        if artifact.board != self.identity.board:
            raise ConfigError(
                f"{self.identity.name} is a {self.identity.board}; the image was built for {artifact.board}",
                hint=f"build it with board={self.identity.board!r}",
            )
        self._check_lease()
        self._fetch_back()
        self._end_runner()
        self._artifact = artifact
        self._command = self._install(artifact)
        return self._start()

    def python(self) -> PythonEnvironment:
        """The checked Python of the device.

        Raises:
            NoPyTorch: none is configured.
            ConfigError: it lacks what is needed; says how to get it.
        """
        if self._python is None:
            raise NoPyTorch(
                f"{self.identity.name} has no Python that runs PyTorch",
                hint="add python: {venv: <folder on the device>} or {wheels: <folder here>} (docs/linux.md)",
            )
        if self._found_python is None:
            self._found_python = environment_on(self.remote, self._python, self.folder)
        return self._found_python

    @property
    def folder(self) -> str:
        """Where the lab keeps its files on the device, absolute."""
        if not self._place:
            self._place = absolute(self.remote, self._folder)
        return self._place

    def _install(self, artifact: Artifact) -> tuple[str, ...]:
        """Send what is to run; the command that runs it."""
        place = f"{self.folder}/builds/{artifact.digest[:32]}"
        if artifact.runtime == "pytorch":
            return payload_command(self.remote, self.python(), artifact, place)
        check_machine(self.identity.name, artifact.board, self._machine_kind())
        return (self.remote.push(artifact.path, f"{place}/runner", executable=True).path,)

    def _machine_kind(self) -> str:
        if not self._architecture:
            self._architecture = self.remote.run(("uname", "-m")).text
        return self._architecture

    def _start(self) -> Hello:
        artifact = self._deployed()
        native = artifact.runtime == "native"
        argv = self._watch().wrap(
            pinned(self._command, self._environment.cores), own_bytes=own_bytes(artifact.path) if native else 0
        )
        self._process = self.remote.start(argv)
        patience_s = HELLO_TIMEOUT_S if native else PYTHON_HELLO_TIMEOUT_S
        return self._open_session(patience_s, announced=True)

    def _watch(self) -> MemoryWatch:
        """What holds the runner to its memory and counts it, anew on each connection."""
        if self._memory is None:
            hands = hands_of(self.remote)
            # A lab that was killed here, or lost the device, left it set up.
            undo_left_over(hands, self.folder)
            self._memory = MemoryWatch(
                hands, self.folder, self._environment.memory_limit_bytes, without_rights=self._kind == "phone"
            )
        return self._memory

    # ---- environment and memory ----

    @contextmanager
    def measuring(self) -> Iterator[EnvironmentLog]:
        """See :class:`lab.devices.base.Environed`.

        Raises:
            Crash, EmulatorError: the connection broke, and its console says why.
        """
        self._check_lease()
        with measuring(self.remote, self._environment, self._kind, self.folder) as log:
            if self._has_unified_memory:
                self._unified = UnifiedMemory(self.remote)
            try:
                yield log
            except TransportError:
                # What its console says of its end tells more than that the connection broke.
                self._machine.check_alive()
                raise
            finally:
                self._end_unified()

    def process_memory(self) -> list[MemoryFigure]:
        """See :class:`lab.devices.base.MemoryWatched`."""
        unified = None if self._unified is None else self._unified.figure()
        return [*self._watch().figures(), *([] if unified is None else [unified])]

    # ---- running ----

    def run(self, job: Job, *, silence_s: float = 60.0) -> Iterator[Event]:
        """Run a job.

        Raises:
            Crash: the runner died; with the signal and what it said last.
            Hang, OutOfMemory, ProtocolError: as its kind says.
            TransportError: the connection broke (transient).
            LeaseLost: somebody else holds the device.
        """
        self._check_lease()
        if self._open().unfinished_job:
            self._open_session(HELLO_TIMEOUT_S, announced=False)
        session = self._open()
        try:
            session.put_all(job.all_blobs)
            self._check_budget()
            yield from session.run(job, silence_s)
        except DeviceError as error:
            self._explain(error)
        self._check_budget()

    def instructions(self, job: Job) -> dict[str, int]:
        """See :class:`lab.devices.base.InstructionCounting`."""
        if self._deployed().runtime != "native":
            return {}
        blobs = {name: data for name, data in job.blobs.items() if name == "targets"}
        return counted(self.run(Job("count", job.blob, 1, warmup=0, quiet_us=0, blobs=blobs)))

    def reset(self, kind: ResetKind) -> Hello:
        """``soft`` asks the runner, which executes itself anew; ``power`` starts it anew from the outside."""
        session = self._open()
        self._check_lease()
        if kind == "soft":
            session.reset()
            return session.open(HELLO_TIMEOUT_S, build_id=self._deployed().build_id, ask=False)
        return self._restart()

    # ---- recovery ----

    def recover(self) -> Rung:
        """Climb the ladder: resynchronise, start the runner anew, deploy again, reconnect, reboot, power cycle.

        Raises:
            LeaseLost: somebody else holds the device; it was left alone from there on.
            HostKeyChanged: somebody else may answer in its place; likewise.
            LabError: what the last rung said.
        """
        artifact = self._deployed()
        rungs: list[tuple[Rung, Callable[[], object]]] = [
            ("reconnect", lambda: self._reconnect(artifact)),
            ("reboot", lambda: self._reboot(artifact)),
        ]
        if self._connected():
            rungs = [
                ("resync", lambda: self._open_session(_RESYNC_S, announced=False)),
                ("restart", self._restart),
                ("re-deploy", lambda: self.deploy(artifact)),
                *rungs,
            ]
        for rung, climb in rungs:
            self._check_lease()
            try:
                climb()
                return rung
            except (LeaseLost, HostKeyChanged):
                # Whoever answers now, nothing is done to them.
                raise
            except (ConfigError, DeviceError, InfrastructureError) as error:
                failed = error
        if not self._power_cycle():
            raise failed
        self.deploy(artifact)
        return "power-cycle"

    def power(self, action: PowerAction) -> None:
        """Switch the supply off and on; see :class:`lab.devices.base.Powered`."""
        if action != "cycle":
            raise ConfigError(
                f"{self.identity.name} runs an operating system; found {action!r}, allowed: cycle",
                hint="shut it down by hand where it has to stay off",
            )
        if not self._power_cycle():
            raise ConfigError(
                f"{self.identity.name} has no power switch",
                hint="add power_switch: to its entry in the bench file (docs/switches.md)",
            )

    def _connected(self) -> bool:
        """Whether commands still get through; those of the first rungs need that."""
        if self._remote is None:
            return False
        try:
            self._machine.check_alive()
            return self._remote.run(("true",), timeout_s=_PROBE_S).status == 0
        except LabError:
            return False

    def _fetch_back(self) -> None:
        """A device that an earlier run lost is brought back before the next one."""
        if self._remote is None or self._connected():
            return
        try:
            self._machine.check_alive()
            self._remote.reconnect(RECONNECT_S)
            self._memory = None
        except HostKeyChanged:
            raise
        except (DeviceError, InfrastructureError):
            if not self._power_cycle():
                raise

    def _restart(self) -> Hello:
        self._end_runner()
        return self._start()

    def _reconnect(self, artifact: Artifact) -> None:
        self._machine.check_alive()
        self._end_runner()
        self.remote.reconnect(RECONNECT_S)
        self._memory = None
        self.deploy(artifact)

    def _reboot(self, artifact: Artifact) -> None:
        self._machine.check_alive()
        self._end_runner()
        self._machine.reboot(self.remote)
        self._memory = None
        self.deploy(artifact)

    def _power_cycle(self) -> bool:
        self._check_lease()
        # Connections to a computer without power end at once; those to one that hangs are waited for.
        cycled = self._machine.power_cycle()
        self._end_runner()
        self._drop_connection()
        return cycled

    # ---- the rest ----

    def meter(self) -> Meter | None:
        """The device's meter, not yet opened."""
        return None if self._make_meter is None else self._make_meter(self.remote)

    def evidence(self) -> Mapping[str, str]:
        """See :class:`lab.devices.base.Evident`."""
        seen = {"console": "\n".join(self._heard.lines())}
        if self._process is not None:
            seen["complaints"] = printable(self._process.stderr_tail())
        if isinstance(self._machine, Evident):
            seen |= self._machine.evidence()
        return {where: text for where, text in seen.items() if text}

    def close(self) -> None:
        """End the runner and the connection; safe to call twice."""
        self._end_runner()
        self._drop_connection()
        self._machine.close()

    def _open_session(self, timeout_s: float, announced: bool) -> Hello:
        if self._process is None:
            raise ProtocolError(f"{self.identity.name}: nothing is deployed", hint="call deploy() first")
        session = Session(
            self._process, board_is_alive=self._check_alive, heard=self._heard.feed, fence=self._fence
        )
        try:
            hello = session.open(timeout_s, build_id=self._deployed().build_id, ask=not announced)
        except DeviceError as error:
            self._explain(error)
        self._session = session
        return hello

    def _explain(self, error: DeviceError) -> NoReturn:
        if isinstance(error, OutOfMemory) and self._memory is not None:
            raise self._memory.with_numbers(error) from error
        raise explain_fault(error, self._deployed().path) from error

    def _check_budget(self) -> None:
        if (broken := self._watch().over_budget()) is not None:
            # As the kernel would; besides, its peak would speak against every later run.
            if self._process is not None:
                self._process.kill()
            raise broken

    def _check_lease(self) -> None:
        """Each connection starts a runner of its own, so no runner there could tell two holders apart."""
        if self._fence is not None:
            self._fence.check()

    def _check_alive(self) -> None:
        self._machine.check_alive()
        process = self._process
        status = None if process is None else process.poll()
        if process is not None and status is not None:
            killed = None if self._memory is None else self._memory.out_of_memory(process.stderr_tail())
            if killed is not None:
                raise killed
            raise ended(f"the runner on {self.identity.name}", status, process.stderr_tail())

    def _open(self) -> Session:
        if self._session is None:
            raise ProtocolError(f"{self.identity.name}: nothing is deployed", hint="call deploy() first")
        return self._session

    def _deployed(self) -> Artifact:
        if self._artifact is None:
            raise ProtocolError(f"{self.identity.name}: nothing is deployed", hint="call deploy() first")
        return self._artifact

    def _drop_connection(self) -> None:
        self._memory = self._found_python = None
        # What is started anew may have another home.
        self._place = ""
        self._end_unified()
        if self._remote is not None:
            self._remote.close()
            self._remote = None

    def _end_unified(self) -> None:
        unified, self._unified = self._unified, None
        if unified is not None:
            with suppress(InfrastructureError):
                unified.close()

    def _end_runner(self) -> None:
        self._session = None
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.kill()
            process.close()
            if self._memory is not None:
                self._memory.close()
        except InfrastructureError:
            # The connection it ran over is gone, and the runner with it.
            return
