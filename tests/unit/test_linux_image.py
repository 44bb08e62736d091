"""What images of emulated Linux devices are made of: archives, packages, device trees, keys, sensors."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import stat
import string
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from hypothesis import given
from hypothesis import strategies as st

from lab.commands.image import image as image_command
from lab.emulator_config import GuestEmulator
from lab.emulators.linux import packages as packages_module
from lab.emulators.linux.board_tree import board_tree
from lab.emulators.linux.cpio import Initramfs
from lab.emulators.linux.debs import Tree, needed, unpack
from lab.emulators.linux.device_tree import DeviceTree, Node, cells, parse, serialize, strings
from lab.emulators.linux.image import built_image, image, images, initramfs_of, kernel_version
from lab.emulators.linux.keys import USERS, keys, keys_archive
from lab.emulators.linux.packages import PackageSet, cached, fetch, linux_cache, mirrors
from lab.emulators.linux.recipes import RECIPES, Recipe
from lab.emulators.linux.sensors import read_sensors
from lab.errors import ConfigError, EmulatorError, ToolMissing

# ---- the archive ----


def entries(archive: bytes) -> dict[str, tuple[int, int, bytes, tuple[int, int]]]:
    """A reader of newc archives by itself: path to mode, owner, content and device; several may follow each other."""
    found = {}
    at = 0
    while at < len(archive):
        if archive[at] == 0:
            at += 1
            continue
        assert archive[at : at + 6] == b"070701"
        numbers = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        _, mode, user, group, links, time, size, _, _, major, minor, name_size, _ = numbers
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        body = at + 110 + name_size + -(110 + name_size) % 4
        at = body + size + -size % 4
        if name == "TRAILER!!!":
            continue
        assert user == group
        assert (links, time) == (1, 0)
        assert name not in found
        found[name] = (mode, user, archive[body : body + size], (major, minor))
    return found


def test_an_archive_holds_what_was_put_in() -> None:
    system = Initramfs()
    system.file("/usr/bin/tool", b"#!/bin/sh\n", 0o755)
    system.link("usr/bin/other", "tool")
    system.device("dev/console", 0o600, 5, 1)
    system.folder("home/lab", 0o700, owner=1000)
    assert "usr/bin/tool" in system
    archive = system.finish()
    assert len(archive) % 512 == 0
    found = entries(archive)
    assert list(found)[:3] == ["usr", "usr/bin", "usr/bin/tool"]
    assert found["usr/bin/tool"] == (stat.S_IFREG | 0o755, 0, b"#!/bin/sh\n", (0, 0))
    assert found["usr/bin/other"] == (stat.S_IFLNK | 0o777, 0, b"tool", (0, 0))
    assert found["dev/console"] == (stat.S_IFCHR | 0o600, 0, b"", (5, 1))
    assert found["home/lab"] == (stat.S_IFDIR | 0o700, 1000, b"", (0, 0))
    assert found["home"] == (stat.S_IFDIR | 0o755, 0, b"", (0, 0))


@given(st.dictionaries(st.text(string.ascii_lowercase, min_size=1, max_size=9), st.binary(max_size=99), max_size=9))
def test_any_content_is_kept_and_gives_the_same_bytes_again(files: dict[str, bytes]) -> None:
    def written() -> bytes:
        system = Initramfs()
        for name, data in files.items():
            system.file(f"folder/{name}", data)
        return system.finish()

    archive = written()
    found = entries(archive)
    assert {name: found[f"folder/{name}"][2] for name in files} == files
    assert written() == archive


def test_nothing_stands_twice() -> None:
    system = Initramfs()
    system.file("etc/hostname", b"a")
    with pytest.raises(ValueError, match="/etc/hostname stands twice"):
        system.file("etc/hostname", b"b")


# ---- packages ----


def deb(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    """A Debian package with these files."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(f"./{name}")
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    parts = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), ("data.tar.xz", data.getvalue())):
        parts += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        parts += b"\n" * (len(content) % 2)
    path.write_bytes(parts)
    return path


def test_a_package_is_taken_apart(tmp_path: Path) -> None:
    one = deb(
        tmp_path / "one.deb",
        {"usr/bin/tool": b"x" * 7, "usr/share/doc/tool/changelog": b"long", "usr/lib/libone.so.1.2": b"lib"},
        {"usr/lib/aarch64-linux-gnu/libone.so.1": "../libone.so.1.2", "bin/tool": "/usr/bin/tool"},
    )
    tree = unpack([one, deb(tmp_path / "two.deb", {"etc/two": b"2"})])
    assert sorted(tree.files) == ["etc/two", "usr/bin/tool", "usr/lib/libone.so.1.2"]
    assert tree.read("bin/tool") == b"x" * 7
    assert tree.library("libone.so.1") == b"lib"
    with pytest.raises(EmulatorError, match="no file /usr/bin/none"):
        tree.read("usr/bin/none")
    with pytest.raises(EmulatorError, match=r"no package of the image holds the library libtwo.so.2"):
        tree.library("libtwo.so.2")


@pytest.mark.parametrize("damage", ["empty", "cut", "other"])
def test_a_damaged_package_is_named(tmp_path: Path, damage: str) -> None:
    whole = deb(tmp_path / f"{damage}.deb", {"usr/bin/tool": os.urandom(3000)})
    data = whole.read_bytes()
    whole.write_bytes({"empty": b"", "cut": data[:-1000], "other": data.replace(b"\xfd7zXZ", b"other")}[damage])
    with pytest.raises(EmulatorError, match=f"{damage}.deb is no whole Debian package") as caught:
        unpack([whole])
    assert "lab image build" in caught.value.hint


def test_what_a_program_needs_is_what_readelf_says() -> None:
    program = Path(os.path.realpath(sys.executable))
    said = subprocess.run(["readelf", "-d", program], capture_output=True, text=True, check=True).stdout
    wanted = [line.split("[")[1].rstrip("]") for line in said.splitlines() if "(NEEDED)" in line]
    assert wanted
    assert needed(program.read_bytes()) == wanted
    with pytest.raises(EmulatorError, match="no ELF file"):
        needed(b"#!/bin/sh\n")


NEW = """\
# a comment
Types: deb
URIs: http://mirror.test/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/some.gpg

Types: deb
URIs: http://mirror.test/debian-security
Suites: bookworm-security
Components: main

Types: deb-src
URIs: http://mirror.test/source
Suites: bookworm
Components: main

Types: deb
URIs: http://switched.off.test/debian
Suites: bookworm
Enabled: no

Types: deb
URIs: http://other.test/ubuntu
Suites: noble
Components: main
"""
OLD = """\
deb [arch=amd64 signed-by=/some.gpg] http://mirror.test/debian stable main contrib
deb-src http://mirror.test/debian stable main
deb http://mirror.test/backports bookworm-backports main
deb http://mirror.test/security bookworm-security main
"""


def test_this_computers_mirrors_are_asked_for_another_release(tmp_path: Path) -> None:
    (tmp_path / "debian.sources").write_text(NEW)
    (tmp_path / "more.list").write_text(OLD)
    (tmp_path / "switched.off").write_text(NEW.replace("mirror", "wrong"))
    stanzas = list(mirrors("trixie", [tmp_path, tmp_path / "none.list"]))
    read = [dict(line.split(": ", 1) for line in stanza.splitlines()) for stanza in stanzas]
    places = [(one["URIs"], one["Suites"]) for one in read]
    assert places == [
        ("http://mirror.test/debian", "trixie trixie-updates"),
        ("http://mirror.test/debian-security", "trixie-security"),
        ("http://mirror.test/debian", "trixie"),
        ("http://mirror.test/security", "trixie-security"),
    ]
    assert all((one["Types"], one["Components"]) == ("deb", "main") for one in read)
    assert read[0]["Signed-By"] == "/usr/share/keyrings/some.gpg"
    assert read[2]["Signed-By"] == "/some.gpg"


SET = PackageSet("set", "bookworm", ("tool",))


def keep(wanted: PackageSet, cache: Path, *files: Path) -> None:
    """Put packages into a cache as a download does."""
    folder = linux_cache(cache) / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for file in files:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, folder / f"{digest}.deb")
        entries.append({"name": file.stem, "version": "1", "sha256": digest})
    definition = packages_module._definition(wanted)
    (folder / f"{wanted.name}.json").write_text(json.dumps({"set": definition, "packages": entries}))


def test_packages_in_the_cache_need_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    keep(SET, tmp_path, deb(tmp_path / "tool.deb", {"usr/bin/tool": b"x"}))
    (package,) = fetch(SET, tmp_path)
    assert (package.name, package.version) == ("tool", "1")
    assert unpack([package.path]).read("usr/bin/tool") == b"x"
    # Another set of the same name, or one with a file lost, is not this one.
    assert cached(PackageSet("set", "trixie", ("tool",)), tmp_path) is None
    package.path.unlink()
    assert cached(SET, tmp_path) is None


@pytest.mark.parametrize("lack", ["apt", "mirror", "network"])
def test_what_is_lacking_is_said_with_both_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lack: str
) -> None:
    sources = tmp_path / "sources"
    sources.mkdir()
    if lack == "apt":
        monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    if lack == "network":
        # Nobody listens at the first port.
        (sources / "debian.sources").write_text("Types: deb\nURIs: http://127.0.0.1:1/debian\nSuites: bookworm\n")
        monkeypatch.setattr(packages_module, "_CONFIG", packages_module._CONFIG + 'Acquire::Retries "0";\n')
    if lack != "apt" and shutil.which("apt-get") is None:
        lack = "apt"
    with pytest.raises(ToolMissing) as caught:
        fetch(SET, tmp_path / "cache", sources=[sources])
    reason = {"apt": "apt-get is not installed", "mirror": "no Debian mirror stands in", "network": "apt-get update"}
    assert reason[lack] in caught.value.message
    assert str(tmp_path / "cache" / "linux") in caught.value.message
    assert "lab image build" in caught.value.hint
    assert f"copy the folder {tmp_path / 'cache' / 'linux'}" in caught.value.hint
    assert [one.name for one in (tmp_path / "cache" / "linux" / "packages").iterdir()] == ["set.lock"]


# ---- images ----

RECIPE = Recipe(
    "pi", "unit", (SET,), (("usr/sbin/daemon", "usr/sbin/daemon"),), (), ("second",), ("spare",),
    ("common", "ssh", "pi"), 22,
)  # fmt: skip


# The header of an arm64 Image that wants 1 MiB of memory.
KERNEL = bytes(16) + (1 << 20).to_bytes(8, "little") + bytes(32) + b"ARM\x64" + b"code" * 2000


def base_tree(**modules: str) -> Tree:
    """A kernel 6.1 with modules that depend on others, as :func:`unpack` reads one."""
    folder = "lib/modules/6.1/"
    files = {
        f"{folder}kernel/drivers/net/{name}.ko": f"\0license=GPL\0depends={on}\0".encode()
        for name, on in modules.items()
    }
    files[f"{folder}modules.builtin"] = b"kernel/fs/built-in.ko\n"
    return Tree({**files, "boot/vmlinuz-6.1": KERNEL, "bin/busybox": b"box", "usr/sbin/daemon": b"daemon"}, {})


@pytest.fixture
def no_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.emulators.linux.debs.needed", lambda _: [])


@pytest.mark.usefixtures("no_libraries")
def test_modules_are_loaded_after_those_they_depend_on() -> None:
    tree = base_tree(second="first,built_in", first="", spare="third", third="")
    found = entries(initramfs_of(RECIPE, tree, tree, kernel_version(tree)))
    assert found["etc/lab/modules"][2] == b"first\nsecond\n"
    assert {"lib/modules/first.ko", "lib/modules/spare.ko", "lib/modules/third.ko"} <= set(found)
    assert found["init"][2] == b"bin/busybox"
    assert found["etc/hostname"][2] == b"unit\n"
    assert found["etc/lab/port"][2] == b"0016\n"
    assert stat.S_IMODE(found["etc/lab/boot"][0]) == 0o755
    assert stat.S_IMODE(found["etc/ssh/sshd_config"][0]) == 0o644
    assert "etc/ssh/ssh_host_ed25519_key" not in found


@pytest.mark.usefixtures("no_libraries")
@pytest.mark.parametrize("signature", [b"", bytes(range(200)) * 3])
def test_modules_come_without_signature_and_types(signature: bytes) -> None:
    body = b"\x7fELF code\0depends=\0.text\0.BTF\0.BTF_ids\0.strtab\0"
    end = bytes(8) + len(signature).to_bytes(4) + b"~Module signature appended~\n"
    tree = base_tree(second="", spare="")
    signed = {"lib/modules/6.1/kernel/drivers/net/second.ko": body + signature + end}
    found = entries(initramfs_of(RECIPE, Tree({**tree.files, **signed}, {}), tree, "6.1"))
    loaded = found["lib/modules/second.ko"][2]
    # As long as before, and what only begins with the same name keeps it.
    assert loaded == body.replace(b".BTF\0", b".xTF\0")
    assert len(loaded) == len(body)
    assert found["lib/modules/spare.ko"][2] == b"\0license=GPL\0depends=\0"


@pytest.mark.usefixtures("no_libraries")
def test_a_module_that_is_nowhere_is_named() -> None:
    tree = base_tree(second="lost", spare="")
    with pytest.raises(EmulatorError, match="no kernel module lost"):
        initramfs_of(RECIPE, tree, tree, "6.1")
    with pytest.raises(EmulatorError, match="hold 0 kernels"):
        kernel_version(Tree({}, {}))


@pytest.mark.usefixtures("no_libraries")
def test_an_image_is_built_once_and_named_by_what_goes_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "pi", RECIPE)
    tree = base_tree(second="", spare="")
    keep(SET, tmp_path, deb(tmp_path / "all.deb", dict(tree.files)))
    assert built_image("pi", tmp_path) is None
    made = image("pi", tmp_path)
    written = made.initramfs.stat().st_mtime_ns
    assert image("pi", tmp_path) == made == built_image("pi", tmp_path)
    assert made.initramfs.stat().st_mtime_ns == written
    assert made.digest == hashlib.sha256(made.kernel.read_bytes() + made.initramfs.read_bytes()).hexdigest()
    assert (made.kernel_version, made.packages) == ("6.1", ("all 1",))
    assert made.kernel.read_bytes().endswith(KERNEL)
    assert made.size_bytes == made.kernel.stat().st_size + made.initramfs.stat().st_size
    # The same packages in another cache give the same bytes; another recipe gives another image.
    keep(SET, tmp_path / "other", tmp_path / "all.deb")
    assert image("pi", tmp_path / "other").digest == made.digest
    monkeypatch.setitem(RECIPES, "pi", Recipe("pi", "renamed", *list(vars(RECIPE).values())[2:]))
    assert built_image("pi", tmp_path) is None
    assert image("pi", tmp_path).digest != made.digest
    assert len(images(tmp_path)) == 2


@pytest.mark.usefixtures("no_libraries")
def test_images_are_built_listed_and_removed_by_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_CACHE", str(tmp_path))
    assert "none yet" in CliRunner().invoke(image_command, ["list"]).output
    tree = base_tree(second="", spare="")
    keep(SET, tmp_path, deb(tmp_path / "all.deb", dict(tree.files)))
    for name in ("first", "second"):
        monkeypatch.setitem(RECIPES, "pi", Recipe("pi", name, *list(vars(RECIPE).values())[2:]))
        built = CliRunner().invoke(image_command, ["build", "pi"])
        assert built.exit_code == 0
        assert "Linux 6.1" in built.output
    states = linux_cache(tmp_path) / "states"
    for name, digest in (("new", image("pi", tmp_path).digest), ("old", "of no image")):
        (states / name).mkdir(parents=True)
        (states / name / "state.json").write_text(json.dumps({"image": digest}))
    listed = CliRunner().invoke(image_command, ["list"]).output
    assert (listed.count("in use"), listed.count("old")) == (1, 1)
    removed = CliRunner().invoke(image_command, ["remove-old"])
    assert "are free again" in removed.output
    assert images(tmp_path) == [built_image("pi", tmp_path)]
    assert [one.name for one in states.iterdir()] == ["new"]


# ---- keys ----


def test_keys_are_made_once_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    made = keys(tmp_path)
    assert keys(tmp_path) == made
    assert keys(tmp_path / "other").host_public != made.host_public
    for private, public in ((made.host_private, made.host_public), (made.user_private, made.user_public)):
        assert stat.S_IMODE(private.stat().st_mode) == 0o600
        pair = load_ssh_private_key(private.read_bytes(), password=None)
        own, told = pair.public_key(), load_ssh_public_key(public.encode())
        assert own.public_bytes_raw() == told.public_bytes_raw()  # type: ignore[union-attr]
    assert made.host_public != made.user_public


def test_the_guest_gets_its_host_key_and_who_may_log_in(tmp_path: Path) -> None:
    made = keys(tmp_path)
    found = entries(keys_archive(made))
    assert found["etc/ssh/ssh_host_ed25519_key"][:3] == (stat.S_IFREG | 0o600, 0, made.host_private.read_bytes())
    for _, home, number in USERS:
        assert found[f"{home}/.ssh/authorized_keys"][:2] == (stat.S_IFREG | 0o600, number)
        assert found[f"{home}/.ssh/authorized_keys"][2].decode().strip() == made.user_public
    assert made.user_private.read_bytes().splitlines()[-2] not in keys_archive(made)


# ---- device trees ----

NAMES = st.text(string.ascii_lowercase + "#,-", min_size=1, max_size=12)
NODES = st.recursive(
    st.builds(Node, NAMES, st.dictionaries(NAMES, st.binary(max_size=20), max_size=4)),
    lambda inner: st.builds(
        Node, NAMES, st.dictionaries(NAMES, st.binary(max_size=20), max_size=4), st.lists(inner, max_size=3)
    ),
    max_leaves=8,
)


@given(NODES, st.integers(0, 7))
def test_any_tree_is_read_as_it_was_written(root: Node, boot_cpu: int) -> None:
    tree = DeviceTree(root, struct.pack(">4Q", 4096, 8192, 0, 0), boot_cpu)
    blob = serialize(tree)
    assert parse(blob) == tree
    assert len(blob) == struct.unpack_from(">I", blob, 4)[0]
    assert struct.unpack_from(">I", blob, 8)[0] % 4 == struct.unpack_from(">I", blob, 16)[0] % 8 == 0


def small_tree() -> bytes:
    core = Node("cpu@0", {"device_type": strings("cpu"), "phandle": cells(3)})
    root = Node("", {"model": strings("linux,dummy-virt")}, [Node("cpus", {}, [core])])
    return serialize(DeviceTree(root, bytes(16), 0))


@given(st.data())
def test_a_damaged_tree_is_refused_or_read_but_never_worse(data: st.DataObject) -> None:
    blob = bytearray(small_tree())
    blob[data.draw(st.integers(0, len(blob) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(EmulatorError):
        assert isinstance(parse(bytes(blob)).root, Node)
    with pytest.raises(EmulatorError, match="cannot be read"):
        parse(bytes(blob[: len(blob) // 2]))


def test_a_board_gets_its_names_and_clocks() -> None:
    section = GuestEmulator(
        kind="qemu-linux", image="pi", model="A board", compatible=("maker,board", "maker,chip"),
        clocks_hz=(600_000_000, 300_000_000),
    )  # fmt: skip
    root = parse(board_tree(small_tree(), section)).root
    assert root.properties["model"] == b"A board\0"
    assert root.properties["lab,compatible"] == b"maker,board\0maker,chip\0"
    clock, steps = root.child("cpu-clock"), root.child("opp-table-cpu")
    core = root.child("cpus").child("cpu@0")
    assert core.properties["clocks"] == clock.properties["phandle"] != core.properties["phandle"]
    assert core.properties["operating-points-v2"] == steps.properties["phandle"] != clock.properties["phandle"]
    assert clock.properties["clock-frequency"] == (600_000_000).to_bytes(4)
    assert [node.properties["opp-hz"] for node in steps.children] == [
        (300_000_000).to_bytes(8), (600_000_000).to_bytes(8),
    ]  # fmt: skip


def test_a_board_has_no_parts_that_no_guest_uses() -> None:
    slots = [Node(f"virtio_mmio@a00{number:x}00") for number in (0xE, 0x2, 0xC, 0x4)]
    interrupts = Node("intc@8000000", {"interrupt-controller": b""}, [Node("its@8080000")])
    others = [Node("pcie@10000000"), Node("gpio-keys", {}, [Node("poweroff")]), Node("pmu"), Node("pl031@9010000")]
    blob = serialize(DeviceTree(Node("", {}, [*slots, interrupts, *others]), bytes(16), 0))
    root = parse(board_tree(blob, GuestEmulator(kind="qemu-linux", image="pi"))).root
    # QEMU fills slots from the highest address down.
    assert [node.name for node in root.children] == [
        "virtio_mmio@a00e00", "virtio_mmio@a00c00", "intc@8000000", "pmu", "pl031@9010000",
    ]  # fmt: skip
    assert root.child("intc@8000000") == Node("intc@8000000", {"interrupt-controller": b""})


def test_a_board_without_names_or_clocks_stays_as_qemu_has_it() -> None:
    plain = GuestEmulator(kind="qemu-linux", image="pi")
    assert parse(board_tree(small_tree(), plain)) == parse(small_tree())
    with_clocks = GuestEmulator(kind="qemu-linux", image="pi", clocks_hz=(1,))
    with pytest.raises(EmulatorError, match="no cores"):
        board_tree(serialize(DeviceTree(Node("", {}, [Node("cpus")]), bytes(16), 0)), with_clocks)


# ---- sensors ----


def test_values_are_written_as_the_files_say_them() -> None:
    listed = "t.temperature_c int:1000 /sys/a b\nv.voltage_v float:8 /v\nthrottled hex /t\nstatus text /s\n\nodd\n"
    sensors = {one.name: one for one in read_sensors(listed)}
    assert list(sensors) == ["t.temperature_c", "v.voltage_v", "throttled", "status"]
    assert sensors["t.temperature_c"].path == "/sys/a b"
    assert sensors["t.temperature_c"].text(48.3124) == "48312"
    assert sensors["v.voltage_v"].text(0.5) == "0.50000000"
    assert sensors["throttled"].text(0x50005) == "0x50005"
    assert sensors["status"].text("Charging") == "Charging"
    with pytest.raises(ConfigError, match="status: found 1, wanted text"):
        sensors["status"].text(1)
    with pytest.raises(ConfigError, match="throttled: found 'hot', wanted a number"):
        sensors["throttled"].text("hot")
