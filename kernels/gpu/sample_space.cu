// Full-batch gradient descent in sample space, many steps in one launch, in the notation of
// accelnn/solvers/gram.py:
//
//     W[1] X = c P0 + S G        S <- (1 - decay) S - dZ[1]        (dZ scaled by alpha / m)
//
// Each block owns `width` columns (examples): it forms their S G, goes forward and backward through
// all layers, and updates its columns of S. Once a step the blocks exchange the new columns of S and
// their parts of the gradients of the upper parameters (b[1], W[2], b[2], ...). Each block adds up
// all parts in the same order and updates its own copy of the upper parameters, so the copies stay
// identical. If they are many, each block adds up its share, and the sums are exchanged (`in_shares`).
//
// Instead of a barrier of the grid, four dependent accesses to the L2 cache, a number travels in a
// 64-bit word together with the number of its step, and a reader repeats the read until the step is
// the right one. A word is written and read as a whole, so no fences are needed. Odd and even steps
// have a set of words each: a block writes those of step t + 2 after reading all others' of t + 1,
// which they wrote after reading those of t. All blocks have to run at once, each with a multiple of
// 64 threads, at most 512.

#include "common.cuh"

typedef unsigned long long Word;

constexpr int WORDS = sizeof(REAL) / 4;  // that a number travels in
constexpr int BATCH = 8 / WORDS;         // numbers that a thread waits for at once
constexpr int TILE = 4;                  // S G is formed in tiles of TILE x TILE, a warp each

// A row of `table`: n_l and n_(l-1), the offsets of W and b in the upper parameters, the number of
// units in earlier layers, the activation, whether units are dropped, and the base-2 logarithm of the
// threads that share an inner product forward and backward.
struct Layer {
    int n, inputs, W, b, unit, kind, drops, forward, backward;
};

// ---------------------------------------------------------------------------- from block to block

// The words of one step; word w of number i is at w * count + i.
struct Exchange {
    volatile Word* words;
    long long count;
    unsigned step;
};

DEVICE void put(const Exchange& to, long long number, REAL value)
{
    unsigned parts[WORDS];
    memcpy(parts, &value, sizeof(REAL));
    for (int w = 0; w < WORDS; ++w)
        to.words[w * to.count + number] = (Word)to.step << 32 | parts[w];
}

// Calls use(q, number) with the number at place(q), once it has arrived, for q < count.
template <typename Place, typename Use>
DEVICE void take(const Exchange& from, int count, Place place, Use use)
{
    for (int first = 0; first < count; first += BATCH) {
        const int end = count - first < BATCH ? count - first : BATCH;
        Word words[BATCH][WORDS];
        bool arrived;
        do {
            arrived = true;
#pragma unroll
            for (int q = 0; q < BATCH; ++q)  // issue all loads before looking at the first
                for (int w = 0; w < WORDS && q < end; ++w)
                    words[q][w] = from.words[w * from.count + place(first + q)];
#pragma unroll
            for (int q = 0; q < BATCH; ++q)
                for (int w = 0; w < WORDS && q < end; ++w)
                    arrived = arrived && words[q][w] >> 32 == from.step;
            if (!arrived)
                PAUSE();
        } while (!arrived);
#pragma unroll
        for (int q = 0; q < BATCH; ++q)
            if (q < end) {
                unsigned parts[WORDS];
                REAL value;
                for (int w = 0; w < WORDS; ++w)
                    parts[w] = (unsigned)words[q][w];
                memcpy(&value, parts, sizeof(REAL));
                use(first + q, value);
            }
    }
}

// ------------------------------------------------------------------- products of a block's threads

// Adds up 2 HALF sums of each lane over a warp, up to one last exchange: lanes 2q and 2q + 1 each have
// a part of sum q. In each round two lanes give each other half of their sums and add what they get to
// those they keep: 15 exchanges for 16 sums.
template <int HALF>
DEVICE void halve(REAL* sums, int lane)
{
    const bool upper = lane & 2 * HALF;
#pragma unroll
    for (int i = 0; i < HALF; ++i) {
        const REAL kept = upper ? sums[i + HALF] : sums[i];
        const REAL handed = upper ? sums[i] : sums[i + HALF];
        sums[i] = kept + __shfl_xor_sync(ALL_LANES, handed, 2 * HALF);
    }
    if constexpr (HALF > 1)
        halve<HALF / 2>(sums, lane);
}

// Calls use(u, j, sum_k S[u, k] G[j, k]) for rows of m numbers. Lanes go along k, so neighbouring
// lanes read neighbouring numbers; each lane has a whole tile of partial sums.
template <typename Use>
DEVICE void multiply(const REAL* S, int rows, const REAL* G, int columns, int m, Use use)
{
    const int lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
    const int across = (columns + TILE - 1) / TILE;
    const int tiles = across * ((rows + TILE - 1) / TILE);
    for (int tile = threadIdx.x / WARP; tile < tiles; tile += warps) {
        const int u0 = tile / across * TILE, j0 = tile % across * TILE;
        const REAL *s[TILE], *g[TILE];
        REAL sums[TILE * TILE] = {};
#pragma unroll
        for (int i = 0; i < TILE; ++i) {  // beyond the last row, the last row, unused
            s[i] = S + (u0 + i < rows ? u0 + i : rows - 1) * m;
            g[i] = G + (long long)(j0 + i < columns ? j0 + i : columns - 1) * m;
        }
#pragma unroll 4
        for (int k = lane; k < m; k += WARP) {
            REAL a[TILE], b[TILE];
#pragma unroll
            for (int i = 0; i < TILE; ++i)
                a[i] = s[i][k], b[i] = g[i][k];
#pragma unroll
            for (int i = 0; i < TILE * TILE; ++i)
                sums[i] += a[i / TILE] * b[i % TILE];
        }
        halve<TILE * TILE / 2>(sums, lane);
        const REAL sum = sums[0] + __shfl_xor_sync(ALL_LANES, sums[0], 1);
        const int u = u0 + lane / 2 / TILE, j = j0 + lane / 2 % TILE;
        if (lane % 2 == 0 && u < rows && j < columns)
            use(u, j, sum);
    }
}

// Calls use(o, sum_k term(o, k)) for `count` sums of `inner` terms, by 2^shift neighbouring threads
// each.
template <typename Term, typename Use>
DEVICE void inner_products(int count, int inner, int shift, Term term, Use use)
{
    const int lanes = 1 << shift, lane = threadIdx.x & (lanes - 1), groups = blockDim.x >> shift;
    for (int first = 0; first < count; first += groups) {
        const int o = first + (threadIdx.x >> shift);
        REAL sum = 0;
        if (o < count)
#pragma unroll 4
            for (int k = lane; k < inner; k += lanes)
                sum += term(o, k);
        sum = sum_over_lanes(sum, lanes);
        if (o < count && lane == 0)
            use(o, sum);
    }
}

// --------------------------------------------------------------------------------------- training

// The work of a block; the first fields are the arguments of `train`.
struct Block {
    REAL *theta, *velocity;     // S (n_1, m), then the upper parameters; likewise, with momentum
    const REAL *P0, *G, *Y;     // (n_1, m), (m, m), (n_L, m)
    const REAL* first_squares;  // the sum of squares of the first W[1], read if l2 > 0
    const REAL* plan;           // (steps, 4) of alpha, the factor of dZ, that times l2, and c
    const Layer* table;
    const REAL* keep_prob;  // a number for each layer
    Word* exchange;         // two sets of `Partition.numbers` words, 0 before the first launch
    REAL* cost;             // receives the cost before the first step if `recorded`
    int depth, m, width;    // layers, examples, columns of a block; the grid covers all columns
    int rows, cached;       // rows of S in shared memory; whether the block's columns of G are too
    int in_shares;          // whether each block adds up a share of the sums, or all of them
    int sharing, momentum;  // base-2 logarithm of the threads that add up a sum; whether V is read
    REAL beta, l2;
    Word seed;
    long long first_step;  // steps before this launch
    int steps, recorded;

    int thread, threads, blocks, padded;  // blocks, and those in whole cache sectors of numbers
    int last, n1, outputs, units, uppers;  // the last layer; n_1, n_L, all units, upper parameters
    int J, columns;                        // the block's first column, and how many it has
    int shift, stride, mask;               // of columns, see `begin`
    int share, low, own;  // upper parameters that a block updates: the most; this block's first, count
    long long sums, results, count;  // the offsets of both among the words, and all words

    // in shared memory
    Layer* layers;  // `table`
    REAL *keep, *upper, *upper_V;
    REAL *S, *V, *base, *labels;  // the block's columns of S, V, P0 and Y, `width` to a row
    REAL *A, *dZ;  // (units, stride); A has logits for a softmax, dZ has D on the way forward
    REAL *scratch;
    REAL *S_rows, *G_columns;  // all columns of some rows; the block's columns of G, m to each

    // the present step
    int step;
    bool more, costed;  // whether another step follows, and whether this one computes the cost
    REAL rate, scale, decay, c;
    Exchange now;
    REAL part_of_cost;  // this thread's

    DEVICE void begin(REAL* shared)
    {
        thread = threadIdx.x, threads = blockDim.x;
        blocks = gridDim.x, padded = (blocks + 3) / 4 * 4;
        last = depth - 1, n1 = table[0].n, outputs = table[last].n;
        units = table[last].unit + outputs, uppers = table[last].b + outputs;
        J = blockIdx.x * width, columns = width < m - J ? width : m - J;

        // Columns are padded to a power of two, to avoid divisions, and rows by one more, so that
        // neighbouring rows lie in different banks.
        shift = 0;
        while (1 << shift < width)
            ++shift;
        stride = (1 << shift) + 1, mask = (1 << shift) - 1;

        share = in_shares ? (uppers + blocks - 1) / blocks : uppers;
        low = !in_shares ? 0 : blockIdx.x * share < uppers ? blockIdx.x * share : uppers;
        own = share < uppers - low ? share : uppers - low;

        // S; a sum of each block for each upper parameter and the cost; the upper parameters.
        // `Partition.numbers` counts the same.
        sums = (long long)n1 * m;
        results = sums + (long long)(uppers + 1) * padded;
        count = results + uppers;

        // `Partition.shared` counts the same.
        auto room = [&](int elements) { return (shared += elements) - elements; };
        layers = (Layer*)room(depth * sizeof(Layer) / sizeof(int));
        keep = room(depth);
        upper = room(uppers);
        upper_V = room(momentum ? share : 0);
        S = room(n1 * width);
        V = room(momentum ? n1 * width : 0);
        base = room(n1 * width);
        labels = room(outputs * width);
        A = room(units * stride);
        dZ = room(units * stride);
        scratch = room(threads / WARP);
        S_rows = room(rows * m);
        G_columns = room(cached ? width * m : 0);
    }

    DEVICE Exchange words_of(unsigned step) const
    {
        return {exchange + step % 2 * WORDS * count, count, step};
    }

    DEVICE void load()
    {
        for (int l = thread; l < depth; l += threads) {
            layers[l] = table[l];
            keep[l] = keep_prob[l];
        }
        for (int p = thread; p < uppers; p += threads)
            upper[p] = theta[sums + p];
        for (int p = thread; momentum && p < own; p += threads)
            upper_V[p] = velocity[sums + low + p];
        for (int o = thread; o < n1 << shift; o += threads) {
            const int u = o >> shift, j = o & mask, i = u * width + j, from = u * m + J + j;
            if (j >= columns)
                continue;
            S[i] = theta[from];
            base[i] = P0[from];
            if (momentum)
                V[i] = velocity[from];
        }
        for (int o = thread; o < outputs << shift; o += threads) {
            const int u = o >> shift, j = o & mask;
            if (j < columns)
                labels[u * width + j] = Y[u * m + J + j];
        }
        for (int i = thread; cached && i < columns * m; i += threads)
            G_columns[i] = G[(long long)J * m + i];  // G is symmetric: its rows are its columns
        for (int i = thread; i < rows * m; i += threads)
            S_rows[i] = theta[i];
    }

    DEVICE void store()
    {
        for (int o = thread; o < n1 << shift; o += threads) {
            const int u = o >> shift, j = o & mask, i = u * width + j;
            if (j >= columns)
                continue;
            theta[u * m + J + j] = S[i];
            if (momentum)
                velocity[u * m + J + j] = V[i];
        }
        if (!in_shares && blockIdx.x > 0)
            return;  // all blocks have the same
        for (int p = thread; p < own; p += threads) {
            theta[sums + low + p] = upper[low + p];
            if (momentum)
                velocity[sums + low + p] = upper_V[p];
        }
    }

    DEVICE void train()
    {
        load();
        __syncthreads();
        for (step = 0; step < steps; ++step) {
            const REAL* row = plan + 4 * step;
            rate = row[0], scale = row[1], decay = row[2], c = row[3];
            more = step + 1 < steps, costed = recorded && step == 0;
            now = words_of((unsigned)(first_step + step + 1));  // all words start as step 0
            part_of_cost = costed && l2 > 0 && blockIdx.x == 0 ? penalty() : 0;
            first_layer();
            for (int l = 1; l < depth; ++l)
                forward(l);
            if (layers[last].kind == SOFTMAX)
                softmax();
            for (int l = last; l > 0; --l)
                backward(l);
            first_biases();
            if (costed) {
                const REAL sum = block_sum(part_of_cost, scratch);
                if (thread == 0)
                    contribute(uppers, sum);
            }
            // Half of the threads wait for the sums, the others for S, at the same time.
            const int half = threads / 2;
            if (thread < half)
                update(thread, half);
            else if (more)
                fetch(0, thread - half, threads - half, now);
            __syncthreads();
        }
        store();
    }

    // This thread's part of the L2 cost, without <S, P0> and <S G, S>
    DEVICE REAL penalty() const
    {
        REAL squares = thread == 0 ? c * c * first_squares[0] : 0;
        for (int l = 1; l < depth; ++l)
            for (int i = layers[l].W + thread; i < layers[l].b; i += threads)
                squares += upper[i] * upper[i];
        return l2 / (2 * m) * squares;
    }

    // Reads rows of S from `row` on, as many as shared memory has room for: thread t's share of n
    DEVICE void fetch(int row, int t, int n, const Exchange& from)
    {
        const int most = n1 - row < rows ? n1 - row : rows;
        take(
            from, (most * m - t + n - 1) / n, [&](int q) { return row * m + t + q * n; },
            [&](int q, REAL value) { S_rows[t + q * n] = value; });
    }

    // c P0 + S G, and the first layer's activations
    DEVICE void first_layer()
    {
        const Layer layer = layers[0];
        for (int row = 0; row < n1; row += rows) {
            const int some = n1 - row < rows ? n1 - row : rows;
            if (row > 0) {
                __syncthreads();
                if (step > 0)
                    fetch(row, thread, threads, words_of(now.step - 1));
                else
                    for (int i = thread; i < some * m; i += threads)
                        S_rows[i] = theta[row * m + i];
                __syncthreads();
            }
            auto use = [&](int u, int j, REAL SG) {
                const int i = (row + u) * width + j;
                if (costed && l2 > 0)
                    part_of_cost += l2 / (2 * m) * (SG + 2 * c * base[i]) * S[i];
                activated(0, layer, row + u, j, SG + c * base[i] + upper[row + u]);
            };
            if (cached)
                multiply(S_rows, some, G_columns, columns, m, use);
            else
                multiply(S_rows, some, G + (long long)J * m, columns, m, use);
        }
        __syncthreads();
    }

    DEVICE void forward(int l)
    {
        const Layer layer = layers[l];
        const REAL *W = upper + layer.W, *b = upper + layer.b;
        const REAL* below = A + (layer.unit - layer.inputs) * stride;
        auto term = [&](int o, int k) {
            return W[(o >> shift) * layer.inputs + k] * below[k * stride + (o & mask)];
        };
        auto use = [&](int o, REAL sum) {
            if ((o & mask) < columns)
                activated(l, layer, o >> shift, o & mask, sum + b[o >> shift]);
        };
        inner_products(layer.n << shift, layer.inputs, layer.forward, term, use);
        __syncthreads();
    }

    // From the logit z of unit u in layer l to its activation or, in the last layer, to dZ; a softmax
    // first needs all logits
    DEVICE void activated(int l, const Layer& layer, int u, int j, REAL z)
    {
        const int i = (layer.unit + u) * stride + j;
        if (l == last && layer.kind != SOFTMAX)
            return at_output(u, j, z, layer.kind, Softmax());
        A[i] = l == last ? z : activate(z, layer.kind);
        if (layer.drops) {
            dZ[i] = dropout(seed, first_step + step, l, (long long)u * m + J + j, keep[l]);
            A[i] *= dZ[i];
        }
    }

    // dZ and the loss of output u with the logit z
    DEVICE void at_output(int u, int j, REAL z, int kind, const Softmax& all)
    {
        const REAL y = labels[u * width + j];
        const REAL gradient = output_error(z, y, kind, all) * scale;
        dZ[(units - outputs + u) * stride + j] = gradient;
        if (costed)
            part_of_cost += output_loss(z, y, kind, all) / m;
        if (last == 0)
            descend(u, j, gradient);
    }

    // From logits to dZ, a warp for each column
    DEVICE void softmax()
    {
        const REAL* Z = A + (units - outputs) * stride;
        for (int j = thread / WARP; j < columns; j += threads / WARP) {
            auto logit = [&](int u) { return Z[u * stride + j]; };
            const Softmax all = softmax_of(outputs, WARP, logit);
            for (int u = thread % WARP; u < outputs; u += WARP)
                at_output(u, j, logit(u), SOFTMAX, all);
        }
        __syncthreads();
    }

    // dW and db of layer l over this block's examples, and dZ of the layer below
    DEVICE void backward(int l)
    {
        const Layer layer = layers[l], lower = layers[l - 1];
        const int inputs = layer.inputs;
        const REAL *W = upper + layer.W, *above = dZ + layer.unit * stride;
        const REAL* A_below = A + lower.unit * stride;
        REAL* below = dZ + lower.unit * stride;
        auto term = [&](int o, int i) {
            return W[i * inputs + (o >> shift)] * above[i * stride + (o & mask)];
        };
        auto use = [&](int o, REAL gradient) {
            const int u = o >> shift, j = o & mask, i = u * stride + j;
            if (j >= columns)
                return;
            if (lower.drops)
                gradient *= below[i];
            gradient *= slope(lower.drops ? keep[l - 1] * A_below[i] : A_below[i], lower.kind);
            below[i] = gradient;
            if (l == 1)
                descend(u, j, gradient);
        };
        inner_products(inputs << shift, layer.n, layer.backward, term, use);
        // The last threads first, because the first ones had most of the work above. A bias is the
        // weight of a constant 1.
        for (int o = threads - 1 - thread; o < layer.n * (inputs + 1); o += threads) {
            const int i = o / (inputs + 1), k = o % (inputs + 1);
            const REAL *row = above + i * stride, *activations = A_below + k * stride;
            REAL sum = 0;
            if (k == inputs) {
                for (int j = 0; j < columns; ++j)
                    sum += row[j];
                contribute(layer.b + i, sum);
            } else {
                for (int j = 0; j < columns; ++j)
                    sum += row[j] * activations[j];
                if (blockIdx.x == 0)
                    sum += decay * W[i * inputs + k];
                contribute(layer.W + i * inputs + k, sum);
            }
        }
        __syncthreads();
    }

    // db of the first layer
    DEVICE void first_biases()
    {
        for (int u = thread; u < n1; u += threads) {
            REAL sum = 0;
            for (int j = 0; j < columns; ++j)
                sum += dZ[u * stride + j];
            contribute(u, sum);
        }
    }

    // Publishes this block's part of the gradient of upper parameter p, or of the cost
    DEVICE void contribute(int p, REAL sum) const
    {
        put(now, sums + (long long)p * padded + blockIdx.x, sum);
    }

    // Updates an element of the block's columns of S and publishes it
    DEVICE void descend(int u, int j, REAL gradient)
    {
        const int i = u * width + j;
        S[i] -= change(gradient + decay * S[i], V[i]);
        if (more)
            put(now, u * m + J + j, S[i]);
    }

    // The change that an update subtracts
    DEVICE REAL change(REAL gradient, REAL& average) const
    {
        return momentum ? momentum_step(gradient, average, beta, rate) : gradient;
    }

    // The upper parameters and the cost from all blocks' sums, by thread t of `team` threads
    DEVICE void update(int t, int team)
    {
        const int lanes = 1 << sharing, lane = t & (lanes - 1), groups = team >> sharing;
        const int due = own + (costed && blockIdx.x == 0);
        for (int first = 0; first < due; first += groups) {
            const int r = first + (t >> sharing), p = r < own ? low + r : uppers;
            REAL sum = 0;
            if (r < due)
                take(
                    now, (blocks - lane + lanes - 1) / lanes,
                    [&](int q) { return sums + (long long)p * padded + lane + q * lanes; },
                    [&](int, REAL value) { sum += value; });
            sum = sum_over_lanes(sum, lanes);
            if (r < own && lane == 0) {
                upper[p] -= change(sum, upper_V[r]);
                if (in_shares && more)
                    put(now, results + p, upper[p]);
            } else if (r < due && lane == 0) {
                *cost = sum;
            }
        }
        if (in_shares && more)
            take(
                now, (uppers - t + team - 1) / team, [&](int q) { return results + t + q * team; },
                [&](int q, REAL value) { upper[t + q * team] = value; });
    }
};

extern "C" __global__ void __launch_bounds__(512) train(
    REAL* theta, REAL* velocity, const REAL* P0, const REAL* G, const REAL* Y,
    const REAL* first_squares, const REAL* plan, const int* table, const REAL* keep_prob,
    unsigned long long* exchange, REAL* cost, int depth, int m, int width, int rows, int cached,
    int in_shares, int sharing, int momentum, REAL beta, REAL l2, unsigned long long seed,
    long long first_step, int steps, int recorded)
{
    SHARED(REAL, shared);
    Block block{
        theta, velocity, P0, G, Y, first_squares, plan, (const Layer*)table, keep_prob, exchange,
        cost, depth, m, width, rows, cached, in_shares, sharing, momentum, beta, l2, seed,
        first_step, steps, recorded};
    block.begin(shared);
    block.train();
}
