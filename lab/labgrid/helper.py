"""Talks to a labgrid coordinator, for one process of the lab: a program of its own, run by labgrid's Python.

It must import nothing of the lab, and imports what only labgrid's Python has where that is used. One JSON object a
line: requests on standard input, answers and everything that changes at the coordinator on standard output. At the end
of its input, which comes when the lab's process ends however that happens, it gives back what it acquired.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
from typing import Any

_CALL_S = 40.0
_GOODBYE_S = 5.0
_ACQUIRED = 2
"""A reservation's state, as labgrid numbers them."""
_OPTIONS = [
    ("grpc.keepalive_time_ms", 7500),
    ("grpc.keepalive_timeout_ms", 5000),
    ("grpc.http2.ping_timeout_ms", 5000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_http_proxy", 0),
]
_output = threading.Lock()


def say(message: dict[str, Any]) -> None:
    """One line to the lab."""
    with _output:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


class Session:
    """A client of the coordinator.

    Args:
        address: ``host:port``.
        name: under which places are acquired.
    """

    def __init__(self, address: str, name: str) -> None:
        import grpc
        from labgrid.remote.generated import labgrid_coordinator_pb2 as messages
        from labgrid.remote.generated.labgrid_coordinator_pb2_grpc import CoordinatorStub

        self._name = name
        self._messages = messages
        self._stub = CoordinatorStub(grpc.insecure_channel(address, options=_OPTIONS))
        self._held: set[str] = set()
        self._reserved: set[str] = set()
        # labgrid's coordinator knows who calls by the stream that the same connection keeps open.
        self._requests: queue.Queue[Any] = queue.Queue()
        for request in (
            messages.ClientInMessage(startup=messages.StartupDone(version="hil-lab", name=name)),
            messages.ClientInMessage(subscribe=messages.Subscribe(all_places=True)),
            messages.ClientInMessage(subscribe=messages.Subscribe(all_resources=True)),
            messages.ClientInMessage(sync=messages.Sync(id=1)),
        ):
            self._requests.put(request)

    def listen(self) -> None:
        """Tell of every change; ends the program where the coordinator goes away."""
        import grpc

        try:
            for message in self._stub.ClientStream(iter(self._requests.get, None)):
                for update in message.updates:
                    say(described(update))
                if message.HasField("sync"):
                    say({"ready": True})
            lost = "it closed the connection"
        except grpc.RpcError as error:
            lost = f"{error.details()} ({error.code().name})"
        except OSError:
            # Nobody reads any more: the end of the input follows.
            return
        say({"lost": lost})
        os._exit(3)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what one request asks for."""
        import grpc

        try:
            found = _REQUESTS[request["do"]](self, request)
        except grpc.RpcError as error:
            return {"answer": request["id"], "refused": error.code().name, "text": error.details()}
        return {"answer": request["id"], "line": found or []}

    def acquire(self, request: dict[str, Any]) -> None:
        """``place``."""
        self._stub.AcquirePlace(self._messages.AcquirePlaceRequest(placename=request["place"]), timeout=_CALL_S)
        self._held.add(request["place"])

    def release(self, request: dict[str, Any]) -> None:
        """``place``, for ``holder``."""
        self._release(request["place"], request["holder"], _CALL_S)
        self._held.discard(request["place"])

    def tag(self, request: dict[str, Any]) -> None:
        """``place``, with ``tags``."""
        tags = self._messages.SetPlaceTagsRequest(placename=request["place"], tags=request["tags"])
        self._stub.SetPlaceTags(tags, timeout=_CALL_S)

    def reserve(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        """``place``, with ``priority``; answers with what was made."""
        wanted = self._messages.Reservation.Filter(filter={"name": request["place"]})
        asked = self._messages.CreateReservationRequest(filters={"main": wanted}, prio=request["priority"])
        made = self._stub.CreateReservation(asked, timeout=_CALL_S).reservation
        self._reserved.add(made.token)
        return [reservation(made)]

    def cancel(self, request: dict[str, Any]) -> None:
        """The reservation ``token``, whoever made it."""
        self._cancel(request["token"], _CALL_S)
        self._reserved.discard(request["token"])

    def line(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        """All reservations, once ``token``, where one is named, has been told to be needed still."""
        import grpc

        if request["token"]:
            with contextlib.suppress(grpc.RpcError):
                self._stub.PollReservation(
                    self._messages.PollReservationRequest(token=request["token"]), timeout=_CALL_S
                )
        told = self._stub.GetReservations(self._messages.GetReservationsRequest(), timeout=_CALL_S)
        return [reservation(one) for one in told.reservations]

    def _cancel(self, token: str, timeout_s: float) -> None:
        self._stub.CancelReservation(self._messages.CancelReservationRequest(token=token), timeout=timeout_s)

    def _release(self, place: str, holder: str, timeout_s: float) -> None:
        # Compared there: a place that somebody else has acquired meanwhile stays theirs.
        request = self._messages.ReleasePlaceRequest(placename=place, fromuser=holder)
        self._stub.ReleasePlace(request, timeout=timeout_s)

    def leave(self) -> None:
        """Give back what is still held, and leave all lines."""
        import grpc

        for token in self._reserved:
            with contextlib.suppress(grpc.RpcError):
                self._cancel(token, _GOODBYE_S)
        for place in self._held:
            try:
                self._release(place, self._name, _GOODBYE_S)
            except grpc.RpcError as error:
                print(f"{place} was not given back: {error.details()}", file=sys.stderr)


_REQUESTS = {name: getattr(Session, name) for name in ("acquire", "release", "tag", "reserve", "cancel", "line")}


def reservation(told: Any) -> dict[str, Any]:
    """One reservation as plain data; what was asked for and what is given are names of places, empty where none."""
    return {
        "token": told.token,
        "owner": told.owner,
        "wanted": told.filters["main"].filter.get("name", ""),
        "given": told.allocations.get("main", ""),
        "acquired": told.state == _ACQUIRED,
        "priority": told.prio,
        "created": told.created,
        "until": told.timeout,
    }


def described(update: Any) -> dict[str, Any]:
    """One change as plain data."""
    kind = update.WhichOneof("kind")
    if kind == "place":
        place = update.place
        matches = [[one.exporter, one.group, one.cls, one.name or "*"] for one in place.matches]
        return {
            "place": {
                "name": place.name,
                "acquired": place.acquired,
                "tags": dict(place.tags),
                "matches": matches,
                "reserved": place.reservation,
            }
        }
    if kind == "del_place":
        return {"gone_place": update.del_place}
    if kind == "resource":
        resource = update.resource
        return {
            "resource": {
                "path": path_of(resource.path),
                "cls": resource.cls,
                "params": values(resource.params),
                "extra": values(resource.extra),
                "acquired": resource.acquired,
                "available": resource.avail,
            }
        }
    return {"gone_resource": path_of(update.del_resource)}


def path_of(path: Any) -> list[str]:
    """Exporter, group and name."""
    return [path.exporter_name, path.group_name, path.resource_name]


def values(fields: Any) -> dict[str, Any]:
    """A map of typed values as plain data; what was set to nothing is left out."""
    found = {key: (value.WhichOneof("kind"), value) for key, value in fields.items()}
    return {key: getattr(value, kind) for key, (kind, value) in found.items() if kind is not None}


def main() -> None:
    """``helper.py ADDRESS NAME``."""
    # Ctrl-C is for the lab's process, which may want to clean up by this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    session = Session(sys.argv[1], sys.argv[2])
    threading.Thread(target=session.listen, daemon=True).start()
    for line in sys.stdin:
        say(session.answer(json.loads(line)))
    session.leave()
    os._exit(0)


if __name__ == "__main__":
    main()
