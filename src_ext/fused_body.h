/* Keeping a row's exponentials; included by fused.h with REAL = float and REAL = double. */

/* From ``at`` on, exponentials are relative to ``base``.  Where spans run out, as in a row that rises from end to end,
 * all before become one: multiplied to what they are relative to the new base. */
static FA_UNUSED void NAME(fa_note)(fa_spans *kept, REAL *e, ptrdiff_t at, double base, double scale)
{
    if (kept->count && kept->base[kept->count - 1] == base) return;
    if (kept->count == FA_SPANS) {
        for (int k = 0; k < FA_SPANS; k++) {
            const ptrdiff_t end = k + 1 < FA_SPANS ? kept->from[k + 1] : at;
            const REAL factor = (REAL)exp((kept->base[k] - base) * scale);
            for (ptrdiff_t i = kept->from[k]; i < end; i++) e[i] *= factor;
        }
        kept->count = 1;
        kept->base[0] = base;
        return;
    }
    kept->from[kept->count] = at;
    kept->base[kept->count++] = base;
}

/* fa_row_state without entropy, with the same bits, that leaves the exponentials in e, which may be x.  Of a row that
 * is not sound it does not tell why. */
static FA_UNUSED fa_row NAME(fa_row_keep)(const REAL *x, ptrdiff_t n, double scale, REAL *e, fa_spans *kept)
{
    REAL aside[FA_ROW_TILE];
    NAME(fa_running) run = NAME(fa_start)();
    kept->count = 0;
    for (ptrdiff_t at = 0; at < n; at += FA_ROW_TILE) {
        const ptrdiff_t m = n - at < FA_ROW_TILE ? n - at : FA_ROW_TILE;
        NAME(fa_push_keep)(&run, x + at, m, (REAL)scale, scale, 0, e == x ? aside : e + at);
        if (e == x) memcpy(e + at, aside, (size_t)m * sizeof *e);
        NAME(fa_note)(kept, e, at, (double)run.peak, scale);
    }
    const fa_seen unknown = {1, 0};
    return NAME(fa_finish)(&run, unknown);
}

/* fa_row_slopes with b = 0, from the exponentials in out. */
static FA_UNUSED void NAME(fa_row_scale)(const REAL *x, ptrdiff_t n, double scale, double peak, double rest, double a,
                                         const fa_spans *kept, REAL *out)
{
    (void)x;
    for (int k = 0; k < kept->count; k++) {
        const ptrdiff_t end = k + 1 < kept->count ? kept->from[k + 1] : n;
        const double shift = (kept->base[k] - peak) * scale - rest; /* log p of an exponential of 1 */
        const REAL factor = (REAL)(a * exp(shift));
        const REAL least = (REAL)(exp(LOWEST - shift) * 1.000001); /* more than an exponential of nothing */
        ptrdiff_t i = kept->from[k];
        for (; i < end && (uintptr_t)(out + i) % 64; i++) out[i] = out[i] < least ? (REAL)0.0 : out[i] * factor;
        FA_SIMD("omp simd")
        for (ptrdiff_t j = i; j < end; j++) out[j] = out[j] < least ? (REAL)0.0 : out[j] * factor;
    }
}

#undef REAL
#undef NAME
#undef LOWEST
