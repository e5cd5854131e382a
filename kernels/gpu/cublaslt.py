"""Matrix products that a CUDA graph can hold: cuBLASLt, by the bindings of nvmath-python.

CuPy's own products call cuBLAS, which it refuses to do while a stream is being captured. cuBLASLt
keeps no state between calls: all that it needs is settled when a `Product` is made, and a call
does nothing but enqueue. What it can do beside (its epilogues) saves the kernels around a product.

cuBLASLt's matrices are column-major. An array whose columns are contiguous is one; an array whose
rows are contiguous is the transpose of one.
"""

import functools
import weakref
from typing import Any

import numpy as np

Array = Any  # a cupy.ndarray

# Bytes for a product to work in, which is how it splits long sums: what NVIDIA advises for Hopper
WORKSPACE = 32 * 2**20

# cudaDataType_t (library_types.h) of an array's elements; bfloat16, which NumPy does not know, lies
# in uint16.
CUDA_TYPES = {np.dtype(np.float32): 0, np.dtype(np.float64): 1, np.dtype(np.uint16): 14}

# cublasComputeType_t of a product's precision. Sums are float32 in all but the first; bfloat16's
# operands come as such.
COMPUTE_TYPES = {
    "float64": "COMPUTE_64F",
    "float32": "COMPUTE_32F",
    "tf32": "COMPUTE_32F_FAST_TF32",
    "bfloat16": "COMPUTE_32F",
}

# cublasLtMatmulHeuristicResult_t: the algorithm comes first
HEURISTIC_RESULT = np.dtype(
    [
        ("algorithm", np.uint64, 8),
        ("workspace_bytes", np.uint64),
        ("state", np.int32),
        ("waves", np.float32),
        ("reserved", np.int32, 4),
    ]
)


class Unsupported(RuntimeError):
    """cuBLASLt has no algorithm for such a product."""


def why_not() -> str | None:
    """Why cuBLASLt cannot be called here, or None."""
    try:
        _handle(_device())
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "nvmath":
            return f"nvmath-python is installed but lacks a module it needs ({error})"
        return "nvmath-python is not installed"
    except Exception as error:  # libraries that are missing or do not fit raise many things
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return f"cuBLASLt does not answer through nvmath-python ({reason})"
    return None


def relu_mask(xp: Any, n: int, m: int) -> Array:
    """Room for a bit for each of (n, m) activations, columns of whole 16 bytes."""
    return xp.empty((m, -(-n // 128) * 16), np.uint8)


class Product:
    """out = a b, on arrays that stay where they are: each call enqueues it on the current stream.

    Parameters
    ----------
    a, b, out : (n, k), (k, m) and (n, m), of a dtype in CUDA_TYPES and with contiguous rows or
        columns; `a` and `b` of one dtype, `out` of that or, for bfloat16 operands, float32 too
    precision : of the multiplications, a name of COMPUTE_TYPES
    workspace : 1-D uint8 of WORKSPACE elements; products that may run at once need one each
    bias : (n, 1), of out's dtype: out = relu(a b + bias), where `mask` is given too; cuBLASLt's
        relu takes NaN to 0
    mask : from `relu_mask`, with bias written: where out is not 0; alone it is read, and out is
        set to 0 where the mask is. Either needs an `out` with contiguous columns

    Raises Unsupported where cuBLASLt cannot do it, ValueError for arrays of another layout.
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

        self._arrays = (a, b, out, workspace, bias, mask)  # cuBLASLt only knows where they are
        if not _by_columns(out):
            if mask is not None:
                raise ValueError("an epilogue needs an output with contiguous columns")
            a, b, out = b.T, a.T, out.T
        scale = np.dtype(np.float64 if precision == "float64" else np.float32)
        self._one, self._zero = np.ones(1, scale), np.zeros(1, scale)
        self._lt, self._handle = cublasLt, _handle(_device())
        self._pointers = tuple(array.data.ptr for array in (a, b, out, workspace))
        self._workspace_bytes = workspace.nbytes

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
            self._layouts.append(
                cublasLt.matrix_layout_create(
                    CUDA_TYPES[array.dtype], *stored.shape, max(step, stored.shape[0])
                )
            )
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
        self._algorithm = self._choose(0 if bias is None else bias.data.ptr)

    def _choose(self, bias: int) -> Array:
        """The algorithm that cuBLASLt expects to be the fastest for arrays of this alignment."""
        lt = self._lt
        a, b, out, _ = self._pointers
        preference = lt.matmul_preference_create()
        try:
            prefer = functools.partial(
                _set,
                lt.matmul_preference_set_attribute,
                lt.get_matmul_preference_attribute_dtype,
                preference,
            )
            attributes = lt.MatmulPreferenceAttribute
            prefer(attributes.MAX_WORKSPACE_BYTES, self._workspace_bytes)
            # It would else take them to lie at multiples of 256 bytes.
            prefer(attributes.MIN_ALIGNMENT_A_BYTES, _alignment(a))
            prefer(attributes.MIN_ALIGNMENT_B_BYTES, _alignment(b))
            prefer(attributes.MIN_ALIGNMENT_C_BYTES, _alignment(out))
            prefer(attributes.MIN_ALIGNMENT_D_BYTES, _alignment(out | bias))
            found, count = np.zeros(1, HEURISTIC_RESULT), np.zeros(1, np.int32)
            try:
                lt.matmul_algo_get_heuristic(
                    self._handle,
                    self._description,
                    *self._layouts,
                    self._layouts[-1],
                    preference,
                    1,
                    found.ctypes.data,
                    count.ctypes.data,
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

        a, b, out, workspace = self._pointers
        a_layout, b_layout, out_layout = self._layouts
        self._lt.matmul(
            self._handle,
            self._description,
            self._one.ctypes.data,
            a,
            a_layout,
            b,
            b_layout,
            self._zero.ctypes.data,
            out,
            out_layout,
            out,
            out_layout,
            self._algorithm.ctypes.data,
            workspace,
            self._workspace_bytes,
            cupy.cuda.get_current_stream().ptr,
        )


def _by_columns(array: Array) -> bool:
    """Whether an array's columns are contiguous, or else its rows; ValueError where neither are."""
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


def _alignment(pointer: int) -> int:
    """The largest power of two, up to 256, of which an address is a multiple."""
    return min(pointer & -pointer, 256)


def _set(setter: Any, dtype_of: Any, target: int, attribute: Any, value: int) -> None:
    """Set an attribute of a cuBLASLt descriptor, in the type that it has."""
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
    """cuBLASLt's handle for the current device, one for the process."""
    from nvmath.bindings import cublasLt

    return int(cublasLt.create())
