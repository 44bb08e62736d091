#!/usr/bin/env bash
# Runs a workload and its baselines in PyTorch on an emulated Raspberry Pi; fetches PyTorch's wheels once. docs/linux-guests.md
# Usage: scripts/pytorch_on_pi.sh [WORKLOAD [OPTION OF lab run …]]     default: pockengine
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
pins=$root/requirements/pi-pytorch.txt
cache=${LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hil-lab}
# Other pins, another folder: the wheels in it name the environment on the device.
wheels=$cache/wheels/$(sha256sum "$pins" | cut -c1-16)
if [ ! -d "$wheels" ]; then
  echo "* downloading PyTorch for 64-bit Arm Linux"
  mkdir -p "$cache/wheels"
  begun=$(mktemp -d "$cache/wheels/.begun-XXXXXX")
  trap 'rm -rf "$begun"' EXIT
  "$root/.venv/bin/python" -m pip download --quiet --require-hashes --no-deps --only-binary=:all: \
    --python-version 3.11 --platform manylinux_2_28_aarch64 --platform manylinux2014_aarch64 \
    --dest "$begun" --requirement "$pins"
  mv "$begun" "$wheels"
fi
export LAB_WHEELS=$wheels LAB_CONFIG=$root/device_configs/pytorch.yaml
exec "$root/.venv/bin/lab" run "${1:-pockengine}" --device pi "${@:2}"
