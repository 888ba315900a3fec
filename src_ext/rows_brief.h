/* Rows of some columns, FA_SLIM_ROWS of them at a time: what a row costs by itself is done of all, its columns are lanes
 * as a long row's are; included by rows_body.h. */

/* near: that nothing lies far below is expected until something does, as it will in other rows then. */
FA_INLINE NAME(fa_tile_sums) NAME(fa_brief_sums)(const STORED *x, ptrdiff_t n, const NAME(fa_level) *level, int want,
                                                 int *near, STORED *keep)
{
    const NAME(fa_tile_sums) sums = NAME(fa_tile)(x, n, level, want, *near, keep);
    if (!*near || sums.total <= FA_ROW_BOUND) return sums;
    *near = 0;
    return NAME(fa_tile)(x, n, level, want, 0, keep);
}

static FA_APART void NAME(fa_brief_states)(const STORED *x, ptrdiff_t n, ptrdiff_t far, ptrdiff_t rows, double scale,
                                           int want, fa_slim *s)
{
    const REAL octaves = (REAL)(scale * FA_LOG2E);
    FA_LINED double t[FA_SLIM_ROWS], unit[FA_SLIM_ROWS];
    int near = FA_UNBOUNDED;
    for (ptrdiff_t l = 0; l < rows; l += WIDTH) {
        const ptrdiff_t some = rows - l < WIDTH ? rows - l : WIDTH;
        REAL peaks[WIDTH] = {0};
        for (ptrdiff_t k = 0; k < some; k++) peaks[k] = NAME(fa_tile_ends)(x + (l + k) * far, n, NULL);
        const NAME(fa_levels) levels = NAME(fa_levels_of)(OF_REAL(fa_load)(peaks), octaves);
        for (ptrdiff_t k = 0; k < some; k++) {
            const NAME(fa_level) level = NAME(fa_level_in)(&levels, k, octaves);
            const NAME(fa_tile_sums) sums = NAME(fa_brief_sums)(x + (l + k) * far, n, &level, want, &near, NULL);
            s->peak[l + k] = (double)peaks[k], s->total[l + k] = sums.total, t[l + k] = level.t;
            unit[l + k] = sums.total <= FA_ROW_BOUND && LEVEL_HOLDS(level) ? level.unit : (double)NAN;
            s->weighted[l + k] = sums.weighted, s->squares[l + k] = sums.squares, s->linear[l + k] = sums.linear;
        }
    }
    for (ptrdiff_t l = rows; l < FA_SLIM_ROWS; l++) s->total[l] = unit[l] = 1, t[l] = 0;
    for (ptrdiff_t l = 0; l < FA_SLIM_ROWS && want; l++) {
        s->weighted[l] = (s->weighted[l] - t[l] * s->total[l]) / (unit[l] * FA_LOG2E);
        s->squares[l] /= unit[l] * unit[l];
    }
    for (ptrdiff_t l = 0; l < FA_SLIM_ROWS; l++) s->total[l] /= unit[l];
    fa_row_rests(s->total, FA_SLIM_ROWS, s->rest);
}

static FA_APART void NAME(fa_brief_bends)(const STORED *x, ptrdiff_t n, ptrdiff_t far, ptrdiff_t rows, double scale,
                                          fa_slopes *s, STORED *out, ptrdiff_t apart)
{
    NAME(fa_curves) c;
    for (ptrdiff_t l = 0; l < rows; l++) c.chosen[l] = NAME(fa_get)(x + l * far, s->token[l]);
    NAME(fa_curves_of)(s, rows, FA_SLIM_ROWS, scale, &c);
    for (ptrdiff_t l = 0; l < rows; l++) {
        const NAME(fa_bent) by = {c.base[l], (REAL)(scale * FA_LOG2E), c.slope[l], (REAL)(c.bend[l] / (REAL)FA_LOG2E),
                                  c.square[l], c.shift[l]};
        STORED *const here = out + l * apart;
        if (s->fate[l] == FA_BENT) {
            NAME(fa_bend_by)(x + l * far, n, by, here, 0);
            NAME(fa_put)(here, s->token[l], s->own[l]);
        } else {
            for (ptrdiff_t j = 0; j < n; j++) NAME(fa_put)(here, j, s->fate[l] == FA_ZEROS ? 0 : (double)NAN);
        }
    }
}

#ifdef KEEPS
/* Gradients of log-probabilities alone, from a, own and the tokens: what a row's exponentials are divided by is their
 * sum, so they stay in L1 and are multiplied. */
static FA_APART void NAME(fa_brief_back)(const STORED *x, ptrdiff_t n, ptrdiff_t far, ptrdiff_t rows, double scale,
                                         fa_slopes *s, STORED *out, ptrdiff_t apart)
{
    const REAL octaves = (REAL)(scale * FA_LOG2E);
    int near = FA_UNBOUNDED;
    STORED kept[FA_BRIEF + STEP];
    for (ptrdiff_t l = 0; l < rows; l += WIDTH) {
        const ptrdiff_t some = rows - l < WIDTH ? rows - l : WIDTH;
        REAL peaks[WIDTH] = {0};
        for (ptrdiff_t k = 0; k < some; k++) peaks[k] = NAME(fa_tile_ends)(x + (l + k) * far, n, NULL);
        const NAME(fa_levels) levels = NAME(fa_levels_of)(OF_REAL(fa_load)(peaks), octaves);
        for (ptrdiff_t i = l; i < l + some; i++) {
            const STORED *const from = x + i * far;
            STORED *const to = out + i * apart;
            const NAME(fa_level) level = NAME(fa_level_in)(&levels, i - l, octaves);
            if (s->fate[i] == FA_ZEROS) {
                memset(to, 0, (size_t)n * sizeof *to);
                continue;
            }
            const NAME(fa_tile_sums) sums = NAME(fa_brief_sums)(from, n, &level, 0, &near, kept);
            if (sums.total <= FA_ROW_BOUND && sums.total >= level.unit && LEVEL_HOLDS(level)) {
                const REAL factor = (REAL)(s->a[i] / sums.total);
                const double p = kept[s->token[i]] / sums.total;
                for (ptrdiff_t at = 0; at < n; at += STEP) { /* the last of them once more with what lies before it */
                    const ptrdiff_t j = at < n - STEP || n < STEP ? at : n - STEP;
                    VEC v[VECTORS];
                    NAME(fa_take)(kept + j, n - j, v);
                    EACH(k) v[k] = OF_REAL(FA_UNLESS_BELOW)(v[k], LEAST_EXP, v[k] * factor);
                    NAME(fa_give)(to + j, n - j, v);
                }
                to[s->token[i]] = (STORED)((p > 0 ? p * s->a[i] : 0) + s->own[i]);
            } else {
                NAME(fa_row_back)(from, n, scale, s->a[i], s->own[i], s->token[i], to);
            }
        }
    }
}
#endif

/* Whether that can be done of rows of n columns. */
FA_INLINE int NAME(fa_is_brief)(ptrdiff_t n, double scale)
{
#ifdef KEEPS
    return n > FA_SLIM && fa_is_many(n, scale);
#else
    (void)n, (void)scale;
    return 0;
#endif
}

/* Whether a policy loss takes a row's exponentials again. */
FA_INLINE int NAME(fa_takes_again)(ptrdiff_t n)
{
#ifdef KEEPS
    return n * (ptrdiff_t)sizeof(STORED) <= FA_KEPT;
#else
    (void)n;
    return 1;
#endif
}

static FA_UNUSED void NAME(fa_many_back)(const STORED *x, ptrdiff_t n, ptrdiff_t far, ptrdiff_t rows, double scale,
                                         fa_slopes *s, STORED *out, ptrdiff_t apart)
{
#ifdef KEEPS
    NAME(fa_brief_back)(x, n, far, rows, scale, s, out, apart);
#else
    (void)x, (void)n, (void)far, (void)rows, (void)scale, (void)s, (void)out, (void)apart;
#endif
}

/* Of rows, each so far from the one before, whichever kind they are. */
static FA_UNUSED void NAME(fa_many_states)(const STORED *x, ptrdiff_t n, ptrdiff_t far, ptrdiff_t rows, double scale,
                                           int want, fa_slim *s)
{
    if (n <= FA_SLIM)
        NAME(fa_slim_states)(x, n, far, rows, scale, want, s);
    else
        NAME(fa_brief_states)(x, n, far, rows, scale, want, s);
}

static FA_UNUSED void NAME(fa_many_bends)(const STORED *x, ptrdiff_t n, ptrdiff_t far, ptrdiff_t rows, double scale,
                                          int curved, fa_slopes *s, STORED *out, ptrdiff_t apart)
{
    if (n <= FA_SLIM)
        NAME(fa_slim_bends)(x, n, far, rows, scale, curved, s, out, apart);
    else
        NAME(fa_brief_bends)(x, n, far, rows, scale, s, out, apart);
}
