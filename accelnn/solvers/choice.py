"""Which solver: those there are, what each cannot do, and the one expected to be fastest."""

from collections.abc import Callable
from typing import NamedTuple

from accelnn.solvers import gram, jitted
from accelnn.solvers.direct import Direct
from accelnn.solvers.gram import Gram
from accelnn.solvers.jitted import Jitted
from accelnn.solvers.job import Job, Trainer


class Solver(NamedTuple):
    """One way of gradient descent.

    start : begins the training of a job
    unfit : why it cannot do a job, or None
    """

    start: Callable[[Job], Trainer]
    unfit: Callable[[Job], str | None] = lambda _job: None


SOLVERS: dict[str, Solver] = {
    "direct": Solver(Direct),
    "jitted": Solver(Jitted, jitted.unfit),
    "gram": Solver(Gram, gram.unfit),
    "gram-jitted": Solver(jitted.in_sample_space, jitted.unfit_in_sample_space),
}


def pick(solver: str, job: Job, epochs: int) -> tuple[str, str]:
    """The name of the solver to use, and why that one.

    Raises ValueError where the solver asked for cannot do the job.
    """
    if solver == "auto":
        return "direct", "the only gradient descent there is"
    reason = SOLVERS[solver].unfit(job)
    if reason is not None:
        raise ValueError(f"solver={solver!r} cannot do this: {reason}")
    return solver, "asked for"
