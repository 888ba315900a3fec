/* The pointwise shape: elements with a mask, in one pass: values, slopes, tallies.
 *
 * a) Elements are taken in tiles of doubles that stay in L1.  A tile holds only what counts: masked elements are
 *    skipped while loading, so that no formula ever sees them and the formula's loop has no mask.
 * b) The formula's loop is instantiated once per rule (rules.pxi) and called through a pointer once per tile: nothing
 *    vectorises through a pointer per element, a call per 128 elements costs nothing.
 * c) Inputs and outputs of a tile are members of one struct: the compiler knows that they do not overlap.
 * d) Sums run in eight lanes by position within the tile and are folded in a fixed order at the end of every block of
 *    FA_BLOCK elements: bitwise the same for every number of threads.
 */
#ifndef FASTALIGN_POINTWISE_H
#define FASTALIGN_POINTWISE_H

#include <stddef.h>

#include "vecmath.h"

#define FA_BLOCK 4096
#define FA_TILE 128
#define FA_LANES 8
#define FA_INPUTS 4
#define FA_RESULTS 12
#define FA_PARAMS 8

typedef struct {
    double x[FA_INPUTS][FA_TILE], y[FA_RESULTS][FA_TILE], p[FA_PARAMS];
} fa_tile;

typedef void (*fa_step)(fa_tile *tile, ptrdiff_t n);

typedef struct {
    fa_step step;
    int inputs, outputs, sums, peaks, single; /* single: the arrays are float32 */
    const void *in[FA_INPUTS];
    const unsigned char *mask;
    void *out[FA_RESULTS]; /* NULL: not wanted */
    double p[FA_PARAMS];
} fa_pointwise;

FA_INLINE void fa_load(const fa_pointwise *w, int c, const unsigned short *place, ptrdiff_t at, ptrdiff_t n, int dense,
                       double *restrict x)
{
    if (w->single) {
        const float *restrict from = (const float *)w->in[c] + at;
        if (dense)
            for (ptrdiff_t i = 0; i < n; i++) x[i] = from[i];
        else
            for (ptrdiff_t i = 0; i < n; i++) x[i] = from[place[i]];
    } else {
        const double *restrict from = (const double *)w->in[c] + at;
        if (dense)
            memcpy(x, from, (size_t)n * sizeof *x);
        else
            for (ptrdiff_t i = 0; i < n; i++) x[i] = from[place[i]];
    }
}

FA_INLINE void fa_store(const fa_pointwise *w, int c, const unsigned short *place, ptrdiff_t at, ptrdiff_t width,
                        ptrdiff_t n, int dense, const double *restrict y)
{
    if (!w->out[c]) return;
    if (w->single) {
        float *restrict to = (float *)w->out[c] + at;
        if (dense) {
            for (ptrdiff_t i = 0; i < n; i++) to[i] = (float)y[i];
        } else {
            memset(to, 0, (size_t)width * sizeof *to);
            for (ptrdiff_t i = 0; i < n; i++) to[place[i]] = (float)y[i];
        }
    } else {
        double *restrict to = (double *)w->out[c] + at;
        if (dense) {
            memcpy(to, y, (size_t)n * sizeof *to);
        } else {
            memset(to, 0, (size_t)width * sizeof *to);
            for (ptrdiff_t i = 0; i < n; i++) to[place[i]] = y[i];
        }
    }
}

/* The next tile of every array: eight streams of a kilobyte each are too many and too short for the hardware. */
FA_INLINE void fa_ahead(const fa_pointwise *w, ptrdiff_t at)
{
#if defined(__GNUC__)
    const ptrdiff_t size = w->single ? 4 : 8;
    for (int c = 0; c < w->inputs; c++)
        for (ptrdiff_t i = 0; i < FA_TILE * size; i += 64)
            __builtin_prefetch((const char *)w->in[c] + at * size + i, 0);
    for (int c = 0; c < w->outputs; c++)
        for (ptrdiff_t i = 0; w->out[c] && i < FA_TILE * size; i += 64)
            __builtin_prefetch((char *)w->out[c] + at * size + i, 1);
#else
    (void)w, (void)at;
#endif
}

/* a if NaN or larger, else b. */
FA_INLINE double fa_peak(double a, double b)
{
    return a > b || a != a ? a : b;
}

static FA_UNUSED void fa_tile_run(const fa_pointwise *w, fa_tile *tile, ptrdiff_t at, ptrdiff_t width,
                                  double lanes[][FA_LANES])
{
    unsigned short place[FA_TILE];
    ptrdiff_t n = width;
    int dense = 1;
    if (w->mask) {
        const unsigned char *mask = w->mask + at;
        n = 0;
        for (ptrdiff_t i = 0; i < width; i++) {
            place[n] = (unsigned short)i;
            n += mask[i] != 0;
        }
        dense = n == width;
    }
    fa_ahead(w, at + width);
    const ptrdiff_t full = (n + FA_LANES - 1) / FA_LANES * FA_LANES;
    for (int c = 0; c < w->inputs; c++) {
        fa_load(w, c, place, at, n, dense, tile->x[c]);
        for (ptrdiff_t i = n; i < full; i++) tile->x[c][i] = tile->x[c][n - 1]; /* whole vectors, nothing odd in them */
    }
    if (n) w->step(tile, full);
    for (int c = 0; c < w->outputs; c++) fa_store(w, c, place, at, width, n, dense, tile->y[c]);
    for (int k = 0; k < w->sums; k++) {
        double *y = tile->y[w->outputs + k];
        for (ptrdiff_t i = n; i < full; i++) y[i] = 0.0;
        for (ptrdiff_t i = 0; i < full; i += FA_LANES)
            for (int l = 0; l < FA_LANES; l++) lanes[k][l] += y[i + l];
    }
    for (int k = w->sums; k < w->sums + w->peaks; k++) {
        const double *y = tile->y[w->outputs + k];
        for (ptrdiff_t i = 0; i < n; i++) lanes[k][0] = fa_peak(y[i], lanes[k][0]);
    }
}

static FA_UNUSED void fa_pointwise_run(const fa_pointwise *w, ptrdiff_t n, double *partials)
{
    fa_tile tile;
    const int tallies = w->sums + w->peaks;
    memcpy(tile.p, w->p, sizeof tile.p);
    for (ptrdiff_t block = 0; block < n; block += FA_BLOCK, partials += tallies) {
        const ptrdiff_t end = n - block < FA_BLOCK ? n : block + FA_BLOCK;
        double lanes[FA_RESULTS][FA_LANES];
        for (int k = 0; k < tallies; k++)
            for (int l = 0; l < FA_LANES; l++) lanes[k][l] = k < w->sums ? 0.0 : -(double)INFINITY;
        for (ptrdiff_t at = block; at < end; at += FA_TILE)
            fa_tile_run(w, &tile, at, end - at < FA_TILE ? end - at : FA_TILE, lanes);
        for (int k = 0; k < tallies; k++) {
            const double *v = lanes[k];
            partials[k] = k < w->sums ? ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7])) : v[0];
        }
    }
}

#endif
