"""ADB: phones, by the serial number of their cable or the address of their daemon. ``docs/adb.md`` is the guide.

What needs adbutils is imported when a connection is opened, so that all else works without it.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from lab.connection_config import AdbDevice
from lab.errors import ToolMissing

if TYPE_CHECKING:
    from lab.transports.adb_remote import Adb


def open_adb(config: AdbDevice, *, origin: str = "") -> Adb:
    """Connect to a phone.

    Args:
        config: which.
        origin: ``file:line`` of the entry, for errors.

    Raises:
        ToolMissing: adbutils or ``adb`` is not installed.
        PhoneUnauthorized: the phone does not trust this computer's key.
        PhoneOffline: the ADB server does not know it, or it does not answer.
        TransportError: there is no ADB server, or it breaks off.
    """
    if importlib.util.find_spec("adbutils") is None:
        raise ToolMissing("adbutils is not installed; ADB needs it", hint='pip install "hil-lab[android]"')
    from lab.transports.adb_remote import Adb

    return Adb(config, origin)
