"""``--device`` of commands that run on several: names separated by commas, and the option as often as one likes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import click

F = TypeVar("F", bound=Callable[..., object])


def device_option(default: Sequence[str] = ()) -> Callable[[F], F]:
    """The option, whose command is given all that is named as one text ``names``.

    Args:
        default: where nothing is named.
    """
    return click.option(
        "--device", "names", multiple=True, default=default, show_default=bool(default), callback=_joined,
        help="Devices: names separated by commas, or terms such as class:mcu+feature:meter; may be given again.",
    )  # fmt: skip


def _joined(_context: click.Context, _option: click.Parameter, named: Sequence[str]) -> str:
    return ",".join(named)
