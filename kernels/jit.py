"""The loops of `loops.py`, the very same functions, compiled by Numba.

`serial.dot` is `loops.dot` compiled; `parallel.dot` is its parallel twin, in which `prange` is
Numba's. A function without independent iterations has no twin: `parallel` then holds the serial
one. Each function is compiled at its first call for each combination of types, and kept on disk.
"""

import dis
from collections.abc import Callable
from types import FunctionType, SimpleNamespace
from typing import Any

import numba

from . import loops

FUNCTIONS = {name: f for name, f in vars(loops).items() if isinstance(f, FunctionType)}


def njit(function: Callable[..., Any], **options: Any) -> Any:
    """`function` through Numba, kept on disk where there is a place for it."""
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:
        return numba.njit(function, **options)


def compiled(
    function: FunctionType, scope: dict[str, Any], suffix: str = "", parallel: bool = False
) -> Any:
    """`function` through Numba, with `scope` as its globals.

    The suffix tells the variants of one function apart on disk: Numba names a cache file after
    the function and not after its options, so the twins would load each other's code.
    """
    variant = FunctionType(function.__code__, scope, function.__name__ + suffix)
    variant.__qualname__ = variant.__name__
    variant.__doc__ = function.__doc__
    # fastmath stays off: a compiled loop adds up in the order in which it is written, so that dot
    # does not use SIMD lanes. That is what NumPy gains over the same loop, and it is told as it is.
    return njit(variant, parallel=parallel)


def global_names(function: FunctionType) -> set[str]:
    """Of the names that a function looks up, the globals: `dot`, but not the one in `np.dot`."""
    return {op.argval for op in dis.get_instructions(function) if op.opname == "LOAD_GLOBAL"}


def serial_functions() -> dict[str, Any]:
    scope = dict(vars(loops))
    for name, function in FUNCTIONS.items():
        scope[name] = compiled(function, scope)
    return {name: scope[name] for name in FUNCTIONS}


def parallel_functions(serial: dict[str, Any]) -> dict[str, Any]:
    """Twins of the functions that use prange, and of those that call one of these.

    The latter have nothing to parallelise themselves. One pass is enough, for `loops` defines
    each function before its callers.
    """
    scope = vars(loops) | serial | {"prange": numba.prange}
    twins = {"prange"}
    for name, function in FUNCTIONS.items():
        uses = twins.intersection(global_names(function))
        if uses:
            scope[name] = compiled(function, scope, "_parallel", parallel="prange" in uses)
            twins.add(name)
    return {name: scope[name] for name in FUNCTIONS}


_serial = serial_functions()
serial = SimpleNamespace(**_serial)
parallel = SimpleNamespace(**parallel_functions(_serial))
