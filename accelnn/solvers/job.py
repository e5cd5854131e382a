"""What a solver of gradient descent is given, and what it has to be able to do."""

from dataclasses import dataclass
from typing import Any, Protocol

from accelnn.backend import Array, array_module
from accelnn.network import Network, Parameters, Workspace
from accelnn.optimizers import Optimizer


@dataclass
class Job:
    """A training, checked and ready to begin.

    params : first weights, a copy for the solver to change
    X, Y : (n_0, m) and (n_L, m), of the parameters' dtype and on their backend
    batch_size : examples a step; None is all of them
    validation : X and Y of examples that are watched and not learned from, or None
    """

    net: Network
    params: Parameters
    X: Array
    Y: Array
    optimizer: Optimizer
    batch_size: int | None = None
    seed: int = 0
    validation: tuple[Array, Array] | None = None

    @property
    def examples(self) -> int:
        """m, of the training set."""
        return int(self.X.shape[1])

    @property
    def dropout(self) -> bool:
        """Whether hidden units are dropped while training."""
        return min(self.net.keep_prob, default=1) < 1


class Trainer(Protocol):
    """A training under way. Only `cost` waits for the device.

    compile_seconds : spent on compiling so far
    """

    compile_seconds: float

    def advance(self, rates: list[float], cost: Array | None) -> None:
        """Run as many epochs as there are rates; `cost`, 0-d, receives the first one's cost:
        before its update, or the mean over its batches, each before its update."""

    def validation_cost(self) -> Array:
        """The cost of the validation set, 0-d, without L2 and dropout."""

    def parameters(self) -> Parameters:
        """What the training has come to: a copy."""

    def cost(self, params: Parameters) -> float:
        """The cost of the training set with these, L2 included and dropout not; waits for the
        device."""


def dropout_generator(job: Job, xp: Any) -> Any:
    """The random numbers of dropout, where there is any."""
    return xp.random.default_rng(job.seed) if job.dropout else None


def draw_masks(net: Network, work: Workspace, random: Any) -> None:
    """Fill D of each layer that drops units."""
    for D, keep in zip(work.D, net.keep_prob, strict=True):
        if D is not None:
            draw_mask(D, keep, random)


def draw_mask(D: Array, keep: float, random: Any) -> None:
    """D ← 1 / keep with probability keep, else 0.

    Inverted dropout: what is kept is scaled up, so that means stay.
    """
    random.random(D.shape, dtype=D.dtype, out=D)  # CuPy needs the size too
    array_module(D).less(D, keep, out=D)
    D /= keep
