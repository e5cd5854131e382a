"""The memory of a training in compiled steps: its arrays, and the records by which
`accelnn.kernels.cpu.steps` finds them."""

from typing import Any

import numpy as np

from accelnn.backend import Array
from accelnn.kernels.cpu import fused
from accelnn.network import Parameters
from accelnn.solvers import threads
from accelnn.solvers.gram import InSampleSpace
from accelnn.solvers.job import Job, layer_table

# Bytes of the activations that a thread works on at once. On 2 cores with 1 MiB of L2 each, steps
# of [784, 256, 128, 10] on 1,024 examples took 5.1 ms with this many and 5.6 ms with all at once.
ACTIVATIONS = 2**18
FEWEST, MOST = 64, 1024  # examples at once
# dW is computed from the transposed input if that has at least WIDE columns and fewer than MANY
# rows. Otherwise it is computed as inner products, each of which ends with a sum over SIMD lanes.
WIDE, MANY = 64, 512
ALIGNMENT = 128  # bytes of two cache lines, which some processors load together


class Layout:
    """The first two arguments of `steps.train`, `state` and `layers`, and what they point to; the
    optimizer's `moments` are zeros at first.

    job, params : the training, and the parameters it updates
    space : the trainer, if it trains in sample space
    forward_only : whether to replace `labels` by the logits without their bias
    """

    def __init__(
        self,
        job: Job,
        params: Parameters,
        space: InSampleSpace | None = None,
        forward_only: bool = False,
    ) -> None:
        from accelnn.kernels.cpu import steps, tiles

        sizes, dtype = params.layers, params.dtype
        self.dtype = dtype
        here = job.X.shape[1]  # other processes may have more
        m, units, lanes = max(1, min(job.sizes[0], here)), sum(sizes[1:]), tiles.lanes(dtype)
        gathered = job.batch_size is not None
        granule = lanes // 2 if gathered else lanes  # inner products need whole vectors
        numbers = m, params.flat.size, units, dtype.itemsize, len(job.sizes), lanes
        count = threads.best_count(*numbers)
        self.threads = min(count, job.threads or count)
        portion = max(ACTIVATIONS // (2 * units * dtype.itemsize) // lanes * lanes, FEWEST)
        portion = min(portion, MOST, steps.rounded_up(-(-m // self.threads), granule))
        row, columns = tiles.padded(portion, lanes), tiles.padded(m, lanes)
        self._arrays: list[Array] = [params.flat]

        def zeros(*shape: int) -> Array:
            """An array for all threads; spare rows, because whole blocks are transposed."""
            array = _aligned((*shape[:-2], shape[-2] + lanes, shape[-1]), dtype)
            self._arrays.append(array)
            return array

        def copies(rows: int, columns: int) -> Array:
            return zeros(self.threads, rows, columns)

        def filled(array: Array, columns: int) -> Array:
            whole = zeros(len(array), columns)
            whole[: len(array), : array.shape[1]] = array
            return whole

        def kept(array: Array) -> int:
            self._arrays.append(array)
            return address(array)

        X, Y = job.X if space is None else space.G, job.Y
        inputs = copies(sizes[0], row) if gathered else filled(X, columns)
        self.labels = copies(sizes[-1], row) if gathered else filled(Y, columns)
        w = copies(1, row) if gathered else zeros(1, columns)
        w[:] = 1
        if job.weights is not None and not gathered:
            w[0, :here] = job.weights
        A, dZ, db = copies(units, row), copies(units, row), copies(1, tiles.padded(units, lanes))
        table = layer_table(job.net, sizes)
        self.layers = np.zeros(len(table), steps.LAYER)
        for l, values in enumerate(table):
            unit, stride = values[4], tiles.padded(sizes[l], lanes)
            in_space = l == 0 and space is not None
            by_rows = not in_space and (gathered or (sizes[l] >= WIDE and portion < MANY))
            fields = dict(zip(steps.LAYER.names, values, strict=False))
            fields |= {"by_rows": by_rows, "keep_prob": [*job.net.keep_prob, 1.0][l]}
            fields["input"], fields["A"] = matrix(inputs), matrix(A[:, unit:])
            fields["dZ"] = matrix((dZ if l < len(table) - 1 else A)[:, unit:])
            fields["dW"] = matrix(
                zeros(sizes[1], columns) if in_space else copies(sizes[l + 1], stride)
            )
            fields["db"] = matrix(db[:, :, unit:])
            if by_rows and (l > 0 or gathered):
                fields["rows"] = matrix(copies(row, stride))
            elif by_rows:
                fields["rows"] = matrix(filled(job.X.T, stride), examples_in_rows=True)
            for name, value in fields.items():
                self.layers[name][l] = value
            inputs = A[:, unit:]

        moments = zeros(2, params.flat.size if job.optimizer.moments else 0)
        self.moments = list(moments[: job.optimizer.moments])
        beta1, beta2 = job.optimizer.betas
        fields = {
            "lanes": lanes,
            "size": dtype.itemsize,
            "granule": granule,
            "optimizer": fused.OPTIMIZERS[job.optimizer.name],
            "in_sample_space": space is not None,
            "gathered": gathered,
            "dropout": job.drops,
            "forward_only": forward_only,
            "in_order": job.batches_streamed,
            "portion": portion,
            "units": units,
            "theta": address(params.flat),
            "M": address(moments[0]),
            "V": address(moments[1]),
            "counters": kept(_aligned((32,), np.int64)),
            "labels": matrix(self.labels),
            "w": matrix(w),
            "P0": matrix(filled(space.P0, columns)) if space is not None else 0,
            "db": matrix(db),
            "work": matrix(copies(2, row)),
            "beta1": beta1,
            "beta2": beta2,
        }
        self.state = np.zeros(1, steps.state_type(dtype))
        for name, value in fields.items():
            self.state[name] = value
        if gathered and not job.batches_streamed:
            self.set_examples(_flat(job.X.T), _flat(job.Y.T), job.weights)

    def set_examples(self, X: Array, Y: Array, weights: Array | None, scale: float = 1.0) -> None:
        """What mini-batches are gathered from: rows of X, floats or bytes to be divided by `scale`,
        rows of Y, and weights (m,), all contiguous."""
        self._examples = X, Y, weights
        self.state["X"], self.state["Y"] = address(X), address(Y)
        self.state["bytes"], self.state["scale"] = X.dtype == np.uint8, scale
        if weights is not None:
            self.state["weights"] = address(weights)

    def set_masks(self, D: Array) -> None:
        """The dropout masks of the next steps, a flat array."""
        self._masks = D
        self.state["D"] = address(D)


def address(array: Array) -> int:
    return int(array.ctypes.data)


def matrix(array: Array, examples_in_rows: bool = False) -> tuple[int, int, int, int]:
    """The `steps.MATRIX` of an array: (threads, rows, columns), or shared by the threads (rows,
    columns) with an example in each column, or in each row."""
    if array.ndim == 3:
        return address(array), array.strides[1], array.strides[0], 0
    return address(array), array.strides[0], 0, array.strides[0 if examples_in_rows else 1]


def _aligned(shape: tuple[int, ...], dtype: Any) -> Array:
    """Zeros that share no cache line with other arrays."""
    item, size = np.dtype(dtype).itemsize, int(np.prod(shape))
    memory = np.zeros(size + 2 * ALIGNMENT // item, dtype)
    start = -address(memory) % ALIGNMENT // item
    return memory[start : start + size].reshape(shape)


def _flat(array: Array) -> Array:
    """The elements in C order, contiguous."""
    return np.ascontiguousarray(array).reshape(-1)
