"""The `History` of a training, and the `Checkpoint` that callbacks receive."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from accelnn.backend import backend_of
from accelnn.network import Parameters
from accelnn.solvers.job import State

INTERRUPTED = "interrupted"  # `History.stopped` after Ctrl-C


@dataclass(eq=False, repr=False)
class History:
    """The record of one training, in numbers on the host. For `minimize`, epochs are evaluations.

    solver, reason : the solver that ran, and why it was chosen
    backend, device : where the training ran
    dtype, precision : of the parameters, and of the matrix products
    optimizer, batch_size : as given to `fit`; None for `minimize`
    processes : that trained together
    block_size : examples of the blocks that were shuffled, as `shuffle` of `fit`; None without
    epochs : those recorded: 0, record_every, 2 record_every, ...
    costs : before those epochs' updates; with mini-batches the mean, each before its batch's
    epochs_run : the number of epochs completed
    validation_costs, validation_accuracies : before the same, without L2 and dropout; empty
        without a validation set, accuracies also for linear outputs
    final_validation_cost, final_validation_accuracy : of the parameters returned, or None
    stopped : why the training ended before its last epoch, or None
    seconds : how long the training took, with compiling
    compile_seconds : time to compile; the next training of this kind needs none
    state : what `fit(state=...)` needs to go on from the parameters returned, if they are the last;
        None if patience found better ones before
    iterations : of SciPy's minimiser, or None
    """

    solver: str
    reason: str
    backend: str
    device: str
    dtype: str
    precision: str
    optimizer: str | None = None
    batch_size: int | None = None
    processes: int = 1
    block_size: int | None = None
    costs: list[float] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    epochs_run: int = 0
    validation_costs: list[float] = field(default_factory=list)
    validation_accuracies: list[float] = field(default_factory=list)
    final_validation_cost: float | None = None
    final_validation_accuracy: float | None = None
    stopped: str | None = None
    seconds: float = 0.0
    compile_seconds: float = 0.0
    state: State | None = None
    iterations: int | None = None
    _evaluate: Callable[[], tuple[float, float | None]] | None = None

    @classmethod
    def of(cls, params: Parameters, solver: str, reason: str, precision: str) -> Self:
        """The History of a training of these parameters, before it starts."""
        place = backend_of(params.flat)
        return cls(solver, reason, place.name, place.device_name(), str(params.dtype), precision)

    @property
    def final_cost(self) -> float:
        """The cost of the parameters returned, L2 included, on the training set. Computed when
        first read, from the X and Y given to the training: do not change them before."""
        return self._final[0]

    @property
    def final_accuracy(self) -> float | None:
        """The accuracy of the same, computed with `final_cost`; None for linear outputs."""
        return self._final[1]

    @functools.cached_property
    def _final(self) -> tuple[float, float | None]:
        assert self._evaluate is not None
        final = self._evaluate()
        self._evaluate = None  # it refers to the data
        return final

    def to_dict(self) -> dict[str, Any]:
        """All fields but the state, and the final cost and accuracy, as plain values for JSON."""
        names = [f.name for f in fields(self) if f.name[0] != "_" and f.name != "state"]
        values = {name: getattr(self, name) for name in names}
        return values | {"final_cost": self.final_cost, "final_accuracy": self.final_accuracy}

    def plot(self) -> Any:
        """The costs over the epochs, a matplotlib Figure; see `accelnn.plots.history`."""
        from accelnn import plots

        return plots.history(self)

    def __getstate__(self) -> dict[str, Any]:
        _ = self._final  # a copy or a pickle holds the numbers and not the data
        return self.__dict__

    @property
    def _run(self) -> str:
        return f"{self.epochs_run:,} {'epochs' if self.optimizer else 'evaluations'}"

    def __repr__(self) -> str:
        first = f"{self.costs[0]:.6g} to " if self.costs else ""
        scores = [f"cost {first}{self.final_cost:.6g}"]
        if self.final_validation_cost is not None:
            scores.append(f"validation {self.final_validation_cost:.6g}")
        if self.stopped:
            scores.append(self.stopped)
        place = f"{self.solver} in {self.dtype} on {self.backend}"
        return f"<History: {self._run} by {place}, {', '.join(scores)}>"


@dataclass(frozen=True)
class Checkpoint:
    """The state at the end of a recorded epoch, for callbacks.

    epoch, cost, validation_cost, validation_accuracy : as the history will hold them
    learning_rate : α of that epoch; None for `minimize`
    parameters : a function that returns a copy of the parameters
    """

    epoch: int
    cost: float
    validation_cost: float | None
    validation_accuracy: float | None
    learning_rate: float | None
    parameters: Callable[[], Parameters]

    def scores(self, decimals: int = 6) -> str:
        """The cost, and the validation set's scores if there is one, in a few words."""
        text = f"{self.cost:.{decimals}f}"
        if self.validation_cost is not None:
            text += f", validation {self.validation_cost:.{decimals}f}"
        if self.validation_accuracy is not None:
            text += f" ({self.validation_accuracy:.2%})"
        return text


Callback = Callable[[Checkpoint], object]  # returns true to end the training


def ask(callbacks: list[Callback], checkpoint: Checkpoint) -> bool:
    """Call every callback; whether one asks the training to end."""
    return sum(bool(callback(checkpoint)) for callback in callbacks) > 0


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended a training, whose parameters and History so far are `params` and `history`.

    signal : the number of the signal: SIGTERM ends a training with a checkpoint as well
    checkpoint : the file that holds the training up to `saved` epochs, or None
    """

    def __init__(
        self,
        params: Parameters,
        history: History,
        signal: int = 0,
        checkpoint: Path | None = None,
        saved: int = 0,
    ) -> None:
        self.params, self.history = params, history
        self.signal, self.checkpoint, self.saved = signal, checkpoint, saved
        result = ".params and .history hold the result so far"
        if checkpoint is not None:
            result = f"{checkpoint} holds it up to epoch {saved:,}, and resume=True goes on"
        super().__init__(f"training interrupted after {history._run}: {result}")
