"""Settings files checked against their models: errors say file, line, field, what is allowed and the way out."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Annotated, Literal, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lab.errors import ConfigError
from lab.suggestions import allowed
from lab.yaml_file import Document, Location, dotted, read_yaml

_Model = TypeVar("_Model", bound=BaseModel)


def load_settings(path: Path, model: type[_Model], hint: str) -> _Model:
    """Read any other settings file by the same rules: strict, ``!env`` for secrets, errors with line and way out.

    Args:
        path: a YAML file.
        model: what it must hold.
        hint: where the keys are described.

    Raises:
        ConfigError: the file cannot be read, is no YAML or does not fit ``model``.
    """
    return validate(model, read_yaml(path, hint), hint)


def validate(model: type[_Model], document: Document, hint: str) -> _Model:
    """A document as the model that it must fit.

    Raises:
        ConfigError: it does not, with every problem and where it stands.
    """
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        problems = [_problem(model, document, details) for details in error.errors(include_url=False)]
    unique = list(dict.fromkeys(problems))
    if len(unique) == 1:
        raise ConfigError(unique[0], hint=hint)
    raise ConfigError(f"{document.path}: {len(unique)} problems\n  " + "\n  ".join(unique), hint=hint)


def _problem(model: type[BaseModel], document: Document, details: ErrorDetails) -> str:
    kind, context = details["type"], details.get("ctx", {})
    validated: Location = tuple(details["loc"])
    known = location = _as_written(validated, document)
    while known and known not in document.places and kind != "missing":
        known = known[:-1]
    place = f"{document.where(known)}: {dotted(known) or 'the file'}"
    if known != location:
        validated = known
    if kind == "extra_forbidden":
        fields = sorted(_fields_at(model, validated[:-1]))
        return f"{place}: unknown key '{known[-1]}'; {allowed(str(known[-1]), fields)}"
    if kind == "missing":
        return f"{place}: is missing; {_describe(model, validated)}".rstrip("; ")
    if kind == "literal_error":
        choices = [str(choice) for choice in _literals_at(model, validated)]
        return f"{place}: found {_shown(details['input'])}; {allowed(str(details['input']), choices)}"
    if kind == "union_tag_invalid":
        tags = str(context["expected_tags"]).replace("'", "").split(", ")
        place = f"{document.where((*known, 'kind'))}: {dotted((*known, 'kind'))}"
        return f"{place}: found '{context['tag']}'; {allowed(str(context['tag']), tags)}"
    if kind == "union_tag_not_found":
        return f"{place}: kind: is missing"
    if kind == "value_error":
        return f"{place}: {context['error']}"
    expected = details["msg"].removeprefix("Input should be ")
    return f"{place}: found {_shown(details['input'])}; allowed: {expected}"


def _as_written(validated: Location, document: Document) -> Location:
    """A place as the file has it: without the numbers and kinds that validation put around what stands there once."""
    written: Location = ()
    for index, part in enumerate(validated):
        if (*written, part) in document.places or index == len(validated) - 1:
            written = (*written, part)
    return written


def _shown(value: object) -> str:
    """A value for an error text; secrets stay hidden (SecretStr prints as stars)."""
    text = "a mapping" if isinstance(value, dict) else "nothing" if value is None else repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _annotation_at(model: type[BaseModel], location: Location) -> object:
    """The annotation of the field at a place, through optional fields and mappings."""
    current: object = model
    for part in location:
        chosen = _of_kind(current, str(part))
        if chosen is not None:
            current = chosen
            continue
        current = _stripped(current)
        if isinstance(current, type) and issubclass(current, BaseModel):
            fields = {info.alias or name: info for name, info in current.model_fields.items()}
            current = fields[str(part)].annotation if part in fields else None
        elif get_origin(current) in (dict, tuple):
            current = get_args(current)[-1 if get_origin(current) is dict else 0]
        else:
            return None
    return _stripped(current)


def _of_kind(annotation: object, kind: str) -> type[BaseModel] | None:
    """The member of a union of models, optional or not, that has this ``kind``."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    for member in get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else ():
        if get_origin(member) is Annotated and (chosen := _of_kind(member, kind)) is not None:
            return chosen
        fields = member.model_fields if isinstance(member, type) and issubclass(member, BaseModel) else {}
        if "kind" in fields and kind in get_args(fields["kind"].annotation):
            return cast("type[BaseModel]", member)
    return None


def _stripped(annotation: object) -> object:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        present = [item for item in get_args(annotation) if item is not type(None)]
        return _stripped(present[0])
    return annotation


def _fields_at(model: type[BaseModel], location: Location) -> list[str]:
    found = _annotation_at(model, location)
    return list(found.model_fields) if isinstance(found, type) and issubclass(found, BaseModel) else []


def _literals_at(model: type[BaseModel], location: Location) -> tuple[object, ...]:
    return get_args(_annotation_at(model, location))


def _describe(model: type[BaseModel], location: Location) -> str:
    choices = _literals_at(model, location)
    if choices and get_origin(_annotation_at(model, location)) is Literal:
        return f"allowed: {', '.join(str(choice) for choice in choices)}"
    fields = _fields_at(model, location)
    return f"its keys: {', '.join(fields)}" if fields else ""
