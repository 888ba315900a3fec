/* The loop over neighbouring steps of one stream, none of them masked, LANES at a time; included by scan_body.h.
 *
 * A rule is affine in the carry, and by one factor wherever the trace goes on.  So each step is taken with a carry of 0;
 * three times (with four lanes, two) what was found 1, 2, 4 steps later is added to it, by the factor to that power; and
 * then the carry from beyond the lanes, by the power of its way.  Nothing is added from beyond an episode's end.
 * Neighbours are summed first: near 1e308 they may overflow where one after the other would not.
 */

#define LANES FA_SCAN_LANES

typedef struct {
    const REAL *rewards, *values, *ahead; /* ahead: values of the states reached, of every step or where it is cut */
    REAL *out, *returns;
    double gamma, lam;
    fa_powers p;
    fa_vector carry, follow;
    uint64_t turn; /* whose bit 32 changes where the second of two powers is meant */
} NAME(fa_line);

/* `groups` times LANES steps from `t` on, group `first` and later ones of `flags`; if `open`, no episode ends in them.
 * Each stage is done of all groups before the next: one group after the other, they wait (10^6 float32: 0.67 ms). */
FA_INLINE void NAME(fa_line_groups)(fa_scan_rule rule, const int how, const int groups, const int open,
                                    NAME(fa_line) *s, ptrdiff_t t, const fa_line_flags *flags, int first)
{
    fa_vector c[4], v[4];
    const fa_vector none = {0};
    const int valued = how & FA_VALUED, cut = !open && how & FA_CUT, reached = how & FA_REACHED;
    const fa_passes *pass = &flags->pass;
    const uint64_t turn = s->turn + s->p.share;
    const fa_vector down = s->p.down[sizeof(REAL) == sizeof(double) ? (turn ^ s->turn) >> 32 & 1 : 0];
    s->turn = turn;
    FA_UNROLL
    for (int g = groups - 1; g >= 0; g--) {
        FA_ALIGNED double r[LANES], x[LANES] = {0}, f[LANES] = {0}, o[LANES], going[LANES], d[LANES];
        NAME(fa_lanes_from)(r, s->rewards + t + g * LANES, LANES);
        *(fa_vector *)going = fa_every(1.0);
        if (valued) {
            NAME(fa_lanes_from)(x, s->values + t + g * LANES, LANES);
            v[g] = *(const fa_vector *)x;
            *(fa_vector *)f = FA_LATER(v[g], s->follow, 1);
            s->follow = v[g];
        }
        if (cut || reached) {
            NAME(fa_lanes_from)(o, s->ahead + t + g * LANES, LANES);
            const fa_vector there = *(const fa_vector *)o, later = *(const fa_vector *)f;
            const fa_vector next = reached ? there : fa_either(fa_group_bits(&flags->left, first + g), there, later);
            *(fa_vector *)f = fa_only(next, 0, fa_group_bits(&flags->alive, first + g));
            *(fa_vector *)going = fa_only(fa_every(1.0), open, fa_group_bits(&pass->one, first + g));
        } else if (valued)
            *(fa_vector *)f = fa_only(*(const fa_vector *)f, open, fa_group_bits(&pass->one, first + g));
        FA_SCAN_SIMD
        for (int i = 0; i < LANES; i++) d[i] = rule(r[i], x[i], f[i], 0.0, 1.0, going[i], s->gamma, s->lam);
        c[g] = *(const fa_vector *)d;
    }
    FA_UNROLL
    for (int g = groups - 1; g >= 0; g--)
        c[g] = fa_pass(c[g], FA_LATER(c[g], none, 1), s->p.one, open, fa_group_bits(&pass->one, first + g));
    FA_UNROLL
    for (int g = groups - 1; g >= 0; g--)
        c[g] = fa_pass(c[g], FA_LATER(c[g], none, 2), s->p.two, open, fa_group_bits(&pass->two, first + g));
#if FA_SCAN_LANES == 8
    FA_UNROLL
    for (int g = groups - 1; g >= 0; g--)
        c[g] = fa_pass(c[g], FA_LATER(c[g], none, 4), s->p.four, open, fa_group_bits(&pass->four, first + g));
#endif
    FA_UNROLL
    for (int g = groups - 1; g >= 0; g--) {
        FA_ALIGNED double y[LANES], q[LANES], x[LANES];
        c[g] = fa_pass(c[g], s->carry, down, open, fa_group_bits(&pass->beyond, first + g));
        s->carry = fa_every(c[g][0]);
        *(fa_vector *)y = c[g];
        NAME(fa_lanes_to)(s->out + t + g * LANES, y, LANES);
        if (!valued) continue;
        *(fa_vector *)x = v[g];
        FA_SCAN_SIMD
        for (int i = 0; i < LANES; i++) q[i] = y[i] + x[i];
        NAME(fa_lanes_to)(s->returns + t + g * LANES, q, LANES);
    }
}

/* `steps` steps from `start` on, in blocks of 64 from the latest on, what is less than LANES one by one. */
FA_INLINE void NAME(fa_scan_line)(fa_scan_rule rule, const int how, const fa_scan *w, ptrdiff_t start, ptrdiff_t steps,
                                  double factor, double *carry, double *follow)
{
    NAME(fa_line) s = {(const REAL *)w->rewards, (const REAL *)w->values,
                       (const REAL *)(how & FA_REACHED ? w->next_values : w->final_values),
                       (REAL *)w->out, (REAL *)w->returns,
                       w->gamma, w->lam, fa_powers_of(factor), fa_every(*carry), fa_every(*follow), 1ull << 31};
    ptrdiff_t left = steps;
    while (left >= LANES) {
        int g = left < 64 ? (int)left / LANES : 64 / LANES;
        left -= g * LANES;
        const ptrdiff_t t = start + left;
        const uint64_t over = fa_flag_bits(w->terminated + t, g * LANES);
        const uint64_t cut = how & FA_CUT && w->truncated ? fa_flag_bits(w->truncated + t, g * LANES) : 0;
        const fa_line_flags flags = {fa_passes_of(~(over | cut)), cut, ~over};
        for (; (over | cut) == 0 && g >= 4; g -= 4)
            NAME(fa_line_groups)(rule, how, 4, 1, &s, t + (g - 4) * LANES, &flags, g - 4);
        for (; g >= 4; g -= 4) NAME(fa_line_groups)(rule, how, 4, 0, &s, t + (g - 4) * LANES, &flags, g - 4);
        for (; g; g--) NAME(fa_line_groups)(rule, how, 1, 0, &s, t + (g - 1) * LANES, &flags, g - 1);
    }
    *carry = s.carry[0], *follow = s.follow[0];
    unsigned char seen = 0xff;
    if (left) NAME(fa_scan_across)(rule, how & ~FA_REACHED, w, start + left - 1, left, 1, carry, follow, &seen);
}

#undef LANES
