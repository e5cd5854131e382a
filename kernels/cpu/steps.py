"""Steps of gradient descent as one compiled call: any depth, any optimizer, whole batches,
mini-batches and sample space, on one thread or several.

Every thread runs `train`. In each step it takes its share of the examples forward and backward
through all layers, in portions that stay in its cache, and sums up a gradient of its own. The
threads meet twice: before each updates a part of the parameters from the sum of all gradients, and
after it.

Compiled code knows where everything is by its address, in bytes, and so do its strides. One
compiled form then serves any depth, and compiling it takes seconds instead of half a minute.
"""

from typing import Any, NamedTuple

import numpy as np

from .fused import activation_gradient, bias_activation, optimizer_step, output_gradient
from .tiles import (
    INNER_COLUMNS,
    INNER_ROWS,
    barrier,
    inner_tile,
    tile,
    tile_rows,
    transpose_block,
    view,
)

Vector = Any  # 1-D and contiguous
Matrix = Any  # 2-D and C-contiguous
Operand = tuple[int, int]  # a matrix's address, and bytes from row to row

# the columns of a plan, a row for each step: the learning rate α; a factor of dZ; λ times that; ε
# of Adam; c of sample space
RATE, SCALE, SHRINK, EPSILON, C = range(5)

TILE_ROWS = tile_rows()
DEPTH = 1024  # terms of a product that are summed up at once, so that a tile's operands stay in L2


def record(integers: str, **numbers: Any) -> Any:
    """The type of a record, from the names of its integers."""
    return np.dtype([*((name, np.int64) for name in integers.split()), *numbers.items()], align=True)


def state_type(dtype: Any) -> Any:
    """A training under way. Matrices of examples have `row` bytes from row to row, whole SIMD
    registers; beyond their examples are finite numbers, in dZ zeros.

    lanes, size : of a SIMD register, and the bytes of a number
    granule : products compute a multiple of so many columns
    gathered : whether batches are gathered from X (m, n_0) and Y (m, n_L)
    forward_only : to the last layer's logits, without their bias, which replace the labels
    portion : the examples that a thread works on at once
    copy : from one thread's activations to the next's
    outputs : n_L
    labels : (n_L, m) of the batch
    P0 : W⁰ X of sample space
    D : for each step of a call, the masks of all units by examples
    units : of all layers
    theta : the flat parameters; in sample space S is in the place of W[1]
    M, V : the optimizer's moments
    gradient : from one thread's gradient to the next's
    db : for each thread the sums of dZ over its examples
    work : for each thread two rows for the softmax
    no : 0, because Numba compiles a function again for a literal
    """
    return record(
        "lanes size granule optimizer in_sample_space gathered dropout forward_only portion row "
        "copy outputs X Y labels labels_row labels_copy labels_example P0 D units theta M V "
        "gradient db db_row work counters no",
        **{"zero": dtype, "beta1": dtype, "beta2": dtype},
    )


# A layer. Where an array has a copy for each thread, the address is that of the first.
#
# units, inputs : n_l and n_{l-1}; in sample space the first layer has m inputs
# weights, biases : where W and b begin in theta
# first_unit : among the units of all layers
# input : A[l-1], X or G (n_{l-1}, m)
# rows : it transposed, (m, n_{l-1}), if dW is computed `by_rows`
# ..._copy, ..._example : from thread to thread; from example to example of a whole batch
# A, dZ : (n_l, m); the last layer's A becomes its dZ
# dW : (n_l, n_{l-1})
LAYER = record(
    "units inputs weights biases first_unit kind input input_row input_copy input_example "
    "by_rows rows rows_row rows_copy rows_example A dZ dW dW_row",
    keep_prob=np.float64,
)


class Now(NamedTuple):
    """One step."""

    m: int  # examples of its batch
    order: Vector  # (m,) their indices
    masks: int  # where its masks begin in D
    plan: Vector  # (5,) float64
    recorded: bool  # whether to compute the loss


class Examples(NamedTuple):
    """Those of a batch that a thread works on at once."""

    first: int
    m: int
    columns: int  # that products compute
    copy: int  # of all that belongs to a thread


def rounded_up(n: int, granule: int) -> int:
    return (n + granule - 1) // granule * granule


# ------------------------------------------------------------------------------------ products


def add_product(
    s: Any,
    rows: int,
    columns: int,
    depth: int,
    A: Operand,
    A_column: int,
    B: Operand,
    out: Operand,
    add: int,
) -> None:
    """out ← A B, or out + A B with `add`; it writes whole vectors, of B's rows and of its own."""
    (a, a_row), (b, b_row), (c, c_row), size, wide = A, B, out, s.size, 2 * s.lanes
    for start in range(0, depth, DEPTH):
        terms, more = min(DEPTH, depth - start), add + start
        factor = a_row, A_column
        if rows < columns:  # read A again and again, else B
            for j in range(0, columns, wide):
                for i in range(0, rows, TILE_ROWS):
                    left, to = (rows - i, columns - j, terms), c + i * c_row + j * size
                    tile(s.zero, (*left, a + i * a_row, *factor, b + j * size, b_row, to, c_row, more))
        else:
            for i in range(0, rows, TILE_ROWS):
                for j in range(0, columns, wide):
                    left, to = (rows - i, columns - j, terms), c + i * c_row + j * size
                    tile(s.zero, (*left, a + i * a_row, *factor, b + j * size, b_row, to, c_row, more))
        a, b = a + DEPTH * A_column, b + DEPTH * b_row


def add_inner_products(
    s: Any, rows: int, columns: int, depth: int, A: Operand, B: Operand, out: Operand, add: int
) -> None:
    """out ← A Bᵀ, or out + A Bᵀ with `add`, of contiguous rows; beyond `depth`, A's are zeros."""
    (a, a_row), (b, b_row), (c, c_row) = A, B, out
    vectors = (depth + s.lanes - 1) // s.lanes
    for i in range(0, rows, INNER_ROWS):
        for j in range(0, columns, INNER_COLUMNS):
            at, left = c + i * c_row + j * s.size, (rows - i, columns - j, vectors)
            inner_tile(s.zero, (*left, a + i * a_row, a_row, b + j * b_row, b_row, at, c_row, add))


def transpose(s: Any, rows: int, columns: int, A: Operand, out: Operand) -> None:
    """out ← Aᵀ; both are read and written in whole blocks."""
    (a, a_row), (b, b_row) = A, out
    for i in range(0, rows, s.lanes):
        for j in range(0, columns, s.lanes):
            to = b + j * b_row + i * s.size
            transpose_block(s.zero, (a + i * a_row + j * s.size, a_row, to, b_row))


# ---------------------------------------------------------- what a thread does with its examples


def gather(s: Any, layer: Any, now: Now, e: Examples) -> None:
    """Copy these examples, X as rows and as columns."""
    n, outputs = layer.inputs, s.outputs
    rows, columns = layer.rows + e.copy * layer.rows_copy, layer.input + e.copy * layer.input_copy
    Y = view(s.zero, s.labels + e.copy * s.labels_copy, (outputs, s.labels_row // s.size))
    for i in range(e.m):
        example = now.order[e.first + i]
        x = view(s.zero, s.X + example * n * s.size, (n,))
        y = view(s.zero, s.Y + example * outputs * s.size, (outputs,))
        row = view(s.zero, rows + i * layer.rows_row, (n,))
        for k in range(n):
            row[k] = x[k]
        for k in range(outputs):
            Y[k, i] = y[k]
    transpose(s, e.m, n, (rows, layer.rows_row), (columns, layer.input_row))


def forward(s: Any, layer: Any, now: Now, e: Examples, last: bool) -> None:
    """A[l] = g(W[l] A[l-1] + b[l]); for the last layer the logits without their bias."""
    n, inputs, place = layer.units, layer.inputs, layer.A + e.copy * s.copy
    W, X = s.theta + layer.weights * s.size, input_of(layer, e)
    add_product(s, n, e.columns, inputs, (W, inputs * s.size), s.size, X, (place, s.row), s.no)
    A = view(s.zero, place, (n, s.row // s.size))
    if layer.first_unit == 0 and s.in_sample_space != 0:
        P0 = view(s.zero, s.P0 + e.first * s.size, (n, layer.input_row // s.size))
        c = type(s.zero)(now.plan[C])
        for i in range(n):
            for j in range(e.columns):
                A[i, j] += c * P0[i, j]
    if not last:
        b, dropout = biases(s, layer), s.dropout != 0 and layer.keep_prob < 1
        bias_activation(A, b, layer.kind, masks(s, layer, now, e), dropout, e.columns)


def input_of(layer: Any, e: Examples) -> Operand:
    """A[l-1] (n_{l-1}, m), X or G"""
    place = layer.input + e.copy * layer.input_copy + e.first * layer.input_example
    return place, layer.input_row


def rows_of(layer: Any, e: Examples) -> Operand:
    """The transposed input (m, n_{l-1})"""
    place = layer.rows + e.copy * layer.rows_copy + e.first * layer.rows_example
    return place, layer.rows_row


def biases(s: Any, layer: Any) -> Vector:
    return view(s.zero, s.theta + layer.biases * s.size, (layer.units,))


def bias_gradients(s: Any, layer: Any, copy: int) -> Vector:
    return view(s.zero, s.db + copy * s.db_row + layer.first_unit * s.size, (layer.units,))


def masks(s: Any, layer: Any, now: Now, e: Examples) -> Matrix:
    """D[l] (n_l, m) from the first of these examples on; without dropout none are read."""
    place = now.masks + layer.first_unit * now.m + e.first
    return view(s.zero, s.D + place * s.size, (layer.units, now.m))


def output(s: Any, layer: Any, now: Now, e: Examples) -> float:
    """The last layer's logits become its dZ; returns the loss. With `forward_only` they replace
    the labels, without their bias."""
    n, m = layer.units, e.m
    Z = view(s.zero, layer.A + e.copy * s.copy, (n, s.row // s.size))
    labels = s.labels + e.copy * s.labels_copy + e.first * s.labels_example
    Y, work = view(s.zero, labels, (n, s.labels_row // s.size)), s.work + e.copy * 2 * s.row
    if s.forward_only != 0:
        for i in range(n):
            for j in range(m):
                Y[i, j] = Z[i, j]
        return 0.0
    b, db, kind = biases(s, layer), bias_gradients(s, layer, e.copy), layer.kind
    space = view(s.zero, work, (2, s.row // s.size))
    scale = type(s.zero)(now.plan[SCALE])
    loss = output_gradient(Z, b, Y, kind, scale, db, now.recorded, space, m)
    for i in range(n):
        for j in range(m, rounded_up(m, s.lanes)):
            Z[i, j] = s.zero
    return loss


def backward(s: Any, layer: Any, before: Any, now: Now, e: Examples) -> None:
    """dZ[l-1] = W[l]ᵀ dZ[l] ∘ g'(Z[l-1])"""
    n, inputs, ld, shift = layer.units, layer.inputs, s.row // s.size, e.copy * s.copy
    W, dZ = s.theta + layer.weights * s.size, (layer.dZ + shift, s.row)
    place = before.dZ + shift
    add_product(s, inputs, e.columns, n, (W, s.size), inputs * s.size, dZ, (place, s.row), s.no)
    dA, A = view(s.zero, place, (inputs, ld)), view(s.zero, before.A + shift, (inputs, ld))
    db, D, dropout = bias_gradients(s, before, e.copy), masks(s, before, now, e), s.dropout != 0
    keep = type(s.zero)(before.keep_prob)
    activation_gradient(dA, A, before.kind, db, D, keep, dropout and keep < 1, e.columns)


def gradient(s: Any, layer: Any, e: Examples, add: int) -> None:
    """dW[l] = dZ[l] A[l-1]ᵀ of these examples, or its sum with that of earlier ones with `add`. In
    sample space dS = dZ[1], which the threads put side by side."""
    n, inputs, m, dZ = layer.units, layer.inputs, e.m, (layer.dZ + e.copy * s.copy, s.row)
    out = layer.dW + e.copy * s.gradient, layer.dW_row
    if layer.first_unit == 0 and s.in_sample_space != 0:
        Z = view(s.zero, dZ[0], (n, s.row // s.size))
        dS = view(s.zero, layer.dW + e.first * s.size, (n, layer.dW_row // s.size))
        for i in range(n):
            for j in range(m):
                dS[i, j] = Z[i, j]
    elif layer.by_rows != 0:
        rows = rows_of(layer, e)
        if layer.first_unit > 0:
            transpose(s, inputs, m, input_of(layer, e), rows)
        add_product(s, n, inputs, m, dZ, s.size, rows, out, add)
    else:
        add_inner_products(s, n, inputs, m, dZ, input_of(layer, e), out, add)


# -------------------------------------------------------------------------------------- steps


def wait(s: Any, parts: int) -> None:
    """Until all threads are here."""
    if parts > 1:
        barrier(s.zero, (s.counters, parts))


def step(s: Any, layers: Vector, now: Now, part: int, parts: int) -> float:
    """A thread's part of a step; returns the loss of its examples."""
    top, share = len(layers) - 1, rounded_up((now.m + parts - 1) // parts, s.granule)
    first, last, loss = part * share, min((part + 1) * share, now.m), 0.0
    for start in range(first, last, s.portion):
        m = min(s.portion, last - start)
        e = Examples(start, m, rounded_up(m, s.granule), part)
        if s.gathered != 0:
            gather(s, layers[0], now, e)
        for l in range(top + 1):
            forward(s, layers[l], now, e, l == top)
        loss += output(s, layers[top], now, e)
        if s.forward_only == 0:
            for l in range(top, -1, -1):
                gradient(s, layers[l], e, start - first)
                if l > 0:
                    backward(s, layers[l], layers[l - 1], now, e)
    wait(s, parts)
    if s.forward_only == 0:
        for l in range(top + 1):
            update(s, layers[l], now, part, parts, (now.m + share - 1) // share)
        wait(s, parts)
    return loss


def update(s: Any, layer: Any, now: Now, part: int, parts: int, threads: int) -> None:
    """W[l] and b[l] of this thread's units, by the sums over so many threads."""
    n, inputs, weights, kind = layer.units, layer.inputs, layer.weights, type(s.zero)
    first, last, summed = part * n // parts, (part + 1) * n // parts, threads
    if layer.first_unit == 0 and s.in_sample_space != 0:
        summed = 1
    shrink = kind(now.plan[SHRINK])
    for i in range(first, last):
        descend(s, now, weights + i * inputs, inputs, layer.dW + i * layer.dW_row, s.gradient, summed, shrink)
    db = s.db + (layer.first_unit + first) * s.size
    descend(s, now, layer.biases + first, last - first, db, s.db_row, threads, s.zero)


def descend(
    s: Any, now: Now, place: int, count: int, steps: int, row: int, threads: int, shrink: float
) -> None:
    """Update `count` parameters from `place` on by the sum of so many rows of steps."""
    kind, start = type(s.zero), place * s.size
    theta, step = view(s.zero, s.theta + start, (count,)), view(s.zero, steps, (count,))
    M, V = view(s.zero, s.M + start, (count,)), view(s.zero, s.V + start, (count,))
    for other in range(1, threads):
        more = view(s.zero, steps + other * row, (count,))
        for j in range(count):
            step[j] += more[j]
    if shrink != 0:
        for j in range(count):
            step[j] += shrink * theta[j]
    rates = s.beta1, s.beta2, kind(now.plan[RATE]), kind(now.plan[EPSILON])
    optimizer_step(s.optimizer, theta, step, M, V, rates)


def squares(s: Any, layers: Vector) -> float:
    """Σ ‖W‖² over all layers"""
    total = 0.0
    for l in range(len(layers)):
        start, count = layers[l].weights, layers[l].units * layers[l].inputs
        w = view(s.zero, s.theta + start * s.size, (count,))
        for j in range(count):
            total += w[j] * w[j]
    return total


def train(
    state: Vector,
    layers: Vector,
    plan: Matrix,
    sizes: Vector,
    order: Vector,
    l2: float,
    recorded: int,
    part: int,
    parts: int,
) -> float:
    """This thread's part of a step for each row of `plan`; returns its part of the sum of the costs
    of the first `recorded` steps, each times its examples.

    state, layers : arrays of `state_type`, (1,), and of LAYER
    plan : (steps, 5) float64
    sizes : (steps,) examples of each step's batch
    order : indices of the examples, batch after batch; empty if all batches are whole
    l2 : λ, to add to the cost; 0 in sample space, where the caller adds it
    """
    s, cost, start, drawn = state[0], 0.0, 0, 0
    db = view(s.zero, s.db + part * s.db_row, (s.units,))
    for i in range(len(sizes)):
        m = sizes[i]
        chosen = order[start : start + m] if len(order) > 0 else order
        now = Now(m, chosen, drawn, plan[i], i < recorded)
        for unit in range(s.units):
            db[unit] = s.zero
        if now.recorded and l2 > 0 and part == 0:
            cost += l2 / 2 * squares(s, layers)
        cost += step(s, layers, now, part, parts)
        start += m
        drawn += s.units * m
    return cost
