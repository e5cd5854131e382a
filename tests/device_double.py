"""A stand-in for CuPy that runs on the host and is stricter than the real one.

Its arrays *wrap* NumPy's, so nothing can slip past by treating them as such. They refuse to mix
with host arrays and to become one implicitly, and count every time the host waits for the
device. The module exposes only names that CuPy has (tests/cupy_names.txt). It does what CuPy
does where that differs from NumPy: a reduction gives a 0-d array, and Generator.random without
a size draws one number for all of `out`.
"""

import operator
import time
import types
from pathlib import Path

import numpy as np

CUPY_NAMES = frozenset(Path(__file__).with_name("cupy_names.txt").read_text().split())

IN_PLACE = ("iadd", "isub", "imul", "itruediv")
BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor")
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
UNARY = ("neg", "pos", "abs", "invert")
METHODS = (
    *("all", "any", "argmax", "argmin", "astype", "clip", "copy", "cumsum", "dot", "fill", "max"),
    *("mean", "min", "prod", "ravel", "reshape", "squeeze", "std", "sum", "transpose", "var"),
)


class Log:
    """How often the host waited for the device, and how often data crossed over."""

    synchronizations = 0
    uploads = 0


def on_host(value):
    """What NumPy works on in place of `value`; host arrays are refused, as CuPy refuses them."""
    if isinstance(value, DeviceArray):
        return value.wrapped
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}: a host array meets a device array")
    if isinstance(value, tuple):
        return tuple(on_host(part) for part in value)
    return value


def on_device(value):
    return DeviceArray(np.asarray(value)) if isinstance(value, np.ndarray | np.generic) else value


def lifted(function):
    """`function` of NumPy, for device arrays."""

    def call(*args, **kwargs):
        if any(isinstance(arg, list) and function is not np.concatenate for arg in args):
            raise TypeError(f"Unsupported type <class 'list'> in {function.__name__}")
        args = [
            [on_host(part) for part in arg] if isinstance(arg, list) else on_host(arg)
            for arg in args
        ]
        out = kwargs.get("out")
        result = function(*args, **{key: on_host(value) for key, value in kwargs.items()})
        return out if out is not None else on_device(result)

    return call


class DeviceArray:
    __array_ufunc__ = None  # NumPy's own functions and operators refuse it
    __hash__ = None

    def __init__(self, wrapped):
        self.wrapped = wrapped

    def __array__(self, *_args, **_kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed: use .get()")

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __len__(self):
        return len(self.wrapped)

    def __getitem__(self, index):
        return DeviceArray(np.asarray(self.wrapped[on_host(index)]))

    def __setitem__(self, index, value):
        self.wrapped[on_host(index)] = on_host(value)

    def get(self):
        Log.synchronizations += 1
        return self.wrapped.copy()

    def item(self):
        Log.synchronizations += 1
        return self.wrapped.item()

    def tolist(self):
        Log.synchronizations += 1
        return self.wrapped.tolist()

    def __float__(self):
        return float(self.item())

    def __int__(self):
        return int(self.item())

    def __bool__(self):
        return bool(self.item())

    __index__ = __int__

    def __repr__(self):
        Log.synchronizations += 1
        return f"device {self.wrapped!r}"


def _lift_methods():
    for name in ("shape", "dtype", "ndim", "size", "nbytes", "flags", "strides"):
        setattr(DeviceArray, name, property(operator.attrgetter(f"wrapped.{name}")))
    DeviceArray.T = property(lambda self: DeviceArray(self.wrapped.T))
    for name in METHODS:
        setattr(DeviceArray, name, lifted(getattr(np.ndarray, name)))
    for name in (*BINARY, *COMPARISONS, *UNARY):
        setattr(DeviceArray, f"__{name}__", lifted(getattr(np.ndarray, f"__{name}__")))
    for name in BINARY:
        setattr(DeviceArray, f"__r{name}__", lifted(getattr(np.ndarray, f"__r{name}__")))
    for name in IN_PLACE:

        def in_place(self, other, name=f"__{name}__"):
            getattr(self.wrapped, name)(on_host(other))
            return self

        setattr(DeviceArray, f"__{name}__", in_place)


_lift_methods()


def asarray(array, dtype=None):
    """The one way onto the device."""
    if isinstance(array, DeviceArray):
        return DeviceArray(np.asarray(array.wrapped, dtype))
    Log.uploads += isinstance(array, np.ndarray)
    return DeviceArray(np.array(array, dtype))


class Generator:
    def __init__(self, seed):
        self.generator = np.random.default_rng(seed)

    def random(self, size=None, dtype=np.float64, out=None):
        if out is None:
            return on_device(np.asarray(self.generator.random(size, dtype)))
        out[...] = on_device(np.asarray(self.generator.random(size, dtype)))
        return out


class OutOfMemoryError(MemoryError):
    pass


class CUDARuntimeError(RuntimeError):
    pass


def _synchronize():
    Log.synchronizations += 1


def _cuda():
    class Event:
        def record(self):
            self.seconds = time.perf_counter()

        def synchronize(self):
            _synchronize()

    namespace = types.SimpleNamespace
    return namespace(
        Device=lambda: namespace(id=0),
        Event=Event,
        get_elapsed_time=lambda start, end: (end.seconds - start.seconds) * 1e3,
        get_current_stream=lambda: namespace(synchronize=_synchronize),
        memory=namespace(OutOfMemoryError=OutOfMemoryError),
        runtime=namespace(
            CUDARuntimeError=CUDARuntimeError,
            driverGetVersion=lambda: 13000,
            getDeviceCount=lambda: 1,
            getDeviceProperties=lambda _id: {"name": b"device double"},
            memGetInfo=lambda: (2**30, 2**31),
        ),
    )


class Module(types.ModuleType):
    """`cupy`, to be put in sys.modules."""

    def __init__(self):
        super().__init__("cupy")
        self.__version__ = "double"
        self.ndarray = DeviceArray
        self.asarray = self.array = asarray
        self.random = types.SimpleNamespace(default_rng=Generator)
        self.cuda = _cuda()
        self.counts = Log

    def __getattr__(self, name):
        if name not in CUPY_NAMES:
            raise AttributeError(f"module 'cupy' has no attribute {name!r}")
        value = getattr(np, name)
        if isinstance(value, type) or not callable(value):
            return value
        return lifted(value)
