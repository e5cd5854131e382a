"""Data on the host for parameters on a CUDA device: columns gathered, sent and used side by side.

Three things happen at once. Threads gather batch k+2 into pinned memory; the copy engine sends
batch k+1, on a stream of its own; the device works on batch k. So an epoch takes as long as the
slowest of the three, which is mostly the way there: about 25 GB/s over PCIe 4, 50 over PCIe 5.
Columns therefore travel as they are stored (a picture as bytes), and become floats on the device.

All calls of CUDA are made by the caller's thread, for a thread has a current device and stream
of its own; the others run NumPy alone.
"""

import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import cycle, pairwise
from typing import Any, Self, TypeVar

import numpy as np

from accelnn.backend import Array, array_module, at_work, to_host
from accelnn.columns import BLOCK_BYTES, THREADS, HostColumns
from accelnn.network import Network, Parameters, Workspace, cost_and_accuracy, forward

# One batch is gathered, one sent and one used.
SLOTS = 3

# Of a chunk of data and its activations, where all of the data is only looked at: enough to keep
# a device busy, and little of its memory
CHUNK_BYTES = 1 << 27

T = TypeVar("T")


class Slot:
    """Room for one batch on its way.

    pinned : filled by threads; pinned, for only then does a copy run beside everything else
    landed : on the device, what `pinned` held
    copied : passed by the upload stream when `pinned` may be filled again
    used : passed by the stream that computes when `landed` may be overwritten
    """

    def __init__(self, data: Sequence[HostColumns], most: int, compute: Any, xp: Any) -> None:
        self.data = data
        shapes = [(most, columns.shape[0]) for columns in data]
        self.pinned = [
            _pinned(shape, columns.wire, xp) for shape, columns in zip(shapes, data, strict=True)
        ]
        self.landed = [xp.empty(host.shape, host.dtype) for host in self.pinned]
        self.copied = xp.cuda.Event(block=True, disable_timing=True)
        self.used = xp.cuda.Event(disable_timing=True)
        # What has just been allocated may still be in use by work that was begun earlier: CuPy
        # gives a stream its freed memory back before the work on it is done.
        self.used.record(compute)
        self.size = 0
        self.pieces: list[Future[None]] = []

    def gather(self, pool: ThreadPoolExecutor, wanted: Array) -> Self:
        """Begin to collect these columns, as soon as the batch before has left."""
        self.copied.synchronize()
        self.size = len(wanted)
        self.pieces = [
            pool.submit(columns.gather, wanted[start:end], host[start:end])
            for columns, host in zip(self.data, self.pinned, strict=True)
            for start, end in _pieces(self.size, host[:1].nbytes)
        ]
        return self

    def send(self, upload: Any) -> Self:
        """Begin to copy what was collected, as soon as the batch before has been used."""
        for piece in self.pieces:
            piece.result()
        upload.wait_event(self.used)
        for host, there in zip(self.pinned, self.landed, strict=True):
            there[: self.size].set(host[: self.size], upload)
        self.copied.record(upload)
        return self

    def receive(self, compute: Any, batch: Sequence[Array]) -> list[Array]:
        """The columns (n, size) as floats, in the arrays of `batch`, as soon as they are there.

        A copy even where nothing is converted: it frees the slot for the next but two, and at
        the rate of the device's memory it takes a fiftieth of the way there.
        """
        compute.wait_event(self.copied)
        arrays = []
        for columns, there, room in zip(self.data, self.landed, batch, strict=True):
            floats = room[: self.size]
            floats[...] = there[: self.size]
            if columns.scale != 1:
                floats /= columns.scale
            arrays.append(floats.T)
        self.used.record(compute)
        return arrays


def stream(
    data: Sequence[HostColumns], wanted: Iterable[Array], most: int, xp: Any
) -> Generator[list[Array], None, None]:
    """For each array in `wanted` the columns that it names, of each of `data`, on the device.

    Parameters
    ----------
    data : of as many columns each
    wanted : arrays of column numbers, at most `most` of them in each; drawn two ahead
    most : see there
    xp : cupy

    Yields (n, size) arrays with contiguous columns, for work on the stream that was current when
    the first was asked for, until the next is. To be closed, however it ends: then no thread
    runs, no copy is under way and no memory is pinned.
    """
    compute, upload = xp.cuda.get_current_stream(), xp.cuda.Stream(non_blocking=True)
    slots = cycle(Slot(data, most, compute, xp) for _ in range(SLOTS))  # as far as they are needed
    batch = [xp.empty((most, columns.shape[0]), columns.dtype) for columns in data]
    pool = ThreadPoolExecutor(THREADS, "accelnn-gather")
    try:
        gathered = (slot.gather(pool, some) for some, slot in zip(wanted, slots, strict=False))
        sent = (slot.send(upload) for slot in _ahead(gathered))
        for slot in _ahead(sent):
            yield slot.receive(compute, batch)
    finally:
        pool.shutdown(cancel_futures=True)
        upload.synchronize()  # no memory goes back to CuPy's pools while it is read or written


def chunks(net: Network, data: Sequence[Array], xp: Any) -> Generator[list[Array], None, None]:
    """All columns in their order, many at a time; those on the host as `stream` gives them."""
    m = data[0].shape[1]
    numbers = net.layers[0] + 2 * sum(net.layers[1:])
    size = min(m, max(1, CHUNK_BYTES // (numbers * data[0].dtype.itemsize)))
    if isinstance(data[0], HostColumns):
        wanted = (np.arange(start, min(start + size, m)) for start in range(0, m, size))
        yield from stream(data, wanted, size, xp)
        return
    for start in range(0, m, size):
        yield [array[:, start : start + size] for array in data]


def evaluate(net: Network, params: Parameters, X: Array, Y: Array) -> tuple[Array, Array | None]:
    """The cost without L2, and the accuracy unless the output is linear, 0-d on the parameters'
    device; in chunks, which data that stays on the host is sent there in."""
    xp, m = array_module(params.flat), X.shape[1]
    cost, right = xp.zeros((), np.float64), xp.zeros((), np.float64)
    accuracy = None
    with closing(chunks(net, (X, Y), xp)) as parts:
        for X_part, Y_part in parts:
            share = X_part.shape[1] / m
            Z = forward(net, params, X_part, Workspace(net, params, X_part.shape[1]))
            loss, accuracy = cost_and_accuracy(net, params, Z, Y_part)
            cost += loss * share
            if accuracy is not None:
                right += accuracy * share
    return cost.astype(params.dtype), None if accuracy is None else right


@at_work("predicting")
def predict(net: Network, params: Parameters, X: Array) -> Array:
    """What `net.predict` gives, on X's side; in chunks if that is the host and not the device."""
    xp = array_module(params.flat)
    if xp is np or not isinstance(X, HostColumns):
        return net.predict(params, X)
    with closing(chunks(net, [X], xp)) as parts:
        return to_host(xp.concatenate([net.predict(params, part) for (part,) in parts], axis=-1))


def _ahead(items: Iterable[T]) -> Iterator[T]:
    """The items, of which the next is drawn before one is given away."""
    waiting: deque[T] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting


def _pinned(shape: tuple[int, ...], dtype: np.dtype[Any], xp: Any) -> Array:
    """An array of page-locked host memory, which goes back to CuPy's pool with it.

    Of any memory, with a warning, where so much cannot be locked: from there the copies are right
    as well, but run beside nothing else.
    """
    size = int(np.prod(shape)) * dtype.itemsize
    try:
        return np.ndarray(shape, dtype, buffer=xp.cuda.alloc_pinned_memory(size))
    except xp.cuda.runtime.CUDARuntimeError as error:
        warnings.warn(
            f"{size / 2**20:.3g} MiB of the host's memory cannot be page-locked ({error}): "
            "streaming is slower; a smaller batch_size needs less",
            RuntimeWarning,
            stacklevel=2,
        )
        return np.empty(shape, dtype)


def _pieces(size: int, bytes_each: int) -> Iterator[tuple[int, int]]:
    """`size` rows as (start, end) for each thread, if there is enough for several."""
    count = min(THREADS, max(1, size * bytes_each // BLOCK_BYTES))
    return pairwise(size * piece // count for piece in range(count + 1))
