"""A stand-in for nvmath-python's bindings of cuBLASLt that computes on the host, from addresses,
layouts and descriptors as in cuBLASLt's documentation, not from arrays.

Matrices are column-major. It has no name that the bindings do not have (a test says so where they
are installed), and answers what cuBLASLt does not do with its errors.
"""

import ctypes
import enum
import sys
import types

import numpy as np

from accelnn.kernels.gpu import cublaslt

NOT_SUPPORTED = 15


class cuBLASLtError(Exception):
    def __init__(self, status):
        self.status = status
        super().__init__(f"CUBLAS_STATUS_NOT_SUPPORTED ({status})")


class ComputeType(enum.IntEnum):
    COMPUTE_32F = 68
    COMPUTE_32F_FAST_TF32 = 77
    COMPUTE_64F = 70


class Operation(enum.IntEnum):
    N = 0
    T = 1


class Epilogue(enum.IntEnum):
    DEFAULT = 1
    RELU_AUX_BIAS = 134
    DRELU = 136


class MatmulDescAttribute(enum.IntEnum):
    TRANSA = 3
    TRANSB = 4
    EPILOGUE = 7
    BIAS_POINTER = 8
    EPILOGUE_AUX_POINTER = 11
    EPILOGUE_AUX_LD = 12


class MatmulPreferenceAttribute(enum.IntEnum):
    MAX_WORKSPACE_BYTES = 1
    MIN_ALIGNMENT_A_BYTES = 5
    MIN_ALIGNMENT_B_BYTES = 6
    MIN_ALIGNMENT_C_BYTES = 7
    MIN_ALIGNMENT_D_BYTES = 8


DESCRIPTION_TYPES = {
    MatmulDescAttribute.TRANSA: np.int32,
    MatmulDescAttribute.TRANSB: np.int32,
    MatmulDescAttribute.EPILOGUE: np.uint32,
    MatmulDescAttribute.BIAS_POINTER: np.int64,
    MatmulDescAttribute.EPILOGUE_AUX_POINTER: np.int64,
    MatmulDescAttribute.EPILOGUE_AUX_LD: np.int64,
}

# cudaDataType_t: how elements lie in memory
TYPES = {0: np.float32, 1: np.float64, 14: np.uint16}
BFLOAT16 = 14

# of A and B, and of D, for each compute type
SUPPORTED = {
    ComputeType.COMPUTE_32F: {(0, 0), (14, 14), (14, 0)},
    ComputeType.COMPUTE_32F_FAST_TF32: {(0, 0)},
    ComputeType.COMPUTE_64F: {(1, 1)},
}


class Double:
    """`nvmath.bindings.cublasLt`.

    enqueue : called with the work of a product
    epilogues : which of them are supported
    objects : descriptors that were not destroyed; calls : the compute type and the epilogue of each
    """

    def __init__(self, enqueue, epilogues=tuple(Epilogue)):
        self.epilogues = epilogues
        self._enqueue = enqueue
        self.objects = {}
        self._next = 1
        self.cuBLASLtError, self.Epilogue = cuBLASLtError, Epilogue
        self.MatmulDescAttribute = MatmulDescAttribute
        self.MatmulPreferenceAttribute = MatmulPreferenceAttribute
        self.calls = []

    def _new(self, thing):
        self._next += 16
        self.objects[self._next] = thing
        return self._next

    def _delete(self, handle):
        del self.objects[handle]

    def create(self):
        self._next += 16
        return self._next

    def matmul_desc_create(self, compute_type, scale_type):
        expected = 1 if compute_type == ComputeType.COMPUTE_64F else 0
        assert scale_type == expected
        return self._new(
            {
                "compute": ComputeType(compute_type),
                MatmulDescAttribute.EPILOGUE: Epilogue.DEFAULT,
            }
        )

    def matrix_layout_create(self, type, rows, cols, ld):
        assert ld >= rows > 0
        assert cols > 0
        return self._new((type, rows, cols, ld))

    def matmul_preference_create(self):
        return self._new(
            {
                attribute: 256
                for attribute in MatmulPreferenceAttribute
                if attribute.name.startswith("MIN_ALIGNMENT")
            }
        )

    matmul_desc_destroy = matrix_layout_destroy = matmul_preference_destroy = _delete

    def get_matmul_desc_attribute_dtype(self, attribute):
        return DESCRIPTION_TYPES[attribute]

    def get_matmul_preference_attribute_dtype(self, attribute):
        whole = attribute == MatmulPreferenceAttribute.MAX_WORKSPACE_BYTES
        return np.uint64 if whole else np.uint32

    def matmul_desc_set_attribute(self, desc, attribute, buffer, size):
        dtype = np.dtype(self.get_matmul_desc_attribute_dtype(attribute))
        assert size == dtype.itemsize
        self.objects[desc][attribute] = int(_memory(buffer, size).view(dtype)[0])

    def matmul_preference_set_attribute(self, preference, attribute, buffer, size):
        dtype = np.dtype(self.get_matmul_preference_attribute_dtype(attribute))
        assert size == dtype.itemsize
        self.objects[preference][attribute] = int(_memory(buffer, size).view(dtype)[0])

    def matmul_algo_get_heuristic(
        self, handle, desc, a, b, c, d, preference, requested, results, count
    ):
        assert handle
        assert requested == 1
        assert c == d
        description = self.objects[desc]
        types_of = [self.objects[layout][0] for layout in (a, b, d)]
        epilogue = Epilogue(description[MatmulDescAttribute.EPILOGUE])
        m, n, k = self._sizes(description, a, b, d)
        if (
            types_of[0] != types_of[1]
            or (types_of[0], types_of[2]) not in SUPPORTED[description["compute"]]
            or epilogue not in self.epilogues
            or (epilogue != Epilogue.DEFAULT and types_of[2] == 1)
            or (epilogue == Epilogue.DRELU and k == 1)
        ):
            raise cuBLASLtError(NOT_SUPPORTED)
        # The algorithm is what it was chosen for.
        wanted = self.objects[preference]
        alignments = [wanted[MatmulPreferenceAttribute[f"MIN_ALIGNMENT_{x}_BYTES"]] for x in "ABD"]
        found = _memory(results, 96).view(np.uint64)
        found[:] = 0
        found[:8] = [desc, m, n, k, *alignments, wanted[MatmulPreferenceAttribute(1)]]
        _memory(count, 4).view(np.int32)[0] = 1

    def _sizes(self, description, a, b, d):
        """m, n and k, if the shapes fit each other."""
        (rows, k), (k_too, columns) = (
            self._shape(description, layout, attribute)
            for layout, attribute in (
                (a, MatmulDescAttribute.TRANSA),
                (b, MatmulDescAttribute.TRANSB),
            )
        )
        assert k == k_too
        assert (rows, columns) == self.objects[d][1:3]
        return rows, columns, k

    def _shape(self, description, layout, attribute):
        _, rows, columns, _ = self.objects[layout]
        return (columns, rows) if description[attribute] == Operation.T else (rows, columns)

    def matmul(
        self, handle, desc, alpha, a, a_layout, b, b_layout, beta, c, c_layout, d, d_layout,
        algo, workspace, workspace_size, stream,
    ):  # fmt: skip
        description = dict(self.objects[desc])
        scale = np.float64 if description["compute"] == ComputeType.COMPUTE_64F else np.float32
        size = np.dtype(scale).itemsize
        assert handle
        assert stream is not None
        assert _memory(alpha, size).view(scale)[0] == 1
        assert _memory(beta, size).view(scale)[0] == 0
        assert (c, c_layout) == (d, d_layout)
        sizes = self._sizes(description, a_layout, b_layout, d_layout)
        chosen = _memory(algo, 64).view(np.uint64).tolist()
        assert chosen[:4] == [desc, *sizes]
        bias = description.get(MatmulDescAttribute.BIAS_POINTER, 0)
        for pointer, alignment in zip((a, b, d | bias), chosen[4:7], strict=True):
            assert pointer % alignment == 0
        assert chosen[7] <= workspace_size
        assert workspace
        layouts = [self.objects[layout] for layout in (a_layout, b_layout, d_layout)]
        epilogue = Epilogue(description[MatmulDescAttribute.EPILOGUE])
        self.calls.append((description["compute"].name, epilogue.name))
        self._enqueue(lambda: _matmul(description, epilogue, a, b, d, layouts))


def _memory(address, size):
    """The bytes of memory at an address."""
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), np.uint8)


def _matrix(address, layout):
    """(rows, columns) elements in memory, as a view."""
    kind, rows, columns, ld = layout
    size = (ld * (columns - 1) + rows) * np.dtype(TYPES[kind]).itemsize
    elements = _memory(address, size).view(TYPES[kind])
    step = elements.itemsize
    return np.lib.stride_tricks.as_strided(elements, (rows, columns), (step, ld * step))


def _matmul(description, epilogue, a, b, d, layouts):
    """D = op(A) op(B), then the epilogue."""
    factors = []
    for address, layout, attribute in (
        (a, layouts[0], MatmulDescAttribute.TRANSA),
        (b, layouts[1], MatmulDescAttribute.TRANSB),
    ):
        factor = from_bfloat16(_matrix(address, layout), layout[0])
        if description["compute"] == ComputeType.COMPUTE_32F_FAST_TF32:
            factor = rounded(factor, 13)
        factors.append(factor.T if description[attribute] == Operation.T else factor)
    kind, rows, columns, _ = layouts[2]
    result = factors[0] @ factors[1]
    if epilogue == Epilogue.RELU_AUX_BIAS:
        step = np.dtype(TYPES[kind]).itemsize
        bias = _memory(description[MatmulDescAttribute.BIAS_POINTER], rows * step)
        result = result + from_bfloat16(bias.view(TYPES[kind]), kind)[:, None]
    if epilogue != Epilogue.DEFAULT:
        ld = description[MatmulDescAttribute.EPILOGUE_AUX_LD]
        assert ld % 128 == 0
        assert ld >= rows
        mask = _memory(description[MatmulDescAttribute.EPILOGUE_AUX_POINTER], columns * ld // 8)
        mask = mask.reshape(columns, ld // 8)
        if epilogue == Epilogue.RELU_AUX_BIAS:
            positive = np.zeros((columns, ld), np.uint8)
            positive[:, :rows] = (result > 0).T
            mask[...] = np.packbits(positive, axis=1, bitorder="little")
        bits = np.unpackbits(mask, axis=1, bitorder="little")[:, :rows].T
        result = np.where(bits, result, 0).astype(result.dtype)
    out = _matrix(d, layouts[2])
    out[...] = to_bfloat16(result) if kind == BFLOAT16 else result


def rounded(array, bits):
    """float32 without its last bits, to nearest, ties to even."""
    words = np.ascontiguousarray(array, np.float32).view(np.uint32)
    half = np.uint32((1 << (bits - 1)) - 1)
    nearest = words + half + (words >> np.uint32(bits) & np.uint32(1))
    return (nearest >> np.uint32(bits) << np.uint32(bits)).view(np.float32)


def to_bfloat16(array):
    """The upper halves of float32, as uint16."""
    return (rounded(array, 16).view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def from_bfloat16(array, kind):
    """The numbers of a matrix, bfloat16 as float32."""
    if kind != BFLOAT16:
        return array
    return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)


def install(monkeypatch, enqueue, **options):
    """Put it in nvmath-python's place; gives its cublasLt. `options` are Double's."""
    bindings = types.ModuleType("nvmath.bindings")
    bindings.cublas = types.SimpleNamespace(ComputeType=ComputeType, Operation=Operation)
    bindings.cublasLt = Double(enqueue, **options)
    root = types.ModuleType("nvmath")
    root.bindings = bindings
    monkeypatch.setitem(sys.modules, "nvmath", root)
    monkeypatch.setitem(sys.modules, "nvmath.bindings", bindings)
    monkeypatch.setattr(cublaslt, "WORKSPACE", 1024)
    cublaslt._handle.cache_clear()
    return bindings.cublasLt
