// A training step without its matrix products, for accelnn/solvers/captured.py: kernels for a CUDA
// graph. Values that change from step to step are read from device memory, not passed as arguments.
//
// Arrays of a batch hold an example's units side by side: element (unit i, example j) of an (n, m)
// array is at [j * stride + i]. Gathered examples lie like this, and the epilogues of cuBLASLt need
// it. Parameters are laid out as in accelnn.Parameters.

#include "common.cuh"

// The type of a product's operands; bfloat16 is the upper half of a float, rounded to even.
#ifdef BFLOAT16
typedef unsigned short OPERAND;

DEVICE OPERAND to_operand(float x)
{
    unsigned int bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return bits >> 16 | 0x40; // NaN stays NaN
    return (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
}

DEVICE float from_operand(OPERAND x)
{
    const unsigned int bits = (unsigned int)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
#else
typedef REAL OPERAND;

DEVICE REAL to_operand(REAL x) { return x; }
DEVICE REAL from_operand(REAL x) { return x; }
#endif

// Loops over the units and the examples of this thread; neighbouring threads have neighbouring units.
#define EACH(i, n, axis)                                                                         \
    for (long long i = (long long)blockIdx.axis * blockDim.axis + threadIdx.axis; i < (n);       \
         i += (long long)gridDim.axis * blockDim.axis)
#define EACH_UNIT(i, n) EACH(i, n, x)
#define EACH_EXAMPLE(j, m) EACH(j, m, y)

// Elements of `steps`: the plan's rows for the next and the present step, and the number of steps
// before the plan. A step's first kernel copies NEXT to NOW, its last one advances NEXT.
enum { NEXT, NOW, BEFORE };

DEVICE bool first_thread() { return blockIdx.x + blockIdx.y + threadIdx.x + threadIdx.y == 0; }

// ------------------------------------------------------------------------------- start of a step

extern "C" __global__ void begin_step(long long* steps)
{
    if (first_thread())
        steps[NOW] = steps[NEXT];
}

// Copies rows `chosen` of `from`, n apart, to the rows of `to`, `stride` apart.
template <typename T>
DEVICE void gather_rows(
    const T* from, const long long* chosen, T* to, long long n, long long stride, long long m)
{
    EACH_EXAMPLE(j, m) {
        const T* const row = from + chosen[j] * n;
        EACH_UNIT(i, n) to[j * stride + i] = row[i];
    }
}

// X and Y of a batch: the examples order[step * batch_size], ... of X_rows and Y_rows
extern "C" __global__ void gather(
    const OPERAND* X_rows, const REAL* Y_rows, const long long* order, long long* steps,
    long long batch_size, long long n, long long outputs, long long m, OPERAND* X,
    long long stride, REAL* Y)
{
    typedef Pack<PACK> Wide;
    constexpr int WIDE = sizeof(Wide) / sizeof(OPERAND);
    const long long* const chosen = order + steps[NEXT] * batch_size;
    if (n % WIDE == 0 && stride % WIDE == 0 && aligned(X_rows) && aligned(X))
        gather_rows(reinterpret_cast<const Wide*>(X_rows), chosen, reinterpret_cast<Wide*>(X),
                    n / WIDE, stride / WIDE, m);
    else
        gather_rows(X_rows, chosen, X, n, stride, m);
    gather_rows(Y_rows, chosen, Y, outputs, outputs, m);
    if (first_thread())
        steps[NOW] = steps[NEXT];
}

// -------------------------------------------------------------------------- forward and backward

DEVICE REAL kept(
    unsigned long long seed, const long long* steps, int layer, long long index, REAL keep)
{
    return keep < 1 ? dropout(seed, steps[BEFORE] + steps[NOW], layer, index, keep) : REAL(1);
}

// A = g(Z + b) D, with the dropout mask D of `layer`, 0 for the first hidden one. Z may be A.
extern "C" __global__ void activation(
    const REAL* Z, const REAL* b, OPERAND* A, long long n, long long m, long long stride, int kind,
    int layer, REAL keep, unsigned long long seed, const long long* steps)
{
    EACH_EXAMPLE(j, m) EACH_UNIT(i, n) {
        const REAL a = activate(Z[j * stride + i] + b[i], kind);
        A[j * stride + i] = to_operand(a * kept(seed, steps, layer, i * m + j, keep));
    }
}

// dZ = dA D g'(Z), from A = g(Z) D, which is g(Z) / keep if a unit was kept; if it was dropped, D
// makes dZ 0. dA may be dZ.
extern "C" __global__ void activation_gradient(
    const REAL* dA, const OPERAND* A, OPERAND* dZ, long long n, long long m, long long stride,
    int kind, int layer, REAL keep, unsigned long long seed, const long long* steps)
{
    EACH_EXAMPLE(j, m) EACH_UNIT(i, n) {
        const REAL a = keep * from_operand(A[j * stride + i]);
        const REAL D = kept(seed, steps, layer, i * m + j, keep);
        dZ[j * stride + i] = to_operand(dA[j * stride + i] * D * slope(a, kind));
    }
}

// dZ = (g(Z + b) - Y) scale; the loss is added to `losses`, which has a number per block. `lanes`
// neighbouring threads, a power of two up to 32, share an example. Element (i, j) of Y is at
// [i * Y_unit + j * Y_example]. dZ may be Z. Shared memory: a REAL per warp.
extern "C" __global__ void output_gradient(
    const REAL* Z, const REAL* b, const REAL* Y, long long Y_unit, long long Y_example,
    OPERAND* dZ, long long n, long long m, long long stride, int kind, REAL scale, int lanes,
    double* losses)
{
    SHARED(REAL, partial);
    const int lane = threadIdx.x % lanes;
    const long long at_once = (long long)gridDim.x * blockDim.x / lanes;
    long long j = ((long long)blockIdx.x * blockDim.x + threadIdx.x) / lanes;
    REAL loss = 0;
    // All lanes of a warp take part in its shuffles, so all loop equally often.
    for (long long done = 0; done < m; done += at_once, j += at_once) {
        const int units = j < m ? n : 0;
        auto logit = [&](int i) { return Z[j * stride + i] + b[i]; };
        Softmax all = {0, 1};
        if (kind == SOFTMAX)
            all = softmax_of(units, lanes, logit);
        __syncwarp(); // all lanes have read Z, which may be dZ
        for (int i = lane; i < units; i += lanes) {
            const REAL z = logit(i), y = Y[i * Y_unit + j * Y_example];
            loss += output_loss(z, y, kind, all);
            dZ[j * stride + i] = to_operand(output_error(z, y, kind, all) * scale);
        }
    }
    loss = block_sum(loss, partial);
    if (threadIdx.x == 0)
        losses[blockIdx.x] += loss;
}

// db = dZ summed over the examples. gridDim.y blocks share the examples of blockDim.x units; the last
// one to finish adds up all partial sums, in order. `parts`: gridDim.y rows of n; `counters`:
// gridDim.x zeros. Shared memory: a REAL per thread; blockDim.y is a power of two.
extern "C" __global__ void bias_gradient(
    const OPERAND* dZ, REAL* db, long long n, long long m, long long stride, REAL* parts,
    unsigned int* counters)
{
    SHARED(REAL, sums);
    REAL* const mine = sums + threadIdx.y * blockDim.x + threadIdx.x;
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    REAL sum = 0;
    if (i < n) {
#pragma unroll 8
        EACH_EXAMPLE(j, m) sum += from_operand(dZ[j * stride + i]);
    }
    *mine = sum;
    for (unsigned int rows = blockDim.y / 2; rows > 0; rows /= 2) {
        __syncthreads();
        if (threadIdx.y < rows)
            *mine += mine[rows * blockDim.x];
    }
    const bool first_row = threadIdx.y == 0 && i < n;
    if (first_row)
        parts[blockIdx.y * n + i] = *mine;
    if (comes_last(counters + blockIdx.x, gridDim.y) && first_row) {
        sum = 0;
        for (unsigned int part = 0; part < gridDim.y; ++part)
            sum += __ldcg(parts + part * n + i);
        db[i] = sum;
    }
}

// ---------------------------------------------------------------------------------------- update

enum Optimizer { SGD, MOMENTUM, HEAVYBALL, NESTEROV, ADAM };

// The update of all parameters at once. `gradient` is that of the mean loss, for MOMENTUM and ADAM
// times 1 - beta1. With L2, `decay` W is added to it and `penalty` Σ W² to `losses`, which has a number per block; `is_weight`
// distinguishes W from b. `operands` receives the new parameters as products read them, if that is
// another array. M and V may be any arrays if an optimizer has none. All arrays begin at a multiple
// of 16 bytes. The rows of `plan` are α and ε. Shared memory: a REAL per warp.
struct Update {
    REAL* theta;
    const REAL* gradient;
    long long count;
    REAL decay, penalty;
    const unsigned char* is_weight;
    OPERAND* operands;
    double* losses;
    const REAL* plan;
    long long* steps;
    REAL beta1, beta2, *M, *V;
};

template <int COUNT>
struct __align__(COUNT * sizeof(OPERAND)) Operands {
    OPERAND at[COUNT];
};

// Updates COUNT parameters from i * COUNT on; returns Σ W² of the weights among them, with L2.
template <int OPTIMIZER, int COUNT>
DEVICE REAL update_some(const Update& u, REAL rate, REAL epsilon, long long i)
{
    typedef Pack<COUNT> Some;
    Some x = reinterpret_cast<Some*>(u.theta)[i];
    Some step = reinterpret_cast<const Some*>(u.gradient)[i], m, v;
    if (OPTIMIZER != SGD)
        m = reinterpret_cast<Some*>(u.M)[i];
    if (OPTIMIZER == ADAM)
        v = reinterpret_cast<Some*>(u.V)[i];
    const REAL factor = (1 - u.beta2) / ((1 - u.beta1) * (1 - u.beta1));
    REAL squares = 0;
#pragma unroll
    for (int k = 0; k < COUNT; ++k) {
        REAL &p = x.at[k], &s = step.at[k];
        if (u.decay != 0 && u.is_weight[i * COUNT + k]) {
            squares += p * p;
            s += u.decay * p;
        }
        if (OPTIMIZER == SGD) {
            p -= rate * s;
        } else if (OPTIMIZER == MOMENTUM) {
            p -= momentum_step(s, m.at[k], u.beta1, rate);
        } else if (OPTIMIZER == HEAVYBALL || OPTIMIZER == NESTEROV) {
            m.at[k] = u.beta1 * m.at[k] + rate * s;
            p -= OPTIMIZER == HEAVYBALL ? m.at[k] : u.beta1 * m.at[k] + rate * s;
        } else { // rate and epsilon are corrected for bias
            m.at[k] = u.beta1 * m.at[k] + s;
            v.at[k] = u.beta2 * v.at[k] + factor * (s * s);
            p -= rate * m.at[k] / (sqrt(v.at[k]) + epsilon);
        }
    }
    reinterpret_cast<Some*>(u.theta)[i] = x;
    if (OPTIMIZER != SGD)
        reinterpret_cast<Some*>(u.M)[i] = m;
    if (OPTIMIZER == ADAM)
        reinterpret_cast<Some*>(u.V)[i] = v;
#ifdef BFLOAT16
    Operands<COUNT> read;
#pragma unroll
    for (int k = 0; k < COUNT; ++k)
        read.at[k] = to_operand(x.at[k]);
    reinterpret_cast<Operands<COUNT>*>(u.operands)[i] = read;
#endif
    return squares;
}

template <int OPTIMIZER>
DEVICE void update_all(const Update& u, REAL* partial)
{
    const long long now = u.steps[NOW], packs = u.count / PACK;
    const REAL rate = u.plan[2 * now], epsilon = u.plan[2 * now + 1];
    REAL squares = 0;
    EACH_UNIT(i, packs) squares += update_some<OPTIMIZER, PACK>(u, rate, epsilon, i);
    EACH_UNIT(i, u.count % PACK)
        squares += update_some<OPTIMIZER, 1>(u, rate, epsilon, packs * PACK + i);
    if (u.decay != 0) {
        squares = block_sum(squares, partial);
        if (threadIdx.x == 0)
            u.losses[blockIdx.x] += u.penalty * squares;
    }
    if (first_thread())
        u.steps[NEXT] = now + 1;
}

#define UPDATE(name, OPTIMIZER)                                                                \
    extern "C" __global__ void name(                                                           \
        REAL* theta, const REAL* gradient, long long count, REAL decay, REAL penalty,          \
        const unsigned char* is_weight, OPERAND* operands, double* losses, const REAL* plan,   \
        long long* steps, REAL beta1, REAL beta2, REAL* M, REAL* V)                            \
    {                                                                                          \
        SHARED(REAL, partial);                                                                 \
        update_all<OPTIMIZER>({theta, gradient, count, decay, penalty, is_weight, operands,    \
                               losses, plan, steps, beta1, beta2, M, V}, partial);             \
    }
UPDATE(sgd_update, SGD)
UPDATE(momentum_update, MOMENTUM)
UPDATE(heavyball_update, HEAVYBALL)
UPDATE(nesterov_update, NESTEROV)
UPDATE(adam_update, ADAM)

// ---------------------------------------------------------------------------- outside of the steps

// A copy in the type of a product's operands
extern "C" __global__ void to_operands(const REAL* from, OPERAND* to, long long count)
{
    EACH_UNIT(i, count) to[i] = to_operand(from[i]);
}

// The dropout mask D (n_l, m) of a layer at a step, `count` numbers, for vectorised solvers
extern "C" __global__ void draw_mask(
    REAL* D, long long count, REAL keep, unsigned long long seed, long long step, int layer)
{
    EACH_UNIT(group, (count + 3) / 4) {
        const Words words = dropout_words(seed, step, layer, group);
        for (int k = 0; k < 4 && 4 * group + k < count; ++k)
            D[4 * group + k] = kept_or_not(words.at[k], keep);
    }
}
