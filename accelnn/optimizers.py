"""How a step follows from the gradient: gradient descent, momentum and Adam; and learning rates
that change from epoch to epoch.

Each optimizer works on the flat buffers of `Parameters`, whatever the network, by the form of
its update in `operations.py`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, Protocol

from accelnn.backend import Array, array_module
from accelnn.operations import Operations

# epoch (0, 1, 2, ...) -> α
Schedule = Callable[[int], float]


class Optimizer(Protocol):
    """What a solver needs to know of an optimizer.

    name : as `fit` and its history call it
    moments : how many arrays of the parameters' size it keeps from step to step
    linear : whether a step is a linear function of all gradients so far, as sample space needs
    default_rate : the learning rate if none is given; None if one has to be
    """

    name: ClassVar[str]
    moments: ClassVar[int]
    linear: ClassVar[bool]
    default_rate: ClassVar[float | None]

    @property
    def betas(self) -> tuple[float, float]:
        """β of the first and the second moment, 0 if there is none."""

    def scale(self, learning_rate: float) -> float:
        """The factor of the gradient, applied to the smallest array that it is formed from."""

    def update(
        self,
        operations: Operations,
        theta: Array,
        gradient: Array,
        moments: list[Array],
        learning_rate: float,
        step: int,
    ) -> None:
        """Update θ in place; `gradient` comes multiplied by `scale` and is spent.

        step : 1, 2, 3, ...
        """


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Gradient descent, θ ← θ - α dθ; on mini-batches, stochastic."""

    name: ClassVar[str] = "sgd"
    moments: ClassVar[int] = 0
    linear: ClassVar[bool] = True
    default_rate: ClassVar[float | None] = None
    betas: ClassVar[tuple[float, float]] = (0.0, 0.0)

    def scale(self, learning_rate: float) -> float:
        return learning_rate

    def update(
        self,
        operations: Operations,
        theta: Array,
        gradient: Array,
        moments: list[Array],  # noqa: ARG002
        learning_rate: float,  # noqa: ARG002
        step: int,  # noqa: ARG002
    ) -> None:
        operations.update(theta, gradient)


@dataclass(frozen=True, kw_only=True)
class Momentum:
    """V ← β V + (1 - β) dθ, θ ← θ - α V: the notes' momentum, an average of the gradients.

    With V ← β V + dθ, as PyTorch has it, the same training needs the rate α (1 - β).
    """

    beta: float = 0.9

    name: ClassVar[str] = "momentum"
    moments: ClassVar[int] = 1
    linear: ClassVar[bool] = True
    default_rate: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        _check_share("beta", self.beta)

    @property
    def betas(self) -> tuple[float, float]:
        return self.beta, 0.0

    def scale(self, learning_rate: float) -> float:  # noqa: ARG002
        return 1 - self.beta

    def update(
        self,
        operations: Operations,
        theta: Array,
        gradient: Array,
        moments: list[Array],
        learning_rate: float,
        step: int,  # noqa: ARG002
    ) -> None:
        operations.momentum_update(theta, gradient, *moments, self.beta, learning_rate)


@dataclass(frozen=True, kw_only=True)
class Adam:
    """M ← β₁ M + (1 - β₁) dθ, V ← β₂ V + (1 - β₂) dθ², θ ← θ - α M̂ / (√V̂ + ε).

    M̂ = M / (1 - β₁ᵗ) and V̂ = V / (1 - β₂ᵗ) at step t: Kingma and Ba (2015), algorithm 1.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    name: ClassVar[str] = "adam"
    moments: ClassVar[int] = 2
    linear: ClassVar[bool] = False
    default_rate: ClassVar[float | None] = 1e-3

    def __post_init__(self) -> None:
        _check_share("beta1", self.beta1)
        _check_share("beta2", self.beta2)
        if not (math.isfinite(self.epsilon) and self.epsilon > 0):
            raise ValueError(f"expected epsilon > 0, got {self.epsilon}")

    @property
    def betas(self) -> tuple[float, float]:
        return self.beta1, self.beta2

    def scale(self, learning_rate: float) -> float:  # noqa: ARG002
        return 1 - self.beta1

    def corrected(self, learning_rate: float, step: int) -> tuple[float, float]:
        """α and ε with which M and V serve uncorrected: the end of Kingma and Ba's section 2."""
        root = math.sqrt(1 - self.beta2**step)
        return learning_rate * root / (1 - self.beta1**step), self.epsilon * root

    def update(
        self,
        operations: Operations,
        theta: Array,
        gradient: Array,
        moments: list[Array],
        learning_rate: float,
        step: int,
    ) -> None:
        rate, epsilon = self.corrected(learning_rate, step)
        operations.adam_update(theta, gradient, *moments, self.beta1, self.beta2, rate, epsilon)


OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {"sgd": SGD, "momentum": Momentum, "adam": Adam}


def optimizer_of(optimizer: str | Optimizer) -> Optimizer:
    """The optimizer of a name, or the one given.

    Raises ValueError if it is neither.
    """
    if isinstance(optimizer, str) and optimizer in OPTIMIZERS:
        return OPTIMIZERS[optimizer]()
    if not isinstance(optimizer, SGD | Momentum | Adam):
        raise ValueError(
            f"unknown optimizer {optimizer!r}: expected one of {list(OPTIMIZERS)}, or "
            "accelnn.SGD(), accelnn.Momentum(beta=0.9), accelnn.Adam(beta1=0.9, beta2=0.999)"
        )
    return optimizer


def new_moments(optimizer: Optimizer, theta: Array) -> list[Array]:
    """The arrays that the optimizer keeps: zeros like θ."""
    return [array_module(theta).zeros_like(theta) for _ in range(optimizer.moments)]


# --------------------------------------------------------------------------------------------
# learning rates that change: each function returns a Schedule, for `fit(learning_rate=...)`


def step_decay(learning_rate: float, factor: float, every: int) -> Schedule:
    """α · factor^⌊epoch / every⌋: constant, then lower by a factor every few epochs."""
    return lambda epoch: learning_rate * factor ** (epoch // every)


def exponential_decay(learning_rate: float, factor: float) -> Schedule:
    """α · factor^epoch"""
    return lambda epoch: learning_rate * factor**epoch


def inverse_decay(learning_rate: float, rate: float) -> Schedule:
    """α / (1 + rate · epoch): the notes' learning-rate decay."""
    return lambda epoch: learning_rate / (1 + rate * epoch)


def cosine_decay(learning_rate: float, epochs: int, least: float = 0.0) -> Schedule:
    """From α down to `least` along half a cosine over `epochs` (Loshchilov and Hutter 2017).

    The last of the epochs is still above `least`, so that it may be 0.
    """
    half = (learning_rate - least) / 2
    return lambda epoch: least + half * (1 + math.cos(math.pi * min(epoch / epochs, 1)))


def rates(learning_rate: Any, epochs: range) -> list[float]:
    """α of each of the epochs, from a number or a Schedule.

    Raises ValueError if one is not a finite number above 0.
    """
    if not callable(learning_rate):
        return [_checked_rate(learning_rate, "")] * len(epochs)
    return [_checked_rate(learning_rate(epoch), f" at epoch {epoch}") for epoch in epochs]


def _checked_rate(rate: Any, at: str) -> float:
    number = isinstance(rate, Real) and not isinstance(rate, bool)
    if not (number and 0 < rate < math.inf):
        raise ValueError(f"gradient descent needs learning_rate > 0, got {rate!r}{at}")
    return float(rate)


def _check_share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"expected {name} in [0, 1), got {value}")
