"""Matrix products of BLAS inside compiled code, on blocks of row-major matrices.

Numba's own `np.dot` takes whole contiguous matrices only and cannot add to its result. The address
of BLAS's routine is looked up in each process and handed to the compiled code as a number, so
that the code can be kept on disk.
"""

import ctypes
import functools
from typing import Any

import numpy as np
import threadpoolctl
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import get_cython_function_address, intrinsic

Matrix = Any

ROUTINES = {"float32": "sgemm", "float64": "dgemm"}
NORMAL, TRANSPOSED = ord("N"), ord("T")

# How OpenBLAS's builds name a routine: NumPy's own, with integers of 64 bits or 32, and others'
NAMES = ("scipy_{}_64_", "scipy_{}_", "{}_64_", "{}_")


@functools.cache
def address(dtype: Any) -> int:
    """Where BLAS's matrix product for this dtype lies in this process.

    NumPy's and SciPy's wheels bring an OpenBLAS each, and NumPy's is the newer: 94 GFLOP/s on one
    thread where SciPy's had 87. SciPy's, whose address is public, where NumPy's is not found.
    """
    routine = ROUTINES[np.dtype(dtype).name]
    for path in sorted(_openblas_files(), key=lambda path: "numpy" not in path):
        library = ctypes.CDLL(path)
        for name in NAMES:
            function = getattr(library, name.format(routine), None)
            if function is not None:
                return int(ctypes.cast(function, ctypes.c_void_p).value or 0)
    return int(get_cython_function_address("scipy.linalg.cython_blas", routine))


def _openblas_files() -> list[str]:
    pools = threadpoolctl.threadpool_info()
    return [pool["filepath"] for pool in pools if pool["internal_api"] == "openblas"]


@intrinsic  # type: ignore[untyped-decorator]
def call_gemm(
    _context: Any,
    routine: Any,
    transa: Any,
    transb: Any,
    m: Any,
    n: Any,
    k: Any,
    alpha: Any,
    a: Any,
    lda: Any,
    b: Any,
    ldb: Any,
    beta: Any,
    c: Any,
    ldc: Any,
) -> Any:
    """?gemm(transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc): all by reference.

    Integers are written with 64 bits; a BLAS that wants 32 reads the lower half, which on all
    machines that Numba knows comes first.
    """
    arguments = (routine, transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)
    integer = types.intp
    signature = types.void(
        *(
            alpha if argument in (alpha, beta) and argument is not integer else integer
            for argument in arguments
        )
    )

    def codegen(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        byte = ir.IntType(8)
        pointer = byte.as_pointer()

        def by_reference(value: Any) -> Any:
            slot = cgutils.alloca_once_value(builder, value)
            return builder.bitcast(slot, pointer)

        def passed(position: int, value: Any) -> Any:
            if position in (1, 2):
                return by_reference(builder.trunc(value, byte))
            if position in (7, 9, 12):
                return builder.inttoptr(value, pointer)
            return by_reference(value)

        form = ir.FunctionType(ir.VoidType(), [pointer] * 13)
        routine = builder.inttoptr(values[0], form.as_pointer())
        builder.call(routine, [passed(*item) for item in enumerate(values) if item[0] > 0])
        return context.get_dummy_value()

    return signature, codegen


def gemm(
    routine: int,
    A: Matrix,
    A_transposed: int,
    B: Matrix,
    B_transposed: int,
    C: Matrix,
    alpha: float,
    beta: float,
    first: int,
    last: int,
    start: int,
    stop: int,
) -> None:
    """C ← α A B + β C in rows first ... last-1 and columns start ... stop-1 of C.

    BLAS counts by columns: what it is given as A, B and C is Bᵀ, Aᵀ and Cᵀ here.
    """
    depth = A.shape[0] if A_transposed else A.shape[1]
    size, lda, ldb, ldc = C.itemsize, A.shape[1], B.shape[1], C.shape[1]
    call_gemm(
        routine,
        TRANSPOSED if B_transposed else NORMAL,
        TRANSPOSED if A_transposed else NORMAL,
        stop - start,
        last - first,
        depth,
        alpha,
        B.ctypes.data + size * (start * ldb if B_transposed else start),
        ldb,
        A.ctypes.data + size * (first if A_transposed else first * lda),
        lda,
        beta,
        C.ctypes.data + size * (first * ldc + start),
        ldc,
    )
