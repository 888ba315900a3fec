/* The loop over steps of LANES neighbouring streams; included by scan_body.h for each number of lanes. */

#define VECTOR FA_JOIN(fa_vector_, LANES)
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

#undef LANES
#undef CHOOSE
#undef VECTOR
#undef TILE
