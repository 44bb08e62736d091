"""Faults of an emulated meter as options of its process: one for each field of its dataclass, all with defaults."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    FaultsT = TypeVar("FaultsT", bound=DataclassInstance)


def fault_arguments(faults: DataclassInstance) -> list[str]:
    """The options that say the same; each is one word, since a text may begin with a minus sign."""
    return [f"{_option(one.name)}={getattr(faults, one.name)}" for one in fields(faults)]


def add_fault_options(parser: argparse.ArgumentParser, kind: type[DataclassInstance]) -> None:
    """Let a process take them; each value is of its default's type."""
    for one in fields(kind):
        parser.add_argument(_option(one.name), type=type(one.default), default=one.default)


def faults_of(options: argparse.Namespace, kind: type[FaultsT]) -> FaultsT:
    """The faults that were asked for."""
    return kind(**{one.name: getattr(options, one.name) for one in fields(kind)})


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
