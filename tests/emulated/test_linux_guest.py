"""The emulated Linux devices: started clean, reached only by SSH, with a kernel that behaves, counts and fails."""

from __future__ import annotations

import base64
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from lab.connection_config import SshHost
from lab.emulator_config import GuestEmulator
from lab.emulators.linux.device_tree import parse, serialize, strings
from lab.emulators.linux.guest import Guest
from lab.emulators.linux.image import image
from lab.emulators.linux.keys import keys
from lab.emulators.linux.machine import Settings, dump_device_tree
from lab.emulators.registry import create_linux
from lab.errors import ConfigError, Crash, DiskFull, EmulatorError
from lab.inventory import load_board
from lab.paths import cache_dir, config_dir
from lab.transports.ssh import open_ssh
from lab.transports.ssh_remote import Ssh

POLICY = "/sys/devices/system/cpu/cpufreq/policy0"


def section_of(board: str) -> GuestEmulator:
    (section,) = load_board(config_dir() / "boards" / f"{board}.yaml").emulators
    assert isinstance(section, GuestEmulator)
    return section


PI = section_of("raspberry-pi-4")


def reached(guest: Guest) -> SshHost:
    host = guest.start()
    assert isinstance(host, SshHost)
    return host


@pytest.fixture(scope="module")
def pi() -> Iterator[Guest]:
    with Guest(PI, cache_dir()) as guest:
        yield guest


@pytest.fixture(scope="module")
def shell(pi: Guest) -> Iterator[Ssh]:
    with open_ssh(pi.address_of_ssh()) as remote:
        yield remote


@pytest.fixture
def fresh() -> Iterator[Guest]:
    with Guest(PI, cache_dir()) as guest:
        yield guest


def said(remote: Ssh, script: str) -> str:
    done = remote.run(("sh", "-c", script))
    assert done.status == 0, done.stderr
    return done.text


# ---- reached as any device is ----


def test_an_ordinary_client_logs_in_and_accepts_no_other_host_key(pi: Guest) -> None:
    host = pi.address_of_ssh()
    kind, _, key = str(host.host_key).partition(" ")
    own = paramiko.Ed25519Key.from_private_key_file(str(host.key))
    for known, welcome in ((paramiko.Ed25519Key(data=base64.b64decode(key)), True), (own, False)):
        with paramiko.SSHClient() as client:
            client.set_missing_host_key_policy(paramiko.RejectPolicy())
            client.get_host_keys().add(f"[127.0.0.1]:{host.port}", kind, known)

            def connect(client: paramiko.SSHClient = client) -> None:
                client.connect(
                    "127.0.0.1", host.port, str(host.user), pkey=own, look_for_keys=False, allow_agent=False, timeout=20
                )

            if not welcome:
                with pytest.raises(paramiko.BadHostKeyException):
                    connect()
                continue
            connect()
            _, output, _ = client.exec_command("uname -m; exit 3")
            assert output.read() == b"aarch64\n"
            assert output.channel.recv_exit_status() == 3


def test_it_says_what_board_it_is(shell: Ssh) -> None:
    assert said(shell, "tr -d '\\0' </proc/device-tree/model") == "Raspberry Pi 4 Model B Rev 1.4"
    assert said(shell, "tr '\\0' ' ' </proc/device-tree/compatible") == "raspberrypi,4-model-b brcm,bcm2711"
    assert said(shell, "nproc") == str(PI.cpus)


def test_it_reaches_nobody(shell: Ssh) -> None:
    # 10.0.2.2 is this computer, as far as QEMU lets the guest.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert shell.run(("nc", "-w", "2", "10.0.2.2", str(port))).status != 0


def test_the_second_user_has_no_rights(pi: Guest) -> None:
    with open_ssh(pi.address_of_ssh().model_copy(update={"user": "lab"})) as remote:
        assert said(remote, "id -u") == "1000"
        assert remote.run(("sh", "-c", f"echo performance >{POLICY}/scaling_governor")).status != 0


# ---- a kernel of its own ----


def test_clocks_are_the_kernels_own(shell: Ssh) -> None:
    assert said(shell, f"cat {POLICY}/scaling_available_frequencies").split()[-1] == "1500000"
    assert shell.run(("sh", "-c", f"echo no-such >{POLICY}/scaling_governor")).status != 0
    said(shell, f"echo performance >{POLICY}/scaling_governor")
    assert said(shell, f"cat {POLICY}/scaling_cur_freq") == "1500000"
    said(shell, f"echo powersave >{POLICY}/scaling_governor")
    assert said(shell, f"cat {POLICY}/scaling_cur_freq") == "600000"
    said(shell, f"echo 900000 >{POLICY}/scaling_min_freq")
    assert said(shell, f"cat {POLICY}/scaling_cur_freq") == "900000"
    said(shell, f"echo 600000 >{POLICY}/scaling_min_freq; echo schedutil >{POLICY}/scaling_governor")


def test_a_memory_limit_kills_and_the_peak_is_told(shell: Ssh) -> None:
    group = "/sys/fs/cgroup/test"
    said(shell, f"mkdir {group}; echo 8388608 >{group}/memory.max; echo 0 >{group}/memory.swap.max")
    eat = f"echo $$ >{group}/cgroup.procs; dd if=/dev/zero of=/dev/null bs=$1 count=1"
    assert shell.run(("sh", "-c", eat, "sh", "6000000")).status == 0
    assert 6_000_000 <= int(said(shell, f"cat {group}/memory.peak")) <= 8_388_608
    assert "oom_kill 0" in said(shell, f"cat {group}/memory.events")
    assert shell.run(("sh", "-c", eat, "sh", "12000000")).status != 0
    assert int(re.findall(r"oom_kill (\d+)", said(shell, f"cat {group}/memory.events"))[0]) >= 1


COUNTER = """
#include <linux/perf_event.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static volatile float values[4096];

int main(void) {
    struct perf_event_attr about;
    memset(&about, 0, sizeof about);
    about.type = PERF_TYPE_HARDWARE;
    about.size = sizeof about;
    about.config = PERF_COUNT_HW_INSTRUCTIONS;
    about.disabled = 1;
    about.exclude_kernel = 1;
    int counter = (int)syscall(SYS_perf_event_open, &about, 0, -1, -1, 0);
    long long count = -1;
    ioctl(counter, PERF_EVENT_IOC_ENABLE, 0);
    for (int pass = 0; pass < 200; pass++)
        for (int i = 0; i < 4096; i++)
            values[i] = values[i] * 0.5f + 1.0f;
    ioctl(counter, PERF_EVENT_IOC_DISABLE, 0);
    if (read(counter, &count, sizeof count) != sizeof count)
        return 1;
    printf("%lld\\n", count);
    return 0;
}
"""


def test_instructions_are_counted_exactly(pi: Guest, shell: Ssh, fresh: Guest, tmp_path: Path) -> None:
    source, program = tmp_path / "count.c", tmp_path / "count"
    source.write_text(COUNTER)
    subprocess.run(["aarch64-linux-gnu-gcc", "-O1", "-static", "-o", program, source], check=True)
    with open_ssh(fresh.address_of_ssh()) as other:
        counts = []
        for remote in (shell, shell, other):
            remote.push(program, "/tmp/count", executable=True)
            counts.append(int(said(remote, "/tmp/count")))
    assert len(set(counts)) == 1
    # A load, a multiplication or a fused one, a store, an increment, a comparison and a branch.
    assert 200 * 4096 * 4 < counts[0] < 200 * 4096 * 10


# ---- sensors ----


def test_the_lab_sets_what_a_sensor_tells(pi: Guest, shell: Ssh) -> None:
    assert said(shell, "vcgencmd get_throttled") == "throttled=0x0"
    pi.set_sensor("throttled", 0x50005)
    pi.set_sensor("cpu-thermal.temperature_c", 83.25)
    assert said(shell, "vcgencmd get_throttled") == "throttled=0x50005"
    assert said(shell, "vcgencmd measure_temp") == "temp=83.2'C"
    for path in ("/sys/class/thermal/thermal_zone0/temp", "/sys/class/hwmon/hwmon0/temp1_input"):
        assert said(shell, f"cat {path}") == "83250"
    pi.set_sensor("throttled", 0)
    pi.set_sensor("cpu-thermal.temperature_c", 48.312)


def test_sensors_that_are_not_there_are_refused(pi: Guest) -> None:
    with pytest.raises(ConfigError, match=r"no sensor 'VDD_IN.current_a'; it has: .*cpu-thermal.temperature_c"):
        pi.set_sensor("VDD_IN.current_a", 1.0)
    with pytest.raises(ConfigError, match="wanted a number"):
        pi.set_sensor("throttled", "yes")


def test_only_a_raspberry_pi_5_has_a_power_chip_that_tells(shell: Ssh) -> None:
    refused = shell.run(("vcgencmd", "pmic_read_adc"))
    assert refused.text == 'error=1 error_msg="Command not registered"'
    with Guest(section_of("raspberry-pi-5"), cache_dir()) as guest, open_ssh(guest.address_of_ssh()) as remote:
        guest.set_sensor("VDD_CORE.current_a", 2.5)
        rails = remote.run(("vcgencmd", "pmic_read_adc")).text.splitlines()
    assert "VDD_CORE_A current(7)=2.50000000A" in [line.strip() for line in rails]
    assert [line.strip().split("=")[0] for line in rails[-2:]] == ["EXT5V_V volt(24)", "BATT_V volt(25)"]


def test_a_plain_computer_has_no_sensors() -> None:
    with Guest(section_of("linux-aarch64"), cache_dir()) as guest, open_ssh(guest.address_of_ssh()) as remote:
        assert guest.sensors() == ()
        assert remote.run(("which", "vcgencmd")).status != 0
        assert said(remote, "tr -d '\\0' </proc/device-tree/compatible") == "linux,dummy-virt"


# ---- each start is clean ----


def test_each_start_is_clean_and_at_the_same_port(fresh: Guest) -> None:
    first = fresh.address_of_ssh()
    with open_ssh(first) as remote:
        remote.run(("sh", "-c", "echo mine >/root/file; head -c 5000000 /dev/zero >/root/more"))
        boot = said(remote, "cat /proc/sys/kernel/random/boot_id")
    fresh.power_cut()
    with pytest.raises(EmulatorError, match="no power"):
        fresh.check_alive()
    again = reached(fresh)
    assert again == first
    fresh.check_alive()
    with open_ssh(again) as remote:
        assert said(remote, "ls -A /root") == ".ssh"
        assert said(remote, "cat /proc/sys/kernel/random/boot_id") != boot


def test_a_boot_without_a_saved_state_comes_to_the_same(shell: Ssh) -> None:
    with Guest(PI, cache_dir(), resume=False) as guest, open_ssh(guest.address_of_ssh()) as remote:
        for question in ("uname -a", "cat /proc/device-tree/model", "ls /sys/class/thermal /root /etc"):
            assert said(remote, question) == said(shell, question)
        assert "HIL-READY" in guest.console()


def test_no_key_is_in_an_image() -> None:
    built, pair = image("pi", cache_dir()), keys(cache_dir())
    private = pair.host_private.read_bytes().splitlines()[-2]
    for secret in (private, pair.user_public.encode()):
        assert secret not in built.initramfs.read_bytes()


# ---- what goes wrong ----


def test_a_panic_is_told_with_the_kernels_words_and_power_brings_it_back(fresh: Guest) -> None:
    with open_ssh(fresh.address_of_ssh()) as remote:
        assert said(remote, "echo well") == "well"
    fresh.panic()
    with pytest.raises(Crash, match="sysrq triggered crash"):
        fresh.run("true")
    with pytest.raises(Crash, match="Kernel panic - not syncing"):
        fresh.check_alive()
    fresh.power_cut()
    with open_ssh(reached(fresh)) as remote:
        assert said(remote, "echo well") == "well"


def test_it_reboots_and_is_reached_as_before(fresh: Guest) -> None:
    with open_ssh(fresh.address_of_ssh()) as remote:
        boot = said(remote, "cat /proc/sys/kernel/random/boot_id; touch /root/file")
        fresh.reboot()
        remote.reconnect(timeout_s=120)
        assert said(remote, "cat /proc/sys/kernel/random/boot_id; ls /root") != boot
        assert remote.run(("test", "-e", "/root/file")).status != 0


def test_a_pulled_cable_cuts_it_off_and_it_lives_on(fresh: Guest) -> None:
    address = ("127.0.0.1", fresh.address_of_ssh().port)
    with socket.create_connection(address) as before:
        assert before.recv(7) == b"SSH-2.0"
    fresh.network(connected=False)
    with socket.create_connection(address, timeout=1) as during, pytest.raises(TimeoutError):
        during.recv(7)
    fresh.check_alive()
    assert fresh.run("echo well") == "well"
    fresh.network(connected=True)
    with socket.create_connection(address, timeout=60) as after:
        assert after.recv(7) == b"SSH-2.0"


def test_a_full_disk_is_told(fresh: Guest, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(2_000_000))
    with open_ssh(fresh.address_of_ssh()) as remote:
        fresh.limit_disk("/root/.cache/hil-lab", 1_000_000)
        with pytest.raises(DiskFull):
            remote.push(tmp_path / "large", "/root/.cache/hil-lab/large")


def test_its_clock_can_jump_while_time_goes_on(pi: Guest, shell: Ssh) -> None:
    before = float(said(shell, "cut -d' ' -f1 /proc/uptime"))
    pi.set_clock(1_000_000_000)
    assert int(said(shell, "date +%s")) - 1_000_000_000 < 60
    assert 0 <= float(said(shell, "cut -d' ' -f1 /proc/uptime")) - before < 60


def test_a_script_that_fails_is_told(pi: Guest) -> None:
    with pytest.raises(EmulatorError, match="status 4: bad luck"):
        pi.run("echo bad luck; exit 4")
    assert pi.run("printf '%s' \"$HOME is\\\\\nfine äß\"") == "/ is\\\nfine äß"


def test_it_ends_with_the_process_that_started_it() -> None:
    program = (
        "import sys\n"
        "from lab.emulators.registry import create_linux\n"
        "from lab.inventory import load_board\n"
        "from lab.paths import cache_dir, config_dir\n"
        "board = load_board(config_dir() / 'boards' / 'raspberry-pi-4.yaml')\n"
        "guest = create_linux(board, board.emulators[0], cache_dir())\n"
        "guest.start()\n"
        "print(guest.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert owner.stdout is not None
    emulator = int(owner.stdout.readline())
    watched = subprocess.Popen(["tail", f"--pid={emulator}", "-f", "/dev/null"])
    assert b"qemu-system-aarch64" in Path(f"/proc/{emulator}/cmdline").read_bytes()
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    assert watched.wait(timeout=20) == 0


def test_settings_that_qemu_refuses_are_told_in_its_words() -> None:
    section = PI.model_copy(update={"cpu": "abacus"})
    with pytest.raises(EmulatorError, match="abacus"):
        Guest(section, cache_dir()).start()


def test_without_qemu_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ConfigError, match="qemu-system-aarch64 is not installed") as caught:
        Guest(PI, cache_dir()).start()
    assert "apt-get install qemu-system-arm" in caught.value.hint


def test_no_package_is_needed_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("qemu-system-aarch64", "setpriv", "sh", "cat"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(tmp_path))
    board = load_board(config_dir() / "boards" / "raspberry-pi-4.yaml")
    guest = create_linux(board, PI, cache_dir())
    try:
        assert guest.start()
        guest.check_alive()
    finally:
        guest.stop()


# ---- device trees ----


def test_qemus_own_device_tree_is_read_and_written_again() -> None:
    settings = Settings(PI.cpu, 4, PI.memory_bytes, PI.icount_shift, 22)
    tree = parse(dump_device_tree(settings))
    assert tree.root.properties["compatible"] == strings("linux,dummy-virt")
    assert [node.name for node in tree.root.child("cpus").children if node.name.startswith("cpu@")] == [
        "cpu@0", "cpu@1", "cpu@2", "cpu@3",
    ]  # fmt: skip
    assert parse(serialize(tree)) == tree
    with pytest.raises(EmulatorError, match="no node fan"):
        tree.root.child("fan")
