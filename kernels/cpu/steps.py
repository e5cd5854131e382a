"""Steps of gradient descent as one compiled call: any depth, any optimizer, whole batches,
mini-batches and sample space, on one thread or several.

Every thread runs `train`. They share a step in one of two ways:

- by examples: each takes its examples forward and backward through all layers, in portions that
  stay in its cache, and sums up a gradient of its own. They meet twice, to update the parameters
  from the sum of all gradients and to begin the next step.
- by units: each computes some units of every layer for all examples, keeps the weights of these
  units in its cache, and updates them. They meet after each layer; no gradient is stored.

The first suits many examples or few parameters, the second the large layers of a mini-batch.
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
PORTION = 512  # columns of a gradient that is updated from at once
SCRATCH = PORTION + 32  # elements from row to row of it


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
    by_examples: bool
    dropout: bool
    forward_only: bool  # to the last layer's logits, without their bias, in A
    portion: int  # examples that a thread works on at once, if by examples
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
    inputs: Vector  # (n_0, input_ld): X of a step, in sample space G
    outputs: Vector  # (n_L, output_ld)
    P0: Vector  # (n_1, ld) W⁰ X of sample space, else empty
    # activations (units, ld), by examples for each thread; the last layer's logits become its dZ
    A: Vector
    dA: Vector  # dZ of the other layers
    D: Vector  # for each step of a call, the masks of all units by examples
    rows: Vector  # transposed inputs of the layers, (ld, STRIDE) each, by examples for each thread
    dW: Vector  # gradients, for each thread
    db: Matrix  # (threads, units) sums of dZ over each thread's examples
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


def area_of(rows: int, columns: int, granule: int, part: int, parts: int) -> Area:
    """A part of a matrix, of about the same size as the others, in whole tiles of TILE_ROWS rows
    and `granule` columns: some of the rows if that divides it as evenly as anything."""
    high = (rows + TILE_ROWS - 1) // TILE_ROWS
    wide = (columns + granule - 1) // granule
    across, least = 1, high * wide + 1
    for divisor in range(1, parts + 1):
        if parts % divisor == 0:
            down = parts // divisor
            largest = ((high + down - 1) // down) * ((wide + divisor - 1) // divisor)
            if largest < least:
                across, least = divisor, largest
    down, i, j = parts // across, part // across, part % across
    first, last = i * high // down * TILE_ROWS, (i + 1) * high // down * TILE_ROWS
    start, stop = j * wide // across * granule, (j + 1) * wide // across * granule
    return first, min(last, rows), start, min(stop, columns)


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


# --------------------------------------------------------------- the phases, a thread's share


def gather(s: State, now: Now, e: Examples, part: int, parts: int) -> None:
    """Copy a part of these examples, X as rows and as columns."""
    n, outputs, stride = s.layers[0, INPUTS], s.layers[-1, UNITS], s.layers[0, STRIDE]
    blocks = (e.m + s.lanes - 1) // s.lanes
    first, last = part * blocks // parts * s.lanes, (part + 1) * blocks // parts * s.lanes
    rows, columns = rows_of(s, 0, e), input_of(s, 0, e)
    for i in range(first, min(last, e.m)):
        example = now.order[e.first + i]
        x = s.X[example * n : (example + 1) * n]
        row = s.rows[rows_place(s, 0, e) + i * stride :]
        for k in range(n):
            row[k] = x[k]
        for k in range(outputs):
            at = (e.copy * outputs + k) * s.output_ld + i
            s.outputs[at] = s.Y[example * outputs + k]
    transpose(s, last - first, n, shifted(s, rows, first, 0), shifted(s, columns, 0, first))


def forward(s: State, now: Now, l: int, e: Examples, area: Area) -> None:
    """A[l] = g(W[l] A[l-1] + b[l]); for the last layer the logits without their bias."""
    first, last, start, stop = area
    inputs, bias, g = s.layers[l, INPUTS], s.layers[l, BIASES], s.layers[l, KIND]
    W = operand(s.theta, s.layers[l, WEIGHTS] + first * inputs, inputs, 1)
    B, out = shifted(s, input_of(s, l, e), 0, start), place_of(s, s.A, l, e)
    product(s, last - first, stop - start, inputs, W, B, shifted(s, out, first, start), 0)
    A = units_of(s, s.A, l, e)
    if l == 0 and s.in_sample_space:
        P0, c = matrix(s.P0, 0, len(A), s.ld), s.theta.dtype.type(now.plan[C])
        for i in range(first, last):
            a, p = A[i, start:stop], P0[i, start:stop]
            for j in range(len(a)):
                a[j] += c * p[j]
    if l < len(s.layers) - 1:
        b, dropout = s.theta[bias : bias + len(A)], s.dropout and s.keep_prob[l] < 1
        bias_activation(A, b, g, masks_of(s, now, l, e), dropout, area)


def output(s: State, now: Now, e: Examples, part: int, start: int, stop: int) -> float:
    """dZ of the last layer and the loss, for some of these examples, by their logits."""
    l = len(s.layers) - 1
    n, bias, row = s.layers[l, UNITS], s.layers[l, BIASES], s.layers[l, ROW]
    Z, b = units_of(s, s.A, l, e), s.theta[bias : bias + n]
    Y = matrix(s.outputs, e.copy * n * s.ld if s.gathered else e.first, n, s.output_ld)
    kind, scale, db = s.layers[l, KIND], s.theta.dtype.type(now.plan[SCALE]), s.db[part, row:]
    loss = output_gradient(Z, b, Y, kind, scale, db, now.recorded, s.work[part], start, stop)
    for i in range(n):
        z = Z[i, stop : rounded_up(stop, s.lanes)]
        for j in range(len(z)):
            z[j] = s.zero
    return loss


def backward(s: State, now: Now, l: int, e: Examples, part: int, area: Area) -> None:
    """dZ[l-1] = W[l]ᵀ dZ[l] ∘ g'(Z[l-1])"""
    first, last, start, stop = area
    before, n, inputs = l - 1, s.layers[l, UNITS], s.layers[l, INPUTS]
    W = operand(s.theta, s.layers[l, WEIGHTS] + first, 1, inputs)
    B, out = shifted(s, dZ_of(s, l, e), 0, start), place_of(s, s.dA, before, e)
    product(s, last - first, stop - start, n, W, B, shifted(s, out, first, start), 0)
    dA, A = units_of(s, s.dA, before, e), units_of(s, s.A, before, e)
    keep, dropout = s.keep_prob[before], s.dropout and s.keep_prob[before] < 1
    g, db, keep_prob = s.layers[before, KIND], s.db[part, s.layers[before, ROW] :], type(s.zero)(keep)
    activation_gradient(dA, A, g, db, masks_of(s, now, before, e), keep_prob, dropout, area)


def gradient(s: State, l: int, e: Examples, area: Area, out: Operand, add: int) -> None:
    """out ← dW[l] = dZ[l] A[l-1]ᵀ of these examples in an area, or out + dW[l] with `add`"""
    first, last, start, stop = area
    dZ = shifted(s, dZ_of(s, l, e), first, 0)
    if s.layers[l, BY_ROWS]:
        B = shifted(s, rows_of(s, l, e), 0, start)
        product(s, last - first, stop - start, e.m, dZ, B, out, add)
    else:
        B = shifted(s, input_of(s, l, e), start, 0)
        inner_products(s, last - first, stop - start, e.m, dZ, B, out, add)


def descend(s: State, now: Now, place: int, dW: Vector, shrink: float) -> None:
    """Update so many parameters from `place` on."""
    kind = s.theta.dtype.type
    numbers = kind(s.betas[0]), kind(s.betas[1]), kind(now.plan[RATE]), kind(now.plan[EPSILON])
    at = slice(place, place + len(dW))
    W = s.theta[at]
    if shrink != 0:
        for j in range(len(dW)):
            dW[j] += shrink * W[j]
    optimizer_step(s.optimizer, W, dW, s.moments[0, at], s.moments[1, at], numbers)


def descend_biases(s: State, now: Now, l: int, first: int, last: int, threads: int) -> None:
    """Update b of these units from the sums of dZ of so many threads."""
    row = s.layers[l, ROW]
    db = s.db[0, row + first : row + last]
    for other in range(1, threads):
        more = s.db[other, row + first : row + last]
        for j in range(len(db)):
            db[j] += more[j]
    descend(s, now, s.layers[l, BIASES] + first, db, s.zero)


# -------------------------------------------------------------------------------------- steps


def wait(s: State, parts: int) -> None:
    """Until all threads are here."""
    if parts > 1:
        barrier(s.zero, (s.counters.ctypes.data, parts))


def step_by_examples(s: State, now: Now, part: int, parts: int) -> float:
    layers, loss = len(s.layers), 0.0
    share = rounded_up((now.m + parts - 1) // parts, s.lanes)
    size = s.layers[-1, GRADIENT] + s.layers[-1, UNITS] * s.layers[-1, STRIDE]
    begin, end = part * share, min((part + 1) * share, now.m)
    for start in range(begin, end, s.portion):
        e = Examples(start, min(s.portion, end - start), part)
        columns = rounded_up(e.m, s.lanes)
        if s.gathered:
            gather(s, now, e, 0, 1)
        for l in range(layers):
            forward(s, now, l, e, (0, s.layers[l, UNITS], 0, columns))
        loss += output(s, now, e, part, 0, e.m)
        for l in range(layers - 1, -1, -1):
            n, inputs, stride = s.layers[l, UNITS], s.layers[l, INPUTS], s.layers[l, STRIDE]
            if l > 0 and s.layers[l, BY_ROWS]:
                transpose(s, inputs, e.m, input_of(s, l, e), rows_of(s, l, e))
            out = operand(s.dW, part * size + s.layers[l, GRADIENT], stride, 1)
            gradient(s, l, e, (0, n, 0, inputs), out, int(start > begin))
            if l > 0:
                backward(s, now, l, e, part, (0, inputs, 0, columns))
    wait(s, parts)
    threads = (now.m + share - 1) // share
    for l in range(layers):
        n, inputs, stride = s.layers[l, UNITS], s.layers[l, INPUTS], s.layers[l, STRIDE]
        first, last = part * n // parts, (part + 1) * n // parts
        for i in range(first, last):
            at = s.layers[l, GRADIENT] + i * stride
            dW = s.dW[at : at + inputs]
            for other in range(1, threads):
                more = s.dW[other * size + at : other * size + at + inputs]
                for j in range(len(dW)):
                    dW[j] += more[j]
            place = s.layers[l, WEIGHTS] + i * inputs
            descend(s, now, place, dW, type(s.zero)(now.plan[SHRINK]))
        descend_biases(s, now, l, first, last, threads)
    wait(s, parts)
    return loss


def step_by_units(s: State, now: Now, part: int, parts: int) -> float:
    e, columns, top = Examples(0, now.m, 0), rounded_up(now.m, s.lanes), len(s.layers) - 1
    if s.gathered:
        gather(s, now, e, part, parts)
        wait(s, parts)
    for l in range(top):
        n = s.layers[l, UNITS]
        forward(s, now, l, e, area_of(n, columns, 2 * s.lanes, part, parts))
        wait(s, parts)
    start = part * (columns // s.lanes) // parts * s.lanes
    stop = (part + 1) * (columns // s.lanes) // parts * s.lanes
    forward(s, now, top, e, (0, s.layers[top, UNITS], start, stop))
    if s.forward_only:
        return 0.0
    loss = output(s, now, e, part, start, min(stop, now.m))
    for l in range(1, top + 1):
        if s.layers[l, BY_ROWS]:
            A, rows = shifted(s, input_of(s, l, e), 0, start), shifted(s, rows_of(s, l, e), start, 0)
            transpose(s, s.layers[l, INPUTS], stop - start, A, rows)
    wait(s, parts)
    for l in range(top, 0, -1):
        area = area_of(s.layers[l, INPUTS], columns, 2 * s.lanes, part, parts)
        backward(s, now, l, e, part, area)
        wait(s, parts)
    for l in range(top + 1):
        update(s, now, l, e, part, parts)
    wait(s, parts)
    return loss


def update(s: State, now: Now, l: int, e: Examples, part: int, parts: int) -> None:
    """Update this thread's area of W[l] and its units' b[l], a few rows of dW at a time."""
    n, inputs, shrink = s.layers[l, UNITS], s.layers[l, INPUTS], type(s.zero)(now.plan[SHRINK])
    first, last, start, stop = area_of(n, inputs, 2 * s.lanes, part, parts)
    scratch = part * TILE_ROWS * SCRATCH
    for i in range(first, last, TILE_ROWS):
        below = min(i + TILE_ROWS, last)
        for j in range(start, stop, PORTION):
            right = min(j + PORTION, stop)
            area = i, below, j, right
            if l > 0 or not s.in_sample_space:
                gradient(s, l, e, area, operand(s.dW, scratch, SCRATCH, 1), 0)
            for k in range(i, below):
                at = scratch + (k - i) * SCRATCH
                dW = s.dW[at : at + right - j]
                if l == 0 and s.in_sample_space:  # the gradient is dZ
                    dW = units_of(s, s.dA if len(s.layers) > 1 else s.A, 0, e)[k, j:right]
                descend(s, now, s.layers[l, WEIGHTS] + k * inputs + j, dW, shrink)
    descend_biases(s, now, l, part * n // parts, (part + 1) * n // parts, parts)


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
        if s.by_examples:
            cost += step_by_examples(s, now, part, parts)
        else:
            cost += step_by_units(s, now, part, parts)
        start += m
        drawn += units * m
    return cost
