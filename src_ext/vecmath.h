/* exp, expm1, log and log1p that vectorise: no branches, no tables, no calls.
 *
 * a) The rules' `math` is this file.  libm's functions are scalar calls, and a loop with one call in it stays scalar:
 *    DPO value and slopes, 2^20 float64: 24 ns per element with libm, 5 with functions of this kind (AVX2).
 * b) Every function holds for all doubles: NaN, infinities, zeros, subnormal results.  Selections are ternaries that
 *    NaN passes through; they need -fno-trapping-math to become blends.
 * c) Rounding to an integer is the addition of 1.5 * 2^52: never compile with -fassociative-math.
 * d) Errors against 50 digits (tests/test_vecmath.py): exp, log and log1p at most 1.2 ulp, expm1 2.4 (near 0.36, where
 *    2^n - 1 is of the size of the result; in parts, p 2^n + (r 2^n + (2^n - 1)), it would be 1.6 for two operations).
 * e) 64-bit integer arithmetic is limited to what AVX2 has: logical shifts, add, and, or.
 * f) exp and expm1 of the same argument share all but their last lines, and log1p(x) its 1 / (1 + x) with the caller:
 *    equal expressions, which the compiler computes once.
 * g) The polynomials are minimax, by Remez exchange in 60 digits; errors beside them, relative to the function.  They
 *    are evaluated in pairs: a loop's length is bound by the chain of its operations, not by their number.  (Shorter by
 *    one link for one operation more, r + r^2 p01 + r^4 (...): PPO 2 % faster in AVX-512, 5 % slower in AVX2.)
 * h) The float versions (_single) differ in three points: exp is 0 where its result would be below 2^-125.5 = 1.7e-38,
 *    -0 may become +0, and exp is off by |x| / 44 eps more, where x itself is rounded to half an |x| eps.
 * i) exp_of_minus and log1p_unit stand for the rules of that name (elementary.py), whose arguments need no reduction of
 *    log, no ends and one bound of exp.  With them, and one selection of signs, DPO's loop went from 1.9 and 4.3 ns per
 *    element in float and double to 1.2 and 3.1 (AVX-512).  As a polynomial in x, log1p_unit would take 22 terms.
 *    growth_within and differ need no sign of zero and one comparison: PPO's loop in double 6 % faster in AVX-512, 4 %
 *    in AVX2, in float 2 and 4 %.  With differ for the clamp of the log-ratio, too: 5 % slower in AVX-512.
 *    Where a rule bounds the argument of exp_within to what fa_near says, loops ask for exp_near (cut.py), which has no
 *    bounds of its own and powers in one factor: PPO's loop 8 and 7 %, in float 4 and 8 % faster.
 */
#ifndef FASTALIGN_VECMATH_H
#define FASTALIGN_VECMATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define FA_INLINE static inline __attribute__((always_inline, unused))
#define FA_UNUSED __attribute__((unused))
#define FA_APART __attribute__((noinline, unused))
#define FA_OPAQUE __attribute__((weak, visibility("hidden"))) /* what the compiler must not know the value of */
#else
#define FA_INLINE static inline
#define FA_UNUSED
#define FA_APART
#define FA_OPAQUE static
#endif

/* Whether the processor is one that reads and computes at once only what it was asked for early. */
static FA_UNUSED int fa_by_intel(void)
{
#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
    __builtin_cpu_init();
    return __builtin_cpu_is("intel") != 0;
#else
    return 0;
#endif
}

#define FA_LOG2E 1.4426950408889634
#define FA_LN2_HI 0.6931471803691238     /* 32 bits of ln 2: exact times any exponent */
#define FA_LN2_LO 1.9082149292705877e-10 /* the rest */
#define FA_ROUND 6755399441055744.0      /* 1.5 * 2^52 */

FA_INLINE uint64_t fa_bits(double x)
{
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

FA_INLINE double fa_double(uint64_t u)
{
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* exp(r) - 1 for |r| <= ln(2)/2; 2^-54. */
FA_INLINE double fa_expm1_core(double r)
{
    const double r2 = r * r, r4 = r2 * r2;
    const double p01 = 0.50000000000000010265 + r * 0.16666666666666674561;
    const double p23 = 4.1666666666623982753e-2 + r * 8.3333333333221716312e-3;
    const double p45 = 1.3888888917285467694e-3 + r * 1.9841269886699926183e-4;
    const double p67 = 2.4801521185310742885e-5 + r * 2.7557242213510690926e-6;
    const double p89 = 2.7620140764349069819e-7 + r * 2.511009630403348889e-8;
    return ((p01 + r2 * p23) + r4 * ((p45 + r2 * p67) + r4 * p89)) * r2 + r;
}

/* x bounded; NaN stays.  gcc 12 makes a comparison and a blend of a bound it knows, minimum and maximum of one that it
 * does not: hence FA_OPAQUE (PPO in float and double: 0.72 and 1.87 ns per element to 0.65 and 1.74). */
FA_INLINE double fa_clamp(double x, double low, double high)
{
    const double y = x < low ? low : x;
    return y > high ? high : y;
}

FA_OPAQUE double fa_least_exp = -746.0, fa_most_exp = 710.0;

/* exp(x) = (core + 1) near far, near far = 2^n: alone it is not a normal number from -1023 down, nor at 1024.  Both are
 * halves of n + 2 * 1023, which the sum with FA_ROUND leaves in the low bits. */
typedef struct { double core, near, far; } fa_reduced;

FA_INLINE fa_reduced fa_reduce(double bounded)
{
    const double z = bounded * FA_LOG2E + (FA_ROUND + 2046.0);
    const double n = z - (FA_ROUND + 2046.0);
    const double r = (bounded - n * FA_LN2_HI) - n * FA_LN2_LO;
    const uint64_t near = fa_bits(z) >> 1, far = fa_bits(z) - near;
    const fa_reduced it = {fa_expm1_core(r), fa_double(near << 52), fa_double(far << 52)};
    return it;
}

FA_INLINE double fa_exp(double x)
{
    const fa_reduced it = fa_reduce(fa_clamp(x, fa_least_exp, fa_most_exp));
    return (it.core * it.near + it.near) * it.far;
}

/* exp(x) - 1, of -0 perhaps 0. */
FA_INLINE double fa_growth(double x)
{
    const fa_reduced it = fa_reduce(fa_clamp(x, fa_least_exp, fa_most_exp));
    const double inverse = fa_double((2046ull << 52) - fa_bits(it.far)); /* 1 / far: 2^n - 1 = far (near - 1 / far) */
    return (it.core * it.near + (it.near - inverse)) * it.far;
}

FA_INLINE double fa_expm1(double x)
{
    return fa_double(fa_bits(fa_growth(x)) | (fa_bits(x) & 0x8000000000000000ull)); /* -0 */
}

/* exp(x) = (core + 1) power, power = 2^n a normal number. */
typedef struct { double core, power; } fa_reduced_near;

FA_INLINE fa_reduced_near fa_reduce_near(double x)
{
    const double z = x * FA_LOG2E + (FA_ROUND + 1023.0);
    const double n = z - (FA_ROUND + 1023.0);
    const double r = (x - n * FA_LN2_HI) - n * FA_LN2_LO;
    const fa_reduced_near it = {fa_expm1_core(r), fa_double(fa_bits(z) << 52)};
    return it;
}

/* Whether arguments up to +-most need no bounds, and powers no second factor. */
FA_INLINE int fa_near(double most)
{
    return most <= 708.0;
}

FA_INLINE double fa_exp_near(double x)
{
    const fa_reduced_near it = fa_reduce_near(x);
    return it.core * it.power + it.power;
}

FA_INLINE double fa_growth_near(double x)
{
    const fa_reduced_near it = fa_reduce_near(x);
    return (it.core * it.power + (it.power - 1.0)) - x;
}

FA_INLINE double fa_exp_within(double x, double most)
{
    (void)most;
    return fa_exp(x);
}

FA_INLINE double fa_growth_within(double x, double most)
{
    (void)most;
    return fa_growth(x) - (x < 1e30 ? x : 1e30);
}

/* One comparison that is false for NaN. */
#if defined(__GNUC__)
#define FA_UNEQUAL(x, y) __builtin_islessgreater(x, y)
#else
#define FA_UNEQUAL(x, y) ((x) < (y) || (x) > (y))
#endif

FA_INLINE double fa_differ(double x, double y)
{
    return FA_UNEQUAL(x, y) ? 1.0 : 0.0;
}

/* exp(-|x|).  By fa_exp_near, which would be 0 below 2^-1022.5, DPO's loop is 3 % faster. */
FA_INLINE double fa_exp_of_minus(double x)
{
    const double a = -fabs(x);
    const fa_reduced it = fa_reduce(a < fa_least_exp ? fa_least_exp : a);
    return (it.core * it.near + it.near) * it.far;
}

/* log(1 + x) for x in [0, 1], NaN: with s = x/(2+x)  2 artanh(s) = x - s (x - s^2 P(s^2)); 2^-57. */
FA_INLINE double fa_log1p_unit(double x)
{
    const double s = x / (2.0 + x);
    const double z = s * s, z2 = z * z, z4 = z2 * z2;
    const double p01 = 0.66666666666666658095 + z * 0.40000000000015265878;
    const double p23 = 0.28571428566944040103 + z * 0.22222222732706255312;
    const double p45 = 0.18181788726515261955 + z * 0.1538558857412287118;
    const double p67 = 0.13313860671507892029 + z * 0.12003603858804031528;
    const double p89 = 0.087885559636441938477 + z * 0.1618847550904196768;
    const double p = (p01 + z2 * p23) + z4 * ((p45 + z2 * p67) + z4 * p89);
    return x - s * (x - z * p);
}

/* log(u) + tail for a normal u, tail small.  log(u) = e ln 2 + log(1 + f), 1 + f in [sqrt(1/2), sqrt(2)), and with
 * s = f/(2+f)  log(1 + f) = 2 artanh(s) = f - (f^2/2 - s (f^2/2 + R)), R = 2 (s^2/3 + s^4/5 + ...); 2^-57. */
FA_INLINE double fa_log_plus(double u, double scaled, double tail)
{
    const uint64_t shifted = fa_bits(u) + (0x3ff0000000000000ull - 0x3fe6a09e00000000ull);
    /* The biased exponent, as a double: or-ed into the low bits of 2^52. */
    const double biased = fa_double((shifted >> 52) | 0x4330000000000000ull) - 4503599627370496.0;
    const double e = biased - scaled;
    const double f = fa_double((shifted & 0x000fffffffffffffull) + 0x3fe6a09e00000000ull) - 1.0;
    const double s = f / (2.0 + f);
    const double z = s * s;
    const double z2 = z * z;
    const double p01 = 0.66666666666666697486 + z * 0.39999999999897889087;
    const double p23 = 0.2857142862665096342 + z * 0.22222211031805991484;
    const double p45 = 0.18182896203998564127 + z * 0.15331497880572439688;
    const double p = p01 + z2 * (p23 + z2 * (p45 + z2 * 0.14619095556025325953));
    const double h = 0.5 * f * f;
    return e * FA_LN2_HI + (f - (h - (s * (h + p * z) + (e * FA_LN2_LO + tail))));
}

/* What a polynomial cannot know: the ends of log's domain. */
FA_INLINE double fa_log_ends(double u, double y)
{
    const double a = u > 1.7976931348623157e308 ? u : y;
    const double b = u == 0.0 ? -(double)INFINITY : a;
    return u < 0.0 || u != u ? (double)NAN : b;
}

FA_INLINE double fa_log(double x)
{
    const double tiny = x < 2.2250738585072014e-308 ? 1.0 : 0.0;
    const double u = tiny > 0.0 ? x * 18014398509481984.0 : x;
    return fa_log_ends(x, fa_log_plus(u, tiny > 0.0 ? 1077.0 : 1023.0, 0.0));
}

FA_INLINE double fa_log1p(double x)
{
    const double u = 1.0 + x;
    /* What 1 + x lost, to first order.  By the reciprocal: beside log1p(e) a rule mostly wants 1 / (1 + e) too. */
    const double y = fa_log_plus(u, 1023.0, (x - (u - 1.0)) * (1.0 / u));
    return x == 0.0 ? x : fa_log_ends(u, y);
}

FA_INLINE double fa_abs(double x)
{
    return fabs(x);
}

/* ---- float ------------------------------------------------------------------------------------------------------ */

FA_INLINE uint32_t fa_bits_single(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

FA_INLINE float fa_float(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

FA_INLINE float fa_clamp_single(float x, float low, float high)
{
    const float y = x < low ? low : x;
    return y > high ? high : y;
}

FA_OPAQUE float fa_least_exp_single = -87.4f, fa_most_exp_single = 88.73f, fa_least_power_single = -87.7f;

/* x - n ln 2.  In one operation it is off by 1.9e-9 n, a twentieth of what a rounding of x changes: one of the twenty
 * operations of a chain less (PPO in AVX2: 0.87 ns per element to 0.82). */
FA_INLINE float fa_rest_single(float x, float n)
{
#ifdef __FP_FAST_FMAF
    return x - n * 0.69314718f;
#else
    return (x - n * 0.693359375f) + n * 2.12194440e-4f;
#endif
}

/* exp(r) - 1 for |r| <= ln(2)/2; 2^-25. */
FA_INLINE float fa_expm1_core_single(float r)
{
    const float r2 = r * r;
    const float p01 = 0.50000000270168336f + r * 0.16666576823863931f;
    const float p23 = 4.1666374660441058e-2f + r * 8.3632053956257806e-3f;
    const float p = p01 + r2 * (p23 + r2 * 1.3941166276396441e-3f);
    return p * r2 + r;
}

/* exp(x) = 2 (core + 1) half, half = 2^(n-1): 2^128 is infinite, its half is not.  At the lower bound of x the half is
 * 0. */
typedef struct { float core, half; } fa_reduced_single;

FA_INLINE fa_reduced_single fa_reduce_single(float x)
{
    const float bounded = fa_clamp_single(x, fa_least_exp_single, fa_most_exp_single);
    const float z = bounded * 1.44269504f + 12583038.0f; /* 1.5 * 2^23 + 126: the exponent of 2^(n-1) in the low bits */
    const float n = z - 12583038.0f;
    const fa_reduced_single it = {fa_expm1_core_single(fa_rest_single(bounded, n)), fa_float(fa_bits_single(z) << 23)};
    return it;
}

FA_INLINE float fa_exp_single(float x)
{
    const fa_reduced_single it = fa_reduce_single(x);
    const float y = it.core * it.half + it.half;
    return y + y;
}

FA_INLINE float fa_expm1_single(float x)
{
    const fa_reduced_single it = fa_reduce_single(x);
    const float y = it.core * it.half + (it.half - 0.5f);
    return y + y;
}

/* exp(x) = (core + 1) power, power = 2^n, or 0 at n = -127. */
typedef struct { float core, power; } fa_reduced_near_single;

FA_INLINE fa_reduced_near_single fa_reduce_near_single(float x)
{
    const float z = x * 1.44269504f + 12583039.0f;
    const float n = z - 12583039.0f;
    const fa_reduced_near_single it = {fa_expm1_core_single(fa_rest_single(x, n)), fa_float(fa_bits_single(z) << 23)};
    return it;
}

FA_INLINE int fa_near_single(float most)
{
    return most <= 87.0f;
}

FA_INLINE float fa_exp_near_single(float x)
{
    const fa_reduced_near_single it = fa_reduce_near_single(x);
    return it.core * it.power + it.power;
}

FA_INLINE float fa_growth_near_single(float x)
{
    const fa_reduced_near_single it = fa_reduce_near_single(x);
    return (it.core * it.power + (it.power - 1.0f)) - x;
}

FA_INLINE float fa_exp_within_single(float x, float most)
{
    (void)most;
    return fa_exp_single(x);
}

FA_INLINE float fa_growth_within_single(float x, float most)
{
    (void)most;
    return fa_expm1_single(x) - (x < 1e30f ? x : 1e30f);
}

FA_INLINE float fa_differ_single(float x, float y)
{
    return FA_UNEQUAL(x, y) ? 1.0f : 0.0f;
}

FA_INLINE float fa_exp_of_minus_single(float x)
{
    const float a = -fabsf(x);
    return fa_exp_near_single(a < fa_least_power_single ? fa_least_power_single : a);
}

/* As in double; 2^-26. */
FA_INLINE float fa_log1p_unit_single(float x)
{
    const float s = x / (2.0f + x);
    const float z = s * s, z2 = z * z;
    const float p01 = 0.66666638966420468f + z * 0.40007784847342559f;
    const float p23 = 0.28231204745626108f + z * 0.26884147034784167f;
    return x - s * (x - z * (p01 + z2 * p23));
}

/* log(u) + tail = e ln 2 + f - f^2/2 + f^3 Q(f) + tail, 1 + f in [sqrt(1/2), sqrt(2)); 2^-25.  No division: there is
 * one beside it already. */
FA_INLINE float fa_log_plus_single(float u, int scaled, float tail)
{
    const uint32_t shifted = fa_bits_single(u) + (0x3f800000u - 0x3f3504f3u);
    const float e = (float)((int32_t)(shifted >> 23) - scaled);
    const float f = fa_float((shifted & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
    const float f2 = f * f, f4 = f2 * f2;
    const float p01 = 0.33333326537580737f - f * 0.25000280857352853f;
    const float p23 = 0.20001880254776310f - f * 0.16643488908458879f;
    const float p45 = 0.14190227746619095f - f * 0.12943401060669933f;
    const float p67 = 0.12798967969011027f - f * 8.3055272480190737e-2f;
    const float p = (p01 + f2 * p23) + f4 * (p45 + f2 * p67);
    return e * 0.693359375f + (f - (0.5f * f2 - (f2 * f * p + (tail - e * 2.12194440e-4f))));
}

FA_INLINE float fa_log_ends_single(float u, float y)
{
    const float a = u > 3.402823466e38f ? u : y;
    const float b = u == 0.0f ? -(float)INFINITY : a;
    return u < 0.0f || u != u ? (float)NAN : b;
}

FA_INLINE float fa_log_single(float x)
{
    const int tiny = x < 1.17549435e-38f;
    const float u = tiny ? x * 33554432.0f : x;
    return fa_log_ends_single(x, fa_log_plus_single(u, tiny ? 152 : 127, 0.0f));
}

FA_INLINE float fa_log1p_single(float x)
{
    const float u = 1.0f + x;
    const float y = fa_log_plus_single(u, 127, (x - (u - 1.0f)) * (1.0f / u));
    return x == 0.0f ? x : fa_log_ends_single(u, y);
}

FA_INLINE float fa_abs_single(float x)
{
    return fabsf(x);
}

#endif
