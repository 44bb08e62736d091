"""Android phones: the runner in ``/data/local/tmp`` over ADB, or in Termux's home over SSH. Root is not assumed.

ADB's shell user may run what it puts into ``/data/local/tmp`` and ask for a reboot; apps such as Termux may not, and
Android's filter of system calls applies to what they start. A phone is a :class:`lab.devices.linux.Linux` of kind
``phone``: its environment is asked of Android's services, its memory of ``dumpsys`` as well.
"""

from __future__ import annotations

import time

from lab.devices.machine import RealMachine, ask_for_reboot, await_boot, boot_id
from lab.errors import InfrastructureError
from lab.transports.remote import Remote

REBOOT_S = 300.0
"""A phone takes minutes to boot, longer after an update."""
_ASK_EVERY_S = 1.0


class AndroidMachine(RealMachine):
    """A phone on a cable or in the network; one with a battery does not go off by a switch in its supply."""

    def reboot(self, remote: Remote) -> None:
        """Ask for a reboot, and wait until Android has started.

        Raises:
            InfrastructureError: it may not be asked to, as by an app, or does not come back.
        """
        before = boot_id(remote)
        refused = ask_for_reboot(remote, ("reboot",))
        if refused is not None:
            raise InfrastructureError(
                f"{self._name} cannot be rebooted: {refused}",
                hint="apps may not, nor may Termux: use adb, or its button",
            )
        deadline = time.monotonic() + REBOOT_S
        await_boot(remote, before, self._name, REBOOT_S, self._sleep)
        while remote.run(("getprop", "sys.boot_completed")).text != "1":
            if time.monotonic() > deadline:
                raise InfrastructureError(f"{self._name} is back, and Android has not started", transient=True)
            self._sleep(_ASK_EVERY_S)
