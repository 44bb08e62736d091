"""Sensors of emulated boards, whose values a test sets: the guest tells which there are and how their files say it."""

from __future__ import annotations

from dataclasses import dataclass

from lab.errors import ConfigError


@dataclass(frozen=True)
class Sensor:
    """A value that a file in the guest tells.

    Attributes:
        name: quantity and unit, such as ``VDD_IN.current_a``.
        form: ``int:FACTOR`` for whole numbers of so many to the unit, ``float:DIGITS``, ``hex`` or ``text``.
        path: the file.
    """

    name: str
    form: str
    path: str

    def text(self, value: float | str) -> str:
        """A value as the file says it.

        Raises:
            ConfigError: text for a number, or a number for text.
        """
        kind, _, detail = self.form.partition(":")
        if (kind == "text") != isinstance(value, str):
            wanted = "text" if kind == "text" else "a number"
            raise ConfigError(f"sensor {self.name}: found {value!r}, wanted {wanted}")
        if isinstance(value, str):
            return value
        if kind == "int":
            return str(round(value * int(detail)))
        return f"{round(value):#x}" if kind == "hex" else f"{value:.{detail}f}"


def read_sensors(text: str) -> list[Sensor]:
    """Sensors in a guest's list: lines of name, form and file."""
    return [Sensor(*line.split(" ", 2)) for line in text.splitlines() if line.count(" ") >= 2]
