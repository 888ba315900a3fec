/* The row shape: folds over the vocabulary axis, and the backward that writes it.
 *
 * a) One sweep.  The reference of the exponentials need not be the maximum, only near it: the peak starts as the
 *    maximum of the first elements and is raised where the sum of a tile says that it is far below; that tile, still
 *    in L1, is swept again.  A steeply ascending row costs two sweeps per tile.
 * b) Everything in powers of two of t = (x - peak) log2(e) / T: no range reduction by parts of ln 2.  That is one FMA,
 *    exact but for a rounding at the peak, which the sums are divided by: a sure token loses exactly 0.
 * c) rows_body.h holds the loops; it is included for each kind of logits.  What each reads at once, lanes.h knows.
 * d) Within a tile the sums run in vector lanes of the row's own precision (float for the halves), across tiles in
 *    double.
 * e) The peak is an element of the row, so a sound sum is at least about 1.  A tile whose sum stays beyond the bound
 *    (NaN, infinities), a row of nothing but -inf, and logits so large that their product with log2(e) has lost its
 *    octaves go to a plain loop in double.
 * f) A row of more than FA_ROW_CUT columns is the merger of its parts, cut there whoever computes them.
 * g) Backward: the base is where log p = 0, as far as a REAL can say, so what t loses by octaves being rounded is
 *    relative to log p; what is left over joins the factors.  With AVX2 a factor of all of a row joins the polynomials
 *    and no lower bound is needed where what lies below becomes 0 afterwards: an EPYC of 2017, 4,000 columns, floats 0.82
 *    instead of 1.0 ns each, doubles 2.66 instead of 3.08.  Distances in one instruction, what it rounds among the
 *    factors: floats nothing, doubles 2.55.  Without the upper bound, which a saved log-sum-exp may need, 0.765 and 2.5.
 *    Put in order by gcc before registers are given out: 1 %.
 * h) A loop waits for the chain of a power (35 cycles and more; a scheduler of 64 operations reaches five vectors), so
 *    the next vectors' elements are loaded, widened and subtracted from before it. 512 x 32,000, one thread of a Zen 4,
 *    in ms, rows in the cache (reading 64 MB takes 1.4 to 2.0), floats / with entropy / float16 / bfloat16 / doubles:
 *    AVX-512 1.7, 2.1, 1.9, 1.7, 5.3, without 1.8, 2.2, 2.1, 1.8, 5.7; AVX2 2.4, 2.9, 2.6, 2.6, 8.2, without 2.7, 3.2,
 *    3.0, 3.0, 9.7; SSE2 10.3, 12.3, 14.8, 10.8, 31. The way back AVX-512 4 to 15, AVX2 25 to 35 % faster so.
 *    AVX-512's 32 registers have room for four vectors of halves at once, their distances after the powers (3 %, 7 %
 *    with entropy), and for two sums by turns, put in order before registers are given out (4 %; either alone 1);
 *    of floats and doubles 4 % slower, and with AVX2 and bounds both. What splits off n beforehand, too: floats
 *    summed by two factors 1.4 instead of 1.55, in one piece nothing, float16 2.1, AVX2's entropy 5.2.
 *    AVX2 counts on no element 127 octaves below the peak (FA_UNBOUNDED) once the first ones are not: no bound, which
 *    entropy needs twice: 2.3, 2.5, 2.4, 2.4, 7.7. That leaves registers for two sums of floats by turns: 2.1, 2.6, 2.3,
 *    2.3 (of doubles 3 % slower). Halves in tiles of twice the size 2 % faster, but an entropy of float16 far from 0, many
 *    of them equal, is off by 8.4e-6 then, else by 1.2e-6. Their powers straight from the elements (fa_exp2_straight),
 *    put in order by gcc before registers are given out, which its own vectorizing spoils: 2.17 and 2.14 for 2.35, but
 *    with entropy, which needs distances all the same (elements less the peak: 3 % faster than octaves), 2.9 for 2.75;
 *    of floats 1 % slower, and with entropy 12. With AVX-512, where only entropy has a bound, nothing gained without.
 * i) Tried, as above, when it took 2.0, 2.3, 2.4, 2.1, 7.5 with AVX-512 and 3.3, 4.4, 3.3, 3.4, 12.3 with AVX2: powers
 *    by one polynomial of degree 5 or 11, as those were. Now, AVX-512: the bounds are the two pipes of additions, 6
 *    cycles of 6.2 (reduce and scalef take two each), and the other two, 5. 16 roots and degree 3 1.86 for 1.7, float16
 *    2.4 for 2.1; vscalef of the product 1.9; no vscalef, but bounds and added exponents 2.2 to 2.5; no vreduce, but
 *    two subtractions 1.95; its index by an FMA, or every other one's, or every other sum's, nothing to 8 % slower;
 *    (x - peak) c in two instructions 2.35 for 2.2, vectors of 256 bits 3.0. Powers in one piece, but of halves, cost
 *    floats and doubles 1 %. float16, whose conversion takes 1.4 of 7.3 cycles of 16: widened by shifts and a mask 2.12,
 *    and told what is infinite 2.28, for 2.02; converted from registers 2.16; prefetched 2.04.
 *    AVX2: with the upper bound of t as a float 3.3, as an integer 2.9. gcc's scheduling before the registers are given
 *    out (-fschedule-insns) 4.1, with -fsched-pressure 3 % faster without entropy, 5.1 for 2.9 with it.
 *    Two sums by turns: with bounds one too many for AVX2's registers, where entropy took 4.4, and 7.4 with moments,
 *    while all that is wanted was one function. A call within the loop: sums in memory on AVX2.
 *    A tile's sums by way of memory, as loops over lanes: 3 % slower. Tiles of half the size 3 to 5 % slower, of twice
 *    nothing, but a policy loss in place 6.0 for 3.8. The first peak from a whole tile, one by one: 0.5 ms.
 * j) Lines asked for early: without, an Intel processor reads or computes, but not both at once. A fifth generation
 *    Xeon, as above but from memory, where a read takes 4.6: forward 10.5, 10.9, 6.3, 6.1, 23.5 with AVX2, 6.8,
 *    7.3, 4.5, 4.4, 15.4 with AVX-512; 4 KiB ahead 5.1, 5.1, 3.5, 3.5, 11.2 and 4.8, 4.9, 2.5, 2.6, 10.1; 2 KiB 5.5
 *    and 5.1, 8 KiB as 4. The way back 13.7 and 9.8, AVX-512 10.3 and 10.1; a policy loss in place 14.1 and 7.2,
 *    9.1 and 6.8. AMD's, a Zen 4, does not gain: forward as before or 25 % slower, as pages lie; in place up to
 *    12 % slower. So there the line asked for is the one that is read next: AVX2 2.45 for 2.39, else nothing.
 * k) An entropy is a difference of two sums that grow with the distance of what weighs most from the peak.  So where a
 *    tile's sum says that some element may be far above, the largest is looked for, and the peak raised: of 2,000 and
 *    32,000 logits of which one sticks out by 10 to 20, floats and doubles are off by up to 32 and 26 eps, else by 277 and
 *    148.  From sums of 32 and 2 nats on 15 and 16, but normal logits of deviation 3 take 4 to 8 % longer, now 2.
 *    Not by the weighted mean, which costs nothing: without an entropy the bits would be others.
 */
#ifndef FASTALIGN_ROWS_H
#define FASTALIGN_ROWS_H

#include "lanes.h"
#include "vecmath.h"

#define FA_ROW_FIRST 256      /* elements searched for the first peak */
#define FA_ROW_BOUND 65536.0f /* of a tile's sum of exponentials: the peak is at most 16 octaves too low */
#define FA_ROW_SHARP 256      /* of a tile's sum, beyond those seen by this peak: some element may be far above it (k) */
#define FA_ROW_ABOVE 4        /* nats: how far */
#define FA_ROW_TILE 8192      /* bytes: on the way there and back, a tile and its copy stay in L1 */
#define FA_ROW_ADDED 256      /* numbers in a lane, of a tile */
#define FA_ROW_CUT 262144     /* columns; as in fastalign/backends/__init__.py */

/* Bytes: a gradient as large as this, in an array of its own, goes past the caches and is not read for what it
 * overwrites.  512 x 32,000 floats, by one thread and two, AVX-512: 3.0 and 2.5 ms instead of 3.9 and 3.1, half as many
 * doubles 3.5 and 2.5 instead of 3.9 and 3.0; AVX2 4.6 and 2.6 instead of 4.7 and 3.5.  160 x 32,000, which stay in L3
 * else: 0.81 and 0.78 instead of 1.04 and 0.66.  The halves, which do without: nothing gained, and float16 with AVX2 8.3
 * instead of 5.4. */
#define FA_ROW_STREAM 33554432

static size_t fa_row_ahead = 0; /* bytes: how far ahead of itself a loop asks for lines (j) */

/* Once, when the extension is loaded. */
static FA_UNUSED void fa_row_begin(void)
{
    if (fa_by_intel()) fa_row_ahead = 4096;
}

/* What is wanted of a row beside the sum of exponentials. */
#define FA_ENTROPY 1
#define FA_MOMENTS 2 /* squares, linear and top */

/* With z = scale * x and m = scale * peak:  total = sum of exp(z - m), weighted = sum of exp(z - m)(z - m),
 * squares = sum of exp(2 (z - m)), linear = sum of x, top = max of x.
 * sound = 0: peak is the log-sum-exp itself (NaN or an infinity), total = 1, top = NaN if there is one. */
typedef struct {
    double peak, total, weighted, squares, linear, top;
    int sound;
} fa_row;

/* A row's exponentials, kept from the way forward for the way back, which then multiplies.
 * They lie in the row's output, which may be the row: a tile is computed aside before it is overwritten.  Or, of calls
 * that are shared, in a room of the thread's own, from where the product goes past the caches or over the row: an EPYC
 * of 2017, 512 x 32,000 floats and half as many doubles in ms, to an array of 64 MB by exponentials taken twice 26.4 and
 * 43, so 15.8 and 23.3, a policy loss there 16.1 for 16.9; in place 15.7 for 17.0, by tiles aside, doubles 22.5 for 24.2;
 * with entropy, whose log p is read off the logits again, 19.0 for 28.3 by exponentials taken twice, doubles 27.3 for 45.
 * Each is relative to the level of its time; spans remember which that was.  From ``end`` on nothing was kept: a half has
 * no room for an exponential.  Tried and slower: prefetching the next row on the way back (6.9 instead of 4.5 ms). */
#define FA_SPANS 16
typedef struct {
    int count;
    ptrdiff_t end, from[FA_SPANS];
    double peak[FA_SPANS], unit[FA_SPANS];
} fa_spans;

/* a b, rounded before it is added to anything: of a sure token's gradient, 0, what rounding took would be left else. */
static FA_UNUSED double fa_product(double a, double b)
{
    const volatile double product = a * b;
    return product;
}

/* Whether a may be a factor of all coefficients of a power's polynomial: none becomes infinite or loses digits. */
FA_INLINE int fa_folds(double a)
{
    return a == 0 || (fabs(a) >= 0x1p-100 && fabs(a) <= 0x1p100);
}

/* Two parts of a row as one. */
static FA_UNUSED fa_row fa_row_merge(fa_row a, fa_row b, double scale)
{
    const double linear = a.linear + b.linear, top = !(a.top >= b.top) && a.top == a.top ? b.top : a.top;
    fa_row high = a.peak >= b.peak ? a : b, low = a.peak >= b.peak ? b : a;
    if (a.peak != a.peak || b.peak != b.peak) {
        high.sound = low.sound = 0;
        high.peak = NAN;
    }
    if (low.sound) { /* then both are: only -inf is lower than a number */
        const double shift = (low.peak - high.peak) * scale, f = exp(shift);
        high.weighted += f > 0 ? f * (low.weighted + low.total * shift) : 0;
        high.squares += f * f * low.squares;
        high.total += f * low.total;
    }
    high.linear = linear;
    high.top = top;
    return high;
}

/* The logarithms of sums of exponentials, so many times eight: of one row with the bits of many. */
static FA_APART void fa_row_rests(const double *restrict total, ptrdiff_t lanes, double *restrict rest)
{
    for (ptrdiff_t l = 0; l < lanes; l += 8)
        for (ptrdiff_t k = l; k < l + 8; k++) rest[k] = fa_log_plus(total[k], 1023.0, 0.0);
}

static FA_UNUSED double fa_row_rest(double total)
{
    const double totals[8] = {total, 1, 1, 1, 1, 1, 1, 1};
    double rest[8];
    fa_row_rests(totals, 8, rest);
    return rest[0];
}

/* Rows of so few columns go FA_SLIM_ROWS at a time, lanes being rows (rows_slim.h): what a row costs by itself is shared.
 * An exponential is then natural, of its distance from the largest, which must be a distance.  An EPYC of 2017, AVX2, ns
 * per row of 2, 6, 18, 32 and 64 floats, by themselves and so: there 155 150 165 115 140 and 19 22 39 51 96; back 260 260
 * 270 215 270 and 50 57 102 142 287; by a saved lse 80 85 98 80 115 and 41 47 75 100 198; a policy loss 260 275 310 260
 * 250 and 58 67 110 154 285.  What is done of 64 rows by Cython in loops of one thing each, not row by row: of 6 there 18
 * for 18, with entropy 26 for 32, back 42 for 46, by a saved lse 28 for 36. */
#define FA_SLIM 32
#define FA_SLIM_ROWS 64


/* Rows of so few go FA_SLIM_ROWS at a time, too, but their columns are lanes (rows_brief.h).  As above, of 33, 48, 100,
 * 256 and 512 floats: there 180 112 223 288 457 and 72 70 117 221 391; back 289 253 428 605 1013 and 72 75 129 247 454
 * (by exponentials taken twice 146 132 211 480 888); by a saved lse 124 104 186 304 549 and 83 85 122 279 518; a policy
 * loss with entropy 385 326 552 872 1519 and 213 224 379 753 1396.  Of 1,024 nothing is gained.  Peaks and levels of 64
 * rows before the sums of any: from a cache up to 5 % faster, else as fast. */
#ifdef FA_VECTOR
#define FA_BRIEF 512
#else
#define FA_BRIEF FA_ROW_ADDED
#endif

FA_INLINE int fa_is_many(ptrdiff_t n, double scale)
{
    return n <= FA_BRIEF && scale >= 0x1p-64;
}

/* Bytes of a row from which on a policy loss had better keep exponentials for the way back than take them again: 192 floats 442 ns for
 * 453, 128 407 for 321; 100 doubles 583 for 666, 48 376 for 353. */
#define FA_KEPT 640

typedef struct { /* fa_row, and log total; but for what is not wanted; to be settled where total is not at least 1 */
    double peak[FA_SLIM_ROWS], total[FA_SLIM_ROWS], rest[FA_SLIM_ROWS];
    double weighted[FA_SLIM_ROWS], squares[FA_SLIM_ROWS], linear[FA_SLIM_ROWS];
    unsigned char sound[FA_SLIM_ROWS], settled; /* whether any was */
} fa_slim;

enum { FA_BENT, FA_ZEROS, FA_NANS };

typedef struct { /* as of fa_row_bends; own: what the token's element has more */
    double peak[FA_SLIM_ROWS], rest[FA_SLIM_ROWS], a[FA_SLIM_ROWS], b[FA_SLIM_ROWS], c[FA_SLIM_ROWS], d[FA_SLIM_ROWS];
    double own[FA_SLIM_ROWS];
    long long token[FA_SLIM_ROWS];
    unsigned char fate[FA_SLIM_ROWS];
} fa_slopes;

/* A row whose gradient is 0. */
FA_INLINE void fa_slope_none(fa_slopes *s, ptrdiff_t l)
{
    s->peak[l] = s->rest[l] = s->a[l] = s->b[l] = s->c[l] = s->d[l] = s->own[l] = 0;
    s->token[l] = 0, s->fate[l] = FA_ZEROS;
}

#if defined(__GNUC__)
#define FA_LINED __attribute__((aligned(64)))
#else
#define FA_LINED
#endif

/* Four rows of n columns, or fewer, each so far from the one before, to columns FA_SLIM_ROWS apart, and back. */
#ifdef __SSE2__
FA_INLINE void fa_turn_four_float(const float *x, ptrdiff_t far, float *y, ptrdiff_t apart)
{
    __m128 p = _mm_loadu_ps(x), q = _mm_loadu_ps(x + far), r = _mm_loadu_ps(x + 2 * far), s = _mm_loadu_ps(x + 3 * far);
    _MM_TRANSPOSE4_PS(p, q, r, s);
    _mm_storeu_ps(y, p), _mm_storeu_ps(y + apart, q), _mm_storeu_ps(y + 2 * apart, r), _mm_storeu_ps(y + 3 * apart, s);
}

FA_INLINE void fa_turn_four_double(const double *x, ptrdiff_t far, double *y, ptrdiff_t apart)
{
    for (int k = 0; k < 4; k += 2)
        for (int l = 0; l < 4; l += 2) {
            const __m128d p = _mm_loadu_pd(x + k * far + l), q = _mm_loadu_pd(x + (k + 1) * far + l);
            _mm_storeu_pd(y + l * apart + k, _mm_unpacklo_pd(p, q));
            _mm_storeu_pd(y + (l + 1) * apart + k, _mm_unpackhi_pd(p, q));
        }
}
#else
#define fa_turn_four_float(x, far, y, apart) fa_turn_four(x, far, y, apart)
#define fa_turn_four_double(x, far, y, apart) fa_turn_four(x, far, y, apart)
#define fa_turn_four(x, far, y, apart)                                                                               \
    for (int k = 0; k < 4; k++)                                                                                      \
        for (int l = 0; l < 4; l++) (y)[l * (apart) + k] = (x)[k * (far) + l]
#endif

#define FA_TURNS(real)                                                                                               \
    FA_INLINE void fa_turn_columns_##real(const real *x, ptrdiff_t n, ptrdiff_t far, ptrdiff_t rows, real *z)        \
    {                                                                                                                \
        if (n < 4 || rows < 4)                                                                                       \
            for (ptrdiff_t l = 0; l < (rows < 4 ? rows : 4); l++)                                                    \
                for (ptrdiff_t j = 0; j < n; j++) z[j * FA_SLIM_ROWS + l] = x[l * far + j];                          \
        else                                                                                                         \
            for (ptrdiff_t j = 0; j < n; j += 4) {                                                                   \
                const ptrdiff_t at = j < n - 4 ? j : n - 4;                                                          \
                fa_turn_four_##real(x + at, far, z + at * FA_SLIM_ROWS, FA_SLIM_ROWS);                               \
            }                                                                                                        \
    }                                                                                                                \
    FA_INLINE void fa_turn_rows_##real(const real *z, ptrdiff_t n, ptrdiff_t rows, real *x, ptrdiff_t far)           \
    {                                                                                                                \
        if (n < 4 || rows < 4)                                                                                       \
            for (ptrdiff_t l = 0; l < (rows < 4 ? rows : 4); l++)                                                    \
                for (ptrdiff_t j = 0; j < n; j++) x[l * far + j] = z[j * FA_SLIM_ROWS + l];                          \
        else                                                                                                         \
            for (ptrdiff_t j = 0; j < n; j += 4) {                                                                   \
                const ptrdiff_t at = j < n - 4 ? j : n - 4;                                                          \
                fa_turn_four_##real(z + at * FA_SLIM_ROWS, FA_SLIM_ROWS, x + at, far);                               \
            }                                                                                                        \
    }
FA_TURNS(float)
FA_TURNS(double)
#undef FA_TURNS

/* What log p is where p is 0, and p log p must be. */
FA_INLINE float fa_slim_far_float(float t)
{
    return t < -800.0f ? -800.0f : t;
}

FA_INLINE double fa_slim_far_double(double t)
{
    return t < -800.0 ? -800.0 : t;
}

/* exp of what is not above 0, and of anything. */
#define fa_slim_fall_float fa_exp_of_minus_single
#define fa_slim_fall_double fa_exp_of_minus
#define fa_slim_exp_float fa_exp_single
#define fa_slim_exp_double fa_exp

#define EACH(k) FA_UNROLLED for (int k = 0; k < VECTORS; k++)
#define PASTE(a, b) a##b
#define JOIN(a, b) PASTE(a, b)
#define NAME(stem) JOIN(JOIN(stem, _), KIND)
#define OF_REAL(stem) JOIN(JOIN(stem, _), REAL)
#define PICK_OF(real, yes, a, b) FA_PICK(real, yes, a, b)

#define KIND float
#define STORED float
#define REAL float
#define LOWEST (-(float)INFINITY)
#define HIGHEST ((float)INFINITY)
#define LEAST (-127.0f)
#define LEAST_EXP 0x1p-126f
#define KEEPS
#define WIDEN(x) (x)
#define NARROW(x) ((float)(x))
#include "rows_body.h"

#define KIND double
#define STORED double
#define REAL double
#define LOWEST (-(double)INFINITY)
#define HIGHEST ((double)INFINITY)
#define LEAST (-1023.0)
#define LEAST_EXP 0x1p-1022
#define KEEPS
#define WIDEN(x) (x)
#define NARROW(x) (x)
#include "rows_body.h"

#define KIND f16
#define STORED uint16_t
#define REAL float
#define LOWEST 0xfc00u
#define HIGHEST 0x7c00u
#define LEAST (-127.0f)
#define WIDEN(x) fa_widen_f16(x)
#define NARROW(x) fa_narrow_f16((float)(x))
#include "rows_body.h"

#define KIND bf16
#define STORED uint16_t
#define REAL float
#define LOWEST 0xff80u
#define HIGHEST 0x7f80u
#define LEAST (-127.0f)
#define WIDEN(x) fa_widen_bf16(x)
#define NARROW(x) fa_narrow_bf16((float)(x))
#include "rows_body.h"

#undef EACH
#undef PASTE
#undef JOIN
#undef NAME
#undef OF_REAL
#undef PICK_OF

#endif
