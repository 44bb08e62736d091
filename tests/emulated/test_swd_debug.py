"""A session with a board over its debug probe: run control, registers, memory, breakpoints, gdb, pyOCD's RTT client."""

from __future__ import annotations

import random
import shutil
import socket
import struct
import subprocess
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.probed import EXPECTED, Rig, results, rig
from helpers.toolchain import needs_qemu
from pyocd.debug.rtt import GenericRTTControlBlock

from lab.devices.probed import image_on
from lab.errors import ConfigError, InfrastructureError, ProbeError
from lab.paths import cache_dir
from lab.transports.rtt import SYMBOL, RttStream, find_block
from lab.transports.swd import Swd
from lab.transports.swd_image import Image, read_image
from lab.transports.swd_settings import RESET_KINDS, open_swd
from lab.wire import Session

pytestmark = needs_qemu

RAM = 0x20100000


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rig("m4f-swd", tmp_path_factory.mktemp("desk")) as one:
        one.device.deploy(one.artifact)
        yield one


@pytest.fixture
def image(desk: Rig) -> Image:
    return read_image(desk.artifact.path)


@pytest.fixture
def swd(desk: Rig) -> Iterator[Swd]:
    """The board with its runner, halted at its first instruction."""
    with open_swd(desk.settings) as session:
        session.reset("system", halt=True)
        yield session


def test_the_core_says_what_it_is(swd: Swd) -> None:
    assert (swd.core.architecture, swd.core.float_unit, swd.core.vectors) == ("v7E-M", "FPv4-SP", False)
    assert "Cortex-M4" in swd.core.name
    assert [str(one) for one in swd.flash_ranges] == ["[0x00000000, 0x00400000)"]
    assert swd.ram_ranges[0].start == 0x20000000


@pytest.mark.parametrize("kind", RESET_KINDS)
def test_each_reset_stops_at_the_reset_vector_or_runs(kind: str, swd: Swd, image: Image) -> None:
    stack, entry = struct.unpack("<2I", image.segments[0].data[:8])
    swd.resume()
    swd.reset(kind, halt=True)  # type: ignore[arg-type]
    registers = swd.registers()
    assert (registers["pc"], registers["sp"]) == (entry & ~1, stack)
    assert registers["pc"] == image.address_of("reset_handler")
    swd.reset(kind)  # type: ignore[arg-type]
    assert swd.state == "running"


def test_connecting_under_reset_finds_the_core_before_its_first_instruction(desk: Rig, image: Image) -> None:
    with open_swd(desk.settings, "attach") as swd:
        assert swd.state == "running"
    with open_swd(replace(desk.settings, under_reset=True)) as swd:
        assert swd.state == "halted"
        assert swd.read_register("pc") == image.address_of("reset_handler")


def test_a_core_without_core_reset_says_so(tmp_path: Path) -> None:
    with rig("microbit-swd", tmp_path) as one:
        one.device.deploy(one.artifact)
        with open_swd(one.settings) as m0, pytest.raises(ConfigError, match=r"Cortex-M0 .* has no core reset"):
            m0.reset("core")


def test_breakpoints_in_flash_stop_where_the_symbol_is(swd: Swd, image: Image) -> None:
    place = image.address_of("lab_main")
    swd.set_breakpoint(place)
    swd.resume()
    assert swd.wait_for_halt(5.0)
    assert swd.read_register("pc") == place
    swd.remove_breakpoint(place)
    swd.resume()
    assert not swd.wait_for_halt(0.05)


def test_hardware_breakpoints_run_out_and_come_back(swd: Swd, image: Image) -> None:
    start = image.address_of("lab_main")
    places = [start + 2 * number for number in range(6)]
    for place in places:
        swd.set_breakpoint(place, "software" if place == start else "hardware")
    with pytest.raises(ProbeError, match=f"no auto breakpoint can be set at {start + 32:#010x}: the core's are taken"):
        swd.set_breakpoint(start + 32)
    for place in places:
        swd.remove_breakpoint(place)
    swd.set_breakpoint(start + 32)
    swd.remove_breakpoint(start + 32)


def test_a_software_breakpoint_in_ram_is_invisible_and_stops(swd: Swd) -> None:
    code = struct.pack("<4H", 0x3001, 0x3001, 0x3001, 0xE7FE)  # adds r0, #1 three times, then a loop
    swd.write_memory(RAM, code)
    swd.set_breakpoint(RAM + 4, "software")
    assert swd.read_memory(RAM, 8) == code
    swd.write_register("r0", 40)
    swd.write_register("pc", RAM)
    swd.resume()
    assert swd.wait_for_halt(5.0)
    assert (swd.read_register("pc"), swd.read_register("r0")) == (RAM + 4, 42)
    swd.remove_breakpoint(RAM + 4)
    swd.step()
    assert (swd.read_register("pc"), swd.read_register("r0")) == (RAM + 6, 43)


def test_a_watchpoint_stops_the_store_that_it_watches(swd: Swd) -> None:
    # str r1, [r2] ; adds r0, #1 ; str r1, [r3] ; loop
    swd.write_memory(RAM, struct.pack("<4H", 0x6011, 0x3001, 0x6019, 0xE7FE))
    for register, value in (("r0", 0), ("r1", 0x600D), ("r2", RAM + 0x100), ("r3", RAM + 0x200), ("pc", RAM)):
        swd.write_register(register, value)
    swd.set_watchpoint(RAM + 0x200, 4, "write")
    swd.resume()
    assert swd.wait_for_halt(5.0)
    assert swd.read_register("r0") == 1, "the store before did not stop it"
    assert RAM + 4 <= swd.read_register("pc") <= RAM + 6
    swd.remove_watchpoint(RAM + 0x200, 4, "write")


def test_registers_keep_what_is_written(swd: Swd) -> None:
    values = {f"r{number}": random.Random(number).getrandbits(32) for number in range(13)}
    values |= {"lr": 0x1235, "basepri": 0x40, "primask": 1, "s3": 0x40490FDB, "fpscr": 0x03000000}
    for name, value in values.items():
        swd.write_register(name, value)
    assert {name: swd.read_register(name) for name in values} == values
    assert {name: swd.registers()[name] for name in values if name not in ("s3", "fpscr")} == {
        name: value for name, value in values.items() if name not in ("s3", "fpscr")
    }
    with pytest.raises(ConfigError, match="has no register 'x7'"):
        swd.read_register("x7")


@pytest.mark.parametrize(("offset", "size"), [(0, 0), (0, 4), (1, 1), (1, 2), (3, 9), (2, 4096), (5, 4099)])
def test_memory_at_any_address_and_of_any_size(offset: int, size: int, swd: Swd) -> None:
    around = random.Random(9).randbytes(8192)
    swd.write_memory(RAM, around)
    data = random.Random(size).randbytes(size)
    swd.write_memory(RAM + offset, data)
    assert swd.read_memory(RAM + offset, size) == data
    assert swd.read_memory(RAM, 8192) == around[:offset] + data + around[offset + size :]


def test_memory_is_read_while_the_core_runs_and_it_goes_on(desk: Rig, image: Image) -> None:
    with open_swd(desk.settings, "attach") as swd:
        assert swd.state == "running"
        assert swd.read_memory(0, 16) == image.segments[0].data[:16]
        with swd.halted():
            assert swd.state == "halted"
            assert image.symbols["lab_main"] <= swd.registers()["pc"] < image.segments[-1].end
        assert swd.state == "running"
    desk.device.deploy(desk.artifact)
    assert results(desk.device) == EXPECTED


def test_files_and_variables_of_pyocd_change_nothing(
    desk: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyocd.yaml").write_text("frequency: 1\nconnect_mode: attach\n")
    (tmp_path / "pyocd_user.py").write_text("raise RuntimeError('read')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYOCD_PROJECT_DIR", str(tmp_path.parent))
    with open_swd(desk.settings) as swd:
        assert swd.state == "halted"
    assert Path.cwd() == tmp_path


_PACK = """<?xml version="1.0" encoding="utf-8"?>
<package schemaVersion="1.7.7"><vendor>Lab</vendor><name>Parts_DFP</name><description>A part</description>
 <releases><release version="1.0.0">first</release></releases>
 <devices><family Dfamily="Parts" Dvendor="Lab:1">
  <device Dname="LABPART1">
   <processor Dcore="Cortex-M4" DcoreVersion="r0p1" Dfpu="SP_FPU" Dendian="Little-endian" Dclock="25000000"/>
   <debugport __dp="0"><swd/></debugport><debug __dp="0" __ap="0"/>
   <memory name="CODE" start="0x00000000" size="0x00010000" access="rx" default="1" startup="1"/>
   <memory name="DATA" start="0x20000000" size="0x00008000" access="rwx" default="1"/>
  </device></family></devices>
</package>"""


def test_a_part_is_known_from_its_pack_and_from_nothing_else(desk: Rig, tmp_path: Path) -> None:
    pack = tmp_path / "Lab.Parts_DFP.1.0.0.pack"
    with zipfile.ZipFile(pack, "w") as archive:
        archive.writestr("Lab.Parts_DFP.pdsc", _PACK)
    with pytest.raises(ConfigError, match="no target 'labpart1'"):
        open_swd(replace(desk.settings, target="labpart1"))
    for _ in range(2):
        with open_swd(replace(desk.settings, target="LABPART1", pack=pack)) as swd:
            assert [str(one) for one in swd.ram_ranges] == ["[0x20000000, 0x20008000)"]
            assert swd.core.architecture == "v7E-M"


def test_the_image_on_a_board_is_found_among_those_built_here(desk: Rig, image: Image) -> None:
    desk.device.deploy(desk.artifact)
    with open_swd(desk.settings, "attach") as swd:
        found = image_on(swd, cache_dir())
        assert found is not None
        assert (found.path, found.digest) == (image.path, image.digest)
        assert image_on(swd, Path("/nowhere")) is None


@pytest.mark.skipif(shutil.which("gdb-multiarch") is None, reason="not installed: gdb-multiarch")
def test_gdb_debugs_the_runner(swd: Swd, image: Image) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    orders = (f"target extended-remote localhost:{port}", "break lab_main", "continue", "print lab_port.board", "quit")
    with swd.serving_gdb(port) as serving:
        command = ["gdb-multiarch", "-nx", "-q", "-batch", *(part for order in orders for part in ("-ex", order))]
        done = subprocess.run([*command, image.path], capture_output=True, text=True, timeout=60, check=False)
        assert serving()
    assert "Breakpoint 1, lab_main ()" in done.stdout, done.stdout + done.stderr
    assert '"mps2-an386"' in done.stdout


def test_a_port_that_is_taken_is_refused_for_gdb(swd: Swd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InfrastructureError, match=f"port {port} cannot be served"), swd.serving_gdb(port):
            pass


def test_pyocds_own_client_hears_the_runner_through_the_rings(tmp_path: Path) -> None:
    """An independent implementation of the layout opens a session with the firmware."""
    with rig("m4f-rtt", tmp_path) as one:
        address = read_image(one.artifact.path).address_of(SYMBOL)
        with open_swd(one.settings) as swd:
            swd.flash(read_image(one.artifact.path))
            swd.resume()
            ram = swd.ram_ranges[0]
            ours = RttStream(swd, address, "rtt")
            assert Session(ours).open(5.0, ask=True).board == "mps2-an386"
            assert find_block(swd, ram.start, ram.start + 0x10000) == address
            theirs = GenericRTTControlBlock(swd._session.target, address=address)
            theirs.start()
            assert [channel.name for channel in theirs.up_channels] == ["runner"]

            class Through:
                name = "pyOCD's client"

                def write(self, data: bytes) -> None:
                    theirs.down_channels[0].write(data, blocking=True)

                def read(self, timeout_s: float) -> bytes:
                    return bytes(theirs.up_channels[0].read())

                def close(self) -> None:
                    pass

            assert Session(Through()).open(5.0).build_id == one.artifact.build_id
