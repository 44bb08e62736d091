"""Images of emulated Linux devices: a kernel and an initial RAM file system, named by what they are made of.

An image has no keys in it (:mod:`lab.emulators.linux.keys`), so that the same packages give the same bytes everywhere.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lab import progress
from lab.durable import replace_file
from lab.emulators.linux.boot_files import kernel_elf
from lab.emulators.linux.cpio import Initramfs
from lab.emulators.linux.debs import Tree, unpack
from lab.emulators.linux.packages import Package, cached, fetch, linux_cache, locked
from lab.emulators.linux.recipes import RECIPES, ImageKind, Recipe
from lab.errors import EmulatorError

FILES = Path(__file__).with_name("files")
_FORMAT = "3"
_KERNEL, _INITRAMFS, _ABOUT = "kernel.elf", "initramfs.cpio", "image.json"
_ELF = b"\x7fELF"
_SIGNED = b"~Module signature appended~\n"
_FOLDERS = ("dev", "proc", "sys", "tmp", "run", "mnt", "bin", "sbin", "usr/bin", "usr/sbin", "var/log", "var/lib")


@dataclass(frozen=True)
class Image:
    """A built image.

    Attributes:
        kind: what it is an image of.
        digest: SHA-256 of the kernel and the file system, hexadecimal.
        kernel: the kernel as QEMU boots it (:mod:`lab.emulators.linux.boot_files`).
        initramfs: the initial file system.
        kernel_version: such as ``6.1.0-56-cloud-arm64``.
        packages: name and version of each Debian package that went in.
    """

    kind: ImageKind
    digest: str
    kernel: Path
    initramfs: Path
    kernel_version: str
    packages: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """Of both files together."""
        return self.kernel.stat().st_size + self.initramfs.stat().st_size


def built_image(kind: ImageKind, cache: Path) -> Image | None:
    """The image if it lies in the cache as it would be built now, else None. Takes milliseconds."""
    packages = [cached(one, cache) for one in RECIPES[kind].sets]
    complete = [one for one in packages if one is not None]
    return _read(kind, _folder(kind, complete, cache)) if len(complete) == len(packages) else None


def image(kind: ImageKind, cache: Path, *, newest: bool = False) -> Image:
    """The image, built unless it lies in the cache.

    Args:
        kind: which.
        cache: the lab's cache folder.
        newest: ask Debian's archive for newer packages.

    Raises:
        ToolMissing: Debian packages are missing and cannot be downloaded.
        EmulatorError: the packages do not hold what the image needs.
    """
    packages = [fetch(one, cache, newest=newest) for one in RECIPES[kind].sets]
    folder = _folder(kind, packages, cache)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_suffix(".lock")):
        found = _read(kind, folder)
        if found is None:
            with progress.step(f"building the image {kind!r}"):
                found = _build(RECIPES[kind], packages, folder)
    return found


def images(cache: Path) -> list[Image]:
    """Every image that lies in the cache."""
    found = []
    for about in sorted((linux_cache(cache) / "images").glob(f"*/{_ABOUT}")):
        kind = about.parent.name.rpartition("-")[0]
        if kind in RECIPES and (one := _read(kind, about.parent)) is not None:
            found.append(one)
    return found


def _folder(kind: ImageKind, packages: Iterable[list[Package]], cache: Path) -> Path:
    """Where an image of these packages lies: named by all that goes in."""
    recipe = RECIPES[kind]
    key = hashlib.sha256(f"{_FORMAT} {recipe}".encode())
    for package in (one for of_set in packages for one in of_set):
        key.update(f"{package.name} {package.sha256}\n".encode())
    for path, data, mode in _own_files(recipe):
        key.update(f"{path} {mode} {len(data)}\n".encode() + data)
    return linux_cache(cache) / "images" / f"{kind}-{key.hexdigest()[:16]}"


def _read(kind: ImageKind, folder: Path) -> Image | None:
    try:
        about = json.loads((folder / _ABOUT).read_text())
        return Image(
            kind, str(about["digest"]), folder / _KERNEL, folder / _INITRAMFS, str(about["kernel_version"]),
            tuple(about["packages"]),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _build(recipe: Recipe, packages: list[list[Package]], folder: Path) -> Image:
    base = unpack([one.path for one in packages[0]])
    suite = recipe.sets[-1].suite
    beside = zip(recipe.sets, packages, strict=True)
    programs = unpack([one.path for wanted, of_set in beside if wanted.suite == suite for one in of_set])
    version = kernel_version(base)
    kernel = kernel_elf(base.read(f"boot/vmlinuz-{version}"))
    initramfs = initramfs_of(recipe, base, programs, version)
    digest = hashlib.sha256(kernel)
    digest.update(initramfs)
    about = {
        "digest": digest.hexdigest(),
        "kernel_version": version,
        "packages": [f"{one.name} {one.version}" for of_set in packages for one in of_set],
    }
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".build-") as scratch:
        made = Path(scratch) / "image"
        made.mkdir()
        (made / _KERNEL).write_bytes(kernel)
        (made / _INITRAMFS).write_bytes(initramfs)
        replace_file(made / _ABOUT, json.dumps(about, indent=1).encode() + b"\n")
        made.replace(folder)
    found = _read(recipe.kind, folder)
    if found is None:
        raise EmulatorError(f"{folder}: the image just built cannot be read back", hint="is the disk full?")
    return found


def initramfs_of(recipe: Recipe, base: Tree, programs: Tree, version: str) -> bytes:
    """The initial RAM file system of an image: the same bytes for the same packages and files.

    Args:
        recipe: what goes in.
        base: packages with the kernel's modules and busybox.
        programs: packages with the programs.
        version: of the kernel.

    Raises:
        EmulatorError: something is not in the packages.
    """
    system = Initramfs()
    for folder in _FOLDERS:
        system.folder(folder, 0o1777 if folder == "tmp" else 0o755)
    system.device("dev/console", 0o600, 5, 1)
    system.device("dev/null", 0o666, 1, 3)
    system.file("bin/busybox", base.read("bin/busybox"), 0o755)
    system.link("init", "bin/busybox")
    for path, data, mode in _own_files(recipe):
        system.file(path, data, mode)
    system.file("etc/hostname", f"{recipe.hostname}\n".encode())
    system.file("etc/lab/port", f"{recipe.port:04X}\n".encode())
    _add_programs(system, recipe, programs)
    _add_modules(system, recipe, base, version)
    return system.finish()


def _own_files(recipe: Recipe) -> list[tuple[str, bytes, int]]:
    """Path in the guest, content and mode of each of our files; those of a later folder replace earlier ones."""
    found: dict[str, tuple[str, bytes, int]] = {}
    for name in recipe.files:
        for file in sorted((FILES / name).rglob("*")):
            if file.is_file():
                data = file.read_bytes()
                path = str(file.relative_to(FILES / name))
                # By content: a checkout may lose the executable bit.
                found[path] = (path, data, 0o755 if data.startswith(b"#!") else 0o644)
    return [found[path] for path in sorted(found)]


def _add_programs(system: Initramfs, recipe: Recipe, programs: Tree) -> None:
    libraries = {name: programs.library(name) for name in recipe.libraries}
    for path, data in sorted(programs.files.items()):
        if path.startswith(recipe.folders):
            is_program = data.startswith(_ELF)
            system.file(path, data, 0o755 if is_program or data.startswith(b"#!") else 0o644)
            libraries |= programs.libraries_of(data) if is_program else {}
    for path, target in sorted(programs.links.items()):
        if path.startswith(recipe.folders):
            system.link(path, target)
    for source, target in recipe.programs:
        program = programs.read(source)
        system.file(target, program, 0o755)
        libraries |= programs.libraries_of(program)
    for name in sorted(libraries):
        system.file(f"lib/{name}", libraries[name], 0o755)
    system.link("lib/aarch64-linux-gnu", ".")


def kernel_version(base: Tree) -> str:
    """The version of the kernel in the packages.

    Raises:
        EmulatorError: there is none, or more than one.
    """
    found = [path.removeprefix("boot/vmlinuz-") for path in base.files if path.startswith("boot/vmlinuz-")]
    if len(found) != 1:
        raise EmulatorError(f"the Debian packages hold {len(found)} kernels ({', '.join(found)}), not one")
    return found[0]


def _add_modules(system: Initramfs, recipe: Recipe, base: Tree, version: str) -> None:
    folder = f"lib/modules/{version}/"
    paths = {_module_name(path): path for path in base.files if path.startswith(folder) and path.endswith(".ko")}
    built_in = {_module_name(line) for line in base.read(f"{folder}modules.builtin").decode().split()}
    modules = {name: base.read(path) for name, path in paths.items()}
    loaded = _in_order(recipe.modules, modules, built_in)
    for name in _in_order((*recipe.modules, *recipe.spare_modules), modules, built_in):
        system.file(f"lib/modules/{name}.ko", _stripped(modules[name]))
    system.file("etc/lab/modules", ("\n".join(loaded) + "\n").encode())


def _module_name(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".ko").replace("-", "_")


def _in_order(names: Iterable[str], modules: Mapping[str, bytes], built_in: Collection[str]) -> list[str]:
    """Modules and what they depend on, each after what it needs; those that are built into the kernel are left out."""
    order: list[str] = []

    def add(name: str) -> None:
        if name in order or name in built_in:
            return
        if name not in modules:
            raise EmulatorError(f"the Debian packages hold no kernel module {name}")
        for other in _depends(modules[name]):
            add(other.replace("-", "_"))
        order.append(name)

    for name in names:
        add(name)
    return order


def _depends(module: bytes) -> list[str]:
    """What a kernel module says it depends on (section .modinfo)."""
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    return [name for name in found[1].decode().split(",") if name] if found else []


def _stripped(module: bytes) -> bytes:
    """A kernel module without its signature and its type information, which cost more to read than to load the module.

    The signature lies behind the module: its bytes, their number in the last 4 bytes of a structure of 12, a line
    (kernel: Documentation/admin-guide/module-signing.rst, include/linux/module_signature.h). The section of types is
    only given another name.
    """
    if module.endswith(_SIGNED):
        size = int.from_bytes(module[-len(_SIGNED) - 4 : -len(_SIGNED)])
        module = module[: -len(_SIGNED) - 12 - size]
    return module.replace(b"\0.BTF\0", b"\0.xTF\0")
