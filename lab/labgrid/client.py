"""A session with a labgrid coordinator, held by a helper process in labgrid's own environment.

The helper tells of every change, so what places and resources are is known here without asking. It ends with this
process, however that ends, and gives back what this process acquired.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self, TypeVar

from lab.child_environment import for_children
from lab.errors import InfrastructureError, ToolMissing
from lab.labgrid import records
from lab.labgrid.config import LabgridConfig
from lab.labgrid.environment import labgrid_python
from lab.labgrid.records import OURS, Match, Place, Reservation, Resource, Value
from lab.labgrid.tunnel import Tunnel

CONNECT_S = 20.0
"""How long the coordinator may take to say what there is; the helper's own start is in it."""
CALL_S = 45.0
_GOODBYE_S = 8.0
_HINT = "is `lab labgrid coordinator` running there? bench file: labgrid.coordinator"

_Found = TypeVar("_Found")


class CoordinatorLost(InfrastructureError):
    """The coordinator cannot be reached, or went away."""


class Refused(InfrastructureError):
    """The coordinator said no."""


def new_name() -> str:
    """``host/user+lab-pid-…``: a name no other process has; labgrid's tools show it as host and user."""
    return f"{socket.gethostname()}/{getpass.getuser()}{OURS}{os.getpid()}-{secrets.token_hex(4)}"


class Coordinator:
    """A session with a coordinator.

    Args:
        config: where it is.
        name: under which places are acquired; None: one of its own.

    Raises:
        ToolMissing: labgrid is not installed; says how to get it.
        CoordinatorLost: nobody answers there.
    """

    def __init__(self, config: LabgridConfig, name: str | None = None) -> None:
        self.name = name or new_name()
        self._config = config
        self._changed = threading.Condition()
        self._places: dict[str, Place] = {}
        self._resources: dict[records.Path, Resource] = {}
        self._answers: dict[int, Mapping[str, object]] = {}
        self._asked = 0
        self._ready = False
        self._lost = ""
        self._complaints: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        self._tunnel = None if config.tunnel is None else Tunnel(config.tunnel, *_split(config.coordinator))
        address = config.coordinator if self._tunnel is None else f"127.0.0.1:{self._tunnel.port}"
        try:
            self._process = self._start(address)
        except BaseException:
            self._end_tunnel()
            raise
        threading.Thread(target=self._listen, name="labgrid-coordinator", daemon=True).start()
        try:
            self.wait(lambda: self._ready, CONNECT_S)
            if not self._ready:
                raise self._gone(f"it said nothing for {CONNECT_S:g} s")
        except BaseException:
            self.close()
            raise

    def _start(self, address: str) -> subprocess.Popen[str]:
        python = labgrid_python()
        helper = Path(__file__).with_name("helper.py")
        try:
            return subprocess.Popen(
                [python, "-I", helper, address, self.name],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints, text=True,
                env=for_children(GRPC_VERBOSITY="ERROR"), start_new_session=sys.platform != "win32",
            )  # fmt: skip
        except OSError as error:
            raise ToolMissing(
                f"{python} cannot be started: {error.strerror}", hint="`lab labgrid install` makes it anew"
            ) from error

    @property
    def lost(self) -> str:
        """Why the coordinator cannot be reached any more; empty while it can."""
        return self._lost

    def check(self) -> None:
        """Return while it can be reached.

        Raises:
            CoordinatorLost: it went away.
        """
        if self._lost:
            raise self._gone(self._lost)

    @property
    def resources(self) -> list[Resource]:
        """All that exporters offer now."""
        with self._changed:
            return list(self._resources.values())

    @property
    def places(self) -> list[Place]:
        """All places, by name."""
        with self._changed:
            return [self._places[name] for name in sorted(self._places)]

    def place(self, name: str) -> Place | None:
        """A place as it is now; None where there is none of that name."""
        with self._changed:
            return self._places.get(name)

    def wait(self, happened: Callable[[], _Found], timeout_s: float) -> _Found:
        """Wait until something is true, the time is over or the coordinator is lost; returns what it is then.

        Raises:
            CoordinatorLost: it went away.
        """
        found: list[_Found] = []

        def over() -> bool:
            found[:] = [happened()]
            return bool(found[0] or self._lost)

        with self._changed:
            self._changed.wait_for(over, timeout_s)
            if self._lost and not found[0]:
                raise self._gone(self._lost)
            return found[0]

    def wait_change(self, timeout_s: float) -> None:
        """Wait until anything changes, or the time is over."""
        with self._changed:
            if not self._lost:
                self._changed.wait(timeout_s)

    def wake(self) -> None:
        """End :meth:`wait_change` in another thread."""
        with self._changed:
            self._changed.notify_all()

    def acquire(self, place: str) -> None:
        """Acquire a place with all its resources that are there.

        Raises:
            Refused: somebody has it, or a resource of it.
            CoordinatorLost: it went away.
        """
        self._call({"do": "acquire", "place": place})

    def release(self, place: str, acquired: str) -> None:
        """Give a place back for ``acquired``; nothing happens where somebody else has it by now.

        Raises:
            Refused, CoordinatorLost: as :meth:`acquire`.
        """
        self._call({"do": "release", "place": place, "holder": acquired})

    def tag(self, place: str, tags: Mapping[str, str]) -> None:
        """Set tags of a place; an empty value removes one.

        Raises:
            Refused, CoordinatorLost: as :meth:`acquire`.
        """
        self._call({"do": "tag", "place": place, "tags": dict(tags)})

    def reserve(self, place: str, priority: float) -> Reservation:
        """Stand in the line for a place; the coordinator lets nobody else acquire it once it is kept for this session.

        Raises:
            Refused, CoordinatorLost: as :meth:`acquire`.
        """
        (made,) = self._line({"do": "reserve", "place": place, "priority": priority})
        return made

    def cancel(self, token: str) -> None:
        """End a reservation, whoever made it.

        Raises:
            Refused: there is none of that token.
            CoordinatorLost: it went away.
        """
        self._call({"do": "cancel", "token": token})

    def line(self, token: str = "") -> list[Reservation]:
        """All reservations, first of all who goes first; ``token`` names one of this session's that is needed still.

        Raises:
            Refused, CoordinatorLost: as :meth:`acquire`.
        """
        found = self._line({"do": "line", "token": token})
        return sorted(found, key=lambda one: (-one.priority, one.created_s))

    def close(self) -> None:
        """End the session: what it holds is given back, and it leaves all lines. Safe to call twice."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(_GOODBYE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._end_tunnel()
        self._complaints.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _line(self, request: Mapping[str, str | float]) -> list[Reservation]:
        told = self._call(request).get("line")
        return [_reservation(one) for one in told] if isinstance(told, list) else []

    def _call(self, request: Mapping[str, str | float | Mapping[str, str]]) -> Mapping[str, object]:
        with self._changed:
            if self._lost:
                raise self._gone(self._lost)
            self._asked += 1
            number = self._asked
            try:
                _pipe(self._process.stdin).write(json.dumps({**request, "id": number}) + "\n")
                _pipe(self._process.stdin).flush()
            except (OSError, ValueError) as error:
                raise self._gone("its helper has ended") from error
        answer = self.wait(lambda: self._answers.pop(number, None), CALL_S)
        if answer is None:
            raise self._gone(f"it answered nothing for {CALL_S:g} s")
        if answer.get("refused") in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"):
            raise self._gone(str(answer["text"]))
        if "refused" in answer:
            raise Refused(f"labgrid coordinator {self._config.coordinator}: {answer['text']}", transient=True)
        return answer

    def _listen(self) -> None:
        output = _pipe(self._process.stdout)
        for line in output:
            with self._changed:
                try:
                    self._take(json.loads(line))
                except (ValueError, KeyError):
                    self._lost = f"its helper said what it never says: {line.strip()[:200]}"
                self._changed.notify_all()
        output.close()
        with self._changed:
            self._lost = self._lost or self._last_words() or "its helper has ended"
            self._changed.notify_all()

    def _take(self, message: Mapping[str, object]) -> None:
        for key, value in message.items():
            if key == "place" and isinstance(value, dict):
                self._places[value["name"]] = _place(value)
            elif key == "resource" and isinstance(value, dict):
                resource = _resource(value)
                self._resources[resource.path] = resource
            elif key == "gone_place":
                self._places.pop(str(value), None)
            elif key == "gone_resource" and isinstance(value, list):
                self._resources.pop(_path(value), None)
            elif key == "ready":
                self._ready = True
            elif key == "lost":
                self._lost = str(value)
            elif key == "answer" and isinstance(value, int):
                self._answers[value] = message

    def _last_words(self) -> str:
        self._process.wait()
        with contextlib.suppress(ValueError):
            self._complaints.seek(0)
            return self._complaints.read()[-2000:].decode(errors="replace").strip().rpartition("\n")[2]
        return ""

    def _gone(self, why: str) -> CoordinatorLost:
        return CoordinatorLost(
            f"labgrid coordinator {self._config.coordinator}: {why}", hint=_HINT, transient=True
        )

    def _end_tunnel(self) -> None:
        if self._tunnel is not None:
            self._tunnel.close()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    """A pipe that was asked for."""
    if pipe is None:
        raise ValueError("no pipe")
    return pipe


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _path(parts: list[str]) -> records.Path:
    exporter, group, name = parts
    return exporter, group, name


def _place(told: Mapping[str, object]) -> Place:
    matches, tags = told["matches"], told["tags"]
    return Place(
        name=str(told["name"]),
        acquired=str(told["acquired"]),
        tags={str(key): str(value) for key, value in tags.items()} if isinstance(tags, dict) else {},
        matches=tuple(Match(*map(str, one)) for one in matches) if isinstance(matches, list) else (),
        reserved=str(told.get("reserved", "")),
    )


def _reservation(told: Mapping[str, object]) -> Reservation:
    return Reservation(
        **{name: str(told[name]) for name in ("token", "owner", "wanted", "given")},
        acquired=bool(told["acquired"]),
        priority=float(str(told["priority"])),
        created_s=float(str(told["created"])),
        until_s=float(str(told["until"])),
    )


def _resource(told: Mapping[str, object]) -> Resource:
    path = told["path"]
    return Resource(
        path=_path([str(part) for part in path] if isinstance(path, list) else []),
        cls=str(told["cls"]),
        params=_values(told["params"]),
        extra=_values(told["extra"]),
        acquired=str(told["acquired"]),
        available=bool(told["available"]),
    )


def _values(told: object) -> dict[str, Value]:
    # labgrid's files may hold passwords in plain: the lab never uses them, so nothing of it must be able to tell them.
    known = told.items() if isinstance(told, dict) else ()
    return {str(key): value for key, value in known if key != "password"}

