"""exp, log, log1p and tanh of one number, written so that loops over them use SIMD lanes: no
branches, tables or calls into the C library, one division at most. Conditional expressions are
selects: both sides are computed. `jit.EXACT` has the options to compile them with.

The constants are those of float64. `jit.cpu_functions` compiles the same functions for float32, in
twice as many SIMD lanes, with the names in SINGLE in place of these. The constants have names
because Numba would compute in float64 beside a literal 1.0. It also widens integers to 64 bits, so
`integer` narrows the results.

The method (Muller, "Elementary Functions", chapters 3 and 11): reduce the argument (Cody & Waite
1980), evaluate a minimax polynomial (by Remez' algorithm), restore the exponent. The largest errors
found in the whole range, in ulp (for float32, of all its numbers):

    float64: 1.1 (exp), 0.9 (log), 1.5 (log1p), 2.6 (tanh, near 0.22)
    float32: 1.1 (exp), 0.9 (log), 1.4 (log1p), 2.6 (tanh, near 0.06)
"""

import math
from typing import Any

import numpy as np

REAL, INTEGER = np.float64, np.int64  # of the same size
number, integer = float, int  # the same in compiled code; plain Python's do not warn of overflow

ZERO, HALF, ONE, TWO, INFINITY, NAN = 0.0, 0.5, 1.0, 2.0, math.inf, math.nan
LOG2_E = 1.4426950408889634
LN2_HIGH = 6.93147180369123816490e-01  # its last 21 bits are zero: k * LN2_HIGH is exact
LN2_LOW = 1.90821492927058770002e-10  # ln 2 - LN2_HIGH

# The low bits of a double in [2⁵², 2⁵³) are an integer: adding a number rounds the number, and the
# bits are the integer. AVX2 has no other conversion between float64 and int64.
FRACTION = 52  # its bits
INTEGERS = 2.0**52
BIAS = 1023  # of the exponent field
ROUNDING = 1.5 * INTEGERS + 2 * BIAS
BIASED = INTEGERS + BIAS
LARGE = 2.0**104  # log1p ignores the rounding error of 1 + x from here on

EXP_LOWEST, EXP_HIGHEST = -746.0, 710.0  # eˣ is 0 below and infinite above
TANH_HIGHEST = 20.0  # tanh is 1 above
SMALLEST_NORMAL, SUBNORMAL_SHIFT = 2.0**-1022, 52.0

SIGN_BIT = -(2**63)
EXPONENT_MASK = 0xFFF  # sign and exponent, after a shift by FRACTION
FRACTION_MASK = 2**52 - 1
ONE_BITS = BIAS << 52
SQRT_HALF_BITS = 0x3FE6A09E667F3BCD
INTEGERS_BITS = (BIAS + 52) << 52


def bits(x: float) -> int:
    """The bits of x as an integer."""
    return integer(REAL(x).view(INTEGER))


def from_bits(n: int) -> float:
    """The number of these bits."""
    return number(INTEGER(n).view(REAL))


def power_of_two(n: int) -> float:
    """2ⁿ⁻ᵇ with the bias b, for n from 1 to 2 b; 0 for n = 0. Bits of n that do not fit into sign
    and exponent are ignored."""
    return from_bits(integer(INTEGER(n) << FRACTION))


def reduced(x: float) -> tuple[int, float]:
    """n and r with x = (n - 2 b) ln 2 + r and |r| <= ln(2)/2; n includes the bias b twice, so that
    its half is the biased exponent of half the power."""
    rounded = x * LOG2_E + ROUNDING
    k = rounded - ROUNDING
    return bits(rounded), (x - k * LN2_HIGH) - k * LN2_LOW


def expm1_reduced(r: float) -> float:
    """eʳ - 1 = r + r² q(r) for |r| <= ln(2)/2; the error of q is 2⁻⁵⁵ of the result.

    q is summed by Estrin's scheme; Horner's, a chain of ten FMAs, made exp 10 % slower.
    """
    r2 = r * r
    r4 = r2 * r2
    low = 0.5000000000000004 + r * 1.6666666666666685e-01
    low = low + r2 * (4.166666666658179e-02 + r * 8.333333333315584e-03)
    middle = 1.3888888930271676e-03 + r * 1.984126990107857e-04
    middle = middle + r2 * (2.48015065605158e-05 + r * 2.755722954611976e-06)
    high = 2.762560065444046e-07 + r * 2.5114010378183104e-08
    return r + r2 * (low + r4 * (middle + r4 * high))


def expm1_reduced_single(r: float) -> float:
    """The same for float32; the error of q is 2⁻²⁶ of the result."""
    r2 = r * r
    low = number(0.5) + r * number(0.16666546)
    low = low + r2 * (number(0.041667093) + r * number(0.00836631))
    return r + r2 * (low + r2 * r2 * number(0.001388902))


def exp(x: float) -> float:
    """eˣ = 2ᵏ eʳ, with 2ᵏ in two halves: it may overflow or underflow although eˣ does not."""
    x = number(x)
    x = EXP_HIGHEST if x > EXP_HIGHEST else x
    n, r = reduced(EXP_LOWEST if x < EXP_LOWEST else x)
    half = integer(n >> 1)
    scale = power_of_two(half)
    return (scale + scale * expm1_reduced(r)) * power_of_two(n - half)


def tanh(x: float) -> float:
    """(e²ˣ - 1) / (e²ˣ + 1) = t / (t + 2), with t = e²ˣ - 1 = 2ᵏ (eʳ - 1) + (2ᵏ - 1)

    of |x|, because t would lose digits near -1. For small x, k is 0 and t is as exact as eʳ - 1.
    """
    magnitude = abs(number(x))
    magnitude = TANH_HIGHEST if magnitude > TANH_HIGHEST else magnitude
    n, r = reduced(TWO * magnitude)
    scale = power_of_two(n - BIAS)
    t = scale * expm1_reduced(r) + (scale - ONE)
    return from_bits(bits(t / (t + TWO)) | (bits(x) & SIGN_BIT))


def split(x: float) -> tuple[int, float]:
    """n and f with x = 2ⁿ⁻ᵇ (1 + f) and sqrt(1/2) <= 1 + f < sqrt(2); x is normal, b the bias."""
    shifted = integer(bits(x) + (ONE_BITS - SQRT_HALF_BITS))  # the exponent grows from sqrt(2) on
    n = (shifted >> FRACTION) & EXPONENT_MASK
    return n, from_bits((shifted & FRACTION_MASK) + SQRT_HALF_BITS) - ONE


def log_remainder(z: float) -> float:
    """R(z) with log((1 + s) / (1 - s)) = 2s + s R(s²), for s² = z <= (3 - sqrt(8))²"""
    R = 1.8183548885738268e-01 + z * (1.5314405111182403e-01 + z * 1.4792730325568487e-01)
    R = 2.857142873859417e-01 + z * (2.2222198909373622e-01 + z * R)
    return z * (6.666666666666731e-01 + z * (3.999999999943517e-01 + z * R))


def log_remainder_single(z: float) -> float:
    """The same for float32; the error is 2⁻³⁰ of the logarithm."""
    return z * (number(0.66666776) + z * (number(0.39977497) + z * number(0.29873073)))


def log_reduced(k: float, f: float) -> float:
    """k ln 2 + log(1 + f) for sqrt(1/2) <= 1 + f < sqrt(2)

    With s = f / (2 + f), log(1 + f) = log((1 + s) / (1 - s)) = 2s + s R(s²). Written as
    f - (f²/2 - s (f²/2 + R)), as in Sun's fdlibm, the rounding error of s matters little.
    """
    s = f / (TWO + f)
    half_square = HALF * f * f
    R = log_remainder(s * s)
    return k * LN2_HIGH - ((half_square - (s * (half_square + R) + k * LN2_LOW)) - f)


def log_or_limit(x: float, value: float) -> float:
    """`value`, the logarithm of x, or its limit at the ends of the domain and NaN beyond."""
    value = value if x < INFINITY else x  # ∞ and NaN
    value = value if x != ZERO else -INFINITY
    return NAN if x < ZERO else value


def log(x: float) -> float:
    """log x = k ln 2 + log(1 + f)"""
    x = number(x)
    subnormal = x < SMALLEST_NORMAL
    n, f = split(x * INTEGERS if subnormal else x)
    k = from_bits(n + INTEGERS_BITS) - BIASED
    return log_or_limit(x, log_reduced(k - SUBNORMAL_SHIFT if subnormal else k, f))


def log1p(x: float) -> float:
    """log(1 + x) = k ln 2 + log(1 + f + 2⁻ᵏ c), with the rounding error c of 1 + x

    Knuth's two-sum gives c. For large x it does not matter, and 2⁻ᵏ cannot be represented.
    """
    x = number(x)
    u = ONE + x
    added = u - ONE
    c = (ONE - (u - added)) + (x - added)
    n, f = split(u)
    f = f + c * power_of_two(2 * BIAS - n) if x < LARGE else f
    k = from_bits(n + INTEGERS_BITS) - BIASED
    value = log_or_limit(u, log_reduced(k, f))
    return value if x != ZERO else x  # also -0


# The names above that differ for float32
SINGLE: dict[str, Any] = {
    "REAL": np.float32,
    "INTEGER": np.int32,
    "number": np.float32,
    "integer": np.int32,
    "FRACTION": 23,
    "BIAS": 127,
    "SIGN_BIT": -(2**31),
    "EXPONENT_MASK": 0x1FF,
    "FRACTION_MASK": 2**23 - 1,
    "ONE_BITS": 127 << 23,
    "SQRT_HALF_BITS": 0x3F3504F3,
    "INTEGERS_BITS": (127 + 23) << 23,
    "expm1_reduced": expm1_reduced_single,
    "log_remainder": log_remainder_single,
}
SINGLE |= {
    name: np.float32(value)
    for name, value in {
        "ZERO": ZERO,
        "HALF": HALF,
        "ONE": ONE,
        "TWO": TWO,
        "INFINITY": INFINITY,
        "NAN": NAN,
        "LOG2_E": LOG2_E,
        "LN2_HIGH": 0.693145751953125,  # its last 9 bits are zero
        "LN2_LOW": 1.428606765330187e-06,
        "INTEGERS": 2**23,
        "ROUNDING": 1.5 * 2**23 + 2 * 127,
        "BIASED": 2**23 + 127,
        "LARGE": 2**46,
        "EXP_LOWEST": -104,
        "EXP_HIGHEST": 89,
        "TANH_HIGHEST": 10,
        "SMALLEST_NORMAL": 2.0**-126,
        "SUBNORMAL_SHIFT": 23,
    }.items()
}
