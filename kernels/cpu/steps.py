"""Steps of gradient descent as one compiled call: any depth, any optimizer, whole batches,
mini-batches and sample space, on one thread or several.

The threads share every product and what follows it by blocks of its result. A step is a row of
phases, in which each thread does its share: forward and backward layer by layer, then the update
of all layers. Products large enough come from BLAS, on one thread each: two pools of threads, or
one that splits what is already split, would only take the cores from each other.
"""

from typing import Any, NamedTuple

import numpy as np

from ..loops import MOMENTUM, SGD
from .blas import gemm
from .fused import (
    activation_gradient,
    adam_update,
    bias_activation,
    momentum_update,
    output_gradient,
)

Vector = Any  # 1-D and contiguous
Matrix = Any  # 2-D and C-contiguous
Area = tuple[int, int, int, int]  # first, last row; start, stop column

prange = range

# Numba compiles a function again for each literal that it is called with, so the values that select
# a case come from arrays. Each level of calls costs a second or two, because everything below it is
# optimised again; an assignment to a slice costs as much, for the error that it might raise.

# the columns of `State.layers`, a row for each layer
UNITS, INPUTS, WEIGHTS, BIASES, ROW, KIND = range(6)
# the columns of `State.plan`, a row for each step
RATE, SCALE, SHRINK, EPSILON, C = range(5)
# `State.settings`
OPTIMIZER, IN_SAMPLE_SPACE, EXAMPLES_FIRST, DROPOUT, THREADS, NO, YES = range(7)
# the columns of `State.phases`, a row for each phase of a step, and the phases
PHASE, LAYER, PER_EXAMPLE, FIXED = range(4)
GATHER, FORWARD, OUTPUT, BACKWARD, UPDATE = range(5)

# Multiply-adds from which a phase is shared. One thread does 10,000 to 20,000 in a microsecond. To
# start the threads and to wait for them takes 1.5 us once each has a core of its own, which after
# a rest they get only in some 10 ms: phases of 20 us gained nothing.
WORTH_SHARING = 1_000_000
# BLAS packs its matrices first: what is smaller than this, or as thin, loops do sooner. Long inner
# products of few rows too, however large; adding up rows not, from a size on.
# In float64, loops and BLAS: 7 x 209 x 209 28 and 43 us, 20 x 209 x 209 66 and 55;
# 7 x 12288 x 209 by inner products 2.9 and 3.5 ms, 7 x 2000 x 2000 by rows 7.8 and 5.5.
WORTH_BLAS, THIN = 100_000, 9
WORTH_BLAS_BY_ROWS, THIN_BY_ROWS = 1_500_000, 5
# A batch of few examples makes the innermost loop short, and loops slow: 20 x 100 x 4 5.0 and
# 2.1 us, 128 x 256 x 8 91 and 26.
WORTH_BLAS_SHORT, SHORT = 1_000, 9
# Columns from which a matrix with fewer rows is cut across its columns
MANY = 512
# Bytes of a core's second-level cache, of which there is this much at least.
SECOND_CACHE = 2**19


class State(NamedTuple):
    """A training under way. Flat arrays, so that one compiled form serves any depth.

    gemm : address of BLAS's product for the dtype
    settings : (7,) int64: OPTIMIZER ... THREADS, and NO = 0, YES = 1
    phases : (phases, 4) int64: PHASE, its LAYER, and its multiply-adds PER_EXAMPLE and FIXED
    layers : (L, 6) int64: UNITS n_l, INPUTS n_{l-1} (in sample space the first has m), WEIGHTS
        and BIASES (where W and b begin in theta), ROW (its first unit among all units), KIND
    keep_prob : (L,) of dropout, 1 where a layer has none
    betas : (2,) of the optimizer
    theta : the flat parameters; in sample space S is in the place of W[1]
    step : what Adam updates them by, else empty
    moments : as many rows like theta as the optimizer keeps
    X, Y : examples to gather batches from, (m, n_0) and (m, n_L) flat; empty for whole batches
    X_batch, Y_batch : those of a step: (n_0, m) or, with EXAMPLES_FIRST, (m, n_0); and (n_L, m).
        In sample space X_batch is G
    P0 : W⁰ X of sample space, else empty
    A, dA : all layers' units by examples: activations (of the last layer dZ in the end); dZ
    D : for each step of a call, the masks of all units by examples
    db : (all units, threads) sums of dZ over each thread's examples
    work : (2, examples) for the softmax
    losses : (threads,) of a step
    """

    gemm: int
    settings: Vector
    phases: Matrix
    layers: Matrix
    keep_prob: Vector
    betas: Vector
    theta: Vector
    step: Vector
    moments: Matrix
    X: Vector
    Y: Vector
    X_batch: Vector
    Y_batch: Vector
    P0: Vector
    A: Vector
    dA: Vector
    D: Vector
    db: Matrix
    work: Matrix
    losses: Vector


class Now(NamedTuple):
    """What a step has of its own.

    m : examples of its batch
    order : (m,) which ones
    masks : where its masks begin in D
    plan : (5,) float64: RATE α; SCALE, which enters with dZ; SHRINK, λ · SCALE; EPSILON of Adam;
        C of sample space
    wanted : whether the loss is
    """

    m: int
    order: Vector
    masks: int
    plan: Vector
    wanted: bool


# ---------------------------------------------------------------------------------- products


def matrix(flat: Vector, rows: int, columns: int) -> Matrix:
    """What `flat` begins with, as a (rows, columns) matrix."""
    return flat[: rows * columns].reshape(rows, columns)


def block(rows: int, columns: int, part: int, parts: int) -> Area:
    """A part of a matrix, by rows, since loops run along whole ones; by columns where these are
    many, for what belongs to the other side is read by all, and packed by BLAS for each."""
    if rows >= columns or (columns < MANY and rows >= 2 * parts):
        return part * rows // parts, (part + 1) * rows // parts, 0, columns
    return 0, rows, part * columns // parts, (part + 1) * columns // parts


def product(
    routine: int,
    A: Matrix,
    A_transposed: int,
    B: Matrix,
    B_transposed: int,
    C: Matrix,
    alpha: float,
    beta: float,
    area: Area,
) -> None:
    """C ← α A B + β C within `area`, for A or its transpose, or for B's, not for both."""
    first, last, start, stop = area
    rows, columns = last - first, stop - start
    depth = A.shape[0] if A_transposed else A.shape[1]
    least, volume = min(rows, columns, depth), rows * columns * depth
    along = depth if B_transposed else columns  # what the innermost loop runs along
    if (
        (least >= THIN and volume >= WORTH_BLAS)
        or (least >= THIN_BY_ROWS and volume >= WORTH_BLAS_BY_ROWS and not B_transposed)
        or (along < SHORT and volume >= WORTH_BLAS_SHORT)
    ):
        gemm(routine, A, A_transposed, B, B_transposed, C, alpha, beta, first, last, start, stop)
    elif B_transposed:
        inner_products(A, B, C, alpha, beta, area)
    else:
        scale_block(C, beta, area)
        width = columns
        if depth * columns * B.itemsize > SECOND_CACHE:  # stay in it from row to row
            width = max(64, SECOND_CACHE // 2 // (depth * B.itemsize))
        for left in range(start, stop, width):
            right = min(left + width, stop)
            i = first
            while i + 2 <= last:
                add_two_rows(A, A_transposed, B, C, alpha, i, left, right, depth)
                i += 2
            if i < last:
                add_row(A, A_transposed, B, C, alpha, i, left, right, depth)


def scale_block(C: Matrix, beta: float, area: Area) -> None:
    """C ← β C within `area`; whatever C held, 0 where β is 0."""
    first, last, start, stop = area
    for i in range(first, last):
        c = C[i, start:stop]
        for j in range(len(c)):
            c[j] = beta * c[j] if beta != 0 else beta


def inner_products(A: Matrix, B: Matrix, C: Matrix, alpha: float, beta: float, area: Area) -> None:
    """C ← α A Bᵀ + β C within `area`, by the inner products of rows.

    Two by two: one sum alone would wait for each of its additions to end.
    """
    first, last, start, stop = area
    for i in range(first, last, 2):
        up = min(i + 1, last - 1)
        a, b = A[i], A[up]
        for p in range(start, stop, 2):
            right = min(p + 1, stop - 1)
            x, y = B[p], B[right]
            ax = ay = bx = by = a.dtype.type(0)
            if up > i:
                for j in range(len(a)):
                    ax += a[j] * x[j]
                    ay += a[j] * y[j]
                    bx += b[j] * x[j]
                    by += b[j] * y[j]
            else:
                for j in range(len(a)):
                    ax += a[j] * x[j]
                    ay += a[j] * y[j]
            set_entry(C, i, p, alpha, ax, beta)
            if right > p:
                set_entry(C, i, right, alpha, ay, beta)
            if up > i:
                set_entry(C, up, p, alpha, bx, beta)
            if up > i and right > p:
                set_entry(C, up, right, alpha, by, beta)


def set_entry(C: Matrix, i: int, p: int, alpha: float, value: float, beta: float) -> None:
    """C[i, p] ← α value + β C[i, p]; where β is 0 C may hold anything."""
    C[i, p] = alpha * value + (beta * C[i, p] if beta != 0 else beta)


def entry(A: Matrix, transposed: int, i: int, p: int) -> float:
    """A[i, p] of A or of its transpose"""
    value: float = A[p, i] if transposed else A[i, p]
    return value


def add_row(
    A: Matrix,
    transposed: int,
    B: Matrix,
    C: Matrix,
    alpha: float,
    i: int,
    start: int,
    stop: int,
    depth: int,
) -> None:
    """Row i of C gets that of α A B, eight rows of B at a time: C is read an eighth as often."""
    c, p = C[i, start:stop], 0
    while p + 8 <= depth:
        x0 = alpha * entry(A, transposed, i, p)
        x1 = alpha * entry(A, transposed, i, p + 1)
        x2 = alpha * entry(A, transposed, i, p + 2)
        x3 = alpha * entry(A, transposed, i, p + 3)
        x4 = alpha * entry(A, transposed, i, p + 4)
        x5 = alpha * entry(A, transposed, i, p + 5)
        x6 = alpha * entry(A, transposed, i, p + 6)
        x7 = alpha * entry(A, transposed, i, p + 7)
        b0, b1 = B[p, start:stop], B[p + 1, start:stop]
        b2, b3 = B[p + 2, start:stop], B[p + 3, start:stop]
        b4, b5 = B[p + 4, start:stop], B[p + 5, start:stop]
        b6, b7 = B[p + 6, start:stop], B[p + 7, start:stop]
        for j in range(len(c)):
            left = x0 * b0[j] + x1 * b1[j] + x2 * b2[j] + x3 * b3[j]
            c[j] += left + (x4 * b4[j] + x5 * b5[j] + x6 * b6[j] + x7 * b7[j])
        p += 8
    while p + 2 <= depth:
        x0 = alpha * entry(A, transposed, i, p)
        x1 = alpha * entry(A, transposed, i, p + 1)
        b0, b1 = B[p, start:stop], B[p + 1, start:stop]
        for j in range(len(c)):
            c[j] += x0 * b0[j] + x1 * b1[j]
        p += 2
    if p < depth:
        x0, b0 = alpha * entry(A, transposed, i, p), B[p, start:stop]
        for j in range(len(c)):
            c[j] += x0 * b0[j]


def add_two_rows(
    A: Matrix,
    transposed: int,
    B: Matrix,
    C: Matrix,
    alpha: float,
    i: int,
    start: int,
    stop: int,
    depth: int,
) -> None:
    """Rows i and i + 1 of C, four rows of B at a time, each read for both.

    Eight factors, four rows and two sums are what the registers hold: with four rows of C the
    same product took 33 us instead of 28.
    """
    c, d, p = C[i, start:stop], C[i + 1, start:stop], 0
    while p + 4 <= depth:
        x0, y0 = alpha * entry(A, transposed, i, p), alpha * entry(A, transposed, i + 1, p)
        x1, y1 = alpha * entry(A, transposed, i, p + 1), alpha * entry(A, transposed, i + 1, p + 1)
        x2, y2 = alpha * entry(A, transposed, i, p + 2), alpha * entry(A, transposed, i + 1, p + 2)
        x3, y3 = alpha * entry(A, transposed, i, p + 3), alpha * entry(A, transposed, i + 1, p + 3)
        b0, b1 = B[p, start:stop], B[p + 1, start:stop]
        b2, b3 = B[p + 2, start:stop], B[p + 3, start:stop]
        for j in range(len(c)):
            c[j] += x0 * b0[j] + x1 * b1[j] + x2 * b2[j] + x3 * b3[j]
            d[j] += y0 * b0[j] + y1 * b1[j] + y2 * b2[j] + y3 * b3[j]
        p += 4
    while p + 2 <= depth:
        x0, y0 = alpha * entry(A, transposed, i, p), alpha * entry(A, transposed, i + 1, p)
        x1, y1 = alpha * entry(A, transposed, i, p + 1), alpha * entry(A, transposed, i + 1, p + 1)
        b0, b1 = B[p, start:stop], B[p + 1, start:stop]
        for j in range(len(c)):
            c[j] += x0 * b0[j] + x1 * b1[j]
            d[j] += y0 * b0[j] + y1 * b1[j]
        p += 2
    if p < depth:
        x0, y0 = alpha * entry(A, transposed, i, p), alpha * entry(A, transposed, i + 1, p)
        b0 = B[p, start:stop]
        for j in range(len(c)):
            c[j] += x0 * b0[j]
            d[j] += y0 * b0[j]


# --------------------------------------------------------------- the phases, a thread's share


def activations(s: State, l: int, m: int) -> Matrix:
    """A[l] (n_l, m) of this step."""
    return matrix(s.A[s.layers[l, ROW] * m :], s.layers[l, UNITS], m)


def gradient(s: State, l: int, m: int) -> Matrix:
    """dZ[l] (n_l, m): the last layer's is in the place of its logits."""
    flat = s.A if l == len(s.layers) - 1 else s.dA
    return matrix(flat[s.layers[l, ROW] * m :], s.layers[l, UNITS], m)


def masks(s: State, l: int, now: Now) -> Matrix:
    """D[l] (n_l, m); without dropout any matrix, for Numba wants one."""
    if s.settings[DROPOUT] == 0:
        return activations(s, l, now.m)
    return matrix(s.D[now.masks + s.layers[l, ROW] * now.m :], s.layers[l, UNITS], now.m)


def weights(s: State, flat: Vector, l: int) -> Matrix:
    """The part of theta, or of an array like it, that is W[l] (n_l, n_{l-1})."""
    return matrix(flat[s.layers[l, WEIGHTS] :], s.layers[l, UNITS], s.layers[l, INPUTS])


def examples(s: State, m: int) -> Matrix:
    """The first layer's input: (n_0, m), (m, n_0) with EXAMPLES_FIRST, or G."""
    inputs = s.layers[0, INPUTS]
    if s.settings[EXAMPLES_FIRST]:
        return matrix(s.X_batch, m, inputs)
    return matrix(s.X_batch, inputs, m)


def gather(s: State, now: Now, part: int, parts: int) -> None:
    """Collect this thread's examples of the batch."""
    m, n, outputs = now.m, s.layers[0, INPUTS], s.layers[-1, UNITS]
    for i in range(part * m // parts, (part + 1) * m // parts):
        example = now.order[i]
        x = s.X[example * n : (example + 1) * n]
        if s.settings[EXAMPLES_FIRST]:
            row = s.X_batch[i * n : (i + 1) * n]
            for k in range(n):
                row[k] = x[k]
        else:
            for k in range(n):
                s.X_batch[k * m + i] = x[k]
        for k in range(outputs):
            s.Y_batch[k * m + i] = s.Y[example * outputs + k]


def forward(s: State, now: Now, l: int, part: int, parts: int) -> None:
    """A[l] = g(W[l] A[l-1] + b[l]); of the last layer the logits without their bias."""
    kind, m, no = s.theta.dtype.type, now.m, s.settings[NO]
    n, bias = s.layers[l, UNITS], s.layers[l, BIASES]
    W, A = weights(s, s.theta, l), activations(s, l, m)
    area = block(n, m, part, parts)
    first, last, start, stop = area
    if l > 0:
        product(s.gemm, W, no, activations(s, l - 1, m), no, A, kind(1), kind(0), area)
    else:
        transposed = s.settings[EXAMPLES_FIRST]
        product(s.gemm, W, no, examples(s, m), transposed, A, kind(1), kind(0), area)
        if s.settings[IN_SAMPLE_SPACE]:
            P0, c = matrix(s.P0, n, m), kind(now.plan[C])
            for i in range(first, last):
                a, p = A[i, start:stop], P0[i, start:stop]
                for j in range(len(a)):
                    a[j] += c * p[j]
    if l < len(s.layers) - 1:
        dropout = s.settings[DROPOUT] != 0 and s.keep_prob[l] < 1
        b = s.theta[bias : bias + n]
        g = s.layers[l, KIND]
        bias_activation(A, b, g, masks(s, l, now), dropout, first, last, start, stop)


def output(s: State, now: Now, part: int, parts: int) -> None:
    """dZ of the last layer and the loss, for this thread's examples."""
    l, m = len(s.layers) - 1, now.m
    n, bias = s.layers[l, UNITS], s.layers[l, BIASES]
    row = s.layers[l, ROW]
    s.losses[part] = output_gradient(
        activations(s, l, m),
        s.theta[bias : bias + n],
        matrix(s.Y_batch, n, m),
        s.layers[l, KIND],
        s.theta.dtype.type(now.plan[SCALE]),
        s.db[row : row + n],
        part,
        now.wanted,
        s.work,
        part * m // parts,
        (part + 1) * m // parts,
    )


def backward(s: State, now: Now, l: int, part: int, parts: int) -> None:
    """dZ[l-1] = W[l]ᵀ dZ[l] ∘ g'(Z[l-1])"""
    kind, m, before = s.theta.dtype.type, now.m, l - 1
    n, row = s.layers[before, UNITS], s.layers[before, ROW]
    W, dA = weights(s, s.theta, l), gradient(s, before, m)
    area = block(n, m, part, parts)
    no, yes = s.settings[NO], s.settings[YES]
    product(s.gemm, W, yes, gradient(s, l, m), no, dA, kind(1), kind(0), area)
    first, last, start, stop = area
    activation_gradient(
        dA,
        activations(s, before, m),
        s.layers[before, KIND],
        s.db[row : row + n],
        part,
        masks(s, before, now),
        kind(s.keep_prob[before]),
        s.settings[DROPOUT] != 0 and s.keep_prob[before] < 1,
        first,
        last,
        start,
        stop,
    )


def add_gradient(
    s: State, now: Now, l: int, into: Matrix, alpha: float, beta: float, area: Area
) -> None:
    """into ← α dZ[l] A[l-1]ᵀ + β into; in sample space the first layer's is dZ[1] itself."""
    m, dZ, no, yes = now.m, gradient(s, l, now.m), s.settings[NO], s.settings[YES]
    if l > 0:
        product(s.gemm, dZ, no, activations(s, l - 1, m), yes, into, alpha, beta, area)
    elif s.settings[IN_SAMPLE_SPACE]:
        first, last, start, stop = area
        scale_block(into, beta, area)
        for i in range(first, last):
            x, dz = into[i, start:stop], dZ[i, start:stop]
            for j in range(len(x)):
                x[j] += alpha * dz[j]
    else:
        transposed = yes - s.settings[EXAMPLES_FIRST]
        product(s.gemm, dZ, no, examples(s, m), transposed, into, alpha, beta, area)


def update(s: State, now: Now, l: int, part: int, parts: int) -> None:
    """W[l] and b[l] of this thread's block.

    Gradient descent adds the product to W at once, and momentum to V: no gradient is stored.
    """
    optimizer, kind = s.settings[OPTIMIZER], s.theta.dtype.type
    n, inputs = s.layers[l, UNITS], s.layers[l, INPUTS]
    rate, shrink, epsilon = kind(now.plan[RATE]), kind(now.plan[SHRINK]), kind(now.plan[EPSILON])
    one, beta1, beta2 = kind(1), kind(s.betas[0]), kind(s.betas[1])
    area = block(n, inputs, part, parts)
    first, last, start, stop = area
    W = weights(s, s.theta, l)
    if optimizer == SGD:
        add_gradient(s, now, l, W, -one, one - shrink, area)
    elif optimizer == MOMENTUM:
        V = weights(s, s.moments[0], l)
        add_gradient(s, now, l, V, one, beta1, area)
        for i in range(first, last):
            w, v = W[i, start:stop], V[i, start:stop]
            for j in range(len(w)):
                v[j] += shrink * w[j]
                w[j] -= rate * v[j]
    else:
        M, V, dW = weights(s, s.moments[0], l), weights(s, s.moments[1], l), weights(s, s.step, l)
        add_gradient(s, now, l, dW, one, kind(0), area)
        for i in range(first, last):
            w, dw = W[i, start:stop], dW[i, start:stop]
            if shrink != 0:
                for j in range(len(w)):
                    dw[j] += shrink * w[j]
            adam_update(w, dw, M[i, start:stop], V[i, start:stop], beta1, beta2, rate, epsilon)
    update_biases(s, now, l, part * n // parts, (part + 1) * n // parts)


def update_biases(s: State, now: Now, l: int, first: int, last: int) -> None:
    """b[l] of these units, from each thread's sum of their dZ."""
    optimizer, kind, row = s.settings[OPTIMIZER], s.theta.dtype.type, s.layers[l, ROW]
    rate, epsilon = kind(now.plan[RATE]), kind(now.plan[EPSILON])
    beta1, beta2 = kind(s.betas[0]), kind(s.betas[1])
    place = s.layers[l, BIASES]
    db = s.db[row : row + s.layers[l, UNITS]]
    for i in range(first, last):
        for part in range(1, db.shape[1]):
            db[i, 0] += db[i, part]
        at = slice(place + i, place + i + 1)
        if optimizer == SGD:
            s.theta[place + i] -= db[i, 0]
        elif optimizer == MOMENTUM:
            momentum_update(s.theta[at], db[i, :1], s.moments[0, at], beta1, rate)
        else:
            adam_update(
                s.theta[at],
                db[i, :1],
                s.moments[0, at],
                s.moments[1, at],
                beta1,
                beta2,
                rate,
                epsilon,
            )


# -------------------------------------------------------------------------------------- steps


def share(phase: int, s: State, now: Now, l: int, part: Any, parts: int) -> None:
    """One thread's part of a phase."""
    if phase == GATHER:
        gather(s, now, part, parts)
    elif phase == FORWARD:
        forward(s, now, l, part, parts)
    elif phase == OUTPUT:
        output(s, now, part, parts)
    elif phase == BACKWARD:
        backward(s, now, l, part, parts)
    else:
        for layer in range(len(s.layers)):
            update(s, now, layer, part, parts)


def squares(s: State) -> float:
    """Σ ‖W‖² over all layers"""
    total = 0.0
    for l in range(len(s.layers)):
        w = s.theta[s.layers[l, WEIGHTS] : s.layers[l, BIASES]]
        for j in range(len(w)):
            total += w[j] * w[j]
    return total


def train(s: State, plan: Matrix, sizes: Vector, order: Vector, l2: float, wanted: int) -> float:
    """A step for each row of `plan`; the mean cost of the first `wanted` of them.

    Parameters
    ----------
    plan : (steps, 5), a row for each `Now.plan`
    sizes : (steps,) examples of each step's batch
    order : the examples, batch after batch; empty where every batch is whole and in its place
    l2 : λ, to add to the cost; 0 in sample space, whose caller knows ‖W[1]‖²
    wanted : each of these steps counts by its examples
    """
    cost, counted, start, drawn = 0.0, 0, 0, 0
    units = s.layers[-1, ROW] + s.layers[-1, UNITS]
    for i in range(len(sizes)):
        m = sizes[i]
        chosen = order[start : start + m] if len(order) > 0 else order
        now = Now(m, chosen, drawn, plan[i], i < wanted)
        for k in range(len(s.losses)):
            s.losses[k] = 0
            for unit in range(units):
                s.db[unit, k] = 0
        if now.wanted and l2 > 0:
            cost += l2 / 2 * squares(s)
        for k in range(len(s.phases)):
            phase, l = s.phases[k, PHASE], s.phases[k, LAYER]
            work = s.phases[k, PER_EXAMPLE] * m + s.phases[k, FIXED]
            parts = s.settings[THREADS] if work >= WORTH_SHARING else s.settings[YES]
            if parts == 1:
                share(phase, s, now, l, parts - 1, parts)
            else:
                for part in prange(parts):  # whose numbers are unsigned
                    share(phase, s, now, l, np.int64(part), parts)
        if now.wanted:
            counted += m
            for k in range(len(s.losses)):
                cost += s.losses[k]
        start += m
        drawn += units * m
    return cost / max(counted, 1)
