/* The loop over steps of LANES neighbouring streams; included by scan_body.h for each number of lanes. */

#define VECTOR FA_JOIN(fa_vector_, LANES)
#define PAIR FA_JOIN(NAME(fa_scan_pair), FA_JOIN(_, LANES))
#define CHOOSE(mask, a, b) (LANES == 1 ? (mask) ? (a) : (b) : fa_choose(mask, a, b))
#define TILE FA_JOIN(NAME(fa_scan_tile), FA_JOIN(_, LANES))

/* `depth` steps, the latest of the first stream at `at`.  `how` is a constant.  What is carried stays in vectors. */
FA_INLINE void TILE(fa_scan_rule rule, const int how, const fa_scan *s, ptrdiff_t at, ptrdiff_t depth, double *carry,
                    double *follow, unsigned char *seen)
{
    FA_ALIGNED double r[LANES], v[LANES], c[LANES], f[LANES], o[LANES], y[LANES], q[LANES];
    FA_ALIGNED uint64_t ends[LANES], stops[LANES], picked[LANES], keep[LANES];
    const int general = how & (FA_CUT | FA_MASKED), valued = how & FA_VALUED;
    /* What is absent is replaced by what is there and not picked. */
    const unsigned char *truncated = s->truncated ? s->truncated : s->terminated;
    const void *ahead = s->next_values ? s->next_values : s->final_values ? s->final_values : s->rewards;
    const fa_word everywhere = s->next_values ? ~(fa_word)0 : 0, where_cut = s->final_values ? ~(fa_word)0 : 0;
    fa_word fresh = general ? ~fa_flags(seen, LANES) : 0;
    VECTOR carried, followed;
    fa_lanes_from_double(c, carry, LANES);
    fa_lanes_from_double(f, follow, LANES);
    carried = *(const VECTOR *)c, followed = *(const VECTOR *)f;
    for (int i = 0; i < LANES; i++) v[i] = 0.0;
    for (ptrdiff_t k = 0; k < depth; k++, at -= s->time_stride) {
        const fa_word ended = fa_flags(s->terminated + at, LANES);
        *(VECTOR *)c = carried, *(VECTOR *)f = followed;
        NAME(fa_lanes_from)(r, (const REAL *)s->rewards + at, LANES);
        if (valued) NAME(fa_lanes_from)(v, (const REAL *)s->values + at, LANES);
        FA_SPREAD(ends, ended);
        if (general) {
            const fa_word cut = fa_flags(truncated + at, LANES), stop = ended | cut | fresh;
            const fa_word kept = how & FA_MASKED ? fa_flags(s->mask + at, LANES) : ~(fa_word)0;
            NAME(fa_lanes_from)(o, (const REAL *)ahead + at, LANES);
            FA_SPREAD(stops, stop);
            fa_spread(picked, (cut & where_cut) | everywhere, LANES);
            fa_spread(keep, kept, LANES);
            FA_SCAN_SIMD
            for (int i = 0; i < LANES; i++) {
                const double after = CHOOSE(picked[i], o[i], f[i]);
                const double alive = FA_UNLESS(ended, ends, i), going = FA_UNLESS(stop, stops, i);
                const double now = rule(r[i], v[i], after, c[i], alive, going, s->gamma, s->lam);
                if (how & FA_MASKED) {
                    c[i] = CHOOSE(keep[i], now, c[i]);
                    f[i] = CHOOSE(keep[i], v[i], f[i]);
                    y[i] = CHOOSE(keep[i], now, 0.0);
                    q[i] = CHOOSE(keep[i], now + v[i], 0.0);
                } else {
                    c[i] = y[i] = now;
                    q[i] = now + v[i];
                }
            }
            if (fresh) fresh &= ~fa_nonzero(kept);
        } else {
            FA_SCAN_SIMD
            for (int i = 0; i < LANES; i++) {
                const double alive = FA_UNLESS(ended, ends, i), going = how & FA_FIRST ? 0.0 : alive;
                const double now = rule(r[i], v[i], f[i], c[i], alive, going, s->gamma, s->lam);
                c[i] = y[i] = now;
                q[i] = now + v[i];
            }
        }
        carried = *(const VECTOR *)c, followed = how & FA_MASKED ? *(const VECTOR *)f : *(const VECTOR *)v;
        NAME(fa_lanes_to)((REAL *)s->out + at, y, LANES);
        if (valued) NAME(fa_lanes_to)((REAL *)s->returns + at, q, LANES);
    }
    *(VECTOR *)c = carried, *(VECTOR *)f = followed;
    fa_lanes_to_double(carry, c, LANES);
    fa_lanes_to_double(follow, f, LANES);
    if (general) fresh = ~fresh, memcpy(seen, &fresh, LANES);
}

/* Two plain steps.  All is read before anything is written: arrays that begin at the same place of their pages, as large
 * ones do, would have loads wait for stores to the same place of another page (24 x 4096: 56 us, so 45). */
FA_INLINE void PAIR(fa_scan_rule rule, const int how, const fa_scan *s, ptrdiff_t at, double *carry, double *follow)
{
    FA_ALIGNED double r[LANES], v[LANES], c[LANES], f[LANES], y[LANES], q[LANES], p[LANES];
    FA_ALIGNED double r_too[LANES], v_too[LANES];
    FA_ALIGNED uint64_t ends[LANES];
    const ptrdiff_t too = at - s->time_stride;
    const fa_word ended = fa_flags(s->terminated + at, LANES), ended_too = fa_flags(s->terminated + too, LANES);
    fa_lanes_from_double(c, carry, LANES);
    fa_lanes_from_double(f, follow, LANES);
    for (int i = 0; i < LANES; i++) v[i] = v_too[i] = 0.0;
    NAME(fa_lanes_from)(r, (const REAL *)s->rewards + at, LANES);
    NAME(fa_lanes_from)(r_too, (const REAL *)s->rewards + too, LANES);
    if (how & FA_VALUED) {
        NAME(fa_lanes_from)(v, (const REAL *)s->values + at, LANES);
        NAME(fa_lanes_from)(v_too, (const REAL *)s->values + too, LANES);
    }
    FA_SPREAD(ends, ended);
    FA_SCAN_SIMD
    for (int i = 0; i < LANES; i++) {
        const double going = FA_UNLESS(ended, ends, i);
        y[i] = rule(r[i], v[i], f[i], c[i], going, going, s->gamma, s->lam);
        q[i] = y[i] + v[i];
    }
    FA_SPREAD(ends, ended_too);
    FA_SCAN_SIMD
    for (int i = 0; i < LANES; i++) {
        const double going = FA_UNLESS(ended_too, ends, i);
        c[i] = rule(r_too[i], v_too[i], v[i], y[i], going, going, s->gamma, s->lam);
        p[i] = c[i] + v_too[i];
    }
    NAME(fa_lanes_to)((REAL *)s->out + at, y, LANES);
    if (how & FA_VALUED) NAME(fa_lanes_to)((REAL *)s->returns + at, q, LANES);
    NAME(fa_lanes_to)((REAL *)s->out + too, c, LANES);
    if (how & FA_VALUED) NAME(fa_lanes_to)((REAL *)s->returns + too, p, LANES);
    fa_lanes_to_double(carry, c, LANES);
    fa_lanes_to_double(follow, v_too, LANES);
}

#if FA_SCAN_LINE && LANES == FA_SCAN_LANES
/* The same of `units` neighbouring vectors.  The ends of episodes select before the rule does, as masks that cost it no
 * operation: 24 x 4096 and 128 x 4096 float32 take 41 and 220 us instead of 43 and 228, and four vectors at once 36 and
 * 193 (float64: 48 us instead of 51).  With AVX2 one is best: 46 and 246 us instead of 49 and 261, four 51 and 273. */
FA_INLINE void NAME(fa_scan_wide)(fa_scan_rule rule, const int how, const int units, const fa_scan *s, ptrdiff_t at,
                                  double *carry, double *follow)
{
    const REAL *rewards = (const REAL *)s->rewards + at, *values = (const REAL *)s->values + at;
    const unsigned char *ends = s->terminated + at;
    REAL *out = (REAL *)s->out + at, *returns = (REAL *)s->returns + at;
    const ptrdiff_t too = -s->time_stride;
    FA_ALIGNED double r[LANES], v[LANES] = {0}, c[LANES], f[LANES], y[LANES];
    fa_vector reward[FA_SCAN_UNITS][2], value[FA_SCAN_UNITS][2], now[FA_SCAN_UNITS][2];
    fa_gate open[FA_SCAN_UNITS][2];
    FA_UNROLL
    for (int u = 0; u < units; u++)
        FA_UNROLL
        for (int k = 0; k < 2; k++) {
            NAME(fa_lanes_from)(r, rewards + k * too + u * LANES, LANES);
            if (how & FA_VALUED) NAME(fa_lanes_from)(v, values + k * too + u * LANES, LANES);
            reward[u][k] = *(const fa_vector *)r, value[u][k] = *(const fa_vector *)v;
            open[u][k] = fa_gate_of(ends + k * too + u * LANES);
        }
    FA_UNROLL
    for (int u = 0; u < units; u++) {
        fa_lanes_from_double(c, carry + u * LANES, LANES);
        fa_lanes_from_double(f, follow + u * LANES, LANES);
        fa_vector before = *(const fa_vector *)c, after = *(const fa_vector *)f;
        FA_UNROLL
        for (int k = 0; k < 2; k++) {
            *(fa_vector *)c = fa_gated(before, open[u][k]), *(fa_vector *)f = fa_gated(after, open[u][k]);
            *(fa_vector *)r = reward[u][k], *(fa_vector *)v = value[u][k];
            FA_SCAN_SIMD
            for (int i = 0; i < LANES; i++) y[i] = rule(r[i], v[i], f[i], c[i], 1.0, 1.0, s->gamma, s->lam);
            before = now[u][k] = *(const fa_vector *)y, after = value[u][k];
        }
    }
    FA_UNROLL
    for (int k = 0; k < 2; k++)
        FA_UNROLL
        for (int u = 0; u < units; u++) {
            *(fa_vector *)y = now[u][k];
            NAME(fa_lanes_to)(out + k * too + u * LANES, y, LANES);
            *(fa_vector *)y = now[u][k] + value[u][k];
            if (how & FA_VALUED) NAME(fa_lanes_to)(returns + k * too + u * LANES, y, LANES);
        }
    FA_UNROLL
    for (int u = 0; u < units; u++) {
        *(fa_vector *)c = now[u][1], *(fa_vector *)f = value[u][1];
        fa_lanes_to_double(carry + u * LANES, c, LANES);
        fa_lanes_to_double(follow + u * LANES, f, LANES);
    }
}
#endif

#undef LANES
#undef CHOOSE
#undef PAIR
#undef VECTOR
#undef TILE
