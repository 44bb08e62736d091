"""YAML as plain data that knows where each part stands: no duplicate keys, and no tag but ``!env NAME`` for secrets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import yaml
from pydantic import SecretStr

from lab.child_environment import keep_from_children
from lab.errors import ConfigError
from lab.suggestions import allowed

Plain: TypeAlias = "str | int | float | bool | SecretStr | list[Plain] | dict[str, Plain] | None"
Location: TypeAlias = tuple[str | int, ...]

_DEEPEST = 20


@dataclass(frozen=True)
class Document:
    """Plain data of a YAML file and where each part of it stands."""

    path: Path
    data: Plain
    places: Mapping[Location, tuple[int, int]]

    def where(self, location: Location) -> str:
        """``file:line:column`` of the nearest enclosing part that is known."""
        for end in range(len(location), -1, -1):
            if location[:end] in self.places:
                line, column = self.places[location[:end]]
                return f"{self.path}:{line}:{column}"
        return str(self.path)


def read_yaml(path: Path, hint: str) -> Document:
    """Read a YAML file; an empty one is an empty mapping.

    Args:
        path: the file.
        hint: the way out where it does not exist.

    Raises:
        ConfigError: it cannot be read, is no YAML, has a key twice or another tag than ``!env``, or names a variable of
            the environment that is not set.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        beside = sorted(file.name for file in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise ConfigError(
            f"{path}: no such file" + (f"; {allowed(path.name, beside)}" if beside else ""),
            hint=hint,
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}", hint="it has to be a UTF-8 text file") from error
    try:
        node = yaml.compose(text, Loader=yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(
            f"{path}{place}: not YAML: {error.problem or error.context}",
            hint="check indentation and colons at this line and the one before",
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}", hint="it has to be plain text in YAML") from error
    places: dict[Location, tuple[int, int]] = {}
    data = _plain(node, (), path, places) if node is not None else {}
    return Document(path, data, places)


def _plain(node: yaml.Node, location: Location, path: Path, places: dict[Location, tuple[int, int]]) -> Plain:
    """Turn YAML nodes into plain data, noting places; refuses duplicate keys and every tag but ``!env``."""
    places.setdefault(location, (node.start_mark.line + 1, node.start_mark.column + 1))
    where = f"{path}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"
    if len(location) > _DEEPEST:
        raise ConfigError(f"{where}: nested deeper than {_DEEPEST} levels", hint="an alias may refer to itself")
    if node.tag.startswith("!"):
        return _from_environment(node, where, location)
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Plain] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in result:
                line = key_node.start_mark.line + 1
                raise ConfigError(
                    f"{path}:{line}:{key_node.start_mark.column + 1}: {dotted((*location, key))}: key '{key}' stands "
                    f"twice, first on line {places[(*location, key)][0]}",
                    hint="remove or rename one of them",
                )
            places[(*location, key)] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            result[key] = _plain(value_node, (*location, key), path, places)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*location, index), path, places) for index, item in enumerate(node.value)]
    if node.tag == "tag:yaml.org,2002:timestamp":
        return str(node.value)
    try:
        value: Plain = yaml.constructor.SafeConstructor().construct_object(node)
    except (yaml.constructor.ConstructorError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{where}: {dotted(location)}: found '{node.value}', which is no value of type {node.tag}",
            hint="put text in quotes, and leave out tags other than !env",
        ) from error
    return value


def _from_environment(node: yaml.Node, where: str, location: Location) -> SecretStr:
    if node.tag != "!env" or not isinstance(node, yaml.ScalarNode):
        raise ConfigError(
            f"{where}: {dotted(location)}: unknown tag '{node.tag}'; allowed: !env NAME",
            hint="!env NAME takes the value from the environment variable NAME",
        )
    name = str(node.value)
    value = os.environ.get(name)
    if not value:
        raise ConfigError(
            f"{where}: {dotted(location)}: the environment variable {name or '(no name)'} is not set",
            hint=f"export {name or 'NAME'}=…, or set it in the CI's secrets",
        )
    keep_from_children(name)
    return SecretStr(value)


def dotted(location: Location) -> str:
    """A place as an error names it: ``devices.pico.serial``."""
    return ".".join(str(part) for part in location)
