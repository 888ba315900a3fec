/* The scan shape: a recurrence that runs backwards over time, in many streams at once.
 *
 * a) Lanes are neighbouring streams, a vector of doubles wide.  The rule stays the plain function it is: what is loaded
 *    goes into arrays of one vector, the loop over such an array vectorises to a single instruction per operation, and
 *    the arrays to registers.  A loop over whole rows instead is as wide as the flags, 64 lanes, and spills.
 * b) Time-major streams: two steps and two vectors at a time over wide rows (scan_pair.h), so that carry and next
 *    value make the way to L1 and back half as often.  24 x 4096 and 128 x 4096 float32, a copy being 18 and 89 us: 33
 *    and 176 us (AVX2 41 and 218), as the arrays lie to one another up to 41 and 210.  Four steps meet the same sets of
 *    L1 and take twice as long.  1024 x 4096: 3.0 ms, one step at a time 5.6, in blocks of 1024 streams 3.6, of 256
 *    4.6; 24 x 4096 as well in blocks: 41 to 42 us, so 40.  Prefetching the rows above: 128 x 4096 in 230 us, so 214.
 *    Three parts of a row by turns: 218, so 192.  What is left is conversions and stores: without a conversion of the
 *    returns 6 % less, without returns 25 %; summed in float, rounded twice, they would save 7 %.
 *    A Xeon of the fifth generation: 24 x 4096 in 81 us (AVX2 85), a copy 27, where all arrays begin at the same place of
 *    their pages; 832 bytes further on each, 55 (58).  No help: blocks of 256 to 2048 streams 84 to 92 (78 to 84), asking
 *    for other rows 88 to 97 in AVX2, carry and next value in registers through all steps 103 and more.  What helps is to
 *    ask for the lines of the same rows' outputs, 192 bytes ahead: 43 (54), which a Zen 4 gains nothing by.
 * c) Streams whose steps are neighbours, of four steps and more, with AVX2: lanes are neighbouring steps (scan_line.h).
 *    2^18 steps in rows of 8, 16, 64, 128: float32 175, 172, 168, 180 us, float64 152, 145, 145, 170, however many of
 *    them end (AVX2 240, 235, 178 to 226, 190 to 238; 230, 226, 195 to 260, 200 to 250); in chains 570, 416, 287, 233,
 *    where half of them end 1640, 1390, 1210, 280, with truncations turned into lanes 980, 700, 550, 410.  In one row
 *    150 to 165 and 106 to 151 (AVX2 154 to 214, 130 to 205).  Row by row, each with its own flags, those of 8 took 330,
 *    as do 21,845 of 12, whose lanes are not all full, 370: 12 ns a row (not masked stores: in parts as long).  In SSE2's
 *    pairs it does not pay: gcc 12 takes the vectors apart, 10^6 steps in 4.6 ms.  With a mask that keeps a beginning of
 *    each of 64 x 1024 (what follows a prompt): 42 and 41 us, turned into lanes 127 and 141; runs of 16 steps 54 and 57,
 *    of 8 85 and 85, of 4 as turned.  Runs of 8, 16, 32, 64, 128 steps, as many masked, an EPYC of 2017, 16 x 4096
 *    float32: 385, 330, 226, 177, 154 us, step by step (d) 153; with 95 % kept runs of 32, 64, 128: 355, 284, 239 and 233.
 * d) Others go three at a time, each in a chain of scalars, and what is left alone is cut into chains where an episode
 *    ends: nothing passes there.  Chains at the same step of rows 4096 bytes apart wait for one another's stores.  With
 *    options, whose selections double a scalar's work, they are turned into lanes a few steps at a time: 64 x 1024
 *    111 / 143 us, in scalars 260; without options that is 76 / 117.
 *    With a mask those of 32 steps and more go by themselves, from one step that is kept to the next (scan_kept.h): no
 *    branch depends on a flag.  An EPYC of 2017, AVX2, 2048 steps of which a random half is kept: 5.8 us in float32 and
 *    float64, with branches 21.5 and 20.6, without a mask 6.1 and 5.3; 10^6 steps 3.4 and 4.2 ms, so 15 to 19.  Turned,
 *    1,024 of 64 steps take 183 and 204 us, where half is kept 161 and 184, 95 % 230 and 239; 4,096 of 16 steps 230,
 *    by themselves 330: 80 ns each.  Side by side, 128 x 4096: 1.10 and 1.45 ms, of which masks spread from a word of
 *    flags and choices left to gcc, 1.9 and 2.1; without a mask 0.75 and 1.35.
 * e) Whichever way a stream goes, it meets the same operations in the same order, but along a line: there what is summed
 *    depends on its own length and mask only.  So the bits are the same whatever its neighbours, threads or places in
 *    memory.
 * f) What is masked or not needed may be loaded, but no result depends on it: it is selected away, never multiplied.
 */
#ifndef FASTALIGN_SCAN_H
#define FASTALIGN_SCAN_H

#include <stddef.h>

#include "vecmath.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__GNUC__)
#define FA_SCAN_SIMD _Pragma("omp simd")
#define FA_ALIGNED __attribute__((aligned(64)))
#else
#define FA_SCAN_SIMD
#define FA_ALIGNED
#endif

#ifdef __AVX512F__
#define FA_SCAN_LANES 8
#define FA_SCAN_WIDE 16 /* streams that take two steps at once */
#else
#define FA_SCAN_LANES 4
#ifdef __AVX__
#define FA_SCAN_WIDE 8
#else
#define FA_SCAN_WIDE 4
#endif
#endif

#if defined(__AVX2__) && defined(__FMA__) && (defined(__clang__) || __GNUC__ >= 12)
#define FA_SCAN_LINE 1
#else
#define FA_SCAN_LINE 0
#endif

enum {
    FA_SCAN_WIDTH = 4096, /* streams of a block */
    FA_SCAN_NARROW = 64,  /* fewer streams than this go through all their steps in registers */
    FA_SCAN_TURN = 32,    /* steps turned at a time */
    FA_SCAN_CHAINS = 3,   /* of one stream; 2 and 4 are as fast within 5 %, for want of registers */
    FA_SCAN_AT_ONCE = 4,  /* groups of a line's steps */
    FA_SCAN_ROWS = FA_SCAN_LANES == 8 ? 64 : 28, /* steps up to which streams go along one line */
    FA_SCAN_APART = 8,    /* steps between the chains of long streams, lest they meet at one place of their pages */
    FA_SCAN_LONG = 4,     /* steps from which on a stream goes along a line; shorter ones take as long in chains */
    FA_SCAN_MASKED = 128, /* steps from which on it is looked for runs in a mask */
    FA_SCAN_RUN = 64,     /* steps between two borders of a mask, in the mean, from which on its runs go along lines */
    FA_SCAN_WORTH = 512,  /* steps: below, looking for chains costs more than they save */
    FA_SCAN_LOOK = 16,    /* steps after which it is looked whether all streams have taken their first */
    FA_SCAN_ALONE = 32,   /* steps from which on a stream with a mask goes by itself */
    FA_SCAN_PICK = 512,   /* steps whose mask becomes bits at once */
    FA_PLAIN = 0,         /* neither mask nor truncations nor next values, and not a stream's first step taken */
    FA_CUT = 1,           /* no mask */
    FA_MASKED = 2,
    FA_FIRST = 4,         /* as plain, of the first step taken */
    FA_VALUED = 8,        /* values are given, and returns wanted */
    FA_REACHED = 16,      /* of a line: next values are given */
};

typedef struct {
    const void *rewards, *values, *next_values, *final_values, *last_values;
    const unsigned char *terminated, *truncated, *mask;
    void *out, *returns;
    double gamma, lam;
    ptrdiff_t steps, streams, time_stride, stream_stride; /* one of the strides is 1 */
    const long long *offsets; /* streams + 1: where streams of different lengths begin; NULL: all have `steps` */
} fa_scan;

typedef struct {
    /* Half a page more than a block between them, lest one waits for the other's stores: 24 x 4096 in 46 us, so 38. */
    FA_ALIGNED double carry[FA_SCAN_WIDTH + 256], follow[FA_SCAN_WIDTH + FA_SCAN_LANES];
    unsigned char seen[FA_SCAN_WIDTH];
} fa_scan_state;

typedef struct {
    ptrdiff_t top, left; /* the next step, and how many there are with it */
    double carry, follow;
} fa_chain;

/* reward, value, next value, carry, alive, going, gamma, lambda */
typedef double (*fa_scan_rule)(double, double, double, double, double, double, double, double);

/* The loops that are compiled for every rule: `depth` steps of `width` neighbouring streams, the latest of the first
 * stream at `at`; `shared` steps of FA_SCAN_CHAINS chains, or of one; steps along a line; one stream with a mask. */
typedef struct {
    void (*rows)(int how, const fa_scan *w, ptrdiff_t at, ptrdiff_t depth, ptrdiff_t width, double *carry,
                 double *follow, unsigned char *seen);
    void (*chains)(const fa_scan *w, fa_chain *chains, int count, ptrdiff_t shared);
    void (*line)(const fa_scan *w, ptrdiff_t start, ptrdiff_t steps, double factor, double *carry, double *follow);
    void (*picked)(const fa_scan *w, ptrdiff_t start, ptrdiff_t steps, double last);
    double factor; /* of the carry, where the trace goes on */
} fa_scan_loops;

/* ---- lanes ------------------------------------------------------------------------------------------------------ */

/* Flags of all lanes in a word, and the bits of each.  SSE2 compares 32 bits, not 64. */
#if FA_SCAN_LANES == 8 || defined(__AVX__)
typedef uint64_t fa_word;
#else
typedef uint32_t fa_word;
#endif

FA_INLINE fa_word fa_nonzero(fa_word x) /* every byte but 0 as 0xff */
{
    const fa_word ones = ~(fa_word)0 / 255;
    x |= x >> 4 & 15 * ones;
    x |= x >> 2 & 3 * ones;
    x |= x >> 1 & ones;
    return (x & ones) * 255;
}

/* All bits of a lane whose flag is 0, none of the others. */
FA_INLINE void fa_open_lanes(uint64_t *open, const unsigned char *flags, int lanes)
{
#if defined(__AVX512BW__) && defined(__AVX512VL__)
    if (lanes == 8) {
        const __m128i bytes = _mm_loadl_epi64((const __m128i *)flags);
        _mm512_store_si512(open, _mm512_movm_epi64((__mmask8)_mm_testn_epi8_mask(bytes, bytes)));
        return;
    }
#endif
#if defined(__AVX2__)
    if (lanes == 4) {
        int bytes;
        memcpy(&bytes, flags, 4);
        const __m256i wide = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(bytes));
        _mm256_store_si256((__m256i *)open, _mm256_cmpeq_epi64(wide, _mm256_setzero_si256()));
        return;
    }
#elif defined(__SSE2__)
    if (lanes == 4) {
        int bytes;
        memcpy(&bytes, flags, 4);
        const __m128i none = _mm_cmpeq_epi8(_mm_cvtsi32_si128(bytes), _mm_setzero_si128());
        const __m128i two = _mm_unpacklo_epi8(none, none), four = _mm_unpacklo_epi16(two, two);
        _mm_store_si128((__m128i *)open, _mm_unpacklo_epi32(four, four));
        _mm_store_si128((__m128i *)open + 1, _mm_unpackhi_epi32(four, four));
        return;
    }
#endif
    for (int i = 0; i < lanes; i++) open[i] = flags[i] ? 0 : ~0ull;
}

FA_INLINE int fa_all_flagged(const unsigned char *flags, int lanes)
{
    fa_word word;
    for (int i = 0; i < lanes; i += (int)sizeof word) {
        const int some = lanes - i < (int)sizeof word ? lanes - i : (int)sizeof word;
        memset(&word, 1, sizeof word);
        memcpy(&word, flags + i, (size_t)some);
        if (fa_nonzero(word) != ~(fa_word)0) return 0;
    }
    return 1;
}

FA_INLINE int fa_none_flagged(const unsigned char *flags, int lanes)
{
    uint64_t word = 0;
    memcpy(&word, flags, (size_t)lanes);
    return word == 0;
}

/* Of numbers' bits, in the registers they are in: left to itself gcc takes them to general ones and back, or makes a
 * branch; of _mm_and_pd it makes copies besides, an operation each in the chain of what is carried. */
#if defined(__AVX__) && defined(__GNUC__)
#define FA_BITWISE(name, instruction, expression)                                                                      \
    FA_INLINE double name(double x, double y)                                                                          \
    {                                                                                                                  \
        __asm__("v" instruction " %2,%1,%0" : "=x"(x) : "x"(x), "x"(y));                                               \
        return x;                                                                                                      \
    }
#elif defined(__SSE2__) && defined(__GNUC__)
#define FA_BITWISE(name, instruction, expression)                                                                      \
    FA_INLINE double name(double x, double y)                                                                          \
    {                                                                                                                  \
        __asm__(instruction " %1,%0" : "+x"(x) : "x"(y));                                                              \
        return x;                                                                                                      \
    }
#else
#define FA_BITWISE(name, instruction, expression)                                                                      \
    FA_INLINE double name(double x, double y)                                                                          \
    {                                                                                                                  \
        const uint64_t a = fa_bits(x), b = fa_bits(y);                                                                 \
        return fa_double(expression);                                                                                  \
    }
#endif
FA_BITWISE(fa_and, "andpd", a & b)
FA_BITWISE(fa_unless, "andnpd", ~a & b)
FA_BITWISE(fa_or, "orpd", a | b)

FA_INLINE double fa_choose(double mask, double a, double b)
{
#if defined(__AVX__) && defined(__GNUC__)
    __asm__("vblendvpd %2,%1,%0,%0" : "+x"(b) : "x"(a), "x"(mask));
    return b;
#else
    return fa_or(fa_and(mask, a), fa_unless(mask, b));
#endif
}

/* The bits of a mask, none and all. */
static FA_UNUSED const union { uint64_t bits; double mask; } fa_none_or_all[2] = {{0}, {~0ull}};
#define fa_where(i) (fa_none_or_all[i].mask)

/* x in the lanes of the mask, 0 in the others. */
FA_INLINE void fa_only_lanes(double *y, const uint64_t *mask, const double *x, int lanes)
{
#ifdef __AVX__
    if (lanes == 4) {
        _mm256_store_pd(y, _mm256_and_pd(_mm256_load_pd((const double *)mask), _mm256_load_pd(x)));
        return;
    }
#endif
    if (lanes == 1) y[0] = fa_and(fa_double(mask[0]), x[0]);
    else for (int i = 0; i < lanes; i++) y[i] = fa_double(fa_bits(x[i]) & mask[i]);
}

/* 0 in the lanes of the mask, x in the others. */
FA_INLINE void fa_unless_lanes(double *y, const uint64_t *mask, const double *x, int lanes)
{
#ifdef __AVX__
    if (lanes == 4) {
        _mm256_store_pd(y, _mm256_andnot_pd(_mm256_load_pd((const double *)mask), _mm256_load_pd(x)));
        return;
    }
#endif
    if (lanes == 1) y[0] = fa_unless(fa_double(mask[0]), x[0]);
    else for (int i = 0; i < lanes; i++) y[i] = fa_double(fa_bits(x[i]) & ~mask[i]);
}

/* a in the lanes of the mask, b in the others. */
FA_INLINE void fa_choose_lanes(double *y, const uint64_t *mask, const double *a, const double *b, int lanes)
{
#ifdef __AVX__
    if (lanes == 4) {
        const __m256d chosen = _mm256_load_pd((const double *)mask);
        _mm256_store_pd(y, _mm256_blendv_pd(_mm256_load_pd(b), _mm256_load_pd(a), chosen));
        return;
    }
#endif
    if (lanes == 1) y[0] = fa_choose(fa_double(mask[0]), a[0], b[0]);
    else for (int i = 0; i < lanes; i++) y[i] = fa_double((fa_bits(a[i]) & mask[i]) | (fa_bits(b[i]) & ~mask[i]));
}

/* 0 in a lane that is flagged, in both: to a rule that is told that all goes on, what it would choose itself.  From the
 * bytes themselves, not by choices among bits of a word: 33 x 128 float32 in 150 us instead of 160, with AVX2 169 of
 * 186, with SSE2 405 of 496. */
FA_INLINE void fa_shut_lanes(double *a, double *b, const unsigned char *flags, int lanes)
{
#if defined(__AVX512BW__) && defined(__AVX512VL__)
    if (lanes == 8) {
        const __m128i bytes = _mm_loadl_epi64((const __m128i *)flags);
        const __mmask8 open = (__mmask8)_mm_testn_epi8_mask(bytes, bytes);
        _mm512_store_pd(a, _mm512_maskz_mov_pd(open, _mm512_load_pd(a)));
        _mm512_store_pd(b, _mm512_maskz_mov_pd(open, _mm512_load_pd(b)));
        return;
    }
#endif
#ifdef __AVX2__
    if (lanes == 4) {
        int bytes;
        memcpy(&bytes, flags, 4);
        const __m256i wide = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(bytes));
        const __m256d open = _mm256_castsi256_pd(_mm256_cmpeq_epi64(wide, _mm256_setzero_si256()));
        _mm256_store_pd(a, _mm256_and_pd(open, _mm256_load_pd(a)));
        _mm256_store_pd(b, _mm256_and_pd(open, _mm256_load_pd(b)));
        return;
    }
#endif
    if (lanes == 4) {
        FA_ALIGNED uint64_t open[4];
        fa_open_lanes(open, flags, 4);
        for (int k = 0; k < 4; k++) a[k] = fa_double(fa_bits(a[k]) & open[k]);
        for (int k = 0; k < 4; k++) b[k] = fa_double(fa_bits(b[k]) & open[k]);
        return;
    }
    for (int k = 0; k < lanes; k++) {
        a[k] = flags[k] ? 0.0 : a[k];
        b[k] = flags[k] ? 0.0 : b[k];
    }
}

#define FA_JOIN_(a, b) a##b
#define FA_JOIN(a, b) FA_JOIN_(a, b)
#if defined(__GNUC__)
typedef double fa_vector_4 __attribute__((vector_size(32), may_alias));
typedef double fa_vector_8 __attribute__((vector_size(64), may_alias));
typedef uint64_t fa_words_4 __attribute__((vector_size(32), may_alias));
typedef uint64_t fa_words_8 __attribute__((vector_size(64), may_alias));
#else
typedef struct { double lane[4]; } fa_vector_4;
typedef struct { double lane[8]; } fa_vector_8;
typedef struct { uint64_t lane[4]; } fa_words_4;
typedef struct { uint64_t lane[8]; } fa_words_8;
#endif
typedef double fa_vector_1;
typedef uint64_t fa_words_1;

/* gcc 12 makes two conversions and a shuffle of one that widens. */
FA_INLINE void fa_lanes_from_float(double *x, const float *p, int lanes)
{
#ifdef __AVX512F__
    if (lanes == 8) {
        __m256 eight = _mm256_loadu_ps(p);
#ifdef __GNUC__
        __asm__("" : "+x"(eight)); /* Zen 4 converts from memory a third more slowly: 24 x 4096 in 39.6 us, so 37.9 */
#endif
        _mm512_store_pd(x, _mm512_cvtps_pd(eight));
        return;
    }
#endif
#if defined(__AVX__)
    if (lanes == 4) {
        _mm256_store_pd(x, _mm256_cvtps_pd(_mm_loadu_ps(p)));
        return;
    }
#elif defined(__SSE2__)
    if (lanes == 4) {
        const __m128 four = _mm_loadu_ps(p);
        _mm_store_pd(x, _mm_cvtps_pd(four));
        _mm_store_pd(x + 2, _mm_cvtps_pd(_mm_movehl_ps(four, four)));
        return;
    }
#endif
    for (int i = 0; i < lanes; i++) x[i] = p[i];
}

FA_INLINE void fa_lanes_to_float(float *p, const double *x, int lanes)
{
#ifdef __AVX512F__
    if (lanes == 8) {
        _mm256_storeu_ps(p, _mm512_cvtpd_ps(_mm512_load_pd(x)));
        return;
    }
#endif
#if defined(__AVX__)
    if (lanes == 4) {
        _mm_storeu_ps(p, _mm256_cvtpd_ps(_mm256_load_pd(x)));
        return;
    }
#elif defined(__SSE2__)
    if (lanes == 4) {
        _mm_storeu_ps(p, _mm_movelh_ps(_mm_cvtpd_ps(_mm_load_pd(x)), _mm_cvtpd_ps(_mm_load_pd(x + 2))));
        return;
    }
#endif
    for (int i = 0; i < lanes; i++) p[i] = (float)x[i];
}

FA_INLINE void fa_lanes_from_double(double *x, const double *p, int lanes)
{
#ifdef __AVX512F__
    if (lanes == 8) {
        _mm512_store_pd(x, _mm512_loadu_pd(p));
        return;
    }
#endif
#ifdef __AVX__
    if (lanes == 4) {
        _mm256_store_pd(x, _mm256_loadu_pd(p));
        return;
    }
#endif
    for (int i = 0; i < lanes; i++) x[i] = p[i];
}

FA_INLINE void fa_lanes_to_double(double *p, const double *x, int lanes)
{
#ifdef __AVX512F__
    if (lanes == 8) {
        _mm512_storeu_pd(p, _mm512_load_pd(x));
        return;
    }
#endif
#ifdef __AVX__
    if (lanes == 4) {
        _mm256_storeu_pd(p, _mm256_load_pd(x));
        return;
    }
#endif
    for (int i = 0; i < lanes; i++) p[i] = x[i];
}

static FA_UNUSED int fa_odd_flags(const unsigned char *p, ptrdiff_t n) /* whether any byte is neither 0 nor 1 */
{
    unsigned char all = 0;
    for (ptrdiff_t i = 0; i < n; i++) all |= p[i];
    return all > 1;
}

/* How many streams lie before the first vector of wide rows: as many as put most arrays, an output counting twice, at
 * the start of a vector there; what lies across two cache lines is loaded and stored twice.  24 x 4096 float32 in 37 us
 * where out and returns lie elsewhere in their lines than rewards and values, unaligned 44. */
FA_INLINE ptrdiff_t fa_scan_lead(const fa_scan *w, ptrdiff_t at, ptrdiff_t width, size_t size)
{
    const void *const arrays[] = {w->out, w->returns, w->rewards, w->values};
    const size_t vector = FA_SCAN_LANES * size;
    size_t over[4];
    int best = 0, most = 0;
    if (FA_SCAN_LANES < 8 || width < 512 || w->time_stride % FA_SCAN_LANES) return 0;
    for (int i = 0; i < 4; i++) over[i] = arrays[i] ? (0 - (uintptr_t)arrays[i] - (uintptr_t)at * size) % vector : 1;
    for (int i = 0; i < 4; i++) {
        int agree = 0;
        for (int j = 0; j < 4; j++) agree += over[j] == over[i] ? j < 2 ? 2 : 1 : 0;
        if (over[i] % size == 0 && agree > most) best = i, most = agree;
    }
    return most ? (ptrdiff_t)(over[best] / size) : 0;
}

static ptrdiff_t fa_scan_ahead = 0; /* bytes: how far ahead of itself a loop over wide rows asks for its outputs' lines */

/* Once, when the extension is loaded. */
static FA_UNUSED void fa_scan_prepare(void)
{
    if (fa_by_intel()) fa_scan_ahead = 192;
}

FA_INLINE void fa_scan_ask(const void *place, ptrdiff_t beyond) /* wherever that is */
{
#if defined(__GNUC__)
    __builtin_prefetch((const void *)((uintptr_t)place + (size_t)beyond), 1);
#else
    (void)place, (void)beyond;
#endif
}

/* Whether wide rows are walked from their last stream to the first.  A load waits for an earlier store to the same place
 * of another page, so whoever stores a little ahead of what it loads, by where the arrays lie in their pages, waits at
 * every step: 128 x 4096, out and returns 16 to 48 bytes on from rewards and values: 314 us upwards, 226 downwards. */
static FA_UNUSED int fa_scan_downwards(const fa_scan *w)
{
    const void *const loads[] = {w->rewards, w->values}, *const stores[] = {w->out, w->returns};
    int ahead = 0;
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++) {
            const uintptr_t apart = ((uintptr_t)stores[j] - (uintptr_t)loads[i]) % 4096;
            if (loads[i] && stores[j] && apart) ahead += apart < 256 ? 1 : apart > 4096 - 256 ? -1 : 0;
        }
    return ahead > 0;
}

/* ---- turning: to[step][lane] = from[lane][step] and back ----------------------------------------------------------- */

static FA_UNUSED void fa_turn_float(float *to, const float *const *from, ptrdiff_t steps)
{
    ptrdiff_t b = 0;
#ifdef __SSE2__
    for (; b + 4 <= steps; b += 4)
        for (int i = 0; i < FA_SCAN_LANES; i += 4) {
            __m128 p = _mm_loadu_ps(from[i] + b), q = _mm_loadu_ps(from[i + 1] + b);
            __m128 r = _mm_loadu_ps(from[i + 2] + b), s = _mm_loadu_ps(from[i + 3] + b);
            _MM_TRANSPOSE4_PS(p, q, r, s);
            float *at = to + b * FA_SCAN_LANES + i;
            _mm_storeu_ps(at, p);
            _mm_storeu_ps(at + FA_SCAN_LANES, q);
            _mm_storeu_ps(at + 2 * FA_SCAN_LANES, r);
            _mm_storeu_ps(at + 3 * FA_SCAN_LANES, s);
        }
#endif
    for (; b < steps; b++)
        for (int i = 0; i < FA_SCAN_LANES; i++) to[b * FA_SCAN_LANES + i] = from[i][b];
}

static FA_UNUSED void fa_turn_back_float(float *const *to, const float *from, ptrdiff_t steps)
{
    ptrdiff_t b = 0;
#ifdef __SSE2__
    for (; b + 4 <= steps; b += 4)
        for (int i = 0; i < FA_SCAN_LANES; i += 4) {
            const float *at = from + b * FA_SCAN_LANES + i;
            __m128 p = _mm_loadu_ps(at), q = _mm_loadu_ps(at + FA_SCAN_LANES);
            __m128 r = _mm_loadu_ps(at + 2 * FA_SCAN_LANES), s = _mm_loadu_ps(at + 3 * FA_SCAN_LANES);
            _MM_TRANSPOSE4_PS(p, q, r, s);
            _mm_storeu_ps(to[i] + b, p);
            _mm_storeu_ps(to[i + 1] + b, q);
            _mm_storeu_ps(to[i + 2] + b, r);
            _mm_storeu_ps(to[i + 3] + b, s);
        }
#endif
    for (; b < steps; b++)
        for (int i = 0; i < FA_SCAN_LANES; i++) to[i][b] = from[b * FA_SCAN_LANES + i];
}

static FA_UNUSED void fa_turn_double(double *to, const double *const *from, ptrdiff_t steps)
{
    ptrdiff_t b = 0;
#ifdef __SSE2__
    for (; b + 2 <= steps; b += 2)
        for (int i = 0; i < FA_SCAN_LANES; i += 2) {
            const __m128d p = _mm_loadu_pd(from[i] + b), q = _mm_loadu_pd(from[i + 1] + b);
            double *at = to + b * FA_SCAN_LANES + i;
            _mm_storeu_pd(at, _mm_unpacklo_pd(p, q));
            _mm_storeu_pd(at + FA_SCAN_LANES, _mm_unpackhi_pd(p, q));
        }
#endif
    for (; b < steps; b++)
        for (int i = 0; i < FA_SCAN_LANES; i++) to[b * FA_SCAN_LANES + i] = from[i][b];
}

static FA_UNUSED void fa_turn_back_double(double *const *to, const double *from, ptrdiff_t steps)
{
    ptrdiff_t b = 0;
#ifdef __SSE2__
    for (; b + 2 <= steps; b += 2)
        for (int i = 0; i < FA_SCAN_LANES; i += 2) {
            const double *at = from + b * FA_SCAN_LANES + i;
            const __m128d p = _mm_loadu_pd(at), q = _mm_loadu_pd(at + FA_SCAN_LANES);
            _mm_storeu_pd(to[i] + b, _mm_unpacklo_pd(p, q));
            _mm_storeu_pd(to[i + 1] + b, _mm_unpackhi_pd(p, q));
        }
#endif
    for (; b < steps; b++)
        for (int i = 0; i < FA_SCAN_LANES; i++) to[i][b] = from[b * FA_SCAN_LANES + i];
}

#ifdef __SSE2__
FA_INLINE __m128i fa_pair(const unsigned char *p, const unsigned char *q) /* eight bytes of each, by turns */
{
    return _mm_unpacklo_epi8(_mm_loadl_epi64((const __m128i *)p), _mm_loadl_epi64((const __m128i *)q));
}
#endif

static FA_UNUSED void fa_turn_flags(unsigned char *to, const unsigned char *const *from, ptrdiff_t steps)
{
    ptrdiff_t b = 0;
#ifdef __SSE2__
    for (; b + 8 <= steps; b += 8) {
        __m128i *at = (__m128i *)(to + b * FA_SCAN_LANES);
        const __m128i p = fa_pair(from[0] + b, from[1] + b), q = fa_pair(from[2] + b, from[3] + b);
        const __m128i low = _mm_unpacklo_epi16(p, q), high = _mm_unpackhi_epi16(p, q);
#if FA_SCAN_LANES == 4
        _mm_storeu_si128(at, low);
        _mm_storeu_si128(at + 1, high);
#else
        const __m128i r = fa_pair(from[4] + b, from[5] + b), s = fa_pair(from[6] + b, from[7] + b);
        const __m128i low_too = _mm_unpacklo_epi16(r, s), high_too = _mm_unpackhi_epi16(r, s);
        _mm_storeu_si128(at, _mm_unpacklo_epi32(low, low_too));
        _mm_storeu_si128(at + 1, _mm_unpackhi_epi32(low, low_too));
        _mm_storeu_si128(at + 2, _mm_unpacklo_epi32(high, high_too));
        _mm_storeu_si128(at + 3, _mm_unpackhi_epi32(high, high_too));
#endif
    }
#endif
    for (; b < steps; b++)
        for (int i = 0; i < FA_SCAN_LANES; i++) to[b * FA_SCAN_LANES + i] = from[i][b];
}

/* ---- flags as bits -------------------------------------------------------------------------------------------------- */

/* The last of 64 bits are set where those of n flags are, n > 0; the others are 0. */
FA_INLINE uint64_t fa_flag_bits(const unsigned char *flags, ptrdiff_t n)
{
#if defined(__AVX512BW__)
    const __m512i all = _mm512_maskz_loadu_epi8(~0ull << (64 - n), flags + n - 64);
    return _mm512_test_epi8_mask(all, all);
#elif defined(__SSE2__)
    uint64_t bits = 0;
    const __m128i none = _mm_setzero_si128();
    if (n >= 16) {
        for (ptrdiff_t k = n; k > 0; k -= 16) {
            const ptrdiff_t from = k < 16 ? 0 : k - 16;
            const __m128i part = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(flags + from)), none);
            bits |= (uint64_t)(unsigned)(_mm_movemask_epi8(part) ^ 0xffff) << (64 - n + from);
        }
    } else {
        uint64_t low = 0, high = 0;
        const int half = n >= 8 ? 8 : n >= 4 ? 4 : n >= 2 ? 2 : 1;
        if (half == 8) memcpy(&low, flags, 8), memcpy(&high, flags + n - 8, 8);
        else if (half == 4) memcpy(&low, flags, 4), memcpy(&high, flags + n - 4, 4);
        else if (half == 2) memcpy(&low, flags, 2), memcpy(&high, flags + n - 2, 2);
        else low = high = flags[0];
        const __m128i part = _mm_cmpeq_epi8(_mm_set_epi64x((long long)high, (long long)low), none);
        const uint64_t found = (uint64_t)(unsigned)(_mm_movemask_epi8(part) ^ 0xffff);
        bits = (found & 0xff) << (64 - n) | found >> 8 << (64 - half);
    }
    return bits;
#else
    uint64_t bits = 0;
    for (ptrdiff_t i = 0; i < n; i++) bits |= (uint64_t)(flags[i] != 0) << (64 - n + i);
    return bits;
#endif
}

FA_INLINE uint64_t fa_reversed(uint64_t bits)
{
    for (int k = 1; k < 64; k *= 2) {
        const uint64_t half = ~0ull / ((1ull << k) + 1);
#if defined(__GNUC__)
        if (k == 8) return __builtin_bswap64(bits);
#endif
        bits = (bits >> k & half) | (bits & half) << k;
    }
    return bits;
}

FA_INLINE ptrdiff_t fa_lowest(uint64_t bits) /* not 0 */
{
#if defined(__GNUC__) && defined(__x86_64__)
    long long lowest;
    __asm__("rep bsfq %1,%0" : "=r"(lowest) : "r"(bits) : "cc"); /* tzcnt, or bsf where there is none: 2 cycles, so 4 */
    return (ptrdiff_t)lowest;
#elif defined(__GNUC__)
    return __builtin_ctzll(bits);
#else
    ptrdiff_t lowest = 0;
    while (!(bits >> lowest & 1)) lowest++;
    return lowest;
#endif
}

/* ---- steps of one stream side by side ------------------------------------------------------------------------------ */

#if FA_SCAN_LINE
typedef FA_JOIN(fa_vector_, FA_SCAN_LANES) fa_vector;
typedef uint64_t fa_words __attribute__((vector_size(8 * FA_SCAN_LANES), may_alias));

#define FA_UNROLL _Pragma("GCC unroll 4")
#define FA_EACH_4(x) ((x) * 0x1111111111111111ull)
#define FA_EACH_8(x) ((x) * 0x0101010101010101ull)
#define FA_EACH FA_JOIN(FA_EACH_, FA_SCAN_LANES) /* the bits of all groups of lanes */

typedef struct { /* the factor to the power of 1, 2, 4 in every lane, and of their number, which lies between the two */
    fa_vector one, two, four, far[2];
    uint64_t share; /* of 2^32 times 64 steps, how often the second one is meant */
} fa_powers;

typedef struct { /* bits of 64 steps: whether what is 1, 2, 4 steps later, and as many as there are lanes, passes there */
    uint64_t one, two, four, far;
} fa_passes;

typedef struct {
    fa_passes pass;
    uint64_t left, alive; /* bits of 64 steps: whether an episode is cut there; whether none terminates there */
    uint64_t tops;        /* whether it is a stream's latest */
    const void *after;    /* the value after the stream of the latest steps */
    const ptrdiff_t *row; /* how far before it is that of a group's */
} fa_line_flags;

typedef struct { /* of the group after: its values, its sums of 1, 2, 4 and of all later steps; and the power that these meet */
    fa_vector value, one, two, four, carry, far;
} fa_later;

/* The bits of a group's lanes; with AVX2 lanes chosen by a sign, shifted there, take longer than masks from a table: one
 * row with ends 233 us, so 203.  From a register through a general one they take 1.4 cycles, from memory half of one;
 * left to itself gcc 12 loads them into a general register first. */
#if FA_SCAN_LANES == 8
typedef __mmask8 fa_lane_bits;
FA_INLINE fa_lane_bits fa_group_bits(const uint64_t *word, int group)
{
    fa_lane_bits bits;
    __asm__("kmovb %1,%0" : "=k"(bits) : "m"(((const unsigned char *)word)[group]));
    return bits;
}
#else
typedef unsigned fa_lane_bits;
FA_INLINE fa_lane_bits fa_group_bits(const uint64_t *word, int group)
{
    return (fa_lane_bits)(*word >> FA_SCAN_LANES * group) & 15;
}

static FA_UNUSED const FA_ALIGNED uint64_t fa_lane_masks[16][4] = {
#define FA_MASK(b) {-((b) & 1ull), -((b) >> 1 & 1ull), -((b) >> 2 & 1ull), -((b) >> 3 & 1ull)}
    FA_MASK(0), FA_MASK(1), FA_MASK(2),  FA_MASK(3),  FA_MASK(4),  FA_MASK(5),  FA_MASK(6),  FA_MASK(7),
    FA_MASK(8), FA_MASK(9), FA_MASK(10), FA_MASK(11), FA_MASK(12), FA_MASK(13), FA_MASK(14), FA_MASK(15),
#undef FA_MASK
};
#endif

/* Lane i from lane i + k, the last k from the first of `after`. */
#if FA_SCAN_LANES == 8
#define FA_LATER(x, after, k) ((fa_vector)_mm512_alignr_epi64((__m512i)(after), (__m512i)(x), k))
#else
#define FA_LATER(x, after, k) __builtin_shufflevector(x, after, k, k + 1, k + 2, k + 3)
#endif

FA_INLINE fa_vector fa_every(double x)
{
    return x - (fa_vector){0};
}

/* x, and zeros after it. */
FA_INLINE fa_vector fa_alone(double x)
{
    fa_vector alone = {0};
    alone[0] = x;
    return alone;
}

FA_INLINE fa_later fa_later_of(const fa_powers *p, double carry, double follow)
{
    const fa_vector c = fa_alone(carry);
    const fa_later at = {fa_alone(follow), c, c, c, c, p->far[0]};
    return at;
}

/* A power rounded to one side adds its error up: of 10^6 rewards in [0, 1], by a factor of 0.9999 and 0.999999, with
 * AVX2 to 2e-13 and 2e-12 of the largest sum; to both by turns 7e-15 and 2e-14, in the same time. */
FA_INLINE fa_powers fa_powers_of(double factor)
{
    const double two = factor * factor;
    fa_powers p = {fa_every(factor), fa_every(two), fa_every(two * two), {{0}}, 0};
    double power = factor, lost = 0.0;
    for (int k = 1; k < FA_SCAN_LANES; k *= 2) { /* power + lost is the factor to the k */
        const double more = 2.0 * power * lost, next = __builtin_fma(power, power, more);
        lost = __builtin_fma(power, power, -next) + more;
        power = next;
    }
    const double other = power + power * (lost > 0.0 ? 0x1p-52 : -0x1p-52);
    p.far[0] = fa_every(power), p.far[1] = fa_every(other);
    if (lost != 0.0) p.share = (uint64_t)(lost / (other - power) * 0x1p32);
    return p;
}

/* Of 64 steps, nothing passing those that are not open, and of the 64 after them. */
FA_INLINE fa_passes fa_passes_of(uint64_t open, const fa_passes *after)
{
    fa_passes p;
    p.one = open;
    p.two = p.one & (p.one >> 1 | after->one << 63);
    p.far = p.four = p.two & (p.two >> 2 | after->two << 62);
#if FA_SCAN_LANES == 8
    p.far = p.four & (p.four >> 4 | after->four << 60);
#endif
    return p;
}

/* The last `some` lanes from and to memory; the others are 0, and left alone.  A masked store takes AMD's processors with
 * AVX2 only 20 cycles. */
#if FA_SCAN_LANES == 8
#define FA_LAST(some) ((__mmask8)(0xff00 >> (some)))
FA_INLINE void fa_last_from_float(double *x, const float *p, int some)
{
    _mm512_store_pd(x, _mm512_cvtps_pd(_mm256_maskz_loadu_ps(FA_LAST(some), p)));
}
FA_INLINE void fa_last_from_double(double *x, const double *p, int some)
{
    _mm512_store_pd(x, _mm512_maskz_loadu_pd(FA_LAST(some), p));
}
FA_INLINE void fa_last_to_float(float *p, const double *x, int some)
{
    _mm256_mask_storeu_ps(p, FA_LAST(some), _mm512_cvtpd_ps(_mm512_load_pd(x)));
}
FA_INLINE void fa_last_to_double(double *p, const double *x, int some)
{
    _mm512_mask_storeu_pd(p, FA_LAST(some), _mm512_load_pd(x));
}
#else
FA_INLINE __m128i fa_last(int some)
{
    static const int32_t lanes[8] = {0, 0, 0, 0, -1, -1, -1, -1};
    return _mm_loadu_si128((const __m128i *)(lanes + some));
}
FA_INLINE void fa_last_from_float(double *x, const float *p, int some)
{
    _mm256_store_pd(x, _mm256_cvtps_pd(_mm_maskload_ps(p, fa_last(some))));
}
FA_INLINE void fa_last_from_double(double *x, const double *p, int some)
{
    _mm256_store_pd(x, _mm256_maskload_pd(p, _mm256_cvtepi32_epi64(fa_last(some))));
}
FA_INLINE void fa_last_to_double(double *p, const double *x, int some)
{
    if (some == 4) {
        _mm256_storeu_pd(p, _mm256_load_pd(x));
        return;
    }
    const __m256d four = _mm256_load_pd(x);
    const __m128d low = _mm256_castpd256_pd128(four), high = _mm256_extractf128_pd(four, 1);
    if (some & 2) _mm_storeu_pd(p + 2, high);
    if (some & 1) _mm_storeh_pd(some & 2 ? p + 1 : p + 3, some & 2 ? low : high);
}
FA_INLINE void fa_last_to_float(float *p, const double *x, int some)
{
    const __m128 four = _mm256_cvtpd_ps(_mm256_load_pd(x));
    if (some == 4) {
        _mm_storeu_ps(p, four);
        return;
    }
    if (some & 2) _mm_storeh_pi((__m64 *)(p + 2), four);
    const __m128 odd = some & 2 ? _mm_movehdup_ps(four) : _mm_shuffle_ps(four, four, 0xff);
    if (some & 1) _mm_store_ss(some & 2 ? p + 1 : p + 3, odd);
}
#endif

/* x in the lanes whose bit is set, 0 in the others; in all if `open`. */
FA_INLINE fa_vector fa_only(fa_vector x, const int open, fa_lane_bits bits)
{
    if (open) return x;
#if FA_SCAN_LANES == 8
    return _mm512_maskz_mov_pd(bits, x);
#else
    return (fa_vector)((fa_words)x & *(const fa_words *)fa_lane_masks[bits]);
#endif
}

/* a in the lanes whose bit is set, b in the others. */
FA_INLINE fa_vector fa_either(fa_lane_bits bits, fa_vector a, fa_vector b)
{
#if FA_SCAN_LANES == 8
    return _mm512_mask_mov_pd(b, bits, a);
#else
    const fa_words mask = *(const fa_words *)fa_lane_masks[bits];
    return (fa_vector)(((fa_words)a & mask) | ((fa_words)b & ~mask));
#endif
}

/* x + factor * more where the bit is set, else x, be `more` NaN. */
FA_INLINE fa_vector fa_pass(fa_vector x, fa_vector more, fa_vector factor, const int open, fa_lane_bits bits)
{
#if FA_SCAN_LANES == 8
    return open ? _mm512_fmadd_pd(more, factor, x) : _mm512_mask3_fmadd_pd(more, factor, x, bits);
#else
    return _mm256_fmadd_pd(fa_only(more, open, bits), factor, x);
#endif
}
#endif

/* Whether powers of the factor reach what it does itself: one that becomes 0 would stop an infinite carry. */
FA_INLINE int fa_line_keeps(double factor)
{
    return FA_SCAN_LINE && (factor == 0.0 || factor > 1e-36);
}

/* Whether streams may go along a line: not where what a cut one reached is unknown. */
FA_INLINE int fa_goes_along_a_line(const fa_scan *w, double factor)
{
    return (!w->truncated || w->next_values || w->final_values) && fa_line_keeps(factor);
}

/* Whether one is long, and what its mask keeps lies together. */
static FA_UNUSED int fa_has_long_runs(const fa_scan *w, ptrdiff_t start, ptrdiff_t steps)
{
    if (!w->mask || steps < FA_SCAN_MASKED) return 0;
    const unsigned char *kept = w->mask ? w->mask + start : NULL;
    ptrdiff_t borders = 0;
    for (ptrdiff_t i = 1; kept && i < steps; i++) borders += !kept[i] != !kept[i - 1];
    return borders * FA_SCAN_RUN <= steps;
}

/* How far below `at`, and not below `start`, the mask has this flag, 0 or 1; any byte but 0 is set, as it is in numpy. */
static FA_UNUSED ptrdiff_t fa_same_below(const unsigned char *mask, ptrdiff_t start, ptrdiff_t at, unsigned char flag)
{
    const uint64_t eight = flag * 0x0101010101010101ull;
    for (uint64_t word; at - start >= 8; at -= 8) {
        memcpy(&word, mask + at - 8, 8);
        if (word != eight) break;
    }
    while (at > start && (mask[at - 1] != 0) == flag) at--;
    return at;
}

/* ---- chains of one stream ----------------------------------------------------------------------------------------- */

/* Cuts the chain into FA_SCAN_CHAINS, all but the first from the end of an episode, which nothing passes; returns the
 * length of the shortest, 0 if there are too few ends. */
static FA_UNUSED ptrdiff_t fa_cut_chain(const unsigned char *terminated, fa_chain *chains)
{
    const ptrdiff_t n = chains[0].left, bottom = chains[0].top + 1 - n;
    ptrdiff_t above = chains[0].top, tops[FA_SCAN_CHAINS], shared = n;
    if (n < FA_SCAN_WORTH) return 0;
    tops[0] = above;
    for (int k = 1; k < FA_SCAN_CHAINS; k++) {
        const ptrdiff_t from = bottom + n * (FA_SCAN_CHAINS - k) / FA_SCAN_CHAINS;
        const unsigned char *end = from < above ? memchr(terminated + from, 1, (size_t)(above - from)) : NULL;
        if (end == NULL) return 0;
        above = tops[k] = end - terminated;
    }
    for (int k = 0; k < FA_SCAN_CHAINS; k++) {
        const ptrdiff_t left = tops[k] - (k + 1 < FA_SCAN_CHAINS ? tops[k + 1] : bottom - 1);
        chains[k].top = tops[k], chains[k].left = left;
        if (k) chains[k].carry = chains[k].follow = 0.0;
        shared = left < shared ? left : shared;
    }
    return shared;
}

FA_INLINE int fa_scan_how(const fa_scan *w)
{
    return (w->mask ? FA_MASKED : 0) | (w->truncated || w->next_values ? FA_CUT : 0);
}

FA_INLINE ptrdiff_t fa_scan_begin(const fa_scan *w, ptrdiff_t stream)
{
    return w->offsets ? (ptrdiff_t)w->offsets[stream] : stream * w->stream_stride;
}

FA_INLINE ptrdiff_t fa_scan_end(const fa_scan *w, ptrdiff_t stream)
{
    return w->offsets ? (ptrdiff_t)w->offsets[stream + 1] : stream * w->stream_stride + w->steps;
}

#define REAL float
#define NAME(stem) stem##_float
#include "scan_body.h"

#define REAL double
#define NAME(stem) stem##_double
#include "scan_body.h"

#endif
