/* The loop over steps of LANES neighbouring streams; included by scan_body.h for each number of lanes. */

#define VECTOR FA_JOIN(fa_vector_, LANES)
#define WORDS FA_JOIN(fa_words_, LANES)
#define SOME FA_JOIN(NAME(fa_scan_some), FA_JOIN(_, LANES))
#define TILE FA_JOIN(NAME(fa_scan_tile), FA_JOIN(_, LANES))

/* `depth` steps, the latest of the first stream at `at`.  `how` is a constant; if `anew`, some streams are still to take
 * their first step.  What is carried stays in vectors.  All a rule would choose by itself is chosen before: it is told
 * that all goes on, of zeros, except where only the trace is cut.  2048 x 8 float32 that pads mask, an EPYC of 2017: 29
 * us; with flags of who has taken a step looked at and written at each, 40. */
FA_INLINE void SOME(fa_scan_rule rule, const int how, const int anew, const fa_scan *s, ptrdiff_t at,
                    ptrdiff_t depth, double *carry, double *follow, unsigned char *seen)
{
    FA_ALIGNED double r[LANES], v[LANES], c[LANES], f[LANES], o[LANES], y[LANES], q[LANES], going[LANES];
    FA_ALIGNED uint64_t open[LANES], uncut[LANES], dropped[LANES], other[LANES], fresh[LANES];
    const int cuts = how & FA_CUT, masked = how & FA_MASKED, valued = how & FA_VALUED;
    /* What is absent is replaced by what is there and not picked. */
    const unsigned char *truncated = s->truncated ? s->truncated : s->terminated;
    const void *ahead = s->next_values ? s->next_values : s->final_values ? s->final_values : s->rewards;
    const uint64_t everywhere = s->next_values ? ~0ull : 0, nowhere = s->final_values ? 0 : ~0ull;
    VECTOR carried, followed;
    WORDS unseen;
    fa_lanes_from_double(c, carry, LANES);
    fa_lanes_from_double(f, follow, LANES);
    carried = *(const VECTOR *)c, followed = *(const VECTOR *)f;
    for (int i = 0; i < LANES; i++) v[i] = 0.0, going[i] = how & FA_FIRST ? 0.0 : 1.0;
    if (anew) fa_open_lanes(fresh, seen, LANES), unseen = *(const WORDS *)fresh;
    for (ptrdiff_t k = 0; k < depth; k++, at -= s->time_stride) {
        *(VECTOR *)c = carried, *(VECTOR *)f = followed;
        NAME(fa_lanes_from)(r, (const REAL *)s->rewards + at, LANES);
        if (valued) NAME(fa_lanes_from)(v, (const REAL *)s->values + at, LANES);
        if (masked) fa_open_lanes(dropped, s->mask + at, LANES);
        fa_open_lanes(open, s->terminated + at, LANES);
        if (cuts) {
            NAME(fa_lanes_from)(o, (const REAL *)ahead + at, LANES);
            fa_open_lanes(uncut, truncated + at, LANES);
            FA_SCAN_SIMD
            for (int i = 0; i < LANES; i++) other[i] = (~uncut[i] & ~nowhere) | everywhere;
            fa_choose_lanes(f, other, o, f, LANES);
            FA_SCAN_SIMD
            for (int i = 0; i < LANES; i++) uncut[i] &= open[i];
        }
        fa_only_lanes(f, open, f, LANES);
        if (cuts || anew) {
            const uint64_t *goes = cuts ? uncut : open;
            if (anew) *(WORDS *)fresh = unseen;
            FA_SCAN_SIMD
            for (int i = 0; i < LANES; i++)
                going[i] = fa_double(goes[i] & (anew ? ~fresh[i] : ~0ull) & 0x3ff0000000000000ull);
            if (anew) {
                FA_SCAN_SIMD
                for (int i = 0; i < LANES; i++) fresh[i] &= masked ? dropped[i] : 0;
                unseen = *(const WORDS *)fresh;
            }
        } else if (!(how & FA_FIRST))
            fa_only_lanes(c, open, c, LANES);
        FA_SCAN_SIMD
        for (int i = 0; i < LANES; i++) {
            const double goes = cuts || anew ? going[i] : how & FA_FIRST ? 0.0 : 1.0;
            y[i] = rule(r[i], v[i], f[i], c[i], 1.0, goes, s->gamma, s->lam);
            q[i] = y[i] + v[i];
        }
        if (masked) {
            *(VECTOR *)c = carried, *(VECTOR *)f = followed;
            fa_choose_lanes(c, dropped, c, y, LANES);
            fa_choose_lanes(f, dropped, f, v, LANES);
            carried = *(const VECTOR *)c, followed = *(const VECTOR *)f;
            fa_unless_lanes(y, dropped, y, LANES);
            fa_unless_lanes(q, dropped, q, LANES);
        } else
            carried = *(const VECTOR *)y, followed = *(const VECTOR *)v;
        NAME(fa_lanes_to)((REAL *)s->out + at, y, LANES);
        if (valued) NAME(fa_lanes_to)((REAL *)s->returns + at, q, LANES);
    }
    *(VECTOR *)c = carried, *(VECTOR *)f = followed;
    fa_lanes_to_double(carry, c, LANES);
    fa_lanes_to_double(follow, f, LANES);
    if (!anew) return;
    *(WORDS *)fresh = unseen;
    FA_SCAN_SIMD
    for (int i = 0; i < LANES; i++) seen[i] = fresh[i] == 0;
}

FA_INLINE void TILE(fa_scan_rule rule, const int how, const fa_scan *s, ptrdiff_t at, ptrdiff_t depth, double *carry,
                    double *follow, unsigned char *seen)
{
    if (how & (FA_CUT | FA_MASKED))
        for (ptrdiff_t some; depth > 0 && !fa_all_flagged(seen, LANES); depth -= some, at -= some * s->time_stride) {
            if (how & FA_MASKED && fa_none_flagged(s->mask + at, LANES)) {
                some = 1, NAME(fa_scan_nothing)(s, at, LANES);
                continue;
            }
            some = depth < FA_SCAN_LOOK ? depth : FA_SCAN_LOOK;
            SOME(rule, how, 1, s, at, some, carry, follow, seen);
        }
    if (depth > 0) SOME(rule, how, 0, s, at, depth, carry, follow, NULL);
}

#undef LANES
#undef VECTOR
#undef WORDS
#undef SOME
#undef TILE
