"""A dense network as plain data and pure functions: initialisation, forward, backward, predict.

Columns are examples: X is (n_0, m), Y is (n_L, m), W[l] is (n_l, n_{l-1}), b[l] is (n_l, 1).
A network without hidden layers is linear or logistic regression.
"""

import copy
import functools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np

from accelnn import backend
from accelnn.backend import Array, array_module, as_array, as_numbers, at_work
from accelnn.columns import HostColumns, as_stored
from accelnn.functions import ACTIVATIONS, OUTPUTS, one_hot
from accelnn.operations import activation_gradient, bias_activation, output_gradient
from accelnn.scores import accuracy

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


class Parameters:
    """W and b of every layer as views into one flat buffer: W1, b1, W2, b2, ... Iterating gives
    (W, b) layer by layer. Gradients have the same form.

    flat : float32 or float64 (Σ n_l (n_{l-1} + 1),), not copied
    layers : the sizes n_0, ..., n_L
    """

    def __init__(self, flat: Array, layers: Sequence[int]) -> None:
        if not isinstance(flat, array_module(flat).ndarray) or flat.dtype not in FLOATS:
            got = f"{type(flat).__name__} of {getattr(flat, 'dtype', 'no dtype')}"
            expected = "expected flat as an array of NumPy or CuPy of native float32 or float64"
            raise TypeError(f"{expected}, got {got}: pass numpy.asarray(flat, float)")
        self.flat, self.layers = as_array(flat, "flat"), tuple(map(operator.index, layers))
        shape = (parameter_count(self.layers),)
        if flat.shape != shape:
            expected = f"expected a flat buffer of shape {shape} for layers {list(layers)}"
            raise ValueError(f"{expected}, got {flat.shape}")
        self._views = layer_views(self.flat, self.layers)

    @classmethod
    def from_layers(cls, pairs: Iterable[tuple[Array, Array]]) -> Self:
        """Parameters with the values of your own (W, b) of each layer, copied."""
        pairs = [(W, b) for W, b in pairs]
        if not pairs:
            raise ValueError("expected at least one layer (W, b), got none")
        xp = array_module(*(array for pair in pairs for array in pair))
        pairs = [(xp.asarray(as_numbers(W, "W")), xp.asarray(as_numbers(b, "b"))) for W, b in pairs]
        layers = [pairs[0][0].shape[-1] if pairs[0][0].ndim else 0]
        for number, (W, b) in enumerate(pairs, 1):
            if W.ndim != 2 or W.shape[1] != layers[-1]:
                expected = f"layer {number}: expected W of shape (n_{number}, {layers[-1]})"
                raise ValueError(f"{expected}, got {W.shape}")
            layers.append(W.shape[0])
            if b.shape != (W.shape[0], 1):
                expected = f"layer {number}: expected b of shape ({W.shape[0]}, 1)"
                raise ValueError(f"{expected}, got {b.shape}: pass b.reshape(-1, 1)")
        flat = xp.concatenate([array.ravel() for pair in pairs for array in pair])
        return cls(flat if flat.dtype in FLOATS else flat.astype(np.float64), layers)

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __getitem__(self, layer: int) -> tuple[Array, Array]:
        return self._views[layer]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.flat, self.layers)  # so that the views of a copy are of its buffer

    def __repr__(self) -> str:
        values = f"{self.flat.size:,} {self.dtype} values on {array_module(self.flat).__name__}"
        return f"<Parameters of layers {list(self.layers)}: {values}>"

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self.flat.dtype  # type: ignore[no-any-return]

    def copy(self) -> Self:
        """The same values in a buffer of their own."""
        return type(self)(self.flat.copy(), self.layers)

    def empty_like(self) -> Self:
        """The same shapes in a buffer of their own, not yet filled."""
        return type(self)(array_module(self.flat).empty_like(self.flat), self.layers)


@dataclass(frozen=True)
class Network:
    """The architecture of a dense network and the terms of its cost: plain data, no weights.

    Parameters
    ----------
    layers : sizes n_0, ..., n_L, the number of features first
    hidden : "sigmoid" | "tanh" | "relu" | "leaky_relu" | "identity", or one per hidden layer
    output : for classes "sigmoid" (cross-entropy) | "softmax" (categorical cross-entropy); for
        values "linear" (half the mean squared error) | "absolute" (mean absolute error) | "huber"
        (Huber's loss, quadratic up to an error of 1) | "poisson" (e^Z, half the Poisson deviance)
    l2 : λ, adding λ/(2m) Σ ‖W‖² to the cost; biases are not penalised
    keep_prob : the share of units that dropout keeps while training, in (0, 1]; a number, or
        one per hidden layer

    The methods take `params` of this network, features X (n_0, m), labels Y as in `targets`, and
    weights of the examples (m,), all 1 by default: with them, the cost divides by their sum instead
    of m, in L2's part too. They raise ValueError if shapes, labels or values do not fit, and
    TypeError for other types or if host and device arrays are mixed.
    """

    layers: Sequence[int]
    hidden: str | Sequence[str] = "relu"
    output: str = "sigmoid"
    l2: float = 0.0
    keep_prob: Any = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.layers, int | np.integer):
            given = (self.layers, self.hidden, self.output, self.l2, self.keep_prob)
            sizes = [int(n) for n in given if isinstance(n, int | np.integer)]
            hint = f"pass Network({sizes if len(sizes) > 1 else '[n_0, ..., n_L]'})"
            raise TypeError(f"expected layers as one sequence of sizes, got {self.layers}: {hint}")
        layers = tuple(self.layers)
        if len(layers) < 2 or not all(is_integer(n, least=1) for n in layers):
            raise ValueError(
                f"expected layers as at least two positive integers [n_0, ..., n_L], got {layers}"
            )
        hidden = _per_layer("hidden", self.hidden, len(layers) - 2)
        keep_prob = _per_layer("keep_prob", self.keep_prob, len(layers) - 2)
        for name in hidden:
            if name not in ACTIVATIONS:
                raise ValueError(f"unknown hidden {name!r}: expected one of {list(ACTIVATIONS)}")
        if self.output not in OUTPUTS:
            raise ValueError(f"unknown output {self.output!r}: expected one of {list(OUTPUTS)}")
        if self.output == "softmax" and layers[-1] == 1:
            raise ValueError("a softmax of one output is always 1: use output='sigmoid'")
        if not (math.isfinite(self.l2) and self.l2 >= 0):
            raise ValueError(f"expected l2 >= 0, got {self.l2}")
        for keep in keep_prob:
            if not 0 < keep <= 1:
                raise ValueError(f"expected keep_prob in (0, 1], got {keep}")
        # past the frozen dataclass's __setattr__
        vars(self).update(layers=tuple(map(int, layers)), hidden=hidden)
        vars(self).update(keep_prob=tuple(map(float, keep_prob)), l2=float(self.l2))

    def init(
        self, kind: str = "scaled", scale: Any = None, *, seed: int = 1, dtype: Any = None
    ) -> Parameters:
        """First weights on the chosen backend; biases are zero.

        Drawn on the host by numpy.random.RandomState(seed), layer by layer, W as
        randn(n_l, n_{l-1}): the notes' convention, and the same numbers on every backend.

        kind : "zeros" | "normal" (randn * scale) | "scaled" (randn / sqrt(n_{l-1})) |
            "he" (randn * sqrt(2 / n_{l-1}); He et al. 2015) | "glorot" (uniform in
            ±sqrt(6 / (n_{l-1} + n_l)); Glorot and Bengio 2010) | "uniform" (in ±0.12)
        scale : for "normal": a number, 0.01 by default, or one per layer
        dtype : by default float64 on NumPy and float32 on CuPy
        """
        if kind not in INITIALISATIONS:
            raise ValueError(f"unknown init {kind!r}: expected one of {list(INITIALISATIONS)}")
        if scale is not None and kind != "normal":
            raise ValueError(f"scale is for init 'normal', got scale={scale} with {kind!r}")
        chosen = backend.current()
        dtype = np.dtype(chosen.default_dtype if dtype is None else dtype)
        if dtype not in FLOATS:
            raise ValueError(f"expected dtype float32 or float64, got {dtype}")
        random = np.random.RandomState(seed)
        scales = _per_layer("scale", 0.01 if scale is None else scale, len(self.layers) - 1)
        flat = np.zeros(parameter_count(self.layers))
        for (W, _), layer_scale in zip(Parameters(flat, self.layers), scales, strict=True):
            W[...] = INITIALISATIONS[kind](random, W.shape, layer_scale)
        return Parameters(chosen.to_device(flat, dtype), self.layers)

    @property
    def classifies(self) -> bool:
        """Whether the outputs are probabilities of classes; else they are values."""
        return OUTPUTS[self.output].classes

    @at_work("predicting")
    def forward(self, params: Parameters, X: Array) -> Array:
        """The output activations (n_L, m): probabilities, or values. X may stay in a file, as for
        `accelnn.fit`, as for all methods that only pass forward."""
        streamed, xp = self._streamed(params, X), array_module(params.flat)
        if streamed is None:
            return self._outputs(params, self.check(params, X)[0])
        from accelnn import streaming

        with closing(streaming.chunks(self, [streamed], xp)) as parts:
            return xp.concatenate([self._outputs(params, part) for (part,) in parts], axis=1)

    def _outputs(self, params: Parameters, X: Array) -> Array:
        Z = forward(Workspace(self, params, X.shape[1]), X)
        Z += params[-1][1]
        return OUTPUTS[self.output].function(Z, out=Z)

    def _streamed(self, params: Parameters, X: Array) -> HostColumns | None:
        """X, checked, as columns to read in chunks if it is in a file or no floats yet, or None."""
        self.check_params(params)
        X = as_stored(X, self.layers[0], "X")
        if not isinstance(X, HostColumns) or 0 in X.shape:
            return None
        if not X.in_file and array_module(params.flat) is not np:
            return None
        self.check_shapes(X)
        return HostColumns.of(X, params.dtype)

    @at_work("predicting")
    def predict(self, params: Parameters, X: Array) -> Array:
        """The label of each example, (m,) int64; without classes the outputs (n_L, m).

        One sigmoid output gives 1 if its probability exceeds a half, else 0; several outputs give
        the index of the largest. Raises ValueError if an output is NaN, and waits for the device.
        """
        A = self.forward(params, X)
        if not self.classifies:
            return A
        if unknown := int(array_module(A).isnan(A).any(axis=0).sum()):
            found = f"the outputs of {unknown} of {A.shape[1]} examples are NaN"
            raise ValueError(f"{found}: X or the parameters hold NaN, or values too large")
        return labels_of(A)

    @at_work("computing an accuracy")
    def accuracy(self, params: Parameters, X: Array, Y: Array) -> float:
        """The share of examples whose label `predict` gets right; waits for the device."""
        if not self.classifies:
            found = f"a {self.output} output has no labels to be right or wrong"
            raise ValueError(f"{found}: use net.cost")
        if self._streamed(params, X) is None:
            X, _ = self.check(params, X, Y)
        return accuracy(self.predict(params, X), Y)

    @at_work("computing a cost")
    def cost(self, params: Parameters, X: Array, Y: Array, weights: Array = None) -> float:
        """The cost, with L2 and without dropout; waits for the device."""
        streamed = self._streamed(params, X)
        if streamed is not None:
            from accelnn import streaming

            Y = as_array(as_stored(Y, self.layers[-1], "Y"), "Y")
            self.check_shapes(streamed, Y)
            Y = self.targets(Y, params.dtype)
            weights, total = checked_weights(weights, streamed, params)
            loss, _ = streaming.evaluate(self, params, streamed, Y, weights)
            return float(loss + penalty(self, params, total))
        X, Y = self.check(params, X, Y)
        weights, total = checked_weights(weights, X, params)
        Z = forward(Workspace(self, params, X.shape[1]), X)
        Z += params[-1][1]
        return float(OUTPUTS[self.output].loss(Z, Y, weights) + penalty(self, params, total))

    @at_work("computing gradients")
    def gradients(
        self, params: Parameters, X: Array, Y: Array, weights: Array = None
    ) -> Parameters:
        """dW and db of every layer: the gradient of `cost`."""
        X, Y = self.check(params, X, Y)
        work, gradients = Workspace(self, params, X.shape[1]), params.empty_like()
        work.weights, work.total = checked_weights(weights, X, params)
        forward(work, X)
        backward(work, X, Y, 1 / work.total, gradients)
        return gradients

    def targets(self, Y: Array, dtype: Any = None) -> Array:
        """Y as the (n_L, m) array that the formulas need, by default of its own dtype; waits for
        the device.

        Y : integer labels (m,), 0 or 1 for one sigmoid and 0 ... n_L - 1 for several outputs;
            values (m,) for one output of another kind; or (n_L, m) already: 0..1 for one sigmoid,
            one-hot for several outputs of a classifier, from 0 on for poisson, else any values
        """
        Y, outputs = as_array(Y, "Y"), self.layers[-1]
        if isinstance(Y, HostColumns):
            Y = np.asarray(Y)
        if Y.ndim == 1:
            if outputs > 1 and not self.classifies:
                expected = f"expected Y of shape ({outputs}, m) for {outputs} {self.output} outputs"
                raise ValueError(f"{expected}, got {Y.shape}")
            Y = Y[None] if outputs == 1 else one_hot(Y, outputs)
        if OUTPUTS[self.output].least > -math.inf and Y.size:
            low, high = float(Y.min()), float(Y.max())
            if math.isfinite(high - low):  # `fit` counts values that are not
                self.check_range(low, high)
                self.check_sums(Y)
        return Y if dtype is None else Y.astype(dtype, copy=False)

    def check(self, params: Parameters, X: Array, Y: Array = None) -> tuple[Array, Array]:
        """X and Y as arrays of the parameters' dtype, Y as `targets` gives it, all checked."""
        self.check_params(params)
        X = as_array(as_stored(X, self.layers[0], "X"), "X")
        Y = None if Y is None else as_array(as_stored(Y, self.layers[-1], "Y"), "Y")
        xp = array_module(params.flat, X, Y)
        X = xp.asarray(X, params.dtype)
        self.check_shapes(X, Y)
        return X, None if Y is None else self.targets(Y, params.dtype)

    def check_range(self, low: float, high: float) -> None:
        """Raise ValueError if the outputs cannot have labels that go this low or high."""
        if low < OUTPUTS[self.output].least or (self.classifies and high > 1):
            bounds = "in 0..1" if self.classifies else "of at least 0"
            expected = f"expected labels Y {bounds} for {self.output} outputs"
            raise ValueError(f"{expected}, got {low:g}..{high:g}")

    def check_sums(self, Y: Array) -> None:
        """Raise ValueError if columns of a softmax's labels do not sum to 1."""
        if self.output == "softmax" and float(abs(Y.sum(axis=0) - 1.0).max()) > 1e-3:
            hint = "pass one_hot(labels, n)"
            raise ValueError(f"expected columns of Y that sum to 1 for softmax: {hint}")

    def check_params(self, params: Parameters) -> None:
        """Raise TypeError or ValueError unless these are parameters of this network."""
        if not isinstance(params, Parameters):
            hint = "pass net.init(), or Parameters.from_layers([(W1, b1), ...])"
            got = type(params).__name__
            raise TypeError(f"expected params as accelnn.Parameters, got {got}: {hint}")
        if params.layers != self.layers:
            layers, got = list(self.layers), list(params.layers)
            raise ValueError(f"expected parameters of layers {layers}, got {got}")

    def check_shapes(self, X: Array, Y: Array = None) -> None:
        """Raise ValueError if the shapes do not fit the network or each other."""
        features, outputs = self.layers[0], self.layers[-1]
        if X.ndim != 2 or X.shape[0] != features:
            hint = ": pass X.T (columns are examples)" if X.shape[1:] == (features,) else ""
            if X.ndim == 1:
                hint = ": pass X.reshape(-1, 1) for one example, X.reshape(1, -1) for one feature"
            raise ValueError(f"expected X of shape ({features}, m), got {X.shape}{hint}")
        m, flat = X.shape[1], self.classifies or outputs == 1
        if Y is None:
            return
        if m == 0:
            raise ValueError("expected at least one example, got X with no columns")
        if Y.shape == (outputs, m) or (flat and Y.shape == (m,)):
            return
        labels = f" or labels of shape ({m},)" if flat else ""
        hints = {(m, outputs): ": pass Y.T (columns are examples)", (1, m): ": pass Y.ravel()"}
        expected = f"expected Y of shape ({outputs}, {m}){labels}"
        raise ValueError(f"{expected}, got {Y.shape}{hints.get(Y.shape, '')}")


def checked_weights(weights: Array, X: Array, params: Parameters) -> tuple[Array, float]:
    """The weights of the examples as numbers like the parameters, and their sum; None and m without
    weights. Raises ValueError if they are no m numbers from 0 on, or all 0."""
    m = X.shape[1]
    if weights is None:
        return None, m
    weights = array_module(params.flat).asarray(as_array(weights, "weights"), params.dtype)
    if weights.shape != (m,):
        raise ValueError(f"expected weights of shape ({m},), got {weights.shape}")
    low, total = float(weights.min()), float(weights.sum(dtype=np.float64))
    if not (low >= 0 and 0 < total < math.inf):
        found = f"the lowest is {low:g} and the sum {total:g}"
        raise ValueError(f"expected weights of 0 or more, not all 0 and finite: {found}")
    return weights, total


def labels_of(A: Array) -> Array:
    """Labels (m,) int64 from outputs or targets (n_L, m): above a half, or the largest's index."""
    return (A[0] > 0.5).astype(np.int64) if len(A) == 1 else A.argmax(axis=0).astype(np.int64)


class Workspace:
    """A network with its parameters, and the arrays for passes over m examples.

    xp : the module of the arrays
    A[l], dA[l] : (n_l, m) for each layer l = 1 ... L; A[L] holds the logits, then their gradient
    D[l] : (n_l, m) of 0 and 1 / keep_prob if layer l drops units while training, else None
    weights, total : of the examples (m,), and their sum; None and m if all weigh the same
    """

    weights: Array | None = None

    def __init__(self, net: Network, params: Parameters, m: int, dropout: bool = False) -> None:
        self.net, self.params, self.m = net, params, m
        self.total: float = m
        self.xp = array_module(params.flat)
        self.A = [self.xp.empty((n, m), params.dtype) for n in net.layers[1:]]
        self.D = [
            self.xp.empty_like(A) if dropout and keep < 1 else None
            for A, keep in zip(self.A, net.keep_prob, strict=False)
        ]

    @functools.cached_property
    def dA(self) -> list[Array]:
        """Allocated by the first pass backward."""
        return [self.xp.empty_like(A) for A in self.A[:-1]]

    def part(self, m: int) -> "Workspace":
        """A workspace for fewer examples, in the same memory."""
        work = copy.copy(self)
        work.m = work.total = m
        work.A, work.D = narrowed(self.A, m), narrowed(self.D, m)
        vars(work)["dA"] = narrowed(self.dA, m)
        return work


def narrowed(arrays: Iterable[Array | None], m: int) -> list[Any]:
    """Contiguous arrays (n, m) in the memory of wider ones; None stays None."""
    return [a if a is None else a.reshape(-1)[: len(a) * m].reshape(len(a), m) for a in arrays]


def forward(work: Workspace, X: Array) -> Array:
    """Z[l] = W[l] A[l-1] + b[l], A[l] = g(Z[l]): the logits, without their bias."""
    work.xp.matmul(work.params[0][0], X, out=work.A[0])
    return propagate(work)


def propagate(work: Workspace) -> Array:
    """`forward` from W[1] X on, which is in A[1]."""
    params, A = work.params, work.A
    for l, activation in enumerate(work.net.hidden):
        bias_activation(A[l], params[l][1], activation, work.D[l])
        work.xp.matmul(params[l + 1][0], A[l], out=A[l + 1])
    return A[-1]


def backward(
    work: Workspace, X: Array, Y: Array, scale: float, gradients: Parameters, cost: Array = None
) -> None:
    """dW[l] = dZ[l] A[l-1]ᵀ + λ/m W[l], dA[l-1] = W[l]ᵀ dZ[l], dZ[l] = dA[l] ∘ g'(Z[l]).

    Follows `forward`, whose activations it overwrites. With scale 1/m, or 1/Σw if the examples have
    weights, `gradients` receives the gradients, with α/m a step of gradient descent; `cost`, a 0-d
    array or None, the cost.
    """
    dZ = backpropagate(work, Y, scale, gradients, cost)
    if cost is not None:
        cost += penalty(work.net, work.params, work.total)
    W, dW = work.params[0][0], gradients[0][0]
    work.xp.matmul(dZ, X.T, out=dW)
    if work.net.l2:
        dW += scale * work.net.l2 * W


def backpropagate(
    work: Workspace, Y: Array, scale: float, gradients: Parameters, cost: Array = None
) -> Array:
    """`backward` without dW[1] and the cost of L2; returns dZ[1]."""
    net, params, xp, dZ = work.net, work.params, work.xp, work.A[-1]
    given = dZ, params[-1][1], Y, net.output, scale, gradients[-1][1]
    output_gradient(*given, cost, work.weights)
    for l in range(len(params) - 1, 0, -1):
        W, dW = params[l][0], gradients[l][0]
        dA, A, db = work.dA[l - 1], work.A[l - 1], gradients[l - 1][1]
        xp.matmul(dZ, A.T, out=dW)
        if net.l2:
            dW += scale * net.l2 * W
        xp.matmul(W.T, dZ, out=dA)
        activation_gradient(dA, A, net.hidden[l - 1], db, work.D[l - 1], net.keep_prob[l - 1])
        dZ = dA
    return dZ


def cost_and_accuracy(
    net: Network, params: Parameters, Z: Array, Y: Array, weights: Array = None
) -> tuple[Array, Array]:
    """The cost without L2 and the accuracy, 0-d on the device, from Z of `forward`, which is
    overwritten. The accuracy does not count weights, and is None without classes."""
    Z += params[-1][1]
    cost = OUTPUTS[net.output].loss(Z, Y, weights)
    if not net.classifies:
        return cost, None
    A = OUTPUTS[net.output].function(Z, out=Z)
    right = labels_of(A) == labels_of(Y)
    right &= ~array_module(A).isnan(A).any(axis=0)  # NaN is never right
    return cost, right.mean()


def penalty(net: Network, params: Iterable[tuple[Array, Array]], m: float) -> Array:
    """λ/(2m) Σ ‖W‖² over these layers: what L2 adds to the cost; m is Σw with weights, and a batch
    that weighs nothing has no cost."""
    if not net.l2 or m == 0:
        return 0.0
    return net.l2 / (2 * m) * sum((W * W).sum() for W, _ in params)


INITIALISATIONS: dict[str, Callable[..., Array]] = {
    "zeros": lambda _random, shape, _: np.zeros(shape),
    "normal": lambda random, shape, scale: random.randn(*shape) * scale,
    "scaled": lambda random, shape, _: random.randn(*shape) / np.sqrt(shape[1]),
    "he": lambda random, shape, _: random.randn(*shape) * np.sqrt(2 / shape[1]),
    "glorot": lambda random, shape, _: (random.rand(*shape) * 2 - 1) * np.sqrt(6 / sum(shape)),
    "uniform": lambda random, shape, _: random.rand(*shape) * 2 * 0.12 - 0.12,
}


def parameter_count(layers: Sequence[int]) -> int:
    """The number of values in W and b of all layers of these sizes."""
    return sum(n * (before + 1) for before, n in pairwise(layers))


def layer_views(flat: Array, layers: Sequence[int]) -> list[tuple[Array, Array]]:
    """W and b of all layers as views into a flat buffer."""
    views = []
    for before, n in pairwise(layers):
        size = n * before
        W, b, flat = flat[:size], flat[size : size + n], flat[size + n :]
        views.append((W.reshape(n, before), b.reshape(n, 1)))
    return views


def is_integer(value: Any, least: int) -> bool:
    """Whether `value` is an integer, not a bool, from `least` on."""
    integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return integer and bool(value >= least)


def _per_layer(name: str, value: Any, count: int) -> tuple[Any, ...]:
    """One value for each of `count` layers, from one for all or one for each."""
    if isinstance(value, str | int | float | np.number):
        return (value,) * count
    values = tuple(value)
    if len(values) != count:
        raise ValueError(f"expected {name} as one value or {count} of them, got {values}")
    return values
