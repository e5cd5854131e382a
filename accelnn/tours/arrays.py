"""The notes' array exercises, as tables of expressions and their values.

A topic is a function: its docstring is the title, its parameters are inputs or NumPy itself (on a
GPU CuPy), and each line yields an expression, its value and a remark. A lambda delays an
expression that raises: its value is the type of the error.
"""

import ast
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy

from accelnn.backend import Array, NumpyBackend, current, to_device
from accelnn.functions import (
    L1,
    L2,
    image2vector,
    normalize_rows,
    sigmoid,
    sigmoid_derivative,
    softmax,
)

from .checks import Say, check, described, fastest

Examples = Iterator[tuple[Any, ...]]

INPUTS: dict[str, Any] = {
    "a": [1, 2, 3],
    "c": [[1], [2], [3]],
    "r": [[100, 200, 300]],
    "k": [[100], [200]],
    "p": [[0.5, 0.25], [1.0, 0.125]],
    "A": [[1, 2, 3], [4, 5, 6]],
    "image": [[[0.1, 0.2], [0.3, 0.4]], [[0.5, 0.6], [0.7, 0.8]]],
    "rows": [[0, 3, 4], [1, 6, 4]],
    "x": [[9, 2, 5, 0, 0], [7, 5, 0, 0, 0]],
    "yhat": [0.9, 0.2, 0.1, 0.4, 0.9],
    "y": [1, 0, 0, 1, 1],
}


def _zeros_and_ones(np: Any) -> Examples:
    """arrays of zeros and ones"""
    yield np.zeros(3), [0, 0, 0], "a vector"
    yield np.zeros((2, 3)), [[0, 0, 0], [0, 0, 0]], "a matrix: the shape is a tuple"
    yield np.ones((3, 1)), [[1], [1], [1]], "a column"


def _ranks(a: Array, c: Array) -> Examples:
    """(n,) against (n, 1)"""
    yield a.shape, (3,), "rank 1: neither a row nor a column"
    yield a.T, [1, 2, 3], "transposing it does nothing"
    yield a @ a.T, 14, "and this is a number, not a matrix"
    yield a.reshape(3, 1), [[1], [2], [3]], "a column: c"
    yield c.T, [[1, 2, 3]], "a row"
    yield c @ c.T, [[1, 2, 3], [2, 4, 6], [3, 6, 9]], "outer product"
    yield c.T @ c, [[14]], "inner product, still a matrix"
    yield a - c, [[0, 1, 2], [-1, 0, 1], [-2, -1, 0]], "a silent mistake"


def _shapes(A: Array) -> Examples:
    """shapes"""
    yield A.shape, (2, 3)
    yield A.reshape(3, 2), [[1, 2], [3, 4], [5, 6]], "not A.T"
    yield A.T, [[1, 4], [2, 5], [3, 6]]
    yield A.reshape(-1), [1, 2, 3, 4, 5, 6], "-1: what remains"


def _dimensions(np: Any, a: Array, c: Array) -> Examples:
    """adding and removing dimensions"""
    yield a[np.newaxis, :], [[1, 2, 3]], "a row"
    yield a[:, np.newaxis], [[1], [2], [3]], "a column"
    yield np.expand_dims(a, axis=0), [[1, 2, 3]], "same as a[np.newaxis, :]"
    yield a.reshape(1, -1), [[1, 2, 3]], "and so is this"
    yield np.squeeze(c), [1, 2, 3], "drops axes of length 1"
    yield c.reshape(-1), [1, 2, 3], "drops all axes but one"


def _indexing(a: Array, A: Array) -> Examples:
    """indexing"""
    yield a[-1], 3, "the last"
    yield A[1, 2], 6, "row 1, column 2, counted from 0"
    yield A[0], [1, 2, 3], "a row, rank 1"
    yield A[:, 1], [2, 5], "a column, rank 1 as well"
    yield A[:, 1:2], [[2], [5]], "the same column, still (2, 1)"
    yield A[0, :2], [1, 2], "0 to 1: the end is left out"
    yield A[A > 3], [4, 5, 6], "by a condition"


def _axes(np: Any, A: Array) -> Examples:
    """sums and means by axis"""
    yield A.sum(axis=0), [5, 7, 9], "down each column"
    yield A.sum(axis=1), [6, 15], "along each row; rank 1"
    yield A.sum(axis=1, keepdims=True), [[6], [15]], "a column"
    yield np.mean(A), 3.5, "of all elements"
    yield np.mean(A, axis=0), [2.5, 3.5, 4.5]
    yield np.mean(A, axis=1), [2, 5]


def _elements(np: Any, a: Array, r: Array, p: Array) -> Examples:
    """element by element"""
    yield a * a, [1, 4, 9], "not the dot product"
    yield np.divide(a, 2), [0.5, 1, 1.5], "a / 2"
    yield r / a, [[100, 100, 100]]
    yield np.log(p), [[-0.69314718, -1.38629436], [0, -2.07944154]], "the natural logarithm"
    yield np.exp(a), [2.71828183, 7.3890561, 20.08553692]


def _broadcasting(c: Array, A: Array, r: Array, k: Array) -> Examples:
    """broadcasting"""
    yield c + 100, [[101], [102], [103]], "(m, 1) with a number"
    yield A + r, [[101, 202, 303], [104, 205, 306]], "(m, n) with (1, n)"
    yield A + k, [[101, 102, 103], [204, 205, 206]], "(m, n) with (m, 1)"


# Published with the course's exercise "Python Basics with NumPy", except for image2vector's.
SOFTMAX = (
    (9.80897665e-01, 8.94462891e-04, 1.79657674e-02, 1.21052389e-04, 1.21052389e-04),
    (8.78679856e-01, 1.18916387e-01, 8.01252314e-04, 8.01252314e-04, 8.01252314e-04),
)


def _functions(a: Array, image: Array, rows: Array, x: Array, yhat: Array, y: Array) -> Examples:
    """functions"""
    yield sigmoid(a), [0.73105858, 0.88079708, 0.95257413]
    yield sigmoid_derivative(a), [0.19661193, 0.10499359, 0.04517666]
    yield image2vector(image), [[0.1], [0.2], [0.3], [0.4], [0.5], [0.6], [0.7], [0.8]]
    yield normalize_rows(rows), [[0, 0.6, 0.8], [0.13736056, 0.82416338, 0.54944226]]
    yield softmax(x, axis=1), SOFTMAX
    yield L1(yhat, y), 1.1
    yield L2(yhat, y), 0.43


TOPICS: tuple[Callable[..., Examples], ...] = (
    *(_zeros_and_ones, _ranks, _shapes, _dimensions, _indexing, _axes),
    *(_elements, _broadcasting, _functions),
)


def _math_and_numpy(np: Any, x: Any) -> Examples:
    """math against NumPy"""
    yield math.exp(3), 20.085536923187668, "one number"
    yield np.exp(3), 20.085536923187668, "the same"
    yield lambda: math.exp(x), TypeError, "does not accept a list"
    yield np.exp(x), [2.71828183, 7.3890561, 20.08553692], "accepts a list"
    yield x + x, [1, 2, 3, 1, 2, 3], "joins lists"
    yield lambda: x + 3, TypeError, "cannot add a number to a list"
    yield np.array(x) + 3, [4, 5, 6], "adds to each element"
    yield x * 2, [1, 2, 3, 1, 2, 3], "repeats a list"
    yield np.array(x) * 2, [2, 4, 6], "multiplies each element"
    yield lambda: 1 / x, TypeError, "cannot divide by a list"
    yield 1 / np.array(x), [1, 1 / 2, 1 / 3], "divides by each"


def examples(topic: Callable[..., Examples], *given: Any) -> Iterator[tuple[str, Any, Any, str]]:
    """The (text, value, expected, remark) of each line of a topic called with `given`."""
    source = inspect.getsource(topic)
    function: Any = ast.parse(source).body[0]
    yields: list[Any] = [line.value for line in function.body if isinstance(line.value, ast.Yield)]
    for node, (value, expected, *remark) in zip(yields, topic(*given), strict=True):
        expression = node.value.elts[0]
        if isinstance(expression, ast.Lambda):
            expression = expression.body
        text = ast.get_source_segment(source, expression) or ""
        yield text, value, expected, remark[0] if remark else ""


def numpy_basics(say: Say = print) -> dict[str, Array]:
    """The NumPy appendix and array exercises: expression, inputs, output and shapes, checked.

    Returns the output of each expression.
    """
    results = {}
    for topic in TOPICS:
        say(f"--- {topic.__doc__}")
        names = inspect.signature(topic).parameters
        inputs = {name: numpy.array(INPUTS[name]) for name in names if name != "np"}
        given = [to_device(inputs[name]) if name in inputs else current().xp for name in names]
        steps = list(examples(topic, *given))
        width = max(len(text) for text, *_ in steps)
        for name, array in inputs.items():
            say(described(name, array, width))
        for text, value, expected, remark in steps:
            result = results[text] = check(text, value, expected)
            shown = described(text, value if isinstance(value, tuple) else result, width)
            say(f"{shown}   # {remark}" if remark else shown)
    say(f"All {len(results)} outputs are as expected.")
    return results


def math_and_numpy(say: Say = print, n: int = 100_000) -> dict[str, Any]:
    """Python's math against NumPy: a number, a list and an array, and the times of exp.

    Runs on the CPU. Returns each expression's value or error as text, and the seconds if timed.
    """
    np, x = numpy, [1, 2, 3]
    say(f"x = {x}")
    results: dict[str, Any] = {}
    for text, value, expected, remark in examples(_math_and_numpy, np, x):
        if expected is TypeError:
            try:
                value = value()
            except TypeError as error:
                results[text], shown = f"TypeError: {error}", "TypeError"
            else:
                raise ArithmeticError(f"{text} gave {value}, expected a TypeError")
        else:
            check(text, value, expected)
            results[text] = value
            shown = np.array2string(value, precision=4) if isinstance(value, np.ndarray) else value
        say(f"  {text:16} {remark:30} {shown}")

    numbers = np.linspace(-1, 1, n)
    as_list = numbers.tolist()
    check("math.exp of each number", [math.exp(x) for x in as_list], np.exp(numbers))
    say("\nTimes:")
    for text, run in {
        "math.exp(0.5)": lambda: math.exp(0.5),
        "np.exp(0.5)": lambda: np.exp(0.5),
        f"[math.exp(x) for x in a list of {n:,}]": lambda: [math.exp(x) for x in as_list],
        f"np.exp(an array of {n:,})": lambda: np.exp(numbers),
        f"np.exp(a list of {n:,})": lambda: np.exp(as_list),
    }.items():
        seconds = results[text] = fastest(run, NumpyBackend())
        say(f"  {text:42} {seconds * 1e6:12,.2f} us")
    return results
