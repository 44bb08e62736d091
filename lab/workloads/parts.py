"""Compiled models as parts of a larger program, whose border is another's."""

from __future__ import annotations

import re

from lab.compiler.model import CompiledModel


def as_part(model: CompiledModel, border: str) -> str:
    """The C of a model that is a part of another: its border gets the name ``border``, its arena a size of its own.

    Raises:
        ValueError: it does not define ``lab_model`` once.
    """
    text = model.sources["model.c"]
    found = re.compile(r"^const lab_model_t lab_model = ", re.MULTILINE)
    if len(found.findall(text)) != 1:
        raise ValueError(f"model '{model.name}' defines lab_model {len(found.findall(text))} times")
    # Not static: what is not called of it is no mistake, and the linker leaves it out.
    text = found.sub(f"extern const lab_model_t {border};\nconst lab_model_t {border} = ", text)
    return text.replace("LAB_MODEL_ARENA_BYTES", f"{model.arena_bytes}u")
