"""Optimizers on flat parameters: gradient descent, three kinds of momentum, and Adam; and
learning-rate schedules."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

from accelnn.backend import Array, array_module

Schedule = Callable[[int], float]  # epoch (0, 1, 2, ...) -> α


class Optimizer:
    """How a step follows from the gradient. Derive your own, and pass an instance to `fit`:

        class SignDescent(Optimizer):
            def update(self, theta, gradient, moments, learning_rate, step):
                theta -= learning_rate * array_module(theta).sign(gradient)

    The solver "direct" runs any optimizer, the compiled solvers those of this module.

    name : as the history shows it; by default the class's in lower case
    moments : the number of arrays of θ's size that are kept between steps, zeros at first
    linear : whether a step is a linear function of all gradients so far, as sample space needs
    default_rate : the learning rate if none is given; None if one has to be
    """

    name: ClassVar[str]
    moments: ClassVar[int] = 0
    linear: ClassVar[bool] = False
    default_rate: ClassVar[float | None] = None

    def __init_subclass__(cls) -> None:
        cls.name = vars(cls).get("name", cls.__name__.lower())

    @property
    def betas(self) -> tuple[float, float]:
        """β of the first and of the second moment, 0 if there is none."""
        return 0.0, 0.0

    def scale(self, learning_rate: float) -> float:
        """The factor of the gradient that `update` receives; backward applies it for free."""
        return 1 - self.betas[0]

    def corrected(self, learning_rate: float, step: int) -> tuple[float, float]:
        """α and ε at a step 1, 2, 3, ..., as compiled steps need them."""
        return learning_rate, 0.0

    def update(
        self, theta: Array, gradient: Array, moments: list[Array], learning_rate: float, step: int
    ) -> None:
        """Update θ in place, at step 1, 2, 3, ...; all arrays are flat. The gradient comes
        multiplied by `scale`, and may be overwritten."""
        raise NotImplementedError(f"{type(self).__name__} has no update")


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Gradient descent, θ ← θ - α dθ; on mini-batches, stochastic."""

    linear: ClassVar[bool] = True

    def scale(self, learning_rate: float) -> float:
        return learning_rate

    def update(self, theta: Array, gradient: Array, *_: Any, **__: Any) -> None:
        theta -= gradient


@dataclass(frozen=True, kw_only=True)
class Momentum(Optimizer):
    """V ← β V + (1 - β) dθ, θ ← θ - α V: the notes' momentum, an average of the gradients.
    `HeavyBall` trains the same with the rate α (1 - β)."""

    beta: float = 0.9

    moments: ClassVar[int] = 1
    linear: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_shares(beta=self.beta)

    @property
    def betas(self) -> tuple[float, float]:
        return self.beta, 0.0

    def update(
        self, theta: Array, gradient: Array, moments: list[Array], learning_rate: float, step: int
    ) -> None:
        V = self.velocity(gradient, moments)
        theta -= array_module(theta).multiply(V, learning_rate, out=gradient)

    def velocity(self, gradient: Array, moments: list[Array]) -> Array:
        """V ← β V + the gradient as it comes to `update`"""
        [V] = moments
        V *= self.beta
        V += gradient
        return V


@dataclass(frozen=True, kw_only=True)
class HeavyBall(Momentum):
    """V ← β V + α dθ, θ ← θ - V (Polyak 1964): momentum as in PyTorch, and as in scikit-learn also
    if the learning rate changes."""

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise ValueError(f"expected beta in [0, 1], got {self.beta}")

    def scale(self, learning_rate: float) -> float:
        return learning_rate

    def update(
        self, theta: Array, gradient: Array, moments: list[Array], learning_rate: float, step: int
    ) -> None:
        theta -= self.velocity(gradient, moments)


@dataclass(frozen=True, kw_only=True)
class Nesterov(HeavyBall):
    """V ← β V + α dθ, θ ← θ - (β V + α dθ): Nesterov's accelerated gradient, in the form of
    Sutskever et al. (2013) with the gradient at θ, as in PyTorch and scikit-learn."""

    def update(
        self, theta: Array, gradient: Array, moments: list[Array], learning_rate: float, step: int
    ) -> None:
        V = self.velocity(gradient, moments)
        theta -= gradient
        theta -= array_module(theta).multiply(V, self.beta, out=gradient)


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """M ← β₁ M + (1 - β₁) dθ, V ← β₂ V + (1 - β₂) dθ², θ ← θ - α M̂ / (√V̂ + ε).

    M̂ = M / (1 - β₁ᵗ) and V̂ = V / (1 - β₂ᵗ) at step t: Kingma and Ba (2015), algorithm 1.

    epsilon_hat : whether ε is the ε̂ of their section 2, √(1 - β₂ᵗ) ε at every step t, as in
        TensorFlow and scikit-learn
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    epsilon_hat: bool = False

    moments: ClassVar[int] = 2
    default_rate: ClassVar[float | None] = 1e-3

    def __post_init__(self) -> None:
        _check_shares(beta1=self.beta1, beta2=self.beta2)
        if not (math.isfinite(self.epsilon) and self.epsilon > 0):
            raise ValueError(f"expected epsilon > 0, got {self.epsilon}")

    @property
    def betas(self) -> tuple[float, float]:
        return self.beta1, self.beta2

    def corrected(self, learning_rate: float, step: int) -> tuple[float, float]:
        """α and ε with which M and V serve uncorrected: the end of Kingma and Ba's section 2."""
        root = math.sqrt(1 - self.beta2**step)
        epsilon = self.epsilon * (1.0 if self.epsilon_hat else root)
        return learning_rate * root / (1 - self.beta1**step), epsilon

    def update(
        self, theta: Array, gradient: Array, moments: list[Array], learning_rate: float, step: int
    ) -> None:
        xp, (M, V) = array_module(theta), moments
        rate, epsilon = self.corrected(learning_rate, step)
        M *= self.beta1
        M += gradient
        V *= self.beta2
        gradient *= math.sqrt(1 - self.beta2) / (1 - self.beta1)
        V += xp.square(gradient, out=gradient)
        root = xp.sqrt(V, out=gradient)
        root += epsilon
        change = xp.divide(M, root, out=root)
        change *= rate
        theta -= change


OPTIMIZERS: dict[str, type[Optimizer]] = {
    one.name: one for one in (SGD, Momentum, HeavyBall, Nesterov, Adam)
}


def optimizer_of(optimizer: str | Optimizer) -> Optimizer:
    """The optimizer of this name, or the one given; raises ValueError if it is neither."""
    if isinstance(optimizer, str) and optimizer in OPTIMIZERS:
        return OPTIMIZERS[optimizer]()
    if not isinstance(optimizer, Optimizer):
        own = "such as accelnn.Momentum(beta=0.9) or accelnn.Adam(beta1=0.9, beta2=0.999)"
        expected = f"one of {list(OPTIMIZERS)}, or an instance {own}"
        raise ValueError(f"unknown optimizer {optimizer!r}: expected {expected}")
    return optimizer


# -------- learning rates that change: each function returns a Schedule for `fit(learning_rate=...)`


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
    """From α down to `least` along half a cosine over `epochs` (Loshchilov and Hutter 2017). The
    last epoch is above `least`, which may be 0."""
    half = (learning_rate - least) / 2
    return lambda epoch: least + half * (1 + math.cos(math.pi * min(epoch / epochs, 1)))


def rates(learning_rate: float | Schedule, epochs: range) -> list[float]:
    """α of each of the epochs; raises ValueError if one is not a finite number above 0."""
    if not callable(learning_rate):
        return [_checked_rate(learning_rate, "")] * len(epochs)
    return [_checked_rate(learning_rate(epoch), f" at epoch {epoch}") for epoch in epochs]


def _checked_rate(rate: Any, at: str) -> float:
    number = isinstance(rate, Real) and not isinstance(rate, bool)
    if not (number and 0 < rate < math.inf):
        raise ValueError(f"gradient descent needs learning_rate > 0, got {rate!r}{at}")
    return float(rate)


def _check_shares(**shares: float) -> None:
    for name, value in shares.items():
        if not 0 <= value < 1:
            raise ValueError(f"expected {name} in [0, 1), got {value}")
