"""CUDA graphs of the device double. Work on a stream that is being captured is stored; a launch of
the graph does it in a random order that respects the waits, so that a missing wait gives wrong
results for some seed.

CuPy only refuses to call cuBLAS and similar libraries during a capture. The double refuses all
array functions, because most of them allocate memory that the graph would not own.
"""

import random

order = random.Random(1)


class CaptureError(RuntimeError):
    """As CUDA's: cudaErrorStreamCapture..."""


class Capture:
    """The work that was put on streams since a capture began on one of them.

    nodes : (work, numbers of its direct predecessors)
    last : for each of these streams, the numbers of the predecessors of its next work
    """

    def __init__(self, stream):
        self.origin = stream
        self.nodes = []
        self.last = {stream: set()}

    def add(self, stream, work):
        self.nodes.append((work, self.last[stream]))
        self.last[stream] = {len(self.nodes) - 1}

    def before(self, nodes):
        """These nodes and all their predecessors."""
        found, waiting = set(), list(nodes)
        while waiting:
            node = waiting.pop()
            if node not in found:
                found.add(node)
                waiting += self.nodes[node][1]
        return found


class Graph:
    """As cupy.cuda.Graph. made, launched : counts of all graphs and launches"""

    made = launched = 0

    def __init__(self, nodes, current):
        self.nodes, self.current = nodes, current
        Graph.made += 1

    def launch(self, stream=None):
        if (stream or self.current()) in captures:
            raise CaptureError("the double captures no launch of a graph")
        Graph.launched += 1
        done, waiting = set(), list(range(len(self.nodes)))
        while waiting:
            ready = [node for node in waiting if self.nodes[node][1] <= done]
            node = order.choice(ready)
            self.nodes[node][0]()
            waiting.remove(node)
            done.add(node)


captures = {}  # by stream that is being captured


def reset():
    captures.clear()
    Graph.made = Graph.launched = 0


def begin(stream):
    if stream.ptr == 0:
        raise RuntimeError("cannot capture on the default (legacy) stream")
    if stream in captures:
        raise CaptureError("cudaErrorIllegalState: the stream is being captured")
    captures[stream] = Capture(stream)


def end(stream, current):
    capture = captures.get(stream)
    if capture is None or capture.origin is not stream:
        raise CaptureError("cudaErrorIllegalState: no capture began on this stream")
    for other in [other for other, theirs in captures.items() if theirs is capture]:
        del captures[other]
    if len(capture.before(capture.last[stream])) < len(capture.nodes):
        raise CaptureError(
            "cudaErrorStreamCaptureUnjoined: work on another stream is not waited for"
        )
    return Graph(capture.nodes, current)


def enqueue(stream, work):
    """Store the work if the stream is being captured, else do it."""
    if stream in captures:
        captures[stream].add(stream, work)
    else:
        work()


def record(stream, event):
    """Whether the event is within a capture; a stream that waits for it joins the capture."""
    event.captured = None
    if stream in captures:
        event.captured = captures[stream], frozenset(captures[stream].last[stream])
    return stream in captures


def wait(stream, event):
    """Whether the event is within a capture, which the stream then joins."""
    captured = getattr(event, "captured", None)
    if captured is None:
        if stream in captures:
            raise CaptureError("cudaErrorStreamCaptureIsolation: an event of before the capture")
        return False
    capture, nodes = captured
    if captures.setdefault(stream, capture) is not capture:
        raise CaptureError("cudaErrorStreamCaptureMerge: two captures")
    capture.last.setdefault(stream, set())
    capture.last[stream] = capture.last[stream] | nodes
    return True


def refuse(stream, what):
    """Raise if the stream is being captured, when only kernels and products may be launched."""
    if stream in captures:
        raise NotImplementedError(f"{what} while a stream is being captured")
