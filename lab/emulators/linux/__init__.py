"""Emulated arm64 Linux devices: an image of Debian packages, booted by QEMU, started clean from a saved state."""
