"""What devices say of themselves, on samples of boards, phones and kernels of several generations."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from helpers.stand_in_device import StandIn, raspberry_pi_4
from hypothesis import given
from hypothesis import strategies as st

from lab.environment import (
    battery,
    cores,
    governors,
    load,
    memory,
    power_modes,
    screen,
    thermal,
    throttling,
    unified_memory,
)
from lab.environment.changes import Hands
from lab.environment.collect import Collected, collect, parse, script_of
from lab.environment.measuring import LINUX, PHONE, look, snapshot_of
from lab.errors import ConfigError, InfrastructureError, TransportError
from measurements.environment import CpuPolicy, Snapshot, ThrottleSource, Zone


def of(files: dict[str, str] | None = None, outputs: dict[str, str] | None = None) -> Collected:
    return Collected(files or {}, outputs or {}, {})


# Collecting.


def test_files_and_programs_come_in_one_round_trip(tmp_path: Path) -> None:
    device = StandIn(tmp_path)
    device.files({"/sys/a b/x": "with a space", "/sys/c:0/x": "line 1\nline 2", "/sys/d/x": ""})
    device.program("tell", 'echo "told $1"; echo complained >&2; exit 3')
    found = collect(device, ["/sys/*/x", "/none/*"], ["tell me", "no-such-program"], str(device.root))
    assert len(device.commands) == 1
    assert found.files == {"/sys/a b/x": "with a space", "/sys/c:0/x": "line 1\nline 2"}
    assert found.outputs == {"tell me": "told me\ncomplained"}
    assert found.statuses == {"tell me": 3}
    assert found.text("/sys/none") == ""
    assert found.number("/sys/c:0/x") is None


def test_a_root_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match=r"stand-in: cannot look at its files: status 1: .*nowhere"):
        collect(StandIn(tmp_path), ["/sys/*/x"], [], str(tmp_path / "nowhere"))


def test_what_may_not_be_read_is_told() -> None:
    complaints = (
        "tail: cannot open 'sys/class/a/temp' for reading: Permission denied\n"  # GNU
        "tail: can't open 'sys/class/b/temp': Permission denied\n"  # busybox
        "tail: sys/class/c/temp: Permission denied\n"  # toybox
        "tail: cannot open 'sys/class/d*/temp' for reading: No such file or directory\n"
    )
    found = parse("", complaints)
    assert found.denied == ("/sys/class/a/temp", "/sys/class/b/temp", "/sys/class/c/temp")


def test_folders_are_in_the_order_of_their_numbers() -> None:
    found = of({f"/sys/zone{n}/temp": "1" for n in (10, 2, 0)})
    assert found.folders(r"/sys/zone\d+") == ["/sys/zone0", "/sys/zone2", "/sys/zone10"]


def test_a_script_has_no_command_that_breaks_its_quotation() -> None:
    for command in (*LINUX, *PHONE, power_modes.SHOW, power_modes.SUDO_SHOW):
        assert "'" not in command
        assert f"'{command}'" in script_of([], [command])


def test_a_snapshot_of_a_raspberry_pi(tmp_path: Path) -> None:
    device = raspberry_pi_4(tmp_path)
    snapshot = snapshot_of(look(Hands(device, root=str(device.root)), "linux"), "before", 0.5)
    policy = CpuPolicy("policy0", (0, 1, 2, 3), "ondemand", 1.8e9, 0.6e9, 1.8e9, 1.8e9)
    assert snapshot.policies == (policy,)
    assert snapshot.cores_online == (0, 1, 2, 3)
    assert snapshot.zones == (Zone("cpu-thermal", pytest.approx(48.312)),)  # type: ignore[arg-type]
    assert snapshot.throttling == (ThrottleSource("vcgencmd"), ThrottleSource("under-voltage alarm"))
    assert (snapshot.load_1min, snapshot.uptime_s, snapshot.time_s) == (0.08, 1234.56, 0.5)
    assert snapshot.memory_available_bytes == 3500000 * 1024
    assert snapshot.clock_s is not None
    assert snapshot.clock_s > 1.7e9
    assert (snapshot.battery, snapshot.power_mode, snapshot.clocks_locked, snapshot.screen_on) == (None, "", None, None)


def test_time_in_state() -> None:
    text = "600000 141203\n1500000 250\n1800000 0"
    assert governors.residency_of(text) == ((600e6, 1412.03), (1500e6, 2.5), (1800e6, 0.0))
    assert governors.residency_of("") == governors.residency_of("Device or resource busy") == ()


# Throttling.


@pytest.mark.parametrize(
    ("text", "now", "before"),
    [
        ("throttled=0x0", (), ()),
        ("throttled=0x50000", (), ("under-voltage", "throttled")),
        ("throttled=0x50005", ("under-voltage", "throttled"), ("under-voltage", "throttled")),
        ("throttled=0x80008", ("soft temperature limit",), ("soft temperature limit",)),
        ("throttled=0x20002", ("clock capped",), ("clock capped",)),
        ("throttled=0xe0008", ("soft temperature limit",), ("clock capped", "throttled", "soft temperature limit")),
    ],
)
def test_the_bits_of_vcgencmd(text: str, now: tuple[str, ...], before: tuple[str, ...]) -> None:
    assert throttling.throttled_bits(text) == ThrottleSource("vcgencmd", now, before)


@given(st.integers(0, 15), st.integers(0, 15))
def test_every_bit_of_vcgencmd_has_its_word(now: int, before: int) -> None:
    told = throttling.throttled_bits(f"throttled={now | before << 16:#x}")
    assert told is not None
    assert sum(1 << throttling.BITS.index(word) for word in told.now) == now
    assert sum(1 << throttling.BITS.index(word) for word in told.since_boot) == before


@pytest.mark.parametrize("text", ["", 'error=1 error_msg="Command not registered"', "VCHI initialization failed"])
def test_an_error_of_vcgencmd_is_no_state(text: str) -> None:
    assert throttling.throttled_bits(text) is None


THERMAL_SERVICE = """IsStatusOverride: false
ThermalEventListeners:
\tcallbacks: 2
\tkilled: false
\tbroadcasts count: -1
ThermalStatusListeners:
\tcallbacks: 1
Thermal Status: 2
Cached temperatures:
\tTemperature{mValue=60.0, mType=0, mName=CPU0, mStatus=0}
HAL Ready: true
HAL connection:
\tThermalHAL 2.0 connected: yes
Current temperatures from HAL:
\tTemperature{mValue=48.7, mType=0, mName=CPU0, mStatus=0}
\tTemperature{mValue=31.5, mType=2, mName=battery, mStatus=0}
\tTemperature{mValue=-3.4028235E38, mType=3, mName=skin-off, mStatus=0}
\tTemperature{mValue=41.25, mType=3, mName=skin, mStatus=2}
Current cooling devices from HAL:
\tCoolingDevice{mValue=0, mType=2, mName=cpu0}
"""


def test_the_thermal_service_of_android() -> None:
    outputs = {thermal.SERVICE: THERMAL_SERVICE}
    assert throttling.sources(of(outputs=outputs)) == (
        ThrottleSource("thermalservice", ("thermal status moderate",)),
    )
    found = thermal.zones(of(outputs=outputs))
    assert [(zone.name, zone.temperature_c) for zone in found if zone.name != "skin-off"] == [
        ("CPU0", 48.7), ("battery", 31.5), ("skin", 41.25),
    ]  # fmt: skip
    cached = THERMAL_SERVICE.partition("HAL Ready")[0]
    assert thermal.zones(of(outputs={thermal.SERVICE: cached})) == (Zone("CPU0", 60.0),)
    assert throttling.thermal_status("Thermal Status: 0") == ThrottleSource("thermalservice")
    assert throttling.thermal_status("Can't find service: thermalservice") is None


def test_cooling_devices_of_processors_count_and_fans_do_not() -> None:
    names = ["pwm-fan", "cpu-balanced", "gpu-throttle-alert", "thermal-cpufreq-0", "Processor", "display", "tegra-fan"]
    files = {f"/sys/class/thermal/cooling_device{n}/type": name for n, name in enumerate(names)}
    idle = files | {f"/sys/class/thermal/cooling_device{n}/cur_state": "0" for n in range(len(names))}
    assert throttling.sources(of(idle)) == (ThrottleSource("cooling"),)
    states = {f"/sys/class/thermal/cooling_device{n}/cur_state": "2" for n in (0, 2, 3, 5, 6)}
    assert throttling.sources(of(idle | states)) == (
        ThrottleSource("cooling", ("gpu-throttle-alert at 2", "thermal-cpufreq-0 at 2")),
    )
    fans = {path: text for path, text in idle.items() if path.rpartition("device")[2][0] in "06"}
    assert throttling.sources(of(fans)) == ()


def test_events_are_added_up() -> None:
    files = {
        "/sys/class/hwmon/hwmon3/oc1_event_cnt": "0", "/sys/class/hwmon/hwmon3/oc2_event_cnt": "4",
        "/sys/class/hwmon/hwmon3/oc3_event_cnt": "1",
        "/sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "7",
        "/sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "0",
        "/sys/class/hwmon/hwmon1/in0_lcrit_alarm": "1",
    }  # fmt: skip
    assert throttling.sources(of(files)) == (
        ThrottleSource("under-voltage alarm", ("under-voltage",)),
        ThrottleSource("soctherm", events=5),
        ThrottleSource("thermal_throttle", events=7),
    )


def _policy(now_mhz: float, governor: str = "ondemand", low: float = 600, high: float = 1800) -> CpuPolicy:
    return CpuPolicy("policy0", (0,), governor, now_mhz * 1e6, low * 1e6, high * 1e6, 1800e6)


def _two(before: ThrottleSource | CpuPolicy, after: ThrottleSource | CpuPolicy) -> tuple[str, ...]:
    def snapshot(what: ThrottleSource | CpuPolicy, moment: str) -> Snapshot:
        sources = (what,) if isinstance(what, ThrottleSource) else ()
        policies = (what,) if isinstance(what, CpuPolicy) else ()
        return Snapshot("before" if moment == "before" else "after", 0.0, throttling=sources, policies=policies)

    return throttling.throttled([snapshot(before, "before"), snapshot(after, "after")])


@pytest.mark.parametrize(
    ("before", "after", "reasons"),
    [
        (ThrottleSource("vcgencmd"), ThrottleSource("vcgencmd"), ()),
        (ThrottleSource("vcgencmd", (), ("throttled",)), ThrottleSource("vcgencmd", (), ("throttled",)), ()),
        (ThrottleSource("vcgencmd"), ThrottleSource("vcgencmd", (), ("throttled",)),
         ("throttled during the run (vcgencmd)",)),
        (ThrottleSource("vcgencmd", ("under-voltage",), ("under-voltage",)),
         ThrottleSource("vcgencmd", (), ("under-voltage",)), ("under-voltage, before the run (vcgencmd)",)),
        (ThrottleSource("cooling"), ThrottleSource("cooling", ("cpu at 1",)), ("cpu at 1, after the run (cooling)",)),
        (ThrottleSource("soctherm", events=3), ThrottleSource("soctherm", events=3), ()),
        (ThrottleSource("soctherm", events=3), ThrottleSource("soctherm", events=5),
         ("2 throttling events during the run (soctherm)",)),
        (_policy(600), _policy(1800), ()),
        (_policy(1800, "performance"), _policy(1795, "performance"), ()),
        (_policy(1800, "performance"), _policy(1500, "performance"),
         ("policy0 ran at 1500 MHz and is held at 1800 MHz, after the run",)),
        (_policy(1500, low=1500, high=1500), _policy(1000, low=1500, high=1500),
         ("policy0 ran at 1000 MHz and is held at 1500 MHz, after the run",)),
        (_policy(600), _policy(600, high=1400),
         ("the highest clock of policy0 sank from 1800 to 1400 MHz during the run",)),
    ],
)  # fmt: skip
def test_when_a_run_was_throttled(
    before: ThrottleSource | CpuPolicy, after: ThrottleSource | CpuPolicy, reasons: tuple[str, ...]
) -> None:
    assert _two(before, after) == reasons


def test_old_bits_are_said_to_hide_new_ones() -> None:
    told = throttling.history_notes(Snapshot("before", 0, throttling=(ThrottleSource("vcgencmd", (), ("throttled",)),)))
    assert len(told) == 1
    assert told[0].startswith("vcgencmd: throttled since the device booted, before this run")
    assert throttling.history_notes(Snapshot("before", 0, throttling=(ThrottleSource("vcgencmd"),))) == ()


# Heat.


def test_sensors_of_what_is_switched_off_and_dummies_are_left_out() -> None:
    temperatures = {"CPU-therm": 36500, "GPU-therm": -256000, "PMIC-Die": 100000, "tj-thermal": 49156}
    files = {}
    for number, (name, value) in enumerate(temperatures.items()):
        files[f"/sys/class/thermal/thermal_zone{number}/type"] = name
        files[f"/sys/class/thermal/thermal_zone{number}/temp"] = str(value)
    files["/sys/class/thermal/thermal_zone9/type"] = "switched-off"
    assert [(zone.name, round(zone.temperature_c, 3)) for zone in thermal.zones(of(files))] == [
        ("CPU-therm", 36.5), ("tj-thermal", 49.156),
    ]  # fmt: skip


def test_waiting_until_it_is_cool() -> None:
    times = iter(range(0, 100, 2))
    heats = iter([70.0, 60.0, 50.1, 50.0, 40.0])
    slept: list[float] = []
    waited_s = thermal.wait_until_cool(
        lambda: (Zone("skin", 20.0), Zone("cpu", next(heats))), 50.0, "pi",
        clock=lambda: float(next(times)), sleep=slept.append,
    )  # fmt: skip
    assert waited_s == 8.0
    assert slept == [2.0] * 3


def test_one_that_stays_hot_and_one_without_a_sensor() -> None:
    now = iter([0.0, 1.0, 900.0])
    with pytest.raises(InfrastructureError, match=r"pi: cpu is still at 71\.5 °C after 900 s; at most 50 °C"):
        thermal.wait_until_cool(
            lambda: (Zone("cpu", 71.5),), 50.0, "pi", clock=lambda: next(now), sleep=lambda seconds: None
        )
    with pytest.raises(ConfigError, match="wait_cool_c: 50 was asked for, and the device tells no temperature"):
        thermal.wait_until_cool(lambda: (), 50.0, "pi", clock=lambda: 0.0)


# Jetson.

MODE_ORIN = "NV Power Mode: 25W\n1"
MODE_NANO = "NVPM WARN: fan mode is not set!\nNV Power Mode: MAXN\n0"
MODE_XAVIER = "NV Fan Mode:quiet\nNV Power Mode: MODE_15W_6CORE\n2"
SHOW_ORIN = """SOC family:tegra234  Machine:NVIDIA Jetson Orin Nano Developer Kit
Online CPUs: 0-5
cpu0: Online=1 Governor=schedutil MinFreq=729600 MaxFreq=1510400 CurrentFreq=729600 IdleStates: WFI=1 c7=1
cpu1: Online=1 Governor=schedutil MinFreq=729600 MaxFreq=1510400 CurrentFreq=729600 IdleStates: WFI=1 c7=1
GPU MinFreq=306000000 MaxFreq=624750000 CurrentFreq=306000000
EMC MinFreq=204000000 MaxFreq=2133000000 CurrentFreq=2133000000 FreqOverride=0
NV Power Mode: 15W"""
SHOW_LOCKED = """SOC family:tegra210  Machine:NVIDIA Jetson Nano Developer Kit
Online CPUs: 0-3
CPU Cluster Switching: Disabled
cpu0: Online=1 Governor=schedutil MinFreq=1479000 MaxFreq=1479000 CurrentFreq=1479000 IdleStates: WFI=0 c7=0
GPU MinFreq=921600000 MaxFreq=921600000 CurrentFreq=921600000
EMC MinFreq=204000000 MaxFreq=1600000000 CurrentFreq=1600000000 FreqOverride=1
Fan: speed=255
NV Power Mode: MAXN"""


def test_power_modes() -> None:
    assert power_modes.power_mode(MODE_ORIN) == (1, "25W")
    assert power_modes.power_mode(MODE_NANO) == (0, "MAXN")
    assert power_modes.power_mode(MODE_XAVIER) == (2, "MODE_15W_6CORE")
    assert power_modes.power_mode("NVPM ERROR: Error opening /var/lib/nvpmodel/status: 2") is None
    assert power_modes.mode_in_words(of(outputs={power_modes.QUERY: MODE_ORIN})) == "1 (25W)"
    assert power_modes.mode_in_words(of()) == ""


def test_whether_clocks_are_held() -> None:
    assert power_modes.clocks_locked(of(outputs={power_modes.SHOW: SHOW_ORIN})) is False
    assert power_modes.clocks_locked(of(outputs={power_modes.SUDO_SHOW: SHOW_LOCKED})) is True
    half = SHOW_LOCKED.replace("FreqOverride=1", "FreqOverride=0")
    assert power_modes.clocks_locked(of(outputs={power_modes.SHOW: half})) is False
    refused = of(outputs={power_modes.SHOW: "Error: Run this script(jetson_clocks) as root"})
    assert power_modes.clocks_locked(refused) is None
    assert power_modes.clocks_locked(of()) is None


# Cores.


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0-3", (0, 1, 2, 3)), ("0-1,4,6-7", (0, 1, 4, 6, 7)), ("0 1 2", (0, 1, 2)), ("0", (0,)), ("", ()), ("x-3", ())],
)
def test_lists_of_cores(text: str, numbers: tuple[int, ...]) -> None:
    assert cores.numbers_in(text) == numbers


@given(st.sets(st.integers(0, 63), min_size=1))
def test_a_mask_has_the_bits_of_its_cores(wanted: set[int]) -> None:
    program, mask, *rest = cores.pinned(["runner", "-x"], sorted(wanted))
    assert (program, rest) == ("taskset", ["runner", "-x"])
    assert {bit for bit in range(64) if int(mask, 16) >> bit & 1} == wanted
    assert cores.pinned(["runner"], None) == ["runner"]


def test_cores_that_are_off_are_refused() -> None:
    found = of({cores.ONLINE: "0-1,4"})
    cores.check_cores(found, (1, 4), "jetson")
    with pytest.raises(ConfigError, match=r"jetson: cores 2, 3 do not run on this device; allowed: 0, 1, 4"):
        cores.check_cores(found, (1, 2, 3), "jetson")


# Load.


def test_load_counts_the_others(tmp_path: Path) -> None:
    device = StandIn(tmp_path)
    device.program("sleep", "exit 0")
    device.file("/proc/loadavg", "3.50 2.00 1.00 5/321 4242")
    assert load.background_load(device, 2, str(device.root)) == 2.0
    device.file("/proc/loadavg", "3.50 2.00 1.00 1/321 4242")
    assert load.background_load(device, 4, str(device.root)) == 0.0
    load.refuse_load(0.5, 0.5, "pi")
    with pytest.raises(InfrastructureError, match=r"pi: 2\.00 processes per core .* at most 0\.5") as caught:
        load.refuse_load(2.0, 0.5, "pi")
    assert caught.value.transient
    (device.root / "proc/loadavg").unlink()
    with pytest.raises(TransportError, match=r"/proc/loadavg tells no load: .*loadavg"):
        load.background_load(device, 2, str(device.root))


# Batteries and phones.

DUMPSYS_BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  Max charging current: 0
  Max charging voltage: 0
  Charge counter: 2848000
  status: 3
  health: 2
  present: true
  level: 54
  scale: 100
  voltage: 3906
  temperature: 220
  technology: Li-ion
"""


def test_batteries() -> None:
    told = battery.battery(of(outputs={battery.DUMPSYS: DUMPSYS_BATTERY}))
    assert told is not None
    assert (told.level_percent, told.temperature_c, told.status, told.powered) == (54.0, 22.0, "discharging", True)
    assert battery.battery(of(outputs={battery.DUMPSYS: "Can't find service: battery"})) is None
    files = {
        "/sys/class/power_supply/AC/type": "Mains", "/sys/class/power_supply/AC/online": "0",
        "/sys/class/power_supply/BAT0/type": "Battery", "/sys/class/power_supply/BAT0/capacity": "87",
        "/sys/class/power_supply/BAT0/status": "Discharging", "/sys/class/power_supply/BAT0/temp": "301",
    }  # fmt: skip
    laptop = battery.battery(of(files))
    assert laptop is not None
    assert (laptop.level_percent, laptop.temperature_c) == (87.0, 30.1)
    assert (laptop.status, laptop.powered) == ("discharging", False)
    assert battery.battery(of({path: text for path, text in files.items() if "AC" in path})) is None


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("  mWakefulness=Awake\n", True),
        ("  mWakefulness=Asleep\n", False),
        ("  mWakefulness=Dozing\n", False),
        ("  mWakefulness=Awake\nDisplay Power: state=OFF", False),
        ("Display Power: state=ON", True),
        ("", None),
    ],
)
def test_screens(text: str, state: bool | None) -> None:
    assert screen.screen_on(of(outputs={screen.POWER: text})) is state


@pytest.mark.parametrize(("text", "state"), [("0", False), ("1", True), ("null", None), ("", None)])
def test_airplane_mode(text: str, state: bool | None) -> None:
    assert screen.airplane_mode(of(outputs={screen.AIRPLANE: text})) is state


# Memory.

STATUS = "Name:\trunner\nVmPeak:\t   12000 kB\nVmSize:\t   11000 kB\nVmHWM:\t    8660 kB\nVmRSS:\t    8000 kB\n"
MEMINFO_12 = """Applications Memory Usage (in Kilobytes):
Uptime: 1234 Realtime: 1234

** MEMINFO in pid 1224 [com.android.systemui] **
                   Pss  Private  Private  SwapPss      Rss     Heap     Heap     Heap
 App Summary
                       Pss(KB)                        Rss(KB)
           TOTAL PSS:   105321            TOTAL RSS:   268416       TOTAL SWAP (KB):        0
"""
MEMINFO_9 = """ App Summary
                       Pss(KB)
               TOTAL:    42316       TOTAL SWAP PSS:       17
"""
ROLLUP = "00400000-7ffd Rss:\nRss:                8760 kB\nPss:                8512 kB\nSwap:                  4 kB\n"
KILLED = (
    "[  12.345678] oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),task_memcg=/hil-lab-1,task=hog,pid=412,uid=0\n"
    "[  12.345690] Memory cgroup out of memory: Killed process 412 (hog) total-vm:9000kB, anon-rss:4000kB\n"
)


def test_memory_of_a_process() -> None:
    assert memory.status_bytes(STATUS) == 8660 * 1024
    assert memory.status_bytes("Name:\tkthreadd\n") is None
    assert memory.rollup_bytes(ROLLUP) == {"Rss": 8760 * 1024, "Pss": 8512 * 1024, "Swap": 4096}
    assert memory.meminfo_bytes(MEMINFO_12) == {
        "TOTAL PSS": 105321 * 1024, "TOTAL RSS": 268416 * 1024, "TOTAL SWAP": 0,
    }  # fmt: skip
    assert memory.meminfo_bytes(MEMINFO_9) == {"TOTAL PSS": 42316 * 1024, "TOTAL SWAP": 17 * 1024}
    assert memory.meminfo_bytes("No process found for: 4") == {}


def test_the_kernels_line_about_the_process_it_killed() -> None:
    assert memory.kill_line(KILLED, 412).startswith("Memory cgroup out of memory: Killed process 412 (hog)")
    assert memory.kill_line(KILLED, 41) == ""
    assert memory.kill_line("[1.0] Out of memory: Kill process 77 (x) score 9", 77).endswith("score 9")


def test_unified_memory_of_a_jetson() -> None:
    line = "RAM {}/7620MB (lfb 3x4MB) SWAP 0/3810MB (cached 0MB) CPU [1%@729] VDD_IN 4761mW/4778mW"
    used = [unified_memory.ram_bytes(line.format(megabytes)) for megabytes in (775, 1290, 1100)]
    assert used == [775 << 20, 1290 << 20, 1100 << 20]
    assert unified_memory.ram_bytes("GR3D_FREQ 0% VDD_IN 1/1") is None
    figure = unified_memory.figure_of([one for one in used if one is not None])
    assert figure is not None
    assert (figure.metric, figure.size_bytes) == ("peak_ram.unified", 1290 << 20)
    assert figure.note.endswith("515 MB more than when the run began")
    assert unified_memory.figure_of([]) is None


@given(st.floats(-1e9, 1e9))
def test_the_hottest_zone_is_the_hottest(temperature_c: float) -> None:
    snapshot = Snapshot("before", 0.0, zones=(Zone("a", 20.0), Zone("b", temperature_c)))
    assert snapshot.hottest_c == max(20.0, temperature_c)
    assert Snapshot("before", 0.0).hottest_c is None
    assert math.isfinite(snapshot.hottest_c or 0.0)
