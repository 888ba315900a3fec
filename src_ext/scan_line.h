/* The loop over neighbouring steps of one stream, none of them masked, LANES at a time; included by scan_body.h.
 *
 * A rule is affine in the carry, and by one factor wherever the trace goes on.  So each step is taken with a carry of 0;
 * by powers of the factor, what was found one step later is added to it, which makes sums of two, such a sum two steps
 * later, and with eight lanes one of four steps four later.  They are the group's after, too: at last what is carried
 * LANES steps later is added, of a whole chain one multiplication with a sum.  Nothing passes an episode's end.
 * Neighbours are summed first: near 1e308 they may overflow where one after the other would not.
 */

#define LANES FA_SCAN_LANES

typedef struct {
    const REAL *rewards, *values, *ahead; /* ahead: values of the states reached, of every step or where it is cut */
    REAL *out, *returns;
    double gamma, lam;
    fa_powers p;
} NAME(fa_line);

FA_INLINE void NAME(fa_line_take)(double *x, const REAL *p, const int whole, int some)
{
    if (whole) NAME(fa_lanes_from)(x, p, LANES);
    else NAME(fa_last_from)(x, p, some);
}

FA_INLINE void NAME(fa_line_give)(REAL *p, const double *x, const int whole, int some)
{
    if (whole) NAME(fa_lanes_to)(p, x, LANES);
    else NAME(fa_last_to)(p, x, some);
}

/* `groups` times LANES steps from `t` on, group `g` and later ones of `flags`: all of them if `whole`, of one the last
 * `some` else.  If `open`, nothing ends in them or as many steps later; if `anew`, streams begin among them.
 * Each stage is done of all groups before the next: one group after the other, they wait (one row of 2^18 float32 with
 * AVX2 in 174 us, so 154). */
FA_INLINE void NAME(fa_line_groups)(fa_scan_rule rule, const int how, const int anew, const int open, const int groups,
                                    const int whole, const NAME(fa_line) *s, fa_later *at, ptrdiff_t t,
                                    const fa_line_flags *flags, int g, int some)
{
    fa_vector c[4], v[4], before;
    const int valued = how & FA_VALUED, cut = !open && how & FA_CUT, reached = how & FA_REACHED;
    const fa_passes *pass = &flags->pass;
    FA_UNROLL
    for (int k = groups - 1; k >= 0; k--) {
        FA_ALIGNED double r[LANES], x[LANES] = {0}, f[LANES] = {0}, o[LANES], on[LANES], off[LANES];
        NAME(fa_line_take)(r, s->rewards + t + k * LANES, whole, some);
        if (valued) NAME(fa_line_take)(x, s->values + t + k * LANES, whole, some);
        v[k] = *(const fa_vector *)x;
        fa_vector later = k + 1 < groups ? v[k + 1] : at->value;
        if (anew && flags->tops >> ((g + k) * LANES + LANES - 1) & 1)
            later = fa_alone((double)((const REAL *)flags->after)[-flags->row[g + k]]);
        /* Read again a step further, where these groups go on: two permutations less, 8192 steps in 18.2 us, so 16.9.
         * Floats would be converted again, in the same time; wider vectors lie across two lines. */
        if (sizeof(REAL) == sizeof(double) && LANES == 4 && valued && whole && !anew && k + 1 < groups)
            NAME(fa_line_take)(f, s->values + t + k * LANES + 1, whole, some);
        else if (valued || anew)
            *(fa_vector *)f = FA_LATER(v[k], later, 1);
        if (cut || reached) {
            NAME(fa_line_take)(o, s->ahead + t + k * LANES, whole, some);
            const fa_vector there = *(const fa_vector *)o, next = *(const fa_vector *)f;
            *(fa_vector *)f = reached ? there : fa_either(fa_group_bits(&flags->left, g + k), there, next);
        }
        if (anew || cut || reached)
            *(fa_vector *)f = fa_only(*(const fa_vector *)f, 0, fa_group_bits(&flags->alive, g + k));
        else if (valued)
            *(fa_vector *)f = fa_only(*(const fa_vector *)f, open, fa_group_bits(&pass->one, g + k));
        /* Were it chosen in the rule, gcc would round the product here and there. */
        FA_SCAN_SIMD
        for (int i = 0; i < LANES; i++) on[i] = rule(r[i], x[i], f[i], 0.0, 1.0, 1.0, s->gamma, s->lam);
        FA_SCAN_SIMD
        for (int i = 0; i < LANES; i++) off[i] = rule(r[i], x[i], f[i], 0.0, 1.0, 0.0, s->gamma, s->lam);
        c[k] = *(const fa_vector *)on;
        if (anew || cut) c[k] = fa_either(fa_group_bits(&pass->one, g + k), c[k], *(const fa_vector *)off);
    }
    at->value = v[0];
#define FA_STAGE(sums, steps)                                                                                          \
    before = c[0];                                                                                                     \
    FA_UNROLL                                                                                                          \
    for (int k = 0; k < groups; k++)                                                                                   \
        c[k] = fa_pass(c[k], FA_LATER(c[k], k + 1 < groups ? c[k + 1] : at->sums, steps), s->p.sums, open,             \
                       fa_group_bits(&pass->sums, g + k));                                                             \
    at->sums = before;
    FA_STAGE(one, 1)
    FA_STAGE(two, 2)
#if FA_SCAN_LANES == 8
    FA_STAGE(four, 4)
#endif
#undef FA_STAGE
    FA_UNROLL
    for (int k = groups - 1; k >= 0; k--) {
        FA_ALIGNED double y[LANES], q[LANES], x[LANES];
        at->carry = fa_pass(c[k], at->carry, at->far, open, fa_group_bits(&pass->far, g + k));
        *(fa_vector *)y = at->carry;
        NAME(fa_line_give)(s->out + t + k * LANES, y, whole, some);
        if (!valued) continue;
        *(fa_vector *)x = v[k];
        FA_SCAN_SIMD
        for (int i = 0; i < LANES; i++) q[i] = y[i] + x[i];
        NAME(fa_line_give)(s->returns + t + k * LANES, q, whole, some);
    }
}

#define FA_GROUPS(anew, open, groups, whole)                                                                           \
    do {                                                                                                               \
        g -= groups;                                                                                                   \
        NAME(fa_line_groups)(rule, how, anew, open, groups, whole, s, at, zero + g * LANES, &flags, g, some);          \
    } while (0)

FA_INLINE void NAME(fa_line_look)(const fa_scan *w, const int how, fa_line_flags *flags, ptrdiff_t end, ptrdiff_t left)
{
    const uint64_t over = fa_flag_bits(w->terminated + end - left, left);
    const uint64_t cut = how & FA_CUT && w->truncated ? fa_flag_bits(w->truncated + end - left, left) : 0;
    flags->pass = fa_passes_of(~(over | cut | flags->tops), &flags->pass), flags->left = cut, flags->alive = ~over;
}

/* `steps` steps from `start` on, in blocks of 64 from the latest on; `after`: the value after a stream, or NULL if these
 * steps go on with what is later. */
FA_INLINE void NAME(fa_line_steps)(fa_scan_rule rule, const int how, const fa_scan *w, const NAME(fa_line) *s,
                                   fa_later *at, ptrdiff_t start, ptrdiff_t steps, const REAL *after)
{
    static const ptrdiff_t row[64 / LANES] = {0};
    fa_line_flags flags = {{~0ull, ~0ull, ~0ull, ~0ull}, 0, 0, after ? 1ull << 63 : 0, after, row};
    uint64_t turn = 1ull << 31; /* whose bit 32 changes where the second of two powers is meant */
    for (ptrdiff_t end = start + steps; end > start; end -= 64) {
        const ptrdiff_t left = end - start < 64 ? end - start : 64, zero = end - 64;
        const int some = (int)left & (LANES - 1), bottom = 64 / LANES - (int)left / LANES;
        int g = 64 / LANES;
        NAME(fa_line_look)(w, how, &flags, end, left);
        if (flags.tops && left < LANES) {
            FA_GROUPS(1, 0, 1, 0);
            return;
        }
        uint64_t ends = ~flags.pass.far;
        if (flags.tops) {
            if (g - bottom >= FA_SCAN_AT_ONCE) FA_GROUPS(1, 0, FA_SCAN_AT_ONCE, 1);
            else FA_GROUPS(1, 0, 1, 1);
            flags.tops = 0, ends &= ~0ull >> LANES;
        }
        if (g - bottom >= FA_SCAN_AT_ONCE && ends == 0)
            while (g - bottom >= FA_SCAN_AT_ONCE) FA_GROUPS(0, 1, FA_SCAN_AT_ONCE, 1);
        while (g - bottom >= FA_SCAN_AT_ONCE) FA_GROUPS(0, 0, FA_SCAN_AT_ONCE, 1);
        while (g > bottom) FA_GROUPS(0, 0, 1, 1);
        if (some) FA_GROUPS(0, 0, 1, 0);
        if (sizeof(REAL) == sizeof(double)) { /* looked up for each group: 512 steps with ends in 0.49 us, so 0.40 */
            const uint64_t next = turn + s->p.share;
            at->far = s->p.far[(turn ^ next) >> 32 & 1], turn = next;
        }
    }
}

/* Streams of as many steps, a multiple of LANES of at most FA_SCAN_ROWS, from the `first`-th to before the `last`-th: as
 * many at once as have no more than 64 together. */
FA_INLINE void NAME(fa_line_rows)(fa_scan_rule rule, const int how, const fa_scan *w, const NAME(fa_line) *s,
                                  ptrdiff_t first, ptrdiff_t last)
{
    const ptrdiff_t steps = w->steps, most = 64 / steps;
    const REAL none = 0, *follow = (const REAL *)w->last_values;
    fa_later later = fa_later_of(&s->p, 0.0, 0.0), *at = &later;
    ptrdiff_t row[64 / LANES] = {0};
    fa_line_flags flags = {{0, 0, 0, 0}, 0, 0, 0, &none, row};
    for (ptrdiff_t k = 0; k < most; k++) {
        flags.tops |= 1ull << (63 - k * steps);
        if (follow) row[(64 - k * steps) / LANES - 1] = k;
    }
    for (ptrdiff_t rows; last > first; last -= rows) {
        rows = last - first < most ? last - first : most;
        const ptrdiff_t zero = last * steps - 64;
        const int some = 0, bottom = (int)(64 - rows * steps) / LANES;
        int g = 64 / LANES;
        if (follow) flags.after = follow + last - 1;
        NAME(fa_line_look)(w, how, &flags, last * steps, rows * steps);
        while (g - bottom >= FA_SCAN_AT_ONCE) FA_GROUPS(1, 0, FA_SCAN_AT_ONCE, 1);
        while (g > bottom) FA_GROUPS(1, 0, 1, 1);
    }
}
#undef FA_GROUPS

/* What is carried is that of the step after `steps` steps from `start` on; or where nothing is, whole streams, those of
 * `steps` from the `start`-th on that are long enough. */
FA_INLINE void NAME(fa_scan_line)(fa_scan_rule rule, const int how, const fa_scan *w, ptrdiff_t start, ptrdiff_t steps,
                                  double factor, double *carry, double *follow)
{
    const NAME(fa_line) s = {(const REAL *)w->rewards, (const REAL *)w->values,
                             (const REAL *)(how & FA_REACHED ? w->next_values : w->final_values),
                             (REAL *)w->out, (REAL *)w->returns,
                             w->gamma, w->lam, fa_powers_of(factor)};
    if (carry) {
        if (steps <= 0) return;
        fa_later at = fa_later_of(&s.p, *carry, *follow);
        NAME(fa_line_steps)(rule, how, w, &s, &at, start, steps, NULL);
        FA_ALIGNED double c[LANES], f[LANES];
        *(fa_vector *)c = at.carry, *(fa_vector *)f = at.value;
        *carry = c[-steps & (LANES - 1)], *follow = f[-steps & (LANES - 1)];
        return;
    }
    if (!w->offsets && w->steps <= FA_SCAN_ROWS && w->steps % LANES == 0) {
        NAME(fa_line_rows)(rule, how, w, &s, start, start + steps);
        return;
    }
    for (ptrdiff_t stream = start; stream < start + steps; stream++) {
        const ptrdiff_t begin = fa_scan_begin(w, stream), length = fa_scan_end(w, stream) - begin;
        const REAL none = 0, *last = w->last_values ? (const REAL *)w->last_values + stream : &none;
        fa_later at = fa_later_of(&s.p, 0.0, 0.0);
        if (length >= FA_SCAN_LONG) NAME(fa_line_steps)(rule, how, w, &s, &at, begin, length, last);
    }
}

#undef LANES
