/* The pointwise shape: elements with a mask, in one pass: values, slopes, tallies.
 *
 * a) The loop around a rule, its step, is instantiated once per rule and precision (translate.py) and called through a
 *    pointer once per tile: nothing vectorises through a pointer per element, a call per 512 elements costs nothing.
 * b) A step reads and writes the arrays themselves.  Only what is masked, odd at the end, or of another precision than
 *    the step passes through buffers in L1: a store of a vector costs as much as two operations.
 * c) Masked elements are squeezed out while loading, so that no formula ever sees them and a step has no mask.
 * d) Within a tile tallies run in FA_LANES lanes of the step's precision, in registers; across tiles in double.  Lanes
 *    are folded in a fixed order at the end of every block of FA_BLOCK elements: the same bits for every number of
 *    threads.
 * e) A tile's lanes of floats add up 32 numbers each, so that a loss of equal summands (log 2 of every pair, before
 *    training) keeps its digits; tiles of 4096 are 4 % faster, of 256 6 % slower.  Lanes of doubles go on from tile to
 *    tile (FA_RESUMED): where no buffer is needed a block is walked in one piece, with the same bits as in several.
 *    4,096 elements, PPO and DPO: AVX-512 1.12 and 2.06 to 1.06 and 1.97 ns per element, AVX2 1.55 and 2.75 to 1.49 and
 *    2.66; from memory 1.24 and 3.1 as before and to 2.7; of 64, which load what they go on from, 8 ns more in all.  One
 *    piece for floats as well, tallies put by every 512 elements within the loop: AVX-512 3 to 5 % faster, AVX2 as before
 *    or 3 % slower, 64 elements 10 %; in double so, too, nothing gained.
 * f) Tried, PPO with 2^20 float32 on AVX-512 (Zen 4; 0.62 ns per element, bound by arithmetic: 51 instructions for 16),
 *    when it took 0.93: lanes of 32 and 64 numbers 0.99 and 1.1; vectors of 256 bits 1.33; omp simd reductions stay
 *    scalar, since gcc makes an array of every struct in such a loop; four times unrolled 0.95.
 * g) Tried, DPO on AVX-512: both of its divisions, by 1 + e and 2 + e, as one by their product: float 1.05 to 1.07,
 *    double 2.96 to 3.00; the divider works beside the rest.  Without gcc's second scheduling, with renamed registers,
 *    or scheduled for Zen 3: within 4 % of each other, in both directions.
 * h) Written by hand, two vectors of AVX-512 side by side, with scalef, a table of 16 roots, masks for selections and
 *    tallies: 512 elements in L1, double: PPO 1.19 ns per element instead of 1.37, DPO 1.85 instead of 1.93; four of AVX2,
 *    PPO 1.76 instead of 1.93.  Not worth a second way to compile the rules.
 * i) Prefetching a tile ahead, 2^20 elements: into L2 15 to 40 % slower, into L1 15 to 50, with the outputs as well more.
 * j) PPO's loop took 40 cycles for 8 doubles, of which the pipes of products are busy for 26: it waited for chains, which
 *    is why exponentials are computed ahead (rules.h).  DPO's is within 15 % of its pipes, 49 cycles of 57.
 * k) Tried, 2^20 elements, for what memory adds to that (DPO in double 2.0 ns per element from L1, 2.5 from memory):
 *    prefetching the first two to eight lines of each array's next tile, 3 to 30 % slower; outputs past the caches, by
 *    way of the buffers, 10 to 60 % slower.
 */
#ifndef FASTALIGN_POINTWISE_H
#define FASTALIGN_POINTWISE_H

#include <stddef.h>

#include "vecmath.h"

#define FA_BLOCK 4096
#define FA_TILE 512
#define FA_LANES 16 /* also in FA_HALVES */
#define FA_INPUTS 4
#define FA_RESULTS 12
#define FA_PARAMS 8

/* n is a multiple of FA_LANES; what is tallied is added to lanes. */
typedef void (*fa_step)(const void *const *in, void *const *out, ptrdiff_t n, const double *p,
                        double lanes[][FA_LANES]);

/* One element: inputs, parameters, results. */
typedef void (*fa_one)(const double *x, const double *p, double *y);

typedef struct {
    const char *family, *kind;
    fa_step wide, narrow; /* in double; in float, if float arrays may be walked so */
    fa_one one;
    int inputs, outputs, sums, peaks;
} fa_kind;

typedef struct {
    const fa_kind *kind;
    int single; /* the arrays are float32 */
    int wide;   /* and some option is not for float: all is computed in double */
    const void *in[FA_INPUTS];
    const unsigned char *mask; /* NULL: everything counts */
    void *out[FA_RESULTS];     /* NULL: not wanted */
    double p[FA_PARAMS];
} fa_pointwise;

/* a if NaN or larger, else b. */
FA_INLINE double fa_peak(double a, double b)
{
    return a > b || a != a ? a : b;
}

FA_INLINE void fa_clear(const fa_kind *kind, double lanes[][FA_LANES])
{
    for (int k = 0; k < kind->sums + kind->peaks; k++)
        for (int l = 0; l < FA_LANES; l++) lanes[k][l] = k < kind->sums ? 0.0 : -(double)INFINITY;
}

/* In halves, of lengths that the compiler knows: 32 ns less of a small call than a loop over them. */
#define FA_HALVES(v, join)                                                                                           \
    do {                                                                                                             \
        for (int l = 0; l < 8; l++) v[l] = join(v[l], v[l + 8]);                                                     \
        for (int l = 0; l < 4; l++) v[l] = join(v[l], v[l + 4]);                                                     \
        v[0] = join(join(v[0], v[2]), join(v[1], v[3]));                                                             \
    } while (0)
#define FA_SUM(a, b) ((a) + (b))

FA_INLINE void fa_fold(const fa_kind *kind, double lanes[][FA_LANES], double *tallies)
{
    for (int k = 0; k < kind->sums + kind->peaks; k++) {
        double *const v = lanes[k];
        if (k < kind->sums)
            FA_HALVES(v, FA_SUM);
        else
            FA_HALVES(v, fa_peak);
        tallies[k] = v[0];
    }
}

/* As fastalign.backends.single_holds. */
FA_INLINE int fa_single_holds(const double *p, int n)
{
    for (int k = 0; k < n; k++)
        if (p[k] != 0.0 && fabs(p[k]) != (double)INFINITY && !(fabs(p[k]) >= 0x1p-100 && fabs(p[k]) <= 0x1p100))
            return 0;
    return 1;
}

/* How many of n elements count. */
FA_INLINE ptrdiff_t fa_kept(const unsigned char *mask, ptrdiff_t n)
{
    int kept = 0;
    for (ptrdiff_t i = 0; i < n; i++) kept += mask[i] != 0;
    return kept;
}

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>

/* Groups of 16 elements, squeezed and spread by a bit each: PPO of 2^20 float32 and float64 of which a mask keeps 90 %
 * 1.4 and 3.2 ms; one by one 3.2 and 5.7.  Loads that leave out what is masked: 0.3 ms more.  Compressed to a register:
 * to memory it takes a hundred cycles of a Zen 4. */
#define FA_BY_BITS
FA_INLINE unsigned fa_bits_of(const unsigned char *mask, ptrdiff_t n)
{
    const __m128i flags = _mm_maskz_loadu_epi8((__mmask16)(n < 16 ? (1u << n) - 1 : 0xffffu), mask);
    return _mm_test_epi8_mask(flags, flags);
}

FA_INLINE void fa_squeeze_float(const float *x, unsigned bits, float *to)
{
    _mm512_storeu_ps(to, _mm512_maskz_compress_ps((__mmask16)bits, _mm512_loadu_ps(x)));
}

FA_INLINE void fa_squeeze_double(const double *x, unsigned bits, double *to)
{
    _mm512_storeu_pd(to, _mm512_maskz_compress_pd((__mmask8)bits, _mm512_loadu_pd(x)));
    to += __builtin_popcount(bits & 0xffu);
    _mm512_storeu_pd(to, _mm512_maskz_compress_pd((__mmask8)(bits >> 8), _mm512_loadu_pd(x + 8)));
}

/* Back, with zeros between them. */
FA_INLINE void fa_spread_float(const float *from, unsigned bits, float *y)
{
    _mm512_storeu_ps(y, _mm512_maskz_expand_ps((__mmask16)bits, _mm512_loadu_ps(from)));
}

FA_INLINE void fa_spread_double(const double *from, unsigned bits, double *y)
{
    _mm512_storeu_pd(y, _mm512_maskz_expand_pd((__mmask8)bits, _mm512_loadu_pd(from)));
    from += __builtin_popcount(bits & 0xffu);
    _mm512_storeu_pd(y + 8, _mm512_maskz_expand_pd((__mmask8)(bits >> 8), _mm512_loadu_pd(from)));
}
#elif defined(__AVX2__) && defined(__GNUC__)
#include <immintrin.h>

/* The same by permutations, eight numbers of four bytes at a time: 2.0 and 4.3 ms, one by one 3.7 and 6.8. */
#define FA_BY_BITS
#define FA_BY_TABLES
FA_INLINE unsigned fa_bits_of(const unsigned char *mask, ptrdiff_t n)
{
    unsigned char some[16] = {0};
    if (n < 16) memcpy(some, mask, (size_t)n);
    const __m128i flags = _mm_loadu_si128((const __m128i *)(n < 16 ? some : mask));
    return 0xffffu & ~(unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(flags, _mm_setzero_si128()));
}

/* For eight bits: which of eight are kept, in order; and which of the kept each of the eight is, or less than 0. */
static uint64_t fa_those_kept[256], fa_places_of[256];

/* Once, when the extension is loaded. */
static FA_UNUSED void fa_masks_begin(void)
{
    for (unsigned bits = 0; bits < 256; bits++) {
        unsigned kept = 0;
        fa_those_kept[bits] = fa_places_of[bits] = 0;
        for (unsigned l = 0; l < 8; l++) {
            const uint64_t yes = bits >> l & 1;
            fa_places_of[bits] |= (yes ? kept : 0x80ull) << 8 * l;
            if (yes) fa_those_kept[bits] |= (uint64_t)l << 8 * kept;
            kept += (unsigned)yes;
        }
    }
}

FA_INLINE void fa_squeeze_eight(const float *x, unsigned bits, float *to)
{
    const __m256i those = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)&fa_those_kept[bits]));
    _mm256_storeu_ps(to, _mm256_permutevar8x32_ps(_mm256_loadu_ps(x), those));
}

FA_INLINE void fa_spread_eight(const float *from, unsigned bits, float *y)
{
    const __m256i places = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)&fa_places_of[bits]));
    const __m256 all = _mm256_permutevar8x32_ps(_mm256_loadu_ps(from), places);
    _mm256_storeu_ps(y, _mm256_blendv_ps(all, _mm256_setzero_ps(), _mm256_castsi256_ps(places)));
}

FA_INLINE void fa_squeeze_float(const float *x, unsigned bits, float *to)
{
    fa_squeeze_eight(x, bits & 0xffu, to);
    fa_squeeze_eight(x + 8, bits >> 8, to + __builtin_popcount(bits & 0xffu));
}

/* Back, with zeros between them. */
FA_INLINE void fa_spread_float(const float *from, unsigned bits, float *y)
{
    fa_spread_eight(from, bits & 0xffu, y);
    fa_spread_eight(from + __builtin_popcount(bits & 0xffu), bits >> 8, y + 8);
}

/* A double is two numbers of four bytes, and a bit of it two. */
static const unsigned char fa_twice[16] = {
    0x00, 0x03, 0x0c, 0x0f, 0x30, 0x33, 0x3c, 0x3f, 0xc0, 0xc3, 0xcc, 0xcf, 0xf0, 0xf3, 0xfc, 0xff};

FA_INLINE void fa_squeeze_double(const double *x, unsigned bits, double *to)
{
    for (int g = 0; g < 16; g += 4, bits >>= 4) {
        fa_squeeze_eight((const float *)(x + g), fa_twice[bits & 15], (float *)to);
        to += __builtin_popcount(bits & 15);
    }
}

FA_INLINE void fa_spread_double(const double *from, unsigned bits, double *y)
{
    for (int g = 0; g < 16; g += 4, bits >>= 4) {
        fa_spread_eight((const float *)from, fa_twice[bits & 15], (float *)(y + g));
        from += __builtin_popcount(bits & 15);
    }
}
#endif

#ifndef FA_BY_TABLES
static FA_UNUSED void fa_masks_begin(void)
{
}
#endif

#define ARRAY double
#define REAL double
#define NARROW 0
#define SQUEEZE fa_squeeze_double
#define SPREAD fa_spread_double
#define NAME(stem) stem##_double
#include "pointwise_body.h"

#define ARRAY float
#define REAL float
#define NARROW 1
#define SQUEEZE fa_squeeze_float
#define SPREAD fa_spread_float
#define NAME(stem) stem##_single
#include "pointwise_body.h"

/* float32 arrays, computed in double. */
#define ARRAY float
#define REAL double
#define NARROW 0
#define NAME(stem) stem##_widened
#include "pointwise_body.h"

/* Blocks whose sums are beyond float, as their means need not be, again in double: the tallies, and what of the outputs
 * is not finite; of a NaN or an infinity that was given it stays so.  All else keeps its bits, whatever is beside it. */
static FA_APART void fa_beyond_single(const fa_pointwise *w, ptrdiff_t n, double *partials)
{
    const fa_kind *kind = w->kind;
    for (ptrdiff_t at = 0; at < n; at += FA_BLOCK, partials += kind->sums + kind->peaks) {
        const ptrdiff_t end = n - at < FA_BLOCK ? n : at + FA_BLOCK;
        fa_pointwise some = *w;
        float y[FA_RESULTS][FA_TILE];
        double tallies[FA_RESULTS];
        int within = 1;
        for (int k = 0; k < kind->sums; k++) within &= fabs(partials[k]) < (double)INFINITY;
        if (within) continue;
        for (int k = 0; k < kind->sums + kind->peaks; k++) partials[k] = k < kind->sums ? 0.0 : -(double)INFINITY;
        for (ptrdiff_t start = at; start < end; start += FA_TILE) {
            const ptrdiff_t m = end - start < FA_TILE ? end - start : FA_TILE;
            for (int c = 0; c < kind->inputs; c++) some.in[c] = (const float *)w->in[c] + start;
            for (int c = 0; c < kind->outputs; c++) some.out[c] = w->out[c] ? y[c] : NULL;
            some.mask = w->mask ? w->mask + start : NULL;
            fa_run_widened(&some, m, tallies);
            for (int k = 0; k < kind->sums + kind->peaks; k++)
                partials[k] = k < kind->sums ? partials[k] + tallies[k] : fa_peak(partials[k], tallies[k]);
            for (int c = 0; c < kind->outputs; c++) {
                float *out = (float *)w->out[c];
                for (ptrdiff_t i = 0; out && i < m; i++)
                    if (!(fabsf(out[start + i]) < INFINITY)) out[start + i] = y[c][i];
            }
        }
    }
}

static FA_UNUSED void fa_pointwise_run(const fa_pointwise *w, ptrdiff_t n, double *partials)
{
    if (!w->single)
        fa_run_double(w, n, partials);
    else if (w->kind->narrow && !w->wide) {
        fa_run_single(w, n, partials);
        fa_beyond_single(w, n, partials);
    } else
        fa_run_widened(w, n, partials);
}

#endif
