// Shared by all kernels: the number type, shared memory, sums, activations, losses and random numbers.
// A new activation goes here, a new optimizer in step.cu.
//
// NVRTC compiles the sources at run time, without any headers. The tests also build them for the host
// and define SHARED and PAUSE themselves (tests/doubles/host.cuh). For that to work:
//   - a kernel is `extern "C" __global__ void name(type a, ...)`;
//   - shared memory is dynamic, declared by SHARED; the launch gives its size;
//   - a loop that waits for another thread's write calls PAUSE();
//   - arrays hold no addresses.
// Kernels loop by strides of the grid, so any grid is right; blocks have a multiple of 32 threads.

#ifndef REAL
#define REAL float
#endif

#define DEVICE __device__ __forceinline__

#ifdef __CUDACC__
// `name` is a type* to the block's shared memory, aligned to 16 bytes.
#define SHARED(type, name)                                              \
    extern __shared__ __align__(16) unsigned char shared_memory[];      \
    type* const name = reinterpret_cast<type*>(shared_memory)
#define PAUSE()
#endif

constexpr unsigned int ALL_LANES = 0xffffffffu;
constexpr int WARP = 32;

// 16 bytes of numbers, the most that one access to memory moves.
constexpr int PACK = 16 / sizeof(REAL);
template <int COUNT>
struct __align__(COUNT * sizeof(REAL)) Pack {
    REAL at[COUNT];
};

// Whether an address is a multiple of 16 bytes.
DEVICE bool aligned(const void* address)
{
    return reinterpret_cast<unsigned long long>(address) % 16 == 0;
}

DEVICE unsigned int thread_number() { return threadIdx.y * blockDim.x + threadIdx.x; }

// ------------------------------------------------------------------------------------------ sums
// In a fixed order: the same numbers give the same bits.

// The sum over `lanes` neighbouring lanes of a warp, a power of two, in each of them.
DEVICE REAL sum_over_lanes(REAL value, int lanes)
{
    for (int offset = lanes / 2; offset > 0; offset /= 2)
        value += __shfl_xor_sync(ALL_LANES, value, offset);
    return value;
}

// The sum over a block, in each of its threads. `partial`: shared memory for a number per warp.
DEVICE REAL block_sum(REAL value, REAL* partial)
{
    value = sum_over_lanes(value, WARP);
    const int warps = blockDim.x * blockDim.y / WARP, thread = thread_number();
    if (warps == 1)
        return value;
    if (thread % WARP == 0)
        partial[thread / WARP] = value;
    __syncthreads();
    value = 0;
    for (int warp = 0; warp < warps; ++warp)
        value += partial[warp];
    __syncthreads(); // `partial` may be written again
    return value;
}

// True in all threads of the last of `blocks` blocks to call this, which then sees, by __ldcg, what
// the others wrote before their calls. `counter` is 0 before the first call and after the last.
DEVICE bool comes_last(unsigned int* counter, unsigned int blocks)
{
    __threadfence();
    __syncthreads();
    const bool last = __syncthreads_or(
        thread_number() == 0 && atomicInc(counter, blocks - 1) == blocks - 1);
    __threadfence();
    return last;
}

// ---------------------------------------------------------------------------- activations, outputs
// As in accelnn/functions.py, with the kinds of kernels/loops.py; an unknown kind ends the launch.
// NaN stays NaN: fmin and fmax would lose it.

enum Kind { SIGMOID, TANH, RELU, LEAKY_RELU, SOFTMAX, LINEAR, ABSOLUTE, HUBER, POISSON };

constexpr REAL LEAK = REAL(0.01);

// 1 / (1 + e^-z) with an exponential that stays finite
DEVICE REAL sigmoid(REAL z)
{
    constexpr REAL LARGEST_EXPONENT = sizeof(REAL) == 4 ? 88 : 709;
    const REAL x = -z;
    return 1 / (1 + exp(x > LARGEST_EXPONENT ? LARGEST_EXPONENT : x));
}

// g(z)
DEVICE REAL activate(REAL z, int kind)
{
    switch (kind) {
    case SIGMOID: return sigmoid(z);
    case TANH: return tanh(z);
    case RELU: return z < 0 ? REAL(0) : z;
    case LEAKY_RELU: return z < 0 ? LEAK * z : z;
    case LINEAR:
    case ABSOLUTE:
    case HUBER: return z;
    case POISSON: return exp(z);
    }
    __trap();
    return z;
}

// g'(z) of a hidden layer, from a = g(z)
DEVICE REAL slope(REAL a, int kind)
{
    switch (kind) {
    case SIGMOID: return a * (1 - a);
    case TANH: return 1 - a * a;
    case RELU: return a > 0 ? REAL(1) : REAL(0);
    case LEAKY_RELU: return a > 0 ? REAL(1) : LEAK;
    case LINEAR: return 1;
    }
    __trap();
    return a;
}

// The largest logit of an example and the sum of e^(z - largest), for the softmax
struct Softmax {
    REAL largest, total;
};

// The same from logit(i), i < units, by `lanes` neighbouring lanes of a warp, all of which call this.
template <typename Logit>
DEVICE Softmax softmax_of(int units, int lanes, Logit logit)
{
    const int lane = threadIdx.x % lanes;
    Softmax all = {units > 0 ? logit(0) : REAL(0), 0};
    for (int i = lane; i < units; i += lanes) {
        const REAL z = logit(i);
        all.largest = z > all.largest ? z : all.largest;
    }
    for (int offset = lanes / 2; offset > 0; offset /= 2) {
        const REAL other = __shfl_xor_sync(ALL_LANES, all.largest, offset);
        all.largest = other > all.largest ? other : all.largest;
    }
    for (int i = lane; i < units; i += lanes)
        all.total += exp(logit(i) - all.largest);
    all.total = sum_over_lanes(all.total, lanes);
    return all;
}

// The derivative of the loss by the logit z of an output with label y; `all` is for the softmax.
DEVICE REAL output_error(REAL z, REAL y, int kind, const Softmax& all)
{
    const REAL error = (kind == SOFTMAX ? exp(z - all.largest) / all.total : activate(z, kind)) - y;
    switch (kind) {
    case ABSOLUTE: return error > 0 ? REAL(1) : error < 0 ? REAL(-1) : 0 * error;
    case HUBER: return error > 1 ? REAL(1) : error < -1 ? REAL(-1) : error;
    }
    return error;
}

// The part of one output in the loss
DEVICE REAL output_loss(REAL z, REAL y, int kind, const Softmax& all)
{
    switch (kind) {
    case SIGMOID: return (z < 0 ? REAL(0) : z) - z * y + log1p(exp(-fabs(z)));
    case SOFTMAX: return y * (log(all.total) - (z - all.largest));
    case LINEAR: return (z - y) * (z - y) / 2;
    case ABSOLUTE: return fabs(z - y);
    case HUBER: return fabs(z - y) > 1 ? fabs(z - y) - REAL(0.5) : (z - y) * (z - y) / 2;
    case POISSON: return (y == 0 ? REAL(0) : y * (log(y) - z)) - y + exp(z);
    }
    __trap();
    return z;
}

// What momentum subtracts from a parameter; `step` is the gradient times 1 - beta.
DEVICE REAL momentum_step(REAL step, REAL& average, REAL beta, REAL rate)
{
    average = beta * average + step;
    return rate * average;
}

// ---------------------------------------------------------------------------------- random numbers

struct Words {
    unsigned int at[4];
};

// Philox4x32-10 (Salmon et al. 2011): 128 random bits for each counter and key
DEVICE Words philox(Words counter, unsigned int key0, unsigned int key1)
{
    unsigned int *c = counter.at;
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const unsigned int high0 = __umulhi(0xd2511f53u, c[0]), low0 = 0xd2511f53u * c[0];
        const unsigned int high1 = __umulhi(0xcd9e8d57u, c[2]), low1 = 0xcd9e8d57u * c[2];
        c[0] = high1 ^ c[1] ^ key0;
        c[1] = low1;
        c[2] = high0 ^ c[3] ^ key1;
        c[3] = low0;
        key0 += 0x9e3779b9u;
        key1 += 0xbb67ae85u;
    }
    return counter;
}

// The random words of elements 4 group, ..., 4 group + 3 of a layer's D at a step
DEVICE Words dropout_words(unsigned long long seed, long long step, int layer, long long group)
{
    const Words counter = {{(unsigned int)group,
                            (unsigned int)(group >> 32) | (unsigned int)layer << 16,
                            (unsigned int)step, (unsigned int)(step >> 32)}};
    return philox(counter, (unsigned int)seed, (unsigned int)(seed >> 32));
}

// 1 / keep with probability keep, else 0
DEVICE REAL kept_or_not(unsigned int word, REAL keep)
{
    return (word >> 8) * REAL(5.9604644775390625e-8) < keep ? 1 / keep : REAL(0); // 2^-24
}

// Element index = unit * m + example of a layer's D (n_l, m). Layer 0 is the first hidden one; `step`
// counts the updates before this one.
DEVICE REAL dropout(unsigned long long seed, long long step, int layer, long long index, REAL keep)
{
    const Words words = dropout_words(seed, step, layer, index >> 2);
    unsigned int word = words.at[0];
#pragma unroll
    for (int k = 1; k < 4; ++k) // words.at[index & 3] would move the words from registers to memory
        word = (index & 3) == k ? words.at[k] : word;
    return kept_or_not(word, keep);
}
