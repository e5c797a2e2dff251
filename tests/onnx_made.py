"""Networks in ONNX files, made by hand: they paint a hole grey."""

from pathlib import Path

import onnx
from onnx import TensorProto, helper


def grey(path: Path, side: int | str = "side", scale: float = 1.0, shade: float = 0.5, inputs: int = 2) -> Path:
    """(picture, hole) -> (picture * (1 - hole) + shade * hole) * scale; `side` may be a name: then any size will do."""
    shape = ["n", 3, side, side]
    given = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["n", 1, side, side]),
    ][:inputs]
    numbers = {"one": 1.0, "shade": shade, "scale": scale}
    constants = [helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in numbers.items()]
    hole = "mask" if inputs > 1 else "zero"
    if inputs < 2:
        constants.append(helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]))
    nodes = [
        helper.make_node("Sub", ["one", hole], ["known"]),
        helper.make_node("Mul", ["image", "known"], ["outside"]),
        helper.make_node("Mul", ["shade", hole], ["inside"]),
        helper.make_node("Add", ["outside", "inside"], ["sum"]),
        helper.make_node("Mul", ["sum", "scale"], ["output"]),
    ]
    output = [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)]
    graph = helper.make_graph(nodes, "grey", given, output, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path
