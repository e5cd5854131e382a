"""Steps of gradient descent as one compiled call: any depth, any optimizer, whole batches,
mini-batches and sample space, on one thread or several.

Every thread runs `train`. In each step it takes its share of the examples forward and backward
through all layers, in portions that stay in its cache, and sums up a gradient of its own. The
threads meet twice: before each updates a part of the parameters from the sum of all gradients, and
after it. If processes share the examples, a step is two calls: one ends with the gradient, which
they sum up, and the other begins there.

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
# of Adam; c of sample space; a factor of the loss, the examples over the sum of their weights
RATE, SCALE, SHRINK, EPSILON, C, LOSS = range(6)

# what a call does of each step: all, all up to the gradient, or the update from `summed`
WHOLE, GRADIENT, UPDATE = range(3)

TILE_ROWS = tile_rows()
DEPTH = 1024  # terms of a product that are summed up at once, so that a tile's operands stay in L2


def record(integers: str, **others: Any) -> Any:
    """The type of a record, from the names of its integers and the types of its other fields."""
    fields = [*((name, np.int64) for name in integers.split()), *others.items()]
    return np.dtype(fields, align=True)


# A matrix: its address, and the bytes from row to row, from a thread's copy to the next, and from
# an example of a whole batch to the next. The last two are 0 if it has one copy, or one portion.
MATRIX = record("address row copy example")

# A layer. In sample space the first one has m inputs, W is S, and dW is dZ.
#
# units, inputs : n_l and n_{l-1}
# weights, biases : where W and b begin in theta
# first_unit : among the units of all layers
# by_rows : whether dW is computed from `rows`
# input : A[l-1], X or G (n_{l-1}, m)
# rows : the same transposed, (m, n_{l-1})
# A, dZ : (n_l, m); the last layer's A becomes its dZ
# dW : (n_l, n_{l-1})
# db : (n_l,) the sums of dZ
MATRICES = dict.fromkeys(("input", "rows", "A", "dZ", "dW", "db"), MATRIX)
LAYER = record(
    "units inputs weights biases first_unit kind by_rows", keep_prob=np.float64, **MATRICES
)


def state_type(dtype: Any) -> Any:
    """A training. The columns of matrices of examples are filled up to whole SIMD registers, with
    finite numbers, in dZ with zeros.

    lanes, size : of a SIMD register, and the bytes of a number
    granule : products compute a multiple of so many columns
    gathered : whether batches are gathered from X (m, n_0), Y (m, n_L) and weights (m,); 0 in the
        place of weights if all weigh the same
    in_order : whether Y and weights have the examples of a call in its order, and X in any
    bytes, byte, scale : whether X are bytes, to be divided by `scale`; a number of their type
    forward_only : to the last layer's logits, without their bias, which replace the labels
    portion : the most examples that a thread works on at once
    units : of all layers
    D : for each step of a call, the masks of all units by examples
    theta : the flat parameters; M, V : their moments
    counters : of the barrier
    phase, summed : WHOLE, GRADIENT or UPDATE; and the gradient between the two, flat like theta
    no : 0, because Numba compiles a function again for a literal
    labels, w : (n_L, m) and the weights (1, m) of the batch
    P0 : W⁰ X of sample space
    db : the layers' one after the other
    work : two rows for the softmax
    """
    return record(
        "lanes size granule optimizer in_sample_space gathered dropout forward_only portion units "
        "in_order bytes X Y D weights theta M V counters phase summed no",
        **dict.fromkeys(("labels", "w", "P0", "db", "work"), MATRIX),
        **dict.fromkeys(("zero", "beta1", "beta2", "scale"), dtype),
        byte=np.uint8,
    )


class Now(NamedTuple):
    """One step."""

    m: int  # examples of its batch
    first: int  # of these in the call
    order: Vector  # (m,) their indices
    masks: int  # where its masks begin in D
    plan: Vector  # (6,) float64
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
    (a, a_row), (b, b_row), (c, c_row), wide, size = A, B, out, 2 * s.lanes, s.size
    whole, rest = columns // wide, columns % wide
    # a vector and a half are two tiles, because one would compute two vectors
    split = s.lanes < rest <= s.lanes + s.lanes // 2
    high, across = (rows + TILE_ROWS - 1) // TILE_ROWS, whole + (rest > 0) + split
    for start in range(0, depth, DEPTH):
        terms, more = min(DEPTH, depth - start), add + start
        for k in range(high * across):
            # read the smaller of A and B again and again
            i, q = (k % high, k // high) if rows < columns else (k // across, k % across)
            i, j = i * TILE_ROWS, q * wide if q <= whole else whole * wide + s.lanes
            width = s.lanes if split and q == whole else columns - j
            factors = a + i * a_row, a_row, A_column, b + j * size, b_row
            tile(s.zero, (rows - i, width, terms, *factors, c + i * c_row + j * size, c_row, more))
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


def place(matrix: Any, e: Examples) -> int:
    """The address of a matrix's part for these examples."""
    address: int = matrix.address + e.copy * matrix.copy + e.first * matrix.example
    return address


def operand(matrix: Any, e: Examples) -> Operand:
    return place(matrix, e), matrix.row


def array(s: Any, matrix: Any, e: Examples, rows: int) -> Matrix:
    """Rows of a matrix, as wide as they are apart."""
    return view(s.zero, place(matrix, e), (rows, matrix.row // s.size))


def biases(s: Any, layer: Any) -> Vector:
    return view(s.zero, s.theta + layer.biases * s.size, (layer.units,))


def masks(s: Any, layer: Any, now: Now, e: Examples) -> Matrix:
    """D[l] (n_l, m) from the first of these examples on; not to be read without dropout."""
    start = now.masks + layer.first_unit * now.m + e.first
    return view(s.zero, s.D + start * s.size, (layer.units, now.m))


def gather(s: Any, layer: Any, outputs: int, now: Now, e: Examples) -> None:
    """Copy these examples: their labels, their weights, and X as rows and as columns."""
    n, (rows, row), Y = layer.inputs, operand(layer.rows, e), array(s, s.labels, e, outputs)
    for i in range(e.m):
        example, copy = now.order[e.first + i], view(s.zero, rows + i * row, (n,))
        if s.bytes != 0:
            pixels = view(s.byte, s.X + example * n, (n,))
            for k in range(n):
                copy[k] = type(s.zero)(pixels[k]) / s.scale
        else:
            x = view(s.zero, s.X + example * n * s.size, (n,))
            for k in range(n):
                copy[k] = x[k]
        place = now.first + e.first + i if s.in_order != 0 else example
        if s.weights != 0:
            w = view(s.zero, s.weights + place * s.size, (1,))
            array(s, s.w, e, 1)[0, i] = w[0]
        y = view(s.zero, s.Y + place * outputs * s.size, (outputs,))
        for k in range(outputs):
            Y[k, i] = y[k]
    transpose(s, e.m, n, operand(layer.rows, e), operand(layer.input, e))


def forward(s: Any, layer: Any, now: Now, e: Examples, last: bool) -> None:
    """A[l] = g(W[l] A[l-1] + b[l]); for the last layer the logits without their bias."""
    n, inputs, W = layer.units, layer.inputs, s.theta + layer.weights * s.size
    X, out, A = operand(layer.input, e), operand(layer.A, e), array(s, layer.A, e, n)
    add_product(s, n, e.columns, inputs, (W, inputs * s.size), s.size, X, out, s.no)
    if layer.first_unit == 0 and s.in_sample_space != 0:
        P0, c = array(s, s.P0, e, n), type(s.zero)(now.plan[C])
        for i in range(n):
            for j in range(e.columns):
                A[i, j] += c * P0[i, j]
    if not last:
        dropout = s.dropout != 0 and layer.keep_prob < 1
        b, D = biases(s, layer), masks(s, layer, now, e)
        bias_activation(A, b, layer.kind, D, dropout, e.columns)


def output(s: Any, layer: Any, now: Now, e: Examples) -> float:
    """The last layer's logits become its dZ; returns the loss. With `forward_only` they replace
    the labels, without their bias."""
    n, m = layer.units, e.m
    Z, Y = array(s, layer.A, e, n), array(s, s.labels, e, n)
    if s.forward_only != 0:
        for i in range(n):
            for j in range(m):
                Y[i, j] = Z[i, j]
        return 0.0
    b, db, work = biases(s, layer), view(s.zero, place(layer.db, e), (n,)), array(s, s.work, e, 2)
    scale = type(s.zero)(now.plan[SCALE])
    w = array(s, s.w, e, 1)[0]
    loss = output_gradient(Z, b, Y, w, layer.kind, scale, db, now.recorded, work, m)
    for i in range(n):
        for j in range(m, rounded_up(m, s.lanes)):
            Z[i, j] = s.zero
    return loss


def backward(s: Any, layer: Any, before: Any, now: Now, e: Examples) -> None:
    """dZ[l-1] = W[l]ᵀ dZ[l] ∘ g'(Z[l-1])"""
    n, inputs, W = layer.units, layer.inputs, s.theta + layer.weights * s.size
    dZ, out = operand(layer.dZ, e), operand(before.dZ, e)
    add_product(s, inputs, e.columns, n, (W, s.size), inputs * s.size, dZ, out, s.no)
    dA, A = array(s, before.dZ, e, inputs), array(s, before.A, e, inputs)
    db, D = view(s.zero, place(before.db, e), (inputs,)), masks(s, before, now, e)
    keep_prob, dropout = type(s.zero)(before.keep_prob), s.dropout != 0 and before.keep_prob < 1
    activation_gradient(dA, A, before.kind, db, D, keep_prob, dropout, e.columns)


def gradient(s: Any, layer: Any, e: Examples, add: int) -> None:
    """dW[l] = dZ[l] A[l-1]ᵀ of these examples, or its sum with that of earlier ones with `add`. In
    sample space the threads put their dZ side by side."""
    n, inputs, m, out = layer.units, layer.inputs, e.m, operand(layer.dW, e)
    if layer.first_unit == 0 and s.in_sample_space != 0:
        Z, dS = array(s, layer.dZ, e, n), array(s, layer.dW, e, n)
        for i in range(n):
            for j in range(m):
                dS[i, j] = Z[i, j]
    elif layer.by_rows != 0:
        rows = operand(layer.rows, e)
        if layer.first_unit > 0:
            transpose(s, inputs, m, operand(layer.input, e), rows)
        add_product(s, n, inputs, m, operand(layer.dZ, e), s.size, rows, out, add)
    else:
        dZ, X = operand(layer.dZ, e), operand(layer.input, e)
        add_inner_products(s, n, inputs, m, dZ, X, out, add)


# -------------------------------------------------------------------------------------- steps


def wait(s: Any, parts: int) -> None:
    """Until all threads are here."""
    if parts > 1:
        barrier(s.zero, (s.counters, parts))


def step(s: Any, layers: Vector, now: Now, part: int, parts: int) -> float:
    """A thread's part of a step; returns the loss of its examples."""
    top, share = len(layers) - 1, (now.m + parts - 1) // parts
    if s.gathered == 0:
        share = rounded_up(share, s.lanes)
    first, last, loss = part * share, min((part + 1) * share, now.m), 0.0
    if s.phase == UPDATE:
        share, last = 1, first
    for start in range(first, last, s.portion):
        m = min(s.portion, last - start)
        e = Examples(start, m, rounded_up(m, s.granule), part)
        if s.gathered != 0:
            gather(s, layers[0], layers[top].units, now, e)
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
    n, inputs, dW, db = layer.units, layer.inputs, layer.dW, layer.db
    first, last, shrink = part * n // parts, (part + 1) * n // parts, type(s.zero)(now.plan[SHRINK])
    copies = threads if dW.copy != 0 else 1
    for i in range(first, last):
        at = layer.weights + i * inputs
        descend(s, now, at, inputs, dW.address + i * dW.row, dW.copy, copies, shrink)
    at = db.address + first * s.size
    descend(s, now, layer.biases + first, last - first, at, db.copy, threads, s.zero)


def descend(
    s: Any, now: Now, place: int, count: int, steps: int, copy: int, threads: int, shrink: float
) -> None:
    """Update `count` parameters from `place` on by the sum of so many threads' steps."""
    kind, start = type(s.zero), place * s.size
    if s.phase == UPDATE:
        steps, threads = s.summed + start, 1
    theta, step = view(s.zero, s.theta + start, (count,)), view(s.zero, steps, (count,))
    M, V = view(s.zero, s.M + start, (count,)), view(s.zero, s.V + start, (count,))
    for other in range(1, threads):
        more = view(s.zero, steps + other * copy, (count,))
        for j in range(count):
            step[j] += more[j]
    if s.phase == GRADIENT:
        summed = view(s.zero, s.summed + start, (count,))
        for j in range(count):
            summed[j] = step[j]
        return
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
    costs: Vector,
    part: int,
    parts: int,
) -> None:
    """This thread's part of a step for each row of `plan`.

    state, layers : arrays of `state_type`, (1,), and of LAYER
    plan : (steps, 6) float64; a step whose factor of the loss is 0 computes no loss
    sizes : (steps,) examples of each step's batch
    order : indices of the examples, batch after batch; empty if all batches are whole
    l2 : λ, to add to the cost; 0 in sample space, where the caller adds it
    costs : (steps,) float64, receives this thread's part of each step's cost times its examples
    """
    s, start, drawn = state[0], 0, 0
    db = view(s.zero, s.db.address + part * s.db.copy, (s.units,))
    for i in range(len(sizes)):
        m = sizes[i]
        chosen = order[start : start + m] if len(order) > 0 else order
        now = Now(m, start, chosen, drawn, plan[i], plan[i, LOSS] != 0)
        for unit in range(s.units):
            db[unit] = s.zero
        loss = l2 / 2 * squares(s, layers) if now.recorded and l2 > 0 and part == 0 else 0.0
        loss += step(s, layers, now, part, parts)
        costs[i] = now.plan[LOSS] * loss
        start += m
        drawn += s.units * m
