"""Collection by the pytest plugin: which devices a test runs on, options and their twins, and wrong input."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

# An inner session forgets what it was the first to import, and C extensions cannot be imported twice.
from fixtures import budget, selection, session  # noqa: F401
from lab import doctor, progress  # noqa: F401
from lab.bench import Bench
from lab.paths import config_dir

pytestmark = pytest.mark.usefixtures("private_lab", "own_progress")

EMULATED = [device.name for device in Bench.load(config_dir() / "emulated.yaml").devices]
_BENCH = """\
devices:
  red: {board: mps2-an386, emulated: true, meter: {kind: ppk2, emulated: true}, tags: [fast]}
  green: {board: mps2-an500, emulated: true}
  blue: {board: host, tags: [fast]}
"""


@pytest.fixture
def own_progress() -> Iterator[None]:
    """An inner session takes over the progress display and gives it back to standard error; the outer one wants it."""
    before = progress._sink
    yield
    progress.set_sink(before)


@pytest.fixture
def bench(pytester: pytest.Pytester) -> Path:
    """A bench file named ``colours.yaml``."""
    path = pytester.path / "colours.yaml"
    path.write_text(_BENCH)
    return path


def collected(pytester: pytest.Pytester, *arguments: str) -> list[str]:
    """Ids of the parameters of the tests an inner session collects."""
    result = pytester.runpytest_inprocess("--collect-only", "-q", *arguments)
    assert result.ret in (0, 5), result.stdout.str()
    return re.findall(r"\[(\S+)\]$", result.stdout.str(), re.MULTILINE)


# Markers


def test_markers_are_registered(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.hil
        @pytest.mark.devices("host")
        @pytest.mark.budget(latency="1 s")
        @pytest.mark.xdist_group("host")
        def test_marked(): pass
        """
    )
    pytester.runpytest_inprocess("--strict-markers", "--collect-only").assert_outcomes()
    listed = pytester.runpytest_inprocess("--markers").stdout.str()
    assert all(f"@pytest.mark.{name}" in listed for name in ("hil", "devices", "budget"))


def test_hil_is_set_by_itself(pytester: pytest.Pytester, bench: Path) -> None:
    pytester.makepyfile("def test_on_device(device): pass\ndef test_plain(): pass\ndef test_deployed(deploy): pass")
    everything = pytester.runpytest_inprocess("--collect-only", "-q", f"--lab-config={bench}").stdout.str()
    assert "::test_plain\n" in everything
    assert collected(pytester, f"--lab-config={bench}", "-m", "hil") == ["red", "green", "blue"] * 2
    rest = pytester.runpytest_inprocess("--collect-only", "-q", f"--lab-config={bench}", "-m", "not hil")
    assert "::test_plain\n" in rest.stdout.str()
    assert "[red]" not in rest.stdout.str()


def test_a_device_fixture_of_somebody_else_is_left_alone(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def device(): return "a phone"

        def test_theirs(device): assert device == "a phone"
        """
    )
    pytester.runpytest_inprocess("-m", "not hil").assert_outcomes(passed=1)


# Which devices


@pytest.mark.parametrize(
    ("marker", "names"),
    [
        ("", ["red", "green", "blue"]),
        ('@pytest.mark.devices("green")', ["green"]),
        ('@pytest.mark.devices("blue, red")', ["red", "blue"]),
        ('@pytest.mark.devices("blue", "red")', ["red", "blue"]),
        ('@pytest.mark.devices("class:mcu")', ["red", "green"]),
        ('@pytest.mark.devices("class:mcu+feature:meter")', ["red"]),
        ('@pytest.mark.devices("tag:fast+class:host, cpu:cortex-m7")', ["green", "blue"]),
        ('@pytest.mark.devices("tag:fast")\n@pytest.mark.devices("class:mcu")', ["red"]),
    ],
)
def test_the_devices_marker(pytester: pytest.Pytester, bench: Path, marker: str, names: list[str]) -> None:
    pytester.makepyfile(f"import pytest\n{marker}\ndef test_it(device): pass")
    assert collected(pytester, f"--lab-config={bench}") == names


def test_a_marker_on_class_and_test_must_both_hold(pytester: pytest.Pytester, bench: Path) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.devices("class:mcu")
        class TestMcu:
            def test_any(self, device): pass

            @pytest.mark.devices("feature:meter")
            def test_metered(self, measure, deploy): pass
        """
    )
    assert collected(pytester, f"--lab-config={bench}") == ["red", "green", "red"]


def test_other_parameters_multiply(pytester: pytest.Pytester, bench: Path) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("width", [1, 2])
        @pytest.mark.devices("class:mcu")
        def test_it(device, width): pass
        """
    )
    assert sorted(collected(pytester, f"--lab-config={bench}")) == ["green-1", "green-2", "red-1", "red-2"]


def test_lab_device_narrows_and_its_twin_too(
    pytester: pytest.Pytester, bench: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile("def test_it(device): pass")
    given = f"--lab-config={bench}"
    assert collected(pytester, given, "--lab-device", "class:mcu") == ["red", "green"]
    monkeypatch.setenv("LAB_DEVICE", "blue")
    assert collected(pytester, given) == ["blue"]
    assert collected(pytester, given, "--lab-device=green") == ["green"], "the command line comes first"


def test_the_default_bench_is_the_emulated_one(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(device): pass")
    assert collected(pytester) == EMULATED


def test_lab_config_and_its_twin(pytester: pytest.Pytester, bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile("def test_it(device): pass")
    monkeypatch.setenv("LAB_CONFIG", str(bench))
    assert collected(pytester) == ["red", "green", "blue"]
    assert collected(pytester, f"--lab-config={config_dir() / 'emulated.yaml'}") == EMULATED


@pytest.mark.parametrize("source", ["option", "environment"])
@pytest.mark.parametrize(
    ("option", "variable", "field"),
    [
        ("--lab-store", "LAB_STORE", "store"),
        ("--lab-reports", "LAB_REPORTS", "reports"),
        ("--lab-config", "LAB_CONFIG", "config"),
    ],
)
def test_folders_come_from_the_option_or_its_twin(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, source: str, option: str, variable: str, field: str
) -> None:
    monkeypatch.setenv(variable, str(pytester.path / "from the environment"))
    given = [option, "from the option"] if source == "option" else []
    config = pytester.parseconfigure(*given)
    from fixtures.options import read_options

    assert getattr(read_options(config), field) == pytester.path / f"from the {source}"


@pytest.mark.parametrize(
    ("option", "variable"), [("--lab-strict", "LAB_STRICT"), ("--lab-no-report", "LAB_NO_REPORT")]
)
def test_switches_come_from_the_option_or_its_twin(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, option: str, variable: str
) -> None:
    from fixtures.options import LabOptions, read_options

    def is_on(options: LabOptions) -> bool:
        return options.strict if option == "--lab-strict" else options.reports is None

    assert not is_on(read_options(pytester.parseconfigure()))
    assert is_on(read_options(pytester.parseconfigure(option)))
    for value, expected in (("1", True), ("0", False), ("", False)):
        monkeypatch.setenv(variable, value)
        assert is_on(read_options(pytester.parseconfigure())) is expected
        assert is_on(read_options(pytester.parseconfigure(option)))


def test_every_option_is_documented_with_its_twin(pytester: pytest.Pytester) -> None:
    text = pytester.runpytest_inprocess("--help").stdout.str()
    section = text.partition("hardware-in-the-loop lab:")[2].partition("\n\n")[0]
    for option in re.findall(r"--lab-([a-z-]+)", section):
        assert f"LAB_{option.upper().replace('-', '_')}" in section


# Wrong input


def refused(pytester: pytest.Pytester, *arguments: str) -> str:
    """What an inner session says before it ends with status 4, wrong usage; in one process and under xdist."""
    result = pytester.runpytest_inprocess(*arguments)
    told = result.stdout.str() + result.stderr.str()
    assert result.ret == pytest.ExitCode.USAGE_ERROR, told
    assert "Traceback" not in told
    assert "fixtures/plugin.py" not in told
    result.assert_outcomes()
    return told


def test_an_unknown_key_is_one_message_with_file_line_and_nearest_key(pytester: pytest.Pytester) -> None:
    path = pytester.path / "wrong.yaml"
    path.write_text("devices:\n  blue:\n    board: host\n    tagz: [fast]\n")
    pytester.makepyfile(test_one="def test_a(device): pass\ndef test_b(device): pass", test_two="def test_c(device): 0")
    told = refused(pytester, f"--lab-config={path}")
    assert f"{path}:4:5" in told
    assert "unknown key 'tagz'; did you mean 'tags'?" in told
    assert told.count("unknown key") == 1, "three tests, one message"


def test_an_unknown_key_under_xdist(pytester: pytest.Pytester, private_lab: Path) -> None:
    path = pytester.path / "wrong.yaml"
    path.write_text("devices:\n  blue:\n    board: host\n    tagz: [fast]\n")
    pytester.makepyfile("def test_a(device): pass")
    result = pytester.runpytest_subprocess("-n", "2", f"--lab-config={path}")
    told = result.stdout.str() + result.stderr.str()
    assert result.ret == pytest.ExitCode.USAGE_ERROR, told
    assert told.count("unknown key 'tagz'") == 1
    assert "INTERNALERROR" not in told
    assert "Traceback" not in told
    assert not (private_lab / "store").exists()


def test_a_missing_bench_file(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_a(device): pass")
    assert "nowhere.yaml" in refused(pytester, "--lab-config=nowhere.yaml")


def test_an_unknown_device_names_the_nearest(pytester: pytest.Pytester, bench: Path) -> None:
    pytester.makepyfile("def test_a(device): pass")
    told = refused(pytester, f"--lab-config={bench}", "--lab-device=gren")
    assert "unknown device 'gren'; did you mean 'green'? allowed: blue, green, red" in told


def test_a_broken_bench_does_not_disturb_tests_without_devices(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_a(): pass")
    pytester.runpytest_inprocess("--lab-config=nowhere.yaml", "--lab-device=nobody").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ('latncy="20 ms"', "unknown metric 'latncy'; did you mean 'latency'? allowed: latency, energy, peak_ram"),
        ('latency="20 parsecs"', "20 parsecs"),
        ('latency="fast"', "fast"),
        ('energy="1 MiB"', "1 MiB"),
        ('peak_ram="-1 KiB"', "-1 KiB"),
        ('instructions="many"', "'many' is no whole number"),
        ("instructions=1.5", "'1.5' is no whole number"),
        ('"20 ms"', "'20 ms' limits nothing; allowed: latency"),
    ],
)
def test_a_wrong_budget_is_refused_at_collection(pytester: pytest.Pytester, arguments: str, told: str) -> None:
    pytester.makepyfile(f"import pytest\n@pytest.mark.budget({arguments})\ndef test_a(): raise SystemError('it ran')")
    said = refused(pytester)
    assert "test_a_wrong_budget_is_refused_at_collection.py::test_a" in said
    assert told in said
    assert "it ran" not in said


# No device, no tools


def test_no_device_that_fits_skips_with_what_was_asked_and_what_there_is(
    pytester: pytest.Pytester, bench: Path
) -> None:
    pytester.makepyfile('import pytest\n@pytest.mark.devices("class:phone")\ndef test_a(device): pass')
    given = ("-rs", f"--lab-config={bench}")
    result = pytester.runpytest_inprocess(*given)
    result.assert_outcomes(skipped=1)
    (line,) = re.findall(r"SKIPPED.*(?:\n.*)*?devices: .*", result.stdout.str())
    assert "class:phone" in line
    assert "red, green, blue" in line
    assert str(bench) in line
    strict = pytester.runpytest_inprocess("--lab-strict", *given)
    strict.assert_outcomes(errors=1)
    assert "--lab-strict: no device of" in strict.stdout.str()


def test_narrowing_to_nothing_says_so(pytester: pytest.Pytester, bench: Path) -> None:
    pytester.makepyfile('import pytest\n@pytest.mark.devices("red")\ndef test_a(device): pass')
    result = pytester.runpytest_inprocess("-rs", f"--lab-config={bench}", "--lab-device=blue")
    result.assert_outcomes(skipped=1)
    assert "narrowed by --lab-device 'blue'" in result.stdout.str()


@pytest.fixture
def bare_path(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with stand-ins for all tools but QEMU and the compilers."""
    folder = pytester.path / "bin"
    folder.mkdir()
    for name in ("cmake", "ninja", "setpriv"):
        (folder / name).write_text("#!/bin/sh\nexit 1\n")
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.mark.usefixtures("bare_path", "no_tools_of_pip")
def test_without_an_emulator_tests_skip_with_the_packages_to_install(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_a(device): pass")
    result = pytester.runpytest_inprocess("-rs")
    result.assert_outcomes(skipped=len(EMULATED))
    told = result.stdout.str()
    assert "qemu-system-arm is not installed: apt-get install qemu-system-arm" in told
    assert "arm-none-eabi-gcc is not installed: apt-get install gcc-arm-none-eabi" in told
    assert "apt-get install gcc" in told


@pytest.mark.usefixtures("bare_path")
@pytest.mark.parametrize("twin", [False, True])
def test_strict_turns_the_missing_emulator_into_an_error(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, twin: bool
) -> None:
    pytester.makepyfile("def test_a(device): pass")
    if twin:
        monkeypatch.setenv("LAB_STRICT", "1")
    result = pytester.runpytest_inprocess("--lab-device=m4f", *([] if twin else ["--lab-strict"]))
    result.assert_outcomes(errors=1)
    assert "qemu-system-arm is not installed: apt-get install qemu-system-arm" in result.stdout.str()
    assert "`lab doctor` says what is missing" in result.stdout.str()
