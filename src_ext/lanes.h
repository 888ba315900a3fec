/* Vectors of floats and of doubles as wide as the build's, for the rows: GNU vectors, and intrinsics where they beat
 * what the compiler makes of them.  Without GNU vectors a vector is one number.
 *
 * Rows are taken two vectors at a time (load2, store2).  The order of the elements in the two is the kind's own, the
 * same for both: a pair of bfloat16, say, is one 32-bit lane, whose halves are widened by a shift and a mask.
 */
#ifndef FASTALIGN_LANES_H
#define FASTALIGN_LANES_H

#include <stddef.h>

#include "vecmath.h"

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define FA_VECTOR 64
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define FA_VECTOR 32
#elif defined(__GNUC__)
#define FA_VECTOR 16
#endif

#if FA_VECTOR > 16
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#elif FA_VECTOR == 16 && defined(__aarch64__) && !defined(__AARCH64EB__)
#include <arm_neon.h>
#define FA_NEON 1
#endif

#ifdef FA_VECTOR
typedef float fa_vec_float __attribute__((vector_size(FA_VECTOR)));
typedef double fa_vec_double __attribute__((vector_size(FA_VECTOR)));
typedef uint32_t fa_int_float __attribute__((vector_size(FA_VECTOR)));
typedef uint64_t fa_int_double __attribute__((vector_size(FA_VECTOR)));
typedef int32_t fa_yes_float __attribute__((vector_size(FA_VECTOR)));
typedef int64_t fa_yes_double __attribute__((vector_size(FA_VECTOR)));
#define FA_PICK(real, yes, a, b)                                                                                     \
    ((fa_vec_##real)(((fa_yes_##real)(a) & (yes)) | ((fa_yes_##real)(b) & ~(yes)))) /* no vector ?: in gcc's C */
#else
typedef float fa_vec_float;
typedef double fa_vec_double;
typedef uint32_t fa_int_float;
typedef uint64_t fa_int_double;
#define FA_PICK(real, yes, a, b) ((yes) ? (a) : (b))
#endif

#if defined(__GNUC__)
#define FA_UNROLLED _Pragma("GCC unroll 4")
#else
#define FA_UNROLLED
#endif

#define FA_WIDTH_float ((ptrdiff_t)(sizeof(fa_vec_float) / sizeof(float)))
#define FA_WIDTH_double ((ptrdiff_t)(sizeof(fa_vec_double) / sizeof(double)))

/* ---- what one instruction does where there is one ---------------------------------------------------------------- */

/* The larger (smaller) of a and b, and b where one is a NaN: a is a bound, or a maximum that need not see NaN. */
#if FA_VECTOR == 64
#define FA_MAX_float(a, b) _mm512_max_ps(a, b)
#define FA_MAX_double(a, b) _mm512_max_pd(a, b)
#define FA_MIN_float(a, b) _mm512_min_ps(a, b)
#define FA_MIN_double(a, b) _mm512_min_pd(a, b)
#elif FA_VECTOR == 32
#define FA_MAX_float(a, b) _mm256_max_ps(a, b)
#define FA_MAX_double(a, b) _mm256_max_pd(a, b)
#define FA_MIN_float(a, b) _mm256_min_ps(a, b)
#define FA_MIN_double(a, b) _mm256_min_pd(a, b)
#elif defined(__SSE2__) && FA_VECTOR == 16
#define FA_MAX_float(a, b) _mm_max_ps(a, b)
#define FA_MAX_double(a, b) _mm_max_pd(a, b)
#define FA_MIN_float(a, b) _mm_min_ps(a, b)
#define FA_MIN_double(a, b) _mm_min_pd(a, b)
#else
#define FA_MAX_float(a, b) FA_PICK(float, (a) > (b), a, b)
#define FA_MAX_double(a, b) FA_PICK(double, (a) > (b), a, b)
#define FA_MIN_float(a, b) FA_PICK(float, (a) < (b), a, b)
#define FA_MIN_double(a, b) FA_PICK(double, (a) < (b), a, b)
#endif

/* t, but at least low, or at most high: what FA_MAX and FA_MIN are with a bound first.  A NaN in t stays. */
#ifdef FA_NEON
#define FA_AT_LEAST_float(low, t) ((fa_vec_float)vmaxq_f32((float32x4_t)(low), (float32x4_t)(t)))
#define FA_AT_LEAST_double(low, t) ((fa_vec_double)vmaxq_f64((float64x2_t)(low), (float64x2_t)(t)))
#define FA_AT_MOST_float(high, t) ((fa_vec_float)vminq_f32((float32x4_t)(high), (float32x4_t)(t)))
#define FA_AT_MOST_double(high, t) ((fa_vec_double)vminq_f64((float64x2_t)(high), (float64x2_t)(t)))
#else
#define FA_AT_LEAST_float(low, t) FA_MAX_float(low, t)
#define FA_AT_LEAST_double(low, t) FA_MAX_double(low, t)
#define FA_AT_MOST_float(high, t) FA_MIN_float(high, t)
#define FA_AT_MOST_double(high, t) FA_MIN_double(high, t)
#endif

/* y, or 0 where t is below low; a NaN in t is not. */
#ifdef FA_VECTOR
#define FA_UNLESS_BELOW_float(t, low, y) ((fa_vec_float)(~(fa_yes_float)((t) < (low)) & (fa_yes_float)(y)))
#define FA_UNLESS_BELOW_double(t, low, y) ((fa_vec_double)(~(fa_yes_double)((t) < (low)) & (fa_yes_double)(y)))
#else
#define FA_UNLESS_BELOW_float(t, low, y) ((t) < (low) ? 0.0f : (y))
#define FA_UNLESS_BELOW_double(t, low, y) ((t) < (low) ? 0.0 : (y))
#endif

#define FA_OPERATIONS(real)                                                                                          \
    FA_INLINE fa_vec_##real fa_every_##real(real x)                                                                  \
    {                                                                                                                \
        return x - (fa_vec_##real){0};                                                                               \
    }                                                                                                                \
    FA_INLINE fa_vec_##real fa_load_##real(const real *x)                                                            \
    {                                                                                                                \
        fa_vec_##real v;                                                                                             \
        memcpy(&v, x, sizeof v);                                                                                     \
        return v;                                                                                                    \
    }                                                                                                                \
    FA_INLINE real fa_lane_##real(const fa_vec_##real *v, ptrdiff_t lane)                                            \
    {                                                                                                                \
        real x;                                                                                                      \
        memcpy(&x, (const char *)v + lane * (ptrdiff_t)sizeof x, sizeof x);                                          \
        return x;                                                                                                    \
    }                                                                                                                \
    FA_INLINE void fa_load2_##real(const real *x, fa_vec_##real *a, fa_vec_##real *b)                                \
    {                                                                                                                \
        memcpy(a, x, sizeof *a);                                                                                     \
        memcpy(b, x + FA_WIDTH_##real, sizeof *b);                                                                   \
    }                                                                                                                \
    FA_INLINE void fa_store2_##real(real *x, fa_vec_##real a, fa_vec_##real b)                                       \
    {                                                                                                                \
        memcpy(x, &a, sizeof a);                                                                                     \
        memcpy(x + FA_WIDTH_##real, &b, sizeof b);                                                                   \
    }

FA_OPERATIONS(float)
FA_OPERATIONS(double)

/* All lanes to one, the upper half to the lower one again and again. */
#if FA_VECTOR > 16
#if FA_VECTOR == 64
#define FA_HALVED_float(op, v) _mm256_##op##_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1))
#define FA_HALVED_double(op, v) _mm256_##op##_pd(_mm512_castpd512_pd256(v), _mm512_extractf64x4_pd(v, 1))
#else
#define FA_HALVED_float(op, v) (v)
#define FA_HALVED_double(op, v) (v)
#endif
#define FA_ACROSS(name, op)                                                                                          \
    FA_INLINE float fa_##name##_of_float(fa_vec_float v)                                                             \
    {                                                                                                                \
        const __m256 eight = FA_HALVED_float(op, v);                                                                 \
        const __m128 four = _mm_##op##_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));           \
        const __m128 two = _mm_##op##_ps(four, _mm_movehl_ps(four, four));                                           \
        return _mm_cvtss_f32(_mm_##op##_ss(two, _mm_movehdup_ps(two)));                                              \
    }                                                                                                                \
    FA_INLINE double fa_##name##_of_double(fa_vec_double v)                                                          \
    {                                                                                                                \
        const __m256d four = FA_HALVED_double(op, v);                                                                \
        const __m128d two = _mm_##op##_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));             \
        return _mm_cvtsd_f64(_mm_##op##_sd(two, _mm_unpackhi_pd(two, two)));                                         \
    }
FA_ACROSS(sum, add)
FA_ACROSS(top, max)
#else
#define FA_ACROSS(real)                                                                                              \
    FA_INLINE real fa_sum_of_##real(fa_vec_##real v)                                                                 \
    {                                                                                                                \
        real lane[FA_WIDTH_##real];                                                                                  \
        memcpy(lane, &v, sizeof v);                                                                                  \
        for (ptrdiff_t half = FA_WIDTH_##real / 2; half > 0; half /= 2)                                              \
            for (ptrdiff_t k = 0; k < half; k++) lane[k] += lane[k + half];                                          \
        return lane[0];                                                                                              \
    }                                                                                                                \
    FA_INLINE real fa_top_of_##real(fa_vec_##real v)                                                                 \
    {                                                                                                                \
        real lane[FA_WIDTH_##real];                                                                                  \
        memcpy(lane, &v, sizeof v);                                                                                  \
        for (ptrdiff_t half = FA_WIDTH_##real / 2; half > 0; half /= 2)                                              \
            for (ptrdiff_t k = 0; k < half; k++) lane[k] = lane[k] > lane[k + half] ? lane[k] : lane[k + half];      \
        return lane[0];                                                                                              \
    }
FA_ACROSS(float)
FA_ACROSS(double)
#endif

/* The cache lines of so many bytes, ``ahead`` bytes beyond a place, wherever that is, are asked for. */
FA_INLINE void fa_fetch(const void *from, size_t ahead, size_t bytes)
{
#if defined(__GNUC__)
    for (size_t k = 0; k < bytes; k += 64) __builtin_prefetch((const void *)((uintptr_t)from + ahead + k));
#else
    (void)from, (void)ahead, (void)bytes;
#endif
}

/* Whole vectors of memory past the caches: nothing is read for it, to must be aligned, and fa_drain comes before anyone
 * else looks. */
#if defined(__SSE2__) && defined(FA_VECTOR)
#define FA_STREAMS 1
FA_INLINE void fa_stream(void *to, const void *from, size_t bytes)
{
    for (size_t k = 0; k < bytes; k += FA_VECTOR) {
#if FA_VECTOR == 64
        _mm512_stream_si512((__m512i *)((char *)to + k), _mm512_loadu_si512((const char *)from + k));
#elif FA_VECTOR == 32
        _mm256_stream_si256((__m256i *)((char *)to + k), _mm256_loadu_si256((const __m256i *)((const char *)from + k)));
#else
        _mm_stream_si128((__m128i *)((char *)to + k), _mm_loadu_si128((const __m128i *)((const char *)from + k)));
#endif
    }
}

static FA_UNUSED void fa_drain(void)
{
    _mm_sfence();
}
#else
#define FA_STREAMS 0
FA_INLINE void fa_stream(void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
}

static FA_UNUSED void fa_drain(void)
{
}
#endif

/* a b + c, rounded once where that is an instruction: everywhere alike, whatever else becomes of a b. */
#if FA_VECTOR == 64
#define FA_PLUS_float(a, b, c) _mm512_fmadd_ps(a, b, c)
#define FA_PLUS_double(a, b, c) _mm512_fmadd_pd(a, b, c)
#elif FA_VECTOR == 32
#define FA_PLUS_float(a, b, c) _mm256_fmadd_ps(a, b, c)
#define FA_PLUS_double(a, b, c) _mm256_fmadd_pd(a, b, c)
#else
#define FA_PLUS_float(a, b, c) ((a) * (b) + (c))
#define FA_PLUS_double(a, b, c) ((a) * (b) + (c))
#endif

/* ---- distances --------------------------------------------------------------------------------------------------- */

/* (x - peak) c for peak's offset: in one instruction, rounded once, or at least exactly 0 where x is the peak. */
#if FA_VECTOR == 64
#define FA_FROM_float(x, c, offset) _mm512_fmsub_ps(x, fa_every_float(c), offset)
#define FA_FROM_double(x, c, offset) _mm512_fmsub_pd(x, fa_every_double(c), offset)
#define FA_OFFSET(peak, c) ((peak) * (c))
#elif FA_VECTOR == 32
#define FA_FROM_float(x, c, offset) _mm256_fmsub_ps(x, fa_every_float(c), offset)
#define FA_FROM_double(x, c, offset) _mm256_fmsub_pd(x, fa_every_double(c), offset)
#define FA_OFFSET(peak, c) ((peak) * (c))
#else
#define FA_FROM_float(x, c, offset) (((x) - (offset)) * (c))
#define FA_FROM_double(x, c, offset) (((x) - (offset)) * (c))
#define FA_OFFSET(peak, c) (peak)
#endif

/* ---- powers of two ----------------------------------------------------------------------------------------------- */

/* 2^t in two factors, exactly 1 at 0; nothing, beside a sum of 1, where that is below the normal numbers.  Their product
 * is off by at most 1.94 and 1.75 units of the last place with AVX2, SSE2 1.49 and 1.77; AVX-512 2.88 and 2.02, which
 * does for halves: fa_exp2_near, in one piece, is off by 1.97 and 1.11 (tests/test_vecmath.py).
 *
 * Where there are permutations t = n + j/m + r, 2^(j/m) stands in one or two registers, and the polynomial of 2^r,
 * minimax with P(0) = 1, is short: relative error 2.5e-8 and 3e-18, AVX-512 6.5e-8 and 8e-18.
 *
 * fa_exp2_times, AVX2's, multiplies by a number that may be a factor of all coefficients (fa_folds in rows.h), and is
 * anything where t is below -127 or -1023.
 *
 * fa_exp2_seen is for sums.  With AVX2 it has no upper bound, which is 10 % of a row, and a lower one only if told so
 * (FA_UNBOUNDED), 3 to 9 % of one: from 129 on, or below -127, it wraps round, and fa_beyond says so of everything seen,
 * or that there was a NaN. */
typedef struct { fa_vec_float a, b; } fa_power_float;
typedef struct { fa_vec_double a, b; } fa_power_double;

#if FA_VECTOR == 64
/* The rest above the next lower 32nd (16th).  What lies below -127 or beyond 128, infinities too, is scalef's. */
#define FA_DOWN (_MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)
/* 2^t = (1 + p r) root. */
typedef struct { fa_vec_float p, r, root; } fa_growth_float;
typedef struct { fa_vec_double p, r, root; } fa_growth_double;

FA_INLINE fa_growth_float fa_growing_float(fa_vec_float t)
{
    const fa_vec_float low = {
        1.0f, 1.0218972f, 1.04427373f, 1.06714046f, 1.09050775f, 1.1143868f, 1.13878858f, 1.1637249f,
        1.18920708f, 1.21524739f, 1.24185777f, 1.26905096f, 1.29683959f, 1.32523668f, 1.35425556f, 1.38390994f};
    const fa_vec_float high = {
        1.41421354f, 1.44518077f, 1.47682619f, 1.50916445f, 1.54221082f, 1.5759809f, 1.61049032f, 1.64575553f,
        1.68179286f, 1.71861935f, 1.75625217f, 1.79470909f, 1.8340081f, 1.87416768f, 1.91520655f, 1.95714414f};
    const fa_vec_float r = _mm512_reduce_ps(t, 5 << 4 | FA_DOWN);
    const __m512i z = (__m512i)_mm512_add_round_ps(t, fa_every_float(0x1.8p18f), FA_DOWN);
    const fa_vec_float root = _mm512_permutex2var_ps(low, z, high);
    const fa_growth_float e = {0.24265269609690477317f * r + 0.69312373150249832796f, r, _mm512_scalef_ps(root, t)};
    return e;
}

FA_INLINE fa_growth_double fa_growing_double(fa_vec_double t)
{
    const fa_vec_double low = {
        1.0, 1.0442737824274138, 1.0905077326652577, 1.1387886347566916,
        1.189207115002721, 1.241857812073484, 1.2968395546510096, 1.3542555469368927};
    const fa_vec_double high = {
        1.4142135623730951, 1.4768261459394993, 1.5422108254079407, 1.6104903319492543,
        1.681792830507429, 1.7562521603732995, 1.8340080864093424, 1.9152065613971474};
    const fa_vec_double r = _mm512_reduce_pd(t, 4 << 4 | FA_DOWN);
    const __m512i z = (__m512i)_mm512_add_round_pd(t, fa_every_double(0x1.8p48), FA_DOWN);
    const fa_vec_double root = _mm512_permutex2var_pd(low, z, high);
    fa_vec_double p = 1.573628290535441693e-4 * r + 1.3330742244346726924e-3;
    p = p * r + 9.6181408030916121873e-3;
    p = p * r + 5.5504108419541835352e-2;
    p = p * r + 2.4022650696146326025e-1;
    p = p * r + 6.9314718055993774104e-1;
    const fa_growth_double e = {p, r, _mm512_scalef_pd(root, t)};
    return e;
}

#define FA_EXP2(real)                                                                                                \
    FA_INLINE fa_power_##real fa_exp2_##real(fa_vec_##real t)                                                        \
    {                                                                                                                \
        const fa_growth_##real it = fa_growing_##real(t);                                                            \
        const fa_power_##real e = {it.p * it.r + (real)1, it.root};                                                  \
        return e;                                                                                                    \
    }                                                                                                                \
    FA_INLINE fa_vec_##real fa_exp2_near_##real(fa_vec_##real t)                                                     \
    {                                                                                                                \
        const fa_growth_##real it = fa_growing_##real(t);                                                            \
        return (fa_vec_##real)FA_PLUS_##real(it.p * it.r, it.root, it.root);                                         \
    }
FA_EXP2(float)
FA_EXP2(double)
#define FA_NEAR 1
#elif FA_VECTOR == 32
/* z is t rounded to eighths, n and j in its low bits, biased: an exponent, and the index of 2^(j/8), whose entry has
 * been relieved of what j adds to it.  Down at -127 that is 0, up at 128 infinity. */
FA_INLINE fa_power_float fa_exp2_rest_float(fa_vec_float r, __m256i z, const float unit, const float by)
{
    const fa_int_float table = {
        0x00000000u, 0xfffb95c2u, 0xfff837f0u, 0xfff5fed7u, 0xfff504f3u, 0xfff5672au, 0xfff744fdu, 0xfffac0c7u};
    const __m256i root = _mm256_permutevar8x32_epi32((__m256i)table, z);
    const fa_vec_float power = (fa_vec_float)_mm256_add_epi32(_mm256_slli_epi32(z, 20), root);
    const float u = 1 / unit;
    fa_vec_float p = 5.5496221168027351817e-2f * u * u * u * by * r + 2.4025762979621786535e-1f * u * u * by;
    p = p * r + 6.9314721426274782089e-1f * u * by;
    p = p * r + by;
    const fa_power_float e = {p, power};
    return e;
}

FA_INLINE fa_power_double fa_exp2_rest_double(fa_vec_double r, __m256i z, const double unit, const double by)
{
    const fa_int_float lower = {
        0x00000000u, 0x3c7d517bu, 0x0a31b715u, 0xd5362a27u, 0x667f3bcdu, 0x422aa0dbu, 0x995ad3adu, 0xdcfba487u};
    const fa_int_float upper = {
        0x00000000u, 0xffff72b8u, 0xffff06feu, 0xfffebfdau, 0xfffea09eu, 0xfffeace5u, 0xfffee89fu, 0xffff5818u};
    const __m256i j = _mm256_shuffle_epi32(z, 0xa0);
    const __m256i root = _mm256_blend_epi32(_mm256_permutevar8x32_epi32((__m256i)lower, j),
                                            _mm256_permutevar8x32_epi32((__m256i)upper, j), 0xaa);
    const fa_vec_double power = (fa_vec_double)_mm256_add_epi64(_mm256_slli_epi64(z, 49), root);
    const double u = 1 / unit, u2 = u * u, u4 = u2 * u2;
    fa_vec_double p = 1.5251844329997301477e-5 * u4 * u2 * u * by * r + 1.5404521944127649916e-4 * u4 * u2 * by;
    p = p * r + 1.3333558238944924407e-3 * u4 * u * by;
    p = p * r + 9.6181290851788626424e-3 * u4 * by;
    p = p * r + 5.550410866480235553e-2 * u2 * u * by;
    p = p * r + 2.4022650695911516032e-1 * u2 * by;
    p = p * r + 6.9314718055994531811e-1 * u * by;
    p = p * r + by;
    const fa_power_double e = {p, power};
    return e;
}

/* What is beyond a sum must show in one bit at least of z that is none of the others', so what lies below has to be of
 * other exponents.  Of 2^20 + 127, a float's for eighths, 2^19 and 2^18 have no bit of their own, and a logit 524,300
 * octaves below the peak came to a power of 1; times 2^13 it is 2^33, whose exponent 160 is 128 + 32.  That of 2^1,
 * the next without an own bit, only z = 2 can have, of halves, and its power is 0, as that of z = 0 is.  The same with
 * doubles: 2^65, 1024 + 64.  So distances for sums are in units of 2^-13 and 2^-16 octaves. */
#define FA_UNIT_float 0x1p13f
#define FA_UNIT_double 0x1p16
#define FA_EXP2(real, least, most, magic, origin, allowed)                                                           \
    FA_INLINE fa_power_##real fa_exp2_##real(fa_vec_##real t)                                                        \
    {                                                                                                                \
        const fa_vec_##real above = FA_MAX_##real(fa_every_##real(least), t);                                        \
        const fa_vec_##real near = FA_MIN_##real(fa_every_##real(most), above), z = near + (real)(magic);            \
        return fa_exp2_rest_##real(near + (fa_every_##real(magic) - z), (__m256i)z, 1, 1);                           \
    }                                                                                                                \
    FA_INLINE fa_vec_##real fa_exp2_times_##real(fa_vec_##real t, const real by)                                     \
    {                                                                                                                \
        const fa_vec_##real near = FA_MIN_##real(fa_every_##real(most), t), z = near + (real)(magic);                \
        const fa_power_##real power =                                                                                \
            fa_exp2_rest_##real(near + (fa_every_##real(magic) - z), (__m256i)z, 1, by);                             \
        return power.a * power.b;                                                                                    \
    }                                                                                                                \
    FA_INLINE fa_power_##real fa_exp2_seen_##real(fa_vec_##real t, const int bounded, fa_int_##real *seen)           \
    {                                                                                                                \
        const real unit = FA_UNIT_##real;                                                                            \
        const fa_vec_##real above = bounded ? (fa_vec_##real)FA_MAX_##real(fa_every_##real(least * unit), t) : t;    \
        const fa_vec_##real z = above + (real)(origin) * unit;                                                       \
        *seen |= (fa_int_##real)z;                                                                                   \
        __asm__("" : "+x"(*seen)); /* now: z of two vectors or-ed first costs registers, and 6 % */                  \
        return fa_exp2_rest_##real(above + (fa_every_##real((origin) * unit) - z), (__m256i)z, unit, 1);             \
    }                                                                                                                \
    FA_INLINE int fa_beyond_##real(fa_int_##real seen)                                                               \
    {                                                                                                                \
        return !_mm256_testc_si256((__m256i)((fa_int_##real){0} + (allowed)), (__m256i)seen);                        \
    }
FA_EXP2(float, -127.0f, 128.0f, 0x1.8p20f + 127, 0x1p20f + 127, 0x500007ffu)
FA_EXP2(double, -1023.0, 1024.0, 0x1.8p49 + 1023, 0x1p49 + 1023, 0x4400000000003fffu)

/* As fa_exp2_seen without bounds, of c x - offset, which is not computed: an operation less.  The offset is in eighths,
 * not beyond FA_FARTHEST, and part of the origin: FA_ORIGIN - offset.  Both c and the origin are times FA_UNIT_float. */
#define FA_ORIGIN (0x1p20f + 127)
#define FA_FARTHEST 0x1p18f
FA_INLINE fa_power_float fa_exp2_straight(fa_vec_float x, float c, fa_vec_float origin, fa_int_float *seen)
{
    const fa_vec_float z = FA_PLUS_float(x, fa_every_float(c), origin);
    *seen |= (fa_int_float)z;
    __asm__("" : "+x"(*seen)); /* now: else bfloat16 with entropy takes 4.0 ms for 2.9, see rows.h */
    const fa_vec_float r = FA_PLUS_float(x, fa_every_float(c), origin - z);
    return fa_exp2_rest_float(r, (__m256i)z, FA_UNIT_float, 1);
}
#else
/* 2^f for |f| <= 1/2, relative error 2e-9 and 4e-18, and exactly 1 at 0.  Minimax with that constraint.  In pairs: one
 * after the other, off by 1.22 and 1.19 units instead, 512 x 32,000 floats took 11.9 ms for 10.6, doubles 41 for 31. */
FA_INLINE fa_vec_float fa_exp2_part_float(fa_vec_float f)
{
    const fa_vec_float f2 = f * f;
    const fa_vec_float p01 = 6.9314720312e-1f * f + 1.0f, p23 = 5.5503318542e-2f * f + 2.4022647880e-1f;
    const fa_vec_float p45 = 1.3399132533e-3f * f + 9.6184398480e-3f;
    return p01 + f2 * (p23 + f2 * (p45 + f2 * 1.5353153882e-4f));
}

FA_INLINE fa_vec_double fa_exp2_part_double(fa_vec_double f)
{
    const fa_vec_double f2 = f * f, f4 = f2 * f2;
    const fa_vec_double p01 = 6.9314718055994532581e-1 * f + 1.0;
    const fa_vec_double p23 = 5.5504108664820083227e-2 * f + 2.402265069591013126e-1;
    const fa_vec_double p45 = 1.3333558146774620517e-3 * f + 9.6181291075941200896e-3;
    const fa_vec_double p67 = 1.5252733493127489347e-5 * f + 1.540353045711209086e-4;
    const fa_vec_double p89 = 1.0178199571842137974e-7 * f + 1.3215435282308487999e-6;
    const fa_vec_double pab = 4.4347712982003767083e-10 * f + 7.0737832485031332991e-9;
    return (p01 + f2 * p23) + f4 * ((p45 + f2 * p67) + f4 * (p89 + f2 * pab));
}

/* 1.5 * 2^23 + 127 rounds t and leaves it in the low bits, biased: an exponent.  Down at -127 that is the one of 0,
 * up at 128 the one of infinity.  Multiplying, unlike adding exponents, keeps every NaN. */
#define FA_EXP2(real, low, high, magic, shift)                                                                       \
    FA_INLINE fa_power_##real fa_exp2_##real(fa_vec_##real t)                                                        \
    {                                                                                                                \
        const fa_vec_##real above = FA_AT_LEAST_##real(fa_every_##real(low), t);                                     \
        const fa_vec_##real near = FA_AT_MOST_##real(fa_every_##real(high), above), z = near + (real)(magic);        \
        const fa_vec_##real p = fa_exp2_part_##real(near - (z - (real)(magic)));                                     \
        fa_int_##real bits;                                                                                          \
        fa_vec_##real power;                                                                                         \
        memcpy(&bits, &z, sizeof bits);                                                                              \
        bits <<= shift;                                                                                              \
        memcpy(&power, &bits, sizeof power);                                                                         \
        const fa_power_##real e = {p, power};                                                                        \
        return e;                                                                                                    \
    }
FA_EXP2(float, -127.0f, 128.0f, 12583039.0, 23)
FA_EXP2(double, -1023.0, 1024.0, 6755399441056767.0, 52)
#endif

#if FA_VECTOR == 32
#define FA_UNBOUNDED 1
#else /* nothing to look out for */
#define FA_UNBOUNDED 0
#define FA_UNIT_float 1
#define FA_UNIT_double 1
#define FA_EXP2_SEEN(real)                                                                                           \
    FA_INLINE fa_power_##real fa_exp2_seen_##real(fa_vec_##real t, const int bounded, fa_int_##real *seen)           \
    {                                                                                                                \
        (void)bounded, (void)seen;                                                                                   \
        return fa_exp2_##real(t);                                                                                    \
    }                                                                                                                \
    FA_INLINE int fa_beyond_##real(fa_int_##real seen)                                                               \
    {                                                                                                                \
        (void)seen;                                                                                                  \
        return 0;                                                                                                    \
    }
FA_EXP2_SEEN(float)
FA_EXP2_SEEN(double)
#endif

/* ---- float16 and bfloat16 ---------------------------------------------------------------------------------------- */

FA_INLINE float fa_from_bits(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

FA_INLINE uint32_t fa_to_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

FA_INLINE float fa_widen_bf16(uint16_t h)
{
    return fa_from_bits((uint32_t)h << 16);
}

/* To the nearest, ties to even; a NaN stays one whatever its payload. */
FA_INLINE uint16_t fa_narrow_bf16(float x)
{
    const uint32_t u = fa_to_bits(x), rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? (u >> 16) | 0x40u : rounded);
}

FA_INLINE float fa_widen_f16(uint16_t h)
{
    /* Exponent and mantissa in their places make h * 2^-112, subnormals included; then the ends. */
    const uint32_t magnitude = (uint32_t)(h & 0x7fffu) << 13, sign = (uint32_t)(h & 0x8000u) << 16;
    const uint32_t finite = fa_to_bits(fa_from_bits(magnitude) * 0x1p112f);
    return fa_from_bits(sign | (magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : finite));
}

FA_INLINE uint16_t fa_narrow_f16(float x)
{
    const uint32_t u = fa_to_bits(x), magnitude = u & 0x7fffffffu;
    /* Below 2^-14 a half is a multiple of 2^-24: adding 1/2 rounds to that and leaves it in the low bits. */
    const uint32_t subnormal = fa_to_bits(fa_from_bits(magnitude) + 0.5f) - 0x3f000000u;
    const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
    const uint32_t large = magnitude >= 0x477ff000u ? 0x7c00u : finite; /* from 65520 on it is infinite */
    const uint32_t quiet = 0x7e00u | ((magnitude >> 13) & 0x1ffu);
    return (uint16_t)((u >> 31 << 15) | (magnitude > 0x7f800000u ? quiet : large));
}

#if FA_VECTOR == 64
FA_INLINE void fa_load2_f16(const uint16_t *h, fa_vec_float *a, fa_vec_float *b)
{
    *a = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)h));
    *b = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(h + 16)));
}

FA_INLINE void fa_store2_f16(uint16_t *h, fa_vec_float a, fa_vec_float b)
{
    _mm256_storeu_si256((__m256i *)h, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
    _mm256_storeu_si256((__m256i *)(h + 16), _mm512_cvtps_ph(b, _MM_FROUND_TO_NEAREST_INT));
}
#elif FA_VECTOR == 32
FA_INLINE void fa_load2_f16(const uint16_t *h, fa_vec_float *a, fa_vec_float *b)
{
    *a = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)h));
    *b = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(h + 8)));
}

FA_INLINE void fa_store2_f16(uint16_t *h, fa_vec_float a, fa_vec_float b)
{
    _mm_storeu_si128((__m128i *)h, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(h + 8), _mm256_cvtps_ph(b, _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(FA_NEON)
FA_INLINE void fa_load2_f16(const uint16_t *h, fa_vec_float *a, fa_vec_float *b)
{
    float16x8_t halves;
    memcpy(&halves, h, sizeof halves);
    *a = (fa_vec_float)vcvt_f32_f16(vget_low_f16(halves));
    *b = (fa_vec_float)vcvt_high_f32_f16(halves);
}

FA_INLINE void fa_store2_f16(uint16_t *h, fa_vec_float a, fa_vec_float b)
{
    const float16x8_t halves = vcvt_high_f16_f32(vcvt_f16_f32((float32x4_t)a), (float32x4_t)b);
    memcpy(h, &halves, sizeof halves);
}
#endif

/* A pair of halves is one lane: the first vector has the lower, the second the upper ones. */
#if defined(FA_VECTOR) && (!defined(__BYTE_ORDER__) || __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__)
#define FA_PICK_INT(yes, a, b) (((a) & (fa_int_float)(yes)) | ((b) & ~(fa_int_float)(yes)))

FA_INLINE fa_int_float fa_rounded_bf16(fa_vec_float x) /* the upper half counts */
{
    const fa_int_float u = (fa_int_float)x;
    return FA_PICK_INT(x != x, u | 0x400000u, u + 0x7fffu + ((u >> 16) & 1u));
}

#if FA_VECTOR == 32 /* interleaved with zeros, four and four: 3 % faster than by pairs, with AVX-512 3 % slower */
FA_INLINE void fa_load2_bf16(const uint16_t *h, fa_vec_float *a, fa_vec_float *b)
{
    const __m256i x = _mm256_loadu_si256((const __m256i *)h), zero = _mm256_setzero_si256();
    *a = (fa_vec_float)_mm256_unpacklo_epi16(zero, x);
    *b = (fa_vec_float)_mm256_unpackhi_epi16(zero, x);
}

FA_INLINE void fa_store2_bf16(uint16_t *h, fa_vec_float a, fa_vec_float b)
{
    const fa_int_float low = fa_rounded_bf16(a) >> 16, high = fa_rounded_bf16(b) >> 16;
    _mm256_storeu_si256((__m256i *)h, _mm256_packus_epi32((__m256i)low, (__m256i)high));
}
#else
FA_INLINE void fa_load2_bf16(const uint16_t *h, fa_vec_float *a, fa_vec_float *b)
{
    fa_int_float pairs;
    memcpy(&pairs, h, sizeof pairs);
    *a = (fa_vec_float)(pairs << 16);
    *b = (fa_vec_float)(pairs & 0xffff0000u);
}

FA_INLINE void fa_store2_bf16(uint16_t *h, fa_vec_float a, fa_vec_float b)
{
    const fa_int_float pairs = (fa_rounded_bf16(a) >> 16) | (fa_rounded_bf16(b) & 0xffff0000u);
    memcpy(h, &pairs, sizeof pairs);
}
#endif

#if FA_VECTOR == 16 && !defined(FA_NEON) /* as fa_widen_f16 and fa_narrow_f16 */
FA_INLINE fa_vec_float fa_wide_f16(fa_int_float h)
{
    const fa_int_float magnitude = (h & 0x7fffu) << 13, sign = (h & 0x8000u) << 16;
    const fa_int_float finite = (fa_int_float)((fa_vec_float)magnitude * 0x1p112f);
    const fa_yes_float end = (fa_yes_float)magnitude >= 0x0f800000;
    return (fa_vec_float)(sign | FA_PICK_INT(end, magnitude | 0x7f800000u, finite));
}

FA_INLINE void fa_load2_f16(const uint16_t *h, fa_vec_float *a, fa_vec_float *b)
{
    fa_int_float pairs;
    memcpy(&pairs, h, sizeof pairs);
    *a = fa_wide_f16(pairs & 0xffffu);
    *b = fa_wide_f16(pairs >> 16);
}

FA_INLINE fa_int_float fa_rounded_f16(fa_vec_float x)
{
    const fa_int_float u = (fa_int_float)x, magnitude = u & 0x7fffffffu;
    const fa_yes_float size = (fa_yes_float)magnitude;
    const fa_int_float subnormal = (fa_int_float)((fa_vec_float)magnitude + 0.5f) - 0x3f000000u;
    const fa_int_float normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    const fa_int_float finite = FA_PICK_INT(size < 0x38800000, subnormal, normal);
    const fa_int_float large = FA_PICK_INT(size >= 0x477ff000, (fa_int_float){0} + 0x7c00u, finite);
    const fa_int_float quiet = 0x7e00u | ((magnitude >> 13) & 0x1ffu);
    return (u >> 31 << 15) | FA_PICK_INT(size > 0x7f800000, quiet, large);
}

FA_INLINE void fa_store2_f16(uint16_t *h, fa_vec_float a, fa_vec_float b)
{
    const fa_int_float pairs = fa_rounded_f16(a) | fa_rounded_f16(b) << 16;
    memcpy(h, &pairs, sizeof pairs);
}
#endif

#else /* element by element */
#define FA_BY_ELEMENT(kind)                                                                                          \
    FA_INLINE void fa_load2_##kind(const uint16_t *h, fa_vec_float *a, fa_vec_float *b)                              \
    {                                                                                                                \
        float x[2 * FA_WIDTH_float];                                                                                 \
        for (ptrdiff_t k = 0; k < 2 * FA_WIDTH_float; k++) x[k] = fa_widen_##kind(h[k]);                             \
        fa_load2_float(x, a, b);                                                                                     \
    }                                                                                                                \
    FA_INLINE void fa_store2_##kind(uint16_t *h, fa_vec_float a, fa_vec_float b)                                     \
    {                                                                                                                \
        float x[2 * FA_WIDTH_float];                                                                                 \
        fa_store2_float(x, a, b);                                                                                    \
        for (ptrdiff_t k = 0; k < 2 * FA_WIDTH_float; k++) h[k] = fa_narrow_##kind(x[k]);                            \
    }
FA_BY_ELEMENT(f16)
FA_BY_ELEMENT(bf16)
#endif

#endif
