"""A bench at work: look devices up and choose among them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.errors import ConfigError
from lab.inventory import BenchConfig, Device, load_bench
from lab.suggestions import nearest

_ASPECTS: Mapping[str, Callable[[Device], Collection[str]]] = {
    "name": lambda device: (device.name,),
    "board": lambda device: (device.board.kind,),
    "class": lambda device: (device.board.device_class,),
    "cpu": lambda device: (device.board.cpu,),
    "tag": lambda device: device.tags,
    "feature": lambda device: device.features,
    "source": lambda device: ("emulated" if device.emulated else "hardware",),
}


@dataclass(frozen=True)
class Bench:
    """The devices of one bench file."""

    config: BenchConfig

    @classmethod
    def load(cls, path: Path) -> Bench:
        """Read a bench file.

        Raises:
            ConfigError: see :func:`lab.inventory.load_bench`.
        """
        return cls(load_bench(path))

    @property
    def devices(self) -> tuple[Device, ...]:
        """All devices in the order of the file."""
        return tuple(self.config.devices.values())

    def get(self, name: str) -> Device:
        """The device of that name.

        Raises:
            ConfigError: no such device; names the nearest and all there are.
        """
        device = self.config.devices.get(name)
        if device is None:
            raise self._unknown("device", name, [device.name for device in self.devices])
        return device

    def select(self, expression: str = "") -> list[Device]:
        """Devices that match an expression, in the order of the file; all of them for an empty one.

        Terms are ``aspect:value`` with the aspects ``name board class cpu tag feature source``; a term without an
        aspect is a name. ``+`` joins terms that must all hold, a comma separates alternatives:
        ``m4f, class:mcu+feature:meter``.

        Raises:
            ConfigError: an unknown aspect, or a value that no device of this bench has.
        """
        alternatives = [part for part in expression.split(",") if part.strip()]
        if not alternatives:
            return list(self.devices)
        parsed = [[self._term(term) for term in part.split("+")] for part in alternatives]
        return [
            device
            for device in self.devices
            if any(all(value in _ASPECTS[aspect](device) for aspect, value in terms) for terms in parsed)
        ]

    def _term(self, text: str) -> tuple[str, str]:
        aspect, colon, value = text.strip().partition(":")
        if not colon:
            aspect, value = "name", aspect
        if aspect not in _ASPECTS:
            raise self._unknown("aspect", aspect, list(_ASPECTS))
        known = sorted({item for device in self.devices for item in _ASPECTS[aspect](device)})
        if value not in known:
            raise self._unknown(aspect if colon else "device", value, known)
        return aspect, value

    def _unknown(self, what: str, found: str, known: list[str]) -> ConfigError:
        guess = nearest(found, known)
        return ConfigError(
            f"{self.config.path}: unknown {what} '{found}'; "
            f"{f'did you mean {guess!r}? ' if guess else ''}allowed: {', '.join(known) or 'none'}",
            hint="`lab devices` lists the bench with its tags and features",
        )
