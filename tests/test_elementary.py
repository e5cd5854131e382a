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
INF, NAN, TINY = math.inf, math.nan, 5e-324  # TINY is the smallest subnormal number
LN2 = math.log(2.0)

every_function = pytest.mark.parametrize("name", ULP)
needs_long_double = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < 63, reason="long double is no better than float64"
)


def loop_over(f, **options):
    def loop(z, out):
        for j in range(len(z)):
            out[j] = f(z[j])

    return numba.njit(loop, **options)


COMPILED = {name: jit.cpu_functions()[name] for name in ULP}
LOOPS = {name: loop_over(f) for name, f in COMPILED.items()}


def in_loop(name, z):
    out = np.empty_like(z)
    LOOPS[name](z, out)
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
    """|actual - expected| in units of the last place of float64; NaN must meet NaN.

    Infinity counts as 2¹⁰²⁴, which follows the largest float64.
    """
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(actual), ~numbers)
    end = np.ldexp(np.longdouble(1), 1024)
    actual = np.clip(actual[numbers].astype(np.longdouble), -end, end)
    expected = np.clip(expected[numbers].astype(np.longdouble), -end, end)
    last_place = np.spacing(np.minimum(abs(expected), 2.0**1023).astype(float))
    return (abs(actual - expected) / last_place).astype(float)


def both_signs(z):
    return np.concatenate([z, -z])


def neighbours(z, steps, size):
    """Each of z, and numbers beside it in steps of this relative size, in ascending order."""
    return abs(z)[:, None] * (np.arange(-steps, steps + 1) * size) + z[:, None]


rng = np.random.default_rng(5)
HALF_LN2 = LN2 / 2 * np.concatenate([np.arange(-2152, 0), np.arange(1, 2052)])  # odd: k changes
SQRT_HALVES = np.ldexp(math.sqrt(0.5), np.arange(-1020, 1024))  # where k of the logarithms changes
SWEEPS = {
    "bit patterns": rng.integers(-(2**63), 2**63 - 1, 100_000).view(np.float64),
    "all magnitudes": both_signs(np.exp2(rng.uniform(-1074, 1024, 100_000))),
    "subnormal": both_signs(rng.integers(1, 2**52, 10_000).view(np.float64)),
    "ordinary magnitudes": both_signs(np.exp2(np.linspace(-60, 11, 100_000))),
    "linear, wide": np.linspace(-750, 750, 100_001),
    "linear, narrow": np.linspace(-25, 25, 200_001),
    "linear, near 0": np.linspace(-1.5, 1.5, 200_001),
    "near 1": 1 + both_signs(np.exp2(rng.uniform(-53, -1, 50_000))),
    "reduction of exp": neighbours(HALF_LN2, 4, 2.0**-52).ravel(),
    "reduction of log": neighbours(SQRT_HALVES, 4, 2.0**-52).ravel(),
    "reduction of log1p": neighbours(SQRT_HALVES - 1, 4, 2.0**-52).ravel(),
}


@needs_long_double
@every_function
def test_errors_are_within_a_few_ulp(name):
    for sweep, z in SWEEPS.items():
        errors = ulps(in_loop(name, z), reference(name, z))
        worst = errors.argmax()
        at = z[~np.isnan(reference(name, z))][worst]
        assert errors[worst] <= ULP[name], f"{sweep}: at {at!r}"


@needs_long_double
@every_function
@given(x=st.floats())
def test_errors_of_arbitrary_numbers_are_within_a_few_ulp(name, x):
    z = np.array([x])
    assert (ulps(in_loop(name, z), reference(name, z)) <= ULP[name]).all()


SPECIAL = {
    "exp": [(0.0, 1.0), (-0.0, 1.0), (TINY, 1.0), (-1e-17, 1.0), (INF, INF), (-INF, 0.0),
            (710.0, INF), (1e308, INF), (-745.0, TINY), (-745.2, 0.0), (-1e308, 0.0)],
    "log": [(1.0, 0.0), (0.0, -INF), (-0.0, -INF), (-TINY, NAN), (-1.0, NAN), (-INF, NAN),
            (INF, INF), (2.0, LN2), (TINY, math.log(TINY)), (2.0**-1022, math.log(2.0**-1022))],
    "log1p": [(0.0, 0.0), (-0.0, -0.0), (TINY, TINY), (-TINY, -TINY), (1e-17, 1e-17),
              (-1e-17, -1e-17), (-1.0, -INF), (-1.1, NAN), (-INF, NAN), (INF, INF), (1.0, LN2)],
    "tanh": [(0.0, 0.0), (-0.0, -0.0), (TINY, TINY), (-TINY, -TINY), (1e-310, 1e-310),
             (1e-17, 1e-17), (20.0, 1.0), (-20.0, -1.0), (1e308, 1.0), (INF, 1.0), (-INF, -1.0)],
    "sigmoid": [(0.0, 0.5), (-0.0, 0.5), (TINY, 0.5), (40.0, 1.0), (1e308, 1.0), (INF, 1.0),
                (-745.0, TINY), (-745.2, 0.0), (-1e308, 0.0), (-INF, 0.0)],
}  # fmt: skip


@every_function
def test_special_values_are_exact(name):
    x, expected = np.array([*SPECIAL[name], (NAN, NAN)]).T.copy()
    numbers = ~np.isnan(expected)
    for run in (in_loop, in_python):
        actual = run(name, x)
        np.testing.assert_array_equal(actual, expected)
        np.testing.assert_array_equal(np.signbit(actual[numbers]), np.signbit(expected[numbers]))


@every_function
def test_functions_do_not_decrease_where_the_reduction_changes(name):
    """By more than one ulp, because tanh fluctuates near 1."""
    for boundaries in (HALF_LN2, SQRT_HALVES, SQRT_HALVES - 1):
        z = neighbours(boundaries, 8, 2.0**-46)
        values = in_loop(name, z.ravel()).reshape(z.shape)
        defined = ~np.isnan(values).any(axis=1)
        assert (values[defined, 1:] >= np.nextafter(values[defined, :-1], -INF)).all()


@example(x=20.0)
@example(x=-710.0)
@given(x=st.floats(allow_nan=False))
def test_values_keep_to_their_ranges_and_symmetries(x):
    f = {name: in_loop(name, np.array([x, -x])) for name in ULP}
    assert f["exp"].min() >= 0.0
    assert abs(f["tanh"]).max() <= 1.0
    assert f["tanh"][0] == -f["tanh"][1]
    assert 0.0 <= f["sigmoid"].min() <= f["sigmoid"].max() <= 1.0
    assert f["sigmoid"].sum() == pytest.approx(1.0, abs=1e-15)


@given(x=st.floats(-700, 700))
def test_logarithm_inverts_exponential(x):
    back = in_loop("log", in_loop("exp", np.array([x])))[0]
    assert back == pytest.approx(x, rel=1e-15, abs=1e-15)


@every_function
def test_uncompiled_functions_agree_with_compiled_ones(name):
    """Up to the FMAs, which Python does without."""
    z = np.concatenate([sweep[::100] for sweep in SWEEPS.values()])
    assert ulps(in_python(name, z), in_loop(name, z)).max() <= 2.0


@every_function
def test_fast_math_of_the_caller_stays_with_the_caller(name):
    z = SWEEPS["linear, narrow"]
    out = np.empty_like(z)
    loop_over(COMPILED[name], fastmath={"contract", "reassoc", "nsz", "arcp", "afn"})(z, out)
    np.testing.assert_array_equal(out, in_loop(name, z))


@every_function
def test_float32_is_computed_in_float64(name):
    z = SWEEPS["linear, narrow"].astype(np.float32)
    expected = in_loop(name, z.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(in_loop(name, z), expected)


def features():
    """The processor's features that Numba uses: NUMBA_CPU_NAME and _FEATURES may ask for fewer."""
    if numba.config.CPU_FEATURES is not None:
        return set(re.findall(r"\+([^,]+)", numba.config.CPU_FEATURES))
    return {name for name, present in llvm.get_host_cpu_features().items() if present}


@pytest.mark.skipif(
    not {"avx2", "fma"} <= features(),
    reason="Numba does not compile for AVX2 and FMA, whose instructions are looked for",
)
@every_function
def test_loops_run_in_simd_lanes(name):
    for dtype in ("float64", "float32"):
        in_loop(name, np.ones(8, dtype))
        array_of = {types[0].dtype.name: types for types in LOOPS[name].signatures}
        assembly = LOOPS[name].inspect_asm(array_of[dtype])
        assert re.search(r"vfn?m(add|sub)\d+pd\s.*%[yz]mm", assembly), dtype
        assert bool(re.search(r"vdivpd\s.*%[yz]mm", assembly)) == (name != "exp"), dtype
