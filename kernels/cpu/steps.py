"""Steps of gradient descent as one compiled call: any depth, any optimizer, whole batches,
mini-batches and sample space, on one thread or several.

Every thread runs `train`. In each step it takes its share of the examples forward and backward
through all layers, in portions that stay in its cache, and sums up a gradient of its own. The
threads meet twice: before each updates a part of the parameters from the sum of all gradients, and
after it.
"""

from typing import Any, NamedTuple

import numpy as np

from .fused import Area, activation_gradient, bias_activation, optimizer_step, output_gradient
from .tiles import INNER_COLUMNS, INNER_ROWS, barrier, inner_tile, tile, tile_rows, transpose_block

Vector = Any  # 1-D and contiguous
Matrix = Any  # 2-D and C-contiguous
Operand = tuple[int, int, int]  # a matrix's address, elements from row to row and column to column

# the columns of `State.layers`, a row for each layer
UNITS, INPUTS, WEIGHTS, BIASES, ROW, KIND, STRIDE, PLACE, GRADIENT, BY_ROWS = range(10)
# the columns of `State.plan`, a row for each step
RATE, SCALE, SHRINK, EPSILON, C = range(5)

TILE_ROWS = tile_rows()
DEPTH = 1024


class State(NamedTuple):
    """A training under way, in flat arrays, so that one compiled form serves any depth.

    A matrix of examples in columns has `ld` elements from row to row, a multiple of the SIMD lanes;
    those beyond its examples contain finite numbers, in dZ zeros.
    """

    zero: Any  # 0 of the dtype
    lanes: int  # of a SIMD register
    optimizer: int
    in_sample_space: bool
    gathered: bool  # whether batches are gathered from X and Y
    dropout: bool
    forward_only: bool  # to the last layer's logits
    portion: int  # examples that a thread works on at once
    units: int  # of all layers, and a few spare rows that blocks of a transposed matrix may read
    ld: int
    input_ld: int
    output_ld: int
    # (L, 10) int64: UNITS n_l, INPUTS n_{l-1} (in sample space the first has m), WEIGHTS and BIASES
    # (where W and b begin in theta), ROW (its first unit among all units), KIND; of the transposed
    # inputs and a gradient STRIDE (elements from row to row), PLACE and GRADIENT (where they
    # begin); BY_ROWS (whether dW is computed from the transposed inputs)
    layers: Matrix
    keep_prob: Vector  # (L,) of dropout, 1 where a layer has none
    betas: Vector  # (2,) of the optimizer
    theta: Vector  # the flat parameters; in sample space S is in the place of W[1]
    moments: Matrix  # (2, parameters), M and V, or (2, 0)
    X: Vector  # the examples, (m, n_0) if gathered from, else (m, STRIDE) if BY_ROWS, else empty
    Y: Vector  # (m, n_L) flat if gathered from, else empty
    inputs: Vector  # (n_0, input_ld): X, in sample space G; if gathered, for each thread
    outputs: Vector  # (n_L, output_ld): Y, likewise
    P0: Vector  # (n_1, input_ld) W⁰ X of sample space, else empty
    A: Vector  # for each thread activations (units, ld); the last layer's logits become its dZ
    dA: Vector  # dZ of the other layers, likewise
    D: Vector  # for each step of a call, the masks of all units by examples
    rows: Vector  # for each thread the transposed inputs of the layers, (ld, STRIDE) each
    dW: Matrix  # (threads, ...) their gradients
    db: Matrix  # (threads, units) their sums of dZ
    work: Any  # (threads, 2, ld) for the softmax
    counters: Vector  # (16,) int64 of the barrier


class Now(NamedTuple):
    """One step."""

    m: int  # examples of its batch
    order: Vector  # (m,) their indices
    masks: int  # offset of its masks in D
    # (5,) float64: RATE α; SCALE, a factor of dZ; SHRINK, λ · SCALE; EPSILON of Adam; C of sample
    # space
    plan: Vector
    recorded: bool  # whether to compute the loss


class Examples(NamedTuple):
    """Those of a batch that are worked on at once."""

    first: int
    m: int
    copy: int  # of the activations and the transposed inputs


def matrix(flat: Vector, start: int, rows: int, columns: int) -> Matrix:
    """A (rows, columns) matrix that begins at `start` in `flat`."""
    return flat[start : start + rows * columns].reshape(rows, columns)


def operand(flat: Vector, start: int, row: int, column: int) -> Operand:
    return flat.ctypes.data + flat.itemsize * start, row, column


def shifted(s: State, A: Operand, i: int, j: int) -> Operand:
    """A from its row i and column j on."""
    return A[0] + s.theta.itemsize * (i * A[1] + j * A[2]), A[1], A[2]


def rounded_up(n: int, granule: int) -> int:
    return (n + granule - 1) // granule * granule


# ------------------------------------------------------------------------------------ products


def product(
    s: State, rows: int, columns: int, depth: int, A: Operand, B: Operand, out: Operand, add: int
) -> None:
    """out ← A B, or out + A B with `add`; it writes whole vectors, of B's rows and of its own."""
    for start in range(0, depth, DEPTH):
        terms, more = min(DEPTH, depth - start), add + start
        block, factors = shifted(s, A, 0, start), shifted(s, B, start, 0)
        if rows < columns:
            for j in range(0, columns, 2 * s.lanes):
                for i in range(0, rows, TILE_ROWS):
                    one_tile(s, i, j, rows, columns, terms, block, factors, out, more)
        else:
            for i in range(0, rows, TILE_ROWS):
                for j in range(0, columns, 2 * s.lanes):
                    one_tile(s, i, j, rows, columns, terms, block, factors, out, more)


def one_tile(
    s: State,
    i: int,
    j: int,
    rows: int,
    columns: int,
    depth: int,
    A: Operand,
    B: Operand,
    out: Operand,
    add: int,
) -> None:
    a, b, c = shifted(s, A, i, 0), shifted(s, B, 0, j), shifted(s, out, i, j)
    left = rows - i, (columns - j + s.lanes - 1) // s.lanes
    tile(s.zero, (*left, depth, *a, b[0], b[1], c[0], c[1], add))


def inner_products(
    s: State, rows: int, columns: int, depth: int, A: Operand, B: Operand, out: Operand, add: int
) -> None:
    """out ← A Bᵀ, or out + A Bᵀ with `add`, of contiguous rows; beyond `depth`, A's are zeros."""
    vectors = (depth + s.lanes - 1) // s.lanes
    for i in range(0, rows, INNER_ROWS):
        a = shifted(s, A, i, 0)
        for j in range(0, columns, INNER_COLUMNS):
            b, to = shifted(s, B, j, 0), shifted(s, out, i, j)
            left = rows - i, columns - j
            inner_tile(s.zero, (*left, vectors, a[0], a[1], b[0], b[1], to[0], to[1], add))


def transpose(s: State, rows: int, columns: int, A: Operand, out: Operand) -> None:
    """out ← Aᵀ; both are read and written in whole blocks."""
    for i in range(0, rows, s.lanes):
        for j in range(0, columns, s.lanes):
            a, b = shifted(s, A, i, j), shifted(s, out, j, i)
            transpose_block(s.zero, (a[0], a[1], b[0], b[1]))


# ------------------------------------------------------------------------- where matrices are


def units_of(s: State, flat: Vector, l: int, e: Examples) -> Matrix:
    """A[l], dA[l] or dZ[l], (n_l, ld)."""
    return matrix(flat, (e.copy * s.units + s.layers[l, ROW]) * s.ld, s.layers[l, UNITS], s.ld)


def place_of(s: State, flat: Vector, l: int, e: Examples) -> Operand:
    return operand(flat, (e.copy * s.units + s.layers[l, ROW]) * s.ld, s.ld, 1)


def dZ_of(s: State, l: int, e: Examples) -> Operand:
    """dZ[l] (n_l, ld)"""
    return place_of(s, s.A, l, e) if l == len(s.layers) - 1 else place_of(s, s.dA, l, e)


def input_of(s: State, l: int, e: Examples) -> Operand:
    """The input of layer l: A[l-1] (n_{l-1}, ld), X or G."""
    if l > 0:
        return place_of(s, s.A, l - 1, e)
    start = e.copy * s.layers[0, STRIDE] * s.ld if s.gathered else e.first
    return operand(s.inputs, start, s.input_ld, 1)


def rows_place(s: State, l: int, e: Examples) -> int:
    """Where the transposed input of layer l begins in `State.rows`."""
    columns = s.layers[-1, PLACE] + s.layers[-1, STRIDE]  # of all layers
    return (e.copy * columns + s.layers[l, PLACE]) * s.ld


def rows_of(s: State, l: int, e: Examples) -> Operand:
    """The transposed input of layer l (m, STRIDE)."""
    stride = s.layers[l, STRIDE]
    if l == 0 and not s.gathered:
        return operand(s.X, e.first * stride, stride, 1)
    return operand(s.rows, rows_place(s, l, e), stride, 1)


def masks_of(s: State, now: Now, l: int, e: Examples) -> Matrix:
    """D[l] (n_l, m) from the first of these examples on; without dropout any matrix."""
    if not s.dropout:
        return units_of(s, s.A, l, e)
    start = now.masks + s.layers[l, ROW] * now.m + e.first
    return matrix(s.D, start, s.layers[l, UNITS], now.m)


# ---------------------------------------------------------- what a thread does with its examples


def gather(s: State, now: Now, e: Examples) -> None:
    """Copy these examples, X as rows and as columns."""
    n, outputs, stride = s.layers[0, INPUTS], s.layers[-1, UNITS], s.layers[0, STRIDE]
    place = rows_place(s, 0, e)
    for i in range(e.m):
        example = now.order[e.first + i]
        x, row = s.X[example * n : (example + 1) * n], s.rows[place + i * stride :]
        for k in range(n):
            row[k] = x[k]
        for k in range(outputs):
            at = (e.copy * outputs + k) * s.output_ld + i
            s.outputs[at] = s.Y[example * outputs + k]
    transpose(s, e.m, n, rows_of(s, 0, e), input_of(s, 0, e))


def forward(s: State, now: Now, l: int, e: Examples) -> None:
    """A[l] = g(W[l] A[l-1] + b[l]); for the last layer the logits without their bias."""
    n, inputs, bias = s.layers[l, UNITS], s.layers[l, INPUTS], s.layers[l, BIASES]
    columns, W = rounded_up(e.m, s.lanes), operand(s.theta, s.layers[l, WEIGHTS], inputs, 1)
    product(s, n, columns, inputs, W, input_of(s, l, e), place_of(s, s.A, l, e), 0)
    A = units_of(s, s.A, l, e)
    if l == 0 and s.in_sample_space:
        P0, c = matrix(s.P0, e.first, n, s.input_ld), type(s.zero)(now.plan[C])
        for i in range(n):
            a, p = A[i, :columns], P0[i, :columns]
            for j in range(len(a)):
                a[j] += c * p[j]
    if l < len(s.layers) - 1:
        b, dropout = s.theta[bias : bias + n], s.dropout and s.keep_prob[l] < 1
        D, area = masks_of(s, now, l, e), (0, n, 0, columns)
        bias_activation(A, b, s.layers[l, KIND], D, dropout, area)


def output(s: State, now: Now, e: Examples) -> float:
    """The last layer's logits become its dZ; returns the loss. With `forward_only` they become
    `State.outputs`, without their bias."""
    l, m = len(s.layers) - 1, e.m
    n, bias, row, kind = s.layers[l, UNITS], s.layers[l, BIASES], s.layers[l, ROW], s.layers[l, KIND]
    Z, b, db = units_of(s, s.A, l, e), s.theta[bias : bias + n], s.db[e.copy, row:]
    Y = matrix(s.outputs, e.copy * n * s.ld if s.gathered else e.first, n, s.output_ld)
    scale, loss = type(s.zero)(now.plan[SCALE]), 0.0
    if s.forward_only:
        for i in range(n):
            y, z = Y[i, :m], Z[i, :m]
            for j in range(m):
                y[j] = z[j]
    else:
        loss = output_gradient(Z, b, Y, kind, scale, db, now.recorded, s.work[e.copy], 0, m)
        for i in range(n):
            for j in range(m, rounded_up(m, s.lanes)):
                Z[i, j] = s.zero
    return loss


def backward(s: State, now: Now, l: int, e: Examples) -> None:
    """dZ[l-1] = W[l]ᵀ dZ[l] ∘ g'(Z[l-1])"""
    before, n, inputs = l - 1, s.layers[l, UNITS], s.layers[l, INPUTS]
    columns, W = rounded_up(e.m, s.lanes), operand(s.theta, s.layers[l, WEIGHTS], 1, inputs)
    product(s, inputs, columns, n, W, dZ_of(s, l, e), place_of(s, s.dA, before, e), 0)
    keep, dropout = s.keep_prob[before], s.dropout and s.keep_prob[before] < 1
    dA, A, D = units_of(s, s.dA, before, e), units_of(s, s.A, before, e), masks_of(s, now, before, e)
    g, db, keep_prob = s.layers[before, KIND], s.db[e.copy, s.layers[before, ROW] :], type(s.zero)(keep)
    activation_gradient(dA, A, g, db, D, keep_prob, dropout, (0, inputs, 0, columns))


def gradient(s: State, l: int, e: Examples, add: int) -> None:
    """dW[l] = dZ[l] A[l-1]ᵀ of these examples, or its sum with that of earlier ones with `add`. In
    sample space dS = dZ[1], which the threads put side by side."""
    n, inputs, stride = s.layers[l, UNITS], s.layers[l, INPUTS], s.layers[l, STRIDE]
    dZ, start = dZ_of(s, l, e), e.copy * s.dW.shape[1] + s.layers[l, GRADIENT]
    out = s.dW.ctypes.data + s.theta.itemsize * start, stride, 1
    if l == 0 and s.in_sample_space:
        Z = units_of(s, s.A if len(s.layers) == 1 else s.dA, 0, e)
        for i in range(n):
            z, at = Z[i, : e.m], s.layers[l, GRADIENT] + i * stride + e.first
            dS = s.dW[0, at : at + e.m]
            for j in range(len(z)):
                dS[j] = z[j]
    elif s.layers[l, BY_ROWS]:
        rows = rows_of(s, l, e)
        if l > 0:
            transpose(s, inputs, e.m, input_of(s, l, e), rows)
        product(s, n, inputs, e.m, dZ, rows, out, add)
    else:
        inner_products(s, n, inputs, e.m, dZ, input_of(s, l, e), out, add)


# -------------------------------------------------------------------------------------- steps


def wait(s: State, parts: int) -> None:
    """Until all threads are here."""
    if parts > 1:
        barrier(s.zero, (s.counters.ctypes.data, parts))


def step(s: State, now: Now, part: int, parts: int) -> float:
    """A thread's part of a step; returns the loss of its examples."""
    share = rounded_up((now.m + parts - 1) // parts, s.lanes)
    first, last, loss = part * share, min((part + 1) * share, now.m), 0.0
    for start in range(first, last, s.portion):
        e = Examples(start, min(s.portion, last - start), part)
        loss += propagate(s, now, e)
        if not s.forward_only:
            backpropagate(s, now, e, int(start > first))
    wait(s, parts)
    if not s.forward_only:
        for l in range(len(s.layers)):
            update(s, now, l, part, parts, (now.m + share - 1) // share)
        wait(s, parts)
    return loss


def propagate(s: State, now: Now, e: Examples) -> float:
    """All layers forward; returns the loss."""
    if s.gathered:
        gather(s, now, e)
    for l in range(len(s.layers)):
        forward(s, now, l, e)
    return output(s, now, e)


def backpropagate(s: State, now: Now, e: Examples, add: int) -> None:
    """All layers backward, into the thread's gradient."""
    for l in range(len(s.layers) - 1, -1, -1):
        gradient(s, l, e, add)
        if l > 0:
            backward(s, now, l, e)


def update(s: State, now: Now, l: int, part: int, parts: int, threads: int) -> None:
    """W[l] and b[l] of this thread's units, by the sums over so many threads."""
    n, inputs, stride = s.layers[l, UNITS], s.layers[l, INPUTS], s.layers[l, STRIDE]
    shrink, first, last = type(s.zero)(now.plan[SHRINK]), part * n // parts, (part + 1) * n // parts
    summed = 1 if l == 0 and s.in_sample_space else threads
    for i in range(first, last):
        start = s.layers[l, GRADIENT] + i * stride
        place = s.layers[l, WEIGHTS] + i * inputs
        descend(s, now, place, s.dW, start, start + inputs, summed, shrink)
    start, stop = s.layers[l, ROW] + first, s.layers[l, ROW] + last
    descend(s, now, s.layers[l, BIASES] + first, s.db, start, stop, threads, s.zero)


def descend(
    s: State,
    now: Now,
    place: int,
    steps: Matrix,
    start: int,
    stop: int,
    threads: int,
    shrink: float,
) -> None:
    """Update the parameters from `place` on by columns start ... stop-1 of `steps`, summed over so
    many threads."""
    kind = s.theta.dtype.type
    numbers = kind(s.betas[0]), kind(s.betas[1]), kind(now.plan[RATE]), kind(now.plan[EPSILON])
    step, at = steps[0, start:stop], slice(place, place + stop - start)
    theta = s.theta[at]
    for other in range(1, threads):
        more = steps[other, start:stop]
        for j in range(len(step)):
            step[j] += more[j]
    if shrink != 0:
        for j in range(len(step)):
            step[j] += shrink * theta[j]
    optimizer_step(s.optimizer, theta, step, s.moments[0, at], s.moments[1, at], numbers)


def squares(s: State) -> float:
    """Σ ‖W‖² over all layers"""
    total = 0.0
    for l in range(len(s.layers)):
        w = s.theta[s.layers[l, WEIGHTS] : s.layers[l, BIASES]]
        for j in range(len(w)):
            total += w[j] * w[j]
    return total


def train(
    s: State,
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

    plan : (steps, 5), a `Now.plan` for each step
    sizes : (steps,) examples of each step's batch
    order : indices of the examples, batch after batch; empty if all batches are whole
    l2 : λ, to add to the cost; 0 in sample space, where the caller adds it
    """
    cost, start, drawn = 0.0, 0, 0
    units = s.layers[-1, ROW] + s.layers[-1, UNITS]
    for i in range(len(sizes)):
        m = sizes[i]
        chosen = order[start : start + m] if len(order) > 0 else order
        now = Now(m, chosen, drawn, plan[i], i < recorded)
        for unit in range(units):
            s.db[part, unit] = s.zero
        if now.recorded and l2 > 0 and part == 0:
            cost += l2 / 2 * squares(s)
        cost += step(s, now, part, parts)
        start += m
        drawn += units * m
    return cost
