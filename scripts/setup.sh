#!/usr/bin/env bash
# Installs what is missing and nothing else: Debian packages, a virtual environment with CPU PyTorch, QEMU's counting plug-in.
# Usage: scripts/setup.sh [run|test]     run: what the lab needs; test: also what its own tests need.
set -euo pipefail
cd "$(dirname "$0")/.."
profile=${1:-run}
venv=.venv
torch_version=2.13.0

say() { printf '\033[1m* %s\033[0m\n' "$*"; }
fail() { printf '\nsetup: %s\n' "$*" >&2; exit 1; }

# What proves that a package is there : the Debian package that brings it.
needed=(
  "command -v qemu-system-arm:qemu-system-arm"
  "command -v arm-none-eabi-gcc:gcc-arm-none-eabi"
  "test -e /usr/lib/arm-none-eabi/newlib/nano.specs -o -e /usr/lib/arm-none-eabi/lib/nano.specs:libnewlib-arm-none-eabi"
  "command -v aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu"
  "test -e /usr/aarch64-linux-gnu/include/stdio.h:libc6-dev-arm64-cross"
  "command -v cmake:cmake"
  "command -v ninja:ninja-build"
  "command -v gcc:gcc"
  "test -e /usr/include/stdio.h:libc6-dev"
  "command -v setpriv:util-linux"
  "python3 -c 'import ensurepip':python3-venv"
)
for_tests=(
  "command -v clang:clang"
  "command -v llvm-symbolizer:llvm"
  "ls /usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer-$(uname -m).a:libclang-rt-14-dev"
  "command -v arm-linux-gnueabihf-gcc:gcc-arm-linux-gnueabihf"
  "test -e /usr/arm-linux-gnueabihf/include/stdio.h:libc6-dev-armhf-cross"
  "test -x /usr/sbin/dropbear:dropbear-bin"
  "test -x /usr/sbin/sshd:openssh-server"
  "command -v influxd:influxdb"
  "command -v qemu-system-riscv32:qemu-system-misc"
  "test $(uname -m) != x86_64 || command -v qemu-x86_64:qemu-user"
  "command -v gdb-multiarch:gdb-multiarch"
  "command -v ser2net || test -x /usr/sbin/ser2net:ser2net"
  "command -v git:git"
)
[ "$profile" = test ] && needed+=("${for_tests[@]}")

missing=()
for entry in "${needed[@]}"; do
  bash -c "${entry%:*}" >/dev/null 2>&1 || missing+=("${entry##*:}")
done

if [ ${#missing[@]} -gt 0 ]; then
  say "installing Debian packages: ${missing[*]}"
  command -v apt-get >/dev/null || fail "this is not a Debian-like system. Install these by hand, then run this again: ${missing[*]}"
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "neither root nor sudo. Ask an administrator for: apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -q || say "apt-get update failed; trying with the lists that are there"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" ||
    fail "apt-get could not install: ${missing[*]}
  Try it by hand to see why:  apt-get install ${missing[*]}
  Without QEMU or the Arm toolchain the device tests are skipped with the reason; everything else still works after
  'python3 -m venv $venv && $venv/bin/pip install -e .[dev,influx]'."
fi

python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "Python 3.11 or newer is needed; found $(python3 --version)."

stamp=$venv/.hil-lab-$(cat pyproject.toml scripts/setup.sh | sha256sum | cut -c1-16)
if [ ! -e "$stamp" ]; then
  say "making the virtual environment in $PWD/$venv"
  # A half-made or foreign environment is made anew; one of an older pyproject.toml is brought up to date.
  "$venv/bin/python" -c '' 2>/dev/null || { rm -rf "$venv"; python3 -m venv "$venv"; }
  pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
  if ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
    say "installing PyTorch (CPU build where one can be had)"
    pip install -q --no-index --no-deps "torch==$torch_version" 2>/dev/null ||
      pip install --retries 1 --timeout 20 --index-url "${LAB_TORCH_INDEX:-https://download.pytorch.org/whl/cpu}" torch 2>/dev/null ||
      { say "no CPU build of PyTorch can be reached; the ordinary one is several GB"; pip install "torch>=2.6"; } ||
      fail "PyTorch cannot be installed. Set LAB_TORCH_INDEX to an index that has it, or install it into $venv by hand."
  fi
  # In CI every package is the very file that was tested here; docs/security.md says why PyTorch is not among them.
  here=$("$venv/bin/python" -c 'import platform as p, sys; print("%d.%d" % sys.version_info[:2], p.system(), p.machine())')
  if [ -n "${CI:-}" ] && grep -qsFx "# platform: $here" requirements/ci.txt; then
    say "installing the pinned Python packages"
    if ! pip install -q --require-hashes --no-deps -r requirements/ci.txt; then
      [ -z "${LAB_PINNED:-}" ] || fail "a pinned package cannot be had as it was; see pip's message above."
      say "not all pinned packages can be had as they were; going on with what pip finds (LAB_PINNED=1 forbids that)"
    fi
  fi
  say "installing Python packages"
  pip install -e '.[dev,influx]' || fail "pip could not install the Python packages; see its message above."
  touch "$stamp"
fi

if [ "$profile" = test ] && [ -z "${LAB_LABGRID:-}" ] && [ ! -e "$venv/labgrid/bin/labgrid-coordinator" ]; then
  say "installing labgrid, in an environment of its own"
  "$venv/bin/python" -m lab labgrid install || fail "labgrid could not be installed; see the message above."
fi

"$venv/bin/python" -m lab.emulators.tcg_plugin ||
  say "QEMU's counting plug-in was not built: loads and stores are not counted, everything else works"
