"""SSH: devices with an operating system, reached as their users reach them. ``docs/ssh.md`` is the guide.

What needs paramiko is imported when a connection is opened, so that all else works without it.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from lab.connection_config import SshHost
from lab.errors import ToolMissing

if TYPE_CHECKING:
    from lab.transports.ssh_remote import Ssh


def open_ssh(config: SshHost, *, origin: str = "") -> Ssh:
    """Connect, check the host's key and log in.

    Args:
        config: who, where and with which keys.
        origin: ``file:line`` of the entry, for errors.

    Raises:
        ToolMissing: paramiko is not installed.
        HostKeyUnknown: nobody said which key the host must have; says the line to add.
        HostKeyChanged: the host shows another key than it must have.
        ConfigError: a key file cannot be used, or the user's shell on the device is not POSIX.
        TransportError: no way there, or it does not let the user in.
    """
    if importlib.util.find_spec("paramiko") is None:
        raise ToolMissing("paramiko is not installed; SSH needs it", hint='pip install "hil-lab[ssh]"')
    from lab.transports.ssh_remote import Ssh

    return Ssh(config, origin)
