"""exp, log, log1p and tanh of one float64, written so that loops over them use SIMD lanes: no
branches, tables or calls into the C library, one division at most. Conditional expressions are
selects: both sides are computed. `jit.EXACT` has the options to compile them with.

The method (Muller, "Elementary Functions", chapters 3 and 11): reduce the argument (Cody & Waite
1980), evaluate a minimax polynomial (by Remez' algorithm), restore the exponent. The largest errors
found in the whole range are 1.1 ulp (exp), 0.9 (log), 1.5 (log1p) and 2.6 (tanh, near 0.22).
"""

import math

import numpy as np

LOG2_E = 1.4426950408889634
LN2_HIGH = 6.93147180369123816490e-01  # its last 21 bits are zero: k * LN2_HIGH is exact
LN2_LOW = 1.90821492927058770002e-10  # ln 2 - LN2_HIGH

# The low bits of a double in [2⁵², 2⁵³) are an integer: adding a number rounds the number, and the
# bits are the integer. AVX2 has no other conversion between float64 and int64.
TWO52 = 2.0**52
BIAS = 1023  # of a double's exponent field
ROUNDING = 1.5 * TWO52 + 2 * BIAS

EXP_LOWEST, EXP_HIGHEST = -746.0, 710.0  # eˣ is 0 below and infinite above
TANH_HIGHEST = 20.0  # tanh is 1 above
SMALLEST_NORMAL = 2.0**-1022

SIGN_BIT = -(2**63)
FRACTION_BITS = 2**52 - 1
ONE_BITS = BIAS << 52
SQRT_HALF_BITS = 0x3FE6A09E667F3BCD
TWO52_BITS = (BIAS + 52) << 52


def bits(x: float) -> int:
    """The 64 bits of x as an integer."""
    return int(np.float64(x).view(np.int64))


def from_bits(n: int) -> float:
    """The float64 of these bits."""
    return float(np.int64(n).view(np.float64))


def power_of_two(n: int) -> float:
    """2ⁿ⁻¹⁰²³, for n from 1 to 2046; 0 for n = 0. Bits of n above the twelfth are ignored."""
    return from_bits(int(np.int64(n) << 52))


def reduced(x: float) -> tuple[int, float]:
    """n and r with x = (n - 2·1023) ln 2 + r and |r| <= ln(2)/2; n includes two biases, so that its
    half is the biased exponent of half the power."""
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


def exp(x: float) -> float:
    """eˣ = 2ᵏ eʳ, with 2ᵏ in two halves: it may overflow or underflow although eˣ does not."""
    x = float(x)
    x = EXP_HIGHEST if x > EXP_HIGHEST else x
    n, r = reduced(EXP_LOWEST if x < EXP_LOWEST else x)
    half = n >> 1
    scale = power_of_two(half)
    return (scale + scale * expm1_reduced(r)) * power_of_two(n - half)


def tanh(x: float) -> float:
    """(e²ˣ - 1) / (e²ˣ + 1) = t / (t + 2), with t = e²ˣ - 1 = 2ᵏ (eʳ - 1) + (2ᵏ - 1)

    of |x|, because t would lose digits near -1. For small x, k is 0 and t is as exact as eʳ - 1.
    """
    magnitude = abs(float(x))
    magnitude = TANH_HIGHEST if magnitude > TANH_HIGHEST else magnitude
    n, r = reduced(2.0 * magnitude)
    scale = power_of_two(n - BIAS)
    t = scale * expm1_reduced(r) + (scale - 1.0)
    return from_bits(bits(t / (t + 2.0)) | (bits(x) & SIGN_BIT))


def split(x: float) -> tuple[int, float]:
    """n and f with x = 2ⁿ⁻¹⁰²³ (1 + f) and sqrt(1/2) <= 1 + f < sqrt(2), for normal x."""
    shifted = bits(x) + (ONE_BITS - SQRT_HALF_BITS)  # the exponent grows by one from sqrt(2)
    n = (shifted >> 52) & 0xFFF
    return n, from_bits((shifted & FRACTION_BITS) + SQRT_HALF_BITS) - 1.0


def log_reduced(k: float, f: float) -> float:
    """k ln 2 + log(1 + f) for sqrt(1/2) <= 1 + f < sqrt(2)

    With s = f / (2 + f), log(1 + f) = log((1 + s) / (1 - s)) = 2s + s R(s²). Written as
    f - (f²/2 - s (f²/2 + R)), as in Sun's fdlibm, the rounding error of s matters little.
    """
    s = f / (2.0 + f)
    z = s * s
    R = 1.8183548885738268e-01 + z * (1.5314405111182403e-01 + z * 1.4792730325568487e-01)
    R = 2.857142873859417e-01 + z * (2.2222198909373622e-01 + z * R)
    R = z * (6.666666666666731e-01 + z * (3.999999999943517e-01 + z * R))
    half_square = 0.5 * f * f
    return k * LN2_HIGH - ((half_square - (s * (half_square + R) + k * LN2_LOW)) - f)


def log_or_limit(x: float, value: float) -> float:
    """`value`, the logarithm of x, or its limit at the ends of the domain and NaN beyond."""
    value = value if x < math.inf else x  # ∞ and NaN
    value = value if x != 0.0 else -math.inf
    return math.nan if x < 0.0 else value


def log(x: float) -> float:
    """log x = k ln 2 + log(1 + f)"""
    x = float(x)
    subnormal = x < SMALLEST_NORMAL
    n, f = split(x * TWO52 if subnormal else x)
    k = from_bits(n + TWO52_BITS) - (TWO52 + BIAS)
    return log_or_limit(x, log_reduced(k - 52.0 if subnormal else k, f))


def log1p(x: float) -> float:
    """log(1 + x) = k ln 2 + log(1 + f + 2⁻ᵏ c), with the rounding error c of 1 + x

    Knuth's two-sum gives c. For large x it does not matter, and 2⁻ᵏ cannot be represented.
    """
    x = float(x)
    u = 1.0 + x
    added = u - 1.0
    c = (1.0 - (u - added)) + (x - added)
    n, f = split(u)
    f = f + c * power_of_two(2 * BIAS - n) if x < TWO52 * TWO52 else f
    k = from_bits(n + TWO52_BITS) - (TWO52 + BIAS)
    value = log_or_limit(u, log_reduced(k, f))
    return value if x != 0.0 else x  # also -0
