"""Steps of gradient descent as one compiled call: any depth, any optimizer, whole batches,
mini-batches and sample space, on one thread or several.

A step is a sequence of phases: forward and backward layer by layer, then the update of all layers.
The threads share each phase by blocks of its result and wait for one another after it. Products
come from BLAS, on one thread each, because BLAS's own threads would compete with these for the
cores; some thin products are loops.
"""

from typing import Any, NamedTuple

import numpy as np

from .blas import gemm
from .fused import (
    MOMENTUM,
    SGD,
    Area,
    activation_gradient,
    bias_activation,
    optimizer_step,
    output_gradient,
)

Vector = Any  # 1-D and contiguous
Matrix = Any  # 2-D and C-contiguous

prange = range

# Numba compiles a function again for each literal argument, so values that select a case come from
# arrays. Each level of calls costs a second or two of compiling, and so does each assignment to a
# slice, for the error that it might raise.

# the columns of `State.layers`, a row for each layer
UNITS, INPUTS, WEIGHTS, BIASES, ROW, KIND = range(6)
# the columns of `State.plan`, a row for each step
RATE, SCALE, SHRINK, EPSILON, C = range(5)
# `State.settings`
OPTIMIZER, IN_SAMPLE_SPACE, EXAMPLES_FIRST, DROPOUT, THREADS, LOOPS, NO, YES = range(8)
# the columns of `State.phases`, a row for each phase of a step, and the phases
PHASE, LAYER, PER_EXAMPLE, FIXED = range(4)
GATHER, FORWARD, OUTPUT, BACKWARD, UPDATE = range(5)

# Multiply-adds from which a phase is shared. One thread does 10,000 to 20,000 in a microsecond.
# Starting and joining threads takes 1.5 us once each has a core, which takes 10 ms after a pause.
WORTH_SHARING = 1_000_000
# Products with fewer than THIN rows, columns or terms, rows of at least LONG elements and fewer
# than LARGE multiply-adds are loops, unless BLAS has kernels for them. With OpenBLAS for AVX2,
# loops took 0.7 to 0.75 of the time of planar, cat-2layer and football, but 1.2 of the time of
# [13, 100, 3] on batches of 32. With OpenBLAS for AVX-512, they took 1.05 to 1.4 of the time.
THIN, LONG, LARGE = 9, 64, 1_000_000
# Multiply-adds up to which BLAS uses one thread whatever its settings
SERIAL_IN_BLAS = 100_000
MANY = 512  # columns from which a matrix with fewer rows is cut across its columns


class State(NamedTuple):
    """A training under way, in flat arrays, so that one compiled form serves any depth."""

    gemm: int  # address of BLAS's product for the dtype
    settings: Vector  # (8,) int64: OPTIMIZER ... THREADS; LOOPS for thin products; NO = 0, YES = 1
    phases: Matrix  # (phases, 4) int64: PHASE, its LAYER, its multiply-adds PER_EXAMPLE and FIXED
    # (L, 6) int64: UNITS n_l, INPUTS n_{l-1} (in sample space the first has m), WEIGHTS and BIASES
    # (where W and b begin in theta), ROW (its first unit among all units), KIND
    layers: Matrix
    keep_prob: Vector  # (L,) of dropout, 1 where a layer has none
    betas: Vector  # (2,) of the optimizer
    theta: Vector  # the flat parameters; in sample space S is in the place of W[1]
    step: Vector  # the gradient, for optimizers that need it whole, else empty
    moments: Matrix  # (2, parameters), M and V, or (2, 0)
    X: Vector  # the examples to gather batches from, (m, n_0) flat; empty for whole batches
    Y: Vector  # (m, n_L) flat, likewise
    X_batch: Vector  # of a step: (n_0, m) or, with EXAMPLES_FIRST, (m, n_0); in sample space G
    Y_batch: Vector  # (n_L, m)
    P0: Vector  # W⁰ X of sample space, else empty
    A: Vector  # activations, all units by examples; the last layer's logits become its dZ
    dA: Vector  # dZ of the other layers
    D: Vector  # for each step of a call, the masks of all units by examples
    db: Matrix  # (all units, threads) sums of dZ over each thread's examples
    work: Matrix  # (2, examples) for the softmax
    losses: Vector  # (threads,) of a step


class Now(NamedTuple):
    """One step."""

    m: int  # examples of its batch
    order: Vector  # (m,) their indices
    masks: int  # offset of its masks in D
    # (5,) float64: RATE α; SCALE, a factor of dZ; SHRINK, λ · SCALE; EPSILON of Adam; C of sample
    # space
    plan: Vector
    recorded: bool  # whether to compute the loss


def matrix(flat: Vector, rows: int, columns: int) -> Matrix:
    """The beginning of `flat` as a (rows, columns) matrix."""
    return flat[: rows * columns].reshape(rows, columns)


def block(rows: int, columns: int, part: int, parts: int) -> Area:
    """A part of a matrix: some of its rows, along which loops run, or of its columns if many more.

    Each part reads all of the other operand, which BLAS packs each time.
    """
    if rows >= columns or (columns < MANY and rows >= 2 * parts):
        return part * rows // parts, (part + 1) * rows // parts, 0, columns
    return 0, rows, part * columns // parts, (part + 1) * columns // parts


def product(
    s: State,
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
    thin = s.settings[LOOPS] != 0 and min(rows, columns, depth) < THIN
    if B_transposed != 0 and thin and depth >= LONG:
        inner_products(A, B, C, alpha, beta, area)
    elif B_transposed == 0 and thin and columns >= LONG and rows * columns * depth < LARGE:
        sums_of_rows(A, A_transposed, B, C, alpha, beta, area)
    else:
        gemm(s.gemm, A, A_transposed, B, B_transposed, C, alpha, beta, area)


def inner_products(A: Matrix, B: Matrix, C: Matrix, alpha: float, beta: float, area: Area) -> None:
    """C ← α A Bᵀ + β C within `area`, two rows of both at a time: one took 1.4 of the time."""
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
    """C[i, p] ← α value + β C[i, p]; if β is 0, C may hold anything."""
    C[i, p] = alpha * value + (beta * C[i, p] if beta != 0 else beta)


def sums_of_rows(
    A: Matrix, transposed: int, B: Matrix, C: Matrix, alpha: float, beta: float, area: Area
) -> None:
    """C ← α A B + β C within `area`, by two rows of C (one took 1.1 to 1.2 the time), four of B."""
    first, last, start, stop = area
    depth = len(B)
    fours = depth - depth % 4
    for i in range(first, last, 2):
        up = min(i + 1, last - 1)
        for k in range(i, up + 1):
            c = C[k, start:stop]
            for j in range(len(c)):
                c[j] = beta * c[j] if beta != 0 else beta
        c, d = C[i, start:stop], C[up, start:stop]
        for p in range(0, fours, 4):
            b0, b1 = B[p, start:stop], B[p + 1, start:stop]
            b2, b3 = B[p + 2, start:stop], B[p + 3, start:stop]
            x0, x1 = factor(A, transposed, i, p, alpha), factor(A, transposed, i, p + 1, alpha)
            x2, x3 = factor(A, transposed, i, p + 2, alpha), factor(A, transposed, i, p + 3, alpha)
            y0, y1 = factor(A, transposed, up, p, alpha), factor(A, transposed, up, p + 1, alpha)
            y2 = factor(A, transposed, up, p + 2, alpha)
            y3 = factor(A, transposed, up, p + 3, alpha)
            if up > i:
                for j in range(len(c)):
                    c[j] += x0 * b0[j] + x1 * b1[j] + x2 * b2[j] + x3 * b3[j]
                    d[j] += y0 * b0[j] + y1 * b1[j] + y2 * b2[j] + y3 * b3[j]
            else:
                for j in range(len(c)):
                    c[j] += x0 * b0[j] + x1 * b1[j] + x2 * b2[j] + x3 * b3[j]
        for p in range(fours, depth, 2):  # beyond the last row of B the factor is 0
            b0, b1 = B[p, start:stop], B[min(p + 1, depth - 1), start:stop]
            x0, x1 = factor(A, transposed, i, p, alpha), factor(A, transposed, i, p + 1, alpha)
            y0, y1 = factor(A, transposed, up, p, alpha), factor(A, transposed, up, p + 1, alpha)
            if up > i:
                for j in range(len(c)):
                    c[j] += x0 * b0[j] + x1 * b1[j]
                    d[j] += y0 * b0[j] + y1 * b1[j]
            else:
                for j in range(len(c)):
                    c[j] += x0 * b0[j] + x1 * b1[j]


def factor(A: Matrix, transposed: int, i: int, p: int, alpha: float) -> float:
    """α A[i, p] of A or of its transpose; 0 beyond the last p"""
    if transposed:
        return alpha * A[p, i] if p < A.shape[0] else type(alpha)(0)
    return alpha * A[i, p] if p < A.shape[1] else type(alpha)(0)


# --------------------------------------------------------------- the phases, a thread's share


def activations(s: State, l: int, m: int) -> Matrix:
    """A[l] (n_l, m) of this step."""
    return matrix(s.A[s.layers[l, ROW] * m :], s.layers[l, UNITS], m)


def gradient(s: State, l: int, m: int) -> Matrix:
    """dZ[l] (n_l, m); that of the last layer replaces its logits."""
    flat = s.A if l == len(s.layers) - 1 else s.dA
    return matrix(flat[s.layers[l, ROW] * m :], s.layers[l, UNITS], m)


def masks(s: State, l: int, now: Now) -> Matrix:
    """D[l] (n_l, m); without dropout any matrix, because Numba needs one."""
    if s.settings[DROPOUT] == 0:
        return activations(s, l, now.m)
    return matrix(s.D[now.masks + s.layers[l, ROW] * now.m :], s.layers[l, UNITS], now.m)


def weights(s: State, flat: Vector, l: int) -> Matrix:
    """W[l] (n_l, n_{l-1}) in theta or an array like it."""
    return matrix(flat[s.layers[l, WEIGHTS] :], s.layers[l, UNITS], s.layers[l, INPUTS])


def examples(s: State, m: int) -> Matrix:
    """The first layer's input: (n_0, m), (m, n_0) with EXAMPLES_FIRST, or G."""
    inputs = s.layers[0, INPUTS]
    if s.settings[EXAMPLES_FIRST]:
        return matrix(s.X_batch, m, inputs)
    return matrix(s.X_batch, inputs, m)


def gather(s: State, now: Now, part: int, parts: int) -> None:
    """Copy this thread's examples of the batch."""
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
    """A[l] = g(W[l] A[l-1] + b[l]); for the last layer the logits without their bias."""
    kind, m, no = s.theta.dtype.type, now.m, s.settings[NO]
    n, bias = s.layers[l, UNITS], s.layers[l, BIASES]
    W, A = weights(s, s.theta, l), activations(s, l, m)
    area = block(n, m, part, parts)
    if l > 0:
        product(s, W, no, activations(s, l - 1, m), no, A, kind(1), kind(0), area)
    else:
        transposed = s.settings[EXAMPLES_FIRST]
        product(s, W, no, examples(s, m), transposed, A, kind(1), kind(0), area)
        if s.settings[IN_SAMPLE_SPACE]:
            P0, c = matrix(s.P0, n, m), kind(now.plan[C])
            first, last, start, stop = area
            for i in range(first, last):
                a, p = A[i, start:stop], P0[i, start:stop]
                for j in range(len(a)):
                    a[j] += c * p[j]
    if l < len(s.layers) - 1:
        dropout = s.settings[DROPOUT] != 0 and s.keep_prob[l] < 1
        b, g = s.theta[bias : bias + n], s.layers[l, KIND]
        bias_activation(A, b, g, masks(s, l, now), dropout, area)


def output(s: State, now: Now, part: int, parts: int) -> None:
    """dZ of the last layer and the loss, for this thread's examples."""
    l, m = len(s.layers) - 1, now.m
    n, bias, row = s.layers[l, UNITS], s.layers[l, BIASES], s.layers[l, ROW]
    Z, b, Y = activations(s, l, m), s.theta[bias : bias + n], matrix(s.Y_batch, n, m)
    kind, scale = s.layers[l, KIND], s.theta.dtype.type(now.plan[SCALE])
    db, start, stop = s.db[row : row + n, part], part * m // parts, (part + 1) * m // parts
    loss = output_gradient(Z, b, Y, kind, scale, db, now.recorded, s.work, start, stop)
    s.losses[part] = loss


def backward(s: State, now: Now, l: int, part: int, parts: int) -> None:
    """dZ[l-1] = W[l]ᵀ dZ[l] ∘ g'(Z[l-1])"""
    kind, m, before = s.theta.dtype.type, now.m, l - 1
    n, row = s.layers[before, UNITS], s.layers[before, ROW]
    W, dA = weights(s, s.theta, l), gradient(s, before, m)
    area = block(n, m, part, parts)
    no, yes = s.settings[NO], s.settings[YES]
    product(s, W, yes, gradient(s, l, m), no, dA, kind(1), kind(0), area)
    A, D, db = activations(s, before, m), masks(s, before, now), s.db[row : row + n, part]
    dropout = s.settings[DROPOUT] != 0 and s.keep_prob[before] < 1
    g, keep_prob = s.layers[before, KIND], kind(s.keep_prob[before])
    activation_gradient(dA, A, g, db, D, keep_prob, dropout, area)


def add_gradient(
    s: State, now: Now, l: int, into: Matrix, alpha: float, beta: float, area: Area
) -> None:
    """into ← α dZ[l] A[l-1]ᵀ + β into; in sample space the first layer's gradient is dZ[1]."""
    m, dZ, no, yes = now.m, gradient(s, l, now.m), s.settings[NO], s.settings[YES]
    if l > 0:
        product(s, dZ, no, activations(s, l - 1, m), yes, into, alpha, beta, area)
    elif s.settings[IN_SAMPLE_SPACE]:
        first, last, start, stop = area
        for i in range(first, last):
            x, dz = into[i, start:stop], dZ[i, start:stop]
            for j in range(len(x)):
                x[j] = beta * x[j] + alpha * dz[j]
    else:
        transposed = yes - s.settings[EXAMPLES_FIRST]
        product(s, dZ, no, examples(s, m), transposed, into, alpha, beta, area)


def update(s: State, now: Now, l: int, part: int, parts: int) -> None:
    """W[l] of this thread's block, and b[l] of its units, from each thread's sum of their dZ.

    Gradient descent adds the product directly to W, and momentum to M: no gradient is stored.
    """
    optimizer, kind = s.settings[OPTIMIZER], s.theta.dtype.type
    n, inputs, bias = s.layers[l, UNITS], s.layers[l, INPUTS], s.layers[l, BIASES]
    one, shrink, rate = kind(1), kind(now.plan[SHRINK]), kind(now.plan[RATE])
    numbers = kind(s.betas[0]), kind(s.betas[1]), rate, kind(now.plan[EPSILON])
    area = block(n, inputs, part, parts)
    first, last, start, stop = area
    W = weights(s, s.theta, l)
    if optimizer == SGD:
        add_gradient(s, now, l, W, -one, one - shrink, area)
    elif optimizer == MOMENTUM:
        M = weights(s, s.moments[0], l)
        add_gradient(s, now, l, M, one, numbers[0], area)
        for i in range(first, last):
            w, v = W[i, start:stop], M[i, start:stop]
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
            optimizer_step(optimizer, w, dw, M[i, start:stop], V[i, start:stop], numbers)
    db = s.db[s.layers[l, ROW] :]
    for i in range(part * n // parts, (part + 1) * n // parts):
        for other in range(1, db.shape[1]):
            db[i, 0] += db[i, other]
        at = slice(bias + i, bias + i + 1)
        b, M_b, V_b = s.theta[at], s.moments[0, at], s.moments[1, at]
        optimizer_step(optimizer, b, db[i, :1], M_b, V_b, numbers)


# -------------------------------------------------------------------------------------- steps


def share(phase: int, s: State, now: Now, l: int, part: Any, parts: int) -> None:
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


def train(s: State, plan: Matrix, sizes: Vector, order: Vector, l2: float, recorded: int) -> float:
    """A step for each row of `plan`; returns the mean cost per example of the first `recorded`.

    plan : (steps, 5), a `Now.plan` for each step
    sizes : (steps,) examples of each step's batch
    order : indices of the examples, batch after batch; empty if all batches are whole
    l2 : λ, to add to the cost; 0 in sample space, where the caller adds it
    """
    cost, counted, start, drawn = 0.0, 0, 0, 0
    units = s.layers[-1, ROW] + s.layers[-1, UNITS]
    for i in range(len(sizes)):
        m = sizes[i]
        chosen = order[start : start + m] if len(order) > 0 else order
        now = Now(m, chosen, drawn, plan[i], i < recorded)
        for k in range(len(s.losses)):
            s.losses[k] = 0
            for unit in range(units):
                s.db[unit, k] = 0
        if now.recorded and l2 > 0:
            cost += l2 / 2 * squares(s)
        for k in range(len(s.phases)):
            phase, l = s.phases[k, PHASE], s.phases[k, LAYER]
            work = s.phases[k, PER_EXAMPLE] * m + s.phases[k, FIXED]
            parts = s.settings[THREADS] if work >= WORTH_SHARING else s.settings[YES]
            if parts == 1:
                share(phase, s, now, l, parts - 1, parts)
            else:
                for part in prange(parts):  # prange counts in unsigned integers
                    share(phase, s, now, l, np.int64(part), parts)
        if now.recorded:
            counted += m
            for k in range(len(s.losses)):
                cost += s.losses[k]
        start += m
        drawn += units * m
    return cost / max(counted, 1)
