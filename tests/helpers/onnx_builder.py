"""Writes small ``.onnx`` files in QDQ form or float32, node by node."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper


@dataclass
class Builder:
    """Collects nodes and constants; every method returns the name of the value it makes."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def fresh(self, prefix: str) -> str:
        return f"{prefix}{len(self.nodes) + len(self.constants)}"

    def constant(self, value: npt.NDArray[np.generic]) -> str:
        name = self.fresh("c")
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, code: str, *inputs: str, **attributes: object) -> str:
        output = self.fresh("v")
        self.nodes.append(
            helper.make_node(code, list(inputs), [output], name=f"/{code}_{len(self.nodes)}", **attributes)
        )
        return output

    def quantized(self, value: str, scale: float, zero_point: int, dtype: type[np.generic] = np.int8) -> str:
        """QuantizeLinear and DequantizeLinear."""
        parameters = (self.constant(np.float32(scale)), self.constant(np.array(zero_point, dtype)))
        return self.node("DequantizeLinear", self.node("QuantizeLinear", value, *parameters), *parameters)

    def weights(self, value: npt.NDArray[np.generic], scales: npt.NDArray[np.float32], axis: int = 0) -> str:
        """Integer constants behind DequantizeLinear."""
        zero = np.zeros(scales.shape, value.dtype)
        return self.node(
            "DequantizeLinear", self.constant(value), self.constant(scales), self.constant(zero), axis=axis
        )

    def model(self, shape: list[int], output: str, outputs: int) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "test",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, outputs])],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
