"""``lab nightly`` as CI and systemd call it: the shipped examples, kill -9 in the midst of a cell, webhook, mail."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml
from helpers.listeners import MailServer, Webhook
from helpers.sandbox import environment
from helpers.toolchain import needs_qemu

from lab.nightly.journal import newest
from lab.paths import cache_dir, project_root
from measurements.store import Store

EXAMPLES = project_root() / "docs" / "ci"
TWO_DEVICES = """\
bench: {bench}
devices: m4f, m7
matrix:
  - {{workload: tiny, variants: ["", refused]}}
retry_pause: 0
{more}
"""
# The command line with the workload `tiny`, which needs no training.
_TINY = "from helpers.tiny_workload import register; register(); from lab.cli import main; main(prog_name='lab')"


def _private(folder: Path, **more: str) -> Mapping[str, str]:
    """Store and reports of its own; the user's cache, so that the network is trained once."""
    data = {"LAB_DATA": os.environ["LAB_DATA"]} if "LAB_DATA" in os.environ else {}
    return environment(folder, cache_dir(), **data, **more)


def _config(folder: Path, more: str = "") -> Path:
    path = folder / "nightly.yaml"
    path.write_text(TWO_DEVICES.format(bench=project_root() / "device_configs" / "emulated.yaml", more=more))
    return path


def _nightly(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _TINY, "nightly", *arguments]
    return subprocess.run(
        command, cwd=folder, env=_private(folder, **more), capture_output=True, text=True, check=False, timeout=120
    )


# the shipped examples


def _github_commands() -> list[str]:
    (job,) = yaml.safe_load((EXAMPLES / "github-actions.yml").read_text())["jobs"].values()
    return [step["run"] for step in job["steps"] if "run" in step]


def _gitlab_commands() -> list[str]:
    job = yaml.safe_load((EXAMPLES / "gitlab-ci.yml").read_text())["nightly"]
    return [*job["before_script"], *job["script"], *job["after_script"]]


@needs_qemu
@pytest.mark.timeout(900)  # where no other test has done so before, this one trains the network
def test_the_commands_of_the_ci_examples(tmp_path: Path) -> None:
    """All but the first two, which have run already, or there would be no lab in .venv to run these."""
    install, setup, *ours = _github_commands()
    assert set(_gitlab_commands()) <= {install, setup, *ours}
    assert install.startswith("apt-get update")
    assert setup == "scripts/setup.sh run"
    assert (project_root() / shlex.split(setup)[0]).stat().st_mode & 0o100
    summary = tmp_path / "step_summary"
    private = _private(tmp_path, GITHUB_STEP_SUMMARY=str(summary))
    for command in ours:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=project_root(), env=private, capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    suite = ET.parse(tmp_path / "reports" / "latest" / "junit.xml").getroot().find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "0", "0")
    with Store(tmp_path / "store") as store:
        assert [run.provenance.device for run in store.runs()] == ["m4f", "m7", "m55"]
        assert store.verify().problems == ()
    assert "**3 of 3 cells passed**" in summary.read_text()


def test_artifacts_and_cache_of_the_examples_are_what_the_lab_writes() -> None:
    (job,) = yaml.safe_load((EXAMPLES / "github-actions.yml").read_text())["jobs"].values()
    places = {name: value.replace("${{ github.workspace }}/", "") for name, value in job["env"].items()}
    uses = {step["uses"].partition("@")[0]: step["with"] for step in job["steps"] if "with" in step}
    assert uses["actions/upload-artifact"]["path"] == places["LAB_REPORTS"]
    assert uses["actions/cache"]["path"].split() == [places["LAB_STORE"], places["LAB_CACHE"]]
    gitlab = yaml.safe_load((EXAMPLES / "gitlab-ci.yml").read_text())["nightly"]
    places = {name: value.replace("$CI_PROJECT_DIR/", "") for name, value in gitlab["variables"].items()}
    assert gitlab["cache"]["paths"] == [places["LAB_STORE"], places["LAB_CACHE"]]
    assert gitlab["artifacts"]["paths"] == [places["LAB_REPORTS"]]
    assert gitlab["artifacts"]["reports"]["junit"] == f"{places['LAB_REPORTS']}/*/junit.xml"


def test_the_systemd_units_call_what_there_is() -> None:
    units = {}
    for kind in ("service", "timer"):
        units[kind] = configparser.ConfigParser(interpolation=None, strict=True)
        units[kind].optionxform = str  # type: ignore[assignment,method-assign]
        units[kind].read_string((EXAMPLES / f"lab-nightly.{kind}").read_text())
    program, *arguments = shlex.split(units["service"]["Service"]["ExecStart"])
    assert program.endswith("/.venv/bin/lab")
    assert arguments[:2] == ["nightly", "--config"]
    assert units["service"]["Service"]["Restart"] == "on-abnormal"
    assert units["timer"]["Timer"]["Persistent"] == "true"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_has_nothing_to_say_about_the_units(tmp_path: Path) -> None:
    """Only the place of the lab is changed, since systemd looks whether the program is there."""
    for kind in ("service", "timer"):
        text = (EXAMPLES / f"lab-nightly.{kind}").read_text()
        (tmp_path / f"lab-nightly.{kind}").write_text(text.replace("%h/lab/.venv", str(Path(sys.prefix))))
    command = ["systemd-analyze", "verify", "--man=no", "lab-nightly.timer", "lab-nightly.service"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


# end to end


@needs_qemu
def test_kill_9_in_the_midst_of_a_cell_and_on_it_goes(tmp_path: Path) -> None:
    """Killed as soon as the journal says that the third cell has begun."""
    arguments = ["nightly", "--config", str(_config(tmp_path))]
    # Whoever works in this checkout meanwhile would make another night of it.
    no_git = {"GIT_DIR": str(tmp_path / "none")}
    victim = subprocess.Popen(
        [sys.executable, "-c", _TINY, *arguments], cwd=tmp_path, env=_private(tmp_path, **no_git),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60.0
        while victim.poll() is None and time.monotonic() < deadline:
            journals = list((tmp_path / "store" / "nights").glob("*.jsonl"))
            if journals and journals[0].read_bytes().count(b'"step": "begin"') == 3:
                break
    finally:
        victim.send_signal(signal.SIGKILL)
        assert victim.wait() == -signal.SIGKILL
    broken = newest(tmp_path / "store")
    assert broken is not None
    assert list(broken.progress.outcomes) == ["m4f/tiny", "m4f/tiny/refused"]
    done = _nightly(tmp_path, *arguments[1:], **no_git)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"night {broken.progress.night} broke off after 2 cells; resumed" in done.stdout
    whole = newest(tmp_path / "store")
    assert whole is not None
    assert whole.progress.closed
    assert whole.progress.night == broken.progress.night
    assert [one.verdict for one in whole.progress.outcomes.values()] == ["passed", "failed"] * 2
    assert whole.progress.outcomes["m4f/tiny"] == broken.progress.outcomes["m4f/tiny"]
    with Store(tmp_path / "store") as store:
        passed = [run for run in store.runs(broken.progress.night) if run.status == "passed"]
        assert sorted(run.provenance.device for run in passed) == ["m4f", "m7"]
        assert store.verify().problems == ()
    _check_pages(tmp_path, done.stdout)


def _check_pages(folder: Path, said: str) -> None:
    """One report of two cells that passed and two that failed."""
    assert "2 of 4 cells passed, 2 failed" in said
    page = Path(re.findall(r"^report: (.*)$", said, re.MULTILINE)[0])
    assert page.name == "index.html"
    assert (folder / "reports" / "latest").resolve() == page.parent
    assert [one.name for one in (folder / "reports").iterdir() if not one.is_symlink()] == [page.parent.name]
    cases = list(ET.parse(page.parent / "junit.xml").getroot().iter("testcase"))
    assert [(case.get("classname"), case.get("name"), case.find("failure") is not None) for case in cases] == [
        ("m4f", "tiny", False),
        ("m4f", "tiny (refused)", True),
        ("m7", "tiny", False),
        ("m7", "tiny (refused)", True),
    ]
    assert "accuracy 0.1 is below its floor" in (page.parent / "summary.md").read_text()


# Stands before the real one on the path. An instance is a start with -M; the health check is the first of a machine.
_MORTAL_QEMU = """\
#!/bin/sh
[ "$1" = -M ] || exec "{qemu}" "$@"
started=$(ls "{folder}" | grep -c "^$2")
: > "{folder}/$2-$started"
case "$2-$started" in
  mps2-an386-1 | mps2-an500-[1-9]*) echo "killed for lack of memory" >&2; exit 137 ;;
esac
exec "{qemu}" "$@"
"""


@needs_qemu
def test_an_emulator_that_dies_is_tried_again_and_is_not_the_products_fault(tmp_path: Path) -> None:
    """That of m4f dies once, that of m7 whenever a cell is run on it."""
    (starts := tmp_path / "starts").mkdir()
    (programs := tmp_path / "bin").mkdir()
    mortal = programs / "qemu-system-arm"
    mortal.write_text(_MORTAL_QEMU.format(qemu=shutil.which("qemu-system-arm"), folder=starts))
    mortal.chmod(0o755)
    path = _config(tmp_path, "retries: 1")
    path.write_text(path.read_text().replace(', variants: ["", refused]', ""))
    done = _nightly(tmp_path, "--config", str(path), PATH=f"{programs}:{os.environ['PATH']}")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "1 of 2 cells passed, 1 stopped by the bench" in done.stdout
    page = Path(re.findall(r"^report: (.*)$", done.stdout, re.MULTILINE)[0])
    suite = ET.parse(page.parent / "junit.xml").getroot().find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "0", "1")
    again, dead = suite.iter("testcase")
    assert (again.get("classname"), again.find("error")) == ("m4f", None)
    assert "killed for lack of memory" in (dead.findtext("error") or "")
    assert all("tried again: " in (case.findtext("system-out") or "") for case in (again, dead))
    assert (page.parent / "summary.md").read_text().count("tried again after") == 2
    with Store(tmp_path / "store") as store:
        assert [run.provenance.device for run in store.runs() if run.status == "passed"] == ["m4f"]
    last = newest(tmp_path / "store")
    assert last is not None
    assert [one.attempts for one in last.progress.outcomes.values()] == [2, 2]


@needs_qemu
def test_a_webhook_and_a_mail_tell_of_trouble(tmp_path: Path) -> None:
    more = "devices: m4f\nnotify: {when: trouble, urls: [!env HOOK, !env MAIL]}"
    path = _config(tmp_path, more)
    path.write_text(path.read_text().replace("devices: m4f, m7\n", ""))
    with Webhook() as hook, MailServer() as mail:
        addresses = {
            "HOOK": f"json://s3cret:word@127.0.0.1:{hook.port}/lab",
            "MAIL": f"mailto://127.0.0.1:{mail.port}?from=lab@example.org&to=team@example.org&mode=insecure",
        }
        done = _nightly(tmp_path, "--config", str(path), **addresses)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "told 2 addresses" in done.stdout
        (told,) = hook.bodies
        (letter,) = mail.letters
    body = json.loads(told)
    assert body["title"].startswith("Nightly ")
    assert "1 of 2 cells passed, 1 failed" in body["title"]
    assert "accuracy 0.1 is below its floor" in body["message"]
    assert body["type"] == "failure"
    assert "1 of 2 cells passed" in letter
    assert "To: team@example.org" in letter
    assert "s3cret" not in done.stdout + done.stderr
    assert not any(b"s3cret" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@needs_qemu
def test_a_webhook_that_refuses_makes_a_good_night_a_trouble_of_the_bench(tmp_path: Path) -> None:
    path = _config(tmp_path, "notify: {when: always, urls: [!env HOOK]}")
    path.write_text(path.read_text().replace(', variants: ["", refused]', "").replace("m4f, m7", "m4f"))
    with Webhook(status=500) as hook:
        done = _nightly(tmp_path, "--config", str(path), HOOK=f"json://127.0.0.1:{hook.port}/lab")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "1 of 1 cells passed" in done.stdout
    assert "reached 0 of 1 addresses: address 1 (JSON) did not take it" in done.stderr
