/* AVX-512 where there is none: the intrinsics that src_ext/ uses, lane by lane, rounded once where they are.  Memory
 * that a mask leaves out is not touched; what must be aligned and is not stops the program.  Included before all else,
 * without -mavx512f: in test_emulated.py what is defined here stands for the compiler's of the same name.
 *
 * NaN, infinities and signs of zero as in Intel's manual, volume 2: VMAX, VMIN, VREDUCE, VSCALEF. */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512DQ__ 1
#define __AVX512VL__ 1
#define EMULATED(result, name) static __attribute__((noinline, unused)) result emulated##name
#define EACH(result, lanes, name, arguments, lane)                                                                   \
    EMULATED(result, name) arguments                                                                                 \
    {                                                                                                                \
        result v;                                                                                                    \
        for (int i = 0; i < (lanes); i++) v[i] = (lane);                                                             \
        return v;                                                                                                    \
    }
#define BELOW(mask, i) __builtin_popcount((mask) & ((1u << (i)) - 1u)) /* how many of the mask's bits are below */

/* ---- memory ------------------------------------------------------------------------------------------------------ */

#define LOAD(vector, name, bytes)                                                                                    \
    EMULATED(vector, name)(const void *from)                                                                         \
    {                                                                                                                \
        vector v;                                                                                                    \
        if ((uintptr_t)from % (bytes)) __builtin_trap();                                                             \
        memcpy(&v, from, sizeof v);                                                                                  \
        return v;                                                                                                    \
    }
#define STORE(vector, name, bytes)                                                                                   \
    EMULATED(void, name)(void *to, vector v)                                                                         \
    {                                                                                                                \
        if ((uintptr_t)to % (bytes)) __builtin_trap();                                                               \
        memcpy(to, &v, sizeof v);                                                                                    \
    }
#define STORE_SOME(real, vector, lanes, name)                                                                        \
    EMULATED(void, name)(real * to, unsigned mask, vector v)                                                         \
    {                                                                                                                \
        for (int i = 0; i < (lanes); i++)                                                                            \
            if (mask >> i & 1) to[i] = v[i];                                                                         \
    }
LOAD(__m512d, _mm512_load_pd, 64)
LOAD(__m512d, _mm512_loadu_pd, 1)
LOAD(__m512, _mm512_loadu_ps, 1)
LOAD(__m512i, _mm512_loadu_si512, 1)
STORE(__m512d, _mm512_store_pd, 64)
STORE(__m512d, _mm512_storeu_pd, 1)
STORE(__m512, _mm512_storeu_ps, 1)
STORE(__m512i, _mm512_store_si512, 64)
STORE(__m512i, _mm512_stream_si512, 64)
STORE_SOME(double, __m512d, 8, _mm512_mask_storeu_pd)
STORE_SOME(float, __m256, 8, _mm256_mask_storeu_ps)
EACH(__m512d, 8, _mm512_maskz_loadu_pd, (unsigned mask, const double *from), mask >> i & 1 ? from[i] : 0)
EACH(__m256, 8, _mm256_maskz_loadu_ps, (unsigned mask, const float *from), mask >> i & 1 ? from[i] : 0)
EACH(__v64qi, 64, _mm512_maskz_loadu_epi8, (uint64_t mask, const char *from), mask >> i & 1 ? from[i] : 0)
EACH(__v16qi, 16, _mm_maskz_loadu_epi8, (unsigned mask, const char *from), mask >> i & 1 ? from[i] : 0)

/* ---- lanes ------------------------------------------------------------------------------------------------------- */

EACH(__m256, 8, _mm512_castps512_ps256, (__m512 a), a[i])
EACH(__m256d, 4, _mm512_castpd512_pd256, (__m512d a), a[i])
EACH(__m256, 8, _mm512_extractf32x8_ps, (__m512 a, int half), a[8 * half + i])
EACH(__m256d, 4, _mm512_extractf64x4_pd, (__m512d a, int half), a[4 * half + i])
EACH(__m512d, 8, _mm512_mask_mov_pd, (__m512d b, unsigned mask, __m512d a), mask >> i & 1 ? a[i] : b[i])
EACH(__m512d, 8, _mm512_maskz_mov_pd, (unsigned mask, __m512d a), mask >> i & 1 ? a[i] : 0)
EACH(__v8di, 8, _mm512_movm_epi64, (unsigned mask), mask >> i & 1 ? -1 : 0)
EACH(__v8di, 8, _mm512_alignr_epi64, (__v8di a, __v8di b, int by), i + by < 8 ? b[i + by] : a[i + by - 8])
EACH(__m512, 16, _mm512_permutex2var_ps, (__m512 a, __v16si z, __m512 b), z[i] & 16 ? b[z[i] & 15] : a[z[i] & 15])
EACH(__m512d, 8, _mm512_permutex2var_pd, (__m512d a, __v8di z, __m512d b), z[i] & 8 ? b[z[i] & 7] : a[z[i] & 7])
EACH(__m512, 16, _mm512_maskz_expand_ps, (unsigned mask, __m512 a), mask >> i & 1 ? a[BELOW(mask, i)] : 0)
EACH(__m512d, 8, _mm512_maskz_expand_pd, (unsigned mask, __m512d a), mask >> i & 1 ? a[BELOW(mask, i)] : 0)

#define COMPRESS(vector, lanes, name)                                                                                \
    EMULATED(vector, name)(unsigned mask, vector a)                                                                  \
    {                                                                                                                \
        vector v = {0};                                                                                              \
        for (int i = 0; i < (lanes); i++)                                                                            \
            if (mask >> i & 1) v[BELOW(mask, i)] = a[i];                                                             \
        return v;                                                                                                    \
    }
COMPRESS(__m512, 16, _mm512_maskz_compress_ps)
COMPRESS(__m512d, 8, _mm512_maskz_compress_pd)

#define TEST(mask, vector, lanes, name, yes)                                                                         \
    EMULATED(mask, name)(vector a, vector b)                                                                         \
    {                                                                                                                \
        mask bits = 0;                                                                                               \
        for (int i = 0; i < (lanes); i++) bits |= (mask)(((a[i] & b[i]) != 0) == (yes)) << i;                        \
        return bits;                                                                                                 \
    }
TEST(__mmask64, __v64qi, 64, _mm512_test_epi8_mask, 1)
TEST(__mmask16, __v16qi, 16, _mm_test_epi8_mask, 1)
TEST(__mmask16, __v16qi, 16, _mm_testn_epi8_mask, 0)

/* ---- numbers ----------------------------------------------------------------------------------------------------- */

EACH(__m512, 16, _mm512_max_ps, (__m512 a, __m512 b), a[i] > b[i] ? a[i] : b[i])
EACH(__m512, 16, _mm512_min_ps, (__m512 a, __m512 b), a[i] < b[i] ? a[i] : b[i])
EACH(__m512d, 8, _mm512_max_pd, (__m512d a, __m512d b), a[i] > b[i] ? a[i] : b[i])
EACH(__m512d, 8, _mm512_min_pd, (__m512d a, __m512d b), a[i] < b[i] ? a[i] : b[i])
EACH(__m512, 16, _mm512_fmadd_ps, (__m512 a, __m512 b, __m512 c), __builtin_fmaf(a[i], b[i], c[i]))
EACH(__m512, 16, _mm512_fmsub_ps, (__m512 a, __m512 b, __m512 c), __builtin_fmaf(a[i], b[i], -c[i]))
EACH(__m512d, 8, _mm512_fmadd_pd, (__m512d a, __m512d b, __m512d c), __builtin_fma(a[i], b[i], c[i]))
EACH(__m512d, 8, _mm512_fmsub_pd, (__m512d a, __m512d b, __m512d c), __builtin_fma(a[i], b[i], -c[i]))
EACH(__m512d, 8, _mm512_mask3_fmadd_pd, (__m512d a, __m512d b, __m512d c, unsigned mask),
     mask >> i & 1 ? __builtin_fma(a[i], b[i], c[i]) : c[i])
EACH(__m512d, 8, _mm512_cvtps_pd, (__m256 a), (double)a[i])
EACH(__m256, 8, _mm512_cvtpd_ps, (__m512d a), (float)a[i])
EACH(__m512, 16, _mm512_cvtph_ps, (__v16hi a), _cvtsh_ss((unsigned short)a[i]))
EACH(__v16hi, 16, _mm512_cvtps_ph, (__m512 a, int how), (short)((void)how, _cvtss_sh(a[i], _MM_FROUND_TO_NEAREST_INT)))

/* Rounded down, which is the only way the sources ask for: one statement, for nothing else may come in between. */
static const unsigned downwards = 0x3f80, to_the_nearest = 0x1f80;
#define ROUNDED(real, letter, suffix)                                                                                \
    static real down_##real(real a, real b)                                                                          \
    {                                                                                                                \
        __asm__("ldmxcsr %2\n\tvadds" #letter " %1,%0,%0\n\tldmxcsr %3"                                              \
                : "+&x"(a) : "x"(b), "m"(downwards), "m"(to_the_nearest));                                           \
        return a;                                                                                                    \
    }                                                                                                                \
                                                                                                                     \
    /* a less the multiple of 2^-M below it. */                                                                      \
    static real reduced_##real(real a, int how)                                                                      \
    {                                                                                                                \
        const real unit = (real)(1 << (how >> 4));                                                                   \
        return fabs##suffix(a * unit) == (real)INFINITY ? 0 : down_##real(a, -floor##suffix(a * unit) / unit);       \
    }                                                                                                                \
                                                                                                                     \
    /* a 2^floor(b). */                                                                                              \
    static real scaled_##real(real a, real b)                                                                        \
    {                                                                                                                \
        const real n = floor##suffix(b);                                                                             \
        if (!(fabs##suffix(b) < (real)INFINITY)) return b > 0 ? a * b : b < 0 ? a * (real)0 : a + b;                 \
        return scalbn##suffix(a, n > 9999 ? 9999 : n < -9999 ? -9999 : (int)n);                                      \
    }
ROUNDED(float, s, f)
ROUNDED(double, d, )
EACH(__m512, 16, _mm512_add_round_ps, (__m512 a, __m512 b, int how), ((void)how, down_float(a[i], b[i])))
EACH(__m512d, 8, _mm512_add_round_pd, (__m512d a, __m512d b, int how), ((void)how, down_double(a[i], b[i])))
EACH(__m512, 16, _mm512_reduce_ps, (__m512 a, int how), reduced_float(a[i], how))
EACH(__m512d, 8, _mm512_reduce_pd, (__m512d a, int how), reduced_double(a[i], how))
EACH(__m512, 16, _mm512_scalef_ps, (__m512 a, __m512 b), scaled_float(a[i], b[i]))
EACH(__m512d, 8, _mm512_scalef_pd, (__m512d a, __m512d b), scaled_double(a[i], b[i]))
