/* Loops over one row; included by rows.h for each KIND of logits: STORED as such, computed with as REAL.  What KEEPS no
 * exponentials is a half. */

#if FA_VECTOR == 64 && !defined(KEEPS) /* rows.h, h */
#define VECTORS 4                      /* at once */
#define TOTALS 2                       /* by turns */
#else
#define VECTORS 2
#define TOTALS (FA_UNBOUNDED && sizeof(REAL) == sizeof(float) ? 2 : 1)
#endif
#if FA_VECTOR == 32 && !defined(KEEPS)
#define STRAIGHT /* powers from the elements, not from distances */
#endif
#if FA_VECTOR >= 32 && !defined(KEEPS)
#define DISTANCES_LATE 1
#if defined(__GNUC__) && !defined(__clang__)
#define SCHEDULED
#endif
#else
#define DISTANCES_LATE 0
#endif

#define VEC OF_REAL(fa_vec)
#define WIDTH OF_REAL(FA_WIDTH)
#define MAX OF_REAL(FA_MAX)
#define EVERY OF_REAL(fa_every)
#define PICK(yes, a, b) PICK_OF(REAL, yes, a, b)
#define UNIT OF_REAL(FA_UNIT) /* an octave, in the loops of sums */
#define STEP (VECTORS * WIDTH)
#define TILE_LEAST(a, b) ((a) < (b) ? (a) : (b))
#ifdef KEEPS
#define TILE_BYTES FA_ROW_TILE
#else
#define TILE_BYTES (2 * FA_ROW_TILE)
#endif
#if FA_VECTOR == 16 /* half of them in a lane, of floats: those that are equal may all be rounded to one side */
#define ADDED (sizeof(REAL) == sizeof(float) ? FA_ROW_ADDED / 2 : FA_ROW_ADDED)
#else
#define ADDED FA_ROW_ADDED
#endif
#define TILE TILE_LEAST(TILE_BYTES / (ptrdiff_t)sizeof(STORED), (ptrdiff_t)ADDED * (VECTORS / 2) * WIDTH)

#if defined(KEEPS) && defined(FA_NEAR)
#define IN_ONE_PIECE /* the powers: a half needs no such care, which costs 10 % there */
#endif

typedef struct { double total, weighted, squares, linear, top; } NAME(fa_tile_sums);

FA_INLINE VEC NAME(fa_exp2_of)(VEC t)
{
#ifdef IN_ONE_PIECE
    return OF_REAL(fa_exp2_near)(t);
#else
    const OF_REAL(fa_power) power = OF_REAL(fa_exp2)(t);
    return power.a * power.b;
#endif
}

FA_INLINE double NAME(fa_get)(const STORED *x, ptrdiff_t i)
{
    return (double)WIDEN(x[i]);
}

FA_INLINE void NAME(fa_put)(STORED *x, ptrdiff_t i, double value)
{
    x[i] = NARROW(value);
}

static FA_APART void NAME(fa_fill)(const STORED *x, ptrdiff_t n, STORED filled[STEP])
{
    for (ptrdiff_t k = 0; k < STEP; k++) filled[k] = k < n ? x[k] : (STORED)LOWEST;
}

/* Vectors from x; elements from n on, where x ends, are -inf. */
FA_INLINE void NAME(fa_take)(const STORED *x, ptrdiff_t n, VEC v[VECTORS])
{
    STORED filled[STEP];
    if (n < STEP) {
        NAME(fa_fill)(x, n, filled);
        x = filled;
    }
    for (int k = 0; k < VECTORS; k += 2) NAME(fa_load2)(x + k * WIDTH, &v[k], &v[k + 1]);
}

/* The other way; nothing is written from n on. */
FA_INLINE void NAME(fa_give)(STORED *x, ptrdiff_t n, const VEC v[VECTORS])
{
    STORED filled[STEP], *to = n < STEP ? filled : x;
    for (int k = 0; k < VECTORS; k += 2) NAME(fa_store2)(to + k * WIDTH, v[k], v[k + 1]);
    if (n < STEP) memcpy(x, filled, (size_t)n * sizeof *x);
}

#ifdef KEEPS
/* 2^t of n numbers, as the loops below compute it: for the tests. */
static FA_UNUSED void NAME(fa_row_powers)(const REAL *t, ptrdiff_t n, REAL *out)
{
    for (ptrdiff_t i = 0; i < n; i += WIDTH) {
        const size_t some = (size_t)(n - i < WIDTH ? n - i : WIDTH) * sizeof *t;
        VEC v = {0};
        memcpy(&v, t + i, some);
        v = NAME(fa_exp2_of)(v);
        memcpy(out + i, &v, some);
    }
}
#endif

/* As fa_give, whole and past the caches. */
FA_INLINE void NAME(fa_pass)(STORED *x, const VEC v[VECTORS])
{
    STORED step[STEP];
    for (int k = 0; k < VECTORS; k += 2) NAME(fa_store2)(step + k * WIDTH, v[k], v[k + 1]);
    fa_stream(x, step, sizeof step);
}

/* The largest element that is not NaN; in low, if asked for, the smallest of whole STEPs.  What is left over is seen
 * with what lies before it. */
FA_INLINE REAL NAME(fa_tile_ends)(const STORED *x, ptrdiff_t n, REAL *low)
{
    VEC v[VECTORS], top[VECTORS], least[VECTORS];
    EACH(k) top[k] = EVERY(-(REAL)INFINITY), least[k] = EVERY((REAL)INFINITY);
    for (ptrdiff_t at = 0; at < n; at += STEP) {
        const ptrdiff_t i = n - at < STEP && n > STEP ? n - STEP : at;
        NAME(fa_take)(x + i, n - i, v);
        EACH(k) top[k] = MAX(v[k], top[k]);
        if (low && n - i >= STEP) EACH(k) least[k] = OF_REAL(FA_MIN)(v[k], least[k]);
    }
    for (int k = 1; k < VECTORS; k++) top[0] = MAX(top[k], top[0]), least[0] = OF_REAL(FA_MIN)(least[k], least[0]);
    if (low) *low = -OF_REAL(fa_top_of)(-least[0]);
    return OF_REAL(fa_top_of)(top[0]);
}

static FA_UNUSED REAL NAME(fa_tile_top)(const STORED *x, ptrdiff_t n)
{
    return NAME(fa_tile_ends)(x, n, NULL);
}

/* What the exponentials are relative to: the offset of a peak.  t is what the loops make of the peak itself, not quite
 * 0 where the offset was rounded, and unit its power.  Sums are divided by that: a sure token has exactly 1. */
typedef struct { REAL octaves, offset, origin, least, top; double t, unit; } NAME(fa_level); /* the first three by UNIT */
#define LEVEL_HOLDS(level) ((level).unit > 0.5 && (level).unit < 2) /* not beyond what octaves can be counted in */

/* Of as many peaks as there are lanes. */
typedef struct { VEC top, offset, origin, least, t, unit; } NAME(fa_levels);

FA_INLINE NAME(fa_levels) NAME(fa_levels_of)(VEC peak, REAL octaves)
{
    const VEC top = PICK(peak > EVERY(-(REAL)INFINITY), peak, EVERY(0));
#ifdef STRAIGHT
    OF_REAL(fa_int) seen = {0};
    const VEC offset = (VEC)_mm256_round_ps(8 * (top * octaves), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC) / 8;
    const VEC origin = (FA_ORIGIN - offset) * UNIT;
    const VEC least = (LEAST + 0x1p-5f + offset) / octaves; /* whatever of that is rounded, -127 when in eighths */
    const OF_REAL(fa_power) power = fa_exp2_straight(top, octaves * UNIT, origin, &seen);
    const int sums = octaves > 0x1p-100f && octaves < 0x1p100f; /* of elements less the peak, not of octaves */
    const VEC e = sums ? (VEC)(power.a * power.b) : EVERY(0), t = EVERY(0);
    const VEC unit = PICK((offset > EVERY(-FA_FARTHEST)) & (offset < EVERY(FA_FARTHEST)), e, EVERY(0));
#else
    const VEC offset = FA_OFFSET(top, octaves), origin = EVERY(0), least = EVERY(LEAST * UNIT);
    const VEC t = OF_REAL(FA_FROM)(top, octaves, offset), unit = NAME(fa_exp2_of)(t);
#endif
    const NAME(fa_levels) levels = {top, offset * UNIT, origin, least, t, unit};
    return levels;
}

FA_INLINE NAME(fa_level) NAME(fa_level_in)(const NAME(fa_levels) *of, ptrdiff_t lane, REAL octaves)
{
#define LANE(lanes) OF_REAL(fa_lane)(&of->lanes, lane)
    const NAME(fa_level) level = {octaves * UNIT, LANE(offset), LANE(origin), LANE(least), LANE(top),
                                  (double)LANE(t), (double)LANE(unit)};
#undef LANE
    return level;
}

static FA_UNUSED NAME(fa_level) NAME(fa_level_of)(double peak, REAL octaves)
{
    const NAME(fa_levels) levels = NAME(fa_levels_of)(EVERY((REAL)peak), octaves);
    return NAME(fa_level_in)(&levels, 0, octaves);
}

/* The lanes of a tile. */
typedef struct { VEC total[TOTALS], weighted, squares, linear, top; OF_REAL(fa_int) seen; } NAME(fa_lanes);

FA_INLINE VEC NAME(fa_distance)(VEC v, const NAME(fa_level) *level)
{
    return (VEC)OF_REAL(FA_FROM)(v, level->octaves, EVERY(level->offset));
}

/* What a power weighs in the entropy, where 0 must not meet -inf; straight in logits, else by UNIT in octaves. */
FA_INLINE VEC NAME(fa_weight)(VEC t, const NAME(fa_level) *level, const int bounded)
{
#ifdef STRAIGHT
    (void)bounded;
    return t - level->top;
#else
    (void)level;
    return bounded ? (VEC)MAX(EVERY(LEAST * UNIT), t) : t;
#endif
}

/* From fa_edge + m on: what bounds a STEP of which all but the last m are not to count. */
#define EIGHT(x) x, x, x, x, x, x, x, x
#define SO_MANY(x) EIGHT(x), EIGHT(x), EIGHT(x), EIGHT(x), EIGHT(x), EIGHT(x), EIGHT(x), EIGHT(x)
static const STORED NAME(fa_edges)[128] = {SO_MANY(LOWEST), SO_MANY(HIGHEST)};
#define EDGE(m) (NAME(fa_edges) + 64 - STEP + (m))
#undef EIGHT
#undef SO_MANY

/* What is done of a STEP before the powers of the last one: its elements become distances, and halves, which are long in
 * the making, floats.  With an edge, some are not of the row, or were seen: those are -inf, or as far below as has a
 * power of its own; a NaN is an infinity, which the sums say as well. */
FA_INLINE void NAME(fa_prepare)(const STORED *x, const NAME(fa_level) *level, const int want, const STORED *edge,
                                NAME(fa_lanes) *to, VEC v[VECTORS])
{
    const int filled = edge != NULL;
    VEC bound[VECTORS];
    for (int k = 0; k < VECTORS; k += 2) NAME(fa_load2)(x + k * WIDTH, &v[k], &v[k + 1]);
    for (int k = 0; filled && k < VECTORS; k += 2) NAME(fa_load2)(edge + k * WIDTH, &bound[k], &bound[k + 1]);
    EACH(k) {
        if (filled) v[k] = OF_REAL(FA_MIN)(v[k], bound[k]);
        if (want & FA_MOMENTS) to->top = MAX(v[k], to->top);
        if (want & FA_MOMENTS && !filled) to->linear += v[k];
        if (!DISTANCES_LATE) v[k] = NAME(fa_distance)(v[k], level);
        if (FA_UNBOUNDED && filled) v[k] = MAX(EVERY(level->least), v[k]);
    }
}

FA_INLINE void NAME(fa_add)(const VEC v[VECTORS], const NAME(fa_level) *level, const int want, const int bounded,
                            NAME(fa_lanes) *to, STORED *keep)
{
    EACH(k) {
#ifdef STRAIGHT
        const VEC t = bounded ? (VEC)MAX(EVERY(level->least), v[k]) : v[k];
        const OF_REAL(fa_power) power = fa_exp2_straight(t, level->octaves, EVERY(level->origin), &to->seen);
#else
        const VEC t = DISTANCES_LATE ? NAME(fa_distance)(v[k], level) : v[k];
#endif
#ifdef IN_ONE_PIECE
        const VEC e = OF_REAL(fa_exp2_near)(t);
        to->total[0] += e;
        if (want & FA_ENTROPY)
            to->weighted = OF_REAL(FA_PLUS)(e, NAME(fa_weight)(t, level, bounded), to->weighted);
#else
#ifndef STRAIGHT
        const OF_REAL(fa_power) power = OF_REAL(fa_exp2_seen)(t, bounded, &to->seen);
#endif
        const VEC e = power.a * power.b;
        to->total[k % TOTALS] = OF_REAL(FA_PLUS)(power.a, power.b, to->total[k % TOTALS]);
        if (want & FA_ENTROPY)
            to->weighted =
                OF_REAL(FA_PLUS)(power.a, power.b * NAME(fa_weight)(t, level, bounded), to->weighted);
#endif
        if (want & FA_MOMENTS) to->squares += e * e;
        if (keep) memcpy(keep + k * WIDTH, &e, sizeof e);
    }
}

/* The exponentials are stored where keep says, if it does: up to a whole STEP.  What is left over after whole STEPs
 * comes first, with what lies before it, which does not count; a STEP that is not full is filled up.  The next STEP is
 * prepared before the powers of this one: a processor looks ahead of its work by less than the chain of a power. */
FA_INLINE NAME(fa_tile_sums)
NAME(fa_sweep)(const STORED *x, ptrdiff_t n, const NAME(fa_level) *given, const int want, const int bounded,
               STORED *keep)
{
    const NAME(fa_level) level = *given;
    const ptrdiff_t left = n % STEP, whole = n - left;
    const size_t ahead = fa_row_ahead;
    NAME(fa_lanes) lanes = {{{0}}, {0}, {0}, {0}, EVERY(-(REAL)INFINITY), {0}};
    VEC now[VECTORS], next[VECTORS];
    STORED filled[STEP], *to = keep;
    if (!whole) {
        NAME(fa_fill)(x, n, filled);
        NAME(fa_prepare)(filled, &level, want, EDGE(STEP), &lanes, now);
    } else if (left) {
        NAME(fa_prepare)(x + n - STEP, &level, want, EDGE(left), &lanes, now);
        if (keep) to = keep + n - STEP;
    } else {
        NAME(fa_prepare)(x, &level, want, NULL, &lanes, now);
    }
    for (ptrdiff_t i = left ? 0 : STEP; i < whole; i += STEP) {
        fa_fetch(x + i, ahead, STEP * sizeof *x);
        NAME(fa_prepare)(x + i, &level, want, NULL, &lanes, next);
        NAME(fa_add)(now, &level, want, bounded, &lanes, to);
        if (keep) to = keep + i;
        EACH(k) now[k] = next[k];
    }
    NAME(fa_add)(now, &level, want, bounded, &lanes, to);
    NAME(fa_tile_sums) sums = {0, 0, 0, 0, 0};
    for (int k = 1; k < TOTALS; k++) lanes.total[0] += lanes.total[k];
#define ACROSS(lanes) (double)OF_REAL(fa_sum_of)(lanes)
    sums.total = OF_REAL(fa_beyond)(lanes.seen) ? INFINITY : ACROSS(lanes.total[0]);
#ifdef STRAIGHT
    lanes.weighted *= level.octaves;
#endif
    if (want & FA_ENTROPY) sums.weighted = ACROSS(lanes.weighted) / UNIT;
    if (want & FA_MOMENTS) {
        sums.squares = ACROSS(lanes.squares);
        sums.linear = ACROSS(lanes.linear);
        /* An infinity, be it of what was filled up, or just too large. */
        const int finite = sums.linear > -(double)INFINITY && sums.linear < (double)INFINITY;
        if (!finite) sums.linear = 0;
        for (ptrdiff_t i = finite ? whole : 0; i < n; i++) sums.linear += NAME(fa_get)(x, i);
        sums.top = OF_REAL(fa_top_of)(lanes.top);
    }
#undef ACROSS
    return sums;
}

/* Apart: as one function they were 5 % slower with AVX2.  What is kept is so without moments. */
#define SUMS_OF(stem, want, bounded, to)                                                                             \
    static FA_APART NAME(fa_tile_sums) NAME(fa_tile_##stem)(const STORED *x, ptrdiff_t n,                            \
                                                            const NAME(fa_level) *level, STORED *keep)               \
    {                                                                                                                \
        (void)keep;                                                                                                  \
        return NAME(fa_sweep)(x, n, level, want, bounded, to);                                                       \
    }
#if FA_UNBOUNDED
#define SUMS(stem, want, to) SUMS_OF(stem, want, 1, to) SUMS_OF(stem##_near, want, 0, to)
#define SUMS_BY(stem) (near ? NAME(fa_tile_##stem##_near) : NAME(fa_tile_##stem))(x, n, level, keep)
#else
#define SUMS(stem, want, to) SUMS_OF(stem, want, 1, to)
#define SUMS_BY(stem) NAME(fa_tile_##stem)(x, n, level, keep)
#endif
#ifdef SCHEDULED
#pragma GCC push_options
#pragma GCC optimize("schedule-insns", "sched-pressure", "no-tree-vectorize")
#endif
SUMS(plain, 0, NULL)
#ifdef STRAIGHT
SUMS(entropy, FA_ENTROPY, NULL)
#endif
#ifdef SCHEDULED
#pragma GCC pop_options
#endif
#ifndef STRAIGHT /* float16 with AVX-512 6 % slower, put in order */
SUMS(entropy, FA_ENTROPY, NULL)
#endif
SUMS(moments, FA_ENTROPY | FA_MOMENTS, NULL)
SUMS(kept, 0, keep)
SUMS(kept_entropy, FA_ENTROPY, keep)

/* near: that an element lies 127 octaves below the peak is not expected.  Where none does the bits are the same; else
 * the sum is beyond all bounds. */
FA_INLINE NAME(fa_tile_sums)
NAME(fa_tile)(const STORED *x, ptrdiff_t n, const NAME(fa_level) *level, int want, int near, STORED *keep)
{
    (void)near;
    if (keep && want) return SUMS_BY(kept_entropy);
    if (keep) return SUMS_BY(kept);
    if (want == 0) return SUMS_BY(plain);
    return want == FA_ENTROPY ? SUMS_BY(entropy) : SUMS_BY(moments);
}
#undef SUMS
#undef SUMS_OF
#undef SUMS_BY

/* A part with NaN, with infinities, of nothing but -inf, or beyond what octaves can be counted in: by double. */
static FA_UNUSED fa_row NAME(fa_row_plain)(const STORED *x, ptrdiff_t n, double scale)
{
    fa_row row = {-(double)INFINITY, 0, 0, 0, 0, -(double)INFINITY, 1};
    for (ptrdiff_t i = 0; i < n; i++) {
        const double value = NAME(fa_get)(x, i);
        row.linear += value;
        row.top = row.top >= value || row.top != row.top ? row.top : value;
    }
    row.peak = row.top;
    row.sound = row.peak - row.peak == 0;
    if (!row.sound) row.total = 1;
    for (ptrdiff_t i = 0; i < n && row.sound; i++) {
        const double t = (NAME(fa_get)(x, i) - row.peak) * scale, e = exp(t);
        row.total += e;
        row.weighted += e > 0 ? e * t : 0;
        row.squares += e * e;
    }
    return row;
}

#ifdef KEEPS
/* From ``at`` on, exponentials are relative to a level.  Where spans run out, as in a row that rises from end to end,
 * all before become one: multiplied to what they are relative to the new one. */
static FA_UNUSED void NAME(fa_note)(fa_spans *spans, STORED *e, ptrdiff_t at, double peak, double unit, double scale)
{
    const int last = spans->count - 1;
    if (last >= 0 && spans->peak[last] == peak) return;
    if (last == FA_SPANS - 1) {
        for (int k = 0; k <= last; k++) {
            const ptrdiff_t end = k < last ? spans->from[k + 1] : at;
            const REAL factor = (REAL)(exp((spans->peak[k] - peak) * scale) * unit / spans->unit[k]);
            for (ptrdiff_t i = spans->from[k]; i < end; i++) e[i] *= factor;
        }
        spans->count = 0;
        at = 0;
    }
    spans->from[spans->count] = at;
    spans->peak[spans->count] = peak;
    spans->unit[spans->count++] = unit;
}

#else
FA_INLINE void NAME(fa_note)(fa_spans *spans, STORED *e, ptrdiff_t at, double peak, double unit, double scale)
{
    (void)spans, (void)e, (void)at, (void)peak, (void)unit, (void)scale;
}
#endif

static FA_UNUSED void NAME(fa_raise)(fa_row *row, REAL top, double scale)
{
    if (!((double)top > row->peak)) return;
    const double shift = (row->peak - (double)top) * scale, f = row->total > 0 ? exp(shift) : 0;
    row->weighted = f > 0 ? f * (row->weighted + row->total * shift) : 0;
    row->squares *= f * f;
    row->total *= f;
    row->peak = (double)top;
}

/* The state of n neighbours; what is summed at once, whoever sums it.  With spans the exponentials stay in keep, which
 * may be x, each tile's relative to the level of its time. */
FA_INLINE fa_row NAME(fa_fold)(const STORED *x, ptrdiff_t n, double scale, int want, STORED *keep, fa_spans *spans)
{
    const REAL octaves = (REAL)(scale * FA_LOG2E);
    STORED aside[TILE];
    fa_row row = {-(double)INFINITY, 0, 0, 0, 0, -(double)INFINITY, 1};
    REAL low = -(REAL)INFINITY;
    double sharp = FA_ROW_SHARP;
    if (FA_UNBOUNDED && n > 2 * FA_ROW_FIRST)
        NAME(fa_raise)(&row, NAME(fa_tile_ends)(x, FA_ROW_FIRST, &low), scale);
    else
        NAME(fa_raise)(&row, NAME(fa_tile_top)(x, n <= FA_BRIEF ? n : FA_ROW_FIRST), scale); /* as among many */
    NAME(fa_level) level = NAME(fa_level_of)(row.peak, octaves);
    int near = low * level.octaves - level.offset >= LEAST * UNIT; /* what is masked mostly shows at once */
    if (spans) spans->count = 0;
    for (ptrdiff_t at = 0; at < n; at += TILE) {
        const ptrdiff_t m = n - at < TILE ? n - at : TILE;
        STORED *to = !spans ? NULL : keep == x || m < TILE ? aside : keep + at;
        NAME(fa_tile_sums) sums = NAME(fa_tile)(x + at, m, &level, want, near, to);
        if (near && !(sums.total <= FA_ROW_BOUND)) {
            near = 0;
            sums = NAME(fa_tile)(x + at, m, &level, want, near, to);
        }
        /* Without a peak sums are relative to 0, where what is far below is nothing, as if it were -inf. */
        const int lost = !(sums.total <= (row.peak > -(double)INFINITY ? FA_ROW_BOUND : -1)) || !LEVEL_HOLDS(level);
        const REAL top = lost || sums.total > sharp ? NAME(fa_tile_top)(x + at, m) : -(REAL)INFINITY;
        if (lost || ((double)top - row.peak) * scale > FA_ROW_ABOVE) {
            fa_row raised = row;
            NAME(fa_raise)(&raised, top, scale);
            level = NAME(fa_level_of)(raised.peak, octaves);
            sums = NAME(fa_tile)(x + at, m, &level, want, near, to);
            if (!(sums.total <= FA_ROW_BOUND) || !LEVEL_HOLDS(level)) {
                if (spans) spans->end = at;
                row.sound = row.total > 0.5;
                raised = NAME(fa_row_plain)(x + at, n - at, scale);
                return at ? fa_row_merge(row, raised, scale) : raised;
            }
            row = raised;
            sharp = FA_ROW_SHARP;
        }
        if (sums.total > sharp) sharp = sums.total + FA_ROW_SHARP;
        if (spans) {
            /* Of a known length it is copied by words: 512 x 32,000 floats 1 ms faster than by a call, as by vectors. */
            if (to == aside && m == TILE) memcpy(keep + at, aside, TILE * sizeof *x);
            if (m < TILE) memcpy(keep + at, aside, (size_t)m * sizeof *x);
            NAME(fa_note)(spans, keep, at, row.peak, level.unit, scale);
        }
        row.total += sums.total / level.unit;
        if (!want) continue;
        row.weighted += (sums.weighted - level.t * sums.total) / (level.unit * FA_LOG2E);
        row.squares += sums.squares / (level.unit * level.unit);
        row.linear += sums.linear;
        row.top = sums.top > row.top ? sums.top : row.top;
    }
    if (spans) spans->end = n;
    row.sound = row.total > 0.5; /* else there is nothing but -inf */
    if (!row.sound) row.total = 1;
    return row;
}

static FA_UNUSED fa_row NAME(fa_row_part)(const STORED *x, ptrdiff_t n, double scale, int want)
{
    return NAME(fa_fold)(x, n, scale, want, NULL, NULL);
}

static FA_UNUSED fa_row NAME(fa_row_state)(const STORED *x, ptrdiff_t n, double scale, int want)
{
    fa_row row = NAME(fa_row_part)(x, n < FA_ROW_CUT ? n : FA_ROW_CUT, scale, want);
    for (ptrdiff_t at = FA_ROW_CUT; at < n; at += FA_ROW_CUT) {
        const ptrdiff_t m = n - at < FA_ROW_CUT ? n - at : FA_ROW_CUT;
        row = fa_row_merge(row, NAME(fa_row_part)(x + at, m, scale, want), scale);
    }
    return row;
}

/* p (a + b t + c p) + d, p = 2^t; curved: 2 all of it, 1 without c and d, 0 without b too, where a folds. */
typedef struct { REAL base, octaves, a, b, c, d; } NAME(fa_bent);

FA_INLINE void NAME(fa_far)(VEC v[VECTORS], const NAME(fa_bent) *by)
{
    EACH(k) v[k] = (v[k] - by->base) * by->octaves;
}

/* by times 2^t; anything where t is below LEAST. */
FA_INLINE VEC NAME(fa_times_exp2)(VEC t, REAL by)
{
#if FA_VECTOR == 32
    return OF_REAL(fa_exp2_times)(t, by);
#else
    return NAME(fa_exp2_of)(t) * by;
#endif
}

FA_INLINE void NAME(fa_bow)(VEC t[VECTORS], const NAME(fa_bent) *by, const int curved)
{
    EACH(k) {
        VEC e = NAME(fa_times_exp2)(t[k], curved ? 1 : by->a);
        if (curved == 1) e *= by->a + by->b * t[k];
        if (curved == 2) e *= by->a + by->b * t[k] + by->c * e;
        t[k] = OF_REAL(FA_UNLESS_BELOW)(t[k], LEAST, e);
        if (curved == 2) t[k] += by->d;
    }
}

FA_INLINE void NAME(fa_bend_some)(const STORED *x, ptrdiff_t n, const NAME(fa_bent) *by, STORED *out, const int curved)
{
    VEC t[VECTORS];
    if (n <= 0) return;
    NAME(fa_take)(x, n, t);
    NAME(fa_far)(t, by);
    NAME(fa_bow)(t, by, curved);
    NAME(fa_give)(out, n, t);
}

/* out, which may be x, of log2 p relative to base.  As in fa_sweep the next STEP's distances come first.  A stream goes
 * past the caches, by whole aligned steps of out; else what is left over comes once more with what lies before it, of
 * which the bits are the same. */
FA_INLINE void NAME(fa_bend)(const STORED *x, ptrdiff_t n, NAME(fa_bent) by, STORED *out, const int curved, int stream)
{
    VEC now[VECTORS], next[VECTORS], end[VECTORS];
    const size_t ahead = fa_row_ahead;
    const size_t size = STEP * sizeof *out, beyond = (uintptr_t)out % size;
    const ptrdiff_t before = stream && beyond ? (ptrdiff_t)((size - beyond) / sizeof *out) : 0;
    const ptrdiff_t lead = before < n ? before : n, last = n - (n - lead) % STEP;
    const int again = !stream && n > STEP && last < n;
    if (again) NAME(fa_take)(x + n - STEP, STEP, end), NAME(fa_far)(end, &by);
    NAME(fa_bend_some)(x, lead, &by, out, curved);
    if (lead < last) NAME(fa_take)(x + lead, STEP, now), NAME(fa_far)(now, &by);
    for (ptrdiff_t i = lead; i < last; i += STEP) {
        fa_fetch(x + i, ahead, STEP * sizeof *x);
        if (i + STEP < last) NAME(fa_take)(x + i + STEP, STEP, next), NAME(fa_far)(next, &by);
        NAME(fa_bow)(now, &by, curved);
        if (stream)
            NAME(fa_pass)(out + i, now);
        else
            NAME(fa_give)(out + i, STEP, now);
        EACH(k) now[k] = next[k];
    }
    if (again) NAME(fa_bow)(end, &by, curved), NAME(fa_give)(out + n - STEP, STEP, end);
    if (!again) NAME(fa_bend_some)(x + last, n - last, &by, out + last, curved);
}

static FA_UNUSED void NAME(fa_bend_by)(const STORED *x, ptrdiff_t n, NAME(fa_bent) by, STORED *out, int stream)
{
    if (by.c != 0 || by.d != 0)
        NAME(fa_bend)(x, n, by, out, 2, stream);
    else if (by.b != 0 || !fa_folds((double)by.a))
        NAME(fa_bend)(x, n, by, out, 1, stream);
    else
        NAME(fa_bend)(x, n, by, out, 0, stream);
}

FA_INLINE int NAME(fa_streams)(const STORED *out)
{
    return FA_STREAMS && sizeof *out == sizeof(REAL) && (uintptr_t)out % sizeof *out == 0;
}

/* Where log p = scale (x - peak) - rest is 0, as far as a REAL can say, and what it is there. */
FA_INLINE REAL NAME(fa_base)(double scale, double peak, double rest, double *left)
{
    const double near = peak + rest / scale;
    const REAL base = (REAL)near > -(REAL)INFINITY && (REAL)near < (REAL)INFINITY ? (REAL)near : (REAL)peak;
    *left = ((double)base - peak) * scale - rest;
    return base;
}

/* out = p (a + b log p + c p) + d, log p = scale (x - peak) - rest; d where p is nothing.  out may be x, but not of a
 * stream (FA_ROW_STREAM). */
static FA_UNUSED void NAME(fa_row_bends)(const STORED *x, ptrdiff_t n, double scale, double peak, double rest, double a,
                                         double b, double c, double d, STORED *out, int stream)
{
    const REAL octaves = (REAL)(scale * FA_LOG2E);
    double left;
    const REAL base = NAME(fa_base)(scale, peak, rest, &left);
    const double f = exp(left);
    const REAL slope = (REAL)((a + b * left) * f), bend = (REAL)(b * f / FA_LOG2E), square = (REAL)(c * f * f);
    const NAME(fa_bent) by = {base, octaves, slope, bend, square, (REAL)d};
    NAME(fa_bend_by)(x, n, by, out, stream && NAME(fa_streams)(out));
}

/* Whether x[at] is the first of the row's largest elements; of a row with NaN none is. */
static FA_UNUSED int NAME(fa_row_hit)(const STORED *x, ptrdiff_t at, double top)
{
    return NAME(fa_get)(x, at) == top && (at == 0 || (double)NAME(fa_tile_top)(x, at) < top);
}

/* fa_row_state without moments, with the same bits, that leaves the exponentials in e; which may be x, and then keeps
 * none where entropy is wanted, whose slopes need the logits. */
static FA_UNUSED fa_row NAME(fa_row_keep)(const STORED *x, ptrdiff_t n, double scale, int want, STORED *e,
                                          fa_spans *spans)
{
#ifdef KEEPS
    if (n <= FA_ROW_CUT && !(want && e == x)) return NAME(fa_fold)(x, n, scale, want, e, spans);
#endif
    (void)e;
    spans->count = 0;
    spans->end = 0;
    return NAME(fa_row_state)(x, n, scale, want);
}

#ifdef KEEPS
/* to = e (a + b t), t of x; 0 where e is below the normal numbers.  e or x may be to unless it is a stream.  By whole
 * lines of ``to``: 512 x 32,000 floats in a cache take 0.57 ms so, 0.91 with stores across lines. */
FA_INLINE void NAME(fa_times)(const STORED *x, const STORED *e, ptrdiff_t n, const NAME(fa_bent) *by, STORED *to,
                              const int curved, int stream)
{
    VEC v[VECTORS], t[VECTORS];
    const size_t line = STEP * sizeof *to < 64 ? STEP * sizeof *to : 64;
    const ptrdiff_t lead = (ptrdiff_t)(-(uintptr_t)to % line / sizeof *to);
    for (ptrdiff_t i = 0, m = lead ? lead : STEP; i < n; i += m, m = STEP) {
        const ptrdiff_t some = n - i < m ? n - i : m;
        NAME(fa_take)(e + i, some, v);
        if (curved) NAME(fa_take)(x + i, some, t), NAME(fa_far)(t, by);
        EACH(k) v[k] = OF_REAL(FA_UNLESS_BELOW)(v[k], LEAST_EXP, v[k] * (curved ? by->a + by->b * t[k] : EVERY(by->a)));
        if (stream && some == STEP)
            NAME(fa_pass)(to + i, v);
        else
            NAME(fa_give)(to + i, some, v);
    }
}

static FA_UNUSED void NAME(fa_times_by)(const STORED *x, const STORED *e, ptrdiff_t n, NAME(fa_bent) by, STORED *to,
                                        int stream)
{
    if (by.b != 0)
        NAME(fa_times)(x, e, n, &by, to, 1, stream);
    else
        NAME(fa_times)(x, e, n, &by, to, 0, stream);
}
#endif

/* fa_row_bends with a and b, from the exponentials in e, which may be out; x, which may be out, too, is needed where
 * there is b, or they were not kept. */
static FA_UNUSED void NAME(fa_row_scale)(const STORED *x, ptrdiff_t n, double scale, double peak, double rest, double a,
                                         double b, const fa_spans *spans, const STORED *e, STORED *out, int stream)
{
#ifdef KEEPS
    const int past = stream && e != out && NAME(fa_streams)(out);
    double left;
    const REAL base = NAME(fa_base)(scale, peak, rest, &left);
    for (int k = 0; k < spans->count; k++) {
        const ptrdiff_t from = spans->from[k], end = k + 1 < spans->count ? spans->from[k + 1] : spans->end;
        const double factor = exp((spans->peak[k] - peak) * scale - rest) / spans->unit[k];
        const NAME(fa_bent) by = {base, (REAL)(scale * FA_LOG2E), (REAL)((a + b * left) * factor),
                                  (REAL)(b * factor / FA_LOG2E), 0, 0};
        NAME(fa_times_by)(x + from, e + from, end - from, by, out + from, past);
    }
#else
    (void)e;
#endif
    const ptrdiff_t end = spans->end;
    if (end < n) NAME(fa_row_bends)(x + end, n - end, scale, peak, rest, a, b, 0, 0, out + end, stream);
}

/* A row's gradient, p (a + b log p), where p of the token, whose logit was chosen, has own more; from what fa_row_keep
 * found and left. */
static FA_UNUSED void NAME(fa_row_give)(const STORED *x, ptrdiff_t n, double scale, const fa_row *row, double rest,
                                        double chosen, ptrdiff_t token, double a, double b, double own,
                                        const fa_spans *spans, const STORED *e, STORED *out, int stream)
{
    const double t = (chosen - row->peak) * scale - rest, p = exp(t);
    if (!row->sound) { /* no probabilities: every derivative is NaN */
        for (ptrdiff_t i = 0; i < n; i++) NAME(fa_put)(out, i, NAN);
        return;
    }
    if (a == 0 && b == 0)
        memset(out, 0, (size_t)n * sizeof *out);
    else
        NAME(fa_row_scale)(x, n, scale, row->peak, rest, a, b, spans, e, out, stream);
    if (stream) fa_drain(); /* before one of them is written again */
    NAME(fa_put)(out, token, (p > 0 ? p * (a + b * t) : 0) + own);
}

/* The same of a log-probability alone; out may be x. */
static FA_UNUSED void NAME(fa_row_back)(const STORED *x, ptrdiff_t n, double scale, double a, double own,
                                        ptrdiff_t token, STORED *out)
{
    fa_spans kept;
    const double chosen = NAME(fa_get)(x, token);
    const fa_row row = NAME(fa_row_keep)(x, n, scale, 0, out, &kept);
    NAME(fa_row_give)(x, n, scale, &row, fa_row_rest(row.total), chosen, token, a, 0, own, &kept, out, out, 0);
}

#include "rows_slim.h"
#include "rows_brief.h"

#undef VEC
#undef WIDTH
#undef MAX
#undef EVERY
#undef PICK
#undef STEP
#undef TILE
#undef TILE_BYTES
#undef ADDED
#undef SCHEDULED
#undef TOTALS
#undef TILE_LEAST
#undef LEVEL_HOLDS
#undef KEEPS
#undef IN_ONE_PIECE
#undef LEAST_EXP
#undef KIND
#undef VECTORS
#undef DISTANCES_LATE
#undef STRAIGHT
#undef UNIT
#undef STORED
#undef REAL
#undef LOWEST
#undef HIGHEST
#undef EDGE
#undef LEAST
#undef WIDEN
#undef NARROW
