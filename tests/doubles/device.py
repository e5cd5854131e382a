"""A stand-in for CuPy that runs on the host and is stricter than the real one.

Its arrays *wrap* NumPy's, because functions of NumPy would accept a subclass. They refuse to mix
with host arrays and to become one implicitly, and count each time the host waits for the device.
The module has only names that CuPy has (cupy_names.txt) and behaves like CuPy if that differs from
NumPy: a reduction gives a 0-d array, and Generator.random without a size draws one number for all
of `out`. `empty` fills with NaN. Copies on another stream are delayed (streams.py).

With a C++ compiler, its RawModule runs CUDA kernels on the host (host_cuda.py), within the limits
of a small GPU.
"""

import math
import operator
import types
from pathlib import Path

import numpy as np

from doubles import graphs as graphs_double
from doubles import host_cuda
from doubles import streams as streams_double

CUPY_NAMES = frozenset(Path(__file__).with_name("cupy_names.txt").read_text().split())

IN_PLACE = ("iadd", "isub", "imul", "itruediv")
BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor")
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
UNARY = ("neg", "pos", "abs", "invert")
METHODS = (
    *("all", "any", "argmax", "argmin", "astype", "clip", "copy", "cumsum", "dot", "fill", "max"),
    *("mean", "min", "prod", "ravel", "reshape", "squeeze", "std", "sum", "transpose", "var"),
    "view",
)


# As cupy.cuda.Device().attributes names them; the limits of a block are those of an H200.
ATTRIBUTES = {
    "MultiProcessorCount": 4,
    "WarpSize": 32,
    "MaxThreadsPerBlock": 1024,
    "MaxThreadsPerMultiProcessor": 1024,
    "MaxBlocksPerMultiprocessor": 32,
    "MaxSharedMemoryPerBlock": 48 * 1024,
    "MaxSharedMemoryPerBlockOptin": 227 * 1024,
    "MaxSharedMemoryPerMultiprocessor": 228 * 1024,
    "ReservedSharedMemoryPerBlock": 1024,
    "CooperativeLaunch": 1,
    "L2CacheSize": 2**20,
    "MaxGridDimX": 2**31 - 1,
    "MaxGridDimY": 2**16 - 1,
    "MaxGridDimZ": 2**16 - 1,
}


class Devices:
    """The number of visible devices and the current one."""

    count = 1
    current = 0


class Device:
    """As cupy.cuda.Device."""

    def __init__(self, index=None):
        self.id = Devices.current if index is None else int(index)
        self.before = []

    @property
    def attributes(self):
        return dict(ATTRIBUTES)

    @property
    def compute_capability(self):
        return "90"

    def use(self):
        if not 0 <= self.id < Devices.count:
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        Devices.current = self.id

    def __enter__(self):
        self.before.append(Devices.current)
        self.use()
        return self

    def __exit__(self, *_):
        Devices.current = self.before.pop()

    def synchronize(self):
        _synchronize()


class Log:
    """Counts: waits of the host for the device, uploads, launches of kernels."""

    synchronizations = 0
    uploads = 0
    launches = 0


def on_host(value):
    """The wrapped array for NumPy; host arrays are refused, as CuPy refuses them."""
    if isinstance(value, DeviceArray):
        if value.device.id != Devices.current:
            raise ValueError(
                f"The device where the array resides ({value.device.id}) is different from the "
                f"current device ({Devices.current}). Peer access is unavailable."
            )
        streams_double.use(value.wrapped)
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
        graphs_double.refuse(streams_double.current(), function.__name__)
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

    def __init__(self, wrapped, device=None):
        self.wrapped = wrapped
        self.device = device or Device()

    def __array__(self, *_args, **_kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed: use .get()")

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __len__(self):
        return len(self.wrapped)

    def __getitem__(self, index):
        return DeviceArray(np.asarray(self.wrapped[on_host(index)]), self.device)

    def __setitem__(self, index, value):
        graphs_double.refuse(streams_double.current(), "an assignment")
        on_host(self)[on_host(index)] = on_host(value)

    def get(self, out=None):
        Log.synchronizations += 1
        if out is None:
            return self.wrapped.copy()
        out[...] = self.wrapped
        return out

    def set(self, array, stream=None):
        Log.uploads += 1
        streams_double.copy_in(self.wrapped, array, stream)

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
    for name in ("shape", "dtype", "ndim", "size", "itemsize", "nbytes", "flags", "strides"):
        setattr(DeviceArray, name, property(operator.attrgetter(f"wrapped.{name}")))
    DeviceArray.data = property(
        lambda self: types.SimpleNamespace(ptr=self.wrapped.__array_interface__["data"][0])
    )
    DeviceArray.T = property(lambda self: DeviceArray(self.wrapped.T, self.device))
    for name in METHODS:
        setattr(DeviceArray, name, lifted(getattr(np.ndarray, name)))
    for name in (*BINARY, *COMPARISONS, *UNARY):
        setattr(DeviceArray, f"__{name}__", lifted(getattr(np.ndarray, f"__{name}__")))
    for name in BINARY:
        setattr(DeviceArray, f"__r{name}__", lifted(getattr(np.ndarray, f"__r{name}__")))
    for name in IN_PLACE:

        def in_place(self, other, name=f"__{name}__"):
            graphs_double.refuse(streams_double.current(), name)
            getattr(on_host(self), name)(on_host(other))
            return self

        setattr(DeviceArray, f"__{name}__", in_place)


_lift_methods()


def asarray(array, dtype=None):
    """The only way onto the device."""
    if isinstance(array, DeviceArray):
        moved = array.device.id != Devices.current
        return DeviceArray(np.array(array.wrapped, dtype, copy=True if moved else None))
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


def unwritten(function):
    """`function`, which allocates, with NaN or the least integer as unwritten elements."""

    def call(*args, **kwargs):
        array = lifted(function)(*args, **kwargs)
        kind = array.dtype.kind
        if kind in "fiu":
            array.wrapped.fill(np.nan if kind == "f" else np.iinfo(array.dtype).min)
        return array

    return call


class OutOfMemoryError(MemoryError):
    pass


class CUDARuntimeError(RuntimeError):
    pass


class CUDADriverError(RuntimeError):
    pass


class CompileException(Exception):
    pass


# --------------------------------------------------------------------------------------------
# kernels


def blocks_per_multiprocessor(threads, shared):
    """The blocks that fit on a multiprocessor, given their threads and bytes of shared memory."""
    warps = -(-threads // ATTRIBUTES["WarpSize"])
    needed = shared + ATTRIBUTES["ReservedSharedMemoryPerBlock"]
    return min(
        ATTRIBUTES["MaxBlocksPerMultiprocessor"],
        ATTRIBUTES["MaxThreadsPerMultiProcessor"] // (warps * ATTRIBUTES["WarpSize"]),
        ATTRIBUTES["MaxSharedMemoryPerMultiprocessor"] // needed,
    )


class RawKernel:
    """A kernel of a RawModule."""

    def __init__(self, kernel, cooperative):
        self._kernel = kernel
        self._cooperative = cooperative
        self._dynamic = ATTRIBUTES["MaxSharedMemoryPerBlock"]
        self.name = kernel.name
        # what CuPy's Function has: `ptr` is for driver.occupancyMaxActiveBlocksPerMultiprocessor
        self.kernel = types.SimpleNamespace(ptr=self)
        self.max_threads_per_block = kernel.max_threads

    @property
    def max_dynamic_shared_size_bytes(self):
        return self._dynamic

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size):
        if not 0 <= size <= ATTRIBUTES["MaxSharedMemoryPerBlockOptin"]:
            raise CUDADriverError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        self._dynamic = size

    def __call__(self, grid, block, args, *, shared_mem=0, stream=None):
        if not (isinstance(grid, tuple) and isinstance(block, tuple)):
            raise TypeError(f"expected grid and block as tuples, got {grid!r} and {block!r}")
        grid, block = ([max(1, size) for size in (*sizes, 1, 1)[:3]] for sizes in (grid, block))
        limits = [ATTRIBUTES[f"MaxGridDim{axis}"] for axis in "XYZ"]
        threads = math.prod(block)
        if threads > self.max_threads_per_block or block[2] > 64:
            raise CUDADriverError(f"CUDA_ERROR_INVALID_VALUE: invalid argument: block {block}")
        if any(size > limit for size, limit in zip(grid, limits, strict=True)):
            raise CUDADriverError(f"CUDA_ERROR_INVALID_VALUE: invalid argument: grid {grid}")
        if shared_mem > self._dynamic:
            raise CUDADriverError(
                f"CUDA_ERROR_INVALID_VALUE: invalid argument: {shared_mem} bytes of shared memory, "
                f"max_dynamic_shared_size_bytes is {self._dynamic}"
            )
        multiprocessors = ATTRIBUTES["MultiProcessorCount"]
        resident = multiprocessors * blocks_per_multiprocessor(threads, shared_mem)
        if self._cooperative and math.prod(grid) > resident:
            raise CUDADriverError(
                "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE: too many blocks in cooperative launch: "
                f"{math.prod(grid)}, {resident} fit"
            )
        Log.launches += 1
        args = [kernel_argument(arg) for arg in args]
        enqueue(lambda: host_cuda.launch(self._kernel, grid, block, args, shared_mem, resident))


def enqueue(work):
    """Do the work of a kernel, or store it if the stream is being captured."""
    graphs_double.enqueue(streams_double.current(), work)


def kernel_argument(arg):
    """The argument for host_cuda; a host array of one element is passed by value."""
    if not isinstance(arg, np.ndarray):
        return on_host(arg)
    if arg.size != 1:
        raise TypeError(f"You are trying to pass a numpy.ndarray of shape {arg.shape}")
    return arg.reshape(-1)[0]


class RawModule:
    """Kernels from source, compiled for the host when the first one is requested."""

    def __init__(
        self,
        code=None,
        *,
        options=(),
        backend="nvrtc",
        enable_cooperative_groups=False,
        name_expressions=None,
    ):
        if not isinstance(code, str) or not isinstance(options, tuple):
            raise TypeError("expected code as a str and options as a tuple of str")
        if backend != "nvrtc" or name_expressions is not None:
            raise NotImplementedError('the double takes kernels that are extern "C", by NVRTC')
        self.code, self.options = code, options
        self.enable_cooperative_groups = enable_cooperative_groups

    def compile(self, log_stream=None):
        self._kernels()

    def get_function(self, name):
        kernels = self._kernels()
        if name not in kernels:
            raise CUDADriverError(f"CUDA_ERROR_NOT_FOUND: named symbol not found: {name}")
        return RawKernel(kernels[name], self.enable_cooperative_groups)

    def _kernels(self):
        try:
            return host_cuda.build(self.code, self.options)
        except host_cuda.CompileError as error:
            raise CompileException(str(error)) from None


# --------------------------------------------------------------------------------------------
# the module


def _synchronize():
    Log.synchronizations += 1


class ComputeTypes:
    """`cupy._core._routines_linalg`, as far as it chooses the precision of products."""

    COMPUTE_TYPE_DEFAULT, COMPUTE_TYPE_TF32 = 1, 7

    def __init__(self):
        self.chosen = {np.dtype(dtype): self.COMPUTE_TYPE_DEFAULT for dtype in ("f", "d")}

    def get_compute_type(self, dtype):
        return self.chosen[np.dtype(dtype)]

    def set_compute_type(self, dtype, compute_type):
        self.chosen[np.dtype(dtype)] = compute_type


def _cuda():
    namespace = types.SimpleNamespace
    return namespace(
        Device=Device,
        Event=streams_double.Event,
        Stream=streams_double.Stream,
        alloc_pinned_memory=streams_double.PinnedMemory,
        compiler=namespace(CompileException=CompileException),
        driver=namespace(
            CUDADriverError=CUDADriverError,
            occupancyMaxActiveBlocksPerMultiprocessor=(
                lambda _kernel, threads, shared: blocks_per_multiprocessor(threads, shared)
            ),
        ),
        get_elapsed_time=lambda start, end: (end.seconds - start.seconds) * 1e3,
        get_current_stream=streams_double.current,
        memory=namespace(OutOfMemoryError=OutOfMemoryError),
        runtime=namespace(
            CUDARuntimeError=CUDARuntimeError,
            driverGetVersion=lambda: 13000,
            getDevice=lambda: Devices.current,
            getDeviceCount=lambda: Devices.count,
            getDeviceProperties=lambda _id: {
                "name": b"device double",
                "major": 9,
                "minor": 0,
                "multiProcessorCount": 4,
                "l2CacheSize": 2**20,
            },
            deviceGetPCIBusId=lambda index: f"0000:{index + 1:02X}:00.0",
            runtimeGetVersion=lambda: 13000,
            memGetInfo=lambda: (2**30, 2**31),
        ),
    )


class Module(types.ModuleType):
    """`cupy` for sys.modules, with so many visible devices, of which the first is current.

    With `kernels` and a C++ compiler it has RawModule.
    """

    def __init__(self, devices=1, kernels=False):
        super().__init__("cupy")
        Devices.count, Devices.current = devices, 0
        streams_double.reset(on_wait=_synchronize)
        graphs_double.reset()
        self.__version__ = "double"
        self.ndarray = DeviceArray
        self.asarray = self.array = asarray
        self.empty, self.empty_like = unwritten(np.empty), unwritten(np.empty_like)
        self.random = types.SimpleNamespace(default_rng=Generator)
        self.get_default_memory_pool = lambda: types.SimpleNamespace(free_bytes=lambda: 0)
        self.cuda = _cuda()
        self._core = types.SimpleNamespace(_routines_linalg=ComputeTypes())
        self.counts = Log
        if kernels and host_cuda.compiler():
            self.RawModule = RawModule

    def __getattr__(self, name):
        if name not in CUPY_NAMES:
            raise AttributeError(f"module 'cupy' has no attribute {name!r}")
        value = getattr(np, name)
        if isinstance(value, type) or not callable(value):
            return value
        return lifted(value)
