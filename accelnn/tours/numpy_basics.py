"""The notes' NumPy appendix and array exercises, as a table of expressions and their values."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from accelnn.backend import Array, current, to_device
from accelnn.functions import (
    L1,
    L2,
    image2vector,
    normalize_rows,
    sigmoid,
    sigmoid_derivative,
    softmax,
)

from .checks import Say, check, described


class Example(NamedTuple):
    """An expression of the notes and its value.

    text : the expression as it is shown
    run : the same as code; its parameters are names of INPUTS, or np
    expected : its value, or the type of the error that it raises
    remark : shown behind the expression
    """

    text: str
    run: Callable[..., Any]
    expected: Any
    remark: str = ""


INPUTS: dict[str, Any] = {
    "a": [1, 2, 3],
    "c": [[1], [2], [3]],
    "r": [[100, 200, 300]],
    "k": [[100], [200]],
    "p": [[0.5, 0.25], [1.0, 0.125]],
    "A": [[1, 2, 3], [4, 5, 6]],
    "image": [
        [[0.1, 0.2], [0.3, 0.4]],
        [[0.5, 0.6], [0.7, 0.8]],
    ],
    "rows": [[0, 3, 4], [1, 6, 4]],
    "x": [[9, 2, 5, 0, 0], [7, 5, 0, 0, 0]],
    "yhat": [0.9, 0.2, 0.1, 0.4, 0.9],
    "y": [1, 0, 0, 1, 1],
}

# The values of "functions", but for image2vector's, are those published with the course's exercise
# "Python Basics with NumPy"; the others are small enough to be checked by hand.
STEPS: dict[str, tuple[Example, ...]] = {
    "arrays of zeros and ones": (
        Example("np.zeros(3)", lambda np: np.zeros(3), [0, 0, 0], "a vector"),
        Example(
            "np.zeros((2, 3))",
            lambda np: np.zeros((2, 3)),
            [[0, 0, 0], [0, 0, 0]],
            "a matrix: the shape is a tuple",
        ),
        Example("np.ones((3, 1))", lambda np: np.ones((3, 1)), [[1], [1], [1]], "a column"),
    ),
    "(n,) against (n, 1)": (
        Example("a.shape", lambda a: a.shape, (3,), "rank 1: neither a row nor a column"),
        Example("a.T", lambda a: a.T, [1, 2, 3], "transposing it does nothing"),
        Example("a @ a.T", lambda a: a @ a.T, 14, "and this is a number, not a matrix"),
        Example("a.reshape(3, 1)", lambda a: a.reshape(3, 1), [[1], [2], [3]], "a column: c"),
        Example("c.T", lambda c: c.T, [[1, 2, 3]], "a row"),
        Example("c @ c.T", lambda c: c @ c.T, [[1, 2, 3], [2, 4, 6], [3, 6, 9]], "outer product"),
        Example("c.T @ c", lambda c: c.T @ c, [[14]], "inner product, still a matrix"),
        Example(
            "a - c", lambda a, c: a - c, [[0, 1, 2], [-1, 0, 1], [-2, -1, 0]], "a silent mistake"
        ),
    ),
    "shapes": (
        Example("A.shape", lambda A: A.shape, (2, 3)),
        Example("A.reshape(3, 2)", lambda A: A.reshape(3, 2), [[1, 2], [3, 4], [5, 6]], "not A.T"),
        Example("A.T", lambda A: A.T, [[1, 4], [2, 5], [3, 6]]),
        Example("A.reshape(-1)", lambda A: A.reshape(-1), [1, 2, 3, 4, 5, 6], "-1: what remains"),
    ),
    "adding and removing dimensions": (
        Example("a[np.newaxis, :]", lambda np, a: a[np.newaxis, :], [[1, 2, 3]], "a row"),
        Example("a[:, np.newaxis]", lambda np, a: a[:, np.newaxis], [[1], [2], [3]], "a column"),
        Example(
            "np.expand_dims(a, axis=0)",
            lambda np, a: np.expand_dims(a, axis=0),
            [[1, 2, 3]],
            "same as a[np.newaxis, :]",
        ),
        Example("a.reshape(1, -1)", lambda a: a.reshape(1, -1), [[1, 2, 3]], "and so is this"),
        Example("np.squeeze(c)", lambda np, c: np.squeeze(c), [1, 2, 3], "drops axes of length 1"),
        Example("c.reshape(-1)", lambda c: c.reshape(-1), [1, 2, 3], "drops all axes but one"),
    ),
    "indexing": (
        Example("a[-1]", lambda a: a[-1], 3, "the last"),
        Example("A[1, 2]", lambda A: A[1, 2], 6, "row 1, column 2, counted from 0"),
        Example("A[0]", lambda A: A[0], [1, 2, 3], "a row, rank 1"),
        Example("A[:, 1]", lambda A: A[:, 1], [2, 5], "a column, rank 1 as well"),
        Example("A[:, 1:2]", lambda A: A[:, 1:2], [[2], [5]], "the same column, still (2, 1)"),
        Example("A[0, :2]", lambda A: A[0, :2], [1, 2], "0 to 1: the end is left out"),
        Example("A[A > 3]", lambda A: A[A > 3], [4, 5, 6], "by a condition"),
    ),
    "sums and means by axis": (
        Example("A.sum(axis=0)", lambda A: A.sum(axis=0), [5, 7, 9], "down each column"),
        Example("A.sum(axis=1)", lambda A: A.sum(axis=1), [6, 15], "along each row; rank 1"),
        Example(
            "A.sum(axis=1, keepdims=True)",
            lambda A: A.sum(axis=1, keepdims=True),
            [[6], [15]],
            "a column",
        ),
        Example("np.mean(A)", lambda np, A: np.mean(A), 3.5, "of all elements"),
        Example("np.mean(A, axis=0)", lambda np, A: np.mean(A, axis=0), [2.5, 3.5, 4.5]),
        Example("np.mean(A, axis=1)", lambda np, A: np.mean(A, axis=1), [2, 5]),
    ),
    "element by element": (
        Example("a * a", lambda a: a * a, [1, 4, 9], "not the dot product"),
        Example("np.divide(a, 2)", lambda np, a: np.divide(a, 2), [0.5, 1, 1.5], "a / 2"),
        Example("r / a", lambda r, a: r / a, [[100, 100, 100]]),
        Example(
            "np.log(p)",
            lambda np, p: np.log(p),
            [[-0.69314718, -1.38629436], [0, -2.07944154]],
            "the natural logarithm",
        ),
        Example("np.exp(a)", lambda np, a: np.exp(a), [2.71828183, 7.3890561, 20.08553692]),
    ),
    "broadcasting": (
        Example("c + 100", lambda c: c + 100, [[101], [102], [103]], "(m, 1) with a number"),
        Example(
            "A + r",
            lambda A, r: A + r,
            [[101, 202, 303], [104, 205, 306]],
            "(m, n) with (1, n)",
        ),
        Example(
            "A + k",
            lambda A, k: A + k,
            [[101, 102, 103], [204, 205, 206]],
            "(m, n) with (m, 1)",
        ),
    ),
    "functions": (
        Example("sigmoid(a)", lambda a: sigmoid(a), [0.73105858, 0.88079708, 0.95257413]),
        Example(
            "sigmoid_derivative(a)",
            lambda a: sigmoid_derivative(a),
            [0.19661193, 0.10499359, 0.04517666],
        ),
        Example(
            "image2vector(image)",
            lambda image: image2vector(image),
            [[0.1], [0.2], [0.3], [0.4], [0.5], [0.6], [0.7], [0.8]],
        ),
        Example(
            "normalize_rows(rows)",
            lambda rows: normalize_rows(rows),
            [[0, 0.6, 0.8], [0.13736056, 0.82416338, 0.54944226]],
        ),
        Example(
            "softmax(x, axis=1)",
            lambda x: softmax(x, axis=1),
            [
                [9.80897665e-01, 8.94462891e-04, 1.79657674e-02, 1.21052389e-04, 1.21052389e-04],
                [8.78679856e-01, 1.18916387e-01, 8.01252314e-04, 8.01252314e-04, 8.01252314e-04],
            ],
        ),
        Example("L1(yhat, y)", lambda yhat, y: L1(yhat, y), 1.1),
        Example("L2(yhat, y)", lambda yhat, y: L2(yhat, y), 0.43),
    ),
}


def numpy_basics(say: Say = print) -> dict[str, Array]:
    """The NumPy appendix and array exercises: expression, inputs, output and shapes, checked.

    Returns the output of each expression, on the host. Raises ArithmeticError if one is not
    what it must be.
    """
    results = {}
    for topic, steps in STEPS.items():
        say(f"--- {topic}")
        printed: set[str] = set()
        width = max(len(step.text) for step in steps)
        for step in steps:
            given = {}
            for name in inspect.signature(step.run).parameters:
                given[name] = current().xp if name == "np" else to_device(np.array(INPUTS[name]))
                if name not in printed | {"np"}:
                    say(described(name, np.array(INPUTS[name]), width))
                    printed.add(name)
            value = step.run(**given)
            result = results[step.text] = check(step.text, value, step.expected)
            shown = described(step.text, value if isinstance(value, tuple) else result, width)
            say(shown + (f"   # {step.remark}" if step.remark else ""))
    say(f"All {len(results)} outputs are as expected.")
    return results
