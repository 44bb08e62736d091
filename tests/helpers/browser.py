"""A report in headless Chromium: what a script says that asks the page, at any width and in either scheme."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')


def chromium() -> str | None:
    """Path of the browser, None where there is none."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


needs_chromium = pytest.mark.skipif(chromium() is None, reason="Chromium is not installed (Debian package chromium)")


class _Pages(ThreadingHTTPServer):
    """Serves pages by name and takes one answer; ``/hold`` is answered only then, so that the browser waits for it."""

    daemon_threads = True

    def __init__(self, pages: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages = pages
        self.answer = ""
        self.answered = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    server: _Pages

    def do_GET(self) -> None:
        if self.path == "/hold":
            self.server.answered.wait(60.0)
        body = self.server.pages.get(self.path, "").encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.server.answer = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.answered.set()
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def ask(
    page: Path, question: str, *, width: int = 1280, scheme: Literal["light", "dark"] = "light", fragment: str = ""
) -> dict[str, object]:
    """What an asynchronous function body returns in the page, which may wait for two frames by ``await drawn()``.

    The page is opened as a reader does; only its policy is taken off, for the question is a script too.

    Raises:
        RuntimeError: the page or the question threw an error, or there was no answer.
    """
    asking = f"""<script>
      const problems = [];
      addEventListener("error", (event) => problems.push(event.message));
      const drawn = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
      addEventListener("load", async () => {{
        let answer = {{}};
        try {{ answer = await (async () => {{ {question} }})(); }} catch (error) {{ problems.push(String(error)); }}
        fetch("/answer", {{method: "POST", body: JSON.stringify({{answer, problems}})}});
      }});
    </script>"""
    # A window of the browser is never narrower than 500 px; a frame is as narrow as a phone.
    frame = f"""<!DOCTYPE html><body style="margin:0"><img src="/hold">
    <iframe src="/page{fragment}" style="position:absolute;inset:0;border:0;width:{width}px;height:900px"></iframe>"""
    text = _POLICY.sub("", page.read_text("utf-8")).replace("<head>", f"<head>{asking}", 1)
    with tempfile.TemporaryDirectory() as folder, _Pages({"/": frame, "/page": text}) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        command = [
            chromium() or "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--user-data-dir={folder}", f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
            "--window-size=1400,950", "--dump-dom", f"http://127.0.0.1:{server.server_address[1]}/",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        server.shutdown()
        thread.join()
    if not server.answer:
        raise RuntimeError(f"no answer from the page: {done.stderr[-2000:]}")
    told = json.loads(server.answer)
    if told["problems"]:
        raise RuntimeError(f"the page threw: {told['problems']}")
    answer: dict[str, object] = told["answer"]
    return answer
