"""Canaries: secrets of a bench file and of the environment, searched for in everything a session leaves behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from helpers.inner_session import REACH, InnerSession, descendants
from helpers.sandbox import environment
from helpers.ssh_peer import SshPeer
from helpers.toolchain import needs_qemu

pytestmark = needs_qemu

_CANARIES = {
    "LAB_TEST_SSH": "canary-ssh-password-93aa51",
    "LAB_TEST_SSH_WRONG": "canary-wrong-password-77bd02",
    "LAB_TEST_SWITCH": "canary-switch-password-1f90c4",
    "LAB_INFLUX_TOKEN": "canary-influx-token-5d2e88",
}
_BENCH = """
devices:
  pi:
    board: raspberry-pi-4
    ssh:
      {{host: 127.0.0.1, port: {port}, user: user, password: !env LAB_TEST_SSH, host_key: "{key}", folder: "{folder}"}}
    power_switch: {{kind: shelly, host: "127.0.0.1:{http}", password: !env LAB_TEST_SWITCH, confirm: usb}}
  locked:
    board: raspberry-pi-4
    ssh: {{host: 127.0.0.1, port: {port}, user: user, password: !env LAB_TEST_SSH_WRONG, host_key: "{key}"}}
    power_switch: {{kind: tasmota, host: "127.0.0.1:{http}", password: !env LAB_TEST_SWITCH, confirm: usb}}
  m4f: {{board: mps2-an386, emulated: true, meter: {{kind: ppk2, emulated: true, voltage_v: 3.3}}}}
"""
_TESTS = (
    """
import pytest
from lab.connection_config import SshHost
"""
    + REACH
    + """
@pytest.mark.devices("pi, locked")
def test_login(device):
    assert device.remote.run(("true",)).status == 0
    raise AssertionError(f"{vars(device)}")

@pytest.mark.parametrize("name", ["pi", "locked"])
def test_switch(name):
    from lab.inventory import load_bench
    from lab.paths import default_config
    from lab.power.switches.registry import make_outlet
    config = load_bench(default_config()).devices[name].config
    outlet = make_outlet(config.power_switch, None)
    print(config, repr(config), config.model_dump(), config.model_dump_json())
    outlet.set(False)

@pytest.mark.devices("m4f")
def test_measure(deploy, measure):
    measure(deploy("tiny"), samples=2)
    reach_and_go_on("measured")
    raise RuntimeError("see the traceback")
"""
)
_CONFTEST = "from helpers import tiny_workload\n\ntiny_workload.register()\n"


class _Refuses(BaseHTTPRequestHandler):
    """A switch and a database that let nobody in, and repeat what they were told, as some do."""

    def _refuse(self) -> None:
        said = self.headers.get("Authorization", "").encode() + self.rfile.read(
            int(self.headers.get("Content-Length", "0"))
        )
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Digest realm="r", nonce="n", qop="auth", algorithm=SHA-256')
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def do_GET(self) -> None:
        self._refuse()

    def do_POST(self) -> None:
        self._refuse()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""


@pytest.fixture
def refusing() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refuses) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def _shown_to_others(pids: set[int]) -> dict[str, bytes]:
    """Command lines and environments of processes."""
    found = {}
    for pid in pids:
        for name in ("cmdline", "environ"):
            try:
                found[f"{name} of {pid}"] = Path(f"/proc/{pid}/{name}").read_bytes()
            except OSError:
                continue
    return found


def _leaks(texts: dict[str, bytes]) -> list[str]:
    return [f"{value} in {where}" for where, data in texts.items() for value in _CANARIES.values()
            if value.encode() in data]  # fmt: skip


def test_no_secret_is_found_in_anything_a_session_leaves_or_shows(
    tmp_path: Path, shared_cache: Path, refusing: int
) -> None:
    with SshPeer(_CANARIES["LAB_TEST_SSH"]) as peer:
        key = f"{peer.key.get_name()} {peer.key.get_base64()}"
        bench = _BENCH.format(port=peer.port, key=key, http=refusing, folder=tmp_path / "device")
        (tmp_path / "bench.yaml").write_text(bench)
        (tmp_path / "conftest.py").write_text(_CONFTEST)
        (tmp_path / "test_job.py").write_text(_TESTS)
        places = environment(
            tmp_path / "lab", shared_cache, LAB_CONFIG=str(tmp_path / "bench.yaml"),
            LAB_INFLUX_URL=f"http://127.0.0.1:{refusing}", LAB_INFLUX_BUCKET="lab", LAB_INFLUX_ORG="lab", **_CANARIES,
        )  # fmt: skip
        loud = ("-vvv", "-rA", "--showlocals", "--tb=long", "-o", "log_cli=true", "-o", "log_cli_level=DEBUG",
                "--log-level=DEBUG", "--log-file=log.txt", "--junitxml=junit.xml", "-s")  # fmt: skip
        with InnerSession(tmp_path, places, *loud) as session:
            session.wait_for("measured")
            children = _shown_to_others(session.children)
            # pytest itself was given them; who can read its environment is its own user.
            own = Path(f"/proc/{session.pid}/cmdline").read_bytes()
            given = Path(f"/proc/{session.pid}/environ").read_bytes()
            session.go_on()
            status = session.ended()
        output = session.output
    assert len([where for where in children if where.startswith("environ")]) >= 2, "QEMU and the meter"
    assert status == pytest.ExitCode.TESTS_FAILED, output
    # Each of the secrets was used, or this test would say nothing.
    assert len(_leaks({"environment of pytest": given})) == len(_CANARIES)
    assert "does not let user in" in output
    assert "the one given was refused" in output
    assert f"mirror http://127.0.0.1:{refusing}" in output
    assert "AssertionError: {'identity'" in output
    written = [path for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    files = {str(path): path.read_bytes() for path in written}
    assert any(path.endswith(".parquet") for path in files)
    assert any(path.endswith("index.html") for path in files)
    assert any("lab.sqlite" in path for path in files)
    assert _leaks({**files, **children, "command line of pytest": own}) == []


def test_children_of_children_are_looked_at_too() -> None:
    assert descendants(os.getppid()) >= {os.getpid()}
