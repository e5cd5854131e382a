"""The notes' exercises that train nothing: each says what it does and returns what it said.

A tour takes `say`, called like `print` with one text at a time, and computes on the chosen
backend. Nothing here is specific to a data set.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from accelnn import backend, functions
from accelnn.backend import Array, to_device, to_host
from accelnn.bench.timing import stopwatch
from accelnn.gradient_check import numerical_gradient, relative_difference
from accelnn.kernels import loops
from accelnn.network import Network, Parameters

Say = Callable[[str], object]


# --------------------------------------------------------------------------------------------
# vectorization

NUTRIENTS = ("carbohydrate", "protein", "fat")
FOODS = ("apples", "beef", "eggs", "potatoes")
CALORIES = ((56.0, 0.0, 4.4, 68.0), (1.2, 104.0, 52.0, 8.0), (1.8, 135.0, 99.0, 0.9))


def vectorization(say: Say = print, n: int = 1_000_000) -> dict[str, Any]:
    """The dot product of n numbers, loop against vectorised, and the calories by broadcasting.

    Returns loop and vectorised (the dot products), loop_seconds, vectorised_seconds, ratio (of
    these two), calories (4,) and percentage (3, 4), all on the host.
    """
    there = backend.current()
    random = np.random.RandomState(1)
    a, b = random.rand(n), random.rand(n)
    with backend.NumpyBackend().timer() as timing:
        loop = float(loops.dot(a, b))
    a, b = there.to_device(a), there.to_device(b)
    vectorised = float(there.xp.dot(a, b))
    seconds = stopwatch(lambda: there.xp.dot(a, b), there)()
    ratio = timing.seconds / seconds
    say(f"The dot product of two vectors of {n:,} random numbers in 0..1:")
    say(f"  loop        {loop:.6f}   {timing.seconds * 1e3:10.3f} ms   for i in range(n): ...")
    say(f"  vectorised  {vectorised:.6f}   {seconds * 1e3:10.3f} ms   {there.name}.dot(a, b)")
    say(f"  vectorised is {ratio:,.0f} times faster, on {there.device_name()}")

    A = there.to_device(np.array(CALORIES))
    cal = A.sum(axis=0)
    percentage = to_host(100 * A / cal.reshape(1, 4))
    cal = to_host(cal)
    say("")
    say("Broadcasting: percent of the calories from each nutrient, 100 * A / cal.reshape(1, 4)")
    say(f"  {'':12}" + "".join(f"{food:>10}" for food in FOODS))
    for nutrient, row in zip(NUTRIENTS, percentage, strict=True):
        say(f"  {nutrient:12}" + "".join(f"{value:10.2f}" for value in row))
    say(f"  {'calories':12}" + "".join(f"{value:10.1f}" for value in cal))
    return {
        "loop": loop,
        "vectorised": vectorised,
        "loop_seconds": timing.seconds,
        "vectorised_seconds": seconds,
        "ratio": ratio,
        "calories": cal,
        "percentage": percentage,
    }


# --------------------------------------------------------------------------------------------
# numpy-basics


class Step(NamedTuple):
    """An expression of the notes, what goes in by name, and what must come out."""

    expression: str
    inputs: dict[str, Any]
    expected: Any
    remark: str = ""


VECTOR = {"a": [1, 2, 3]}
COLUMN = {"c": [[1], [2], [3]]}
MATRIX = {"A": [[1, 2, 3], [4, 5, 6]]}
IMAGE = {
    "image": [
        [[0.67826139, 0.29380381], [0.90714982, 0.52835647], [0.4215251, 0.45017551]],
        [[0.92814219, 0.96677647], [0.85304703, 0.52351845], [0.19981397, 0.27417313]],
        [[0.60659855, 0.00533165], [0.10820313, 0.49978937], [0.34144279, 0.94630077]],
    ]
}
PREDICTIONS = {"yhat": [0.9, 0.2, 0.1, 0.4, 0.9], "y": [1, 0, 0, 1, 1]}

# What the functions give is as published with the course's exercise "Python Basics with NumPy".
STEPS: dict[str, tuple[Step, ...]] = {
    "(n,) against (n, 1)": (
        Step("a.shape", VECTOR, (3,), "rank 1: neither a row nor a column"),
        Step("a.T", VECTOR, [1, 2, 3], "transposing it does nothing"),
        Step("a @ a.T", VECTOR, 14, "and this is a number, not a matrix"),
        Step("a.reshape(3, 1)", VECTOR, [[1], [2], [3]], "a column, from here on c"),
        Step("c.T", COLUMN, [[1, 2, 3]], "a row"),
        Step("c @ c.T", COLUMN, [[1, 2, 3], [2, 4, 6], [3, 6, 9]], "the outer product"),
        Step("c.T @ c", COLUMN, [[14]], "the inner product, still a matrix"),
        Step("a - c", VECTOR | COLUMN, [[0, 1, 2], [-1, 0, 1], [-2, -1, 0]], "a silent mistake"),
    ),
    "shapes": (
        Step("A.shape", MATRIX, (2, 3)),
        Step("A.reshape(3, 2)", MATRIX, [[1, 2], [3, 4], [5, 6]], "row by row: not A.T"),
        Step("A.T", MATRIX, [[1, 4], [2, 5], [3, 6]]),
        Step("A.reshape(-1)", MATRIX, [1, 2, 3, 4, 5, 6], "-1: whatever remains"),
        Step("A.sum(axis=1)", MATRIX, [6, 15], "rank 1"),
        Step("A.sum(axis=1, keepdims=True)", MATRIX, [[6], [15]], "a column"),
    ),
    "broadcasting": (
        Step("c + 100", COLUMN, [[101], [102], [103]], "(m, 1) with a number"),
        Step(
            "A + r",
            MATRIX | {"r": [[100, 200, 300]]},
            [[101, 202, 303], [104, 205, 306]],
            "(m, n) with (1, n)",
        ),
        Step(
            "A + k",
            MATRIX | {"k": [[100], [200]]},
            [[101, 102, 103], [204, 205, 206]],
            "(m, n) with (m, 1)",
        ),
    ),
    "functions": (
        Step("np.exp(a)", VECTOR, [2.71828183, 7.3890561, 20.08553692]),
        Step("sigmoid(a)", VECTOR, [0.73105858, 0.88079708, 0.95257413]),
        Step("sigmoid_derivative(a)", VECTOR, [0.19661193, 0.10499359, 0.04517666]),
        Step(
            "image2vector(image)",
            IMAGE,
            [[value] for row in IMAGE["image"] for pixel in row for value in pixel],
        ),
        Step(
            "normalize_rows(x)",
            {"x": [[0, 3, 4], [1, 6, 4]]},
            [[0, 0.6, 0.8], [0.13736056, 0.82416338, 0.54944226]],
        ),
        Step(
            "softmax(x, axis=1)",
            {"x": [[9, 2, 5, 0, 0], [7, 5, 0, 0, 0]]},
            [
                [9.80897665e-01, 8.94462891e-04, 1.79657674e-02, 1.21052389e-04, 1.21052389e-04],
                [8.78679856e-01, 1.18916387e-01, 8.01252314e-04, 8.01252314e-04, 8.01252314e-04],
            ],
            "of each row",
        ),
        Step("L1(yhat, y)", PREDICTIONS, 1.1),
        Step("L2(yhat, y)", PREDICTIONS, 0.43),
    ),
}


def numpy_basics(say: Say = print) -> dict[str, Array]:
    """The array exercises, step by step: expression, inputs, output, shapes, each checked.

    Returns each expression's output, on the host. Raises ArithmeticError where one is not what
    it must be.
    """
    results = {}
    for topic, steps in STEPS.items():
        say(f"--- {topic}")
        for step in steps:
            say(f"{step.expression}" + (f"      # {step.remark}" if step.remark else ""))
            inputs = {name: to_device(np.array(value)) for name, value in step.inputs.items()}
            for name, array in inputs.items():
                say(_described(name, to_host(array)))
            # The text that was shown is the text that runs; it stands in the table above.
            known = vars(functions) | {"np": backend.current().xp} | inputs
            result = np.asarray(_on_host(eval(step.expression, known)))
            say(_described("=", result))
            results[step.expression] = result
            expected = np.array(step.expected)
            if result.shape != expected.shape or not np.allclose(result, expected, rtol=1e-7):
                raise ArithmeticError(
                    f"{step.expression} gave {result.tolist()}, expected {expected.tolist()}"
                )
    say(f"All {len(results)} outputs are as expected.")
    return results


def _on_host(value: Any) -> Any:
    return value if isinstance(value, tuple) else to_host(value)


def _described(name: str, array: Array) -> str:
    """A name, the shape and the values, on lines that align."""
    start = f"    {name:5} {array.shape!s:10} "
    return start + np.array2string(array, max_line_width=100, prefix=start)


# --------------------------------------------------------------------------------------------
# gradient-check

SETTINGS = ((1e-7, "|a|+|b|"), (1e-4, "|a+b|"))  # step and norm, the notes' both ways
RIGHT = 1e-7  # the largest relative difference of a right gradient

# by what is wrong: the factors on the gradients by layer and 0 for dW, 1 for db
MISTAKES: dict[str, dict[tuple[int, int], float]] = {
    "right": {},
    "dW2 doubled": {(1, 0): 2},
    "db1 times 4": {(0, 1): 4},
    "dW2 doubled and db1 times 4": {(1, 0): 2, (0, 1): 4},
}


def gradient_check(say: Say = print) -> dict[tuple[str, float, str], float]:
    """Gradients with and without a stated mistake, against central differences.

    One-dimensional: J(θ) = θ x at x = 2, θ = 4. n-dimensional: a net of three layers with the
    weights and data of the course's exercise. Returns the relative difference by what was
    checked ("1-D: right", "n-D: dW2 doubled", ...), step and norm.
    """
    x, theta = 2.0, np.array([4.0])
    say("One-dimensional: J = theta x with x = 2, theta = 4, so that dtheta = x")
    differences = _checked(
        say,
        "1-D",
        {"right": np.array([x]), "dtheta doubled": np.array([2 * x])},
        lambda theta: float(theta[0] * x),
        theta,
    )
    net = Network([4, 5, 3, 1], hidden="relu", output="sigmoid")
    random = np.random.RandomState(1)
    X, Y = random.randn(4, 3), np.array([[1.0, 1.0, 0.0]])
    shapes = zip(net.layers[1:], net.layers, strict=False)
    host = Parameters.from_layers([(random.randn(n, k), random.randn(n, 1)) for n, k in shapes])
    X, Y = to_device(X), to_device(Y)
    params = Parameters(to_device(host.flat), net.layers)
    say("")
    say(f"n-dimensional: a {list(net.layers)} net, {params.flat.size} parameters")
    gradients = {}
    for mistake, factors in MISTAKES.items():
        wrong = net.gradients(params, X, Y)
        for (layer, which), factor in factors.items():
            wrong[layer][which][...] *= factor
        gradients[mistake] = wrong.flat
    return differences | _checked(
        say,
        "n-D",
        gradients,
        lambda theta: net.cost(Parameters(theta, net.layers), X, Y),
        params.flat,
    )


def _checked(
    say: Say,
    kind: str,
    gradients: dict[str, Array],
    cost: Callable[[Array], float],
    theta: Array,
) -> dict[tuple[str, float, str], float]:
    """The relative difference of each gradient by each setting, said with its verdict."""
    differences = {}
    for step, norm in SETTINGS:
        numerical = numerical_gradient(cost, theta, step)
        say(f"  step {step:.0e}, |a - b| / ({norm})")
        for mistake, gradient in gradients.items():
            difference = relative_difference(gradient, numerical, norm)
            verdict = "right" if difference < RIGHT else "there is a mistake"
            say(f"    {mistake:28} {difference:.3e}   {verdict}")
            differences[f"{kind}: {mistake}", step, norm] = difference
    return differences


TOURS: dict[str, Callable[..., dict[Any, Any]]] = {
    "vectorization": vectorization,
    "numpy-basics": numpy_basics,
    "gradient-check": gradient_check,
}
