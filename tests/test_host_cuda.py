"""The simulated GPU runs correct kernels and finds the mistakes of others."""

import numpy as np
import pytest
from doubles import device as device_double
from doubles import host_cuda

from accelnn.kernels.gpu import cuda

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(host_cuda.compiler() is None, reason="there is no C++ compiler"),
]
SEEDS = range(4)  # of the order in which threads run


@pytest.fixture
def launch(double_with_kernels, monkeypatch):
    """launch(body, arrays and numbers by parameter, grid, block, shared): a kernel made of it."""

    def launch(body, grid=1, block=64, shared=0, seed=0, cooperative=False, **arguments):
        monkeypatch.setattr(host_cuda, "seed", seed)
        parameters = ", ".join(declared(name, value) for name, value in arguments.items())
        kernel = f'extern "C" __global__ void tried({parameters}) {{\n{body}\n}}'
        code = f'{GRID_BARRIER}#line 1 "kernel.cu"\n{kernel}'
        module = double_with_kernels.RawModule(
            code=cuda.with_common(code),
            options=("-DREAL=float",),
            enable_cooperative_groups=cooperative,
        )
        kernel = module.get_function("tried")
        kernel((grid,), (block,), tuple(arguments.values()), shared_mem=shared)

    return launch


GRID_BARRIER = """
// Waits for all blocks of the grid, which then see, by __ldcg or volatile, what the others wrote.
// All blocks have to run at once. `counter` is 0 before the first launch and for this use alone.
DEVICE void grid_barrier(unsigned int* counter)
{
    constexpr unsigned int TURN = 0x80000000u;
    __syncthreads();
    if (thread_number() == 0) {
        // All blocks together add TURN: the top bit turns when the last one has come.
        __threadfence();
        const unsigned int before =
            atomicAdd(counter, blockIdx.x == 0 ? TURN - (gridDim.x - 1) : 1u);
        while (((before ^ *static_cast<volatile unsigned int*>(counter)) & TURN) == 0)
            PAUSE();
        __threadfence();
    }
    __syncthreads();
}
"""

TYPES = {"float32": "float", "int32": "int", "uint32": "unsigned", "float64": "double"}


def declared(name, value):
    star = "*" if isinstance(value, device_double.DeviceArray) else ""
    return f"{TYPES[value.dtype.name]}{star} {name}"


@pytest.fixture
def array(double_with_kernels):
    """array(values, dtype): on the device double."""

    def array(values, dtype="float32"):
        return double_with_kernels.asarray(np.array(values, dtype))

    return array


# --------------------------------------------------------------------------------------------
# correct kernels


def test_threads_exchange_numbers_through_shared_memory(launch, array):
    for seed in SEEDS:
        x = array(np.arange(64))
        launch(
            """
            SHARED(float, all);
            all[threadIdx.x] = x[threadIdx.x];
            __syncthreads();
            x[threadIdx.x] = all[63 - threadIdx.x];
            """,
            shared=64 * 4,
            seed=seed,
            x=x,
        )
        assert x.get().tolist() == list(range(63, -1, -1))


def test_lanes_exchange_numbers_by_shuffles(launch, array):
    for seed in SEEDS:
        x = array(np.zeros((3, 64)))
        launch(
            """
            const int t = threadIdx.x;
            const float mine = t;
            x[t] = __shfl_xor_sync(~0u, mine, 5);
            if (t % 32 < 16) x[64 + t] = __shfl_xor_sync(0x0000ffffu, mine, 1);
            else x[64 + t] = __shfl_xor_sync(0xffff0000u, mine, 2);
            x[128 + t] = sum_over_lanes(mine, 32);
            """,
            seed=seed,
            x=x,
        )
        t = np.arange(64)
        half, warp = (
            np.where(t % 32 < 16, t ^ 1, t ^ 2),
            np.where(t < 32, 31 * 16, 31 * 16 + 32 * 32),
        )
        np.testing.assert_array_equal(x.get(), [t ^ 5, half, warp])


@pytest.mark.parametrize("cooperative", [True, False])
def test_all_blocks_of_a_grid_meet(launch, array, cooperative):
    for seed in SEEDS:
        x, counter = array(np.zeros((9, 4))), array([0], "uint32")
        for _ in range(2):  # the counter serves again
            launch(
                """
                for (int round = 1; round < 9; ++round) {
                    if (threadIdx.x == 0) {
                        float sum = 1;
                        for (int b = 0; b < 4; ++b) sum += __ldcg(&x[(round - 1) * 4 + b]);
                        x[round * 4 + blockIdx.x] = sum;
                    }
                    grid_barrier(counter);
                }
                """,
                grid=4,
                seed=seed,
                cooperative=cooperative,
                x=x,
                counter=counter,
            )
        sums = [0, 1, 5, 21, 85, 341, 1365, 5461, 21845]
        np.testing.assert_array_equal(x.get()[:, 0], sums)


def test_the_last_block_sees_what_the_others_wrote(launch, array):
    for seed in SEEDS:
        x, total, counter = array(np.zeros(200)), array([0]), array([0], "uint32")
        for _ in range(2):
            launch(
                """
                SHARED(float, partial);
                const float sum = block_sum(blockIdx.x, partial);
                if (threadIdx.x == 0) x[blockIdx.x] = sum;
                if (comes_last(counter, gridDim.x) && threadIdx.x == 0)
                    for (int b = 0; b < 200; ++b) total[0] += __ldcg(&x[b]);
                """,
                grid=200,  # more than fit at once
                shared=128,
                seed=seed,
                x=x,
                total=total,
                counter=counter,
            )
        assert total.get().tolist() == [2 * 64 * 199 * 100]
        assert counter.get().tolist() == [0]


def test_atomics_count_every_thread(launch, array):
    for seed in SEEDS:
        x = array([0, 0], "uint32")
        launch("atomicAdd(&x[0], 1u); atomicInc(&x[1], 9);", grid=3, seed=seed, x=x)
        assert x.get().tolist() == [192, 192 % 10]


def test_an_array_is_passed_as_it_lies_in_memory(launch, array):
    x = array(np.zeros((4, 3)))
    launch("part[threadIdx.x] = 1 + threadIdx.x;", block=3, part=x[1:3])
    assert x.get().tolist() == [[0] * 3, [1, 2, 3], [0] * 3, [0] * 3]
    launch("y[1] = x[1] + 1;", block=1, x=x, y=x[2])
    assert x.get()[2].tolist() == [0, 1, 0]


# --------------------------------------------------------------------------------------------
# mistakes


WRONG = {
    "a barrier that some threads miss": (
        "if (threadIdx.x != 3) __syncthreads();",
        "__syncthreads in line 2",
    ),
    "two barriers in the place of one": (
        "if (threadIdx.x < 32)\n__syncthreads();\nelse __syncthreads();",
        "__syncthreads in line [34], and thread .* at that in line [34]",
    ),
    "a lane that misses a shuffle": (
        "if (threadIdx.x != 3) x[threadIdx.x] = __shfl_xor_sync(~0u, 1.f, 1);",
        "for lane 3, which has ended|has ended, and lane .* waits for it in line 2",
    ),
    "a shuffle from a lane that takes no part": (
        "if (threadIdx.x < 16) x[threadIdx.x] = __shfl_xor_sync(0xffffu, 1.f, 16);",
        "reads lane 16 in line 2, which takes no part",
    ),
    "a wait for a write that does not come": (
        "volatile float* seen = x; while (seen[0] == 0) PAUSE();",
        "deadlock.*is not written.*spins",
    ),
    "a barrier of the grid with more blocks than fit at once": (
        "grid_barrier((unsigned int*)x);",
        r"deadlock.*\(64 blocks fit on the device at once\)",
    ),
    "a read before an array": (
        "x[threadIdx.x] = x[(int)threadIdx.x - 100000];",
        "-399.*bytes from",
    ),
    "a read after an array": (
        "x[threadIdx.x] = x[threadIdx.x + 1];",
        r"thread \(63, 0, 0\).*touched memory 256 bytes from the start of an array of 256 bytes",
    ),
    "a write before an array": ("y[-1] = 1;", "outside an array of 12 bytes"),
    "a write after an array whose size is odd": (
        "y[threadIdx.x % 4] = 1;",
        "outside an array of 12 bytes",
    ),
    "a write after shared memory": (
        "SHARED(float, s); s[threadIdx.x + 1] = 0;",
        "outside their shared memory|touched byte 128 of 128 bytes of shared memory",
    ),
    "a division by zero": ("x[0] = threadIdx.x / (unsigned)x[1];", "divided an integer by zero"),
    "endless recursion": (
        "struct S { static float f(float* x) { volatile char c[999]; c[0] = 1; "
        "return x[0] > 9 ? c[0] : f(x) + 1; } }; x[0] = S::f(x);",
        "stack|touched memory",
    ),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_an_error_and_leaves_the_arrays_alone(launch, array, mistake):
    body, message = WRONG[mistake]
    x, y = array(np.zeros(64)), array(np.zeros(3))
    grid, shared = (65, 128) if "grid" in mistake else (1, 128)
    block = 32 if "shared" in mistake else 64
    with pytest.raises(host_cuda.KernelError, match=message):
        launch(body, grid=grid, block=block, shared=shared, x=x, y=y)
    assert not x.get().any()
    assert not y.get().any()
    launch("x[threadIdx.x] = 1;", x=x)  # the simulator works on
    assert x.get().all()


def test_a_waiting_loop_without_pause_is_an_error(launch, array, monkeypatch):
    monkeypatch.setattr(host_cuda, "seconds", 0.1)
    x = array(np.zeros(64))
    body = "volatile float* seen = x; while (seen[0] == 0) { }"
    with pytest.raises(host_cuda.KernelError, match=r"still runs after 0.1 seconds.*PAUSE"):
        launch(body, x=x)
    launch("x[threadIdx.x] = 1;", x=x)
    assert x.get().all()


def test_a_missing_barrier_shows_for_some_order_of_the_threads(launch, array):
    results = set()
    for seed in range(4):
        x = array(np.arange(64))
        launch(
            "SHARED(float, s); s[threadIdx.x] = x[threadIdx.x]; x[threadIdx.x] = "
            "s[(threadIdx.x + 1) % 64];",
            shared=256,
            seed=seed,
            x=x,
        )
        results.add(x.get().tobytes())
    assert len(results) > 1


def test_unwritten_memory_is_nan(launch, array, double_with_kernels):
    x = array(np.zeros(64))
    launch("SHARED(float, s); x[threadIdx.x] = s[threadIdx.x];", shared=256, x=x)
    assert np.isnan(x.get()).all()
    assert np.isnan(double_with_kernels.empty((2, 3), np.float32).get()).all()
    assert np.isnan(double_with_kernels.empty_like(x).get()).all()


def test_a_number_has_exactly_the_type_of_its_parameter(double_with_kernels):
    code = 'extern "C" __global__ void tried(float* x, float y) { x[0] = y; }'
    kernel = double_with_kernels.RawModule(code=code).get_function("tried")
    x = double_with_kernels.zeros(1, np.float32)
    for value in (0.5, np.float64(0.5), 1, None):
        with pytest.raises(TypeError, match="pass numpy.float32"):
            kernel((1,), (1,), (x, value))
    kernel((1,), (1,), (x, np.float32(0.5)))
    assert x.get() == 0.5


def test_arguments_fit_the_parameters(double_with_kernels):
    code = """
typedef float OPERAND;
extern "C" __global__ void __launch_bounds__(32 * sizeof(OPERAND), 2)
tried(const OPERAND* __restrict__ x, int* y)
{
    if (x != nullptr) y[0] = x[0];
}
"""
    kernel = double_with_kernels.RawModule(code=code).get_function("tried")
    x, y = (double_with_kernels.zeros(3, dtype) for dtype in (np.float32, np.int32))
    kernel((1,), (1,), (x, y))
    kernel((1,), (1,), (np.uintp(0), y))
    for arguments, message in (
        ((x,), "takes 2 arguments, got 1"),
        ((y, y), "x got an array of int32"),
        ((None, y), r"numpy.uintp\(0\) for none"),
        ((np.zeros(3, np.float32), y), "numpy.ndarray"),
    ):
        with pytest.raises(TypeError, match=message):
            kernel((1,), (1,), arguments)
    with pytest.raises(device_double.CUDADriverError, match="block"):
        kernel((1,), (256,), (x, y))


def test_more_shared_memory_than_48_kb_has_to_be_asked_for(double_with_kernels):
    code = 'extern "C" __global__ void tried(int x) { }'
    kernel = double_with_kernels.RawModule(code=code).get_function("tried")
    with pytest.raises(device_double.CUDADriverError, match="shared memory"):
        kernel((1,), (32,), (np.int32(0),), shared_mem=50_000)
    with pytest.raises(device_double.CUDADriverError):
        kernel.max_dynamic_shared_size_bytes = 228 * 1024
    kernel.max_dynamic_shared_size_bytes = 227 * 1024
    kernel((1,), (32,), (np.int32(0),), shared_mem=227 * 1024)


def test_a_cooperative_launch_has_no_more_blocks_than_fit(launch, array):
    with pytest.raises(device_double.CUDADriverError, match="cooperative"):
        launch("x[0] = 1;", grid=65, cooperative=True, x=array([0]))


def test_a_source_that_does_not_compile_shows_the_compilers_message(double_with_kernels):
    code = 'extern "C" __global__ void tried(float* x) {\n    x[0] = nonsense;\n}'
    with pytest.raises(device_double.CompileException, match="source.cu:2:.*nonsense"):
        double_with_kernels.RawModule(code=code).get_function("tried")
    module = double_with_kernels.RawModule(code=code.replace("nonsense", "1"))
    with pytest.raises(device_double.CUDADriverError, match="named symbol not found"):
        module.get_function("other")
