// What the kernels share: the number type, shared memory, sums, who of all blocks comes last, the
// activations, and random numbers.
//
// Sources are compiled at run time by NVRTC, which has no headers of the host: nothing is included
// but this. They are also built for the host, by the tests, where SHARED and PAUSE are defined
// beforehand (tests/host.cuh). So that the same text serves there:
//   - a kernel is `extern "C" __global__ void name(type a, ...)`;
//   - shared memory is dynamic, by SHARED, as many bytes as the launch says;
//   - a loop that waits for another thread's write says PAUSE();
//   - arrays hold no addresses.
// Kernels loop by strides of the grid: any grid is right, and blocks have a multiple of 32 threads.

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

// As many numbers as one access to memory moves.
template <int COUNT>
struct __align__(COUNT * sizeof(REAL)) Pack {
    static constexpr int SIZE = COUNT;
    REAL at[COUNT];
};
constexpr int PACK = 16 / sizeof(REAL);

// Whether an array begins where a Pack<PACK> may.
DEVICE bool aligned(const void* address)
{
    return reinterpret_cast<unsigned long long>(address) % 16 == 0;
}

// ------------------------------------------------------------------------- where a thread stands

DEVICE unsigned int thread_number()
{
    return (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
}

DEVICE unsigned int threads_of_block() { return blockDim.x * blockDim.y * blockDim.z; }

// ------------------------------------------------------------------------------------------ sums
// Always in the same order: the same numbers give the same bits.

// The sum over a warp, in each of its lanes.
DEVICE REAL warp_sum(REAL value)
{
#pragma unroll
    for (int other = WARP / 2; other > 0; other /= 2)
        value += __shfl_xor_sync(ALL_LANES, value, other);
    return value;
}

// The sum over `warps` warps of the block that follow each other, in each of their threads; by all
// threads of the block. `partial`: a number for each warp of the block, in shared memory.
DEVICE REAL sum_over_warps(REAL value, int warps, REAL* partial)
{
    value = warp_sum(value);
    if (warps == 1)
        return value;
    const int thread = thread_number(), warp = thread / WARP;
    if (thread % WARP == 0)
        partial[warp] = value;
    __syncthreads();
    value = 0;
    for (int i = warp / warps * warps, last = i + warps; i < last; ++i)
        value += partial[i];
    __syncthreads(); // before anybody writes to `partial` again
    return value;
}

// The sum over the block, in each of its threads; `partial` as above.
DEVICE REAL block_sum(REAL value, REAL* partial)
{
    return sum_over_warps(value, threads_of_block() / WARP, partial);
}

// -------------------------------------------------------------------------------- among all blocks

// True in each thread of the one block of `blocks` that comes here last, and what the others wrote
// before they came is there for it (to be read by __ldcg). `counter`: 0 before the first one comes,
// and 0 again after the last.
DEVICE bool comes_last(unsigned int* counter, unsigned int blocks)
{
    __threadfence();
    __syncthreads();
    const bool last = __syncthreads_or(
        thread_number() == 0 && atomicInc(counter, blocks - 1) == blocks - 1);
    __threadfence();
    return last;
}

// ------------------------------------------------------------------------- activations and losses
// As in accelnn/functions.py. Kinds are those of loops.py; an unknown one ends the launch.

enum Kind { SIGMOID, TANH, RELU, LEAKY_RELU, SOFTMAX, LINEAR };

constexpr REAL LEAK = REAL(0.01);

// 1 / (1 + e^-z); e^x stays finite. NaN stays NaN, here and below: hence no fmin and fmax.
DEVICE REAL sigmoid(REAL z)
{
    constexpr REAL LARGEST_EXPONENT = sizeof(REAL) == 4 ? 88 : 709;
    const REAL x = -z;
    return 1 / (1 + exp(x > LARGEST_EXPONENT ? LARGEST_EXPONENT : x));
}

// g(z); softmax needs its whole column.
DEVICE REAL activate(REAL z, int kind)
{
    switch (kind) {
    case SIGMOID: return sigmoid(z);
    case TANH: return tanh(z);
    case RELU: return z < 0 ? REAL(0) : z;
    case LEAKY_RELU: return z < 0 ? LEAK * z : z;
    case LINEAR: return z;
    }
    __trap();
    return z;
}

// g'(z) of a hidden layer, where g(z) is a
DEVICE REAL slope(REAL a, int kind)
{
    switch (kind) {
    case SIGMOID: return a * (1 - a);
    case TANH: return 1 - a * a;
    case RELU: return a > 0 ? REAL(1) : REAL(0);
    case LEAKY_RELU: return a > 0 ? REAL(1) : LEAK;
    }
    __trap();
    return a;
}

// -y log g(z) - (1 - y) log(1 - g(z)) with the sigmoid g
DEVICE REAL sigmoid_loss(REAL z, REAL y)
{
    return (z < 0 ? REAL(0) : z) - z * y + log1p(exp(-fabs(z)));
}

// What one output adds to the loss, from its logit z; softmax needs its whole column.
DEVICE REAL output_loss(REAL z, REAL y, int kind)
{
    switch (kind) {
    case SIGMOID: return sigmoid_loss(z, y);
    case LINEAR: return (z - y) * (z - y) / 2;
    }
    __trap();
    return z;
}

// ---------------------------------------------------------------------------------- random numbers

struct Words {
    unsigned int at[4];
};

// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): 128 random
// bits for each counter and key.
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

// The random words of the four elements 4 group, ..., 4 group + 3 of a layer's D at a step.
DEVICE Words dropout_words(
    unsigned long long seed, long long step, int layer, long long group)
{
    const Words counter = {{(unsigned int)group,
                            (unsigned int)(group >> 32) | (unsigned int)layer << 16,
                            (unsigned int)step, (unsigned int)(step >> 32)}};
    return philox(counter, (unsigned int)seed, (unsigned int)(seed >> 32));
}

// 1 / keep with probability keep, else 0, from a random word.
DEVICE REAL kept_or_not(unsigned int word, REAL keep)
{
    return (word >> 8) * REAL(5.9604644775390625e-8) < keep ? 1 / keep : REAL(0); // 2^-24
}

// Element `index` of a layer's D, which is (n_l, m) in C order: index = unit * m + example. Layer 0
// is the first hidden one; step 0, 1, 2, ... counts the updates before this one.
DEVICE REAL dropout(
    unsigned long long seed, long long step, int layer, long long index, REAL keep)
{
    const Words words = dropout_words(seed, step, layer, index >> 2);
    unsigned int word = words.at[0];
#pragma unroll
    for (int k = 1; k < 4; ++k) // and not words.at[index & 3], which would put them into memory
        word = (index & 3) == k ? words.at[k] : word;
    return kept_or_not(word, keep);
}
