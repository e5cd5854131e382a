"""Python's math module against NumPy: one number, a list, an array."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from accelnn.backend import NumpyBackend

from .checks import Say, check, examples, fastest

X = [1, 2, 3]


def expressions(x: Any) -> Iterator[tuple[Any, ...]]:
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


def math_and_numpy(say: Say = print, n: int = 100_000) -> dict[str, Any]:
    """Python's math against NumPy: a number, a list and an array, and the times of exp.

    Runs on NumPy whatever the backend. Returns the value of each expression, or its error as
    text, and the seconds of each timed one. Raises ArithmeticError if a value is wrong.
    """
    say(f"x = {X}")
    results: dict[str, Any] = {}
    for text, value, expected, remark in examples(expressions, X):
        if expected is TypeError:
            results[text], shown = _type_error(text, value), "TypeError"
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


def _type_error(text: str, run: Callable[[], Any]) -> str:
    try:
        value = run()
    except TypeError as error:
        return f"TypeError: {error}"
    raise ArithmeticError(f"{text} gave {value}, expected a TypeError")
