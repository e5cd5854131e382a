// The four operations of accelnn/operations.py, each in one launch, and the masks of dropout.
//
// Matrices are C-contiguous, columns are examples. Where rows can be read by packs of 16 bytes they
// are. A sum over examples is taken in an order that depends on the launch alone.

#include "common.cuh"

// ----------------------------------------------------------------------------- bias and activation
// Threads along x go along a row, those along y have a row each.

template <int KIND, int COUNT>
DEVICE void activate_rows(REAL* Z, const REAL* b, const REAL* D, int n, int m)
{
    typedef Pack<COUNT> Part;
    const int parts = m / COUNT;
    for (int i = blockIdx.y * blockDim.y + threadIdx.y; i < n; i += gridDim.y * blockDim.y) {
        const REAL bias = b[i];
        const long long row = (long long)i * m;
        Part* z = reinterpret_cast<Part*>(Z + row);
        const Part* d = reinterpret_cast<const Part*>(D + row);
        for (int j = blockIdx.x * blockDim.x + threadIdx.x; j < parts;
             j += gridDim.x * blockDim.x) {
            Part part = z[j];
#pragma unroll
            for (int k = 0; k < COUNT; ++k)
                part.at[k] = activate(part.at[k] + bias, KIND);
            if (D != nullptr) {
                const Part kept = d[j];
#pragma unroll
                for (int k = 0; k < COUNT; ++k)
                    part.at[k] *= kept.at[k];
            }
            z[j] = part;
        }
    }
}

template <int KIND>
DEVICE void activate_packed(REAL* Z, const REAL* b, const REAL* D, int n, int m)
{
    if (m % PACK == 0 && aligned(Z) && aligned(D))
        activate_rows<KIND, PACK>(Z, b, D, n, m);
    else
        activate_rows<KIND, 1>(Z, b, D, n, m);
}

// Z <- g(Z + b), and Z <- Z * D where there is a D.
extern "C" __global__ void __launch_bounds__(256)
bias_activation(REAL* __restrict__ Z, const REAL* __restrict__ b, const REAL* __restrict__ D, int n,
                int m, int kind)
{
    switch (kind) {
    case SIGMOID: return activate_packed<SIGMOID>(Z, b, D, n, m);
    case TANH: return activate_packed<TANH>(Z, b, D, n, m);
    case RELU: return activate_packed<RELU>(Z, b, D, n, m);
    case LEAKY_RELU: return activate_packed<LEAKY_RELU>(Z, b, D, n, m);
    }
    __trap();
}

// ----------------------------------------------------------------------------- derivative, its sum
// Threads along x go along a row, those along y have a row each. Where a row is shared by several
// blocks, that one of them which comes last adds up their sums.

template <int KIND, int COUNT>
DEVICE REAL multiply_by_slope(REAL* dA, const REAL* A, const REAL* D, int m, REAL keep)
{
    typedef Pack<COUNT> Part;
    Part* da = reinterpret_cast<Part*>(dA);
    const Part* a = reinterpret_cast<const Part*>(A);
    const Part* d = reinterpret_cast<const Part*>(D);
    const int parts = m / COUNT;
    REAL sum = 0;
    for (int j = blockIdx.x * blockDim.x + threadIdx.x; j < parts; j += gridDim.x * blockDim.x) {
        Part part = da[j];
        const Part output = a[j];
        if (D != nullptr) {
            const Part kept = d[j];
#pragma unroll
            for (int k = 0; k < COUNT; ++k)
                part.at[k] *= kept.at[k];
        }
#pragma unroll
        for (int k = 0; k < COUNT; ++k) {
            part.at[k] *= slope(keep * output.at[k], KIND);
            sum += part.at[k];
        }
        da[j] = part;
    }
    return sum;
}

template <int KIND>
DEVICE void gradient_rows(REAL* dA, const REAL* A, const REAL* D, REAL* db, REAL* partial,
                          unsigned int* counters, int n, int m, REAL keep)
{
    SHARED(REAL, shared);
    const bool packed = m % PACK == 0 && aligned(dA) && aligned(A) && aligned(D);
    const int warps = blockDim.x / WARP, parts = gridDim.x;
    for (int first = blockIdx.y * blockDim.y; first < n; first += gridDim.y * blockDim.y) {
        const int i = first + threadIdx.y;
        const long long row = (long long)i * m;
        const REAL* d = D == nullptr ? D : D + row;
        REAL sum = 0;
        if (i < n)
            sum = packed ? multiply_by_slope<KIND, PACK>(dA + row, A + row, d, m, keep)
                         : multiply_by_slope<KIND, 1>(dA + row, A + row, d, m, keep);
        sum = sum_over_warps(sum, warps, shared);
        if (parts > 1) {
            if (threadIdx.x == 0 && i < n)
                partial[(long long)i * parts + blockIdx.x] = sum;
            if (!comes_last(&counters[first / blockDim.y], parts))
                continue;
            sum = 0;
            if (i < n)
                for (int part = threadIdx.x; part < parts; part += blockDim.x)
                    sum += __ldcg(&partial[(long long)i * parts + part]);
            sum = sum_over_warps(sum, warps, shared);
        }
        if (threadIdx.x == 0 && i < n)
            db[i] = sum;
    }
}

// dA <- dZ = dA * D * g'(Z), where A is g(Z) / keep wherever D is not 0; db <- sum of dZ over the
// examples. Where gridDim.x > 1: partial has n * gridDim.x numbers, and there is a counter, 0, for
// each blockDim.y rows. Shared memory: a number for each warp.
extern "C" __global__ void __launch_bounds__(256)
activation_gradient(REAL* __restrict__ dA, const REAL* __restrict__ A, const REAL* __restrict__ D,
                    REAL* __restrict__ db, REAL* partial, unsigned int* counters, int n, int m,
                    int kind, REAL keep)
{
    switch (kind) {
    case SIGMOID: return gradient_rows<SIGMOID>(dA, A, D, db, partial, counters, n, m, keep);
    case TANH: return gradient_rows<TANH>(dA, A, D, db, partial, counters, n, m, keep);
    case RELU: return gradient_rows<RELU>(dA, A, D, db, partial, counters, n, m, keep);
    case LEAKY_RELU: return gradient_rows<LEAKY_RELU>(dA, A, D, db, partial, counters, n, m, keep);
    }
    __trap();
}

// -------------------------------------------------------------------------- output, loss, gradient
// Threads along x have a column each, those along y share its rows. So the threads of a warp have
// the same row, and neighbouring columns.

// The largest, or the sum, of the values of those threads that share a column, in each of them.
// `partial`: a number for each thread. blockDim.y is a power of 2.
template <bool SUM>
DEVICE REAL over_column(REAL value, REAL* partial)
{
    const int columns = blockDim.x;
    REAL* mine = partial + threadIdx.y * columns + threadIdx.x;
    for (int half = blockDim.y / 2; half > 0; half /= 2) {
        *mine = value;
        __syncthreads();
        const REAL other = partial[(threadIdx.y ^ half) * columns + threadIdx.x];
        value = SUM ? value + other : value < other ? other : value;
        __syncthreads();
    }
    return value;
}

// Element (i, j) of Y is at [i * row + j * column].
struct Labels {
    const REAL* Y;
    long long row, column;

    DEVICE REAL at(int i, int j) const { return Y[i * row + j * column]; }
};

template <int KIND>
DEVICE void output_columns(REAL* Z, const REAL* b, Labels labels, int n, int m, REAL scale,
                           REAL* db, REAL* cost, REAL* partial, unsigned int* counter)
{
    // the block's sums of each row over its columns, a number for each warp along x; then a number
    // for each thread
    SHARED(REAL, sums);
    const int warps = blockDim.x / WARP, warp = threadIdx.x / WARP;
    REAL* exchanged = sums + n * warps;
    for (int i = thread_number(); i < n * warps; i += threads_of_block())
        sums[i] = 0;
    __syncthreads();

    REAL loss = 0; // of this thread's elements
    for (int first = blockIdx.x * blockDim.x; first < m; first += gridDim.x * blockDim.x) {
        const int j = first + threadIdx.x;
        const bool inside = j < m;
        const int rows = inside ? n : 0;
        REAL largest = 0, total = 1;
        if (KIND == SOFTMAX) {
            largest = __uint_as_float(0xff800000u); // minus infinity
            for (int i = threadIdx.y; i < rows; i += blockDim.y) {
                const REAL z = Z[(long long)i * m + j] + b[i];
                largest = largest < z ? z : largest; // passes over NaN
            }
            largest = over_column<false>(largest, exchanged);
            REAL happened = 0;
            total = 0;
            for (int i = threadIdx.y; i < rows; i += blockDim.y) {
                const REAL shifted = Z[(long long)i * m + j] + b[i] - largest;
                total += exp(shifted);
                if (cost != nullptr) {
                    const REAL y = labels.at(i, j);
                    loss -= y * shifted;
                    happened += y;
                }
            }
            total = over_column<true>(total, exchanged);
            if (cost != nullptr && inside)
                loss += happened * log(total);
        }
        for (int i = threadIdx.y; i < n; i += blockDim.y) {
            REAL dZ = 0;
            if (inside) {
                const long long at = (long long)i * m + j;
                const REAL z = Z[at] + b[i], y = labels.at(i, j);
                if (KIND == SOFTMAX) {
                    dZ = exp(z - largest) / total - y;
                } else {
                    dZ = activate(z, KIND) - y;
                    loss += cost != nullptr ? output_loss(z, y, KIND) : 0;
                }
                dZ *= scale;
                Z[at] = dZ;
            }
            dZ = warp_sum(dZ);
            if (threadIdx.x % WARP == 0)
                sums[i * warps + warp] += dZ;
        }
    }
    __syncthreads();
    loss = block_sum(loss, exchanged);

    // Sum n is the loss, whose average is the cost.
    const int blocks = gridDim.x;
    for (int i = thread_number(); i <= n; i += threads_of_block()) {
        REAL sum = i < n ? 0 : loss;
        for (int w = 0; i < n && w < warps; ++w)
            sum += sums[i * warps + w];
        if (blocks > 1)
            partial[(long long)i * blocks + blockIdx.x] = sum;
        else if (i < n)
            db[i] = sum;
        else if (cost != nullptr)
            *cost = sum / m;
    }
    if (blocks == 1 || !comes_last(counter, blocks))
        return;
    for (int i = thread_number() / WARP; i <= n; i += threads_of_block() / WARP) {
        REAL sum = 0;
        for (int block = thread_number() % WARP; block < blocks; block += WARP)
            sum += __ldcg(&partial[(long long)i * blocks + block]);
        sum = warp_sum(sum);
        if (thread_number() % WARP == 0) {
            if (i < n)
                db[i] = sum;
            else if (cost != nullptr)
                *cost = sum / m;
        }
    }
}

// Z <- dZ = (g(Z + b) - Y) * scale, db <- sum of dZ over the examples, cost <- the loss where there
// is a cost; `row` and `column` are Y's strides. Where gridDim.x > 1: partial has
// (n + 1) * gridDim.x numbers, and the counter is 0. Shared memory: n * blockDim.x / 32 numbers,
// and one for each thread.
extern "C" __global__ void __launch_bounds__(4096 / sizeof(REAL)) // more lack registers in double
output_gradient(REAL* __restrict__ Z, const REAL* __restrict__ b, const REAL* __restrict__ Y,
                long long row, long long column, REAL* __restrict__ db, REAL* cost, REAL* partial,
                unsigned int* counter, int n, int m, int kind, REAL scale)
{
    const Labels labels = {Y, row, column};
    switch (kind) {
    case SIGMOID:
        return output_columns<SIGMOID>(Z, b, labels, n, m, scale, db, cost, partial, counter);
    case SOFTMAX:
        return output_columns<SOFTMAX>(Z, b, labels, n, m, scale, db, cost, partial, counter);
    case LINEAR:
        return output_columns<LINEAR>(Z, b, labels, n, m, scale, db, cost, partial, counter);
    }
    __trap();
}

// ------------------------------------------------------------------------------------------ update

// change(i, Part()) for each part i of arrays of `count` numbers: packs where the arrays begin at
// one, then what is left over, number by number.
template <typename Change>
DEVICE void each(long long count, bool packed, Change change)
{
    const long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    const long long threads = (long long)gridDim.x * blockDim.x;
    const long long packs = packed ? count / PACK : 0;
    for (long long i = thread; i < packs; i += threads)
        change(i, Pack<PACK>());
    for (long long i = packs * PACK + thread; i < count; i += threads)
        change(i, Pack<1>());
}

template <typename Part>
DEVICE Part read(const REAL* array, long long i) { return reinterpret_cast<const Part*>(array)[i]; }

template <typename Part>
DEVICE void write(REAL* array, long long i, Part part) { reinterpret_cast<Part*>(array)[i] = part; }

// theta <- theta - step
extern "C" __global__ void __launch_bounds__(256)
update(REAL* __restrict__ theta, const REAL* __restrict__ step, long long count)
{
    each(count, aligned(theta) && aligned(step), [=](long long i, auto part) {
        typedef decltype(part) Part;
        Part t = read<Part>(theta, i);
        const Part s = read<Part>(step, i);
#pragma unroll
        for (int k = 0; k < Part::SIZE; ++k)
            t.at[k] -= s.at[k];
        write(theta, i, t);
    });
}

// V <- beta V + step, theta <- theta - rate V
extern "C" __global__ void __launch_bounds__(256)
momentum_update(REAL* __restrict__ theta, const REAL* __restrict__ step, REAL* __restrict__ V,
                long long count, REAL beta, REAL rate)
{
    const bool packed = aligned(theta) && aligned(step) && aligned(V);
    each(count, packed, [=](long long i, auto part) {
        typedef decltype(part) Part;
        Part t = read<Part>(theta, i), v = read<Part>(V, i);
        const Part s = read<Part>(step, i);
#pragma unroll
        for (int k = 0; k < Part::SIZE; ++k) {
            v.at[k] = beta * v.at[k] + s.at[k];
            t.at[k] -= rate * v.at[k];
        }
        write(V, i, v);
        write(theta, i, t);
    });
}

// M <- beta1 M + step, V <- beta2 V + (root step)^2, theta <- theta - rate M / (sqrt(V) + epsilon),
// where step is (1 - beta1) times the gradient and root is sqrt(1 - beta2) / (1 - beta1).
extern "C" __global__ void __launch_bounds__(256)
adam_update(REAL* __restrict__ theta, const REAL* __restrict__ step, REAL* __restrict__ M,
            REAL* __restrict__ V, long long count, REAL beta1, REAL beta2, REAL root, REAL rate,
            REAL epsilon)
{
    const bool packed = aligned(theta) && aligned(step) && aligned(M) && aligned(V);
    each(count, packed, [=](long long i, auto part) {
        typedef decltype(part) Part;
        Part t = read<Part>(theta, i), mean = read<Part>(M, i), v = read<Part>(V, i);
        const Part s = read<Part>(step, i);
#pragma unroll
        for (int k = 0; k < Part::SIZE; ++k) {
            const REAL scaled = root * s.at[k];
            mean.at[k] = beta1 * mean.at[k] + s.at[k];
            v.at[k] = beta2 * v.at[k] + scaled * scaled;
            t.at[k] -= rate * (mean.at[k] / (sqrt(v.at[k]) + epsilon));
        }
        write(M, i, mean);
        write(V, i, v);
        write(theta, i, t);
    });
}

// ----------------------------------------------------------------------------------------- dropout

// The D of a layer at a step, of `count` numbers, as `dropout` has it.
extern "C" __global__ void __launch_bounds__(256)
draw_mask(REAL* D, long long count, REAL keep, unsigned long long seed, long long step, int layer)
{
    const bool packed = aligned(D);
    const long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    const long long threads = (long long)gridDim.x * blockDim.x;
    for (long long group = thread; 4 * group < count; group += threads) {
        const Words words = dropout_words(seed, step, layer, group);
        const long long first = 4 * group;
        if (packed && first + 4 <= count) {
#pragma unroll
            for (int k = 0; k < 4; k += PACK) {
                Pack<PACK> part;
#pragma unroll
                for (int q = 0; q < PACK; ++q)
                    part.at[q] = kept_or_not(words.at[k + q], keep);
                write(D, (first + k) / PACK, part);
            }
        } else {
            for (int k = 0; k < 4 && first + k < count; ++k)
                D[first + k] = kept_or_not(words.at[k], keep);
        }
    }
}
