"""From a place's resources to what a bench file says of a device: serial port, SSH, power switch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from pydantic import ValidationError

from lab.connection_config import SerialPort, SshHost
from lab.errors import ConfigError, TransportError
from lab.inventory import DeviceConfig
from lab.labgrid.config import LabgridConfig, is_loopback
from lab.labgrid.records import Resource
from lab.switch_config import AnySwitch, ShellyPlug

SERIAL = "NetworkSerialPort"
SERVICE = "NetworkService"
POWER = "NetworkPowerPort"

Reach = Callable[[str, str, int], tuple[str, int]]
"""From an SSH destination, a host and a port to an address of this computer that leads there."""

# ser2net never answers for control lines that a port does not have, and pyserial waits for that. Its answers come
# behind all that the board says, and a board that was left in mid-job says much: 3 s, pyserial's own, are too few.
_RFC2217 = "ign_set_control&timeout=15"
_SHELLY: Mapping[str, int] = {"shelly_gen1": 1, "shelly_gen2": 2}


def wired(config: DeviceConfig, resources: Iterable[Resource], labgrid: LabgridConfig, reach: Reach) -> DeviceConfig:
    """A device with what its place brings; what the bench file says itself stays.

    Args:
        config: the device's entry.
        resources: those of its place, acquired.
        labgrid: the section of the bench file.
        reach: opens a tunnel.

    Raises:
        ConfigError: several of one class, or one that the lab may not use so.
        TransportError: the exporter could not start a resource, or does not say where it is.
    """
    found = list(resources)
    update: dict[str, SerialPort | SshHost | AnySwitch] = {}
    serial, service, power = (_only(found, cls) for cls in (SERIAL, SERVICE, POWER))
    if serial is not None and config.serial is None:
        update["serial"] = serial_of(serial, labgrid, reach)
    if service is not None and config.ssh is None:
        update["ssh"] = ssh_of(service, labgrid, reach)
    # The lab switches nothing without something that shows that it worked; of a board elsewhere that is its meter.
    if power is not None and config.power_switch is None and config.meter is not None:
        switch = switch_of(power)
        update |= {} if switch is None else {"power_switch": switch}
    return config.model_copy(update=update)


def serial_of(resource: Resource, labgrid: LabgridConfig, reach: Reach) -> SerialPort:
    """Where a serial port is: ``rfc2217://`` as the exporter's ser2net serves it, ``socket://`` for protocol ``raw``.

    Raises:
        ConfigError: it is on another computer without a tunnel; everybody there could write to the board.
        TransportError: the exporter does not serve it.
    """
    host, port = _address(resource, "host")
    destination = tunnel_for(resource, labgrid, host)
    if destination is not None:
        host, port = reach(destination, host, port)
    elif not (is_loopback(host) or labgrid.unprotected):
        raise ConfigError(
            f"{resource}: serial port at {host}:{port}, another computer, where everybody can write to the board",
            hint=f"labgrid: {{tunnels: {{{resource.exporter}: user@{host}}}}} in the bench file, and "
            "`lab labgrid exporter` there; or unprotected: true where everybody in the network is trusted",
        )
    raw = resource.params.get("protocol") == "raw"
    url = f"socket://{host}:{port}" if raw else f"rfc2217://{host}:{port}?{_RFC2217}"
    speed = resource.params.get("speed")
    return SerialPort(port=url, baud=speed if isinstance(speed, int) else 115200)


def ssh_of(resource: Resource, labgrid: LabgridConfig, reach: Reach) -> SshHost:
    """Where to log in; with what is the bench file's affair, and a password in labgrid's files is not taken.

    Raises:
        ConfigError, TransportError: as :func:`serial_of`.
    """
    host, port = _address(resource, "address", default_port=22)
    user = resource.params.get("username")
    destination = tunnel_for(resource, labgrid, host)
    if destination is not None:
        host, port = reach(destination, host, port)
    ssh = labgrid.ssh
    return SshHost(host=host, user=str(user), port=port, key=ssh.key, agent=ssh.agent, known_hosts=ssh.known_hosts)


def switch_of(resource: Resource) -> AnySwitch | None:
    """The lab's own switch for a power port; None where it has none that is the same."""
    generation = _SHELLY.get(str(resource.params.get("model")))
    if generation is None:
        return None
    host = str(resource.params.get("host")).removeprefix("http://").rstrip("/")
    try:
        return ShellyPlug.model_validate(
            {"kind": "shelly", "host": host, "generation": generation, "outlet": int(resource.params.get("index", 0))}
        )
    except (ValidationError, ValueError) as error:
        raise ConfigError(f"{resource}: no address of a plug: {host!r}", hint="correct the exporter's file") from error


def tunnel_for(resource: Resource, labgrid: LabgridConfig, host: str) -> str | None:
    """Through which SSH destination a resource is reached; None: directly."""
    named = labgrid.tunnels.get(resource.exporter)
    if named is not None:
        return named
    # An exporter behind a tunnel of the coordinator's that serves on its loopback address is on that host.
    return labgrid.tunnel if is_loopback(host) else None


def features_of(resources: Iterable[Resource]) -> Sequence[str]:
    """What resources stand for, in words, for people."""
    words = {SERIAL: "serial", SERVICE: "ssh", POWER: "power"}
    return sorted({words.get(one.cls, one.cls) for one in resources})


def _only(resources: Sequence[Resource], cls: str) -> Resource | None:
    found = [one for one in resources if one.cls == cls]
    if len(found) > 1:
        raise ConfigError(
            f"{', '.join(map(str, found))}: several resources of class {cls} in one place",
            hint="let the place match one of them, or write the device's own entry in the bench file",
        )
    return found[0] if found else None


def _address(resource: Resource, key: str, default_port: int | None = None) -> tuple[str, int]:
    host, port = resource.params.get(key), resource.params.get("port", default_port)
    if not isinstance(host, str) or not host or isinstance(port, bool) or not isinstance(port, int):
        broken = resource.extra.get("broken")
        raise TransportError(
            f"{resource}: the exporter '{resource.exporter}' does not serve it"
            + (f": {broken}" if broken else "; it says neither host nor port"),
            hint="the exporter's log says why: is ser2net installed there, and what it is for attached?",
            transient=True,
        )
    return host, port
