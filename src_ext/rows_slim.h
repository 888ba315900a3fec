/* Loops over rows of few columns, FA_SLIM_ROWS of them at a time, their lanes being rows; included by rows_body.h. */

/* The columns of rows, each so far from the one before; lanes up to a whole vector's are filled up. */
FA_INLINE ptrdiff_t NAME(fa_slim_take)(const STORED *x, ptrdiff_t n, ptrdiff_t far, ptrdiff_t rows,
                                       REAL z[FA_SLIM][FA_SLIM_ROWS])
{
    const ptrdiff_t lanes = (rows + 15) & ~(ptrdiff_t)15;
#ifdef KEEPS
    const REAL *const flat = x;
#else
    REAL flat[FA_SLIM * FA_SLIM_ROWS];
    for (ptrdiff_t i = 0; i < n * rows && far == n; i++) flat[i] = WIDEN(x[i]);
    for (ptrdiff_t l = 0; l < rows && far != n; l++)
        for (ptrdiff_t j = 0; j < n; j++) flat[l * n + j] = WIDEN(x[l * far + j]);
    far = n;
#endif
    for (ptrdiff_t l = 0; l < rows; l += 4) OF_REAL(fa_turn_columns)(flat + l * far, n, far, rows - l, &z[0][l]);
    for (ptrdiff_t j = 0; j < n; j++)
        for (ptrdiff_t l = rows; l < lanes; l++) z[j][l] = 0;
    return lanes;
}

FA_INLINE void NAME(fa_slim_give)(STORED *out, ptrdiff_t n, ptrdiff_t far, ptrdiff_t rows,
                                  REAL z[FA_SLIM][FA_SLIM_ROWS])
{
#ifdef KEEPS
    REAL *const flat = out;
    const ptrdiff_t apart = far;
#else
    REAL flat[FA_SLIM * FA_SLIM_ROWS];
    const ptrdiff_t apart = n;
#endif
    for (ptrdiff_t l = 0; l < rows; l += 4) OF_REAL(fa_turn_rows)(&z[0][l], n, rows - l, flat + l * apart, apart);
#ifndef KEEPS
    for (ptrdiff_t i = 0; i < n * rows && far == n; i++) out[i] = NARROW(flat[i]);
    for (ptrdiff_t l = 0; l < rows && far != n; l++)
        for (ptrdiff_t j = 0; j < n; j++) out[l * far + j] = NARROW(flat[l * n + j]);
#endif
}

/* In the order of their chains: four columns' powers side by side 20 % faster, the way back 15 %. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC optimize("schedule-insns", "sched-pressure")
#endif
static FA_APART void NAME(fa_slim_states)(const STORED *x, ptrdiff_t n, ptrdiff_t far, ptrdiff_t rows, double scale,
                                          int want, fa_slim *s)
{
    FA_LINED REAL z[FA_SLIM][FA_SLIM_ROWS], peak[FA_SLIM_ROWS], total[FA_SLIM_ROWS], weighted[FA_SLIM_ROWS];
    FA_LINED REAL squares[FA_SLIM_ROWS];
    FA_LINED double linear[FA_SLIM_ROWS];
    const ptrdiff_t lanes = NAME(fa_slim_take)(x, n, far, rows, z);
    const REAL by = (REAL)scale;
    for (ptrdiff_t l = 0; l < lanes; l++) {
        peak[l] = z[0][l], total[l] = 0;
        if (want) weighted[l] = squares[l] = 0, linear[l] = 0;
    }
    for (ptrdiff_t j = 1; j < n; j++)
        for (ptrdiff_t l = 0; l < lanes; l++) peak[l] = z[j][l] > peak[l] ? z[j][l] : peak[l];
    /* By fours, which are summed first: of 32 columns ten roundings, not 32. */
#define FALL(j) OF_REAL(fa_slim_fall)((z[j][l] - peak[l]) * by)
#define FAR(j) OF_REAL(fa_slim_far)((z[j][l] - peak[l]) * by)
#define IN_PAIRS(a, b, c, d) (((a) + (b)) + ((c) + (d)))
    ptrdiff_t j = 0;
    for (; j + 4 <= n && !want; j += 4)
        for (ptrdiff_t l = 0; l < lanes; l++) total[l] += IN_PAIRS(FALL(j), FALL(j + 1), FALL(j + 2), FALL(j + 3));
    for (; j < n && !want; j++)
        for (ptrdiff_t l = 0; l < lanes; l++) total[l] += FALL(j);
    for (; j + 4 <= n; j += 4)
        for (ptrdiff_t l = 0; l < lanes; l++) {
            const REAL t[4] = {FAR(j), FAR(j + 1), FAR(j + 2), FAR(j + 3)};
            const REAL e[4] = {OF_REAL(fa_slim_fall)(t[0]), OF_REAL(fa_slim_fall)(t[1]), OF_REAL(fa_slim_fall)(t[2]),
                               OF_REAL(fa_slim_fall)(t[3])};
            total[l] += IN_PAIRS(e[0], e[1], e[2], e[3]);
            weighted[l] += IN_PAIRS(e[0] * t[0], e[1] * t[1], e[2] * t[2], e[3] * t[3]);
            squares[l] += IN_PAIRS(e[0] * e[0], e[1] * e[1], e[2] * e[2], e[3] * e[3]);
        }
    for (; j < n; j++)
        for (ptrdiff_t l = 0; l < lanes; l++) {
            const REAL t = FAR(j), e = OF_REAL(fa_slim_fall)(t);
            total[l] += e, weighted[l] += e * t, squares[l] += e * e;
        }
    for (j = 0; j < n && want & FA_MOMENTS; j++)
        for (ptrdiff_t l = 0; l < lanes; l++) linear[l] += (double)z[j][l];
#undef FALL
#undef FAR
#undef IN_PAIRS
    for (ptrdiff_t l = 0; l < lanes; l++) s->peak[l] = (double)peak[l], s->total[l] = (double)total[l];
    fa_row_rests(s->total, lanes, s->rest);
    for (ptrdiff_t l = 0; l < lanes && want; l++)
        s->weighted[l] = (double)weighted[l], s->squares[l] = (double)squares[l], s->linear[l] = linear[l];
}

/* Row l of them, at x, of which the sum was none: with infinities or NaN, or of nothing. */
static FA_UNUSED void NAME(fa_many_settle)(fa_slim *s, ptrdiff_t l, const STORED *x, ptrdiff_t n, double scale,
                                           int want)
{
    const fa_row row = NAME(fa_row_state)(x, n, scale, want);
    s->peak[l] = row.peak, s->total[l] = row.total, s->rest[l] = fa_row_rest(row.total);
    s->weighted[l] = row.weighted, s->squares[l] = row.squares, s->linear[l] = row.linear;
    s->sound[l] = (unsigned char)row.sound, s->settled = 1;
}

/* What the gradients of rows follow in a REAL, by lanes. */
typedef struct {
    FA_LINED REAL base[FA_SLIM_ROWS], slope[FA_SLIM_ROWS], bend[FA_SLIM_ROWS], square[FA_SLIM_ROWS];
    FA_LINED REAL shift[FA_SLIM_ROWS];
    FA_LINED double chosen[FA_SLIM_ROWS];
} NAME(fa_curves);

/* From c->chosen, the tokens' logits, also what their elements are: own. */
FA_INLINE void NAME(fa_curves_of)(fa_slopes *s, ptrdiff_t rows, ptrdiff_t lanes, double scale, NAME(fa_curves) *c)
{
    for (ptrdiff_t l = rows; l < lanes; l++) s->peak[l] = s->rest[l] = s->a[l] = s->b[l] = s->c[l] = s->d[l] = 0;
    for (ptrdiff_t l = rows; l < lanes; l++) c->chosen[l] = s->own[l] = 0;
    for (ptrdiff_t l = 0; l < lanes; l++) {
        double left;
        c->base[l] = NAME(fa_base)(scale, s->peak[l], s->rest[l], &left);
        const double f = fa_exp(left);
        c->slope[l] = (REAL)((s->a[l] + s->b[l] * left) * f), c->bend[l] = (REAL)(s->b[l] * f);
        c->square[l] = (REAL)(s->c[l] * f * f), c->shift[l] = (REAL)s->d[l];
    }
    for (ptrdiff_t l = 0; l < lanes; l++) {
        const double t = (c->chosen[l] - s->peak[l]) * scale - s->rest[l], p = fa_exp(t);
        const double bent = p * (s->a[l] + s->b[l] * t + s->c[l] * p);
        s->own[l] = (p > 0 ? bent : 0) + s->d[l] + s->own[l];
    }
}

/* As fa_row_bends, of rows that lie so far from one another, and in out, which may be x, so far apart, with what the
 * tokens have more.  Whether any row may have b, c or d is the call's to say: by these rows themselves, the sign of a 0
 * would hang on a neighbour. */
static FA_APART void NAME(fa_slim_bends)(const STORED *x, ptrdiff_t n, ptrdiff_t far, ptrdiff_t rows, double scale,
                                         int curved, fa_slopes *s, STORED *out, ptrdiff_t apart)
{
    FA_LINED REAL z[FA_SLIM][FA_SLIM_ROWS];
    NAME(fa_curves) c;
    const ptrdiff_t lanes = NAME(fa_slim_take)(x, n, far, rows, z);
    const REAL by = (REAL)scale;
    for (ptrdiff_t l = 0; l < rows; l++) c.chosen[l] = (double)z[s->token[l]][l];
    NAME(fa_curves_of)(s, rows, lanes, scale, &c);
    for (ptrdiff_t j = 0; j < n; j++) {
        REAL *const y = z[j];
        for (ptrdiff_t l = 0; l < lanes && !curved; l++) {
            const REAL e = OF_REAL(fa_slim_exp)((y[l] - c.base[l]) * by), flat = e * c.slope[l];
            y[l] = e > 0 ? flat : 0;
        }
        for (ptrdiff_t l = 0; l < lanes && curved; l++) {
            const REAL t = (y[l] - c.base[l]) * by, e = OF_REAL(fa_slim_exp)(t);
            const REAL bent = e * (c.slope[l] + c.bend[l] * t + c.square[l] * e);
            y[l] = (e > 0 ? bent : 0) + c.shift[l];
        }
    }
    for (ptrdiff_t l = 0; l < rows; l++) z[s->token[l]][l] = (REAL)s->own[l];
    for (ptrdiff_t l = 0; l < rows; l++)
        for (ptrdiff_t j = 0; j < n && s->fate[l]; j++) z[j][l] = s->fate[l] == FA_ZEROS ? 0 : (REAL)NAN;
    NAME(fa_slim_give)(out, n, apart, rows, z);
}
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC pop_options
#endif
