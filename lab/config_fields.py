"""What models of settings files share: the strict base, quantities with units, names of ports. A leaf of the lab."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from lab.errors import ConfigError
from lab.units import parse_bytes, parse_hertz, parse_seconds

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
PORT_RULE = (
    "/dev/serial/by-id/…, /dev/serial/by-path/…, socket://host:port, rfc2217://host:port, /dev/pts/N (tests), "
    "or by_id: with the USB serial number"
)


class Strict(BaseModel):
    """A frozen model that refuses unknown keys and values of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _bytes_field(value: object) -> object:
    return _quantity(value, parse_bytes)


def _seconds_field(value: object) -> object:
    return _quantity(value, parse_seconds)


def _hertz_field(value: object) -> object:
    hertz = _quantity(value, parse_hertz)
    return int(hertz) if isinstance(hertz, float) and hertz.is_integer() else hertz


def _quantity(value: object, parse: Callable[[str], float]) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parse(value)
    except ConfigError as error:
        raise ValueError(f"{error.message} ({error.hint})") from error


def port_name(value: str) -> str:
    """Refuse names the kernel hands out in the order of plugging in."""
    if re.match(r"(/dev/)?(tty(ACM|USB|S|AMA)|cu\.)|COM\d+", value):
        raise ValueError(
            f"'{value}' is given out in the order in which boards are plugged in and may be another board tomorrow; "
            f"allowed: {PORT_RULE}"
        )
    if not re.match(r"/dev/serial/by-(id|path)/.|/dev/pts/\d|(socket|rfc2217)://.", value):
        raise ValueError(f"'{value}' does not name a port for good; allowed: {PORT_RULE}")
    return value


def serial_number(value: str) -> str:
    """Refuse what cannot be a USB serial number; a path /dev/serial/by-id/… may stand for one."""
    if "/" in value and not value.startswith("/dev/serial/by-id/"):
        raise ValueError(f"'{value}' is neither a USB serial number nor a path /dev/serial/by-id/…")
    if re.match(r"tty(ACM|USB|S|AMA)\d|COM\d", value):
        raise ValueError(f"'{value}' is a port, not a USB serial number; allowed: {PORT_RULE}")
    return value


def _from_environment_only(value: object) -> object:
    if isinstance(value, str):
        raise ValueError("a secret may not be written here in plain; allowed: !env NAME_OF_A_VARIABLE")
    return value


Bytes = Annotated[int, Field(ge=0), BeforeValidator(_bytes_field, json_schema_input_type=int | str)]
Seconds = Annotated[float, Field(ge=0), BeforeValidator(_seconds_field, json_schema_input_type=float | str)]
Hertz = Annotated[int, Field(gt=0), BeforeValidator(_hertz_field, json_schema_input_type=int | str)]
Names = Annotated[tuple[Annotated[str, Field(pattern=NAME)], ...], Field(strict=False)]
Secret = Annotated[SecretStr, BeforeValidator(_from_environment_only)]
Text = str | SecretStr


def reveal(value: str | SecretStr) -> str:
    """The text of a value that may have come from ``!env``; for the call that needs it, never for a log."""
    return value.get_secret_value() if isinstance(value, SecretStr) else value
