"""Helpers of the tours: checks of values, printed arrays, timings, the course's weights."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from accelnn.backend import Array, Backend, to_device, to_host
from accelnn.bench.timing import stopwatch
from accelnn.network import Parameters

Say = Callable[[str], object]

WIDTH = 79  # of the lines that a tour prints


def check(what: str, value: Any, expected: Any, tolerance: float = 1e-7) -> Array:
    """The value on the host. Raises ArithmeticError, with the name `what`, if it has not the
    expected shape and values; `tolerance` is relative, and 1e-8 absolute."""
    result = np.asarray(value if isinstance(value, tuple) else to_host(value))
    right = np.asarray(expected)
    if result.shape != right.shape or not np.allclose(result, right, rtol=tolerance):
        raise ArithmeticError(f"{what} gave {result.tolist()}, expected {right.tolist()}")
    return result


def described(name: str, value: Array | tuple[int, ...], width: int = 5) -> str:
    """A name in `width` columns, the shape and the values to four digits, on lines that align."""
    if isinstance(value, tuple):
        return f"    {name:{width}} {'':7} {value}"
    start = f"    {name:{width}} {value.shape!s:7} "
    layout: Any = {"max_line_width": WIDTH, "precision": 4, "suppress_small": True}
    return start + np.array2string(value, **layout, prefix=start)


def fastest(run: Callable[[], object], backend: Backend) -> float:
    """The seconds of the fastest of five runs, each after an untimed one."""
    measure = stopwatch(run, backend)
    return min(measure() for _ in range(5))


def drawn(layers: Sequence[int], random: np.random.RandomState) -> Parameters:
    """W and b by randn, layer by layer, as the course's test cases draw them; on the device."""
    pairs = [(random.randn(n, before), random.randn(n, 1)) for before, n in pairwise(layers)]
    return Parameters(to_device(Parameters.from_layers(pairs).flat), layers)
