"""The functions of `loops.py` and `cpu/`, compiled by Numba at their first call, and kept on disk.

`serial.dot` is `loops.dot` compiled; `parallel.dot` is its parallel twin, in which `prange` is
Numba's, or the serial one if a function has no independent iterations.
"""

import dis
import functools
import hashlib
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import numba
import numpy as np
import platformdirs

from . import loops

Functions = dict[str, Any]


def functions_of(module: ModuleType) -> dict[str, FunctionType]:
    """The functions that a module defines, in order."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, FunctionType) and value.__module__ == module.__name__
    }


def njit(function: Callable[..., Any], **options: Any) -> Any:
    """`function` through Numba, kept on disk if possible: in NUMBA_CACHE_DIR or the user's cache.

    In the package's own folder, Numba's default, the files would outlive an uninstall, and the
    folder would hide the next installation.
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
    function: Any, scope: Functions, suffix: str = "", compiler: Any = njit, **options: Any
) -> Any:
    """`function` through Numba, with `scope` as its globals.

    The suffix distinguishes the variants of a function on disk: Numba names a cache file after the
    function, not its options, so the twins would load each other's code.
    """
    variant = FunctionType(function.__code__, scope, function.__name__ + suffix)
    variant.__qualname__ = variant.__name__
    variant.__doc__ = function.__doc__
    return compiler(variant, **options)


def serial_functions(
    module: ModuleType,
    imported: Functions | None = None,
    inlined: Collection[str] = (),
    suffix: str = "",
    **options: Any,
) -> Functions:
    """All functions of a module, compiled; `imported` replaces functions of other modules.

    Numba inlines the functions in `inlined`, and those that return a view, because their caller
    owns the viewed array.
    """
    scope = vars(module) | (imported or {})
    for name, function in functions_of(module).items():
        returns_view = function.__annotations__.get("return") is Any  # as Vector and Matrix are
        inline = {"inline": "always"} if returns_view or name in inlined else {}
        scope[name] = compiled(function, scope, suffix, **options, **inline)
    return {name: scope[name] for name in functions_of(module)}


def parallel_functions(module: ModuleType, serial: Functions, **options: Any) -> Functions:
    """Twins of the functions that use prange or call a function that does.

    One pass is enough, because a module defines each function before its callers.
    """
    scope = vars(module) | serial | {"prange": numba.prange}
    twins = {"prange"}
    for name, function in functions_of(module).items():
        # the names looked up as globals: `np.dot` looks up `np`, not `dot`
        code = dis.get_instructions(function)
        uses = twins & {op.argval for op in code if op.opname == "LOAD_GLOBAL"}
        if uses:
            options["parallel"] = "prange" in uses
            scope[name] = compiled(function, scope, "_parallel", **options)
            twins.add(name)
    return {name: scope[name] for name in functions_of(module)}


# The notes' loops, without fastmath: a sum is added up in the order in which it is written, so dot
# uses no SIMD lanes. This is what NumPy gains over the same loop.
_serial = serial_functions(loops)
serial = SimpleNamespace(**_serial)
parallel = SimpleNamespace(**parallel_functions(loops, _serial))

# The compiled steps may reorder sums and divide as NumPy does; otherwise loops with a sum or a
# quotient would use no SIMD lanes. NaN and infinity keep their meaning. Without _nrt, counting
# references to views took 4 of the 10 us of a step of the smallest network.
NUMPY = {"error_model": "numpy"}
FAST: dict[str, Any] = {"fastmath": {"contract", "reassoc", "nsz"}, "_nrt": False} | NUMPY
# "reassoc" would undo the rounding by `elementary.ROUNDING` and the constants in two parts; without
# "contract" there are no FMAs.
EXACT: dict[str, Any] = {"fastmath": {"contract"}, "forceinline": True} | NUMPY
# Functions that only compiled code calls need no wrappers, and `train` alone is kept on disk.
WITHIN = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "compiler": numba.njit}
# Functions with one caller, in which LLVM would optimise them a second time, and one that LLVM does
# not inline by itself, so that 10,000 losses took 140 us instead of 14
INLINED = ("step", "output", "forward", "backward", "gradient", "update", "gather", "logistic_loss")


@functools.cache
def cpu_functions(dtype: Any) -> Functions:
    """The compiled functions of the CPU's steps for arrays of this dtype, in an order in which
    callers come last; only compiled code can call them."""
    from .cpu import elementary, fused, steps

    numbers = ModuleType(elementary.__name__)  # `elementary` for the dtype
    single = elementary.SINGLE if np.dtype(dtype) == np.float32 else {}
    vars(numbers).update(vars(elementary) | single)
    functions: Functions = {}
    for module, options in ((numbers, EXACT), (loops, FAST), (fused, FAST), (steps, FAST)):
        imported = {name: f for name, f in functions.items() if name in vars(module)}
        functions |= serial_functions(module, imported, INLINED, _suffix(dtype), **options | WITHIN)
    return functions


@functools.cache
def train(dtype: Any) -> Any:
    """`cpu.steps.train` compiled for arrays of this dtype; it releases the interpreter's lock."""
    from .cpu import steps

    scope = vars(steps) | cpu_functions(dtype)
    return compiled(steps.train, scope, _suffix(dtype), nogil=True, **FAST)


def kept(function: Any, arguments: tuple[Any, ...]) -> bool:
    """Whether a function compiled for arguments of these types is on disk.

    Numba has no public way to ask; if its private one changes, the answer is no.
    """
    signature = tuple(map(numba.typeof, arguments))
    try:
        cache, codegen = function._cache, function.targetctx.codegen()
        return cache._index_key(signature, codegen) in cache._cache_file._load_index()
    except (AttributeError, OSError):
        return False


def prepare(function: Any, arguments: tuple[Any, ...], dtype: Any = None) -> float:
    """Load a function compiled for arguments of these types, or compile it; returns the seconds.

    If the function is `train`, `dtype` is the one it was made for. Another process compiles it, and
    this one loads the result; if that fails, this one compiles. Otherwise the last bits of a
    float32 training would differ between the process that compiles and later ones: a loaded
    function has its own, once more optimised, copies of the functions that it calls.
    """
    start = time.perf_counter()
    signature = tuple(map(numba.typeof, arguments))
    if dtype is not None and function.stats.cache_path and not kept(function, arguments):
        task = pickle.dumps((sys.path, np.dtype(dtype).name, pickle.dumps(signature)))
        # the child takes its path from the parent: "-c" would put the current folder first
        isolated = "-I" if sys.flags.isolated else "-P"
        command = [sys.executable, isolated, "-c", COMPILE_TRAIN]
        subprocess.run(command, input=task, capture_output=True, check=False)
    function.compile(signature)
    return time.perf_counter() - start


COMPILE_TRAIN = """
import gc, pickle, sys
gc.disable()  # collecting garbage took a tenth of the time
sys.path, dtype, signature = pickle.load(sys.stdin.buffer)
from accelnn.kernels import jit
jit.train(dtype).compile(pickle.loads(signature))
"""


def _suffix(dtype: Any) -> str:
    """A name for this version of all sources, compiled for a dtype.

    Numba compiles the functions of a changed file again, but not their callers in other files. And
    two processes compile for the two dtypes, so that a function could get the same symbol in both.
    """
    return f"_{np.dtype(dtype).name}_{_sources()}"


@functools.cache
def _sources() -> str:
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:8]
