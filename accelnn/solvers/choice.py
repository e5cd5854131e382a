"""The solvers, and the rule by which "auto" picks one.

The rule depends on the job (shapes, optimizer, batch size, length) and on `warm_up`; nothing else
that ran before in the process changes it.
"""

import sys
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any

import numpy as np

from accelnn.network import FLOATS
from accelnn.solvers import captured, jitted
from accelnn.solvers.captured import Captured
from accelnn.solvers.direct import Direct
from accelnn.solvers.gram import Gram
from accelnn.solvers.jitted import Jitted, JittedGram
from accelnn.solvers.job import Job, Trainer
from accelnn.solvers.persistent import Persistent

# Multiply-adds of the product S G, up to which compiled steps in sample space beat BLAS: on 2
# cores of an AMD EPYC they take 0.66 of the vectorised time at 280,000 and 1.4 at 1,750,000.
SMALL_PRODUCT = 1_000_000
# Seconds of a vectorised training from which compiled code is worth loading, in about 0.6 s. It was
# compiled once on a machine, in 7 s.
LONG = 3.0
# Assumptions of `vectorised_seconds`: seconds for each layer of a step, multiply-adds a second
CALL, MULTIPLY_ADDS = 20e-6, 4e10
# Examples up to which a GPU trains in sample space even with fewer features. Not measured: G in
# float32 stays in the cache of an A100 (40 MB).
FEW_EXAMPLES = 3000


# The trainers of each solver, on the CPU and on a GPU
SOLVERS: dict[str, tuple[type[Trainer], type[Trainer]]] = {
    "direct": (Direct, Direct),
    "jitted": (Jitted, Captured),
    "gram": (Gram, Gram),
    "gram-jitted": (JittedGram, Persistent),
}
WIDE = "fewer examples than features"

_warm: set[np.dtype[Any]] = set()  # the dtypes of `warm_up`


def warm_up(*dtypes: Any, progress: bool = True) -> float:
    """Load the compiled solvers of the CPU, or compile them if this machine never did; from then
    on solver="auto" uses them for every training they suit, however short.

    dtypes : "float64", "float32"; both by default
    progress : whether a terminal shows which dtype is being prepared

    Returns the seconds it took: about half a second for a dtype to load, seven seconds to compile.
    Raises ValueError for another dtype.
    """
    chosen = [np.dtype(dtype) for dtype in dtypes or ("float64", "float32")]
    for dtype in chosen:
        if dtype not in FLOATS:
            raise ValueError(f"expected dtype float32 or float64, got {dtype}")
    seconds = 0.0
    for dtype in chosen:
        with _status(dtype) if progress else nullcontext():
            seconds += jitted.load(dtype)
    _warm.update(chosen)
    return seconds


def _status(dtype: np.dtype[Any]) -> AbstractContextManager[Any]:
    """A line on the terminal, if standard error is one."""
    from accelnn.cli.console import console

    return console(sys.stderr).status(f"preparing the {dtype} solvers, up to ten seconds")


def trainer_of(solver: str, job: Job) -> type[Trainer]:
    """The trainer of a solver on the device of a job."""
    cpu, gpu = SOLVERS[solver]
    return cpu if job.xp is np else gpu


def pick(solver: str, job: Job, epochs: int, seconds: float = 0.0) -> tuple[str, str]:
    """The name of the solver to use, and why that one.

    seconds : the sum of `estimate` of trainings that run together

    Raises ValueError if the solver asked for cannot do the job, or none can.
    """
    if solver != "auto":
        reason = trainer_of(solver, job).why_not(job)
        if reason is not None:
            raise ValueError(f"solver={solver!r} cannot do this: {reason}")
        return solver, "asked for"
    on_cpu = job.xp is np
    preferred = _preferred(job, epochs, seconds) if on_cpu else _preferred_on_gpu(job, epochs)
    refusals = {}
    for name, reason in preferred:
        refusals[name] = trainer_of(name, job).why_not(job)
        if refusals[name] is None:
            return name, reason
    reasons = "; ".join(f"{name}: {refusal}" for name, refusal in refusals.items())
    raise ValueError(f"no solver can do this: {reasons}")


def _preferred(job: Job, epochs: int, seconds: float) -> list[tuple[str, str]]:
    """The solvers for a job on the CPU, the best first, each with the reason for it.

    At 25 of the 26 sizes of benchmarks/results/amd-epyc-2-cores-growth.json the first one is the
    fastest, if compiled code is ready.
    """
    wide = is_wide(job, epochs)
    warm = job.params.dtype in _warm
    if not warm and max(seconds, vectorised_seconds(job, epochs, wide)) < LONG:
        return [("gram", WIDE)] * wide + [("direct", "too short to load compiled code")]
    compiled = "compiled code is warmed up" if warm else "long enough for compiled code"
    sample_space = [("gram-jitted", WIDE), ("gram", WIDE)] * wide
    if job.net.layers[1] * job.examples**2 > SMALL_PRODUCT:
        sample_space.reverse()
    return [*sample_space, ("jitted", compiled), ("direct", "compiled steps cannot do it")]


def _preferred_on_gpu(job: Job, epochs: int) -> list[tuple[str, str]]:
    """The same on a GPU: one launch, captured steps, or vectorised ones. Not measured."""
    wide = is_wide(job, epochs)
    in_one_launch = wide or job.examples <= FEW_EXAMPLES
    direct = "streamed from the host" if job.streamed else "steps cannot be captured"
    return [
        *[("gram-jitted", "fits one launch from record to record")] * in_one_launch,
        *[("jitted", "steps captured as CUDA graphs")] * (captured.why_not() is None),
        *[("gram", WIDE)] * wide,
        ("direct", direct),
        ("jitted", "the only one in this precision"),
    ]


def is_wide(job: Job, epochs: int) -> bool:
    """Whether sample space pays: fewer examples than features, and enough steps, each of which
    saves 4 n_0 n_1 m operations, for the n_0 m² that form G. Processes may share the features."""
    if job.shared == "features":
        return True
    m, features, units = job.examples, *job.net.layers[:2]
    return Gram.why_not(job) is None and m < features and m < 4 * units * epochs


def estimate(job: Job, epochs: int) -> float:
    """`vectorised_seconds` of a training, in sample space if that pays."""
    return vectorised_seconds(job, epochs, is_wide(job, epochs))


def vectorised_seconds(job: Job, epochs: int, sample_space: bool) -> float:
    """About how long a training takes with vectorised arrays, within a factor of 3 or so."""
    layers = (job.examples if sample_space else job.net.layers[0], *job.net.layers[1:])
    products = 3 * max(job.sizes) * sum(n * before for before, n in pairwise(layers))
    size = job.params.dtype.itemsize / 8
    step = CALL * (len(layers) - 1) + products * size / MULTIPLY_ADDS
    return epochs * len(job.sizes) * step
