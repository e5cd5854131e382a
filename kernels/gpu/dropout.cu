// A dropout mask of a whole layer, for solvers whose other work is vectorised.

#include "common.cuh"

// D (n_l, m) of a layer at a step, `count` numbers, as `dropout` gives them.
extern "C" __global__ void __launch_bounds__(256)
draw_mask(REAL* D, long long count, REAL keep, unsigned long long seed, long long step, int layer)
{
    const long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    const long long threads = (long long)gridDim.x * blockDim.x;
    for (long long group = thread; 4 * group < count; group += threads) {
        const Words words = dropout_words(seed, step, layer, group);
        for (int k = 0; k < 4 && 4 * group + k < count; ++k)
            D[4 * group + k] = kept_or_not(words.at[k], keep);
    }
}
