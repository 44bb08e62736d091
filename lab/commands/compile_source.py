"""What ``lab compile`` is asked to compile: a network of the zoo, a function in a Python file, or a model file."""

from __future__ import annotations

import difflib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from lab.errors import CompileError

if TYPE_CHECKING:
    import torch

    from lab.compiler.channels import Channels

ZOO_CALIBRATION = 32
"""Random inputs that calibrate a network of the zoo, whose weights are random too."""
EVERYTHING, LAST, BIAS, WEIGHT = "all", "last", "bias", "weight"


@dataclass(frozen=True)
class Network:
    """A PyTorch network to compile.

    Attributes:
        name: C identifier of the model.
        module: the network.
        example: one batch of inputs.
        calibration: inputs for int8, where the source brings them.
    """

    name: str
    module: torch.nn.Module
    example: torch.Tensor
    calibration: torch.Tensor | None = None


def is_function(model: str) -> bool:
    """Whether MODEL names a function: ``path/to/file.py:function``."""
    return model.rpartition(":")[0].endswith(".py")


def from_zoo(name: str, input_shape: Sequence[int], batch: int | None, seed: int) -> Network:
    """A network of the zoo with seeded random weights.

    Raises:
        CompileError: there is none of this name, or its inputs have another shape.
    """
    import torch

    from lab.workloads.networks import ZOO

    if name not in ZOO:
        close = difflib.get_close_matches(name, ZOO, n=1)
        raise CompileError(
            f"MODEL is {name!r}; the zoo has no such network{f', did you mean {close[0]!r}?' if close else ''}",
            hint=f"the zoo has {', '.join(ZOO)}; or give path/to/file.py:function, a .tflite or an .onnx file",
        )
    entry = ZOO[name]
    if input_shape and tuple(input_shape) != entry.input_shape:
        raise CompileError(
            f"--input-shape is {_sizes(input_shape)}; {name} takes {_sizes(entry.input_shape)}", hint="leave it out"
        )
    torch.manual_seed(seed)
    return Network(
        identifier(name), entry.build(), entry.example(batch or 1, seed), entry.example(ZOO_CALIBRATION, seed)
    )


def from_function(model: str, input_shape: Sequence[int], batch: int | None, seed: int) -> Network:
    """What a function of the user's returns: a module, or a module and an example input.

    The function is called without arguments, after ``torch.manual_seed(seed)``; its file may import its neighbours.

    Args:
        model: ``path/to/file.py:function``.
        input_shape: of one sample, where the function returns a module alone; the example is then random.
        batch: samples of that example, 1 where ``None``; an example that the function returns must have as many.
        seed: of weights and example.

    Raises:
        CompileError: no such file or function, or it returns something else. What the user's own code raises comes
            through as it is.
    """
    import torch

    file, _, function = model.rpartition(":")
    with _importable(Path(file)) as imported:
        build = getattr(imported, function, None)
        if not callable(build):
            known = [name for name, value in vars(imported).items() if callable(value) and not name.startswith("_")]
            raise CompileError(f"{file} has no function {function!r}", hint=f"it has: {', '.join(known) or 'none'}")
        torch.manual_seed(seed)
        made = build()
    module, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, torch.nn.Module):
        raise CompileError(
            f"{model} returned {type(made).__name__}", hint="return a torch.nn.Module, or (module, example input)"
        )
    if example is None and input_shape:
        example = torch.randn(batch or 1, *input_shape, generator=torch.Generator().manual_seed(seed))
    if not isinstance(example, torch.Tensor):
        raise CompileError(
            f"{model} returned a module without an example input",
            hint="return (module, example), or give --input-shape, such as 1,28,28 for one sample",
        )
    wanted = (len(example) if batch is None else batch, *(input_shape or example.shape[1:]))
    if tuple(example.shape) != wanted:
        raise CompileError(
            f"{model} returned an example of shape {_sizes(example.shape)}; the options ask for {_sizes(wanted)}",
            hint="leave out --batch and --input-shape, or return the module alone",
        )
    return Network(identifier(function), module, example)


def _sizes(shape: Sequence[int]) -> str:
    return ",".join(map(str, shape))


@contextmanager
def _importable(path: Path) -> Iterator[ModuleType]:
    """The module in a Python file, with its folder on the path as for a script."""
    if not path.is_file():
        raise CompileError(f"there is no file {path}", hint="give path/to/file.py:function")
    spec = importlib.util.spec_from_file_location(f"lab_user_{identifier(path.stem)}", path)
    if spec is None or spec.loader is None:
        raise CompileError(f"{path} cannot be imported", hint="it must be a Python file")
    imported = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(imported)
        yield imported
    except SyntaxError as error:
        raise CompileError(f"{path} is no valid Python: line {error.lineno}: {error.msg}") from error
    except ImportError as error:
        raise CompileError(f"{path} cannot be imported: {error}", hint="install what it imports") from error
    finally:
        sys.path.remove(folder)


def identifier(name: str) -> str:
    """A C identifier near a name."""
    plain = "".join(one if one.isascii() and one.isalnum() else "_" for one in name)
    return plain if plain[:1].isalpha() or plain.startswith("_") else f"model_{plain}"


def selected(patterns: Sequence[str], names: Sequence[str]) -> dict[str, Channels | None]:
    """The parameters that patterns name, in the order of ``names``, with the channels that are trained of each.

    Args:
        patterns: full names; globs (``blocks.3.*``); ``all``; ``last``, the layer that owns the last parameter;
            ``bias``, every parameter of that name. Behind it ``@inputs=0.5`` or ``@outputs=0.5`` trains that share of
            the weights' channels. A pattern may hold several, parted by commas; a later one decides.
        names: of the network's parameters.

    Raises:
        CompileError: a pattern that names nothing, or a share that is none.
    """
    chosen: dict[str, Channels | None] = {}
    for part in (part.strip() for one in patterns for part in one.split(",")):
        pattern, _, share = part.partition("@")
        found = [name for name in names if _matches(pattern, name, names[-1])]
        if not found:
            close = difflib.get_close_matches(pattern, names, n=1)
            raise CompileError(
                f"--train {pattern!r} names no parameter{f', did you mean {close[0]!r}?' if close else ''}",
                hint=f"names, globs, {EVERYTHING}, {LAST} or {BIAS}; the parameters are {', '.join(names) or 'none'}",
            )
        channels = _channels(part, share) if share else None
        for name in found:
            chosen[name] = channels if name.rpartition(".")[2] == WEIGHT else None
    return {name: chosen[name] for name in names if name in chosen}


def _channels(part: str, share: str) -> Channels:
    """Channels of a text such as ``inputs=0.5``."""
    from lab.compiler.channels import Channels

    side, _, value = share.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if side not in ("inputs", "outputs") or not 0.0 < number <= 1.0:
        raise CompileError(
            f"--train {part!r}: {share!r} is no share of channels", hint="as @inputs=0.5 or @outputs=0.25, at most 1"
        )
    return Channels(inputs=number) if side == "inputs" else Channels(outputs=number)


def _matches(pattern: str, name: str, last: str) -> bool:
    if pattern == EVERYTHING:
        return True
    if pattern == LAST:
        return name.rpartition(".")[0] == last.rpartition(".")[0]
    if pattern == BIAS:
        return name.rpartition(".")[2] == BIAS
    return fnmatchcase(name, pattern)
