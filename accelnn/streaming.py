"""Data that is never held as a whole: in a file, for parameters anywhere, or on the host, for
parameters on a CUDA device.

Threads read a file ahead, in the order in which its examples are needed, a piece of an epoch at a
time; numbers stay as they are stored (pictures as bytes) until a batch needs them.

On a device, three more things happen at once: threads gather batch k+2 into pinned memory; the copy
engine sends batch k+1; the device works on batch k. The slowest is mostly the transfer, so columns
are sent as they are stored, and become floats on the device. Only the caller's thread calls CUDA,
because each thread has a current device and stream of its own.
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

SLOTS = 3  # one batch is gathered, one sent and one used
# Bytes of a chunk of data and its activations: enough to keep a device busy, little of its memory
CHUNK_BYTES = 1 << 27
# The same of a file for parameters on the host
HOST_CHUNK_BYTES = 1 << 23
SLAB_BYTES = 1 << 26  # of the features that sample space takes at a time

T = TypeVar("T")
# The order of an epoch's examples, and its steps, each of which has `columns`
Epoch = tuple[Array, Sequence[Any]]
Part = tuple[Any, list[HostColumns]]  # what needs some columns, and these


class Slot:
    """Room for one batch on its way.

    pinned : host memory that threads fill; only from pinned memory do copies run asynchronously
    landed : on the device, the copy of `pinned`
    copied : the event after which `pinned` may be filled again
    used : the event after which `landed` may be overwritten
    """

    def __init__(self, data: Sequence[HostColumns], most: int, compute: Any, xp: Any) -> None:
        self.pinned = [_pinned((most, columns.shape[0]), columns.wire, xp) for columns in data]
        self.landed = [xp.empty(host.shape, host.dtype) for host in self.pinned]
        self.copied = xp.cuda.Event(block=True, disable_timing=True)
        self.used = xp.cuda.Event(disable_timing=True)
        # Work queued earlier may still use this memory: CuPy's pool reuses freed memory at once.
        self.used.record(compute)

    def gather(self, pool: ThreadPoolExecutor, part: Part) -> Self:
        """Begin to collect the columns of a batch, once the batch before has been copied."""
        self.copied.synchronize()
        self.steps, self.data = part
        self.size = self.data[0].shape[1]
        places = np.arange(self.size)
        self.pieces: list[Future[None]] = [
            pool.submit(columns.gather, places[start:end], host[start:end])
            for columns, host in zip(self.data, self.pinned, strict=True)
            for start, end in _pieces(self.size, host[:1].nbytes)
        ]
        return self

    def send(self, upload: Any) -> Self:
        """Begin to copy the collected columns, once the batch before has been used."""
        for piece in self.pieces:
            piece.result()
        upload.wait_event(self.used)
        for host, landed in zip(self.pinned, self.landed, strict=True):
            landed[: self.size].set(host[: self.size], upload)
        self.copied.record(upload)
        return self

    def receive(self, compute: Any, batch: Sequence[Array]) -> list[Array]:
        """The columns (n, size) as floats in the arrays of `batch`, once they have been copied: a
        copy frees the slot, and takes a fiftieth of the transfer."""
        compute.wait_event(self.copied)
        arrays = []
        for columns, landed, room in zip(self.data, self.landed, batch, strict=True):
            floats = room[: self.size]
            floats[...] = landed[: self.size]
            if columns.scale != 1:
                floats /= columns.scale
            arrays.append(floats.T)
        self.used.record(compute)
        return arrays


def ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """The items, each computed by a thread while the one before is used."""
    pool = ThreadPoolExecutor(1, "accelnn-read")
    try:
        future = pool.submit(next, items, None)
        while (item := future.result()) is not None:
            future = pool.submit(next, items, None)
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


def windows(
    data: Sequence[HostColumns], epochs: Iterator[Epoch], piece: int, together: int = 1
) -> Generator[Part, None, None]:
    """The examples of the steps of each epoch, `together` steps at a time. Those of a file are then
    in memory: `piece` of them are read at a time."""
    if not any(columns.in_file for columns in data):
        for _, steps in epochs:
            for run in _runs(steps, together):
                yield run, part_of(data, np.concatenate([step.columns for step in run]))
        return
    coming: deque[Sequence[Any]] = deque()

    def pieces() -> Iterator[list[HostColumns]]:
        for order, steps in epochs:
            coming.append(steps)
            for start in range(0, max(len(order), 1), piece):
                yield [columns.loaded(order[start : start + piece]) for columns in data]

    with closing(ahead(pieces())) as read:
        held = next(read)
        while True:
            while not coming:
                held = _joined(held, next(read))
            for run in _runs(coming.popleft(), together):
                size = sum(len(step.columns) for step in run)
                part, held = _cut(held, size)
                while part[0].shape[1] < size:
                    more, held = _cut(next(read), size - part[0].shape[1])
                    part = _joined(part, more)
                yield run, part


def _runs(steps: Sequence[Any], together: int) -> Iterator[Sequence[Any]]:
    return (steps[i : i + together] for i in range(0, len(steps), together))


def _cut(held: list[HostColumns], size: int) -> tuple[list[HostColumns], list[HostColumns]]:
    """The first columns, `size` if there are as many, and the others."""
    numbers = np.arange(held[0].shape[1])
    return part_of(held, numbers[:size]), part_of(held, numbers[size:])


def _joined(held: list[HostColumns], more: list[HostColumns]) -> list[HostColumns]:
    if not held[0].shape[1]:
        return more
    return [each.followed_by(other) for each, other in zip(held, more, strict=True)]


def part_of(data: Sequence[HostColumns], numbers: Array) -> list[HostColumns]:
    """The columns of these numbers, without a copy."""
    return [columns.take(numbers) for columns in data]


def on_host(
    data: Sequence[HostColumns], epochs: Iterator[Epoch], piece: int, together: int = 1
) -> Generator[tuple[Sequence[Any], list[Array]], None, None]:
    """The steps of `windows`, and the floats of their examples, (n, size) with contiguous columns,
    computed while those before are used."""
    with closing(windows(data, epochs, piece, together)) as parts:
        floats = ((run, [columns.read().T for columns in part]) for run, part in parts)
        with closing(ahead(floats)) as read:
            yield from read


def per_chunk(X: HostColumns, size: int) -> int:
    """How many batches of so many examples to compute the floats of at once on the host."""
    return max(1, HOST_CHUNK_BYTES // (X.shape[0] * X.dtype.itemsize * size))


def stream(
    data: Sequence[HostColumns], parts: Iterable[Part], most: int, xp: Any
) -> Generator[tuple[Any, list[Array]], None, None]:
    """The columns of each of the `parts` of `data`, of at most `most` columns, drawn two ahead, on
    the device.

    Yields what needs them, and (n, size) arrays with contiguous columns, valid until the next, for
    work on the stream that was current at the first. Close it however it ends: then no thread runs,
    no copy is under way and no memory is pinned.
    """
    compute, upload = xp.cuda.get_current_stream(), xp.cuda.Stream(non_blocking=True)
    slots = cycle(Slot(data, most, compute, xp) for _ in range(SLOTS))  # made when first needed
    room = [xp.empty((most, columns.shape[0]), columns.dtype) for columns in data]
    pool = ThreadPoolExecutor(THREADS, "accelnn-gather")
    try:
        gathered = (slot.gather(pool, part) for part, slot in zip(parts, slots, strict=False))
        sent = (slot.send(upload) for slot in _ahead(gathered))
        for slot in _ahead(sent):
            yield slot.steps, slot.receive(compute, room)
    finally:
        pool.shutdown(cancel_futures=True)
        upload.synchronize()  # CuPy's pools must not reuse memory that is read or written


def chunks(net: Network, data: Sequence[Array], xp: Any) -> Generator[list[Array], None, None]:
    """All columns in their order, in chunks; those that no array holds are streamed."""
    m, streamed = data[0].shape[1], isinstance(data[0], HostColumns)
    most = HOST_CHUNK_BYTES if streamed and xp is np else CHUNK_BYTES
    numbers = net.layers[0] + 2 * sum(net.layers[1:])
    size = min(m, max(1, most // (numbers * data[0].dtype.itemsize)))
    if not streamed:
        for start in range(0, m, size):
            yield [array[:, start : start + size] for array in data]
        return
    parts = ((None, part_of(data, block)) for block in data[0].blocks(size))
    if xp is np:
        floats = ahead([columns.read().T for columns in part] for _, part in parts)
        with closing(floats):
            yield from floats
    else:
        with closing(stream(data, parts, size, xp)) as sent:
            yield from (arrays for _, arrays in sent)


def slabs(X: Array, *others: Array, xp: Any) -> Generator[tuple[slice, list[Array]], None, None]:
    """Some features of X (n, m) at a time, all if an array holds it: their numbers, and the arrays
    of them from X and from others of n features."""
    n, m = X.shape
    each, size = (X, *others), n

    def part(numbers: slice) -> tuple[slice, list[Array]]:
        return numbers, [
            xp.asarray(A.features(numbers)) if isinstance(A, HostColumns) else A[numbers]
            for A in each
        ]

    if isinstance(X, HostColumns):
        size = max(1, SLAB_BYTES // (m * X.dtype.itemsize))
    yield from (part(slice(start, start + size)) for start in range(0, n, size))


def evaluate(
    net: Network, params: Parameters, X: Array, Y: Array, weights: Array = None
) -> tuple[Array, Array | None]:
    """`cost_and_accuracy` by chunks, 0-d on the parameters' device."""
    xp, m, done = array_module(params.flat), X.shape[1], 0
    if isinstance(X, HostColumns) and not isinstance(Y, HostColumns):
        Y = HostColumns.of(to_host(Y), params.dtype)
    cost, right = xp.zeros((), np.float64), xp.zeros((), np.float64)
    with closing(chunks(net, (X, Y), xp)) as parts:
        for X_part, Y_part in parts:
            count = X_part.shape[1]
            Z = forward(Workspace(net, params, count), X_part)
            w = None if weights is None else weights[done : done + count]
            loss, accuracy = cost_and_accuracy(net, params, Z, Y_part, w)
            cost += loss * (count if w is None else w.sum())
            if accuracy is not None:
                right += accuracy * count
            done += count
    cost /= m if weights is None else weights.sum()
    return cost.astype(params.dtype), right / m if net.classifies else None


@at_work("predicting")
def predict(net: Network, params: Parameters, X: Array) -> Array:
    """`net.predict`; by chunks, with the result on the host, if X alone stays on the host."""
    xp = array_module(params.flat)
    if xp is np or not isinstance(X, HostColumns):
        return net.predict(params, X)
    with closing(chunks(net, [X], xp)) as parts:
        return to_host(xp.concatenate([net.predict(params, part) for (part,) in parts], axis=-1))


def _ahead(slots: Iterable[Slot]) -> Iterator[Slot]:
    """The slots; each is yielded after the next is drawn."""
    waiting: list[Slot] = []
    for slot in slots:
        yield from waiting
        waiting = [slot]
    yield from waiting


def _pinned(shape: tuple[int, int], dtype: np.dtype[Any], xp: Any) -> Array:
    """An array in page-locked host memory; if that fails, with a warning, in ordinary memory."""
    size = shape[0] * shape[1] * dtype.itemsize
    try:
        return np.ndarray(shape, dtype, buffer=xp.cuda.alloc_pinned_memory(size))
    except xp.cuda.runtime.CUDARuntimeError as error:
        refused = f"{size / 2**20:.3g} MiB of the host's memory cannot be page-locked ({error})"
        remedy = "streaming is slower; a smaller batch_size needs less"
        warnings.warn(f"{refused}: {remedy}", RuntimeWarning, stacklevel=2)
        return np.empty(shape, dtype)


def _pieces(size: int, bytes_each: int) -> Iterator[tuple[int, int]]:
    """`size` rows as (start, end) for each thread, if there is enough for several."""
    count = min(THREADS, max(1, size * bytes_each // BLOCK_BYTES))
    return pairwise(size * piece // count for piece in range(count + 1))
