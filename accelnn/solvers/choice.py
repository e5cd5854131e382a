"""Which solver: those there are, what each cannot do, and the one expected to be fastest.

What a training takes is estimated from its shapes, by the rates below. Those of the CPU were
measured on one machine (2 cores of an AMD EPYC, float64), and only ratios matter: what one solver
does more of than another. `python -m accelnn.bench growth` sets the choice against the best of all
solvers. Those of a GPU are NOT measured, for none was at hand.
"""

import math
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from accelnn.backend import array_module
from accelnn.solvers import gram, jitted, precisions
from accelnn.solvers.direct import Direct
from accelnn.solvers.gram import Gram
from accelnn.solvers.jitted import Jitted
from accelnn.solvers.job import Job, Trainer

# Seconds
MULTIPLY_ADD = 1 / 40e9  # in a large product, in float64; half of it in float32
THIN = 12  # a product whose smallest side is this long takes twice as long for each
THIN_AND_SHARED = 20  # the same of a compiled product that is shared among our threads
# In sample space our threads begin where BLAS's, which formed G, are still awake: steps whose
# products are shared then took 1.2 to 1.9 times as long as by themselves.
DISTURBED = 1.5
SHARED = 1_000_000  # multiply-adds from which it is: WORTH_SHARING of accelnn.kernels.training
CALL = 15e-6  # what Python and NumPy take for each layer of a step
COMPILED_CALL = 0.6e-6  # what compiled steps take for it
GATHERED = 0.3e-9  # for each number of a mini-batch


# Seconds on a GPU: from the data sheet of an H200 and from what is commonly told of launches. Where
# they decide, the ways differ severalfold.
LAUNCH = 6e-6  # what Python and CuPy take to launch a kernel
KERNEL = 2.5e-6  # from a kernel to the next, in a captured step
REPLAY = 10e-6  # what Python takes to launch a captured step
CAPTURE = 0.05  # to capture one
MULTIPLY_ADDS = {4: 1 / 2e13, 8: 1 / 1.5e13}  # each, by bytes of a number
BYTE = 1 / 3e12  # of device memory, read or written


class Elementwise(NamedTuple):
    """Seconds for each element, of arrays in cache: for an activation and its derivative, and
    for an update of the parameters."""

    cheap: float  # relu and leaky relu
    exponential: float  # sigmoid, tanh and the output
    update: dict[str, float]


VECTORISED = Elementwise(3e-9, 20e-9, {"sgd": 0.7e-9, "momentum": 2e-9, "adam": 5e-9})
COMPILED = Elementwise(1e-9, 2.5e-9, {"sgd": 0.0, "momentum": 0.7e-9, "adam": 0.9e-9})


class Solver(NamedTuple):
    """One way of gradient descent.

    start : begins the training of a job
    unfit : why it cannot do a job, or None
    compiled, sample_space : what it is, for the estimate
    streams : whether examples may stay on the host while the parameters are on a device
    """

    start: Callable[[Job], Trainer]
    unfit: Callable[[Job], str | None]
    compiled: bool = False
    sample_space: bool = False
    streams: bool = False

    def why_not(self, job: Job) -> str | None:
        """Why it cannot do a job, or None."""
        if job.streamed and not self.streams:
            return (
                "X and Y are on the host, and the parameters on the device: the solver 'direct' "
                "streams them; or move them with accelnn.to_device"
            )
        return self.unfit(job)


def _on_gpu(job: Job) -> bool:
    return array_module(job.params.flat) is not np


def _not_direct(job: Job) -> str | None:
    """Why Direct cannot do a job, or None."""
    return precisions.unfit(job.precision)


def _not_gram(job: Job) -> str | None:
    """Why Gram cannot do a job, or None."""
    return gram.unfit(job) or precisions.unfit(job.precision)


def _compiled(job: Job) -> Trainer:
    """The compiled steps of the CPU, or the captured ones of a GPU."""
    if not _on_gpu(job):
        return Jitted(job)
    from accelnn.solvers import captured

    return captured.start(job)


def _compiled_in_sample_space(job: Job) -> Trainer:
    """The compiled steps of the CPU, or the kernel that stays on a GPU."""
    if not _on_gpu(job):
        return jitted.in_sample_space(job)
    from accelnn.solvers.persistent import Persistent

    return Persistent(job)


def _not_compiled_in_sample_space(job: Job) -> str | None:
    """Why `_compiled_in_sample_space` cannot do a job, or None."""
    if not _on_gpu(job):
        return _not_gram(job)
    from accelnn.solvers import persistent

    return persistent.unfit(job)


SOLVERS: dict[str, Solver] = {
    "direct": Solver(Direct, _not_direct, streams=True),
    "jitted": Solver(_compiled, lambda _job: None, compiled=True),
    "gram": Solver(Gram, _not_gram, sample_space=True),
    "gram-jitted": Solver(
        _compiled_in_sample_space,
        _not_compiled_in_sample_space,
        compiled=True,
        sample_space=True,
    ),
}

# What compiled code would have saved so far, had it been loaded or compiled: once that is more
# than its price, it is bought. Whoever trains one small network never waits for a compiler, and
# whoever trains hundreds does so once.
_missed = {np.dtype(np.float32): 0.0, np.dtype(np.float64): 0.0}


def pick(solver: str, job: Job, epochs: int) -> tuple[str, str]:
    """The name of the solver to use, and why that one.

    Raises ValueError where the solver asked for cannot do the job.
    """
    if solver != "auto":
        reason = SOLVERS[solver].why_not(job)
        if reason is not None:
            raise ValueError(f"solver={solver!r} cannot do this: {reason}")
        return solver, "asked for"
    why_not = {name: candidate.why_not(job) for name, candidate in SOLVERS.items()}
    seconds = {
        name: estimate(SOLVERS[name], job, epochs)
        for name, reason in why_not.items()
        if reason is None
    }
    if not seconds:
        raise ValueError(
            "no solver can do this: " + "; ".join(f"{name}: {why}" for name, why in why_not.items())
        )
    best = min(seconds, key=seconds.__getitem__)
    expected = [f"{name} {_text(s)}" for name, s in seconds.items() if s < math.inf]
    reason = f"expected: {', '.join(expected)}"
    if job.streamed:
        reason = "the examples are streamed from the host"
    if not SOLVERS[best].compiled or _on_gpu(job):
        return best, reason
    vectorised = {name: s for name, s in seconds.items() if not SOLVERS[name].compiled}
    plain = min(vectorised, key=vectorised.__getitem__)
    price = _price(job, saved=_missed[job.params.dtype] + seconds[plain] - seconds[best])
    if price is None:
        return best, reason
    _missed[job.params.dtype] += seconds[plain] - seconds[best]
    return plain, f"{reason}; {price}"


def estimate(solver: Solver, job: Job, epochs: int) -> float:
    """The seconds that a training is expected to take, its set-up included."""
    if _on_gpu(job):
        return _estimate_on_gpu(solver, job, epochs)
    layers, m = job.net.layers, job.examples
    batch = min(job.batch_size or m, m)
    inputs, units = layers[0], layers[1]
    size = job.params.dtype.itemsize / 8  # of the elements, where memory sets the pace
    rates = COMPILED if solver.compiled else VECTORISED

    setup = 0.0
    products = [_product(n, before, batch, size, solver.compiled) for before, n in pairwise(layers)]
    step = 3 * sum(products) - products[0]
    parameters = job.params.flat.size
    if solver.sample_space:
        in_samples = _product(units, m, m, size, solver.compiled)
        if solver.compiled and units * m * m >= SHARED:
            in_samples *= DISTURBED
        step += in_samples - 2 * products[0]
        parameters += units * (m - inputs)
        setup = _product(m, m, inputs, size) / 2 + 3 * products[0]
    step += (COMPILED_CALL if solver.compiled else CALL) * len(products)
    for n, activation in zip(layers[1:], (*job.net.hidden, "output"), strict=True):
        cheap = activation in ("relu", "leaky_relu")
        step += n * batch * size * (rates.cheap if cheap else rates.exponential)
    step += parameters * size * rates.update[job.optimizer.name]
    if job.batch_size is not None:
        step += inputs * batch * size * GATHERED
    steps = epochs * -(-m // batch)
    return float(setup + steps * step)


def _estimate_on_gpu(solver: Solver, job: Job, epochs: int) -> float:
    """The same; infinite where steps would be captured and cannot be."""
    layers, m = job.net.layers, job.examples
    batch = min(job.batch_size or m, m)
    inputs, units, depth = layers[0], layers[1], len(layers) - 1
    itemsize = job.params.dtype.itemsize
    steps = epochs * -(-m // batch)

    def product(n: int, k: int, columns: int) -> float:
        moved = (n * k + k * columns + n * columns) * itemsize
        return max(n * k * columns * MULTIPLY_ADDS[itemsize], moved * BYTE)

    setup = 0.0
    products = [product(n, before, batch) for before, n in pairwise(layers)]
    work = 3 * sum(products) - products[0]
    parameters = job.params.flat.size
    if solver.sample_space:
        work += product(units, m, m) - 2 * products[0]
        parameters += units * (m - inputs)
        setup = product(m, m, inputs) + 3 * products[0]
    if solver.compiled:
        from accelnn.solvers import captured, persistent

        if solver.sample_space:
            return setup + steps * persistent.seconds(job)
        if captured.uncapturable() is not None:
            return math.inf
    # Forward a product and an activation, backward two products and a gradient; the update
    kernels = 5 * depth + (depth - 1) * job.dropout + 2 * depth * bool(job.net.l2) + 1
    passes = sum(layers[1:]) * batch * (4 if solver.compiled else 8)
    passes += parameters * (3 + 2 * job.optimizer.moments)
    if job.batch_size is not None:
        kernels += 2
        passes += 2 * inputs * batch
    work += passes * itemsize * BYTE
    if solver.compiled:
        return float(CAPTURE + steps * max(REPLAY, kernels * KERNEL + work))
    return float(setup + steps * max(kernels * LAUNCH, kernels * KERNEL + work))


def _product(n: int, k: int, m: int, size: float, compiled: bool = False) -> float:
    """Seconds for the product of an (n, k) and a (k, m) matrix."""
    thin = THIN_AND_SHARED if compiled and n * k * m >= SHARED else THIN
    return n * k * m * MULTIPLY_ADD * size * (1 + thin / min(n, k, m))


def _price(job: Job, saved: float) -> str | None:
    """Why compiled code that would save so many seconds is not worth its price, or None."""
    waiting = "the compiled solvers would first have to be"
    if saved < jitted.LOADING and "numba" not in sys.modules:
        return f"{waiting} loaded or compiled"
    price = jitted.price(job.params.dtype)
    if saved >= price:
        return None
    return f"{waiting} {'loaded' if price == jitted.LOADING else 'compiled'}, for {price:g} s"


def _text(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
