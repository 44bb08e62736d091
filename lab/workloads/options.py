"""Variants of a workload, written as ``name=value`` and separated by commas."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from lab.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    V = TypeVar("V", bound=DataclassInstance)


@dataclass(frozen=True)
class Allowed:
    """What an option may be: a predicate, and the same in words."""

    name: str
    holds: Callable[[object], bool]
    words: str


def one_of(name: str, values: Sequence[object], words: str = "") -> Allowed:
    """One of a few values; ``words`` where more is to be said than which."""
    return Allowed(name, lambda value: value in values, words or "one of " + ", ".join(map(str, values)))


def within(name: str, least: float, most: float, words: str = "") -> Allowed:
    """A number from ``least`` to ``most``; ``words`` where more is to be said than that."""
    return Allowed(
        name,
        lambda value: isinstance(value, int | float) and least <= value <= most,
        words or f"{least} to {most}",
    )


def read(workload: str, default: V, allowed: Sequence[Allowed], text: str) -> V:
    """The variant that ``text`` names; what it does not name is as in ``default``, a later option counts.

    Args:
        workload: id, for the errors.
        default: a frozen dataclass of str, int and float.
        allowed: what its fields may be.
        text: ``image=32,update=full``.

    Raises:
        ConfigError: an unknown name, a value of another type, or one that is not allowed or not finite; says what is.
    """
    variant, known = default, asdict(default)
    for item in filter(None, text.split(",")):
        name, _, value = item.partition("=")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(
                f"{workload} has no option '{name}' (in the variant '{text}')",
                hint=f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(known)}",
            )
        variant = replace(variant, **{name: _parsed(workload, name, type(known[name]), value)})
    for one in allowed:
        if not one.holds(found := getattr(variant, one.name)):
            raise ConfigError(f"{workload}: {one.name}={found} is not allowed", hint=one.words)
    return variant


def _parsed(workload: str, name: str, kind: type[str] | type[int] | type[float], value: str) -> str | int | float:
    """The value of an option. It is finite whatever the bounds are: NaN is neither within nor outside of any."""
    try:
        found = kind(value)
    except ValueError:
        raise ConfigError(f"{workload}: {name}={value} is no {kind.__name__}") from None
    if isinstance(found, float) and not math.isfinite(found):
        raise ConfigError(f"{workload}: {name}={value} is no finite number")
    return found


def read_sized(workload: str, sizes: Mapping[str, tuple[V, Sequence[Allowed]]], text: str) -> V:
    """The variant that ``text`` names, from the defaults of the size that it asks for.

    Args:
        workload: id, for the errors.
        sizes: ``ci`` and whatever else there is, to the defaults of each and to what is allowed with it; every default
            has a field ``size``.
        text: ``size=paper,update=full``; ``ci`` where no size is named.

    Raises:
        ConfigError: as :func:`read`, or a size that there is not.
    """
    named = [item.removeprefix("size=") for item in text.split(",") if item.startswith("size=")]
    size = named[-1] if named else "ci"
    if size not in sizes:
        raise ConfigError(f"{workload}: size={size} is not allowed", hint=f"one of {', '.join(sizes)}")
    default, allowed = sizes[size]
    return read(workload, default, allowed, text)
