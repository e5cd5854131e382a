"""What a solver of gradient descent is given, and what it has to be able to do."""

import signal
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from accelnn.backend import Array, array_module
from accelnn.columns import HostColumns
from accelnn.kernels.gpu.cuda import Philox, kernels_compile
from accelnn.network import Network, Parameters, Workspace
from accelnn.optimizers import Optimizer


class Interruption:
    """Holds Ctrl-C back within a `with` block, in which trainers look at `requested` between two
    steps and return early; the block then ends with KeyboardInterrupt. So a training is always
    between two steps when it is interrupted. A second Ctrl-C does not wait.

    Only the main thread receives signals; elsewhere, and if another handler is installed, the
    block does nothing.
    """

    requested = False

    def __enter__(self) -> None:
        self._replaced = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if self._replaced:
            signal.signal(signal.SIGINT, self._request)

    def __exit__(self, *error: object) -> None:
        if self._replaced:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.requested and error[0] is None:
            raise KeyboardInterrupt

    def _request(self, *_: object) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass
class Job:
    """A training, checked and ready to begin.

    params : first weights, a copy for the solver to change
    X, Y : (n_0, m) and (n_L, m), of the parameters' dtype and on their backend; or HostColumns,
        to be streamed in mini-batches to the device that the parameters are on
    batch_size : examples a step; None is all of them
    validation : X and Y of examples that are watched and not learned from, or None
    precision : of the matrix products, as `fit` has it; None is the parameters' own
    held : closed when the training ends, however it ends: a solver enters here what it holds
        beside memory
    interruption : Ctrl-C, held back while steps run
    """

    net: Network
    params: Parameters
    X: Array
    Y: Array
    optimizer: Optimizer
    batch_size: int | None = None
    seed: int = 0
    validation: tuple[Array, Array] | None = None
    precision: str | None = None
    held: ExitStack = field(default_factory=ExitStack)
    interruption: Interruption = field(default_factory=Interruption)

    @property
    def streamed(self) -> bool:
        """Whether examples stay on the host while the parameters are on a device."""
        arrays = (self.X, *(self.validation or ()))
        return any(isinstance(array, HostColumns) for array in arrays)

    @property
    def examples(self) -> int:
        """m, of the training set."""
        return int(self.X.shape[1])

    @property
    def steps_per_epoch(self) -> int:
        """Updates of the parameters, one a batch."""
        return -(-self.examples // (self.batch_size or self.examples))

    @property
    def dropout(self) -> bool:
        """Whether hidden units are dropped while training."""
        return min(self.net.keep_prob, default=1) < 1


class Trainer(Protocol):
    """A training under way, which never waits for the device.

    steps : updates so far
    compile_seconds : spent on compiling so far
    """

    steps: int
    compile_seconds: float

    def advance(self, rates: list[float], cost: Array | None) -> None:
        """Run as many epochs as there are rates, or fewer if the job's interruption is requested;
        `cost`, 0-d, receives the first one's cost: before its update, or the mean over its
        batches, each before its update."""

    def validation(self) -> tuple[Array, Array | None]:
        """The cost of the validation set, 0-d, without L2 and dropout, and its accuracy unless
        the output is linear."""

    def parameters(self) -> Parameters:
        """Those that the training has come to: a copy."""


def dropout_generator(job: Job, xp: Any) -> Any:
    """The random numbers of dropout, or None: a generator's, one after the other; or on
    a GPU whose kernels run, numbers each of which follows from the place it is for."""
    if not job.dropout:
        return None
    if xp is not np and kernels_compile(xp):
        return Philox(job.seed)
    return xp.random.default_rng(job.seed)


def draw_masks(net: Network, work: Workspace, random: Any, step: int) -> None:
    """Fill D of each layer that drops units; step 0, 1, 2, ... is the number of updates so far."""
    for layer, (D, keep) in enumerate(zip(work.D, net.keep_prob, strict=True)):
        if D is None:
            continue
        if isinstance(random, Philox):
            random.draw(D, keep, step, layer)
        else:
            draw_mask(D, keep, random)


def draw_mask(D: Array, keep: float, random: Any) -> None:
    """D ← 1 / keep with probability keep, else 0.

    Inverted dropout: what is kept is scaled up, so that means stay.
    """
    random.random(D.shape, dtype=D.dtype, out=D)  # CuPy needs the size too
    array_module(D).less(D, keep, out=D)
    D /= keep
