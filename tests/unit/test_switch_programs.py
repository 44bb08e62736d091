"""Switches by programs: what they print in truth, put on PATH by scripts, and ports that leave and come back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.errors import InfrastructureError, ToolMissing
from lab.power.switches.base import Outlet, PowerSwitch
from lab.power.switches.registry import make_outlet, missing_tool
from lab.power.switches.uhubctl import Uhubctl
from lab.power.switches.usb import PortWitness, UsbWitness, attached_serial_numbers
from lab.power.switches.usbrelay import Usbrelay
from lab.power.switches.ykush import Ykush
from lab.switch_config import UhubctlSwitch, UsbRelay, YkushSwitch
from lab.transports.serial_ports import PortChoice

BOARD = "066BFF343633464257254156"

# uhubctl 2.5.0, as its issues show it: the status before, what was sent, the status after. FILE holds 1 while on.
UHUBCTL = """#!/bin/sh
while [ $# -gt 0 ]; do
  case $1 in -a) action=$2;; -p) port=$2;; -l) location=$2;; esac
  shift 2
done
status() {
  echo "$1 status for hub $location [2109:2817 VIA Labs, Inc. USB2.0 Hub, USB 2.10, 4 ports, ppps]"
  if [ "$(cat FILE)" = 1 ]
  then echo "  Port $port: 0103 power enable connect [0483:374b STMicroelectronics STM32 STLink BOARD]"
  else echo "  Port $port: 0000 off"
  fi
}
status Current
[ -z "$action" ] && exit 0
echo "Sent power $action request"
SWITCH
status New
"""
# ykushcmd 1.2.5 (Debian's ykush-control), run here; without a board it says ON with exit status 0.
YKUSHCMD = """#!/bin/sh
[ "$1" = ykush3 ] && shift
if [ "$1" = -s ]; then serial=$2; shift 2; fi
if [ "${serial:-YK12345}" != YK12345 ]; then
  echo "Unable to open device"
  [ $1 = -g ] || { echo "Unable to open device"; exit 255; }
  printf '\\n\\nDownstream port 15 is ON\\n\\n'
  exit 0
fi
case $1 in
  -u) action=on; SWITCH;;
  -d) action=off; SWITCH;;
  -g) if [ "$(cat FILE)" = 1 ]; then word=ON; else word=OFF; fi
      printf '\\n\\nDownstream port %s is %s\\n\\n' $2 $word;;
esac
"""
# usbrelay 1.0 (Debian), run here: a board that is not there is no error; the list goes to standard output.
USBRELAY = """#!/bin/sh
echo "Device Found" >&2
case $1 in
  "") echo "HURTM_1=$(cat FILE)"; echo "HURTM_2=0";;
  HURTM_1=1) action=on; SWITCH;;
  HURTM_1=0) action=off; SWITCH;;
esac
exit 0
"""
WORKS = (
    "if [ $action = on ]; then echo 1 >FILE; echo BOARD >BUS/1-1.4.2/serial; "
    "else echo 0 >FILE; rm -f BUS/1-1.4.2/serial; fi"
)
LIES = "if [ $action = on ]; then echo 1 >FILE; else echo 0 >FILE; fi"


@dataclass
class Desk:
    """A computer with programs on PATH and a USB bus of which one device is on a switch."""

    programs: Path
    bus: Path
    file: Path
    waited_s: float = 0.0

    def install(self, program: str, script: str, switching: str = WORKS) -> None:
        text = script.replace("SWITCH", switching).replace("FILE", str(self.file))
        path = self.programs / program
        path.write_text(text.replace("BUS", str(self.bus)).replace("BOARD", BOARD))
        path.chmod(0o755)

    def sleep(self, seconds: float) -> None:
        self.waited_s += seconds

    def switch(self, outlet: Outlet) -> PowerSwitch:
        witness = UsbWitness(BOARD, lambda: attached_serial_numbers(self.bus))
        return PowerSwitch(outlet, witness, off_s=1.5, clock=lambda: self.waited_s, sleep=self.sleep)

    def attached(self) -> bool:
        return BOARD in attached_serial_numbers(self.bus)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    made = Desk(tmp_path / "bin", tmp_path / "bus", tmp_path / "on")
    made.programs.mkdir()
    for name, number in (("1-1.4.2", BOARD), ("1-1", "HUB"), ("1-2", "PPK2")):
        (made.bus / name).mkdir(parents=True)
        (made.bus / name / "serial").write_text(f"{number}\n")
    made.file.write_text("1\n")
    monkeypatch.setenv("PATH", f"{made.programs}:/usr/bin:/bin")
    return made


OUTLETS: dict[str, tuple[str, Callable[[], Outlet]]] = {
    "uhubctl": (UHUBCTL, lambda: Uhubctl(UhubctlSwitch(kind="uhubctl", location="1-1.4", outlet=2))),
    "ykushcmd": (YKUSHCMD, lambda: Ykush(YkushSwitch(kind="ykush", model="ykush3", serial_number="YK12345", outlet=3))),
    "usbrelay": (USBRELAY, lambda: Usbrelay(UsbRelay(kind="usbrelay", relay="HURTM_1"))),
}
EACH = pytest.mark.parametrize("program", list(OUTLETS))


@EACH
def test_a_device_goes_and_comes_back(desk: Desk, program: str) -> None:
    script, make = OUTLETS[program]
    desk.install(program, script)
    switch = desk.switch(make())
    assert switch.state() == (True, True)
    switch.off()
    assert not desk.attached()
    assert switch.state() == (False, False)
    switch.on()
    assert desk.attached()
    switch.cycle()
    assert desk.attached()
    assert desk.waited_s == 1.5


@EACH
def test_a_switch_that_lies_is_found_out(desk: Desk, program: str) -> None:
    """It says off, it ends with exit status 0, and the device never left."""
    script, make = OUTLETS[program]
    desk.install(program, script, LIES)
    with pytest.raises(InfrastructureError) as caught:
        desk.switch(make()).cycle()
    assert f"says that it is off, but USB device {BOARD} is still there after 15 s" in caught.value.message
    assert "confirm:" in caught.value.hint


@EACH
def test_a_switch_that_does_nothing_says_so_itself(desk: Desk, program: str) -> None:
    script, make = OUTLETS[program]
    desk.install(program, script, ":")
    with pytest.raises(InfrastructureError, match="told to be off and says that it is on"):
        desk.switch(make()).off()


@EACH
def test_a_device_that_does_not_come_back(desk: Desk, program: str) -> None:
    script, make = OUTLETS[program]
    desk.install(program, script, "rm -f BUS/1-1.4.2/serial; " + LIES)
    with pytest.raises(InfrastructureError, match=f"but USB device {BOARD} did not come after 15 s"):
        desk.switch(make()).cycle()


@EACH
def test_the_program_is_missing(desk: Desk, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(desk.programs))
    outlet = OUTLETS[program][1]()
    with pytest.raises(ToolMissing, match=rf"{program} is not installed(.|\n)*apt-get install"):
        outlet.set(True)


@pytest.mark.parametrize(
    ("config", "package"),
    [
        (UhubctlSwitch(kind="uhubctl", location="1-1", outlet=1), "uhubctl"),
        (YkushSwitch(kind="ykush"), "ykush-control"),
        (UsbRelay(kind="usbrelay", relay="A_1"), "usbrelay"),
    ],
)
def test_what_is_missing_is_told_before_anything_runs(
    config: UhubctlSwitch | YkushSwitch | UsbRelay, package: str, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(desk.programs))
    assert missing_tool(config).endswith(f"is not installed: apt-get install {package}")
    desk.install("uhubctl", UHUBCTL)
    desk.install("ykushcmd", YKUSHCMD)
    desk.install("usbrelay", USBRELAY)
    assert missing_tool(config) == ""
    assert type(make_outlet(config, None)).__name__ in ("Uhubctl", "Ykush", "Usbrelay")


def test_ykushcmd_without_its_board_says_on_and_is_not_believed(desk: Desk) -> None:
    desk.install("ykushcmd", YKUSHCMD)
    absent = Ykush(YkushSwitch(kind="ykush", serial_number="YK99999", outlet=1))
    with pytest.raises(InfrastructureError, match="told nothing of the port: Unable to open device Downstream port 15"):
        absent.state()
    with pytest.raises(InfrastructureError, match="exit status 255; it said: Unable to open device"):
        absent.set(False)


def test_usbrelay_without_its_board_does_nothing_and_is_not_believed(desk: Desk) -> None:
    desk.install("usbrelay", USBRELAY)
    with pytest.raises(InfrastructureError, match="PSUIS_2 is not attached; usbrelay lists: HURTM_1, HURTM_2"):
        desk.switch(Usbrelay(UsbRelay(kind="usbrelay", relay="PSUIS_2"))).off()


def test_a_relay_whose_break_contact_feeds_the_device(desk: Desk) -> None:
    desk.install("usbrelay", USBRELAY, WORKS.replace("= on", "= off"))
    switch = desk.switch(Usbrelay(UsbRelay(kind="usbrelay", relay="HURTM_1", closed_is_on=False)))
    desk.file.write_text("0\n")
    assert switch.state() == (True, True)


def test_uhubctl_at_a_hub_that_cannot_switch(desk: Desk) -> None:
    desk.install(
        "uhubctl", "#!/bin/sh\necho 'No compatible devices detected at location 1-1.4!' >&2\n"
        "echo 'Run with -h to get usage info.' >&2\nexit 1\n",
    )  # fmt: skip
    with pytest.raises(InfrastructureError, match="exit status 1; it said: No compatible devices detected"):
        OUTLETS["uhubctl"][1]().set(False)


def test_uhubctl_with_a_usb_3_hub_is_on_while_either_half_is(desk: Desk) -> None:
    text = """#!/bin/sh
echo 'Current status for hub 2-1.4 [0bda:0411 Generic 4-Port USB 3.0 Hub, USB 3.00, 4 ports, ppps]'
echo '  Port 2: 00a0 off'
echo 'Current status for hub 1-1.4 [0bda:5411 Generic 4-Port USB 2.0 Hub, USB 2.10, 4 ports, ppps]'
echo '  Port 2: 0507 power highspeed suspend enable connect [0483:374e STMicroelectronics]'
"""
    desk.install("uhubctl", text)
    assert OUTLETS["uhubctl"][1]().state() is True
    desk.install("uhubctl", text.replace("0507 power highspeed suspend enable connect [0483:374e", "0000 off [x"))
    assert OUTLETS["uhubctl"][1]().state() is False
    desk.install("uhubctl", "#!/bin/sh\nexit 0\n")
    with pytest.raises(InfrastructureError, match="told nothing of the port"):
        OUTLETS["uhubctl"][1]().state()


def test_a_serial_port_as_witness(tmp_path: Path) -> None:
    path = tmp_path / "by-path"
    witness = PortWitness(PortChoice(path=str(path)))
    assert not witness.powered()
    path.write_text("")
    assert witness.powered()
    gone = PortWitness(PortChoice(by_id="X"), list)
    assert not gone.powered()


def test_without_sysfs_the_serial_ports_are_what_is_known(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Port:
        serial_number: str | None
        device: str = "/dev/x"
        description: str = ""
        vid: int | None = 1
        pid: int | None = 2
        location: str | None = None
        interface: str | None = None

    assert attached_serial_numbers(tmp_path / "none", lambda: [Port("A"), Port(None), Port("B")]) == {"A", "B"}


def test_usb_devices_without_a_number_do_not_disturb(tmp_path: Path) -> None:
    (tmp_path / "1-1").mkdir()
    (tmp_path / "1-2" / "serial").mkdir(parents=True)  # cannot be read
    (tmp_path / "1-3").mkdir()
    (tmp_path / "1-3" / "serial").write_text("C\n")
    assert attached_serial_numbers(tmp_path) == {"C"}
