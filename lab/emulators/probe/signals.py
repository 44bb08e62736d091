"""What goes wrong between the model of a debug port and the emulator behind it."""

from __future__ import annotations

from lab.errors import ProbeError


class TargetLost(ProbeError):
    """The emulator is gone: to the probe, a target without power."""


class BusFault(ProbeError):
    """Nothing answers at an address: to the probe, an access that ends in FAULT."""


class InUse(ProbeError):
    """Another program has the probe open."""


class Unplugged(ProbeError):
    """The probe itself is gone."""
