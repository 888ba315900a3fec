/* The row shape: folds over the vocabulary axis, and the backward that writes it.
 *
 * a) A row is read from memory once.  Per tile: its maximum, then the exponentials relative to the running maximum;
 *    the second sweep finds the tile in L1.
 * b) rows_body.h holds the loops; it is included for float and for double.  float16 and bfloat16 are widened tile by
 *    tile and take the float loops.
 * c) Within a tile the sums run in vector lanes of the row's own precision, across tiles in double.
 * d) The reference of the exponentials is an element of the row, so a sound sum is at least about 1.  A sum that is not
 *    (NaN, infinities, nothing but -inf) sends the row to a plain loop that tells these apart.
 * e) The maximum is taken of integers that are ordered like the floats: a float maximum loses NaN or vector lanes,
 *    depending on the compiler.
 * f) Comparisons are written so that NaN passes: x < low ? low : x.
 * g) Tried on AVX-512, 512 x 32,000 floats forward, 2.95 ms as it is: tiles of 1024 (3.0 ms) and 2048 (4.1: out of L1),
 *    vectors of 256 bits (5.0), -funroll-loops (2.9, but DPO 8.7 instead of 7.8 ms).
 */
#ifndef FASTALIGN_ROWS_H
#define FASTALIGN_ROWS_H

#include <stddef.h>

#include "vecmath.h"

#ifdef __F16C__
#include <immintrin.h>
#endif

#if defined(__GNUC__) /* gcc and clang: -fopenmp-simd, no runtime */
#define FA_SIMD(clauses) _Pragma(clauses)
#else
#define FA_SIMD(clauses)
#endif

#define FA_ROW_TILE 512

/* S = sum of exp(z - m), U = sum of exp(z - m)(z - m), with z = scale * x and m = scale * peak.
 * sound = 0: peak is the log-sum-exp itself (NaN or an infinity), S = 1. */
typedef struct { double peak, total, weighted; int sound; } fa_row;

/* ---- float ------------------------------------------------------------------------------------------------------ */

FA_INLINE float fa_expf_from(float x) /* exp(x) for x <= about 88; below -87 it is exp(-87); relative error 1e-7 */
{
    const float bounded = x < -87.0f ? -87.0f : x;
    const float z = bounded * 1.44269504f + 12583039.0f; /* 1.5 * 2^23 + 127: the biased exponent in the low bits */
    const float n = z - 12583039.0f;
    const float r = (bounded - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * (r * r) + r;
    uint32_t bits;
    float power;
    memcpy(&bits, &z, sizeof bits);
    bits <<= 23;
    memcpy(&power, &bits, sizeof power);
    return p * power + power;
}

FA_INLINE int32_t fa_key_float(float x)
{
    int32_t v;
    memcpy(&v, &x, sizeof v);
    return v ^ ((v >> 31) & 0x7fffffff);
}

FA_INLINE float fa_unkey_float(int32_t v)
{
    float x;
    v ^= (v >> 31) & 0x7fffffff;
    memcpy(&x, &v, sizeof x);
    return x;
}

#define REAL float
#define KEY int32_t
#define KEY_MIN INT32_MIN
#define NAME(stem) stem##_float
#define EXP_FROM fa_expf_from
#define LOWEST -87.0f
#include "rows_body.h"

/* ---- double ----------------------------------------------------------------------------------------------------- */

FA_INLINE double fa_exp_from(double x) /* exp(x) for x <= about 709; below -708 it is exp(-708) */
{
    const double bounded = x < -708.0 ? -708.0 : x;
    const double n = (bounded * FA_LOG2E + FA_ROUND) - FA_ROUND;
    const double r = (bounded - n * FA_LN2_HI) - n * FA_LN2_LO;
    const double power = fa_pow2(n);
    return fa_expm1_core(r) * power + power;
}

/* Shifts of signed 64-bit integers do not exist in AVX2: the sign is spread by a comparison. */
FA_INLINE int64_t fa_key_double(double x)
{
    int64_t v;
    memcpy(&v, &x, sizeof v);
    return v ^ ((v < 0 ? -1ll : 0ll) & 0x7fffffffffffffffll);
}

FA_INLINE double fa_unkey_double(int64_t v)
{
    double x;
    v ^= (v < 0 ? -1ll : 0ll) & 0x7fffffffffffffffll;
    memcpy(&x, &v, sizeof x);
    return x;
}

#define REAL double
#define KEY int64_t
#define KEY_MIN INT64_MIN
#define NAME(stem) stem##_double
#define EXP_FROM fa_exp_from
#define LOWEST -708.0
#include "rows_body.h"

/* ---- float16 and bfloat16 --------------------------------------------------------------------------------------- */

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

static FA_UNUSED void fa_widen_bf16(const uint16_t *restrict h, ptrdiff_t n, float *restrict x)
{
    for (ptrdiff_t i = 0; i < n; i++) x[i] = fa_from_bits((uint32_t)h[i] << 16);
}

/* To the nearest, ties to even; a NaN stays one whatever its payload. */
static FA_UNUSED void fa_narrow_bf16(const float *restrict x, ptrdiff_t n, uint16_t *restrict h)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        const uint32_t u = fa_to_bits(x[i]);
        const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
        h[i] = (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? (u >> 16) | 0x40u : rounded);
    }
}

static FA_UNUSED void fa_widen_f16(const uint16_t *restrict h, ptrdiff_t n, float *restrict x)
{
    ptrdiff_t i = 0;
#ifdef __F16C__
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(x + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(h + i))));
#endif
    for (; i < n; i++) {
        /* Exponent and mantissa in their places make h * 2^-112, subnormals included; then the ends. */
        const uint32_t magnitude = (uint32_t)(h[i] & 0x7fffu) << 13, sign = (uint32_t)(h[i] & 0x8000u) << 16;
        const uint32_t finite = fa_to_bits(fa_from_bits(magnitude) * 0x1p112f);
        x[i] = fa_from_bits(sign | (magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : finite));
    }
}

static FA_UNUSED void fa_narrow_f16(const float *restrict x, ptrdiff_t n, uint16_t *restrict h)
{
    ptrdiff_t i = 0;
#ifdef __F16C__
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(h + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
#endif
    for (; i < n; i++) {
        const uint32_t u = fa_to_bits(x[i]), magnitude = u & 0x7fffffffu;
        /* Below 2^-14 a half is a multiple of 2^-24: adding 1/2 rounds to that and leaves it in the low bits. */
        const uint32_t subnormal = fa_to_bits(fa_from_bits(magnitude) + 0.5f) - 0x3f000000u;
        const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
        const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
        const uint32_t large = magnitude >= 0x477ff000u ? 0x7c00u : finite; /* from 65520 on it is infinite */
        const uint32_t quiet = 0x7e00u | ((magnitude >> 13) & 0x1ffu);
        h[i] = (uint16_t)((u >> 31 << 15) | (magnitude > 0x7f800000u ? quiet : large));
    }
}

#define FA_HALF(kind)                                                                                                \
    static FA_UNUSED fa_row fa_row_state_##kind(const uint16_t *x, ptrdiff_t n, double scale, int entropy)           \
    {                                                                                                                \
        float tile[FA_ROW_TILE];                                                                                     \
        fa_running_float run = fa_start_float();                                                                     \
        for (ptrdiff_t at = 0; at < n; at += FA_ROW_TILE) {                                                          \
            const ptrdiff_t m = n - at < FA_ROW_TILE ? n - at : FA_ROW_TILE;                                         \
            fa_widen_##kind(x + at, m, tile);                                                                        \
            fa_push_float(&run, tile, m, (float)scale, scale, entropy);                                              \
        }                                                                                                            \
        fa_seen seen = {0, 0};                                                                                       \
        if (!fa_is_sound(run.total))                                                                                 \
            for (ptrdiff_t at = 0; at < n; at += FA_ROW_TILE) {                                                      \
                const ptrdiff_t m = n - at < FA_ROW_TILE ? n - at : FA_ROW_TILE;                                     \
                fa_widen_##kind(x + at, m, tile);                                                                    \
                fa_look_float(&seen, tile, m);                                                                       \
            }                                                                                                        \
        return fa_finish_float(&run, seen);                                                                          \
    }                                                                                                                \
    static FA_UNUSED void fa_row_slopes_##kind(const uint16_t *x, ptrdiff_t n, double scale, double peak,            \
                                               double rest, double a, double b, uint16_t *out)                       \
    {                                                                                                                \
        float tile[FA_ROW_TILE];                                                                                     \
        for (ptrdiff_t at = 0; at < n; at += FA_ROW_TILE) {                                                          \
            const ptrdiff_t m = n - at < FA_ROW_TILE ? n - at : FA_ROW_TILE;                                         \
            fa_widen_##kind(x + at, m, tile);                                                                        \
            fa_row_slopes_float(tile, m, scale, peak, rest, a, b, tile);                                             \
            fa_narrow_##kind(tile, m, out + at);                                                                     \
        }                                                                                                            \
    }                                                                                                                \
    static FA_UNUSED double fa_get_##kind(const uint16_t *x, ptrdiff_t i)                                            \
    {                                                                                                                \
        float value;                                                                                                 \
        fa_widen_##kind(x + i, 1, &value);                                                                           \
        return value;                                                                                                \
    }                                                                                                                \
    static FA_UNUSED void fa_put_##kind(uint16_t *x, ptrdiff_t i, double value)                                      \
    {                                                                                                                \
        const float narrow = (float)value;                                                                           \
        fa_narrow_##kind(&narrow, 1, x + i);                                                                         \
    }

FA_HALF(f16)
FA_HALF(bf16)

#endif
