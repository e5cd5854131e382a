"""Gradient descent in sample space: the same weights, without reading X from step to step.

All that full-batch gradient descent ever adds to W[1] are multiples of itself (L2) and products
dZ[1] Xᵀ. So W[1] = c W⁰ + S Xᵀ at every step, where W⁰ are the first weights and S is (n_1, m),
and what the first layer needs of X are G = Xᵀ X (m, m) and P⁰ = W⁰ X (n_1, m), formed once:

    W[1] X = c P⁰ + S G        S ← (1 - αλ/m) S - α/m dZ[1]        c ← (1 - αλ/m) c

That is 2 n_1 m² operations a step instead of 4 n_0 n_1 m. The gradient of S is dZ[1] itself: an
optimizer that is linear in the gradients updates S as it would W[1], and c as a weight on which
only L2 acts. Nothing drifts, because W[1] X is formed from S at each step. For a network without
hidden layers this is the textbook's dual form of gradient descent; here it serves the first layer
of a network of any depth.
"""

import functools
from dataclasses import dataclass

from accelnn.backend import Array, array_module
from accelnn.network import (
    Parameters,
    Workspace,
    backpropagate,
    cost_and_accuracy,
    penalty,
    propagate,
)
from accelnn.optimizers import new_moments
from accelnn.solvers.job import Job, draw_masks, dropout_generator


@dataclass
class SampleSpace:
    """A training's first layer in sample space.

    inner : S in the place of W[1], and all the other parameters
    P0, G : W⁰ X (n_1, m) and Xᵀ X (m, m); the same for the validation set, (n_1, m_v), (m, m_v)
    """

    job: Job
    inner: Parameters
    P0: Array
    G: Array
    P0_validation: Array | None = None
    G_validation: Array | None = None

    @classmethod
    def of(cls, job: Job) -> "SampleSpace":
        """Form the products with X, in which all of the set-up's time goes."""
        xp = array_module(job.X)
        X, (W, _) = job.X, job.params[0]
        rest = job.params.flat[W.size :]
        inner = Parameters(
            xp.concatenate([xp.zeros(W.shape[0] * job.examples, rest.dtype), rest]),
            (job.examples, *job.net.layers[1:]),
        )
        # X.T @ X is recognised as symmetric and takes half the operations.
        space = cls(job, inner, xp.matmul(W, X), xp.matmul(X.T, X))
        if job.validation is not None:
            space.P0_validation = xp.matmul(W, job.validation[0])
            space.G_validation = xp.matmul(X.T, job.validation[0])
        return space

    def parameters(self, c: float) -> Parameters:
        """Back in the space of the weights: W[1] = c W⁰ + S Xᵀ."""
        xp = array_module(self.P0)
        params = self.job.params.copy()
        S, W = self.inner[0][0], params[0][0]
        W *= c
        W += xp.matmul(S, self.job.X.T)
        params.flat[W.size :] = self.inner.flat[S.size :]
        return params

    @functools.cached_property
    def first_squares(self) -> Array:
        """‖W⁰‖²"""
        W = self.job.params[0][0]
        return (W * W).sum()

    def penalty(self, c: float, SG: Array) -> Array:
        """λ/(2m) Σ ‖W‖², where ‖W[1]‖² = c² ‖W⁰‖² + 2 c ⟨S, P⁰⟩ + ⟨S G, S⟩."""
        S = self.inner[0][0]
        squares = c * c * self.first_squares + 2 * c * (S * self.P0).sum() + (SG * S).sum()
        net, m = self.job.net, self.job.examples
        upper = list(self.inner)[1:]
        return net.l2 / (2 * m) * squares + penalty(net, upper, m)

    def validation(self, c: float) -> tuple[Array, Array | None]:
        """Cost and accuracy from W[1] X_v = c W⁰ X_v + S Xᵀ X_v on."""
        assert self.job.validation is not None
        assert self.P0_validation is not None
        work = self.validation_workspace
        work.xp.matmul(self.inner[0][0], self.G_validation, out=work.A[0])
        work.A[0] += c * self.P0_validation
        Z = propagate(self.job.net, self.inner, work)
        return cost_and_accuracy(self.job.net, self.inner, Z, self.job.validation[1])

    @functools.cached_property
    def validation_workspace(self) -> Workspace:
        """For the validation set."""
        assert self.job.validation is not None
        return Workspace(self.job.net, self.inner, self.job.validation[0].shape[1])


class Shrinkage:
    """c of W[1] = c W⁰ + S Xᵀ: a number on the host, for no data enters into it."""

    def __init__(self, job: Job) -> None:
        self.decay = job.net.l2 / job.examples
        self.beta = job.optimizer.betas[0]
        self.c, self.velocity = 1.0, 0.0

    def step(self, rate: float) -> float:
        """c before the step, which is taken."""
        c = self.c
        self.velocity = self.beta * self.velocity + (1 - self.beta) * self.decay * c
        self.c = c - rate * self.velocity
        return c


class InSampleSpace:
    """The state of a full-batch training in sample space, whichever solver makes its steps."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.space = SampleSpace.of(job)
        self.shrinkage = Shrinkage(job)
        self.steps = 0

    def validation(self) -> tuple[Array, Array | None]:
        return self.space.validation(self.shrinkage.c)

    def parameters(self) -> Parameters:
        return self.space.parameters(self.shrinkage.c)


class Gram(InSampleSpace):
    """A training with vectorised arrays, on either backend."""

    compile_seconds = 0.0

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.inner = self.space.inner
        self.gradients = self.inner.empty_like()
        self.moments = new_moments(job.optimizer, self.inner.flat)
        self.work = Workspace(job.net, self.inner, job.examples, dropout=True)
        self.base = self.work.xp.empty_like(self.space.P0)
        self.random = dropout_generator(job, self.work.xp)

    def advance(self, rates: list[float], cost: Array | None) -> None:
        for number, rate in enumerate(rates):
            if self.job.interruption.requested:
                return
            self._step(rate, cost if number == 0 else None)

    def _step(self, rate: float, cost: Array | None) -> None:
        job, work, (S, _) = self.job, self.work, self.inner[0]
        net, space, xp = job.net, self.space, self.work.xp
        c = self.shrinkage.step(rate)
        draw_masks(net, work, self.random, self.steps)
        P = xp.matmul(S, space.G, out=work.A[0])
        l2_cost = space.penalty(c, P) if net.l2 and cost is not None else 0.0
        P += space.P0 if c == 1 else xp.multiply(space.P0, c, out=self.base)
        propagate(net, self.inner, work)
        scale = job.optimizer.scale(rate) / job.examples
        dZ = backpropagate(net, self.inner, job.Y, work, scale, self.gradients, cost)
        if cost is not None:
            cost += l2_cost
        dS = self.gradients[0][0]
        dS[...] = dZ
        if net.l2:
            dS += scale * net.l2 * S
        self.steps += 1
        job.optimizer.update(
            work.operations, self.inner.flat, self.gradients.flat, self.moments, rate, self.steps
        )


def why_not(job: Job) -> str | None:
    """Why a training cannot run in sample space, or None."""
    if job.batch_size is not None:
        return "sample space is for full batches, where the same examples make every step"
    if not job.optimizer.linear:
        return f"{job.optimizer.name} is not linear in the gradient, as sample space needs"
    return None
