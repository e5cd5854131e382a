"""exp, log, log1p and tanh of kernels/cpu/elementary.py and the sigmoid made of them: their errors
in ulp, their values at the ends of their domains, and that loops over them run in SIMD lanes."""

import math
import re

import numba
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from llvmlite import binding as llvm

from accelnn.kernels import jit, loops
from accelnn.kernels.cpu import elementary

ULP = {"exp": 1.5, "log": 1.5, "log1p": 2.0, "tanh": 3.0, "sigmoid": 3.0}  # found: see the module
INF, NAN = math.inf, math.nan
LN2 = math.log(2.0)
DTYPES = ("float64", "float32")

every_function = pytest.mark.parametrize("name", ULP)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
needs_long_double = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < 63, reason="long double is no better than float64"
)


def loop_over(f, **options):
    def loop(z, out):
        for j in range(len(z)):
            out[j] = f(z[j])

    return numba.njit(loop, **options)


COMPILED = {(name, dtype): jit.cpu_functions(dtype)[name] for name in ULP for dtype in DTYPES}
LOOPS = {key: loop_over(f) for key, f in COMPILED.items()}


def in_loop(name, z):
    out = np.empty_like(z)
    LOOPS[name, z.dtype.name](z, out)
    return out


def in_python(name, z):
    function = getattr(loops if name == "sigmoid" else elementary, name)
    return np.array([function(x) for x in z.tolist()])


def reference(name, z):
    """In long double; the sigmoid as 1 / (1 + e⁻ᶻ), which overflows nowhere above -11000."""
    with np.errstate(all="ignore"):
        z = z.astype(np.longdouble)
        if name == "sigmoid":
            return 1 / (1 + np.exp(-np.maximum(z, -11000)))
        return getattr(np, name)(z)


def ulps(actual, expected):
    """|actual - expected| in units of the last place of actual's dtype; NaN must meet NaN.

    Infinity counts as the power of two that follows the largest number.
    """
    numbers, dtype = ~np.isnan(expected), actual.dtype
    np.testing.assert_array_equal(np.isnan(actual), ~numbers)
    end = np.ldexp(np.longdouble(1), np.finfo(dtype).maxexp)
    actual = np.clip(actual[numbers].astype(np.longdouble), -end, end)
    expected = np.clip(expected[numbers].astype(np.longdouble), -end, end)
    last_place = np.spacing(np.minimum(abs(expected), end / 2).astype(dtype))
    return (abs(actual - expected) / last_place).astype(float)


def both_signs(z):
    return np.concatenate([z, -z])


def neighbours(z, steps, size):
    """Each of z, and numbers beside it in steps of this relative size, in ascending order."""
    return abs(z)[:, None] * (np.arange(-steps, steps + 1) * size) + z[:, None]


def half_ln2(dtype):
    """Odd multiples of ln(2)/2, where the k of exp changes."""
    info = np.finfo(dtype)
    odd = np.arange(-2 * (info.maxexp + info.nmant) - 1, 2 * info.maxexp, 2)
    return LN2 / 2 * odd


def sqrt_halves(dtype):
    """sqrt(1/2) times powers of two, where the k of the logarithms changes."""
    info = np.finfo(dtype)
    return np.ldexp(math.sqrt(0.5), np.arange(info.minexp + 2, info.maxexp))


def sweeps(dtype):
    info, rng = np.finfo(dtype), np.random.default_rng(5)
    integer = {"float64": np.int64, "float32": np.int32}[dtype]
    end = {"float64": 750, "float32": 110}[dtype]  # beyond the ends of exp
    halves = sqrt_halves(dtype)
    arrays = {
        "bit patterns": np.frombuffer(rng.bytes(100_000 * info.dtype.itemsize), dtype),
        "all magnitudes": both_signs(
            np.exp2(rng.uniform(info.minexp - info.nmant, info.maxexp, 100_000))
        ),
        "subnormal": both_signs(rng.integers(1, 2**info.nmant, 10_000, integer).view(dtype)),
        "ordinary magnitudes": both_signs(np.exp2(np.linspace(-60, 11, 100_000))),
        "linear, wide": np.linspace(-end, end, 100_001),
        "linear, narrow": np.linspace(-25, 25, 200_001),
        "linear, near 0": np.linspace(-1.5, 1.5, 200_001),
        "near 1": 1 + both_signs(np.exp2(rng.uniform(-info.nmant - 1, -1, 50_000))),
        "reduction of exp": neighbours(half_ln2(dtype), 4, float(info.eps)).ravel(),
        "reduction of log": neighbours(halves, 4, float(info.eps)).ravel(),
        "reduction of log1p": neighbours(halves - 1, 4, float(info.eps)).ravel(),
    }
    with np.errstate(over="ignore"):
        return {sweep: z.astype(dtype) for sweep, z in arrays.items()}


SWEEPS = {dtype: sweeps(dtype) for dtype in DTYPES}


@needs_long_double
@every_dtype
@every_function
def test_errors_are_within_a_few_ulp(name, dtype):
    for sweep, z in SWEEPS[dtype].items():
        errors = ulps(in_loop(name, z), reference(name, z))
        worst = errors.argmax()
        at = z[~np.isnan(reference(name, z))][worst]
        assert errors[worst] <= ULP[name], f"{sweep}: at {at!r}"


@needs_long_double
@every_dtype
@every_function
@given(x=st.floats())
def test_errors_of_arbitrary_numbers_are_within_a_few_ulp(name, dtype, x):
    with np.errstate(over="ignore"):
        z = np.array([x]).astype(dtype)
    assert (ulps(in_loop(name, z), reference(name, z)) <= ULP[name]).all()


def special_values(dtype):
    """Arguments and values of each function, exact but for the rounding to the dtype."""
    info = np.finfo(dtype)
    tiny, normal = float(info.smallest_subnormal), float(info.smallest_normal)
    low, huge = float(info.smallest_subnormal) * 10_000, float(info.max) / 2
    small = float(info.eps) / 16  # 1 + small is 1
    end = {"float64": 710.0, "float32": 89.0}[dtype]  # exp is infinite from here on
    last, zero = {"float64": (-745.0, -745.2), "float32": (-103.9, -104.0)}[dtype]  # tiny, and 0
    one = {"float64": 20.0, "float32": 10.0}[dtype]  # the tanh of this
    return {
        "exp": [(0.0, 1.0), (-0.0, 1.0), (tiny, 1.0), (-small, 1.0), (INF, INF), (-INF, 0.0),
                (end, INF), (huge, INF), (last, tiny), (zero, 0.0), (-huge, 0.0)],
        "log": [(1.0, 0.0), (0.0, -INF), (-0.0, -INF), (-tiny, NAN), (-1.0, NAN), (-INF, NAN),
                (INF, INF), (2.0, LN2), (tiny, math.log(tiny)), (normal, math.log(normal))],
        "log1p": [(0.0, 0.0), (-0.0, -0.0), (tiny, tiny), (-tiny, -tiny), (small, small),
                  (-small, -small), (-1.0, -INF), (-1.1, NAN), (-INF, NAN), (INF, INF), (1.0, LN2)],
        "tanh": [(0.0, 0.0), (-0.0, -0.0), (tiny, tiny), (-tiny, -tiny), (low, low),
                 (small, small), (one, 1.0), (-one, -1.0), (huge, 1.0), (INF, 1.0), (-INF, -1.0)],
        "sigmoid": [(0.0, 0.5), (-0.0, 0.5), (tiny, 0.5), (40.0, 1.0), (huge, 1.0), (INF, 1.0),
                    (last, tiny), (zero, 0.0), (-huge, 0.0), (-INF, 0.0)],
    }  # fmt: skip


@every_dtype
@every_function
def test_special_values_are_exact(name, dtype):
    x, expected = np.array([*special_values(dtype)[name], (NAN, NAN)]).T.astype(dtype)
    numbers = ~np.isnan(expected)
    for run in (in_loop, in_python) if dtype == "float64" else (in_loop,):
        actual = run(name, x)
        np.testing.assert_array_equal(actual, expected)
        np.testing.assert_array_equal(np.signbit(actual[numbers]), np.signbit(expected[numbers]))


@every_dtype
@every_function
def test_functions_do_not_decrease_where_the_reduction_changes(name, dtype):
    """By more than one ulp, because tanh fluctuates near 1; in float32, by two."""
    for boundaries in (half_ln2(dtype), sqrt_halves(dtype), sqrt_halves(dtype) - 1):
        z = neighbours(boundaries, 8, 64 * float(np.finfo(dtype).eps)).astype(dtype)
        values = in_loop(name, z.ravel()).reshape(z.shape)
        values = values[~np.isnan(values).any(axis=1)]
        before = values[:, :-1]
        for _ in range({"float64": 1, "float32": 2}[dtype]):
            before = np.nextafter(before, np.array(-INF, dtype))
        assert (values[:, 1:] >= before).all()


@every_dtype
@example(x=20.0)
@example(x=-710.0)
@given(x=st.floats(allow_nan=False))
def test_values_keep_to_their_ranges_and_symmetries(dtype, x):
    with np.errstate(over="ignore"):
        z = np.array([x, -x]).astype(dtype)
    f = {name: in_loop(name, z) for name in ULP}
    assert f["exp"].min() >= 0.0
    assert abs(f["tanh"]).max() <= 1.0
    assert f["tanh"][0] == -f["tanh"][1]
    assert 0.0 <= f["sigmoid"].min() <= f["sigmoid"].max() <= 1.0
    assert f["sigmoid"].sum() == pytest.approx(1.0, abs=float(5 * np.finfo(dtype).eps))


@every_dtype
@given(part=st.floats(-1, 1))
def test_logarithm_inverts_exponential(dtype, part):
    x = np.array([{"float64": 700, "float32": 87}[dtype] * part], dtype)
    back, error = in_loop("log", in_loop("exp", x))[0], float(5 * np.finfo(dtype).eps)
    assert back == pytest.approx(x[0], rel=error, abs=error)


@every_function
def test_uncompiled_functions_agree_with_compiled_ones(name):
    """Up to the FMAs, which Python does without."""
    z = np.concatenate([sweep[::100] for sweep in SWEEPS["float64"].values()])
    assert ulps(in_python(name, z), in_loop(name, z)).max() <= 2.0


@every_dtype
@every_function
def test_fast_math_of_the_caller_stays_with_the_caller(name, dtype):
    z = SWEEPS[dtype]["linear, narrow"]
    out = np.empty_like(z)
    fast = {"contract", "reassoc", "nsz", "arcp", "afn"}
    loop_over(COMPILED[name, dtype], fastmath=fast)(z, out)
    np.testing.assert_array_equal(out, in_loop(name, z))


def features():
    """The processor's features that Numba uses: NUMBA_CPU_NAME and _FEATURES may ask for fewer."""
    if numba.config.CPU_FEATURES is not None:
        return set(re.findall(r"\+([^,]+)", numba.config.CPU_FEATURES))
    return {name for name, present in llvm.get_host_cpu_features().items() if present}


@pytest.mark.skipif(
    not {"avx2", "fma"} <= features(),
    reason="Numba does not compile for AVX2 and FMA, whose instructions are looked for",
)
@every_dtype
@every_function
def test_loops_run_in_simd_lanes(name, dtype):
    in_loop(name, np.ones(8, dtype))
    loop = LOOPS[name, dtype]
    assembly = loop.inspect_asm(loop.signatures[0])
    lanes = {"float64": "pd", "float32": "ps"}[dtype]
    assert re.search(rf"vfn?m(add|sub)\d+{lanes}\s.*%[yz]mm", assembly)
    assert bool(re.search(rf"vdiv{lanes}\s.*%[yz]mm", assembly)) == (name != "exp")
    if dtype == "float32":
        assert not re.search(r"v(fn?m(add|sub)\d+|mul|div|cvt.*)pd\s", assembly)


@pytest.mark.parametrize("name", ["sigmoid", "logistic_loss"])
def test_the_notes_loops_keep_to_the_type_of_their_argument(name):
    """Python's numbers too, integers among them."""
    arguments = {"sigmoid": (2,), "logistic_loss": (2, 1)}[name]
    expected = {"sigmoid": 1 / (1 + math.exp(-2)), "logistic_loss": math.log1p(math.exp(-2))}[name]
    assert getattr(loops, name)(*arguments) == pytest.approx(expected, rel=1e-15)
    assert getattr(jit.serial, name)(*arguments) == pytest.approx(expected, rel=1e-15)
    function = jit.cpu_functions("float32")[name]
    calls = {"sigmoid": lambda z: function(z), "logistic_loss": lambda z, y: function(z, y)}
    single = numba.njit(calls[name])
    single(*map(np.float32, arguments))
    assert [types.return_type for types in single.nopython_signatures] == [numba.float32]
