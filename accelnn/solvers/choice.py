"""The solvers, what each cannot do, and the rule by which "auto" picks one.

The rule looks at the job alone: its shapes, optimizer, batch size and length. Nothing that ran
before in the process changes it, but for one explicit act: `warm_up` says that compiled solvers
are ready, so that short trainings use them too.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from accelnn import kernels
from accelnn.backend import array_module
from accelnn.optimizers import SGD, Adam, Momentum
from accelnn.solvers import gram, jitted, precisions
from accelnn.solvers.direct import Direct
from accelnn.solvers.gram import Gram
from accelnn.solvers.jitted import Jitted
from accelnn.solvers.job import Job, Trainer

# Multiply-adds of the product S G, up to which compiled steps in sample space beat BLAS: on 2
# cores of an AMD EPYC they take 0.66 of the vectorised time at 280,000 and 1.4 at 1,750,000.
SMALL_PRODUCT = 1_000_000

# A training that vectorised arrays finish sooner than in this many seconds does not wait for
# compiled code, which takes about 1 s to load and half a minute to compile the first time.
LONG = 10.0

# What `vectorised_seconds` assumes: seconds for each layer of a step, and multiply-adds a second.
CALL, MULTIPLY_ADDS = 20e-6, 4e10


class Solver(NamedTuple):
    """One way of gradient descent.

    start : begins the training of a job
    limit : why it cannot do a job, or None
    compiled : whether kernels compute it, which know certain activations only
    streams : whether examples may stay on the host while the parameters are on a device
    """

    start: Callable[[Job], Trainer]
    limit: Callable[[Job], str | None]
    compiled: bool = False
    streams: bool = False

    def why_not(self, job: Job) -> str | None:
        """Why it cannot do a job, or None."""
        if job.streamed and not self.streams:
            return (
                "X and Y are on the host, and the parameters on the device: the solver 'direct' "
                "streams them; or move them with accelnn.to_device"
            )
        if self.compiled and type(job.optimizer) not in (SGD, Momentum, Adam):
            return (
                f"the kernels have no optimizer {job.optimizer.name!r}, only sgd, momentum, adam: "
                "use the solver 'direct'"
            )
        unknown = kernels.why_not(job.net.hidden, job.net.output) if self.compiled else None
        return unknown or self.limit(job)


def _on_gpu(job: Job) -> bool:
    return array_module(job.params.flat) is not np


def _gram_limit(job: Job) -> str | None:
    """Why Gram cannot do a job, or None."""
    return gram.why_not(job) or precisions.why_not(job.precision)


def _compiled(job: Job) -> Trainer:
    """The compiled steps of the CPU, or the captured ones of a GPU."""
    if not _on_gpu(job):
        return Jitted(job)
    from accelnn.solvers import captured

    return captured.start(job)


def _compiled_gram(job: Job) -> Trainer:
    """The compiled steps of the CPU, or the kernel that stays on a GPU."""
    if not _on_gpu(job):
        return jitted.in_sample_space(job)
    from accelnn.solvers.persistent import Persistent

    return Persistent(job)


def _compiled_gram_limit(job: Job) -> str | None:
    """Why `_compiled_gram` cannot do a job, or None."""
    if not _on_gpu(job):
        return _gram_limit(job)
    from accelnn.solvers import persistent

    return persistent.why_not(job)


SOLVERS: dict[str, Solver] = {
    "direct": Solver(Direct, lambda job: precisions.why_not(job.precision), streams=True),
    "jitted": Solver(_compiled, lambda _job: None, compiled=True),
    "gram": Solver(Gram, _gram_limit),
    "gram-jitted": Solver(_compiled_gram, _compiled_gram_limit, compiled=True),
}

_warm: set[np.dtype[Any]] = set()  # the dtypes of `warm_up`


def warm_up(*dtypes: Any) -> float:
    """Load the compiled solvers of the CPU, or compile them if that was never done on this
    machine; from then on solver="auto" uses them for every training they suit, however short.

    Parameters
    ----------
    dtypes : "float64", "float32"; both by default

    Returns the seconds it took: about 1 a dtype to load, half a minute to compile.

    Raises ValueError for another dtype.
    """
    wanted = [np.dtype(dtype) for dtype in dtypes or ("float64", "float32")]
    for dtype in wanted:
        if dtype not in (np.float32, np.float64):
            raise ValueError(f"expected dtype float32 or float64, got {dtype}")
    seconds = sum(map(jitted.load, wanted))
    _warm.update(wanted)
    return seconds


def pick(solver: str, job: Job, epochs: int) -> tuple[str, str]:
    """The name of the solver to use, and why that one.

    Raises ValueError if the solver asked for cannot do the job, or none can.
    """
    if solver != "auto":
        reason = SOLVERS[solver].why_not(job)
        if reason is not None:
            raise ValueError(f"solver={solver!r} cannot do this: {reason}")
        return solver, "asked for"
    preferred = _preferred_on_gpu(job, epochs) if _on_gpu(job) else _preferred(job, epochs)
    limits = {}
    for name, reason in preferred:
        limits[name] = SOLVERS[name].why_not(job)
        if limits[name] is None:
            return name, reason
    raise ValueError(
        "no solver can do this: " + "; ".join(f"{name}: {why}" for name, why in limits.items())
    )


# A solver's name, and why it is chosen
Preference = tuple[str, str]

FEW_EXAMPLES = "fewer examples than features"


def _preferred(job: Job, epochs: int) -> list[Preference]:
    """The solvers for a job on the CPU, the best first.

    At 25 of the 26 sizes of benchmarks/results/amd-epyc-2-cores-growth.json the first one is the
    fastest, if compiled code is ready.
    """
    wide = _wide(job, epochs)
    warm = job.params.dtype in _warm
    if not warm and vectorised_seconds(job, epochs, wide) < LONG:
        return [("gram", FEW_EXAMPLES)] * wide + [("direct", "too short to load compiled code")]
    compiled = "compiled code is warmed up" if warm else "long enough for compiled code"
    by_steps = [("jitted", compiled), ("direct", "compiled steps cannot do it")]
    if not wide:
        return by_steps
    in_sample_space = [("gram-jitted", FEW_EXAMPLES), ("gram", FEW_EXAMPLES)]
    if job.net.layers[1] * job.examples**2 > SMALL_PRODUCT:
        in_sample_space.reverse()
    return in_sample_space + by_steps


def _preferred_on_gpu(job: Job, epochs: int) -> list[Preference]:
    """The solvers for a job on a GPU, the best first; none of this was measured on one."""
    from accelnn.solvers import captured, persistent

    preferred = []
    wide = _wide(job, epochs)
    if wide or job.examples**2 * job.params.dtype.itemsize <= persistent.CACHE:
        preferred.append(("gram-jitted", "fits one launch from record to record"))
    if captured.why_not() is None:
        preferred.append(("jitted", "steps captured as CUDA graphs"))
    if wide:
        preferred.append(("gram", FEW_EXAMPLES))
    direct = "streamed from the host" if job.streamed else "steps cannot be captured"
    return [*preferred, ("direct", direct), ("jitted", "the only one in this precision")]


def _wide(job: Job, epochs: int) -> bool:
    """Whether sample space pays: fewer examples than features, and enough steps, of each of which
    it saves 4 n_0 n_1 m operations, for the n_0 m² that it takes to form G."""
    m, features, units = job.examples, *job.net.layers[:2]
    return gram.why_not(job) is None and m < features and m < 4 * units * epochs


def vectorised_seconds(job: Job, epochs: int, sample_space: bool) -> float:
    """About how long a training takes with vectorised arrays, within a factor of 3 or so."""
    inputs = job.examples if sample_space else job.net.layers[0]
    layers = (inputs, *job.net.layers[1:])
    batch = min(job.batch_size or job.examples, job.examples)
    products = 3 * batch * sum(n * before for before, n in pairwise(layers))
    size = job.params.dtype.itemsize / 8
    step = CALL * (len(layers) - 1) + products * size / MULTIPLY_ADDS
    return epochs * job.steps_per_epoch * step
