/* Loops over one row; included by rows.h with REAL = float and REAL = double. */

#ifndef FASTALIGN_SEEN
#define FASTALIGN_SEEN
typedef struct { int nan, infinite; } fa_seen;

FA_INLINE int fa_is_sound(double total)
{
    return total > 0.5 && total < (double)INFINITY;
}
#endif

typedef struct {
    REAL peak;
    double total, weighted;
} NAME(fa_running);

FA_INLINE NAME(fa_running) NAME(fa_start)(void)
{
    NAME(fa_running) run = {-(REAL)INFINITY, 0.0, 0.0};
    return run;
}

static FA_UNUSED REAL NAME(fa_tile_max)(const REAL *x, ptrdiff_t n)
{
    KEY key = KEY_MIN;
    FA_SIMD("omp simd reduction(max : key)")
    for (ptrdiff_t i = 0; i < n; i++) {
        const KEY v = NAME(fa_key)(x[i]);
        key = v > key ? v : key;
    }
    return NAME(fa_unkey)(key);
}

/* Fold a tile into the running sums.  scale is narrow as the lanes are, exact is the same number in double.  Without
 * entropy the exponentials can be kept. */
FA_INLINE void NAME(fa_push_keep)(NAME(fa_running) *run, const REAL *x, ptrdiff_t n, REAL scale, double exact,
                                  int entropy, REAL *restrict keep)
{
    const REAL top = NAME(fa_tile_max)(x, n);
    if (!(top <= run->peak)) { /* a NaN becomes the peak, and the row unsound */
        const double shift = ((double)run->peak - (double)top) * exact;
        const double f = run->peak == -(REAL)INFINITY ? 0.0 : exp(shift);
        run->weighted = run->total > 0.0 ? f * (run->weighted + run->total * shift) : 0.0;
        run->total *= f;
        run->peak = top;
    }
    const REAL base = run->peak == -(REAL)INFINITY ? (REAL)0.0 : run->peak;
    REAL sum = 0, weighted = 0;
    if (entropy) {
        FA_SIMD("omp simd reduction(+ : sum, weighted)")
        for (ptrdiff_t i = 0; i < n; i++) {
            const REAL t = (x[i] - base) * scale;
            const REAL bounded = t < LOWEST ? LOWEST : t; /* exp(-inf) is not quite 0, and must not meet -inf */
            const REAL e = EXP_FROM(bounded);
            sum += e;
            weighted += e * bounded;
        }
    } else if (keep) {
        FA_SIMD("omp simd reduction(+ : sum)")
        for (ptrdiff_t i = 0; i < n; i++) {
            const REAL e = EXP_FROM((x[i] - base) * scale);
            sum += keep[i] = e;
        }
    } else {
        FA_SIMD("omp simd reduction(+ : sum)")
        for (ptrdiff_t i = 0; i < n; i++) sum += EXP_FROM((x[i] - base) * scale);
    }
    run->total += (double)sum;
    run->weighted += (double)weighted;
}

static FA_UNUSED void NAME(fa_push)(NAME(fa_running) *run, const REAL *x, ptrdiff_t n, REAL scale, double exact,
                                    int entropy)
{
    NAME(fa_push_keep)(run, x, n, scale, exact, entropy, NULL);
}

/* What an unsound row holds. */
static FA_UNUSED void NAME(fa_look)(fa_seen *seen, const REAL *x, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        seen->nan |= x[i] != x[i];
        seen->infinite |= x[i] == (REAL)INFINITY;
    }
}

static FA_UNUSED fa_row NAME(fa_finish)(const NAME(fa_running) *run, fa_seen seen)
{
    if (fa_is_sound(run->total)) {
        const fa_row row = {(double)run->peak, run->total, run->weighted, 1};
        return row;
    }
    const double limit = seen.nan ? (double)NAN : seen.infinite ? (double)INFINITY : -(double)INFINITY;
    const fa_row row = {limit, 1.0, 0.0, 0};
    return row;
}

static FA_UNUSED fa_row NAME(fa_row_state)(const REAL *x, ptrdiff_t n, double scale, int entropy)
{
    NAME(fa_running) run = NAME(fa_start)();
    for (ptrdiff_t at = 0; at < n; at += FA_ROW_TILE)
        NAME(fa_push)(&run, x + at, n - at < FA_ROW_TILE ? n - at : FA_ROW_TILE, (REAL)scale, scale, entropy);
    fa_seen seen = {0, 0};
    if (!fa_is_sound(run.total)) NAME(fa_look)(&seen, x, n);
    return NAME(fa_finish)(&run, seen);
}

/* out = p (a + b log p), log p = scale (x - peak) - rest, 0 where p is nothing.  out may be x. */
static FA_UNUSED void NAME(fa_row_slopes)(const REAL *x, ptrdiff_t n, double scale, double peak, double rest, double a,
                                          double b, REAL *out)
{
    const REAL base = (REAL)peak, s = (REAL)scale, r = (REAL)rest, a_ = (REAL)a, b_ = (REAL)b;
    if (b_ == 0) {
        FA_SIMD("omp simd")
        for (ptrdiff_t i = 0; i < n; i++) {
            const REAL t = (x[i] - base) * s - r;
            const REAL p = EXP_FROM(t);
            out[i] = t < LOWEST ? (REAL)0.0 : p * a_;
        }
    } else {
        FA_SIMD("omp simd")
        for (ptrdiff_t i = 0; i < n; i++) {
            const REAL t = (x[i] - base) * s - r;
            const REAL p = EXP_FROM(t);
            out[i] = t < LOWEST ? (REAL)0.0 : p * (a_ + b_ * t);
        }
    }
}

FA_INLINE double NAME(fa_get)(const REAL *x, ptrdiff_t i)
{
    return (double)x[i];
}

FA_INLINE void NAME(fa_put)(REAL *x, ptrdiff_t i, double value)
{
    x[i] = (REAL)value;
}

#undef REAL
#undef KEY
#undef KEY_MIN
#undef NAME
#undef EXP_FROM
#undef LOWEST
