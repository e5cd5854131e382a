"""Streams, events and pinned memory of the device double, in the worst order that CUDA allows.

Arithmetic runs at once, on the current stream. A copy on another stream is delayed until something
waits for it, so that a missing wait reads old data. Other mistakes follow from what the host and
each stream have waited for (their clocks) and raise Race: a copy into memory that earlier work may
still use, a copy from memory that was filled again before the last copy was known to be done, and
a read before the wait.
"""

import collections
import time

import numpy as np

from doubles import graphs as graphs_double


class Race(AssertionError):
    """Two operations use the same memory at once: neither waits for the other."""


class Pinned:
    """The number of bytes that are page-locked."""

    bytes = 0


class Written:
    """Device memory that a stream wrote, and the time of the write on its clock."""

    def __init__(self, memory, stream):
        self.memory, self.stream, self.time = memory, stream, stream.time
        self.read = None  # the stream and time of the last arithmetic on it


def _base(array):
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _advance(clock, other):
    for stream, then in other.items():
        clock[stream] = max(then, clock.get(stream, -1))


class Stream:
    """As cupy.cuda.Stream. `put_off` : its work that is not done yet"""

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        self.put_off = collections.deque()
        self.time = 0
        self.clock = {}  # by other stream: the time up to which this one has waited for it
        self.ptr = 0 if null else id(self)
        streams.append(self)

    def begin_capture(self, mode=None):
        graphs_double.begin(self)

    def end_capture(self):
        return graphs_double.end(self, current)

    def record(self, event=None):
        event = event or Event()
        if graphs_double.record(self, event):
            return event
        event.clock = {**self.clock, self: self.time}
        event.stream, event.done = self, not self.put_off
        if self.put_off:
            self.put_off.append(event)
        event.seconds = time.perf_counter()
        self.time += 1
        return event

    def wait_event(self, event):
        if graphs_double.wait(self, event):
            return
        _advance(self.clock, event.clock)
        if self.at_once:
            event.happen()
        else:
            self.put_off.append(event.happen)

    def synchronize(self):
        graphs_double.refuse(self, "synchronize")
        waited()
        self.catch_up()
        _advance(host, {self: self.time})

    def __enter__(self):
        self.catch_up()  # arithmetic on it runs at once
        in_use.append(self)
        return self

    def __exit__(self, *_):
        in_use.pop()

    def catch_up(self, until=None):
        """Do the delayed work, up to an event."""
        while self.put_off:
            item = self.put_off.popleft()
            if isinstance(item, Event):
                item.done = True
            else:
                item()
            if item is until:
                return

    @property
    def at_once(self):
        """Whether arithmetic, which is never delayed, runs on it."""
        return self is current()

    def knows(self, stream, then):
        """Whether its next work comes after the work of `stream` at that time."""
        return stream is self or max(self.clock.get(stream, -1), host.get(stream, -1)) >= then


class Event:
    """As cupy.cuda.Event; one that was never recorded has happened."""

    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.clock, self.stream, self.done = {}, None, True

    def record(self, stream=None):
        (stream or current()).record(self)

    def synchronize(self):
        waited()
        self.happen()
        _advance(host, self.clock)

    def happen(self):
        if not self.done:
            self.stream.catch_up(until=self)


class PinnedMemory(bytearray):
    """The result of alloc_pinned_memory: at least as many bytes as requested, of any content.

    sent : the stream and time of the last copy from it
    """

    sent = None

    def __init__(self, size):
        super().__init__(b"\xfe" * (-(-size // 512) * 512))
        Pinned.bytes += len(self)

    def __del__(self):
        Pinned.bytes -= len(self)


streams = []
null = Stream(null=True)
in_use = [null]
host = {}  # the host's clock
written = {}
waited = None  # called whenever the host waits


def reset(on_wait):
    """Start again; `on_wait` is called whenever the host waits."""
    global waited
    waited = on_wait
    for memory in (written, host, null.clock):
        memory.clear()
    streams[:] = in_use[:] = [null]


def current():
    return in_use[-1]


def copy_in(there, here, stream=None):
    """ndarray.set: copy `here` to `there` when the stream reaches it."""
    if not isinstance(here, np.ndarray):
        raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
    if there.dtype != here.dtype:
        raise TypeError(f"{here.dtype} array cannot be set to {there.dtype} array")
    if there.shape != here.shape:
        raise ValueError(f"Shape mismatch. Old shape: {there.shape}, new shape: {here.shape}")
    if not (there.flags.c_contiguous or there.flags.f_contiguous):
        raise RuntimeError("Cannot set to non-contiguous array")
    stream = stream or current()
    if stream.at_once:
        there[...] = here
        return
    memory = _base(there)
    known = written.get(id(memory))
    last_use = known.read if known and known.read else (current(), 0)
    if not stream.knows(*last_use):
        raise Race("a copy into memory that work begun earlier may still be using")
    pinned = _base(here).base
    if not isinstance(pinned, PinnedMemory):
        here = here.copy()  # like CUDA, which reads only pinned memory asynchronously
    elif pinned.sent and host.get(pinned.sent[0], -1) < pinned.sent[1]:
        raise Race("pinned memory was filled again before its last copy was known to be done")
    else:
        pinned.sent = stream, stream.time
    written[id(memory)] = Written(memory, stream)
    stream.put_off.append(lambda: np.copyto(there, here))


def use(array):
    """Arithmetic uses this device memory: raise Race if it does not wait for the last copy."""
    known = written.get(id(_base(array)))
    if known is None:
        return
    if not current().knows(known.stream, known.time):
        raise Race("memory is used before the copy into it was waited for")
    known.read = current(), current().time
