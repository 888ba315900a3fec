/* With a mask: two steps of a vector of neighbouring streams, without other options; and all of a stream whose steps
 * are neighbours.  Included by scan_body.h.
 */

#define LANES FA_SCAN_LANES

/* As in scan_pair.h, all is read before anything is written; of two vectors at once there are too few registers (128 x
 * 4096 float32 in 1108 us, so 1090).  If `anew`, some streams are still to take their first step. */
FA_INLINE void NAME(fa_scan_kept_pair)(fa_scan_rule rule, const int how, const int anew, const fa_scan *s, ptrdiff_t at,
                                       double *carry, double *follow, unsigned char *seen)
{
    FA_ALIGNED double r[2][LANES], v[2][LANES] = {{0}}, c[LANES], f[LANES], y[2][LANES], q[2][LANES];
    FA_ALIGNED double trace[LANES], there[LANES], going[LANES];
    FA_ALIGNED uint64_t open[2][LANES], dropped[2][LANES], fresh[LANES];
    const ptrdiff_t when[2] = {at, at - s->time_stride};
    fa_lanes_from_double(c, carry, LANES);
    fa_lanes_from_double(f, follow, LANES);
    if (anew) fa_open_lanes(fresh, seen, LANES);
    for (int k = 0; k < 2; k++) {
        NAME(fa_lanes_from)(r[k], (const REAL *)s->rewards + when[k], LANES);
        if (how & FA_VALUED) NAME(fa_lanes_from)(v[k], (const REAL *)s->values + when[k], LANES);
        fa_open_lanes(open[k], s->terminated + when[k], LANES);
        fa_open_lanes(dropped[k], s->mask + when[k], LANES);
    }
    for (int k = 0; k < 2; k++) {
        fa_only_lanes(there, open[k], f, LANES);
        fa_only_lanes(trace, open[k], c, LANES);
        if (anew) {
            FA_SCAN_SIMD
            for (int i = 0; i < LANES; i++) going[i] = fa_double(~fresh[i] & 0x3ff0000000000000ull);
            FA_SCAN_SIMD
            for (int i = 0; i < LANES; i++) fresh[i] &= dropped[k][i];
        }
        FA_SCAN_SIMD
        for (int i = 0; i < LANES; i++) {
            y[k][i] = rule(r[k][i], v[k][i], there[i], trace[i], 1.0, anew ? going[i] : 1.0, s->gamma, s->lam);
            q[k][i] = y[k][i] + v[k][i];
        }
        fa_choose_lanes(c, dropped[k], c, y[k], LANES);
        fa_choose_lanes(f, dropped[k], f, v[k], LANES);
        fa_unless_lanes(y[k], dropped[k], y[k], LANES);
        fa_unless_lanes(q[k], dropped[k], q[k], LANES);
    }
    for (int k = 0; k < 2; k++) {
        NAME(fa_lanes_to)((REAL *)s->out + when[k], y[k], LANES);
        if (how & FA_VALUED) NAME(fa_lanes_to)((REAL *)s->returns + when[k], q[k], LANES);
    }
    fa_lanes_to_double(carry, c, LANES);
    fa_lanes_to_double(follow, f, LANES);
    for (int i = 0; anew && i < LANES; i++) seen[i] |= s->mask[when[0] + i] | s->mask[when[1] + i];
}

#undef LANES

/* Those of `steps` steps of one stream, from `start` on, that are kept, one after the other; the others get 0.  They are
 * the bits of a word for each 64: what is foretold wrongly is where a word has no more, and that is known long before
 * the chain of carries is there. */
FA_INLINE void NAME(fa_scan_picked)(fa_scan_rule rule, const int how, const fa_scan *w, ptrdiff_t start,
                                    ptrdiff_t steps, double last)
{
    const fa_scan s = *w;
    const REAL *const rewards = (const REAL *)s.rewards, *const values = (const REAL *)s.values;
    const void *const there = s.next_values ? s.next_values : s.final_values ? s.final_values : s.rewards;
    const REAL *const ahead = (const REAL *)there;
    const unsigned char *const truncated = s.truncated ? s.truncated : s.terminated;
    const double elsewhere = fa_where(!s.next_values), nowhere = fa_where(!s.final_values);
    REAL *const out = (REAL *)s.out, *const returns = (REAL *)s.returns;
    double c = 0.0, f = last;
    ptrdiff_t end = fa_same_below(s.mask, start, start + steps, 0);
    memset(out + end, 0, (size_t)(start + steps - end) * sizeof(REAL));
    if (how & FA_VALUED) memset(returns + end, 0, (size_t)(start + steps - end) * sizeof(REAL));
#define FA_STEP(anew)                                                                                                  \
    do {                                                                                                               \
        const double reward = (double)rewards[t], value = how & FA_VALUED ? (double)values[t] : 0.0;                   \
        const double open = fa_where(!s.terminated[t]);                                                                \
        if (how & FA_CUT) {                                                                                            \
            const double uncut = fa_where(!truncated[t]), goes = fa_and(open, uncut);                                  \
            f = fa_and(open, fa_choose(fa_and(fa_or(uncut, nowhere), elsewhere), f, (double)ahead[t]));                \
            const double off = rule(reward, value, f, 0.0, 1.0, 0.0, s.gamma, s.lam);                                  \
            c = anew ? off : fa_choose(goes, rule(reward, value, f, fa_and(goes, c), 1.0, 1.0, s.gamma, s.lam), off);  \
        } else {                                                                                                       \
            f = fa_and(open, f), c = fa_and(open, c);                                                                  \
            c = rule(reward, value, f, c, 1.0, anew ? 0.0 : 1.0, s.gamma, s.lam);                                      \
        }                                                                                                              \
        f = value;                                                                                                     \
        out[t] = (REAL)c;                                                                                              \
        if (how & FA_VALUED) returns[t] = (REAL)(c + value);                                                           \
    } while (0)
    if (end > start) {
        const ptrdiff_t t = --end;
        FA_STEP(1);
    }
    for (ptrdiff_t left; end > start; end -= left) { /* many words at once: 48 ns for each, so 20 */
        uint64_t words[FA_SCAN_PICK / 64];
        left = end - start < FA_SCAN_PICK ? end - start : FA_SCAN_PICK;
        for (ptrdiff_t k = 0; k < left; k += 64) {
            const ptrdiff_t some = left - k < 64 ? left - k : 64;
            words[k / 64] = fa_reversed(fa_flag_bits(s.mask + end - k - some, some));
        }
        memset(out + end - left, 0, (size_t)left * sizeof(REAL));
        if (how & FA_VALUED) memset(returns + end - left, 0, (size_t)left * sizeof(REAL));
        for (ptrdiff_t k = 0; k < left; k += 64)
            for (uint64_t bits = words[k / 64]; bits; bits &= bits - 1) {
                const ptrdiff_t t = end - k - 1 - fa_lowest(bits);
                FA_STEP(0);
            }
    }
#undef FA_STEP
}
