"""The functions of `loops.py` and `cpu/`, the very same, compiled by Numba.

`serial.dot` is `loops.dot` compiled; `parallel.dot` is its parallel twin, in which `prange` is
Numba's. A function without independent iterations has no twin: `parallel` then holds the serial
one. Each function is compiled at its first call for each combination of types, and kept on disk.
"""

import dis
import functools
import hashlib
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import numba
import platformdirs

from . import loops

Functions = dict[str, Any]


def functions_of(module: ModuleType) -> dict[str, FunctionType]:
    """The functions that a module defines, in its order."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, FunctionType) and value.__module__ == module.__name__
    }


def njit(function: Callable[..., Any], **options: Any) -> Any:
    """`function` through Numba, kept on disk if there is a place for it.

    That is NUMBA_CACHE_DIR or the user's cache folder. In the package's own folder, Numba's choice,
    the files would outlive an uninstall, and their folder would hide what is installed next.
    """
    given = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = given or platformdirs.user_cache_dir("accelnn")
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:
        return numba.njit(function, **options)
    finally:
        numba.config.CACHE_DIR = given


def compiled(
    function: FunctionType, scope: dict[str, Any], suffix: str = "", **options: Any
) -> Any:
    """`function` through Numba, with `scope` as its globals.

    The suffix tells the variants of one function apart on disk: Numba names a cache file after
    the function and not after its options, so the twins would load each other's code.
    """
    variant = FunctionType(function.__code__, scope, function.__name__ + suffix)
    variant.__qualname__ = variant.__name__
    variant.__doc__ = function.__doc__
    return njit(variant, **options)


def global_names(function: FunctionType) -> set[str]:
    """The globals among the names that a function looks up: `dot`, but not the one in `np.dot`."""
    return {op.argval for op in dis.get_instructions(function) if op.opname == "LOAD_GLOBAL"}


def options_of(function: FunctionType, options: dict[str, Any]) -> dict[str, Any]:
    """Functions that return a view become part of their caller: it owns what they point into."""
    returns_view = function.__annotations__.get("return") is Any  # as Vector and Matrix are
    return options | {"inline": "always"} if returns_view else options


def serial_functions(
    module: ModuleType, imported: Functions | None = None, suffix: str = "", **options: Any
) -> Functions:
    """All functions of a module, compiled; `imported`: compiled ones that it takes from others."""
    scope = vars(module) | (imported or {})
    for name, function in functions_of(module).items():
        scope[name] = compiled(function, scope, suffix, **options_of(function, options))
    return {name: scope[name] for name in functions_of(module)}


def parallel_functions(
    module: ModuleType,
    serial: Functions,
    imported: Functions | None = None,
    suffix: str = "",
    **options: Any,
) -> Functions:
    """Twins of the functions that use prange, and of those that call one of these.

    The latter have nothing to parallelise themselves. One pass is enough, for a module defines
    each function before its callers.
    """
    scope = vars(module) | (imported or {}) | serial | {"prange": numba.prange}
    twins = {"prange"}
    for name, function in functions_of(module).items():
        uses = twins.intersection(global_names(function))
        if uses:
            scope[name] = compiled(
                function, scope, "_parallel" + suffix, parallel="prange" in uses, **options
            )
            twins.add(name)
    return {name: scope[name] for name in functions_of(module)}


# The notes' loops. fastmath stays off: a compiled loop adds up in the order in which it is
# written, so that dot does not use SIMD lanes. That is what NumPy gains over the same loop.
_serial = serial_functions(loops)
serial = SimpleNamespace(**_serial)
parallel = SimpleNamespace(**parallel_functions(loops, _serial))

# What trains may add up in any order and divide as NumPy does: without it no loop with a sum or a
# quotient would use SIMD lanes. NaN and infinity keep their meaning. Nor does it count references
# to the views that it makes (_nrt): that took 4 of 10 us in a step of the smallest network.
FAST: dict[str, Any] = {
    "fastmath": {"contract", "reassoc", "nsz"},
    "error_model": "numpy",
    "_nrt": False,
}
EXACT: dict[str, Any] = {"fastmath": {"contract"}, "error_model": "numpy", "forceinline": True}


@functools.cache
def cpu_functions() -> Functions:
    """The functions that the steps of the CPU consist of, those that call others last."""
    from .cpu import blas, elementary, fused, steps

    modules = ((elementary, EXACT), (loops, FAST), (fused, FAST), (blas, FAST), (steps, FAST))
    functions: Functions = {}
    for module, options in modules:
        imported = {name: f for name, f in functions.items() if name in vars(module)}
        functions |= serial_functions(module, imported, _sources(), **options)
    return functions


@functools.cache
def train() -> Any:
    """`cpu.steps.train` compiled for one thread or several, which share each product."""
    from .cpu import steps

    return parallel_functions(steps, cpu_functions(), {}, _sources(), **FAST)["train"]


def kept(function: Any, arguments: tuple[Any, ...]) -> bool:
    """Whether a compiled function for arguments of these types is on disk.

    Numba has no public way to ask; where its private one changes, the answer is no.
    """
    signature = tuple(map(numba.typeof, arguments))
    try:
        cache, codegen = function._cache, function.targetctx.codegen()
        return cache._index_key(signature, codegen) in cache._cache_file._load_index()
    except (AttributeError, OSError):
        return False


def prepare(function: Any, arguments: tuple[Any, ...]) -> float:
    """Load a function compiled for arguments of these types, or compile it; the seconds taken.

    Another process compiles `train`, and this one loads the result; if that fails, this one
    compiles. In a process that compiles, Numba links a function to those it calls as they were
    compiled by themselves; a loaded function has its own copies of them, optimised once more.
    So the last bits of a float32 training changed from the process that compiled to the next.
    """
    start = time.perf_counter()
    signature = tuple(map(numba.typeof, arguments))
    if function is train() and function.stats.cache_path and not kept(function, arguments):
        task = pickle.dumps((sys.path, pickle.dumps(signature)))
        subprocess.run(
            [sys.executable, "-c", COMPILE_TRAIN], input=task, capture_output=True, check=False
        )
    function.compile(signature)
    return time.perf_counter() - start


COMPILE_TRAIN = """
import pickle, sys
sys.path, signature = pickle.load(sys.stdin.buffer)
from accelnn.kernels import jit
jit.train().compile(pickle.loads(signature))
"""


@functools.cache
def _sources() -> str:
    """A name for this version of all the sources.

    Numba compiles the functions of a changed file again, but not those of others that call them.
    """
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(source.read_bytes())
    return "_" + digest.hexdigest()[:8]
