"""The kernels of kernels/gpu/*.cu on the host: g++ builds the same source with host.cuh in place of
CUDA. RawModule of the device double uses it.

A kernel is `extern "C" __global__ void name(type a, ...)`. Each source is compiled once for its
options and kept in the system's temporary folder. `seed` decides the order in which the simulated
threads run: correct code is correct for every seed.
"""

import ctypes
import functools
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

HOST = Path(__file__).with_name("host.cuh")
FLAGS = (
    "-O1",
    "-shared",
    "-fPIC",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-U_FORTIFY_SOURCE",
)
PASSED_ON = re.compile("-D|-U|-std=|--std=|--define-macro=")
WITHOUT_MEANING_HERE = re.compile("-?-(use_fast_math|fmad=|ftz=|lineinfo|restrict|maxrregcount)")
KERNEL = re.compile(
    r'extern\s+"C"\s+__global__\s+(?:void\s+)?'
    r"(?:__launch_bounds__\s*(\((?:[^()]|\([^()]*\))*\))\s*)?"
    r"(?:void\s+)?(\w+)\s*\(([^)]*)\)\s*\{"
)

seed = 0
seconds = 100.0  # of processor time, after which a launch fails


class CompileError(Exception):
    """The message of the compiler."""


class KernelError(Exception):
    """A mistake of the kernel."""


class Parameter(NamedTuple):
    """A parameter of a kernel.

    type : in C++
    size : of the value, in bytes
    dtype : of the number, or of the pointer's numbers; None for a struct
    constant : whether it is a pointer to const
    """

    name: str
    type: str
    size: int = 0
    dtype: np.dtype | None = None
    pointer: bool = False
    constant: bool = False


class Kernel(NamedTuple):
    """A kernel. bounds : its launch bounds in C++; max_threads : of a block, by the bounds"""

    name: str
    parameters: tuple[Parameter, ...]
    bounds: str
    max_threads: int = 0
    launch: object = None


class TypeOf(ctypes.Structure):
    """As in host.cuh."""

    _fields_ = (
        ("size", ctypes.c_int),
        ("pointer", ctypes.c_int),
        ("constant", ctypes.c_int),
        ("kind", ctypes.c_char),
        ("number", ctypes.c_int),
    )


class Region(ctypes.Structure):
    """As in host.cuh."""

    _fields_ = (("host", ctypes.c_void_p), ("bytes", ctypes.c_size_t), ("written", ctypes.c_int))


class Launch(ctypes.Structure):
    """As in host.cuh."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_size_t),
        ("resident", ctypes.c_uint),
        ("seed", ctypes.c_uint),
        ("seconds", ctypes.c_double),
        ("parameters", ctypes.c_int),
        ("arguments", ctypes.POINTER(ctypes.c_void_p)),
        ("region_of", ctypes.POINTER(ctypes.c_int)),
        ("regions", ctypes.c_int),
        ("region", ctypes.POINTER(Region)),
        ("message", ctypes.c_char_p),
        ("capacity", ctypes.c_size_t),
    )


@functools.cache
def compiler():
    """The command of the C++ compiler, or None."""
    command = shlex.split(os.environ.get("CXX", "g++"))
    if not sys.platform.startswith("linux") or shutil.which(command[0]) is None:
        return None
    return command


# --------------------------------------------------------------------------------------------
# compiling


@functools.cache
def build(code, options=()):
    """The kernels of a source by name. Raises CompileError with the compiler's message."""
    flags = [flag.replace("--std", "-std") for flag in options if PASSED_ON.match(flag)]
    for option in options:
        if not PASSED_ON.match(option) and not WITHOUT_MEANING_HERE.match(option):
            raise CompileError(f"unknown option {option!r}")
    if not any(flag.startswith("-std=") for flag in flags):
        flags.append("-std=c++17")
    preprocessed = _run([*compiler(), *flags, "-x", "c++", "-E", "-P", "-"], code)
    kernels = [_declared(*found.groups()) for found in KERNEL.finditer(preprocessed)]
    if not kernels:
        raise CompileError('there is no `extern "C" __global__ void name(...) {` in the source')
    program = "\n".join(
        [
            f'#line 1 "{HOST.name}"\n{HOST.read_text()}',
            f'#line 1 "source.cu"\n{code}',
            '#line 1 "launchers"\nstatic void** arguments;',
            *map(_launcher, kernels),
        ]
    )
    library = ctypes.PyDLL(str(_library(program, [*compiler(), *flags, *FLAGS])))
    return {kernel.name: _loaded(kernel, library) for kernel in kernels}


def _declared(bounds, name, parameters):
    parameters = tuple(_parameter(text) for text in parameters.split(",") if text.strip())
    return Kernel(name, parameters, bounds or "(1024)")


def _parameter(text):
    text = re.sub(r"\b(__restrict__|__restrict|__grid_constant__)\b", " ", text)
    kind, name = re.fullmatch(r"\s*(.*?)\s*(\w+)\s*", text, re.DOTALL).groups()
    return Parameter(name, " ".join(kind.split()))


def _launcher(kernel):
    """C++ code that launches it and describes its parameters, with typedefs resolved."""
    values = ", ".join(f"*({p.type}*)arguments[{i}]" for i, p in enumerate(kernel.parameters))
    types = "".join(f"simulated::type_of<{p.type}>(), " for p in kernel.parameters)
    return f"""
extern "C" {{
int launch_{kernel.name}(simulated::Launch* launch) {{
    arguments = launch->arguments;
    return simulated::run(launch, [] {{ {kernel.name}({values}); }});
}}
simulated::TypeOf types_{kernel.name}[] = {{{types}{{}}}};
int threads_{kernel.name} = simulated::most_threads{kernel.bounds};
}}"""


def _loaded(kernel, library):
    types = (TypeOf * len(kernel.parameters)).in_dll(library, f"types_{kernel.name}")
    parameters = tuple(
        parameter._replace(
            size=of.size,
            dtype=np.dtype(f"{of.kind.decode()}{of.number}") if of.number else None,
            pointer=bool(of.pointer),
            constant=bool(of.constant),
        )
        for parameter, of in zip(kernel.parameters, types, strict=True)
    )
    return kernel._replace(
        parameters=parameters,
        max_threads=ctypes.c_int.in_dll(library, f"threads_{kernel.name}").value,
        launch=library[f"launch_{kernel.name}"],
    )


def _library(program, command):
    """The compiled program, built now unless it was built before."""
    folder = Path(tempfile.gettempdir()) / f"accelnn-host-cuda-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():  # of another user: not safe to run
        folder = Path(tempfile.mkdtemp(prefix="accelnn-host-cuda-"))
    file = folder / f"{hashlib.sha256(repr((program, command)).encode()).hexdigest()}.so"
    if not file.exists():
        written = file.with_suffix(f".{os.getpid()}")
        _run([*command, "-x", "c++", "-", "-o", str(written)], program)
        written.replace(file)
    return file


def _run(command, text):
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        raise CompileError(f"{shlex.join(command)}\n{done.stderr}")
    return done.stdout


# --------------------------------------------------------------------------------------------
# launching


def launch(kernel, grid, block, arguments, shared, resident):
    """Run the kernel on NumPy arrays, passed by address, and scalars.

    arguments : for a pointer an array of its type, or an address as numpy.uintp (0 is null); for a
        number a NumPy scalar of exactly its type; for a struct a numpy.void
    shared : bytes of shared memory of a block
    resident : blocks that fit on the device at once

    Raises TypeError if an argument does not fit its parameter, and KernelError, without changing
    any array, if the kernel makes a mistake.
    """
    if len(arguments) != len(kernel.parameters):
        raise TypeError(
            f"{kernel.name} takes {len(kernel.parameters)} arguments, got {len(arguments)}"
        )
    owners, regions, region_of, values = {}, [], [], []
    for parameter, argument in zip(kernel.parameters, arguments, strict=True):
        _check(kernel, parameter, argument)
        if not (parameter.pointer and isinstance(argument, np.ndarray)):
            region_of.append(-1)
            values.append(np.frombuffer(np.asarray(argument).tobytes(), np.uint8).copy())
            continue
        low, high = np.lib.array_utils.byte_bounds(_owner(argument))
        if (low, high) not in owners:
            owners[low, high] = len(regions)
            regions.append(Region(low, high - low, False))
        region = owners[low, high]
        regions[region].written |= not parameter.constant
        region_of.append(region)
        values.append(np.array([argument.__array_interface__["data"][0]], np.uintp))
    count = len(values)
    message = ctypes.create_string_buffer(1000)
    request = Launch(
        grid=(ctypes.c_uint * 3)(*grid),
        block=(ctypes.c_uint * 3)(*block),
        shared=shared,
        resident=resident,
        seed=seed,
        seconds=seconds,
        parameters=count,
        arguments=(ctypes.c_void_p * count)(*(value.ctypes.data for value in values)),
        region_of=(ctypes.c_int * count)(*region_of),
        regions=len(regions),
        region=(Region * len(regions))(*regions),
        message=ctypes.cast(message, ctypes.c_char_p),
        capacity=len(message),
    )
    if kernel.launch(ctypes.byref(request)):
        raise KernelError(f"{kernel.name}: {message.value.decode()}")


def _owner(array):
    """The array that owns the memory of this one."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _check(kernel, parameter, argument):
    """Raise TypeError if the argument does not fit the parameter."""
    what = f"{kernel.name}: {parameter.type} {parameter.name}"
    if parameter.pointer and isinstance(argument, np.ndarray):
        if parameter.dtype is not None and argument.dtype != parameter.dtype:
            raise TypeError(f"{what} got an array of {argument.dtype}")
        if not parameter.constant and not _owner(argument).flags.writeable:
            raise TypeError(f"{what} got an array that is read-only")
    elif parameter.pointer:
        if type(argument) is not np.uintp:
            raise TypeError(
                f"{what} got {argument!r}: pass a device array, or numpy.uintp(0) for none"
            )
    elif parameter.dtype is not None and parameter.size == parameter.dtype.itemsize:
        if type(argument) is not parameter.dtype.type:
            raise TypeError(
                f"{what} got {argument!r} of type {type(argument).__name__}: "
                f"pass numpy.{parameter.dtype.name}"
            )
    elif not isinstance(argument, np.void) or argument.nbytes != parameter.size:
        raise TypeError(
            f"{what}, a struct of {parameter.size} bytes, got {argument!r}: pass a NumPy array of "
            "one element of that size"
        )
