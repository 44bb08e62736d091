"""Meters of boards read by their real loops, in this computer's shell: trees of files and programs that boards have."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.streaming_device import WithPrograms

from lab.errors import MeterError
from lab.inventory import DeviceConfig
from lab.meter_config import MeterConfig
from lab.power.base import Meter, SampleBlock, join
from lab.power.pmic import parse_adc
from lab.power.polled import PolledMeter
from lab.power.registry import make_meter
from lab.power.streamed import StreamedMeter

TEGRASTATS = {
    "Nano, JetPack 4": (
        "RAM 534/3964MB (lfb 98x4MB) SWAP 5/1982MB (cached 1MB) IRAM 0/252kB(lfb 252kB) CPU [16%@204,9%@204,0%@204] "
        "EMC_FREQ 0%@204 GR3D_FREQ 0%@76 APE 25 PLL@34C CPU@36.5C PMIC@100C GPU@36C AO@39.5C thermal@36.25C "
        "POM_5V_IN 1022/1022 POM_5V_GPU 0/0 POM_5V_CPU 204/204",
        ["POM_5V_IN"], 1.022,
    ),
    "Orin Nano, JetPack 6": (
        "04-27-2026 14:59:41 RAM 775/7620MB (lfb 3x4MB) SWAP 0/3810MB (cached 0MB) CPU [1%@729,0%@729] GR3D_FREQ 0% "
        "cpu@48.468C tj@49.156C VDD_IN 4761mW/4778mW VDD_CPU_GPU_CV 515mW/501mW VDD_SOC 1428mW/1428mW",
        ["VDD_IN"], 4.761,
    ),
    "AGX Orin, JetPack 6": (
        "04-27-2026 14:59:41 RAM 1282/62795MB (lfb 2x4MB) GR3D_FREQ 0%@[305,305] NVENC off CV0@-256C VDD_GPU_SOC "
        "3205mW/3205mW VDD_CPU_CV 4405mW/4405mW VIN_SYS_5V0 4767mW/4767mW NC 0mW/0mW",
        ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"], 3.205 + 4.405 + 4.767,
    ),
}  # fmt: skip
PMIC = """   3V7_WL_SW_A current(0)=0.10247270A
     3V3_SYS_A current(1)=0.10832820A
     VDD_CORE_A current(7)=1.42880000A
      3V3_ADC_A current(18)=0.00006105A
   3V7_WL_SW_V volt(8)=3.71091200V
     3V3_SYS_V volt(9)=3.30000000V
     VDD_CORE_V volt(15)=0.90659250V
      3V3_ADC_V volt(21)=3.30000000V
        EXT5V_V volt(24)=5.05716000V
         BATT_V volt(25)=0.00000000V"""
PMIC_W = 0.10247270 * 3.71091200 + 0.10832820 * 3.3 + 1.4288 * 0.9065925 + 0.00006105 * 3.3


@pytest.fixture
def device(tmp_path: Path) -> WithPrograms:
    return WithPrograms(tmp_path)


def configured(**settings: object) -> MeterConfig:
    meter = DeviceConfig.model_validate({"board": "x", "meter": settings}).meter
    assert meter is not None
    return meter


def stream(meter: Meter, samples: int) -> SampleBlock:
    """So many samples or more."""
    meter.start()
    blocks = [meter.read(1.0)]
    while sum(block.current_a.size for block in blocks) < samples:
        blocks.append(meter.read(1.0))
    return join([*blocks, meter.stop()])


def power_w(block: SampleBlock) -> float:
    """The median, of a meter that is told 5 V."""
    return float(np.nanmedian(block.current_a)) * 5.0


def tree(folder: Path, files: dict[str, str | int]) -> None:
    for path, text in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"{text}\n")


def jetson_orin(folder: Path) -> None:
    """An INA3221 as Linux has it from JetPack 5 on."""
    labels = {1: "VDD_IN", 2: "VDD_CPU_GPU_CV", 3: "VDD_SOC"}
    files: dict[str, str | int] = {"hwmon/hwmon4/name": "ina3221", "hwmon/hwmon4/update_interval": 20}
    for channel, label in labels.items():
        files |= {
            f"hwmon/hwmon4/in{channel}_label": label, f"hwmon/hwmon4/in{channel}_input": 5000,
            f"hwmon/hwmon4/curr{channel}_input": 1000 // channel, f"hwmon/hwmon4/shunt{channel}_resistor": 5000,
        }  # fmt: skip
    tree(folder, files)


def jetson_nano(folder: Path) -> None:
    """An INA3221 behind Nvidia's driver of JetPack 4."""
    base = "iio/6-0040/iio:device0"
    files: dict[str, str | int] = {"iio/bind": "", "iio/6-0040/name": "ina3221x"}
    for number, (rail, milliampere) in enumerate((("POM_5V_IN", 410), ("NC", 0), ("POM_5V_CPU", 41))):
        files |= {
            f"{base}/rail_name_{number}": rail, f"{base}/in_voltage{number}_input": 4992,
            f"{base}/in_current{number}_input": milliampere,
        }  # fmt: skip
    tree(folder, files)


def test_ina3221_of_jetpack_5_and_on(device: WithPrograms) -> None:
    jetson_orin(device.folder)
    root = str(device.folder / "hwmon")
    with make_meter(configured(kind="hwmon", root=root, label="VDD_CPU_GPU_CV"), 5.0, device) as meter:
        block = stream(meter, 10)
        info = meter.info
    assert block.current_a[~np.isnan(block.current_a)] == pytest.approx(0.5)
    assert block.voltage_v is not None
    assert np.nanmedian(block.voltage_v) == 5.0
    assert info.measures_voltage
    assert "ina3221 at" in info.identity
    assert "channel 2 (VDD_CPU_GPU_CV), shunt 5 mΩ" in info.identity
    assert info.sample_rate_hz <= 20.0
    assert info.time_uncertainty_s >= 1 / info.sample_rate_hz + 1.1 * 0.02


def test_ina3221_of_jetpack_4(device: WithPrograms) -> None:
    jetson_nano(device.folder)
    places = {"root": str(device.folder / "hwmon"), "iio_root": str(device.folder / "iio")}
    with make_meter(configured(kind="hwmon", label="POM_5V_IN", **places), 5.0, device) as meter:
        block = stream(meter, 5)
        assert "ina3221 at 6-0040, channel 1 (POM_5V_IN)" in meter.info.identity
    assert np.nanmedian(block.current_a) == pytest.approx(0.410)
    assert block.voltage_v is not None
    assert np.nanmedian(block.voltage_v) == pytest.approx(4.992)
    with pytest.raises(MeterError, match=r"no current monitors fit label: NC; there are: ina3221 at 6-0040 1=POM"):
        make_meter(configured(kind="hwmon", label="NC", **places), 5.0, device).open()


def test_a_file_that_goes_is_lost_samples_and_then_a_failure(device: WithPrograms) -> None:
    jetson_orin(device.folder)
    root = str(device.folder / "hwmon")
    with make_meter(configured(kind="hwmon", root=root, label="VDD_IN"), 5.0, device) as meter:
        stream(meter, 3)
        meter.start()
        (device.folder / "hwmon/hwmon4/curr1_input").unlink()
        until_it_fails(meter, "no reading for 2")


def until_it_fails(meter: Meter, words: str) -> None:
    def read() -> None:
        deadline_s = time.monotonic() + 60.0
        while time.monotonic() < deadline_s:
            meter.read(1.0)

    with pytest.raises(MeterError, match=words):
        read()


def test_rapl(device: WithPrograms, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts on while the loop reads, past the end of its range: the energy that comes is what was counted."""
    # The counter is moved by this process, which may be kept waiting; what stands still is another test.
    monkeypatch.setattr("lab.power.streamed._STUCK_S", 60.0)
    modulus = 262143328850
    tree(device.folder, {
        "powercap/intel-rapl:0/name": "package-0", "powercap/intel-rapl:0/max_energy_range_uj": modulus,
        "powercap/intel-rapl:0/energy_uj": modulus - 100_000,
    })  # fmt: skip
    counter = device.folder / "powercap/intel-rapl:0/energy_uj"
    with make_meter(configured(kind="rapl", root=str(device.folder / "powercap")), 5.0, device) as meter:
        meter.start()
        blocks = [meter.read(1.0)]
        counted = 0
        for _ in range(8):
            counted += 500_000
            fresh = counter.with_name("new")
            fresh.write_text(f"{(modulus - 100_000 + counted) % modulus}\n")
            fresh.rename(counter)
            blocks += until_it_counts(meter)
        block = join([*blocks, meter.stop()])
        rate_hz = meter.info.sample_rate_hz
        assert not meter.info.measures_current
        assert "RAPL package-0; of all that runs on the processor" in meter.info.identity
        assert isinstance(meter, StreamedMeter)
        assert (meter.report.jumps, meter.report.failed) == (0, 0)
    energy_j = float(np.nansum(block.current_a)) * 5.0 / rate_hz
    # Each edge between two readings lies in one sample.
    assert energy_j == pytest.approx(counted * 1e-6, rel=0.3)


def until_it_counts(meter: Meter) -> list[SampleBlock]:
    """Blocks up to one in which the counter moved."""
    blocks = [meter.read(1.0)]
    while not np.any(blocks[-1].current_a > 0):
        blocks.append(meter.read(1.0))
    return blocks


@pytest.mark.parametrize("board", TEGRASTATS)
def test_tegrastats(device: WithPrograms, board: str) -> None:
    line, rails, expected_w = TEGRASTATS[board]
    arguments = device.folder / "arguments"
    script = f'echo "$@" > {arguments}\nwhile :; do echo "{line}"; sleep 0.05; done'
    program = device.program("tegrastats", script)
    with make_meter(configured(kind="tegrastats", program=program, rails=rails, period="50 ms"), 5.0, device) as meter:
        block = stream(meter, 5)
        assert meter.info.identity.startswith(f"tegrastats {'+'.join(rails)}")
    assert power_w(block) == pytest.approx(expected_w, rel=1e-4)
    assert arguments.read_text() == "--interval 50\n"


def test_tegrastats_without_the_rail_and_without_the_program(device: WithPrograms) -> None:
    line = TEGRASTATS["Orin Nano, JetPack 6"][0]
    program = device.program("tegrastats", f'while :; do echo "{line}"; sleep 0.05; done')
    config = configured(kind="tegrastats", program=program, rails=["POM_5V_IN"], period="50 ms")
    with pytest.raises(MeterError, match="tegrastats: no rail POM_5V_IN; its line has: VDD_IN, VDD_CPU_GPU_CV"):
        make_meter(config, 5.0, device).open()
    with pytest.raises(MeterError, match=r"cannot be read: no line of tegrastats: .*(not found|No such file)"):
        make_meter(configured(kind="tegrastats", program="/nowhere/tegrastats"), 5.0, device).open()


def test_pmic_of_a_raspberry_pi_5(device: WithPrograms) -> None:
    program = device.program("vcgencmd", f"[ $1 = pmic_read_adc ] || exit 9\ncat <<'EOF'\n{PMIC}\nEOF")
    with make_meter(configured(kind="pmic", program=program), 5.0, device) as meter:
        block = stream(meter, 5)
        info = meter.info
    assert power_w(block) == pytest.approx(PMIC_W, rel=1e-5)
    assert "sum of 4 rails; without USB ports, HAT, fan and what the PMIC itself loses" in info.identity
    assert not info.measures_current
    with make_meter(configured(kind="pmic", program=program, rails=["VDD_CORE"]), 5.0, device) as meter:
        assert power_w(stream(meter, 3)) == pytest.approx(1.4288 * 0.9065925, rel=1e-5)
    with pytest.raises(MeterError, match=r"no rail EXT5V with both current and voltage; it has: 3V7_WL_SW"):
        make_meter(configured(kind="pmic", program=program, rails=["EXT5V"]), 5.0, device).open()


def test_rails_of_the_pmic() -> None:
    rails = parse_adc(PMIC)
    assert sorted(rails) == ["3V3_ADC", "3V3_SYS", "3V7_WL_SW", "VDD_CORE"]
    assert rails["VDD_CORE"] == (1.4288, 0.9065925)
    assert sum(current * voltage for current, voltage in rails.values()) == pytest.approx(PMIC_W)
    assert parse_adc("error=1 error_msg=\"Command not registered\"") == {}


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ('echo \'error=1 error_msg="Command not registered"\'', "Command not registered"),
        ("echo 'VCHI initialization failed' >&2; exit 255", "VCHI initialization failed"),
    ],
)
def test_other_raspberry_pis_have_no_pmic(device: WithPrograms, script: str, words: str) -> None:
    program = device.program("vcgencmd", script)
    with pytest.raises(MeterError, match=words) as caught:
        make_meter(configured(kind="pmic", program=program), 5.0, device).open()
    assert "Raspberry Pi 5" in caught.value.hint


def smi(device: WithPrograms) -> Callable[[], str]:
    """An nvidia-smi of two GPUs; a path puts it where the loop finds it."""
    arguments = device.folder / "arguments"
    device.program(
        "nvidia-smi",
        'case "$*" in *uuid,name*) echo "GPU-1, NVIDIA H100 80GB HBM3"; echo "GPU-2, NVIDIA T4";;\n'
        f'*) echo "$@" > {arguments}; while :; do echo 68.41; sleep 0.1; done;; esac',
    )
    return arguments.read_text


def test_nvml_of_a_device(device: WithPrograms, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = smi(device)
    monkeypatch.setenv("PATH", f"{device.folder}:/usr/bin:/bin")
    with make_meter(configured(kind="nvml", uuid="GPU-2"), 5.0, device) as meter:
        block = stream(meter, 3)
        info = meter.info
    assert power_w(block) == pytest.approx(68.41, rel=1e-5)
    assert info.relative_uncertainty == 0.05
    assert info.time_uncertainty_s >= 1.0, "its readings are means over a second"
    assert "-i GPU-2 -lms 100" in arguments()
    with pytest.raises(MeterError, match=r"NVML: 2 GPUs; there are: GPU-1 \(NVIDIA H100 80GB HBM3\), GPU-2"):
        make_meter(configured(kind="nvml"), 5.0, device).open()


def test_a_meter_wired_to_this_computer_stays_here(device: WithPrograms) -> None:
    jetson_orin(device.folder)
    root = str(device.folder / "hwmon")
    here = make_meter(configured(kind="hwmon", root=root, label="VDD_IN", read_on="lab"), 5.0, device)
    assert isinstance(here, PolledMeter)
    assert isinstance(make_meter(configured(kind="hwmon", root=root, label="VDD_IN"), 5.0), PolledMeter)
    assert isinstance(make_meter(configured(kind="hwmon", root=root), 5.0, device), StreamedMeter)


def test_the_battery_of_a_phone(device: WithPrograms) -> None:
    gauge: dict[str, str | int] = {"status": "Discharging", "current_now": -412000, "voltage_now": 3906000}
    tree(device.folder / "battery", gauge)
    device.program("dumpsys", 'echo "Current Battery Service state:"; echo "  USB powered: false"; echo "  status: 3"')
    config = configured(kind="android", folder=str(device.folder / "battery"), period="50 ms")
    with make_meter(config, 3.85, device) as meter:
        block = stream(meter, 2)
        assert meter.info.identity == "battery of this computer, current_now; the whole phone"
    assert np.nanmedian(block.current_a) == pytest.approx(0.412)
