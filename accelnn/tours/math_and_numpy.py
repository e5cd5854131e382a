"""Python's math module against NumPy: one number, a list, an array."""

import math
from typing import Any

import numpy as np

from accelnn.backend import NumpyBackend

from .checks import Say, check, fastest
from .numpy_basics import Example

X: Any = [1, 2, 3]

STEPS = (
    Example("math.exp(3)", lambda: math.exp(3), 20.085536923187668, "one number"),
    Example("np.exp(3)", lambda: np.exp(3), 20.085536923187668, "the same"),
    Example("math.exp(x)", lambda x: math.exp(x), TypeError, "does not accept a list"),
    Example(
        "np.exp(x)", lambda x: np.exp(x), [2.71828183, 7.3890561, 20.08553692], "accepts a list"
    ),
    Example("x + x", lambda x: x + x, [1, 2, 3, 1, 2, 3], "joins lists"),
    Example("x + 3", lambda x: x + 3, TypeError, "cannot add a number to a list"),
    Example("np.array(x) + 3", lambda x: np.array(x) + 3, [4, 5, 6], "adds to each element"),
    Example("x * 2", lambda x: x * 2, [1, 2, 3, 1, 2, 3], "repeats a list"),
    Example("np.array(x) * 2", lambda x: np.array(x) * 2, [2, 4, 6], "multiplies each element"),
    Example("1 / x", lambda x: 1 / x, TypeError, "cannot divide by a list"),
    Example("1 / np.array(x)", lambda x: 1 / np.array(x), [1, 1 / 2, 1 / 3], "divides by each"),
)


def math_and_numpy(say: Say = print, n: int = 100_000) -> dict[str, Any]:
    """Python's math against NumPy: a number, a list and an array, and the times of exp.

    Runs on NumPy whatever the backend. Returns the value of each expression, or the error as
    text, and the seconds of what was timed. Raises ArithmeticError if a value is wrong.
    """
    say(f"x = {X}")
    results: dict[str, Any] = {}
    for step in STEPS:
        given = (X,) if step.run.__code__.co_argcount else ()
        try:
            value = step.run(*given)
        except TypeError as error:
            value = f"TypeError: {error}"
        if (step.expected is TypeError) != isinstance(value, str):
            raise ArithmeticError(f"{step.text} gave {value}, expected {step.expected}")
        if step.expected is not TypeError:
            check(step.text, value, step.expected)
        shown = "TypeError" if step.expected is TypeError else value
        with np.printoptions(precision=4):
            say(f"  {step.text:16} {step.remark:30} {shown}")
        results[step.text] = value

    numbers = np.linspace(-1, 1, n)
    as_list = numbers.tolist()
    check("math.exp of each number", [math.exp(x) for x in as_list], np.exp(numbers))
    say("")
    say("Times:")
    for what, run in {
        "math.exp(0.5)": lambda: math.exp(0.5),
        "np.exp(0.5)": lambda: np.exp(0.5),
        f"[math.exp(x) for x in a list of {n:,}]": lambda: [math.exp(x) for x in as_list],
        f"np.exp(an array of {n:,})": lambda: np.exp(numbers),
        f"np.exp(a list of {n:,})": lambda: np.exp(as_list),
    }.items():
        seconds = results[what] = fastest(run, NumpyBackend())
        say(f"  {what:42} {seconds * 1e6:12,.2f} us")
    return results
