"""The measurement environment of emulated boards: governors, cgroups and monitors of their own kernel, over SSH."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from click.testing import CliRunner

from lab.cli import main
from lab.emulator_config import GuestEmulator
from lab.emulators.linux.guest import Guest
from lab.environment import MemoryWatch, UnifiedMemory, hands_of, measuring
from lab.environment.changes import FILE
from lab.environment_config import EnvironmentConfig
from lab.errors import ConfigError, MeterError, OutOfMemory, TransportError
from lab.inventory import DeviceConfig, load_board
from lab.paths import cache_dir, config_dir
from lab.power.base import Meter, SampleBlock, join
from lab.power.registry import make_meter
from lab.transports.adb import open_adb
from lab.transports.remote import Remote
from lab.transports.ssh import open_ssh
from measurements.environment import Setting

FOLDER = "/tmp/hil-lab"
POLICY = "/sys/devices/system/cpu/cpufreq/policy0"
MEGABYTE = 1 << 20


def guest_of(board: str) -> Guest:
    (section,) = load_board(config_dir() / "boards" / f"{board}.yaml").emulators
    assert isinstance(section, GuestEmulator)
    return Guest(section, cache_dir())


@pytest.fixture(scope="module")
def pi() -> Iterator[Guest]:
    with guest_of("raspberry-pi-4") as guest:
        guest.start()
        yield guest


@pytest.fixture
def shell(pi: Guest) -> Iterator[Remote]:
    with open_ssh(pi.address_of_ssh()) as remote:
        remote.run(("mkdir", "-p", FOLDER))
        yield remote


@pytest.fixture(scope="module")
def jetson() -> Iterator[Guest]:
    with guest_of("jetson-orin-nano") as guest:
        guest.start()
        yield guest


@pytest.fixture
def orin(jetson: Guest) -> Iterator[Remote]:
    with open_ssh(jetson.address_of_ssh()) as remote:
        yield remote


@pytest.fixture(scope="module")
def phone() -> Iterator[Guest]:
    with guest_of("android-phone") as guest:
        guest.start()
        yield guest


def asked(**settings: object) -> EnvironmentConfig:
    return EnvironmentConfig.model_validate(settings)


def said(remote: Remote, *argv: str) -> str:
    done = remote.run(argv)
    assert done.status == 0, done.stderr
    return done.text


def frequencies(remote: Remote) -> list[str]:
    names = ("scaling_governor", "scaling_min_freq", "scaling_max_freq", "scaling_cur_freq")
    return [said(remote, "cat", f"{POLICY}/{name}") for name in names]


# A Raspberry Pi.


def test_the_kernel_takes_a_governor_and_a_clock_and_gets_its_own_back(shell: Remote) -> None:
    before = frequencies(shell)[:3]
    assert before == ["schedutil", "600000", "1500000"]
    with measuring(shell, asked(governor="performance", frequency_hz=1e9), "linux", FOLDER) as log:
        assert frequencies(shell) == ["performance", "1000000", "1000000", "1000000"]
        log.during()
    assert frequencies(shell)[:3] == before
    environment = log.environment
    assert environment.settings == (
        Setting("governor of policy0", "schedutil", "performance", restored=True),
        Setting("lowest clock of policy0", "600 MHz", "1000 MHz", restored=True),
        Setting("highest clock of policy0", "1500 MHz", "1000 MHz", restored=True),
    )
    assert environment.throttled == ()
    before_it, during = environment.at("before"), environment.at("during")
    assert before_it is not None
    assert during is not None
    mean_hz = during.policies[0].mean_hz_since(before_it.policies[0])
    # None: less than a hundredth of a second has passed. A mean of one value is that value but for its last bit.
    assert mean_hz is None or mean_hz == pytest.approx(1e9, rel=1e-15)
    assert (during.policies[0].governor, during.policies[0].frequency_hz) == ("performance", 1e9)
    assert [zone.name for zone in during.zones] == ["cpu-thermal"]
    assert during.uptime_s is not None


def test_what_the_kernel_does_not_have_is_refused_before_anything_is_set(shell: Remote) -> None:
    before = frequencies(shell)[:3]
    with (
        pytest.raises(ConfigError, match=r"policy0 has no governor 'turbo'; allowed: .*performance"),
        measuring(shell, asked(governor="turbo", frequency_hz=1e9), "linux", FOLDER),
    ):
        pass
    assert frequencies(shell)[:3] == before


def test_a_user_without_rights_is_told(pi: Guest) -> None:
    user = pi.address_of_ssh().model_copy(update={"user": "lab"})
    folder = "/tmp/hil-lab-user"
    with open_ssh(user) as remote:
        with (
            pytest.raises(ConfigError, match="governor of policy0 cannot be set to performance") as caught,
            measuring(remote, asked(governor="performance"), "linux", folder),
        ):
            pass
        assert "sudo" in caught.value.hint
        with measuring(remote, asked(), "linux", folder) as log:
            pass
        assert log.environment.snapshots[0].policies[0].governor == "schedutil"


def test_throttling_in_the_run_is_seen_and_what_was_before_is_told(pi: Guest, shell: Remote) -> None:
    try:
        with measuring(shell, asked(), "linux", FOLDER) as log:
            pi.set_sensor("throttled", 0xE0008)
            log.during()
            pi.set_sensor("throttled", 0xE0000)
        assert "soft temperature limit, during the run (vcgencmd)" in log.environment.throttled
        assert "throttled during the run (vcgencmd)" in log.environment.throttled
        with measuring(shell, asked(), "linux", FOLDER) as log:
            pi.set_sensor("under_voltage", 1)
            log.during()
        assert log.environment.throttled == (
            "under-voltage, during the run (under-voltage alarm)",
            "under-voltage, after the run (under-voltage alarm)",
        )
        assert any("since the device booted, before this run" in note for note in log.environment.notes)
    finally:
        pi.set_sensor("throttled", 0)
        pi.set_sensor("under_voltage", 0)


def test_a_jump_of_the_wall_clock_is_told(pi: Guest, shell: Remote) -> None:
    with measuring(shell, asked(), "linux", FOLDER) as log:
        pi.set_clock(4_000_000_000.0)
    assert any("the device's wall clock jumped by +" in note for note in log.environment.notes)


def test_a_lost_connection_leaves_a_note_that_the_next_one_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cable is pulled in the middle of the run, and is back later: the guest is as it was."""
    with guest_of("raspberry-pi-4") as guest:
        guest.start()
        host = guest.address_of_ssh().model_copy(update={"keepalive_s": 0.5})
        with open_ssh(host) as remote:
            before = frequencies(remote)[:3]
            lost = []

            def measure() -> None:
                with measuring(remote, asked(governor="performance"), "linux", FOLDER, reconnect_s=1.0) as log:
                    lost.append(log)
                    guest.network(False)
                    log.during()

            # QEMU takes connections for a guest whose cable is pulled: how long one waits for its first word.
            with monkeypatch.context() as patched:
                patched.setattr("lab.transports.ssh_connect._CONNECT_S", 1.0)
                with pytest.raises(TransportError):
                    measure()
        assert lost[0].environment.notes[-1].startswith("NOT PUT BACK: governor of policy0")
        assert guest.run(f"cat {POLICY}/scaling_governor").strip() == "performance"
        assert FILE in guest.run(f"ls {FOLDER}")
        guest.network(True)
        with open_ssh(host) as remote, measuring(remote, asked(), "linux", FOLDER) as log:
            assert log.environment.notes[0].startswith("an earlier run broke off and left behind: governor of policy0")
            assert frequencies(remote)[:3] == before
            assert FILE not in said(remote, "ls", FOLDER)


def hog(size_bytes: int) -> list[str]:
    """A process that touches so much, says so, and waits for its input to end."""
    return ["sh", "-c", 'head -c "$1" /dev/zero | tail -c "$1" | wc -c; exec cat', "sh", str(size_bytes)]


def test_the_peak_of_a_process_by_memory_peak(shell: Remote) -> None:
    """``tail -c`` keeps all it is to print: two sizes differ by what they differ by."""
    watch = MemoryWatch(hands_of(shell), FOLDER)
    peaks = []
    for size in (2 * MEGABYTE, 10 * MEGABYTE):
        process = shell.start(watch.wrap(hog(size)))
        assert process.read(60.0).strip() == str(size).encode()
        (figure,) = watch.figures()
        process.close()
        assert figure.note.startswith("memory.peak of a control group")
        peaks.append(figure.size_bytes)
    assert peaks[1] - peaks[0] == pytest.approx(8 * MEGABYTE, rel=0.25)
    watch.close()
    assert "hil-lab" not in said(shell, "ls", "/sys/fs/cgroup")


def test_a_broken_memory_limit_is_out_of_memory_with_the_numbers(shell: Remote) -> None:
    limit = 4 * MEGABYTE
    watch = MemoryWatch(hands_of(shell), FOLDER, limit)
    block = ["dd", "if=/dev/zero", "of=/dev/null", f"bs={16 * MEGABYTE}", "count=1"]
    process = shell.start(watch.wrap(block))
    assert process.wait(60.0) == 137
    error = watch.out_of_memory()
    assert isinstance(error, OutOfMemory)
    assert f"the limit is {limit} bytes; oom_kill 1; kernel: Memory cgroup out of memory: Killed process" in str(error)
    used = int(error.message.partition("it used ")[2].split()[0])
    assert limit * 0.9 <= used <= limit
    watch.close()


def test_without_rights_it_is_vmhwm(pi: Guest) -> None:
    user = pi.address_of_ssh().model_copy(update={"user": "lab"})
    with open_ssh(user) as remote:
        folder = said(remote, "mktemp", "-d")
        watch = MemoryWatch(hands_of(remote), folder)
        process = remote.start(watch.wrap(["cat"]))
        process.write(b"up\n")
        assert process.read(30.0) == b"up\n"
        (figure,) = watch.figures()
        process.close()
        assert 100_000 < figure.size_bytes < 8 * MEGABYTE
        assert "without the rights of root" in figure.note


def test_lab_env_shows_a_raspberry_pi() -> None:
    result = CliRunner().invoke(main, ["--config", str(config_dir() / "emulated.yaml"), "env", "pi"])
    assert result.exit_code == 0, result.output
    rows = {line.split("  ")[0]: line for line in result.output.splitlines() if "  " in line}
    assert "schedutil" in rows["policy0 (cores 0)"]
    assert "of 600 MHz to 1.5 GHz" in " ".join(rows["policy0 (cores 0)"].split())
    assert rows["throttling"].endswith("none")
    assert rows["rights"].endswith("root")
    assert rows["memory of a process by"].endswith("control group v2, memory.peak")


# A Jetson.


def stream(meter: Meter, samples: int) -> SampleBlock:
    meter.start()
    blocks = [meter.read(5.0)]
    while sum(block.current_a.size for block in blocks) < samples:
        blocks.append(meter.read(5.0))
    return join([*blocks, meter.stop()])


def metered(remote: Remote, **settings: object) -> Meter:
    config = DeviceConfig.model_validate({"board": "x", "meter": settings}).meter
    assert config is not None
    return make_meter(config, 5.0, remote)


def test_power_mode_and_clocks_of_a_jetson(orin: Remote) -> None:
    query = said(orin, "nvpmodel", "-q")
    show = said(orin, "jetson_clocks", "--show")
    with measuring(orin, asked(nvpmodel=1, jetson_clocks=True, cores=[0, 3]), "linux", FOLDER) as log:
        assert said(orin, "nvpmodel", "-q").endswith("7W\n1")
    before = log.environment.at("before")
    assert before is not None
    assert (before.power_mode, before.clocks_locked, before.cores_online) == ("1 (7W)", True, (0, 1, 2, 3))
    settings = [(one.name, one.restored) for one in log.environment.settings]
    assert settings == [("nvpmodel", True), ("jetson_clocks", True), ("cores of the runner", True)]
    assert said(orin, "nvpmodel", "-q") == query
    assert [line for line in said(orin, "jetson_clocks", "--show").splitlines() if "GPU" in line] == [
        line for line in show.splitlines() if "GPU" in line
    ]
    with (
        pytest.raises(ConfigError, match=r"cores 4 do not run on this device; allowed: 0, 1, 2, 3"),
        measuring(orin, asked(nvpmodel=1, cores=[0, 4]), "linux", FOLDER),
    ):
        pass
    assert said(orin, "nvpmodel", "-q") == query, "what had been set was put back"


def test_rails_of_a_jetson_by_its_monitor_and_by_tegrastats(jetson: Guest, orin: Remote) -> None:
    jetson.set_sensor("VDD_IN.voltage_v", 5.0)
    jetson.set_sensor("VDD_IN.current_a", 2.5)
    with metered(orin, kind="hwmon", label="VDD_IN") as meter:
        block = stream(meter, 5)
        assert "ina3221" in meter.info.identity
        assert meter.info.emulated
    assert np.nanmedian(block.current_a) == pytest.approx(2.5)
    with metered(orin, kind="tegrastats", period="200 ms") as meter:
        block = stream(meter, 3)
    assert float(np.nanmedian(block.current_a)) * 5.0 == pytest.approx(12.5, rel=0.01)
    with pytest.raises(MeterError, match=r"tegrastats: no rail POM_5V_IN; its line has: VDD_IN"):
        metered(orin, kind="tegrastats", rails=["POM_5V_IN"], period="200 ms").open()


def test_memory_that_a_jetsons_gpu_shares(orin: Remote) -> None:
    watch = UnifiedMemory(orin)
    figure = watch.figure()
    watch.close()
    assert figure is not None
    assert figure.metric == "peak_ram.unified"
    assert 20 * MEGABYTE < figure.size_bytes < 512 * MEGABYTE


# A phone.


def test_screen_airplane_mode_and_battery_of_a_phone(phone: Guest) -> None:
    remote = open_adb(phone.address_of_adb())
    try:
        phone.set_sensor("battery.temperature_c", 31.5)
        with measuring(remote, asked(screen="off", airplane_mode=True), "phone", "/data/local/tmp/hil-lab") as log:
            phone.set_sensor("thermal.status", 2)
            log.during()
        phone.set_sensor("thermal.status", 0)
        before, after = log.environment.at("before"), log.environment.at("after")
        assert before is not None
        assert after is not None
        assert (before.screen_on, before.airplane_mode) == (False, True)
        assert before.battery is not None
        assert (before.battery.temperature_c, before.battery.powered) == (31.5, False)
        assert all(setting.restored for setting in log.environment.settings)
        assert len(log.environment.settings) == 2
        assert "thermal status moderate, during the run (thermalservice)" in log.environment.throttled
        assert said(remote, "settings", "get", "global", "airplane_mode_on") == "0"
        assert "mWakefulness=Awake" in said(remote, "sh", "-c", "dumpsys power | grep -m 1 mWakefulness=")
    finally:
        remote.close()


def test_battery_current_of_a_phone(phone: Guest) -> None:
    remote = open_adb(phone.address_of_adb())
    try:
        phone.set_sensor("battery.current_a", -0.4)
        phone.set_sensor("battery.voltage_v", 3.9)
        config = DeviceConfig.model_validate({"board": "x", "meter": {"kind": "android", "period": "3 s"}}).meter
        assert config is not None
        with make_meter(config, 3.85, remote) as meter:
            block = stream(meter, 1)
        assert np.nanmedian(block.current_a) == pytest.approx(0.4)
        assert block.voltage_v is not None
        assert np.nanmedian(block.voltage_v) == pytest.approx(3.9)
    finally:
        remote.close()
