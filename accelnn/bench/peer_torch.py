"""PyTorch as a peer: eager, compiled, in sample space, or as a CUDA graph. Runs in the child.

Measured on 2 cores (AMD EPYC, PyTorch 2.13): for nets as small as [2, 4, 1] one thread is faster
than two; mini-batches of 128 of [784, 256, 128, 10] take 1530 us with forward and loss compiled,
1100 with the whole step, so "torch-compile" compiles the whole step.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from accelnn import batches
from accelnn.backend import Array
from accelnn.bench.peers import PeerJob, PeerTrainer, flat_of, layers_of, on_gpu
from accelnn.bench.records import Skip

Tensor = Any  # a torch.Tensor
Layers = list[tuple[Tensor, Tensor]]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,  # its slope is ours, 0.01
}

OUTPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "softmax": lambda Z: torch.softmax(Z, 1),
    "linear": lambda Z: Z,
}

# (dA, A) -> dZ
BACKWARD: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sigmoid": torch.ops.aten.sigmoid_backward,
    "tanh": torch.ops.aten.tanh_backward,
    "relu": lambda dA, A: torch.ops.aten.threshold_backward(dA, A, 0),
    "leaky_relu": lambda dA, A: torch.ops.aten.leaky_relu_backward(dA, A, 0.01, True),
}

OPTIMIZERS = {"plain": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}

CPU = torch.device("cpu")


def trainers(name: str, job: PeerJob) -> dict[str, Callable[[], PeerTrainer]]:
    torch.set_float32_matmul_precision("high" if job.recipe.precision == "tf32" else "highest")
    if on_gpu(name):
        return trainers_on_gpu(name, job)
    if name == "torch-compile":
        return {"whole step": functools.partial(Compiled, job, CPU, job.threads)}
    if name == "torch-gram":
        if job.recipe.batch_size is not None or job.recipe.optimizer != "sgd":
            raise Skip("sample space is for full-batch gradient descent")
        if job.m >= job.net.layers[0]:
            raise Skip("sample space saves work only with fewer examples than features")
    ways: dict[str, Callable[[], PeerTrainer]] = {}
    for threads in sorted({job.threads, 1}, reverse=True):
        suffix = "" if threads == job.threads else ", 1 thread"
        if name == "torch-gram":
            ways[f"eager{suffix}"] = functools.partial(SampleSpace, job, False, threads)
            if threads == job.threads:  # compiled code fixes their number
                ways["compiled"] = functools.partial(SampleSpace, job, True, threads)
            continue
        for way, options in OPTIMIZERS.items():
            ways[f"{way}{suffix}"] = functools.partial(Eager, job, CPU, threads, options)
    return ways


def trainers_on_gpu(name: str, job: PeerJob) -> dict[str, Callable[[], PeerTrainer]]:
    """The ways on the job's GPU. Raises Skip if PyTorch cannot use it."""
    if torch.version.cuda is None:
        raise Skip(f"this PyTorch, {torch.__version__}, is built without CUDA")
    if not torch.cuda.is_available():
        raise Skip(f"PyTorch, built for CUDA {torch.version.cuda}, finds no GPU that it can use")
    torch.cuda.set_device(job.gpu)
    given = job, torch.device("cuda", job.gpu), job.threads
    if name == "torch-cuda-compile":
        return {"whole step": functools.partial(Compiled, *given)}
    kind = CapturedStep if name == "torch-cuda-graph" else Eager
    return {way: functools.partial(kind, *given, options) for way, options in OPTIMIZERS.items()}


def gpu_name(job: PeerJob) -> str:
    return str(torch.cuda.get_device_name(job.gpu))


def loss(job: PeerJob, layers: Layers, X: Tensor, Y: Tensor) -> Tensor:
    """The cost without L2, X (m, n_0), with its products in the job's precision."""
    if job.recipe.precision != "bfloat16":
        return cost(job, layers, X, Y)
    # without cached copies of the weights: a step uses each once, and a graph would keep old ones
    with torch.autocast(X.device.type, torch.bfloat16, cache_enabled=False):
        return cost(job, layers, X, Y)


def cost(job: PeerJob, layers: Layers, X: Tensor, Y: Tensor) -> Tensor:
    """The cost without L2."""
    A = X
    for (W, b), activation in zip(layers, job.net.hidden, strict=False):
        A = ACTIVATIONS[activation](F.linear(A, W, b))
    Z = F.linear(A, *layers[-1])
    if job.net.output == "softmax":
        return F.cross_entropy(Z, Y)
    if job.net.output == "sigmoid":
        return F.binary_cross_entropy_with_logits(Z, Y, reduction="sum") / len(X)
    return F.mse_loss(Z, Y, reduction="sum") / (2 * len(X))


class Eager:
    """Forward and loss, autograd's backward, and an optimizer of torch.optim."""

    def __init__(self, job: PeerJob, device: Any, threads: int, options: dict[str, bool]) -> None:
        self.job, self.device, self.threads, self.options = job, device, threads, options
        self.X = self.on_device(job.X)
        # cross_entropy is fastest with classes as indices
        self.Y = self.on_device(job.Y.argmax(axis=1) if job.net.output == "softmax" else job.Y)

    def on_device(self, array: Array) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def restart(self, weights: Array, seed: int) -> None:
        job = self.job
        self.layers = [
            (self.on_device(W).requires_grad_(), self.on_device(b).requires_grad_())
            for W, b in layers_of(weights, job.net.layers)
        ]
        W, b = zip(*self.layers, strict=True)
        # the gradient of λ/(2m) Σ w² is added by the optimizer
        groups = [{"params": W, "weight_decay": job.decay}, {"params": b}]
        kind = torch.optim.Adam if job.recipe.optimizer == "adam" else torch.optim.SGD
        self.optimizer = kind(groups, lr=job.recipe.learning_rate, **self.options)
        self.orders = batches.orders(job.m, seed)

    def train(self, epochs: int) -> None:
        torch.set_num_threads(self.threads)
        size = self.job.recipe.batch_size
        for _ in range(epochs):
            for chosen in self.on_device(next(self.orders)).split(size) if size else (None,):
                self.step(chosen)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def step(self, chosen: Tensor | None) -> None:
        """One update, by the chosen examples or by all."""
        batch = (self.X, self.Y) if chosen is None else (self.X[chosen], self.Y[chosen])
        self.update(*batch)

    def update(self, X: Tensor, Y: Tensor) -> None:
        self.optimizer.zero_grad()
        loss(self.job, self.layers, X, Y).backward()
        self.optimizer.step()

    def weights(self) -> Array:
        return flat_of([(W.detach().cpu(), b.detach().cpu()) for W, b in self.layers])


class CapturedStep(Eager):
    """Eager's steps as CUDA graphs by the size of the mini-batch, whose indices are copied into a
    graph's input. Weights and the optimizer's state stay where they were at the capture."""

    def __init__(self, job: PeerJob, device: Any, threads: int, options: dict[str, bool]) -> None:
        # Adam's count of steps has to be on the GPU
        more = {"capturable": True} if job.recipe.optimizer == "adam" else {}
        super().__init__(job, device, threads, options | more)
        self.launches: dict[int, Callable[[], None]] = {}

    def restart(self, weights: Array, seed: int) -> None:
        if not self.launches:
            super().restart(weights, seed)
            self._capture()
        self.orders = batches.orders(self.job.m, seed)
        with torch.no_grad():
            first = layers_of(weights, self.job.net.layers)
            for (W, b), (W_first, b_first) in zip(self.layers, first, strict=True):
                W.copy_(torch.from_numpy(W_first))
                b.copy_(torch.from_numpy(b_first))
            for state in self.optimizer.state.values():
                for value in state.values():
                    if isinstance(value, torch.Tensor):  # moments and steps start at 0
                        value.zero_()

    def _capture(self) -> None:
        m, batch_size = self.job.m, self.job.recipe.batch_size
        if batch_size is None:
            self.launches[m] = captured(lambda: self.update(self.X, self.Y))
            return
        sizes = set(batches.sizes(m, batch_size))
        self.chosen = {size: torch.arange(size, device=self.device) for size in sizes}
        for size, chosen in self.chosen.items():
            self.launches[size] = captured(functools.partial(self._gathered_update, chosen))

    def _gathered_update(self, chosen: Tensor) -> None:
        self.update(self.X.index_select(0, chosen), self.Y.index_select(0, chosen))

    def step(self, chosen: Tensor | None) -> None:
        size = self.job.m if chosen is None else len(chosen)
        if chosen is not None:
            self.chosen[size].copy_(chosen)
        self.launches[size]()


def captured(function: Callable[[], None]) -> Callable[[], None]:
    """A function that launches all work of `function` as one CUDA graph. Three runs on a side
    stream, as PyTorch asks, first create the optimizer's state and cuBLAS's workspace."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    launch: Callable[[], None] = graph.replay
    return launch


class Compiled(Eager):
    """Forward, backward and update as one function through torch.compile."""

    def __init__(self, job: PeerJob, device: Any, threads: int) -> None:
        super().__init__(job, device, threads, {})
        # the last mini-batch, if smaller, is compiled separately
        self.compiled = torch.compile(functools.partial(step_of, job), dynamic=False)

    def restart(self, weights: Array, seed: int) -> None:
        super().restart(weights, seed)
        self.layers = [(W.detach(), b.detach()) for W, b in self.layers]
        self.moments = [
            [(torch.zeros_like(W), torch.zeros_like(b)) for W, b in self.layers] for _ in range(2)
        ]
        self.t = torch.zeros((), dtype=torch.float64, device=self.device)

    def update(self, X: Tensor, Y: Tensor) -> None:
        self.layers, self.moments, self.t = self.compiled(self.layers, self.moments, self.t, X, Y)


def step_of(
    job: PeerJob, layers: Layers, moments: list[Layers], t: Tensor, X: Tensor, Y: Tensor
) -> tuple[Layers, list[Layers], Tensor]:
    """Weights, the optimizer's moments and the count of steps after one update."""
    gradients = torch.func.grad(functools.partial(loss, job))(layers, X, Y)
    if job.net.l2:
        pairs = zip(gradients, layers, strict=True)
        gradients = [(dW + job.decay * W, db) for (dW, db), (W, _) in pairs]
    rate, t = job.recipe.learning_rate, t + 1
    if job.recipe.optimizer == "sgd":
        return combined(layers, gradients, lambda w, g: w - rate * g), moments, t
    M = combined(moments[0], gradients, lambda m, g: 0.9 * m + (1 - 0.9) * g)
    V = combined(moments[1], gradients, lambda v, g: 0.999 * v + (1 - 0.999) * g * g)
    scale, correction = rate / (1 - 0.9**t), 1 / (1 - 0.999**t)
    steps = combined(M, V, lambda m, v: scale * m / (torch.sqrt(v * correction) + 1e-8))
    return combined(layers, steps, lambda w, step: w - step), [M, V], t


def combined(ones: Layers, others: Layers, function: Callable[[Tensor, Tensor], Tensor]) -> Layers:
    return [
        (function(W, dW).to(W.dtype), function(b, db).to(b.dtype))
        for (W, b), (dW, db) in zip(ones, others, strict=True)
    ]


class SampleSpace:
    """Our sample-space gradient descent: W1 = c W1⁽⁰⁾ + Sᵀ X, so an epoch needs G = X Xᵀ (m, m)
    instead of X. Without autograd, whose overhead would be most of the time of arrays this small.
    Forming G, and W1 in the end, is part of the training."""

    def __init__(self, job: PeerJob, compiled: bool, threads: int) -> None:
        self.job, self.threads = job, threads
        self.X, self.Y = torch.from_numpy(job.X), torch.from_numpy(job.Y)
        epoch = functools.partial(gram_epoch, job)
        self.epoch = torch.compile(epoch, dynamic=False) if compiled else epoch

    def restart(self, weights: Array, _seed: int) -> None:
        pairs = layers_of(weights, self.job.net.layers)
        self.layers = [(torch.from_numpy(W), torch.from_numpy(b)) for W, b in pairs]

    def train(self, epochs: int) -> None:
        torch.set_num_threads(self.threads)
        (W1, b1), *upper = self.layers
        G, P0 = self.X @ self.X.T, self.X @ W1.T
        S, c = torch.zeros_like(P0), torch.ones((), dtype=P0.dtype)
        for _ in range(epochs):
            S, c, b1, upper = self.epoch(G, P0, self.Y, S, c, b1, upper)
        self.layers = [(torch.addmm(c * W1, S.T, self.X), b1), *upper]

    def weights(self) -> Array:
        return flat_of([(W.numpy(), b.numpy()) for W, b in self.layers])


def gram_epoch(
    job: PeerJob, G: Tensor, P0: Tensor, Y: Tensor, S: Tensor, c: Tensor, b1: Tensor, upper: Layers
) -> tuple[Tensor, Tensor, Tensor, Layers]:
    """S, c, b1 and the upper layers after one epoch."""
    hidden, l2, rate = job.net.hidden, job.net.l2, job.recipe.learning_rate
    shrink = 1 - rate * job.decay
    A = [torch.addmm(c * P0 if l2 else P0, G, S) + b1]
    for (W, b), activation in zip(upper, hidden, strict=True):
        A[-1] = ACTIVATIONS[activation](A[-1])
        A.append(F.linear(A[-1], W, b))
    dZ = rate / job.m * (OUTPUTS[job.net.output](A[-1]) - Y)
    changed: Layers = []
    for (W, b), A_before, activation in reversed(list(zip(upper, A[:-1], hidden, strict=True))):
        W_new = torch.addmm(shrink * W if l2 else W, dZ.T, A_before, alpha=-1)
        changed.insert(0, (W_new, b - dZ.sum(0)))
        dZ = BACKWARD[activation](dZ @ W, A_before)
    if l2:
        S, c = shrink * S, shrink * c
    return S - dZ, c, b1 - dZ.sum(0), changed
