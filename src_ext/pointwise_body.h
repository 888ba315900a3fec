/* Tiles and blocks of the pointwise shape; included by pointwise.h for arrays of ARRAY computed in REAL. */

typedef struct { REAL x[FA_INPUTS][FA_TILE], y[FA_RESULTS][FA_TILE]; } NAME(fa_buffers);

FA_INLINE fa_step NAME(fa_step_of)(const fa_kind *kind)
{
    return NARROW ? kind->narrow : kind->wide;
}

/* n elements in the buffers, whatever n: the last lanes are filled up with copies of the last element, which are not
 * tallied. */
static FA_UNUSED void NAME(fa_buffered)(const fa_pointwise *w, NAME(fa_buffers) *b, ptrdiff_t n,
                                        double lanes[][FA_LANES])
{
    const fa_kind *kind = w->kind;
    const ptrdiff_t full = n / FA_LANES * FA_LANES, rest = n - full;
    const void *in[FA_INPUTS];
    void *out[FA_RESULTS];
    for (int c = 0; c < kind->inputs; c++) in[c] = b->x[c];
    for (int c = 0; c < kind->outputs; c++) out[c] = b->y[c];
    if (full) NAME(fa_step_of)(kind)(in, out, full, w->p, lanes);
    if (!rest) return;
    double last[FA_RESULTS][FA_LANES];
    fa_clear(kind, last);
    for (int c = 0; c < kind->inputs; c++) {
        for (ptrdiff_t l = rest; l < FA_LANES; l++) b->x[c][full + l] = b->x[c][n - 1];
        in[c] = b->x[c] + full;
    }
    for (int c = 0; c < kind->outputs; c++) out[c] = b->y[c] + full;
    NAME(fa_step_of)(kind)(in, out, FA_LANES, w->p, last);
    for (int k = 0; k < kind->sums + kind->peaks; k++)
        for (ptrdiff_t l = 0; l < rest; l++)
            lanes[k][l] = k < kind->sums ? lanes[k][l] + last[k][l] : fa_peak(last[k][l], lanes[k][l]);
}

/* n elements from ``at`` on, all of which count, by way of the buffers. */
static FA_UNUSED void NAME(fa_copied)(const fa_pointwise *w, NAME(fa_buffers) *b, ptrdiff_t at, ptrdiff_t n,
                                      double lanes[][FA_LANES])
{
    for (int c = 0; c < w->kind->inputs; c++) {
        const ARRAY *x = (const ARRAY *)w->in[c] + at;
        for (ptrdiff_t i = 0; i < n; i++) b->x[c][i] = x[i];
    }
    NAME(fa_buffered)(w, b, n, lanes);
    for (int c = 0; c < w->kind->outputs; c++) {
        ARRAY *y = (ARRAY *)w->out[c] + at;
        for (ptrdiff_t i = 0; w->out[c] && i < n; i++) y[i] = (ARRAY)b->y[c][i];
    }
}

/* The same without a copy, but for the odd ones at the end; outputs nobody wants go to the buffers. */
static FA_UNUSED void NAME(fa_direct)(const fa_pointwise *w, NAME(fa_buffers) *b, ptrdiff_t at, ptrdiff_t n,
                                      double lanes[][FA_LANES])
{
    const ptrdiff_t full = sizeof(ARRAY) == sizeof(REAL) ? n / FA_LANES * FA_LANES : 0;
    const void *in[FA_INPUTS];
    void *out[FA_RESULTS];
    if (full) {
        for (int c = 0; c < w->kind->inputs; c++) in[c] = (const ARRAY *)w->in[c] + at;
        for (int c = 0; c < w->kind->outputs; c++)
            out[c] = w->out[c] ? (void *)((ARRAY *)w->out[c] + at) : (void *)b->y[c];
        NAME(fa_step_of)(w->kind)(in, out, full, w->p, lanes);
    }
    if (n > full) NAME(fa_copied)(w, b, at + full, n - full, lanes);
}

/* n elements from ``at`` on, of which the mask keeps some, squeezed together. */
#if defined(FA_BY_BITS) && defined(SQUEEZE)
static FA_UNUSED void NAME(fa_squeezed)(const fa_pointwise *w, NAME(fa_buffers) *b, ptrdiff_t at, ptrdiff_t n,
                                        double lanes[][FA_LANES])
{
    const ptrdiff_t whole = n / 16 * 16;
    unsigned short bits[FA_TILE / 16], place[FA_TILE / 16];
    ARRAY some[16] = {0};
    int kept = 0;
    for (ptrdiff_t i = 0; i < n; i += 16) {
        bits[i / 16] = (unsigned short)fa_bits_of(w->mask + at + i, n - i);
        place[i / 16] = (unsigned short)kept;
        kept += __builtin_popcount(bits[i / 16]);
    }
    /* The inputs by turns, as steps read them: one after the other 0.3 ms more. */
    for (ptrdiff_t i = 0; i < whole; i += 16)
        for (int c = 0; c < w->kind->inputs; c++)
            SQUEEZE((const ARRAY *)w->in[c] + at + i, bits[i / 16], b->x[c] + place[i / 16]);
    for (int c = 0; c < w->kind->inputs && whole < n; c++) {
        const ARRAY *x = (const ARRAY *)w->in[c] + at;
        memcpy(some, x + whole, (size_t)(n - whole) * sizeof *x);
        SQUEEZE(some, bits[whole / 16], b->x[c] + place[whole / 16]);
    }
    if (kept) NAME(fa_buffered)(w, b, kept, lanes);
    for (int c = 0; c < w->kind->outputs; c++) {
        ARRAY *y = (ARRAY *)w->out[c] + at;
        if (!w->out[c]) continue;
        for (ptrdiff_t i = 0; i < whole; i += 16) SPREAD(b->y[c] + place[i / 16], bits[i / 16], y + i);
        if (whole == n) continue;
        SPREAD(b->y[c] + place[whole / 16], bits[whole / 16], some);
        memcpy(y + whole, some, (size_t)(n - whole) * sizeof *y);
    }
}
#else
static FA_UNUSED void NAME(fa_squeezed)(const fa_pointwise *w, NAME(fa_buffers) *b, ptrdiff_t at, ptrdiff_t n,
                                        double lanes[][FA_LANES])
{
    unsigned short place[FA_TILE];
    ptrdiff_t kept = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        place[kept] = (unsigned short)i;
        kept += w->mask[at + i] != 0;
    }
    for (int c = 0; c < w->kind->inputs; c++) {
        const ARRAY *x = (const ARRAY *)w->in[c] + at;
        for (ptrdiff_t i = 0; i < kept; i++) b->x[c][i] = x[place[i]];
    }
    if (kept) NAME(fa_buffered)(w, b, kept, lanes);
    for (int c = 0; c < w->kind->outputs; c++) {
        if (!w->out[c]) continue;
        ARRAY *y = (ARRAY *)w->out[c] + at;
        memset(y, 0, (size_t)n * sizeof *y);
        for (ptrdiff_t i = 0; i < kept; i++) y[place[i]] = (ARRAY)b->y[c][i];
    }
}
#endif

/* How many of n elements are a tile; in double a last one without others like it would be taken in other lanes. */
FA_INLINE ptrdiff_t NAME(fa_tile_of)(ptrdiff_t n)
{
    const ptrdiff_t tile = sizeof(REAL) == sizeof(double) && n > FA_TILE && n < FA_TILE + 2 * FA_LANES
                               ? FA_TILE - 2 * FA_LANES : FA_TILE;
    return n < tile ? n : tile;
}

static FA_UNUSED void NAME(fa_run)(const fa_pointwise *w, ptrdiff_t n, double *partials)
{
    NAME(fa_buffers) buffers;
    double lanes[FA_RESULTS][FA_LANES];
    int direct = sizeof(ARRAY) == sizeof(double);
    for (int c = 0; c < w->kind->outputs; c++) direct &= w->out[c] != NULL;
    for (ptrdiff_t block = 0; block < n; block += FA_BLOCK, partials += w->kind->sums + w->kind->peaks) {
        const ptrdiff_t end = n - block < FA_BLOCK ? n : block + FA_BLOCK;
        const int whole = direct && (!w->mask || fa_kept(w->mask + block, end - block) == end - block);
        fa_clear(w->kind, lanes);
        for (ptrdiff_t at = block, m; at < end; at += m) {
            m = whole ? end - at : NAME(fa_tile_of)(end - at);
            if (!w->mask || fa_kept(w->mask + at, m) == m)
                NAME(fa_direct)(w, &buffers, at, m, lanes);
            else
                NAME(fa_squeezed)(w, &buffers, at, m, lanes);
        }
        fa_fold(w->kind, lanes, partials);
    }
}

#undef ARRAY
#undef REAL
#undef NARROW
#undef SQUEEZE
#undef SPREAD
#undef NAME
