/* Vectors of floats and of doubles as wide as the build's, for the rows: GNU vectors, and intrinsics where they beat
 * what the compiler makes of them.  Without GNU vectors a vector is one number.
 *
 * Rows are taken two vectors at a time (load2, store2).  The order of the elements in the two is the kind's own, the
 * same for both: a pair of bfloat16 is one 32-bit lane, whose halves are widened by a shift and a mask.
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
    FA_INLINE real fa_first_##real(fa_vec_##real v)                                                                  \
    {                                                                                                                \
        real x;                                                                                                      \
        memcpy(&x, &v, sizeof x);                                                                                    \
        return x;                                                                                                    \
    }                                                                                                                \
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

/* ---- distances --------------------------------------------------------------------------------------------------- */

/* (x - peak) c for peak's offset: in one instruction, rounded once, or at least exactly 0 where x is the peak. */
#if FA_VECTOR == 64
#define FA_FROM_float(x, c, offset) _mm512_fmsub_ps(x, fa_every_float(c), fa_every_float(offset))
#define FA_FROM_double(x, c, offset) _mm512_fmsub_pd(x, fa_every_double(c), fa_every_double(offset))
#define FA_OFFSET(peak, c) ((peak) * (c))
#elif FA_VECTOR == 32
#define FA_FROM_float(x, c, offset) _mm256_fmsub_ps(x, fa_every_float(c), fa_every_float(offset))
#define FA_FROM_double(x, c, offset) _mm256_fmsub_pd(x, fa_every_double(c), fa_every_double(offset))
#define FA_OFFSET(peak, c) ((peak) * (c))
#else
#define FA_FROM_float(x, c, offset) (((x) - (offset)) * (c))
#define FA_FROM_double(x, c, offset) (((x) - (offset)) * (c))
#define FA_OFFSET(peak, c) (peak)
#endif

/* ---- powers of two ----------------------------------------------------------------------------------------------- */

/* 2^f, relative error 9e-8 and 4e-18, and exactly 1 at 0.  Minimax with that constraint; with AVX-512 f is what is left
 * above the next lower integer, elsewhere above or below the nearest. */
FA_INLINE fa_vec_float fa_exp2_part_float(fa_vec_float f)
{
#if FA_VECTOR == 64
    fa_vec_float p = 1.8671300819e-3f * f + 9.0170302844e-3f;
    p = p * f + 5.5799913146e-2f;
    p = p * f + 2.4016445014e-1f;
    p = p * f + 6.9315131181e-1f;
#else
    fa_vec_float p = 1.3264727140e-3f * f + 9.6715126400e-3f;
    p = p * f + 5.5507337435e-2f;
    p = p * f + 2.4022242085e-1f;
    p = p * f + 6.9314697760e-1f;
#endif
    return p * f + 1.0f;
}

FA_INLINE fa_vec_double fa_exp2_part_double(fa_vec_double f)
{
#if FA_VECTOR == 64
    fa_vec_double p = 6.2634652734225902742e-10 * f + 6.5595298355172712178e-9;
    p = p * f + 1.025321230405209001e-7;
    p = p * f + 1.3208367308220049348e-6;
    p = p * f + 1.525317505379524616e-5;
    p = p * f + 1.5403512309733948746e-4;
    p = p * f + 1.3333558629562675936e-3;
    p = p * f + 9.6181290995508956128e-3;
    p = p * f + 5.5504108665602238723e-2;
    p = p * f + 2.4022650695906330315e-1;
    p = p * f + 6.9314718055994592839e-1;
#else
    fa_vec_double p = 4.4347712982003767083e-10 * f + 7.0737832485031332991e-9;
    p = p * f + 1.0178199571842137974e-7;
    p = p * f + 1.3215435282308487999e-6;
    p = p * f + 1.5252733493127489347e-5;
    p = p * f + 1.540353045711209086e-4;
    p = p * f + 1.3333558146774620517e-3;
    p = p * f + 9.6181291075941200896e-3;
    p = p * f + 5.5504108664820083227e-2;
    p = p * f + 2.402265069591013126e-1;
    p = p * f + 6.9314718055994532581e-1;
#endif
    return p * f + 1.0;
}

/* 2^t; nothing, beside a sum of 1, where that is below the normal numbers. */
#if FA_VECTOR == 64
FA_INLINE fa_vec_float fa_exp2_float(fa_vec_float t)
{
    return _mm512_scalef_ps(fa_exp2_part_float(_mm512_reduce_ps(t, 9)), t);
}

FA_INLINE fa_vec_double fa_exp2_double(fa_vec_double t)
{
    return _mm512_scalef_pd(fa_exp2_part_double(_mm512_reduce_pd(t, 9)), t);
}
#else
/* 1.5 * 2^23 + 127 rounds t and leaves it in the low bits, biased: an exponent.  Down at -127 that is the one of 0,
 * up at 128 the one of infinity.  Multiplying, unlike adding exponents, keeps every NaN. */
#define FA_EXP2(real, low, high, magic, shift)                                                                       \
    FA_INLINE fa_vec_##real fa_exp2_##real(fa_vec_##real t)                                                          \
    {                                                                                                                \
        const fa_vec_##real above = FA_MAX_##real(fa_every_##real(low), t);                                          \
        const fa_vec_##real near = FA_MIN_##real(fa_every_##real(high), above), z = near + (real)(magic);            \
        const fa_vec_##real p = fa_exp2_part_##real(near - (z - (real)(magic)));                                     \
        fa_int_##real bits;                                                                                          \
        fa_vec_##real power;                                                                                         \
        memcpy(&bits, &z, sizeof bits);                                                                              \
        bits <<= shift;                                                                                              \
        memcpy(&power, &bits, sizeof power);                                                                         \
        return p * power;                                                                                            \
    }
FA_EXP2(float, -127.0f, 128.0f, 12583039.0, 23)
FA_EXP2(double, -1023.0, 1024.0, 6755399441056767.0, 52)
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
#endif

/* A pair of halves is one lane: the first vector has the lower, the second the upper ones. */
#if defined(FA_VECTOR) && (!defined(__BYTE_ORDER__) || __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__)
#define FA_PICK_INT(yes, a, b) (((a) & (fa_int_float)(yes)) | ((b) & ~(fa_int_float)(yes)))

FA_INLINE void fa_load2_bf16(const uint16_t *h, fa_vec_float *a, fa_vec_float *b)
{
    fa_int_float pairs;
    memcpy(&pairs, h, sizeof pairs);
    *a = (fa_vec_float)(pairs << 16);
    *b = (fa_vec_float)(pairs & 0xffff0000u);
}

FA_INLINE fa_int_float fa_rounded_bf16(fa_vec_float x) /* the upper half counts */
{
    const fa_int_float u = (fa_int_float)x;
    return FA_PICK_INT(x != x, u | 0x400000u, u + 0x7fffu + ((u >> 16) & 1u));
}

FA_INLINE void fa_store2_bf16(uint16_t *h, fa_vec_float a, fa_vec_float b)
{
    const fa_int_float pairs = (fa_rounded_bf16(a) >> 16) | (fa_rounded_bf16(b) & 0xffff0000u);
    memcpy(h, &pairs, sizeof pairs);
}

#if FA_VECTOR == 16 /* as fa_widen_f16 and fa_narrow_f16 */
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
