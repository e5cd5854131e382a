"""Trained networks as ONNX models, for runtimes without Python; needs the package onnx."""

from typing import Any

import numpy as np

from accelnn.backend import Array, to_host
from accelnn.install import install_command
from accelnn.network import Network, Parameters

# the operator of each activation; identity has none
OPERATORS = {"sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu", "leaky_relu": "LeakyRelu"}
OPERATORS |= {"softmax": "Softmax", "poisson": "Exp"}
ATTRIBUTES: dict[str, dict[str, Any]] = {"LeakyRelu": {"alpha": 0.01}, "Softmax": {"axis": 1}}
OPSET = 17


def exported(net: Network, params: Parameters, classes: Array | None = None) -> Any:
    """An `onnx.ModelProto` of "X" (m, n_features), an example a row, of the parameters' dtype.

    classes : (n_classes,) numbers or texts, which make it return "label" (m,) and "probabilities"
        (m, n_classes), two columns for a single class; without them it returns "outputs"
        (m, n_outputs)

    Raises ModuleNotFoundError without the package onnx.
    """
    try:
        import onnx
        from onnx import helper, numpy_helper
    except ModuleNotFoundError as error:
        remedy = install_command("onnx")
        raise ModuleNotFoundError(f"ONNX models need the package onnx: {remedy}") from error

    nodes: list[Any] = []
    constants: list[Any] = []
    names = (f"value{number}" for number in range(10**6))

    def add(operator: str, *inputs: Any, output: str = "", **attributes: Any) -> str:
        """A node; inputs are names of values, or arrays that become constants."""
        given = []
        for value in inputs:
            if not isinstance(value, str):
                constants.append(numpy_helper.from_array(value, next(names)))
                value = constants[-1].name
            given.append(value)
        output = output or next(names)
        nodes.append(helper.make_node(operator, given, [output], **attributes))
        return output

    Z, kinds = "X", (*net.hidden, net.output)
    for (W, b), kind in zip(params, kinds, strict=True):
        Z = add("Gemm", Z, to_host(W), to_host(b).ravel(), transB=1)
        if kind in OPERATORS:
            operator = OPERATORS[kind]
            Z = add(operator, Z, **ATTRIBUTES.get(operator, {}))
    number = helper.np_dtype_to_tensor_dtype(params.dtype)
    outputs = []
    if classes is None:
        add("Identity", Z, output="outputs")
        outputs.append(("outputs", number, ["m", net.layers[-1]]))
    else:
        if net.layers[-1] == 1:
            one = np.ones(1, params.dtype)
            Z = add("Concat", add("Sub", one, Z), Z, axis=1)
        labels = classes.astype(object) if classes.dtype.kind in "UO" else classes
        columns = max(len(labels), 2)
        labels = np.resize(labels, columns)  # a single class is both columns' label
        add("Gather", labels, add("ArgMax", Z, axis=1, keepdims=0), output="label")
        add("Identity", Z, output="probabilities")
        kind = helper.np_dtype_to_tensor_dtype(labels.dtype)
        outputs = [("label", kind, ["m"]), ("probabilities", number, ["m", columns])]
    graph = helper.make_graph(
        nodes,
        "accelnn",
        [helper.make_tensor_value_info("X", number, ["m", net.layers[0]])],
        [helper.make_tensor_value_info(*output) for output in outputs],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    return model
