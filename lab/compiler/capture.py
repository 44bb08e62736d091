"""``torch.export`` to our graph."""

from __future__ import annotations

import operator
import re
import traceback
import warnings
from pathlib import Path

import torch
from torch._export.utils import _is_preservable_cia_op, _special_op_to_preserve_cia
from torch.export import ExportedProgram
from torch.export.exported_program import _decompose_exported_program
from torch.export.graph_signature import InputKind
from torch.fx import Node as FxNode

from lab.compiler.graph import Graph, Shape, Source
from lab.compiler.operators.registry import CAPTURES, Call, GraphBuilder, supported
from lab.errors import CompileError

INPUT = "<input>"
"""Name of the input value; no module path can be equal to it."""
FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
TORCH_ROOT = str(Path(torch.__file__).parent)
COMPILER_ROOT = str(Path(__file__).parent)
EXPORT_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError)


def capture(module: torch.nn.Module, example: torch.Tensor) -> Graph:
    """Capture ``module`` in evaluation mode on one example with batch 1.

    Raises:
        CompileError: what cannot be exported or is not supported, with its place in the module.
    """
    check_example(example)
    program = export(module, example)
    parameters = placeholder_tensors(program)
    inputs = [node for node in program.graph.nodes if node.op == "placeholder" and node not in parameters]
    if len(inputs) != 1:
        raise CompileError(f"the model has {len(inputs)} inputs", hint="compile a module with one tensor input")
    builder = GraphBuilder()
    values = {inputs[0]: INPUT}
    builder.shapes[INPUT] = nhwc_shape(example)
    for node in program.graph.nodes:
        if node.op == "call_function":
            values[node] = capture_call(node, builder, values, parameters)
    output = output_value(program, values)
    if not builder.nodes:
        raise CompileError("the model computes nothing: its output is its input", hint="compile a module with layers")
    return Graph(INPUT, output, builder.shapes, tuple(builder.nodes))


def check_example(example: torch.Tensor) -> None:
    """Refuse examples that are not one float32 sample of rank 2 or 4."""
    shape = tuple(example.shape)
    if example.dtype != torch.float32:
        raise CompileError(f"the example is {example.dtype}, only torch.float32 is supported", hint="use .float()")
    if len(shape) not in (2, 4) or shape[0] != 1 or 0 in shape:
        raise CompileError(
            f"the example has shape {shape}", hint="give one sample: (1, C, H, W) or (1, features), none of size 0"
        )


def nhwc_shape(example: torch.Tensor) -> Shape:
    """NHWC shape without batch of an NCHW example."""
    sizes = tuple(int(size) for size in example.shape)
    return (sizes[2], sizes[3], sizes[1]) if len(sizes) == 4 else (sizes[1],)


def export(module: torch.nn.Module, example: torch.Tensor) -> ExportedProgram:
    """Export in evaluation mode, made functional; the module's own mode is restored."""
    modes = {child: child.training for child in module.modules()}
    module.eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # PyTorch deprecates a call of its own inside export.
            warnings.simplefilter("ignore", FutureWarning)
            return _functional(torch.export.export(module, (example,)))
    except EXPORT_ERRORS as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise CompileError(
            f"torch.export cannot capture {type(module).__name__} at {place_of_error(error, module)}: {first[0]}",
            hint="forward must be free of data-dependent control flow and run on the example",
        ) from error
    finally:
        for child, mode in modes.items():
            child.training = mode


def _functional(program: ExportedProgram) -> ExportedProgram:
    """The program without operators that write in place or alias; all others stay whole.

    ``run_decompositions({})`` does the same for every operator there is, which takes longer than most networks; here it
    is done for those of the program.
    """
    calls = (node.target for node in program.graph.nodes if node.op == "call_function")
    kept = {target: _special_op_to_preserve_cia for target in calls if _is_composite(target)}
    functional: ExportedProgram = _decompose_exported_program(
        program,
        cia_to_decomp=kept,
        python_decomp_table={},
        joint_loss_index=None,
        decompose_custom_triton_ops=False,
    )
    return functional


def _is_composite(target: object) -> bool:
    return isinstance(target, torch._ops.OpOverload) and bool(_is_preservable_cia_op(target))


def placeholder_tensors(program: ExportedProgram) -> dict[FxNode, torch.Tensor]:
    """Parameters, buffers and constants by the placeholder that stands for them."""
    places = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    tensors: dict[FxNode, torch.Tensor] = {}
    for spec in program.graph_signature.input_specs:
        if spec.kind == InputKind.USER_INPUT or spec.target is None:
            continue
        stored = program.state_dict.get(spec.target, program.constants.get(spec.target))
        if isinstance(stored, torch.Tensor):
            tensors[places[spec.arg.name]] = stored
    return tensors


def capture_call(
    node: FxNode, builder: GraphBuilder, values: dict[FxNode, str], parameters: dict[FxNode, torch.Tensor]
) -> str:
    """Turn one exported call into nodes; returns the name of the value it yields."""
    aten = "getitem" if node.target is operator.getitem else str(node.target)
    source, leaf = place_of(node)
    function = CAPTURES.get(aten)
    if function is None:
        raise CompileError(
            f"operator {aten} at {source} is not supported", hint=f"supported aten operators: {supported()}"
        )
    call = Call(node, aten, source, leaf, builder, values, parameters)
    check_result(call)
    return function(call)


def check_result(call: Call) -> None:
    """Refuse results that are not float32 or have a shape known only at run time."""
    result = call.node.meta.get("val")
    if not isinstance(result, torch.Tensor):
        return
    if result.dtype != torch.float32:
        raise call.refuse(f"its result is {result.dtype}, only torch.float32 is supported", "use module.float()")
    if not all(isinstance(size, int) for size in result.shape):
        raise call.refuse(f"its result has the dynamic shape {tuple(result.shape)}", "use fixed shapes")


def place_of(node: FxNode) -> tuple[Source, bool]:
    """The user's module path, file and line; and whether the innermost module is one of torch.nn's own layers.

    File and line are empty where only PyTorch's own files are on the stack.
    """
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path, kind = stack[-1] if stack else ("", "")
    leaf = str(kind).startswith("torch.nn.modules.") and ".container." not in str(kind)
    frames = [(found["file"], int(found["line"])) for found in FRAME.finditer(node.meta.get("stack_trace") or "")]
    own = [frame for frame in frames if not frame[0].startswith(TORCH_ROOT)]
    file, line = own[-1] if own else ("", 0)
    return Source(str(path), file, line), leaf


def place_of_error(error: BaseException, module: torch.nn.Module) -> Source:
    """Where in the user's module an error was raised: the innermost module and the innermost line of the user's."""
    paths = {id(child): name for name, child in module.named_modules()}
    path, file, number = "", "", 0
    for frame, line in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        path = paths.get(id(first), path)
        if not code.co_filename.startswith((TORCH_ROOT, COMPILER_ROOT, "<")):
            file, number = code.co_filename, line
    return Source(path, file, number)


def output_value(program: ExportedProgram, values: dict[FxNode, str]) -> str:
    """The name of the one value the model returns."""
    returned = next(node for node in program.graph.nodes if node.op == "output").args[0]
    items = list(returned) if isinstance(returned, (list, tuple)) else [returned]
    if len(items) != 1 or not isinstance(items[0], FxNode) or items[0] not in values:
        raise CompileError(
            f"the model returns {len(items)} values", hint="return one tensor computed from the input"
        )
    return values[items[0]]
