"""Matrix products for CUDA graphs, by cuBLASLt through the bindings of nvmath-python.

CuPy's own products call cuBLAS, which CuPy refuses while a stream is being captured. A call of
cuBLASLt only enqueues: a `Product` prepares everything else once. Its epilogues save the kernels
around a product. Its matrices are column-major: an array with contiguous columns, or the transpose
of one with contiguous rows.
"""

import functools
import weakref
from typing import Any

import numpy as np

Array = Any  # a cupy.ndarray

# Bytes of a product's workspace, for splitting long sums: NVIDIA's advice for Hopper
WORKSPACE = 32 * 2**20

# cudaDataType_t (library_types.h) of an array's elements; bfloat16 is stored as uint16
CUDA_TYPES = {np.dtype(np.float32): 0, np.dtype(np.float64): 1, np.dtype(np.uint16): 14}

# cublasComputeType_t of a product's precision; sums are float32 for all but float64
COMPUTE_TYPES = {
    "float64": "COMPUTE_64F",
    "float32": "COMPUTE_32F",
    "tf32": "COMPUTE_32F_FAST_TF32",
    "bfloat16": "COMPUTE_32F",
}

# cublasLtMatmulHeuristicResult_t
HEURISTIC_RESULT = np.dtype(
    [("algorithm", "8u8"), ("workspace_bytes", "u8"), ("state", "i4"), ("rest", "5i4")]
)


class Unsupported(RuntimeError):
    """cuBLASLt has no algorithm for this product."""


def why_not() -> str | None:
    """Why cuBLASLt cannot be called here, or None."""
    try:
        _handle(_device())
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "nvmath":
            return f"nvmath-python is installed but lacks a module it needs ({error})"
        return "nvmath-python is not installed"
    except Exception as error:  # missing or incompatible libraries raise many types
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return f"cuBLASLt does not answer through nvmath-python ({reason})"
    return None


def relu_mask(xp: Any, n: int, m: int) -> Array:
    """An array with a bit for each of (n, m) activations, columns of whole 16 bytes."""
    return xp.empty((m, -(-n // 128) * 16), np.uint8)


class Product:
    """out = a b; each call enqueues the product on the current stream.

    Parameters
    ----------
    a, b, out : (n, k), (k, m) and (n, m), of a dtype in CUDA_TYPES and with contiguous rows or
        columns; `a` and `b` of one dtype, `out` of the same or, for bfloat16, float32
    precision : of the multiplications, a name of COMPUTE_TYPES
    workspace : 1-D uint8 of WORKSPACE elements; products that may run at once need one each
    bias : (n, 1), of out's dtype, needs `mask`: out = relu(a b + bias), in which NaN becomes 0
    mask : from `relu_mask`. With `bias` it receives where out is not 0; without, out is set to 0
        where the mask is 0. `out` needs contiguous columns

    Raises Unsupported if cuBLASLt cannot do it, ValueError for arrays of another layout.
    """

    def __init__(
        self,
        a: Array,
        b: Array,
        out: Array,
        precision: str,
        workspace: Array,
        bias: Array | None = None,
        mask: Array | None = None,
    ) -> None:
        from nvmath.bindings import cublas, cublasLt

        self._arrays = a, b, out, workspace, bias, mask  # cuBLASLt only has their addresses
        if not _by_columns(out):
            if mask is not None:
                raise ValueError("an epilogue needs an output with contiguous columns")
            a, b, out = b.T, a.T, out.T
        scale = np.dtype(np.float64 if precision == "float64" else np.float32)
        self._factors = np.array([1, 0], scale)
        self._lt, self._handle = cublasLt, _handle(_device())
        compute = cublas.ComputeType[COMPUTE_TYPES[precision]]
        self._description = cublasLt.matmul_desc_create(compute, CUDA_TYPES[scale])
        self._layouts: list[int] = []
        weakref.finalize(self, _destroy, cublasLt, self._description, self._layouts)
        describe = functools.partial(
            _set, cublasLt.matmul_desc_set_attribute, cublasLt.get_matmul_desc_attribute_dtype
        )
        attributes = cublasLt.MatmulDescAttribute
        for array, transposed in ((a, attributes.TRANSA), (b, attributes.TRANSB), (out, None)):
            by_columns = _by_columns(array)
            stored = array if by_columns else array.T
            step = stored.strides[1] // stored.itemsize
            shape = *stored.shape, max(step, stored.shape[0])
            layout = cublasLt.matrix_layout_create(CUDA_TYPES[array.dtype], *shape)
            self._layouts.append(layout)
            if transposed is not None:
                operation = cublas.Operation.N if by_columns else cublas.Operation.T
                describe(self._description, transposed, operation)
        if mask is not None:
            kind = cublasLt.Epilogue.DRELU if bias is None else cublasLt.Epilogue.RELU_AUX_BIAS
            describe(self._description, attributes.EPILOGUE, kind)
            describe(self._description, attributes.EPILOGUE_AUX_POINTER, mask.data.ptr)
            describe(self._description, attributes.EPILOGUE_AUX_LD, 8 * mask.shape[1])
            if bias is not None:
                describe(self._description, attributes.BIAS_POINTER, bias.data.ptr)
        pointers = a_at, b_at, out_at = a.data.ptr, b.data.ptr, out.data.ptr
        last = out_at if bias is None else out_at | bias.data.ptr
        self._algorithm = self._choose((*pointers, last), workspace.nbytes)
        a_layout, b_layout, layout = self._layouts
        one = self._factors.ctypes.data
        self._arguments = (
            *(self._handle, self._description),
            *(one, a_at, a_layout, b_at, b_layout),
            *(one + scale.itemsize, out_at, layout, out_at, layout),
            *(self._algorithm.ctypes.data, workspace.data.ptr, workspace.nbytes),
        )

    def _choose(self, pointers: tuple[int, ...], workspace_bytes: int) -> Array:
        """The algorithm that cuBLASLt expects to be the fastest for A, B, C and D as aligned."""
        lt = self._lt
        preference = lt.matmul_preference_create()
        try:
            dtype_of = lt.get_matmul_preference_attribute_dtype
            prefer = functools.partial(
                _set, lt.matmul_preference_set_attribute, dtype_of, preference
            )
            attributes = lt.MatmulPreferenceAttribute
            prefer(attributes.MAX_WORKSPACE_BYTES, workspace_bytes)
            for matrix, pointer in zip("ABCD", pointers, strict=True):
                # The largest power of two that divides the address; the default assumes 256.
                alignment = min(pointer & -pointer, 256)
                prefer(attributes[f"MIN_ALIGNMENT_{matrix}_BYTES"], alignment)
            found, count = np.zeros(1, HEURISTIC_RESULT), np.zeros(1, np.int32)
            matrices = *self._layouts, self._layouts[-1]
            results = 1, found.ctypes.data, count.ctypes.data
            lt.matmul_algo_get_heuristic(
                self._handle, self._description, *matrices, preference, *results
            )
        except lt.cuBLASLtError as error:
            raise Unsupported(f"cuBLASLt has no algorithm for it ({error})") from None
        finally:
            lt.matmul_preference_destroy(preference)
        if count[0] == 0 or found["state"][0] != 0:
            raise Unsupported("cuBLASLt has no algorithm for it")
        return found

    def __call__(self) -> None:
        import cupy

        self._lt.matmul(*self._arguments, cupy.cuda.get_current_stream().ptr)


def _by_columns(array: Array) -> bool:
    """Whether an array's columns are contiguous rather than its rows; ValueError if neither are."""
    n, m = array.shape
    down, across = (stride // array.itemsize for stride in array.strides)
    if (down == 1 or n == 1) and (across >= n or m == 1):
        return True
    if (across == 1 or m == 1) and (down >= m or n == 1):
        return False
    raise ValueError(
        f"expected a matrix with contiguous rows or columns, got strides {array.strides} bytes for "
        f"shape {array.shape}: copy it"
    )


def _set(setter: Any, dtype_of: Any, target: int, attribute: Any, value: int) -> None:
    """Set an attribute of a cuBLASLt descriptor, in the attribute's type."""
    buffer = np.array([value], dtype_of(attribute))
    setter(target, attribute, buffer.ctypes.data, buffer.nbytes)


def _destroy(lt: Any, description: int, layouts: list[int]) -> None:
    for layout in layouts:
        lt.matrix_layout_destroy(layout)
    lt.matmul_desc_destroy(description)


def _device() -> int:
    import cupy

    return int(cupy.cuda.Device().id)


@functools.cache
def _handle(device: int) -> int:  # noqa: ARG001
    """The handle of cuBLASLt for the current device, one for each process."""
    from nvmath.bindings import cublasLt

    return int(cublasLt.create())
