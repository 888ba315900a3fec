/* Segments of REAL; included by group.h. */

/* Elements ``from`` on as ``n`` terms of a sum: those before ``last`` that count, added to ``count``, and 0.0 for all
 * others.  Where they are, as those of a prompt or an answer mostly are, or in ``own``. */
FA_INLINE const REAL *NAME(fa_terms)(const fa_segments *s, ptrdiff_t from, ptrdiff_t last, ptrdiff_t n, REAL *own,
                                     long long *count)
{
    static const REAL nothing[FA_TERMS];
    const ptrdiff_t there = last - from < n ? last - from : n;
    if (there <= 0) return nothing;
    const REAL *const x = (const REAL *)s->in + from;
    const unsigned char *const mask = s->mask ? s->mask + from : NULL;
    const ptrdiff_t kept = mask ? fa_kept(mask, there) : there;
    *count += kept;
    if (kept == 0) return nothing;
    if (kept == n) return x;
    memcpy(own, x, (size_t)there * sizeof *x); /* of a copy all may be read, which selects in vectors */
    if (kept < there)
        for (ptrdiff_t i = 0; i < there; i++) own[i] = mask[i] ? own[i] : (REAL)0.0;
    for (ptrdiff_t i = there; i < n; i++) own[i] = (REAL)0.0;
    return own;
}

FA_INLINE void NAME(fa_add_terms)(const REAL *const *terms, ptrdiff_t n, fa_abreast *total)
{
    const REAL *const a = terms[0], *const b = terms[1], *const c = terms[2], *const d = terms[3];
    fa_abreast sum = *total;
    for (ptrdiff_t i = 0; i < n; i++) FA_ADD_FOUR(sum, (double)a[i], (double)b[i], (double)c[i], (double)d[i]);
    *total = sum;
}

static void NAME(fa_group_reduce)(const fa_segments *s, ptrdiff_t a, ptrdiff_t b)
{
    REAL own[FA_ABREAST][FA_TERMS];
    for (ptrdiff_t segment = a; segment < b; segment += FA_ABREAST) {
        const REAL *terms[FA_ABREAST];
        ptrdiff_t first[FA_ABREAST], last[FA_ABREAST], longest = 0;
        long long count[FA_ABREAST] = {0};
        fa_abreast sums = {0};
        for (int k = 0; k < FA_ABREAST; k++) {
            const int here = segment + k < b;
            first[k] = here ? fa_begin(s, segment + k) : 0;
            last[k] = here ? fa_begin(s, segment + k + 1) : 0;
            if (last[k] - first[k] > longest) longest = last[k] - first[k];
        }
        for (ptrdiff_t at = 0; at < longest; at += FA_TERMS) {
            const ptrdiff_t n = longest - at < FA_TERMS ? longest - at : FA_TERMS;
            for (int k = 0; k < FA_ABREAST; k++)
                terms[k] = NAME(fa_terms)(s, first[k] + at, last[k], n, own[k], &count[k]);
            NAME(fa_add_terms)(terms, n, &sums);
        }
        double total[FA_ABREAST];
        memcpy(total, &sums, sizeof total);
        for (int k = 0; k < FA_ABREAST && segment + k < b; k++) {
            if (s->counts) s->counts[segment + k] = count[k];
            ((REAL *)s->out)[segment + k] = (REAL)(s->mean && count[k] > 0 ? total[k] / (double)count[k] : total[k]);
        }
    }
}

static void NAME(fa_group_spread)(const fa_segments *s, ptrdiff_t a, ptrdiff_t b)
{
    for (ptrdiff_t segment = a; segment < b; segment++) {
        const ptrdiff_t first = fa_begin(s, segment), n = fa_begin(s, segment + 1) - first;
        double share = (double)((const REAL *)s->in)[segment];
        if (s->mean) {
            const long long count = s->counts ? s->counts[segment] : fa_kept_within(s, first, first + n);
            if (count > 0) share /= (double)count;
        }
        const REAL part = (REAL)share;
        REAL *const out = (REAL *)s->out + first;
        if (s->mask) {
            const unsigned char *const mask = s->mask + first;
            for (ptrdiff_t i = 0; i < n; i++) out[i] = mask[i] ? part : (REAL)0.0;
        } else {
            for (ptrdiff_t i = 0; i < n; i++) out[i] = part;
        }
    }
}

#undef REAL
#undef NAME
