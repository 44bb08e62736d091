"""pyOCD's plug-in (entry point ``pyocd.probe``): probes of the emulated boards that run on this host.

pyOCD imports it whenever it starts, for real probes too: nothing is imported here that a platform may lack.
"""

from __future__ import annotations

import importlib.util

from pyocd.core.plugin import Plugin
from pyocd.probe.debug_probe import DebugProbe


class LabProbePlugin(Plugin):  # type: ignore[misc]
    """What pyOCD asks for at its start."""

    def should_load(self) -> bool:
        """Boards are registered with the kernel's ``flock``, which Windows has not."""
        return importlib.util.find_spec("fcntl") is not None

    def load(self) -> type[DebugProbe]:
        """The class of the probes; the targets of emulated boards are known from here on."""
        from lab.emulators.probe.interface import LabProbe
        from lab.emulators.probe.targets import add_targets

        add_targets()
        return LabProbe

    @property
    def name(self) -> str:
        """Name before the colon of a unique id."""
        return "lab"

    @property
    def description(self) -> str:
        """One line for ``pyocd list --plugins``."""
        return "Emulated boards of the lab"
