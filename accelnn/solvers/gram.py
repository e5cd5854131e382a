"""Gradient descent in sample space: the same weights, without reading X from step to step.

Full-batch gradient descent adds to W[1] only multiples of itself (L2) and products dZ[1] Xᵀ. So
W[1] = c W⁰ + S Xᵀ at every step, with the first weights W⁰ and S of shape (n_1, m); and the first
layer needs only G = Xᵀ X (m, m) and P⁰ = W⁰ X (n_1, m), formed once:

    W[1] X = c P⁰ + S G        S ← (1 - αλ/m) S - α/m dZ[1]        c ← (1 - αλ/m) c

A step takes 2 n_1 m² operations instead of 4 n_0 n_1 m. The gradient of S is dZ[1]: an optimizer
that is linear in the gradients updates S as it would W[1], and c as a weight on which only L2
acts. Nothing drifts, because W[1] X is formed from S at each step. Without hidden layers this is
the textbook's dual form of gradient descent.
"""

import functools
from dataclasses import replace

import numpy as np

from accelnn import streaming
from accelnn.backend import Array
from accelnn.network import Parameters, backpropagate, cost_and_accuracy, penalty, propagate
from accelnn.solvers.direct import Batch, Direct
from accelnn.solvers.job import Job, State, Trainer


class InSampleSpace(Trainer):
    """A training in sample space, whichever solver makes its steps.

    params : S in the place of W[1], and all the other parameters
    P0, G : W⁰ X (n_1, m) and Xᵀ X (m, m); first_squares : ‖W⁰‖², with L2
    c : of W[1] = c W⁰ + S Xᵀ, a number on the host: it does not depend on the data

    Processes may share out the features: X and W⁰ are then those of this one, and P0, G and
    first_squares sums over all, so that steps need no other process.
    """

    streams = True  # X alone, and only at the start and the end
    divides: str | None = "features"

    def _first_params(self) -> Parameters:
        job, xp = self.job, self.xp
        W, _ = job.params[0]
        self._form_products(W)
        if job.net.l2:
            self.first_squares = xp.asarray((W * W).sum())
        if job.processes is not None:
            names = "P0", "G", "P0_validation", "G_validation", "first_squares"
            for array in (vars(self)[name] for name in names if name in vars(self)):
                job.processes.sum(array)
        c = job.begins.c or (1.0, *[0.0] * job.optimizer.moments)
        self._c, *self._c_moments = (np.array([number]) for number in c)
        rest = job.params.flat[W.size :]
        S = xp.zeros(W.shape[0] * job.examples, rest.dtype)
        return Parameters(xp.concatenate([S, rest]), (job.examples, *job.net.layers[1:]))

    def _form_products(self, W: Array) -> None:
        """P0 and G, and the same of the validation set, from some features at a time."""
        job, xp = self.job, self.xp
        sets = [job.X] if job.validation is None else [job.X, job.validation[0]]
        sums: list[Array] = []
        for numbers, (X, *watched) in streaming.slabs(*sets, xp=xp):
            w = W[:, numbers]
            # BLAS sees that X.T @ X is symmetric, and takes half the operations.
            G = xp.matmul(X.T, X) if job.gram is None else job.gram()
            terms = [xp.matmul(w, X), G]
            terms += [product for V in watched for product in (xp.matmul(w, V), xp.matmul(X.T, V))]
            for total, term in zip(sums, terms, strict=False):
                total += term
            sums = sums or terms
        self.P0, self.G, *others = sums
        if others:
            self.P0_validation, self.G_validation = others

    @classmethod
    def why_not(cls, job: Job) -> str | None:
        reason, optimizer = super().why_not(job), job.optimizer
        if reason is not None:
            return reason
        if job.batch_size is not None:
            return "sample space needs full batches: the same examples in every step"
        if not optimizer.linear:
            return f"{optimizer.name} is not linear in the gradient, as sample space needs"
        if job.state is not None and optimizer.moments:
            return f"sample space cannot go on with the moments of {optimizer.name}"
        return None

    @functools.cached_property
    def total(self) -> float:
        """The sum of the examples' weights."""
        return float(self.job.totals(slice(None), [self.job.examples])[0])

    @property
    def c(self) -> float:
        return float(self._c[0])

    def shrink(self, rate: float) -> float:
        """c before a step with this learning rate, which then becomes that after it."""
        before, optimizer = self.c, self.job.optimizer
        decay = optimizer.scale(rate) * self.job.net.l2 / self.total * self._c
        optimizer.update(self._c, decay, self._c_moments, rate, self.steps + 1)
        return before

    def checkpoint(self) -> State:
        c = self._c, *self._c_moments
        return replace(super().checkpoint(), c=tuple(float(number[0]) for number in c))

    def moments_of_params(self) -> list[Array]:
        moments = []
        for moment, (c,) in zip(self.moments, self._c_moments, strict=True):
            S, (W, _) = Parameters(moment, self.params.layers)[0][0], self.job.params[0]
            first = self._first_weights(c, W.copy(), S)
            flat = self.xp.concatenate([first.ravel(), moment[S.size :]])
            moments.append(self.job.whole(Parameters(flat, self.job.net.layers)).flat)
        return moments

    def penalty(self, SG: Array) -> Array:
        """λ/(2m) Σ ‖W‖², with ‖W[1]‖² = c² ‖W⁰‖² + 2 c ⟨S, P⁰⟩ + ⟨S G, S⟩."""
        S, c, m = self.params[0][0], self.c, self.total
        squares = c * c * self.first_squares + 2 * c * (S * self.P0).sum() + (SG * S).sum()
        net, upper = self.job.net, list(self.params)[1:]
        return net.l2 / (2 * m) * squares + penalty(net, upper, m)

    def validation(self) -> tuple[Array, Array | None]:
        net, work = self.job.net, self.validation_workspace
        self.xp.matmul(self.params[0][0], self.G_validation, out=work.A[0])
        work.A[0] += self.c * self.P0_validation
        Z = propagate(work)
        return cost_and_accuracy(net, self.params, Z, *self.job.validation[1:])

    def parameters(self) -> Parameters:
        params = self.job.params.copy()
        S, W = self.params[0][0], params[0][0]
        self._first_weights(self.c, W, S)
        params.flat[W.size :] = self.params.flat[S.size :]
        return params

    def _first_weights(self, c: float, W: Array, S: Array) -> Array:
        """W ← c W + S Xᵀ"""
        W *= c
        for numbers, (X,) in streaming.slabs(self.job.X, xp=self.xp):
            W[:, numbers] += self.xp.matmul(S, X.T)
        return W


class Gram(InSampleSpace, Direct):
    """A training in sample space with vectorised arrays, on either backend."""

    def _propagate(self, batch: Batch, rate: float, cost: Array | None) -> None:
        net, work, xp, (S, _) = self.job.net, batch.work, self.xp, self.params[0]
        P = xp.matmul(S, self.G, out=work.A[0])
        l2_cost = self.penalty(P) if net.l2 and cost is not None else 0.0
        c = self.shrink(rate)
        P += self.P0 if c == 1 else c * self.P0
        propagate(work)
        scale = self.scale(rate, work)
        dZ = backpropagate(work, batch.Y, scale, self.gradients, cost)
        if cost is not None:
            cost += l2_cost
        dS = self.gradients[0][0]
        dS[...] = dZ
        if net.l2:
            dS += scale * net.l2 * S
