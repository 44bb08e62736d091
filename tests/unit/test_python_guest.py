"""An emulated Linux with Python: its image, and what is installed in a guest before its state is kept."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.devices import computers
from lab.emulator_config import GuestEmulator
from lab.emulators.base import LinuxEmulator, Preparation
from lab.emulators.linux import debs, saved
from lab.emulators.linux.debs import Tree
from lab.emulators.linux.image import Image, initramfs_of
from lab.emulators.linux.keys import Keys
from lab.emulators.linux.machine import Boot, Memory, Settings
from lab.emulators.linux.recipes import BASE, PYTHON, RECIPES, Recipe
from lab.emulators.linux.saved import saved_state
from lab.errors import ConfigError, EmulatorError
from lab.inventory import Device, load_bench
from lab.paths import config_dir, project_root

PINS = project_root() / "requirements" / "pi-pytorch.txt"

# ---- the image ----


def test_folders_go_in_whole_with_the_libraries_of_their_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {b"\x7fELFinterpreter": ["libz.so.1"], b"\x7fELFextension": ["libffi.so.8"]}
    monkeypatch.setattr(debs, "needed", lambda program: asked.get(program, []))
    files = {
        "boot/vmlinuz-6.1": b"kernel", "bin/busybox": b"box", "lib/modules/6.1/modules.builtin": b"",
        "usr/bin/python3.11": b"\x7fELFinterpreter", "usr/lib/python3.11/json/__init__.py": b"import re\n",
        "usr/lib/python3.11/lib-dynload/_ctypes.so": b"\x7fELFextension", "usr/bin/other": b"#!/bin/sh\n",
        "usr/lib/aarch64-linux-gnu/libz.so.1": b"z", "usr/lib/aarch64-linux-gnu/libffi.so.8": b"ffi",
    }  # fmt: skip
    tree = Tree(files, {"usr/bin/python3": "python3.11", "usr/bin/another": "other"})
    recipe = Recipe(
        "pi-python", "unit", (BASE, PYTHON), (), (), (), (), ("common",), 22, ("usr/bin/python3", "usr/lib/python3")
    )
    system = initramfs_of(recipe, tree, tree, "6.1")
    # An entry's name follows its header, whose last field is 0.
    there = {path for path in (*files, "usr/bin/python3", "usr/bin/another", "lib/libz.so.1", "lib/libffi.so.8")
             if b"00000000" + path.encode() + b"\0" in system}  # fmt: skip
    assert there == {
        "bin/busybox", "usr/bin/python3.11", "usr/bin/python3", "usr/lib/python3.11/json/__init__.py",
        "usr/lib/python3.11/lib-dynload/_ctypes.so", "lib/libz.so.1", "lib/libffi.so.8",
    }  # fmt: skip


def test_only_its_own_image_has_python() -> None:
    assert [kind for kind, recipe in RECIPES.items() if PYTHON in recipe.sets or recipe.folders] == ["pi-python"]
    # Programs come out of both sets, so that both are of one release.
    assert {one.suite for one in RECIPES["pi-python"].sets} == {"bookworm"}


# ---- the bench that asks for it ----


@pytest.fixture
def pi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    """The entry of device_configs/pytorch.yaml, with a folder of one wheel."""
    (tmp_path / "torch-2.9.1-cp311-cp311-manylinux_2_28_aarch64.whl").write_bytes(b"wheel")
    monkeypatch.setenv("LAB_WHEELS", str(tmp_path))
    return load_bench(config_dir() / "pytorch.yaml").devices["pi"]


def test_the_bench_asks_for_the_image_with_room_for_pytorch(pi: Device) -> None:
    assert isinstance(pi.emulator, GuestEmulator)
    # Half of the memory is the guest's disk; PyTorch with its wheel takes 0.7 GB of it.
    assert (pi.emulator.image, pi.emulator.memory_bytes) == ("pi-python", pi.board.memory.ram_bytes)
    plain = load_bench(config_dir() / "emulated.yaml").devices["pi"]
    assert isinstance(plain.emulator, GuestEmulator)
    assert plain.emulator.image == "pi"
    assert plain.config.python is None


def test_the_pins_are_those_that_the_script_fetches_for_the_guests_python() -> None:
    script = (project_root() / "scripts" / "pytorch_on_pi.sh").read_text()
    version = next(name for name in PYTHON.packages if re.fullmatch(r"python\d\.\d+-minimal", name))[6:-8]
    assert f"--python-version {version} " in script
    assert PINS.read_text().startswith(f"# platform: {version} Linux aarch64\n")
    pins = [line for line in PINS.read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[\d.]+ --hash=sha256:[0-9a-f]{64}", line) for line in pins)
    assert any(line.startswith("torch==") for line in pins)


# ---- what is installed before the state is kept ----


def asked_of(entry: Device, monkeypatch: pytest.MonkeyPatch) -> Preparation | None:
    """What a device's emulator is asked to prepare."""
    asked: list[Preparation | None] = []

    def create(*told: object) -> LinuxEmulator:
        assert told[3] is None or isinstance(told[3], Preparation)
        asked.append(told[3])
        raise EmulatorError("not started")

    monkeypatch.setattr(computers, "create_linux", create)
    with pytest.raises(EmulatorError, match="not started"):
        computers.computer_of(entry, Path("/nowhere"), None)
    (found,) = asked
    return found


def test_wheels_are_installed_once_per_set_of_them(
    pi: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = asked_of(pi, monkeypatch)
    assert first is not None
    assert asked_of(pi, monkeypatch).key == first.key  # type: ignore[union-attr]
    (tmp_path / "sympy-1.14.0-py3-none-any.whl").write_bytes(b"another")
    assert asked_of(pi, monkeypatch).key != first.key  # type: ignore[union-attr]
    assert asked_of(load_bench(config_dir() / "emulated.yaml").devices["pi"], monkeypatch) is None
    for wheel in tmp_path.glob("*.whl"):
        wheel.unlink()
    with pytest.raises(ConfigError, match="holds no wheel"):
        computers.computer_of(pi, tmp_path, None)


class FakeMachine:
    """A machine that notes what is done with it."""

    said: list[str] = []  # noqa: RUF012 - one list for all, which the test empties

    def __init__(self, settings: Settings, boot: Boot, *, memory: Memory) -> None:
        self.host_port = 2222
        memory.path.write_bytes(b"memory")
        self.said.append("boot")

    def wait_ready(self) -> None:
        self.said.append("ready")

    def agent(self, script: str) -> tuple[int, bytes]:
        return 0, script.encode()

    def save(self, state: Path) -> None:
        state.write_bytes(b"state")
        self.said.append("save")

    def console(self) -> str:
        return "HIL-READY"

    def stop(self) -> None:
        self.said.append("stop")


@pytest.fixture
def keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Preparation | None], Path]:
    """Saves a state with a preparation; gives where it lies."""
    FakeMachine.said.clear()
    monkeypatch.setattr(saved, "Machine", FakeMachine)
    monkeypatch.setattr(saved, "prepare_boot", lambda *_: Boot(tmp_path, tmp_path, tmp_path))
    image = Image("pi-python", "digest", tmp_path / "kernel", tmp_path / "initramfs", "6.1", ())
    pair = Keys(tmp_path / "host", "ssh-ed25519 host", tmp_path / "user", "ssh-ed25519 user")
    section = GuestEmulator(kind="qemu-linux", image="pi-python")
    settings = Settings("cortex-a76", 1, 1 << 31, 1, 22)
    return lambda asked: saved_state(tmp_path, image, pair, section, settings, asked).memory.parent


def test_a_guest_is_prepared_once_between_boot_and_save(keep: Callable[[Preparation | None], Path]) -> None:
    def install(reached: object) -> None:
        FakeMachine.said.append(f"install at {vars(reached)['port']}")

    plain = keep(None)
    assert FakeMachine.said == ["boot", "ready", "save", "stop"]
    FakeMachine.said.clear()
    prepared = keep(Preparation("wheels", "installing", install))
    assert FakeMachine.said == ["boot", "ready", "install at 2222", "save", "stop"]
    assert keep(Preparation("wheels", "installing", install)) == prepared != plain
    assert keep(None) == plain
    assert keep(Preparation("other wheels", "installing", install)) not in (plain, prepared)
    assert FakeMachine.said.count("boot") == 2


def test_a_preparation_that_fails_keeps_nothing(keep: Callable[[Preparation | None], Path]) -> None:
    def fail(_: object) -> None:
        raise ConfigError("a wheel for another processor")

    with pytest.raises(ConfigError, match="another processor"):
        keep(Preparation("wheels", "installing", fail))
    assert FakeMachine.said == ["boot", "ready", "stop"]
    assert [one.name for one in keep(None).parent.iterdir() if one.is_dir()] == [keep(None).name]
