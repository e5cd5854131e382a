"""JAX as a peer: the whole loop under jit, its state donated. Runs in the child."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from accelnn import batches
from accelnn.backend import Array
from accelnn.bench.peers import PeerJob, PeerTrainer, flat_of, layers_of, on_gpu
from accelnn.bench.records import Skip

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "leaky_relu": lambda Z: jnp.where(Z > 0, Z, 0.01 * Z),
}

INSTALL = "pip install 'jax[cuda13]' (CUDA 13 drivers) or 'jax[cuda12]'"

# XLA's names for products in less than the arrays' precision; its default on a GPU would be TF32
PRODUCTS = {"tf32": "TF32_TF32_F32", "bfloat16": "BF16_BF16_F32"}

State = Any  # the weights and the optimizer's moments


def trainers(name: str, job: PeerJob) -> dict[str, Callable[[], PeerTrainer]]:
    if on_gpu(name):
        try:
            jax.config.update("jax_default_device", jax.devices("cuda")[job.gpu])
        except Exception as error:  # without its plugin JAX raises one or another
            reason = f"{type(error).__name__}: {error}".splitlines()[0].strip(": ")
            raise Skip(f"JAX has no CUDA device here ({reason}): {INSTALL}") from None
        products = PRODUCTS.get(job.recipe.precision or "", "highest")
        jax.config.update("jax_default_matmul_precision", products)
    jax.config.update("jax_enable_x64", job.weights.dtype == np.float64)
    if job.recipe.batch_size is None:
        return {"fori_loop": lambda: FullBatch(job)}
    return {
        "gather": functools.partial(MiniBatches, job, False),
        "shuffle": functools.partial(MiniBatches, job, True),
    }


def gpu_name(job: PeerJob) -> str:
    return str(jax.devices("cuda")[job.gpu].device_kind)


class FullBatch:
    """One call for all epochs."""

    def __init__(self, job: PeerJob) -> None:
        self.job = job
        self.X, self.Y = jnp.asarray(job.X), jnp.asarray(job.Y)
        step = functools.partial(step_of, job)

        @functools.partial(jax.jit, donate_argnums=0)
        def run(state: State, X: Any, Y: Any, epochs: int) -> State:
            return lax.fori_loop(0, epochs, lambda _, state: step(state, X, Y), state)

        self.run = run

    def restart(self, weights: Array, seed: int) -> None:
        self.state = first_state(self.job, weights)
        self.orders = batches.orders(self.job.m, seed)

    def train(self, epochs: int) -> None:
        self.state = jax.block_until_ready(self.run(self.state, self.X, self.Y, epochs))

    def weights(self) -> Array:
        return flat_of([(np.asarray(W).T, b) for W, b in self.state[0]])


class MiniBatches(FullBatch):
    """One call for each epoch, whose order NumPy draws during the one before. `shuffled` puts all
    examples into this order at once, else batch by batch."""

    def __init__(self, job: PeerJob, shuffled: bool) -> None:
        super().__init__(job)
        step, size = functools.partial(step_of, job), job.recipe.batch_size
        assert size is not None
        whole = job.m - job.m % size

        @functools.partial(jax.jit, donate_argnums=0)
        def epoch(state: State, X: Any, Y: Any, order: Any) -> State:
            def update(state: State, batch: Any) -> tuple[State, None]:
                return step(state, *(batch if shuffled else (X[batch], Y[batch]))), None

            rest: Any = order[whole:]
            parts: Any = order[:whole].reshape(-1, size)
            if shuffled:
                sorted_ = X[order], Y[order]
                parts = [Z[:whole].reshape(-1, size, Z.shape[1]) for Z in sorted_]
                rest = [Z[whole:] for Z in sorted_]
            state, _ = lax.scan(update, state, parts)
            return update(state, rest)[0] if whole < job.m else state

        self.epoch = epoch

    def train(self, epochs: int) -> None:
        for _ in range(epochs):
            order = next(self.orders).astype(np.int32)
            self.state = self.epoch(self.state, self.X, self.Y, order)
        jax.block_until_ready(self.state)


def first_state(job: PeerJob, weights: Array) -> State:
    """W (n_{l-1}, n_l) and b of each layer; the optimizer's moments and the count of steps."""
    layers = [(jnp.asarray(W.T), jnp.asarray(b)) for W, b in layers_of(weights, job.net.layers)]
    count = 2 if job.recipe.optimizer == "adam" else 0
    moments = [jax.tree.map(jnp.zeros_like, layers) for _ in range(count)]
    return layers, moments, jnp.zeros((), job.weights.dtype)


def step_of(job: PeerJob, state: State, X: Any, Y: Any) -> State:
    layers, moments, t = state
    gradients = jax.grad(functools.partial(cost, job))(layers, X, Y)
    rate, t = job.recipe.learning_rate, t + 1
    if job.recipe.optimizer == "sgd":
        return jax.tree.map(lambda w, g: w - rate * g, layers, gradients), [], t
    M = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments[0], gradients)
    V = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, moments[1], gradients)
    m_scale, v_scale = rate / (1 - 0.9**t), 1 / (1 - 0.999**t)

    steps = jax.tree.map(lambda m, v: m_scale * m / (jnp.sqrt(v * v_scale) + 1e-8), M, V)
    return jax.tree.map(lambda w, step: w - step, layers, steps), [M, V], t


def cost(job: PeerJob, layers: Any, X: Any, Y: Any) -> Any:
    """The cost, X (m, n_0)."""
    A, m = X, X.shape[0]
    for (W, b), activation in zip(layers, job.net.hidden, strict=False):
        A = ACTIVATIONS[activation](A @ W + b)
    W, b = layers[-1]
    Z = A @ W + b
    if job.net.output == "softmax":
        total = -(Y * jax.nn.log_softmax(Z, axis=1)).sum()
    elif job.net.output == "sigmoid":
        total = (jax.nn.softplus(Z) - Z * Y).sum()
    else:
        total = jnp.square(Z - Y).sum() / 2
    if job.net.l2:
        total += job.net.l2 / 2 * sum((W * W).sum() for W, _ in layers)
    return total / m
