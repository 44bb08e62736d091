"""Plugs over HTTP and outlets over SNMP, at servers on this computer that behave as the real ones do."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr
from pysnmp.carrier.asyncio.dgram import udp
from pysnmp.entity import config as snmp_config
from pysnmp.entity import engine as snmp_engine
from pysnmp.entity.rfc3413 import cmdrsp, context
from pysnmp.proto import rfc1902, rfc1905
from pysnmp.smi import instrum

from lab.errors import InfrastructureError, ToolMissing
from lab.power.switches.base import Outlet, PowerSwitch
from lab.power.switches.http import Plug
from lab.power.switches.registry import missing_tool
from lab.power.switches.shelly import Shelly
from lab.power.switches.snmp import Snmp
from lab.power.switches.tasmota import Tasmota
from lab.switch_config import ShellyPlug, SnmpOutlet, TasmotaPlug

PASSWORD = "correct horse & battery=staple"
OID = "1.3.6.1.4.1.318.1.1.12.3.3.1.1.4.5"


class Relay:
    """A plug: its contact, whether it sticks, and all it was asked."""

    def __init__(self, kind: str, password: str = "", stuck: bool = False) -> None:
        self.kind = kind
        self.password = password
        self.stuck = stuck
        self.closed = True
        self.requests: list[str] = []
        self.nonce = secrets.token_hex(8)

    def switch(self, on: bool) -> None:
        if not self.stuck:
            self.closed = on

    def answer(self, target: str, authorization: str) -> tuple[int, str, str]:
        """Status, challenge and body."""
        self.requests.append(target)
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if self.kind == "tasmota":
            return self._tasmota(parts.path, query)
        challenge = self._challenge(target, authorization)
        if challenge:
            return 401, challenge, ""
        return self._gen1(parts.path, query) if self.kind == "gen1" else self._gen2(parts.path, query)

    def _challenge(self, target: str, authorization: str) -> str:
        if not self.password:
            return ""
        if self.kind == "gen1":
            right = "Basic " + base64.b64encode(f"admin:{self.password}".encode()).decode()
            return "" if authorization == right else 'Basic realm="shelly1-aabbcc"'
        told = dict(part.strip().split("=", 1) for part in authorization.partition(" ")[2].split(",") if "=" in part)
        told = {name: value.strip('"') for name, value in told.items()}

        def sha(text: str) -> str:
            return hashlib.sha256(text.encode()).hexdigest()

        mine = sha(f"admin:shellyplus1-aabbcc:{self.password}")
        tail = f"{self.nonce}:{told.get('nc')}:{told.get('cnonce')}:auth:{sha('GET:' + target)}"
        if told.get("response") == sha(f"{mine}:{tail}") and told.get("uri") == target:
            return ""
        return f'Digest qop="auth", realm="shellyplus1-aabbcc", nonce="{self.nonce}", algorithm=SHA-256'

    def _gen1(self, path: str, query: dict[str, str]) -> tuple[int, str, str]:
        if path != "/relay/0":
            return 404, "", "Not Found"
        if query.get("turn") in ("on", "off"):
            self.switch(query["turn"] == "on")
        state = {"ison": self.closed, "has_timer": False, "timer_started": 0, "overpower": False, "source": "http"}
        return 200, "", json.dumps(state)

    def _gen2(self, path: str, query: dict[str, str]) -> tuple[int, str, str]:
        if query.get("id") != "0":
            return 500, "", json.dumps({"code": -105, "message": f"Argument 'id', value {query.get('id')} not found!"})
        was = self.closed
        if path == "/rpc/Switch.Set":
            self.switch(query["on"] == "true")
            return 200, "", json.dumps({"was_on": was})
        if path == "/rpc/Switch.GetStatus":
            return 200, "", json.dumps({"id": 0, "source": "HTTP_in", "output": self.closed, "apower": 0.0})
        return 404, "", json.dumps({"code": 404, "message": "No handler"})

    def _tasmota(self, path: str, query: dict[str, str]) -> tuple[int, str, str]:
        if path != "/cm":
            return 404, "", "File Not Found"
        if self.password and (query.get("user"), query.get("password")) != ("admin", self.password):
            return 200, "", json.dumps({"WARNING": "Need user=<username>&password=<password>"})
        name, _, value = query["cmnd"].partition(" ")
        if name not in ("Power1", "Power2"):
            return 200, "", json.dumps({"Command": "Unknown"})
        if value:
            self.switch(value.lower() == "on")
        # With one relay Tasmota leaves the number out.
        return 200, "", json.dumps({"POWER" if name == "Power1" else "POWER2": "ON" if self.closed else "OFF"})


@contextmanager
def serving(relay: Relay) -> Iterator[str]:
    """The plug's ``host:port``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, challenge, body = relay.answer(self.path, self.headers.get("Authorization", ""))
            self.send_response(status)
            if challenge:
                self.send_header("WWW-Authenticate", challenge)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def outlet_of(kind: str, host: str, password: str = "", outlet: int | None = None) -> Outlet:
    secret = SecretStr(password) if password else None
    if kind == "tasmota":
        return Tasmota(TasmotaPlug(kind="tasmota", host=host, outlet=outlet or 1, password=secret))
    return Shelly(
        ShellyPlug(
            kind="shelly", host=host, generation=1 if kind == "gen1" else 2, outlet=outlet or 0, password=secret
        )
    )


class Fixed:
    title = "serial port X"

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def powered(self) -> bool:
        return self._relay.closed


KINDS = pytest.mark.parametrize("kind", ["gen1", "gen2", "tasmota"])


@KINDS
@pytest.mark.parametrize("password", ["", PASSWORD])
def test_a_plug_switches_and_tells(kind: str, password: str) -> None:
    relay = Relay(kind, password)
    with serving(relay) as host:
        switch = PowerSwitch(outlet_of(kind, host, password), Fixed(relay), off_s=0.0)
        assert switch.state() == (True, True)
        switch.off()
        assert not relay.closed
        assert switch.state() == (False, False)
        switch.cycle()
        assert relay.closed


@KINDS
def test_a_wrong_password_is_told_and_none_is_shown(kind: str) -> None:
    relay = Relay(kind, PASSWORD)
    with serving(relay) as host:
        for given in ("", "wrong secret"):
            with pytest.raises(InfrastructureError, match="password") as caught:
                outlet_of(kind, host, given).set(False)
            shown = str(caught.value) + repr(caught.value)
            assert "wrong" not in shown
            assert PASSWORD not in shown
            assert "!env NAME" in caught.value.hint
    assert relay.closed


@KINDS
def test_no_message_shows_the_password(kind: str) -> None:
    """A plug that breaks off in the middle, and one that answers nonsense."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        host = f"127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(InfrastructureError, match="no answer: ConnectionRefusedError") as caught:
        outlet_of(kind, host, PASSWORD).set(True)
    assert "horse" not in str(caught.value)
    assert caught.value.transient
    assert PASSWORD not in repr(outlet_of(kind, host, PASSWORD).__dict__.get("_plug", ""))


@KINDS
def test_a_relay_that_sticks_is_found_out(kind: str) -> None:
    relay = Relay(kind, stuck=True)
    with serving(relay) as host, pytest.raises(InfrastructureError, match="told to be off and says that it is on"):
        PowerSwitch(outlet_of(kind, host), Fixed(relay)).off()


@KINDS
def test_a_plug_that_lies_is_found_out(kind: str) -> None:
    """The relay opens and the device stays: another supply feeds it."""
    relay = Relay(kind)
    fed = Relay(kind)
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    with serving(relay) as host:
        switch = PowerSwitch(outlet_of(kind, host), Fixed(fed), clock=lambda: now[0], sleep=sleep)
        with pytest.raises(InfrastructureError, match="is off, but serial port X is still there after 15 s"):
            switch.off()


@pytest.mark.parametrize(
    ("kind", "words"), [("gen1", "status 404"), ("gen2", "status 500"), ("tasmota", "no such outlet")]
)
def test_an_outlet_that_is_not_there(kind: str, words: str) -> None:
    with serving(Relay(kind)) as host, pytest.raises(InfrastructureError, match=words):
        outlet_of(kind, host, outlet=3).set(False)


def test_the_wrong_generation() -> None:
    with serving(Relay("gen2")) as host, pytest.raises(InfrastructureError, match="status 500"):
        outlet_of("gen1", host).state()
    with serving(Relay("tasmota")) as host, pytest.raises(InfrastructureError, match="status 404"):
        outlet_of("gen2", host).state()


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
    ],
)
def test_digest_is_that_of_the_rfc(algorithm: str, response: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 7616, section 3.9.1."""
    monkeypatch.setattr(secrets, "token_hex", lambda _: "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ")
    plug = Plug("h", "Mufasa", SecretStr("Circle of Life"))
    challenge = (
        f'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={algorithm}, '
        'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
    )
    assert f'response="{response}"' in plug._answer(challenge, "/dir/index.html")


def test_an_unknown_challenge_is_told() -> None:
    with pytest.raises(InfrastructureError, match="Digest SHA-512-256"):
        Plug("h", "u", SecretStr("p"))._answer('Digest realm="x", nonce="y", algorithm=SHA-512-256', "/")


class Pdu(instrum.AbstractMibInstrumController):  # type: ignore[misc]
    """Outlets as variables: what an SNMP agent reads and writes."""

    def __init__(self, lies: bool) -> None:
        self.outlets = {OID: 1}
        self.lies = lies

    def read_variables(self, *bindings: tuple[object, object], **told: object) -> list[tuple[object, object]]:
        return [self._one(*binding) for binding in bindings]

    def write_variables(self, *bindings: tuple[object, object], **told: object) -> list[tuple[object, object]]:
        for name, value in bindings:
            if str(name) in self.outlets and not self.lies:
                self.outlets[str(name)] = int(str(value))
        return list(bindings)

    def _one(self, name: object, value: object) -> tuple[object, object]:
        stored = self.outlets.get(str(name))
        return name, rfc1905.noSuchObject if stored is None else rfc1902.Integer32(stored)


@contextmanager
def agent(pdu: Pdu) -> Iterator[int]:
    """The UDP port of an SNMP agent that knows the community ``private``."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    loop = asyncio.new_event_loop()
    ready = threading.Event()

    def work() -> None:
        asyncio.set_event_loop(loop)
        engine = snmp_engine.SnmpEngine()
        snmp_config.add_transport(
            engine, udp.DOMAIN_NAME, udp.UdpAsyncioTransport().open_server_mode(("127.0.0.1", port))
        )
        snmp_config.add_v1_system(engine, "area", "private")
        for model in (1, 2):
            snmp_config.add_vacm_user(engine, model, "area", "noAuthNoPriv", (1, 3, 6), (1, 3, 6))
        known = context.SnmpContext(engine)
        known.unregister_context_name(b"")
        known.register_context_name(b"", pdu)
        cmdrsp.GetCommandResponder(engine, known)
        cmdrsp.SetCommandResponder(engine, known)
        loop.call_soon(ready.set)
        loop.run_forever()
        engine.close_dispatcher()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    thread = threading.Thread(target=work)
    thread.start()
    assert ready.wait(10.0)
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def pdu_outlet(port: int, **settings: object) -> Snmp:
    told: dict[str, object] = {"kind": "snmp", "host": "127.0.0.1", "port": port, "oid": OID}
    return Snmp(SnmpOutlet.model_validate({**told, "community": SecretStr("private"), **settings}))


@pytest.mark.parametrize("version", ["1", "2c"])
def test_an_outlet_of_a_pdu(version: str) -> None:
    pdu = Pdu(lies=False)
    with agent(pdu) as port:
        outlet = pdu_outlet(port, version=version)
        assert outlet.state() is True
        outlet.set(False)
        assert pdu.outlets == {OID: 2}
        assert outlet.state() is False
        outlet.set(True)
        assert pdu.outlets == {OID: 1}
        pdu.outlets[OID] = 5  # a delayed command is pending
        assert outlet.state() is None


def test_a_pdu_that_lies_is_found_out() -> None:
    """It answers the set request as if it had worked."""
    with agent(Pdu(lies=True)) as port, pytest.raises(InfrastructureError, match="to be off and says that it is on"):
        PowerSwitch(pdu_outlet(port), Fixed(Relay("gen1"))).off()


def test_a_wrong_community_gets_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.power.switches.snmp._ANSWER_S", 0.1)
    monkeypatch.setattr("lab.power.switches.snmp._RETRIES", 0)
    with agent(Pdu(lies=False)) as port, pytest.raises(InfrastructureError, match="No SNMP response") as caught:
        pdu_outlet(port, community=SecretStr("hush-hush")).state()
    assert "hush" not in str(caught.value)
    assert "community" in caught.value.hint


def test_an_outlet_the_pdu_does_not_have() -> None:
    with agent(Pdu(lies=False)) as port, pytest.raises(InfrastructureError, match="no such variable"):
        pdu_outlet(port, oid="1.3.6.1.4.1.318.9.9").state()


def test_without_pysnmp_the_pip_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pysnmp.hlapi.v3arch.asyncio", None)
    with pytest.raises(ToolMissing, match=r"pip install 'hil-lab\[snmp\]'"):
        pdu_outlet(161).state()
    config = SnmpOutlet(kind="snmp", host="h", oid=OID, community=SecretStr("c"))
    assert missing_tool(config) == ""
    monkeypatch.setattr("lab.power.switches.snmp.find_spec", lambda name: None)
    assert "hil-lab[snmp]" in missing_tool(config)
