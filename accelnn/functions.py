"""Activations, losses and small array functions of the notes, vectorised for NumPy and CuPy.

Arguments are numbers, lists or arrays; float32 stays float32, all else becomes float64. Columns
are examples: a loss of `A` and `Y`, both (n_outputs, m), is summed over the outputs and averaged
over the m examples. `out`, of the shape and dtype of the result, receives it, is returned, and may
be the input.
"""

import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from accelnn.backend import Array, array_module, as_numbers

Formula = Callable[..., Array]

LEAKY_SLOPE = 0.01

# by dtype: the largest x for which e^x is finite, rounded down
LARGEST_EXPONENT = {"f": 88.0, "d": 709.0}


def _floating(*arrays: Array) -> tuple[Any, *tuple[Array, ...]]:
    """`xp`, and the arrays as floating-point arrays of it."""
    for array in arrays:
        if type(array) is not np.ndarray or array.dtype.char not in LARGEST_EXPONENT:
            break
    else:  # nothing to convert while training: 8 us saved between two products
        return np, *arrays
    xp = array_module(*arrays)
    arrays = tuple(xp.asarray(as_numbers(array)) for array in arrays)
    return xp, *(a if a.dtype.char in LARGEST_EXPONENT else a.astype(np.float64) for a in arrays)


def _same_shape(*arrays: Array) -> tuple[Any, *tuple[Array, ...]]:
    """`_floating` of predictions and labels, which broadcasting could pair wrongly."""
    xp, first, second = _floating(*arrays)
    if first.shape != second.shape:
        raise ValueError(f"expected two arrays of one shape, got {first.shape} and {second.shape}")
    return xp, first, second


def _room(xp: Any, x: Array, out: Array | None) -> Array:
    """`out`, or a new array, for a result like x."""
    if out is not None and (out.shape != x.shape or out.dtype != x.dtype):
        got = f"{out.dtype} of shape {out.shape}"
        raise ValueError(f"expected out as {x.dtype} of shape {x.shape}, got {got}")
    return xp.empty_like(x) if out is None else out


def _elementwise(formula: Formula) -> Formula:
    """A function of (x, out=None), from its formula in `xp`, which writes `out`."""

    def function(x: Array, out: Array = None) -> Array:
        xp, x = _floating(x)
        if out is x:  # as while training
            return formula(xp, x, out)
        result = formula(xp, x, _room(xp, x, out))
        return result[()] if out is None else result

    return _named_as(formula, function)


def _of_pairs(formula: Formula) -> Formula:
    """A function of predictions and labels of one shape, from its formula in `xp`."""

    def function(prediction: Array, label: Array) -> Array:
        return formula(*_same_shape(prediction, label))

    return _named_as(formula, function)


def _mean(formula: Formula) -> Formula:
    """The loss of (prediction, label, weights=None) as a mean over the examples, from its formula
    for each output and example: Σ w loss / Σ w, or 0 if all weights (m,) are 0."""

    def function(prediction: Array, label: Array, weights: Array = None) -> Array:
        xp, prediction, label = _same_shape(prediction, label)
        losses = formula(xp, prediction, label)
        if weights is None:
            return losses.sum() / _examples(losses)
        total = weights.sum()
        return (losses * weights).sum() / xp.where(total > 0, total, 1)

    return _named_as(formula, function)


def _named_as(formula: Formula, function: Formula) -> Formula:
    function.__name__ = function.__qualname__ = formula.__name__
    function.__doc__ = formula.__doc__
    return function


# -------- activations g(x), and their slopes g' in terms of a = g(x), which is what backward has


@_elementwise
def sigmoid(xp: Any, x: Array, out: Array) -> Array:
    """1 / (1 + e^-x) without overflow, so never below 1 / the largest number."""
    xp.negative(x, out=out)
    # Cheaper than np.errstate, 2 us against 8 between two products; NaN goes through.
    xp.minimum(out, LARGEST_EXPONENT[x.dtype.char], out=out)
    xp.exp(out, out=out)
    out += 1
    return xp.reciprocal(out, out=out)


@_elementwise
def sigmoid_slope(xp: Any, a: Array, out: Array) -> Array:
    """a (1 - a)"""
    return xp.multiply(a, 1 - a, out=out)


@_elementwise
def tanh(xp: Any, x: Array, out: Array) -> Array:
    """tanh(x)"""
    return xp.tanh(x, out=out)


@_elementwise
def tanh_slope(xp: Any, a: Array, out: Array) -> Array:
    """1 - a²"""
    return xp.subtract(1, xp.square(a, out=out), out=out)


@_elementwise
def relu(xp: Any, x: Array, out: Array) -> Array:
    """max(x, 0)"""
    return xp.maximum(x, 0, out=out)


@_elementwise
def relu_slope(xp: Any, a: Array, out: Array) -> Array:
    """1 if a > 0, else 0 (at 0 too, as in the notes)"""
    return xp.greater(a, 0, out=out)


@_elementwise
def leaky_relu(xp: Any, x: Array, out: Array) -> Array:
    """x if x > 0, else 0.01 x"""
    return xp.maximum(x, LEAKY_SLOPE * x, out=out)


@_elementwise
def leaky_relu_slope(xp: Any, a: Array, out: Array) -> Array:
    """1 if a > 0, else 0.01"""
    return xp.maximum(xp.greater(a, 0, out=out), LEAKY_SLOPE, out=out)


def identity(x: Array, out: Array = None) -> Array:
    """x, the activation of a linear output."""
    xp, x = _floating(x)
    if out is None or out is x:
        return x
    _room(xp, x, out)[...] = x
    return out


@_elementwise
def identity_derivative(_xp: Any, _x: Array, out: Array) -> Array:
    """1"""
    out[...] = 1
    return out


@_elementwise
def exponential(xp: Any, x: Array, out: Array) -> Array:
    """e^x, the activation of a Poisson output; infinite from 710 on, without a warning"""
    with np.errstate(over="ignore"):
        return xp.exp(x, out=out)


@_elementwise
def sigmoid_derivative(xp: Any, x: Array, out: Array) -> Array:
    """σ(x) σ(-x) = e^-|x| / (1 + e^-|x|)², which loses no digits in the tails"""
    xp.exp(-xp.abs(x), out=out)
    return xp.divide(out, xp.square(1 + out), out=out)


@_elementwise
def tanh_derivative(xp: Any, x: Array, out: Array) -> Array:
    """1 / cosh²(x) = (2t / (1 + t²))² with t = e^-|x|"""
    xp.exp(-xp.abs(x), out=out)
    return xp.square(xp.divide(2 * out, 1 + xp.square(out), out=out), out=out)


@_elementwise
def relu_derivative(xp: Any, x: Array, out: Array) -> Array:
    """1 if x > 0, else 0; NaN of NaN"""
    return xp.sign(xp.maximum(x, 0, out=out), out=out)


@_elementwise
def leaky_relu_derivative(xp: Any, x: Array, out: Array) -> Array:
    """1 if x > 0, else 0.01; NaN of NaN"""
    return xp.maximum(xp.sign(x, out=out), LEAKY_SLOPE, out=out)


def softmax(x: Array, axis: int = 0, out: Array = None) -> Array:
    """e^x / Σ e^x along `axis`: of each column by default, of each row with axis=1."""
    xp, x = _floating(x)
    along: Any = {"axis": axis if x.ndim else None, "keepdims": True}
    # With the maximum subtracted nothing overflows, and exact arithmetic gives the same.
    result = xp.subtract(x, x.max(**along), out=_room(xp, x, out))
    xp.exp(result, out=result)
    result /= result.sum(**along)
    return result[()] if out is None else result


def softmax_derivative(x: Array) -> Array:
    """The Jacobian ∂softmax(x)_i / ∂x_j = s_i (δ_ij - s_j), (n, n), of a vector x (n,)."""
    xp, x = _floating(x)
    if x.ndim != 1:
        hint = "pass one example at a time"
        raise ValueError(f"expected a vector x of shape (n,), got {x.shape}: {hint}")
    s = softmax(x)
    return xp.diag(s) - xp.outer(s, s)


# -------- losses of (prediction, label), and their derivatives by the prediction

_no_warnings = np.errstate(divide="ignore", invalid="ignore")  # 0 log 0, ∞, and ∞ - ∞


@_of_pairs
def L1(xp: Any, yhat: Array, y: Array) -> Array:
    """Σ |y - yhat|"""
    return xp.abs(y - yhat).sum()


@_of_pairs
def L1_derivative(xp: Any, yhat: Array, y: Array) -> Array:
    """sign(yhat - y)"""
    return xp.sign(yhat - y)


@_of_pairs
def L2(xp: Any, yhat: Array, y: Array) -> Array:
    """Σ (y - yhat)²"""
    return xp.square(y - yhat).sum()


@_of_pairs
def L2_derivative(_xp: Any, yhat: Array, y: Array) -> Array:
    """2 (yhat - y)"""
    return 2 * (yhat - y)


@_mean
def half_mean_squared_error(xp: Any, A: Array, Y: Array) -> Array:
    """1/(2m) Σ (A - Y)²"""
    return xp.square(A - Y) / 2


@_mean
def mean_absolute_error(xp: Any, A: Array, Y: Array) -> Array:
    """1/m Σ |A - Y|"""
    return xp.abs(A - Y)


@_mean
def huber_loss(xp: Any, A: Array, Y: Array) -> Array:
    """1/m Σ (A - Y)²/2 of errors up to 1, and |A - Y| - 1/2 of larger ones (Huber 1964)."""
    size = xp.abs(A - Y)
    within = xp.minimum(size, 1)
    return within * (size - within / 2)


@_mean
@_no_warnings
def half_poisson_deviance_from_logits(xp: Any, Z: Array, Y: Array) -> Array:
    """1/m Σ [Y log(Y / A) - Y + A] of expected counts A = e^Z and counts Y; 0 log 0 is 0."""
    return xp.where(Y == 0, 0, Y * (xp.log(Y) - Z)) - Y + exponential(Z)


@_mean
@_no_warnings
def binary_cross_entropy(xp: Any, A: Array, Y: Array) -> Array:
    """-1/m Σ [Y log A + (1 - Y) log(1 - A)] of probabilities A and labels Y; 0 log 0 is 0."""
    losses = xp.where(Y == 0, 0, Y * xp.log(A)) + xp.where(Y == 1, 0, (1 - Y) * xp.log1p(-A))
    return -losses


@_of_pairs
@_no_warnings
def binary_cross_entropy_derivative(xp: Any, A: Array, Y: Array) -> Array:
    """(A - Y) / (A (1 - A)) / m; infinite if a certain prediction was wrong."""
    slopes = xp.where(Y == 1, -1 / A, (A - Y) / (A * (1 - A)))
    return xp.where(Y == 0, 1 / (1 - A), slopes) / _examples(A)


@_mean
def binary_cross_entropy_from_logits(xp: Any, Z: Array, Y: Array) -> Array:
    """The binary cross-entropy of A = sigmoid(Z): 1/m Σ [max(Z, 0) - Z Y + log(1 + e^-|Z|)]."""
    factor = (Z > 0) - Y  # max(Z, 0) - Z Y = factor Z, and 0 for a right certainty
    return factor * xp.where(factor == 0, 0, Z) + xp.log1p(xp.exp(-xp.abs(Z)))


@_mean
@_no_warnings
def categorical_cross_entropy(xp: Any, A: Array, Y: Array) -> Array:
    """-1/m Σ Y log A of probabilities A and one-hot labels Y; 0 log 0 is 0."""
    return -xp.where(Y == 0, 0, Y * xp.log(A))


@_of_pairs
@_no_warnings
def categorical_cross_entropy_derivative(xp: Any, A: Array, Y: Array) -> Array:
    """-Y / A / m; infinite if a class that happened was given probability 0."""
    return xp.where(Y == 0, 0, -Y / A / _examples(A))


@_mean
@_no_warnings
def categorical_cross_entropy_from_logits(xp: Any, Z: Array, Y: Array) -> Array:
    """The categorical cross-entropy of A = softmax(Z), by log-sum-exp."""
    largest = Z.max(axis=0, keepdims=True)
    at_top = largest == Z
    ties = at_top.sum(axis=0, keepdims=True, dtype=Z.dtype)
    shifted = xp.where(at_top & (ties == 1), 0, Z - largest)  # ∞ - ∞ too, of a single ∞
    # log1p of the sum without a largest term, because 1 would swallow small ones
    others = xp.where(at_top, 0, xp.exp(shifted)).sum(axis=0, keepdims=True) + (ties - 1)
    return xp.where(Y == 0, 0, Y * (xp.log1p(others) - shifted))


def _examples(A: Array) -> int:
    """m; a vector is one output of m examples, a number one example."""
    return A.shape[-1] if A.ndim else 1


# -------- the activations and outputs that a network knows by name


class Activation(NamedTuple):
    """A hidden layer's activation. Add your own, and the vectorised solvers train it:

        ACTIVATIONS["softplus"] = Activation(softplus, softplus_slope)
        Network([2, 4, 1], hidden="softplus")

    function : g(x, out=None), elementwise
    slope : g' as a function (a, out=None) of a = g(x), which is what backward has
    """

    function: Formula
    slope: Formula


class Output(NamedTuple):
    """The output's activation and its loss. For softmax, columns of Y sum to 1.

    function : g(Z, out=None) of the logits
    loss : of (logits Z, labels Y, weights=None), a mean over the examples
    residual : of (A - Y, out=None), the derivative of an example's loss by its logits, with
        A = g(Z); None if that is A - Y itself
    classes : whether the labels are classes, and the outputs probabilities
    least : the lowest value that labels may have
    """

    function: Formula
    loss: Formula
    residual: Formula | None = None
    classes: bool = False
    least: float = -math.inf

    def error(self, A: Array, Y: Array) -> None:
        """A ← m times the derivative of the loss by the logits, from A = g(Z)."""
        A -= Y
        if self.residual is not None:
            self.residual(A, out=A)

    def derivative(self, Z: Array, Y: Array) -> Array:
        """∂loss/∂Z"""
        _, Z, Y = _same_shape(Z, Y)
        A = self.function(Z, out=Z.copy())
        self.error(A, Y)
        return A / _examples(Z)


@_elementwise
def sign(xp: Any, x: Array, out: Array) -> Array:
    """-1, 0 or 1"""
    return xp.sign(x, out=out)


@_elementwise
def clipped(xp: Any, x: Array, out: Array) -> Array:
    """x in -1..1"""
    return xp.clip(x, -1, 1, out=out)


ACTIVATIONS = {
    "sigmoid": Activation(sigmoid, sigmoid_slope),
    "tanh": Activation(tanh, tanh_slope),
    "relu": Activation(relu, relu_slope),
    "leaky_relu": Activation(leaky_relu, leaky_relu_slope),
    "identity": Activation(identity, identity_derivative),
}

OUTPUTS = {
    "sigmoid": Output(sigmoid, binary_cross_entropy_from_logits, None, True, 0.0),
    "softmax": Output(softmax, categorical_cross_entropy_from_logits, None, True, 0.0),
    "linear": Output(identity, half_mean_squared_error),
    "absolute": Output(identity, mean_absolute_error, sign),
    "huber": Output(identity, huber_loss, clipped),
    "poisson": Output(exponential, half_poisson_deviance_from_logits, least=0.0),
}

binary_cross_entropy_from_logits_derivative = OUTPUTS["sigmoid"].derivative
categorical_cross_entropy_from_logits_derivative = OUTPUTS["softmax"].derivative
half_mean_squared_error_derivative = OUTPUTS["linear"].derivative

# -------- small array functions


def image2vector(image: Array) -> Array:
    """An image (height, width, channels) as a column (height·width·channels, 1)."""
    return as_numbers(image, "image").reshape(-1, 1)


def normalize_rows(x: Array) -> Array:
    """Each row of x (n, d) divided by its length; a row of zeros stays zeros."""
    xp, x = _floating(x)
    # scaled by the largest entry first, so that squares neither overflow nor underflow
    largest = xp.abs(x).max(axis=-1, keepdims=True) if x.shape[-1] else xp.ones(1, x.dtype)
    scaled = x / xp.where(largest == 0, 1, largest)
    length = xp.sqrt(xp.square(scaled).sum(axis=-1, keepdims=True))
    return scaled / xp.where(length == 0, 1, length)


def one_hot(labels: Array, classes: int) -> Array:
    """Class indices (m,) as columns with a single 1: (classes, m) float64. Waits for the device."""
    xp = array_module(labels)
    labels, classes = xp.asarray(as_numbers(labels, "labels")), operator.index(classes)
    if labels.ndim != 1 or (labels.size and labels.dtype.kind not in "iu"):
        got = f"{labels.dtype} of shape {labels.shape}"
        hint = ": pass labels.astype(int)" if labels.ndim == 1 else ""
        raise ValueError(f"expected integer labels of shape (m,), got {got}{hint}")
    if labels.size:
        low, high = int(labels.min()), int(labels.max())
        if not 0 <= low <= high < classes:
            hint = ": pass labels - 1" if low == 1 else ""
            raise ValueError(f"expected labels in 0..{classes - 1}, got {low}..{high}{hint}")
    return (xp.arange(classes)[:, None] == labels).astype(np.float64)
