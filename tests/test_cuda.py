"""kernels/gpu/*.cu and what cuda.py makes of them: on the simulated GPU, which runs the very same
sources, and on a real one; compiled for real ones wherever there is a compiler for that."""

import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from doubles import device as device_double
from doubles import host_cuda
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import accelnn
from accelnn import Network, backend, operations, to_device, to_host
from accelnn.functions import ACTIVATIONS, OUTPUTS
from accelnn.kernels.gpu import cuda
from accelnn.kernels.loops import KINDS

pytestmark = pytest.mark.slow

KERNELS = Path(__file__).resolve().parents[1] / "kernels" / "gpu"
SOURCES = sorted(path.name for path in KERNELS.glob("*.cu"))
TOLERANCE = {"float64": 1e-14, "float32": 2e-6}
dtypes = pytest.mark.parametrize("dtype", TOLERANCE)
activations = pytest.mark.parametrize("activation", ACTIVATIONS)
outputs = pytest.mark.parametrize("output", OUTPUTS)
keeps = pytest.mark.parametrize("keep_prob", [None, 0.6])
few = settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
shapes = st.tuples(st.integers(1, 40), st.integers(1, 20).map(lambda m: m * m))
seeds = st.integers(0, 2**32)


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.gpu)])
def gpu(request):
    """A GPU on which kernels run, simulated or real, chosen as the backend: its `cupy`."""
    if request.param == "simulated":
        return request.getfixturevalue("double_with_kernels")
    backend.use("cupy")
    return backend.current().xp


class Rows:
    """Stands for the transposed view of these rows."""

    def __init__(self, rows):
        self.rows = rows


def on_device(argument):
    if isinstance(argument, Rows):
        return to_device(argument.rows.copy()).T
    return to_device(argument.copy()) if isinstance(argument, np.ndarray) else argument


def done(forms, operation, arguments, changed):
    """What an operation leaves, on the host, of those arguments whose places are `changed`."""
    arguments = [on_device(argument) for argument in arguments]
    with np.errstate(all="ignore"):
        getattr(forms, operation)(*arguments)
    return [to_host(arguments[place]) for place in changed]


def check(operation, *arguments, changed, terms=1):
    """The kernel does what the vectorised form does; the results are sums of so many terms."""
    expected = done(operations.VECTORISED, operation, arguments, changed)
    got = done(cuda.operations(), operation, arguments, changed)
    tolerance = 4 * (1 + terms) ** 0.5
    for one, other in zip(expected, got, strict=True):
        assert one.dtype == other.dtype
        close = tolerance * TOLERANCE[one.dtype.name]
        np.testing.assert_allclose(other, one, rtol=close, atol=close)


def drawn(shape, dtype, seed, scale=2.0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(dtype)


def drawn_mask(shape, dtype, keep_prob, seed):
    if keep_prob is None:
        return None
    return ((np.random.default_rng(seed).random(shape) < keep_prob) / keep_prob).astype(dtype)


def labels(output, shape, dtype, seed):
    random = np.random.default_rng(seed)
    if output == "softmax":
        return accelnn.one_hot(random.integers(shape[0], size=shape[1]), shape[0]).astype(dtype)
    if output == "sigmoid":
        return random.random(shape).round(1).astype(dtype)  # soft labels too
    return random.normal(size=shape).astype(dtype)


def nan(shape, dtype):
    return np.full(shape, np.nan, dtype)


# --------------------------------------------------------------------------------------------
# each operation against the vectorised one


@pytest.mark.usefixtures("gpu")
@activations
@dtypes
@keeps
@few
@given(shape=shapes, seed=seeds)
@example(shape=(1, 1), seed=0)
@example(shape=(300, 2), seed=0)  # more rows than blocks
@example(shape=(2, 5003), seed=0)  # several blocks a row
@example(shape=(3, 4096), seed=0)
def test_bias_and_activation(activation, dtype, keep_prob, shape, seed):
    Z, b = drawn(shape, dtype, seed), drawn((shape[0], 1), dtype, seed + 1)
    D = drawn_mask(shape, dtype, keep_prob, seed)
    check("bias_activation", Z, b, activation, D, changed=[0])


@pytest.mark.usefixtures("gpu")
@activations
@dtypes
@keeps
@few
@given(shape=shapes, seed=seeds)
@example(shape=(1, 1), seed=0)
@example(shape=(300, 2), seed=0)
@example(shape=(2, 9001), seed=0)  # several blocks a row: sums of sums
@example(shape=(1, 40960), seed=0)
def test_derivative_and_its_sum(activation, dtype, keep_prob, shape, seed):
    dA, A = drawn(shape, dtype, seed), drawn(shape, dtype, seed + 1)
    D = drawn_mask(shape, dtype, keep_prob, seed)
    with np.errstate(all="ignore"):
        operations.bias_activation(A, np.zeros((shape[0], 1), dtype), activation, D)
    db = nan((shape[0], 1), dtype)
    keep = keep_prob or 1.0
    check(*("activation_gradient", dA, A, activation, db, D, keep), changed=[0, 3], terms=shape[1])


@pytest.mark.usefixtures("gpu")
@outputs
@dtypes
@pytest.mark.parametrize("with_cost", [True, False])
@pytest.mark.parametrize("order", ["outputs first", "examples first"])
@few
@given(shape=shapes, seed=seeds)
@example(shape=(1, 1), seed=0)
@example(shape=(10, 128), seed=0)  # one block
@example(shape=(3, 9001), seed=0)  # several
@example(shape=(700, 33), seed=0)
@example(shape=(10, 5000), seed=0)
def test_output_loss_and_gradient(output, dtype, with_cost, order, shape, seed):
    Z, b = drawn(shape, dtype, seed), drawn((shape[0], 1), dtype, seed + 1)
    Y = labels(output, shape, dtype, seed)
    if order == "examples first":
        Y = Rows(np.ascontiguousarray(Y.T))
    db, cost = nan((shape[0], 1), dtype), nan((), dtype) if with_cost else None
    changed = [0, 5, 6] if with_cost else [0, 5]
    # scaled so that sums are about as large as in a training
    arguments = Z, b, Y, output, 1 / shape[1], db, cost
    check("output_gradient", *arguments, changed=changed, terms=shape[0])


@pytest.mark.usefixtures("gpu")
@dtypes
@few
@given(count=st.integers(1, 3000), seed=seeds)
@example(count=1_100_001, seed=0)  # more than the grid does at once
def test_updates(dtype, count, seed):
    theta, step, M = (drawn(count, dtype, seed + i) for i in range(3))
    V = abs(drawn(count, dtype, seed + 3))
    check("update", theta, step, changed=[0])
    check("momentum_update", theta, step, M, 0.9, 0.01, changed=[0, 2])
    check("adam_update", theta, step, M, V, 0.9, 0.999, 0.001, 1e-8, changed=[0, 2, 3])


@dtypes
@pytest.mark.parametrize("offset", [1, 2, 4])
def test_updates_of_views_that_begin_anywhere(gpu, dtype, offset):
    results = []
    for forms in (operations.VECTORISED, cuda.operations()):
        theta, step = (to_device(drawn(99, dtype, i)) for i in range(2))
        forms.update(theta[offset:], step[offset:])
        results.append(to_host(theta))
    assert gpu is not np
    np.testing.assert_array_equal(*results)


EXTREME = np.array([0.0, -0.0, 1e-30, 20, -20, 100, -100, 1e4, -1e4, 3e38, -3e38])


@pytest.mark.usefixtures("gpu")
@activations
@dtypes
def test_extreme_numbers_overflow_nowhere(activation, dtype):
    Z, zero = EXTREME[None].astype(dtype), np.zeros((1, 1), dtype)
    check("bias_activation", Z, zero, activation, None, changed=[0])
    [A] = done(cuda.operations(), "bias_activation", (Z, zero, activation, None), [0])
    assert np.isfinite(A).all()
    if (activation, dtype) == ("sigmoid", "float64"):  # CuPy has denormal float32 flushed to 0
        assert (A > 0).all()


@pytest.mark.usefixtures("gpu")
@outputs
@dtypes
def test_extreme_logits_give_finite_gradients_and_costs(output, dtype):
    if output == "linear":
        pytest.skip("its loss is the square, which has to overflow")
    logits = EXTREME[:9].astype(dtype)
    Z = np.stack([np.repeat(logits, 9), np.tile(logits, 9)])
    for Y in (np.eye(2, dtype=dtype)[[0] * 81].T, np.eye(2, dtype=dtype)[[1] * 81].T):
        zero, db, cost = np.zeros((2, 1), dtype), nan((2, 1), dtype), nan((), dtype)
        arguments = Z, zero, Y, output, 1 / 81, db, cost
        check("output_gradient", *arguments, changed=[0, 5, 6])
        assert all(
            np.isfinite(array).all()
            for array in done(cuda.operations(), "output_gradient", arguments, [0, 5, 6])
        )


SPECIAL = [np.nan, np.inf, -np.inf]


@pytest.mark.usefixtures("gpu")
@activations
@dtypes
@keeps
def test_nan_and_infinity_come_out_where_the_vectorised_form_has_them(activation, dtype, keep_prob):
    Z = drawn((6, 40), dtype, 0)
    dA, b = drawn(Z.shape, dtype, 1), drawn((6, 1), dtype, 2)
    Z[1, :3] = dA[1, 6:9] = SPECIAL
    Z[2, 5], dA[3, 7], b[5] = np.nan, np.inf, np.nan
    D = drawn_mask(Z.shape, dtype, keep_prob, 3)
    check("bias_activation", Z, b, activation, D, changed=[0])
    [A] = done(operations.VECTORISED, "bias_activation", (Z, b, activation, D), [0])
    arguments = dA, A, activation, nan((6, 1), dtype), D, keep_prob or 1.0
    check("activation_gradient", *arguments, changed=[0, 3], terms=40)


@pytest.mark.usefixtures("gpu")
@outputs
@dtypes
@pytest.mark.parametrize("place", range(3))
def test_nan_and_infinity_of_logits_reach_the_cost(output, dtype, place):
    Z, b = drawn((3, 40), dtype, 0), drawn((3, 1), dtype, 1)
    Z[place, 5], Z[:, 6] = SPECIAL[place], SPECIAL[place]
    Y = labels(output, Z.shape, dtype, 2)
    arguments = Z, b, Y, output, 1 / 40, nan((3, 1), dtype), nan((), dtype)
    check("output_gradient", *arguments, changed=[0, 5, 6])


# --------------------------------------------------------------------------------------------
# how they run


LARGE = {
    "activation_gradient": lambda: (
        *(drawn((2, 9001), "float32", 0), drawn((2, 9001), "float32", 1), "tanh"),
        *(nan((2, 1), "float32"), None, 1.0),
    ),
    "output_gradient": lambda: (
        *(drawn((3, 9001), "float32", 0), drawn((3, 1), "float32", 1)),
        *(labels("softmax", (3, 9001), "float32", 0), "softmax", 1 / 9001),
        *(nan((3, 1), "float32"), nan((), "float32")),
    ),
}
CHANGED = {"activation_gradient": [0, 3], "output_gradient": [0, 5, 6]}


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("operation", LARGE)
def test_sums_over_many_blocks_give_the_same_bits_each_time(operation, monkeypatch):
    results = set()
    for order in range(5):  # in which simulated threads and blocks run
        monkeypatch.setattr(host_cuda, "seed", order)
        made = done(cuda.operations(), operation, LARGE[operation](), CHANGED[operation])
        results.add(b"".join(array.tobytes() for array in made))
    assert len(results) == 1


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("order", range(3))
@pytest.mark.parametrize(
    ("grid", "block"), [((1, 1), (32, 1)), ((3, 2), (32, 8)), ((40, 1), (32, 4)), ((2, 3), (64, 2))]
)
def test_any_grid_of_any_blocks_of_whole_warps_is_right(grid, block, order, monkeypatch):
    planned, (x, y) = cuda._planned, block

    def other(function, dtype, n, m):
        plan = {
            "bias_activation": cuda.Plan(grid, block),
            "activation_gradient": cuda.Plan(
                grid, block, x * y // 32 * dtype.itemsize, n * grid[0], -(-n // y)
            ),
            "output_gradient": cuda.Plan(
                grid[:1], block, (n * x // 32 + x * y) * dtype.itemsize, (n + 1) * grid[0], 1
            ),
        }.get(function, cuda.Plan(grid[:1], (x * y,)))
        return planned(function, dtype, n, m)[0], plan

    monkeypatch.setattr(cuda, "_planned", other)
    monkeypatch.setattr(host_cuda, "seed", order)
    shape, dtype = (13, 132), "float32"
    Z, dA, b = (drawn(size, dtype, i) for i, size in enumerate((shape, shape, (13, 1))))
    D, db, cost = drawn_mask(shape, dtype, 0.5, 3), nan((13, 1), dtype), nan((), dtype)
    check("bias_activation", Z, b, "tanh", D, changed=[0])
    check("activation_gradient", dA, np.tanh(Z), "tanh", db, D, 0.5, changed=[0, 3], terms=132)
    Y = labels("softmax", shape, dtype, 4)
    check("output_gradient", Z, b, Y, "softmax", 1 / 132, db, cost, changed=[0, 5, 6], terms=13)
    check("update", Z.ravel(), dA.ravel(), changed=[0])
    D = to_device(D)
    cuda.Philox(5).draw(D, 0.5, 6, 7)
    np.testing.assert_array_equal(to_host(D), expected_mask(shape, 0.5, 5, 6, 7))


def test_each_operation_is_one_launch_and_waits_for_nothing(double_with_kernels):
    flat = [nan(20, "float32") for _ in range(4)]
    calls = {
        "bias_activation": (nan((3, 8), "f4"), nan((3, 1), "f4"), "relu", nan((3, 8), "f4")),
        **{operation: arguments() for operation, arguments in LARGE.items()},
        "update": flat[:2],
        "momentum_update": (*flat[:3], 0.9, 0.1),
        "adam_update": (*flat, 0.9, 0.999, 0.1, 1e-8),
    }
    assert set(calls) == set(operations.Operations._fields)
    counts = double_with_kernels.counts
    for operation, arguments in calls.items():
        arguments = [on_device(argument) for argument in arguments]
        before = counts.launches, counts.synchronizations, counts.uploads
        getattr(cuda.operations(), operation)(*arguments)
        after = counts.launches, counts.synchronizations, counts.uploads
        assert after == (before[0] + 1, *before[1:])


def test_arrays_that_no_kernel_takes_go_to_the_vectorised_form(double_with_kernels):
    def transposed(*shape):
        return Rows(drawn(shape[::-1], "float32", 0))

    def half(count):
        return on_device(drawn(2 * count, "float32", 0))[::2]

    Z, b = drawn((4, 6), "float32", 1), drawn((4, 1), "float32", 2)
    Y, db = labels("softmax", (4, 6), "float32", 3), nan((4, 1), "float32")
    check("bias_activation", transposed(4, 6), b, "relu", None, changed=[0])
    check("bias_activation", Z, b.astype("float64"), "relu", None, changed=[0])
    check("bias_activation", Z, b, "relu", drawn((1, 6), "float32", 3), changed=[0])
    check("bias_activation", drawn((4, 0), "float32", 1), b, "relu", None, changed=[0])
    check("activation_gradient", transposed(4, 6), Z, "tanh", db, None, 1.0, changed=[0, 3])
    check("output_gradient", transposed(4, 6), b, Y, "softmax", 0.1, db, None, changed=[0, 5])
    check("output_gradient", Z, b, Y.astype("f8"), "softmax", 0.1, db, None, changed=[0, 5])
    check("output_gradient", Z, b, Y[:, :1], "softmax", 0.1, db, None, changed=[0, 5])
    tall, tall_b = drawn((20_000, 2), "float32", 0), drawn((20_000, 1), "float32", 0)
    arguments = tall, tall_b, tall, "linear", 0.1, nan((20_000, 1), "float32"), None
    check("output_gradient", *arguments, changed=[0, 5])
    for operation, others in (
        ("update", ()),
        ("momentum_update", (0.9, 0.1)),
        ("adam_update", (0.9, 0.9, 0.1, 1e-8)),
    ):
        flat = [half(7) for _ in range({"adam_update": 4, "momentum_update": 3}.get(operation, 2))]
        getattr(cuda.operations(), operation)(*flat, *others)
        check(operation, *(drawn(0, "float32", 0) for _ in flat), *others, changed=[0])
    assert double_with_kernels.counts.launches == 0


@given(
    n=st.integers(1, 2**20),
    m=st.integers(1, 2**29),
    itemsize=st.sampled_from([4, 8]),
    multiprocessors=st.sampled_from([1, 4, 108, 132]),
)
def test_launches_keep_to_the_limits_of_cuda(n, m, itemsize, multiprocessors):
    for plan in (plan(n, m, itemsize, multiprocessors) for plan in set(cuda.PLANS.values())):
        assert all(size >= 1 for size in (*plan.grid, *plan.block))
        assert plan.grid[0] < 2**31
        assert all(size < 2**16 for size in plan.grid[1:])
        assert plan.block[0] % 32 == 0
        assert plan.partial < 2**31
    x, y = cuda.columns_plan(n, m, itemsize, multiprocessors).block
    assert x * y <= 4096 // itemsize
    assert y & (y - 1) == 0
    for plan in (cuda.rows_plan, cuda.row_sums_plan):
        x, y = plan(n, m, itemsize, multiprocessors).block
        assert x * y == cuda.THREADS


def test_a_larger_sum_takes_more_scratch_and_leaves_captured_launches_theirs(gpu):
    def sizes():
        kept = cuda._kept(gpu, device, stream, np.dtype("float32"))
        assert not any(to_host(counters).any() for _, counters in kept)
        return [(partial.size, counters.size) for partial, counters in kept]

    device, stream = gpu.cuda.runtime.getDevice(), gpu.cuda.get_current_stream().ptr
    seen = sizes()
    most = len(seen) + 3
    for plan in ((10, 1), (3, 40), (10, 1), (1000, 2), (900, 60)):
        taken = cuda._scratch(cuda.Plan((1,), (32,), 0, *plan), np.dtype("float32"))
        assert taken[0].size >= plan[0]
        assert taken[1].size >= plan[1]
        now = sizes()
        assert now[: len(seen)] == seen
        assert now == sorted(now)
        seen = now
    assert len(seen) <= most


# --------------------------------------------------------------------------------------------
# the registry


def test_kernels_take_their_places_when_the_first_array_is_met(double_with_kernels):
    assert operations._chosen["cupy"] == operations.VECTORISED
    one = double_with_kernels.ones(1)
    assert operations.operations_for(one) == cuda.operations()
    assert operations.operations_for(np.ones(1)) == operations._chosen["numpy"]


def test_forms_registered_before_stay(double_with_kernels):
    def mine(parameters, step):
        operations.update(parameters, step)

    operations.register("cupy", update=mine)
    chosen = operations.operations_for(double_with_kernels.ones(1))
    assert chosen == cuda.operations()._replace(update=mine)


def test_without_kernels_the_vectorised_forms_serve(double):
    assert operations.operations_for(double.ones(1)) == operations.VECTORISED


def test_kernels_that_do_not_compile_are_told_of_once(double_with_kernels, monkeypatch):
    def fail(*_args, **_kwargs):
        raise RuntimeError("libnvrtc.so.13 not found")

    monkeypatch.setattr(device_double.RawModule, "get_function", fail)
    one = double_with_kernels.ones(1)
    with pytest.warns(RuntimeWarning, match="do not compile.*vectorised.*libnvrtc.so.13 not found"):
        assert operations.operations_for(one) == operations.VECTORISED
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert operations.operations_for(one) == operations.VECTORISED
    X, Y = to_device(np.ones((2, 3))), to_device(np.ones((1, 3)))
    net = Network([2, 4, 1], keep_prob=0.5)
    first, rest = net.init(dtype="float64"), {"epochs": 3, "learning_rate": 0.1}
    _, history = accelnn.fit(net, first, X, Y, solver="direct", **rest)
    assert np.isfinite(history.final_cost)


# --------------------------------------------------------------------------------------------
# random numbers

# From the authors' Random123, examples/kat_vectors: counter, key and result of philox4x32-10
KNOWN = [
    ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
TRIED = """
extern "C" __global__ void philox_words(const unsigned* counter, const unsigned* key, unsigned* out)
{
    const Words words = {{counter[0], counter[1], counter[2], counter[3]}};
    const Words drawn = philox(words, key[0], key[1]);
    for (int k = 0; k < 4; ++k)
        out[k] = drawn.at[k];
}
extern "C" __global__ void each_dropout(REAL* D, int n, int m, REAL keep, unsigned long long seed,
                                        long long step, int layer)
{
    for (int j = threadIdx.x; j < m; j += blockDim.x)  // by columns, as a solver may go
        for (int i = 0; i < n; ++i)
            D[i * m + j] = dropout(seed, step, layer, (long long)i * m + j, keep);
}
"""


def tried(gpu, name, dtype="float32"):
    options = ("-std=c++17", f"-DREAL={cuda.REAL[np.dtype(dtype)]}")
    return gpu.RawModule(code=cuda.with_common(TRIED), options=options).get_function(name)


def philox(counter, key):
    """Philox4x32-10 as the paper has it; counter (4, ...) and key (2,)."""
    c = [np.asarray(word, np.uint64) for word in counter]
    low = np.uint64(2**32 - 1)
    for turn in range(10):
        k0, k1 = (
            np.uint64((word + turn * bump) % 2**32)
            for word, bump in zip(key, (0x9E3779B9, 0xBB67AE85), strict=True)
        )
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [p1 >> 32 ^ c[1] ^ k0, p1 & low, p0 >> 32 ^ c[3] ^ k1, p0 & low]
    return c


def expected_mask(shape, keep, seed, step, layer, dtype="float32"):
    groups = np.arange(-(-np.prod(shape) // 4))
    counter = (groups, np.full_like(groups, layer << 16), step % 2**32, step >> 32)
    words = np.stack(np.broadcast_arrays(*philox(counter, (seed % 2**32, seed >> 32))), -1)
    uniform = (words.ravel()[: np.prod(shape)] >> 8) / 2.0**24
    return np.where(uniform < keep, np.dtype(dtype).type(1 / keep), 0).reshape(shape)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_gives_the_published_numbers(gpu, counter, key, words):
    assert tuple(map(int, philox(counter, key))) == words
    given = [to_device(np.array(numbers, np.uint32)) for numbers in (counter, key, [0] * 4)]
    tried(gpu, "philox_words")((1,), (32,), tuple(given))
    assert tuple(map(int, to_host(given[2]))) == words


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 64), (2, 9001)])
@pytest.mark.parametrize(("seed", "step", "layer"), [(0, 0, 0), (2**40 + 3, 2**33 + 5, 2)])
def test_each_number_of_a_mask_follows_from_where_it_stands(gpu, dtype, shape, seed, step, layer):
    keep = 0.75
    D, each = (gpu.empty(shape, dtype) for _ in range(2))
    cuda.Philox(seed).draw(D, keep, step, layer)
    expected = expected_mask(shape, keep, seed, step, layer, dtype)
    np.testing.assert_array_equal(to_host(D), expected)
    where = np.dtype(dtype).type(keep), np.uint64(seed), np.int64(step), np.int32(layer)
    sizes = (np.int32(size) for size in shape)
    tried(gpu, "each_dropout", dtype)((1,), (64,), (each, *sizes, *where))
    np.testing.assert_array_equal(to_host(each), expected)


def test_masks_keep_their_share_and_do_not_resemble_each_other(gpu):
    masks = []
    for seed, step, layer in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
        D = gpu.empty((100, 200), np.float32)
        cuda.Philox(seed).draw(D, 0.7, step, layer)
        masks.append(to_host(D) > 0)
    deviation = (0.7 * 0.3 / 20_000) ** 0.5
    for number, kept in enumerate(masks):
        assert abs(kept.mean() - 0.7) < 5 * deviation
        for other in masks[:number]:
            together = (kept & other).mean()
            assert abs(together - 0.49) < 5 * (0.49 * 0.51 / 20_000) ** 0.5


def test_a_mask_of_a_wrong_kind_is_refused(double_with_kernels):
    D = double_with_kernels.empty((4, 6), np.float32)
    with pytest.raises(ValueError, match="C-contiguous"):
        cuda.Philox(0).draw(D.T, 0.5, 0, 0)
    cuda.Philox(0).draw(D[:0], 0.5, 0, 0)


@pytest.mark.parametrize("options", [{}, {"batch_size": 7}])
def test_dropout_trains_the_same_on_the_gpu_each_time(gpu, options):
    assert gpu is not np
    net = Network([5, 8, 6, 3], hidden=("tanh", "relu"), output="softmax", keep_prob=(0.8, 0.5))
    random = np.random.default_rng(0)
    X = to_device(random.normal(size=(5, 20)), "float64")
    Y = to_device(accelnn.one_hot(np.arange(20) % 3, 3))
    first = net.init("he", dtype="float64")

    def costs(solver="direct", seed=0):
        rest = {"epochs": 12, "learning_rate": 0.1, "record_every": 1, "seed": seed}
        return accelnn.fit(net, first, X, Y, solver=solver, **rest, **options)[1].costs

    assert costs() == costs()
    assert costs() != costs(seed=1)
    if not options:
        np.testing.assert_allclose(costs("gram"), costs(), rtol=1e-12)


# --------------------------------------------------------------------------------------------
# trainings

TRAININGS = {
    "full batches": ("direct", {}),
    "momentum": ("direct", {"optimizer": "momentum"}),
    "adam on mini-batches": ("direct", {"batch_size": 6, "optimizer": "adam"}),
    "sample space": ("gram", {}),
}
NET = Network([5, 6, 4, 3], hidden=("tanh", "leaky_relu"), output="softmax", l2=0.1)


def data(dtype="float64"):
    X = np.random.default_rng(0).normal(size=(5, 20)).astype(dtype)
    return X, accelnn.one_hot(np.arange(20) % 3, 3).astype(dtype)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("training", TRAININGS)
def test_kernels_give_the_training_of_the_host(training):
    solver, options = TRAININGS[training]
    options = {"epochs": 20, "learning_rate": 0.02, "record_every": 1, "solver": solver} | options
    first = NET.init("he", dtype="float64")
    there, history = accelnn.fit(NET, first, *map(to_device, data()), **options)
    with accelnn.use("numpy"):
        here, same = accelnn.fit(NET, NET.init("he"), *data(), **options)
    np.testing.assert_allclose(history.costs, same.costs, rtol=1e-11)
    np.testing.assert_allclose(to_host(there.flat), here.flat, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.parametrize("keep_prob", [1.0, 0.8])
def test_a_step_is_as_many_launches_as_operations(double_with_kernels, training, keep_prob):
    solver, options = TRAININGS[training]
    net = Network(NET.layers, hidden=NET.hidden, output="softmax", keep_prob=keep_prob)
    X, Y = map(to_device, data("float32"))
    options = {"learning_rate": 0.02, "solver": solver} | options
    counts, totals = double_with_kernels.counts, []
    for epochs in (1, 11):
        counts.launches = counts.synchronizations = 0
        accelnn.fit(net, net.init(), X, Y, epochs=epochs, record_every=20, **options)
        totals.append((counts.launches, counts.synchronizations))
    (before, waited), (after, waited_too) = totals
    masks = 2 * (keep_prob < 1)
    batches = 4 if "batch_size" in options else 1
    # two layers forward and two backward, the output, the update, and the masks
    assert after - before == 10 * batches * (2 + 2 + 1 + 1 + masks)
    assert waited == waited_too


# --------------------------------------------------------------------------------------------
# compiled for the cards

ARCHITECTURES = ("80", "90")
# those in which every access to memory counts, and hardly one may be for want of registers: some
# compilers save one or two around the rare cases of a division
WITHOUT_SPILLS = {"operations.cu"}
BY_NVRTC = """
import sys
from cupy_backends.cuda.libs import nvrtc
program = nvrtc.createProgram(sys.stdin.read(), "kernel.cu", (), ())
try:
    nvrtc.compileProgram(program, tuple(sys.argv[1:]))
except Exception:
    sys.exit(nvrtc.getProgramLog(program))
sys.exit(not nvrtc.getCUBIN(program))
"""


@pytest.fixture(scope="module")
def nvrtc():
    """Skips where CuPy's NVRTC is not at hand; it is asked in a process of its own."""
    asked = 'from cupy_backends.cuda.libs import nvrtc; nvrtc.createProgram("", "", (), ())'
    if subprocess.run([sys.executable, "-c", asked], capture_output=True).returncode:
        pytest.skip("there is neither nvcc nor CuPy with NVRTC")


VARIANTS = [(name, dtype) for name in SOURCES for dtype in TOLERANCE]


@pytest.mark.parametrize(
    ("name", "dtype", "define"),
    [*((*variant, "") for variant in VARIANTS), ("step.cu", "float32", "-DBFLOAT16")],
)
def test_sources_compile_to_machine_code_without_headers(name, dtype, define, tmp_path, request):
    options = ["-std=c++17", f"-DREAL={cuda.REAL[np.dtype(dtype)]}", *define.split()]
    code = cuda.source(name)
    assert "#include" not in code
    if shutil.which("nvcc") is None:
        request.getfixturevalue("nvrtc")
        for architecture in ARCHITECTURES:
            command = [sys.executable, "-c", BY_NVRTC, *options, f"-arch=sm_{architecture}"]
            tried = subprocess.run(command, input=code, capture_output=True, text=True)
            assert tried.returncode == 0, tried.stderr
        return
    file = tmp_path / name
    file.write_text(code)
    for architecture in ARCHITECTURES:
        options.append(f"-gencode=arch=compute_{architecture},code=sm_{architecture}")
    command = ["nvcc", "-fatbin", "-Werror=all-warnings", "-Xptxas=-v", *options, str(file)]
    command.append("--threads=2")
    tried = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert tried.returncode == 0, tried.stdout + tried.stderr
    if name in WITHOUT_SPILLS:
        spilled = re.findall(r"(\d+) bytes spill (?:stores|loads)", tried.stdout + tried.stderr)
        assert spilled
        assert max(map(int, spilled)) <= 16


def test_kinds_are_numbered_as_in_the_loops():
    text = (KERNELS / "common.cuh").read_text()
    [names] = re.findall(r"enum Kind \{(.*?)\}", text)
    assert names.replace(",", " ").lower().split() == sorted(KINDS, key=KINDS.get)


def test_an_error_in_a_source_names_its_own_line(double_with_kernels):
    code = '// a comment\n#include "common.cuh"\n\nnonsense\nextern "C" __global__ void f(int x) {}'
    module = double_with_kernels.RawModule(code=cuda.with_common(code, "tried.cu"))
    with pytest.raises(device_double.CompileException, match="tried.cu:4:.*nonsense"):
        module.get_function("f")
