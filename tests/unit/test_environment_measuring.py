"""What is set for a measurement is put back, whatever happens, and what cannot be set is one clear error."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.stand_in_device import CPUFREQ, StandIn, raspberry_pi_4

from lab.environment import EnvironmentLog, measuring, undo_left_over
from lab.environment.changes import FILE, Hands, hands_of
from lab.environment_config import EnvironmentConfig
from lab.errors import ConfigError, InfrastructureError, TransportError
from lab.inventory import DeviceClass
from measurements.environment import Environment, Setting

GOVERNOR = f"{CPUFREQ}/policy0/scaling_governor"
LEAST, MOST = f"{CPUFREQ}/policy0/scaling_min_freq", f"{CPUFREQ}/policy0/scaling_max_freq"


def asked(**settings: object) -> EnvironmentConfig:
    return EnvironmentConfig.model_validate(settings)


@pytest.fixture
def pi(tmp_path: Path) -> StandIn:
    return raspberry_pi_4(tmp_path)


def folder(device: StandIn) -> Path:
    return device.home / "lab"


def run(device: StandIn, kind: DeviceClass = "linux", /, **settings: object) -> Environment:
    """A measurement without a middle."""
    with measuring(device, asked(**settings), kind, "lab", root=str(device.root)) as log:
        pass
    return log.environment


def broken_off(device: StandIn, **settings: object) -> EnvironmentLog:
    """A measurement in whose middle the connection breaks."""
    logs = []

    def measure() -> None:
        with measuring(device, asked(**settings), "linux", "lab", root=str(device.root)) as log:
            logs.append(log)
            device.breaks_at = len(device.commands)
            log.during()

    with pytest.raises(TransportError, match="broke"):
        measure()
    return logs[0]


def state(device: StandIn) -> dict[str, str]:
    return {str(path): path.read_text() for path in sorted(device.root.rglob("*")) if path.is_file()}


def test_nothing_is_touched_that_was_not_asked_for(pi: StandIn) -> None:
    before = state(pi)
    environment = run(pi)
    assert state(pi) == before
    assert not folder(pi).exists()
    assert [one.moment for one in environment.snapshots] == ["before", "after"]
    assert (environment.settings, environment.throttled, environment.notes) == ((), (), ())
    looked = [argv for argv in pi.commands if argv[0] == "sh"]
    assert len(looked) == 2, "one round trip for each snapshot"


def test_a_governor_and_a_clock_are_set_and_put_back(pi: StandIn) -> None:
    before = state(pi)
    config = asked(governor="performance", frequency_hz=1.5e9)
    with measuring(pi, config, "linux", "lab", root=str(pi.root)) as log:
        assert (pi.text(GOVERNOR), pi.text(LEAST), pi.text(MOST)) == ("performance", "1500000", "1500000")
        log.during()
    assert state(pi) == before
    environment = log.environment
    assert environment.settings == (
        Setting("governor of policy0", "ondemand", "performance", restored=True),
        Setting("lowest clock of policy0", "600 MHz", "1500 MHz", restored=True),
        Setting("highest clock of policy0", "1800 MHz", "1500 MHz", restored=True),
    )
    assert [one.moment for one in environment.snapshots] == ["before", "during", "after"]
    assert not (folder(pi) / FILE).exists()


@pytest.mark.parametrize(("least", "most", "order"), [(600, 1000, [MOST, LEAST]), (1600, 1800, [LEAST, MOST])])
def test_limits_of_clocks_never_cross(pi: StandIn, least: int, most: int, order: list[str]) -> None:
    pi.files({LEAST: least * 1000, MOST: most * 1000})
    run(pi, frequency_hz=1.5e9)
    written = [argv[1].removeprefix(str(pi.root)) for argv in pi.commands if argv[0] == "tee"]
    assert written == [*order, *reversed(order)]


def test_settings_that_are_as_asked_are_left_alone(pi: StandIn) -> None:
    assert run(pi, governor="ondemand").settings == ()
    assert not any(argv[0] == "tee" for argv in pi.commands)


def test_what_the_runner_is_held_to_is_recorded(pi: StandIn) -> None:
    assert run(pi, cores=[0, 2], memory_limit_bytes=1 << 20).settings == (
        Setting("cores of the runner", "all", "0, 2", restored=True),
        Setting("memory of the runner", "no limit", "1048576 bytes", restored=True),
    )


class Oops(Exception):
    pass


@pytest.mark.parametrize("error", [Oops(), KeyboardInterrupt(), SystemExit(1)])
def test_all_is_put_back_after_a_failure(pi: StandIn, error: BaseException) -> None:
    before = state(pi)
    config = asked(governor="performance")
    with pytest.raises(type(error)) as caught, measuring(pi, config, "linux", "lab", root=str(pi.root)) as log:
        raise error
    assert caught.value is error
    assert state(pi) == before
    assert log.environment.settings[0].restored


def test_a_connection_that_broke_is_made_again_to_put_back(pi: StandIn) -> None:
    before = state(pi)
    log = broken_off(pi, governor="performance")
    assert pi.reconnects == 1
    assert state(pi) == before
    assert any(note.startswith("nothing was seen of the device after the run") for note in log.environment.notes)


def test_what_a_lost_connection_left_behind_is_put_back_at_the_next(pi: StandIn) -> None:
    before = state(pi)
    pi.comes_back = False
    log = broken_off(pi, governor="performance", frequency_hz=1.5e9)
    assert not any(setting.restored for setting in log.environment.settings)
    assert log.environment.notes[-1].startswith("NOT PUT BACK: governor of policy0, lowest clock of policy0, highest")
    assert pi.text(GOVERNOR) == "performance"
    pi.breaks_at = None
    environment = run(pi)
    assert state(pi) == before
    assert environment.notes == (
        "an earlier run broke off and left behind: governor of policy0, lowest clock of policy0, highest clock of "
        "policy0; put back now",
    )
    assert run(pi).notes == ()


def test_a_killed_lab_leaves_a_note_that_the_next_one_follows(pi: StandIn, tmp_path: Path) -> None:
    before = state(pi)
    helpers = Path(__file__).parents[1]
    program = (
        f"import os, signal, sys; sys.path.insert(0, {str(helpers)!r})\n"
        "from pathlib import Path\n"
        "from helpers.stand_in_device import StandIn\n"
        "from lab.environment import measuring\n"
        "from lab.environment_config import EnvironmentConfig\n"
        f"device = StandIn(Path({str(tmp_path)!r}))\n"
        "with measuring(device, EnvironmentConfig(governor='performance'), 'linux', 'lab', root=str(device.root)):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL
    assert pi.text(GOVERNOR) == "performance"
    notes = undo_left_over(Hands(pi, root=str(pi.root)), "lab")
    assert notes == ("an earlier run broke off and left behind: governor of policy0; put back now",)
    assert state(pi) == before
    assert undo_left_over(Hands(pi, root=str(pi.root)), "lab") == ()


@pytest.mark.parametrize("commands", range(4, 14))
def test_wherever_the_connection_breaks_all_is_put_back_in_the_end(tmp_path: Path, commands: int) -> None:
    """The connection breaks at each command of a run in turn, and comes back only for the next run."""
    device = raspberry_pi_4(tmp_path)
    before = state(device)
    device.breaks_at, device.comes_back = commands, False
    with contextlib.suppress(TransportError):
        run(device, governor="performance", frequency_hz=1.5e9)
    device.breaks_at = None
    run(device)
    assert state(device) == before
    assert not (folder(device) / FILE).exists()


def test_a_damaged_line_of_the_note_is_skipped(pi: StandIn) -> None:
    folder(pi).mkdir()
    entry = json.dumps({"name": "governor of policy0", "path": GOVERNOR, "value": "powersave", "argv": []})
    (folder(pi) / FILE).write_text(f'{entry}\n{{"name": "half a li')
    assert "governor of policy0" in run(pi).notes[0]
    assert pi.text(GOVERNOR) == "powersave"


def test_what_cannot_be_put_back_is_said(pi: StandIn) -> None:
    with measuring(pi, asked(governor="performance"), "linux", "lab", root=str(pi.root)) as log:
        (pi.root / GOVERNOR.lstrip("/")).unlink()
        (pi.root / GOVERNOR.lstrip("/")).mkdir()
    assert any(note.startswith("governor of policy0 was not put back: ") for note in log.environment.notes)
    assert not log.environment.settings[0].restored


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"governor": "turbo"}, r"policy0 has no governor 'turbo'; allowed: conservative, ondemand, .*schedutil"),
        ({"frequency_hz": 1.4e9}, r"policy0 cannot run at 1400 MHz; allowed: 600, 700, 800, 1500, 1800 MHz"),
        ({"frequency_hz": 2.4e9}, r"policy0 cannot run at 2400 MHz"),
        ({"nvpmodel": 0}, r"nvpmodel: 0 was asked for, and this device has no nvpmodel"),
        ({"jetson_clocks": True}, r"jetson_clocks: true was asked for, and this device has no jetson_clocks"),
        ({"cores": [0, 7]}, r"cores 7 do not run on this device; allowed: 0, 1, 2, 3"),
        ({"screen": "on"}, r"screen: on was asked for, and `dumpsys power` does not say how it is now"),
        ({"airplane_mode": True}, r"airplane_mode: true was asked for, and `settings get .*` does not say"),
    ],
)
def test_what_a_pi_does_not_have_is_one_clear_error(pi: StandIn, settings: dict[str, object], words: str) -> None:
    before = state(pi)
    with pytest.raises(ConfigError, match=rf"stand-in: environment: {words}"):
        run(pi, **settings)
    assert state(pi) == before


def test_no_cpufreq_is_an_error_when_asked_for_and_a_gap_when_observed(tmp_path: Path) -> None:
    device = StandIn(tmp_path)
    device.file("/sys/devices/system/cpu/online", "0-1")
    assert run(device).snapshots[0].policies == ()
    for settings in ({"governor": "performance"}, {"frequency_hz": 1e9}):
        with pytest.raises(ConfigError, match="this device does not scale the clocks of its cores"):
            run(device, **settings)


def test_without_rights_the_error_says_how_to_get_them(tmp_path: Path) -> None:
    """A user who is not root, without sudo: the kernel's file refuses, as the folder in its place does here."""
    device = raspberry_pi_4(tmp_path, uid=1000)
    device.program("sudo", "echo 'sudo: a password is required' >&2; exit 1")
    device.program("tee", 'echo "tee: $1: Permission denied" >&2; exit 1')
    before = state(device)
    with pytest.raises(ConfigError, match=r"governor of policy0 cannot be set .*Permission denied") as caught:
        run(device, governor="performance")
    assert "sudo" in caught.value.hint
    assert state(device) == before
    assert hands_of(device) == Hands(device, may=False)


def test_sudo_without_a_password_is_used(tmp_path: Path) -> None:
    device = raspberry_pi_4(tmp_path, uid=1000)
    device.program("sudo", 'shift; exec "$@"')
    assert hands_of(device).prefix == ("sudo", "-n")
    environment = run(device, governor="performance")
    assert environment.settings[0].restored
    assert [argv[:3] for argv in device.commands if "tee" in argv] == [["sudo", "-n", "tee"]] * 2


def test_a_device_whose_disk_is_full_is_not_changed(pi: StandIn) -> None:
    full = 'case "$#" in 0) echo "cat: write error: No space left on device" >&2; exit 1;; esac; exec /bin/cat "$@"'
    pi.program("cat", full)
    before = state(pi)
    with pytest.raises(TransportError, match=r"cannot be written, so nothing was changed: .*No space left"):
        run(pi, governor="performance")
    assert state(pi) == before


def test_a_throttled_run_is_marked(pi: StandIn) -> None:
    with measuring(pi, asked(), "linux", "lab", root=str(pi.root)) as log:
        pi.program("vcgencmd", "echo throttled=0xe0008")
        log.during()
        pi.program("vcgencmd", "echo throttled=0xe0000")
    throttled = log.environment.throttled
    assert throttled[0] == "soft temperature limit, during the run (vcgencmd)"
    assert set(throttled[1:]) == {
        f"{what} during the run (vcgencmd)" for what in ("clock capped", "throttled", "soft temperature limit")
    }


def test_one_that_was_throttled_before_says_that_bits_stay(pi: StandIn) -> None:
    pi.program("vcgencmd", "echo throttled=0x50000")
    environment = run(pi)
    assert environment.throttled == ()
    assert "under-voltage, throttled since the device booted, before this run" in environment.notes[0]


def test_a_busy_device_is_refused_and_left_as_it_was(pi: StandIn) -> None:
    pi.program("sleep", "exit 0")
    pi.file("/proc/loadavg", "5.00 5.00 5.00 9/132 1234")
    before = state(pi)
    with pytest.raises(InfrastructureError, match=r"2\.00 processes per core run on it besides the lab's; .* 0\.25"):
        run(pi, governor="performance", max_load=0.25)
    assert state(pi) == before
    assert run(pi, max_load=2.5).background_load == 2.0


def test_a_clock_that_was_set_during_the_run_is_told(pi: StandIn) -> None:
    with measuring(pi, asked(), "linux", "lab", root=str(pi.root)) as log:
        pi.program("date", "echo $(($(/bin/date +%s) - 3600))")
    (told,) = [note for note in log.environment.notes if "wall clock jumped by" in note]
    # The program tells whole seconds, and takes its time: as much as the run took may come on top.
    jump_s = int(told.split("jumped by ")[1].split(" s ")[0])
    assert -3600 <= jump_s <= -3540


def test_a_device_that_booted_during_the_run_is_told(pi: StandIn) -> None:
    with measuring(pi, asked(), "linux", "lab", root=str(pi.root)) as log:
        pi.file("/proc/uptime", "12.00 40.00")
    assert log.environment.notes == ("the device booted during the run: what was set before is no longer set",)


# A Jetson.


def jetson(folder: Path) -> StandIn:
    """An nvpmodel with a state of its own, whose modes set the governor, and a jetson_clocks that stores its own."""
    device = raspberry_pi_4(folder)
    state_file, clocks = device.home / "mode", device.home / "clocks"
    state_file.write_text("2")
    clocks.write_text("729600")
    device.program(
        "nvpmodel",
        f'case "$1" in -q) echo "NV Power Mode: MODE_$(cat {state_file})"; cat {state_file}; echo;;\n'
        f'-m) [ "$2" = 9 ] && {{ echo "Reboot required. Do you want to reboot NOW? [YES/NO]"; exit 0; }}\n'
        f'echo -n "$2" > {state_file}; echo schedutil > {device.root}{GOVERNOR};; esac',
    )
    device.program(
        "jetson_clocks",
        f'case "$1" in --show) echo "GPU MinFreq=$(cat {clocks}) MaxFreq=1510400 CurrentFreq=1";;\n'
        f'--store) [ -e "$2" ] && exit 7; cp {clocks} "$2";;\n--restore) cp "$2" {clocks};;\n'
        f'"") echo 1510400 > {clocks};; esac',
    )
    return device


def test_power_mode_and_clocks_of_a_jetson(tmp_path: Path) -> None:
    device = jetson(tmp_path)
    config = asked(nvpmodel=0, jetson_clocks=True, governor="performance")
    for _ in range(2):
        device.file(GOVERNOR, "ondemand")
        with measuring(device, config, "linux", "lab", root=str(device.root)) as log:
            assert device.text(GOVERNOR) == "performance"
        environment = log.environment
        before, after = environment.at("before"), environment.at("after")
        assert before is not None
        assert after is not None
        assert (before.power_mode, before.clocks_locked) == ("0 (MODE_0)", True)
        assert [(one.name, one.found, one.restored) for one in environment.settings] == [
            ("nvpmodel", "2 (MODE_2)", True),
            ("jetson_clocks", "not held", True),
            # The mode itself had set it.
            ("governor of policy0", "schedutil", True),
        ]
        assert (device.home / "mode").read_text() == "2"
        assert (device.home / "clocks").read_text().strip() == "729600"


def test_a_mode_that_needs_a_reboot_is_refused(tmp_path: Path) -> None:
    device = jetson(tmp_path)
    with pytest.raises(ConfigError, match=r"nvpmodel: 9 was asked for and not refused, and `nvp") as caught:
        run(device, nvpmodel=9)
    assert "reboot" in caught.value.hint


def test_clocks_that_are_held_cannot_be_let_go(tmp_path: Path) -> None:
    device = jetson(tmp_path)
    (device.home / "clocks").write_text("1510400")
    with pytest.raises(ConfigError, match="its clocks are held at their maximum already"):
        run(device, jetson_clocks=False)
    assert run(device, jetson_clocks=True).settings == ()


# A phone.


def phone(folder: Path) -> StandIn:
    device = StandIn(folder, uid=2000)
    screen, plane, timeout = (device.home / name for name in ("screen", "plane", "timeout"))
    screen.write_text("Asleep")
    plane.write_text("0")
    timeout.write_text("60000")
    device.program(
        "dumpsys",
        f'case "$1" in power) echo "  mWakefulness=$(cat {screen})"; echo noise;; battery) echo "  level: 54";\n'
        'echo "  scale: 100"; echo "  USB powered: true"; echo "  status: 3";; \n'
        'thermalservice) echo "Thermal Status: 0";; esac',
    )
    device.program("input", f'case "$2" in 224) echo -n Awake > {screen};; 223) echo -n Asleep > {screen};; esac')
    device.program(
        "settings",
        f'case "$*" in "get global airplane_mode_on") cat {plane};; "get system screen_off_timeout") cat {timeout};;\n'
        f'"put system screen_off_timeout "*) echo -n "$4" > {timeout};; esac',
    )
    device.program("cmd", f'case "$3" in enable) echo -n 1 > {plane};; disable) echo -n 0 > {plane};; esac')
    return device


def test_screen_and_airplane_mode_of_a_phone(tmp_path: Path) -> None:
    device = phone(tmp_path)
    environment = run(device, "phone", screen="on", airplane_mode=True)
    before, after = environment.at("before"), environment.at("after")
    assert before is not None
    assert after is not None
    assert (before.screen_on, before.airplane_mode) == (True, True)
    assert before.battery is not None
    assert (before.battery.level_percent, before.battery.powered) == (54.0, True)
    assert [(one.name, one.found, one.asked, one.restored) for one in environment.settings] == [
        ("time until the screen sleeps", "60000 ms", "1800000 ms", True),
        ("screen", "off", "on", True),
        ("airplane mode", "off", "on", True),
    ]
    state = {name: (device.home / name).read_text() for name in ("screen", "plane", "timeout")}
    assert state == {"screen": "Asleep", "plane": "0", "timeout": "60000"}


def test_a_phone_in_the_state_that_was_asked_for_is_left_alone(tmp_path: Path) -> None:
    assert run(phone(tmp_path), "phone", screen="off", airplane_mode=False).settings == ()
