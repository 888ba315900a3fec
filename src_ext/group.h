/* The group shape: segments of a flat array, summed and spread.
 *
 * a) A sum runs in index order in double, so that a padded batch and its packed form give the same bits: each addition
 *    waits for the one before, and several segments are summed side by side.
 * b) What is left out adds 0.0, which changes no sum that began with 0.0: an addition is foretold, a branch on a mask
 *    is not.  So do the steps of the shorter ones of these segments.
 * c) 2,048 x 512 float32 on an EPYC of 2017: one by one 1.36 ms, four 0.40; with a random mask 10.4 and 1.3, of blocks
 *    of ones 1.25 and 0.8.
 */
#ifndef FASTALIGN_GROUP_H
#define FASTALIGN_GROUP_H

#include <stddef.h>
#include <string.h>

#include "pointwise.h"

#define FA_ABREAST 4 /* segments */
#define FA_TERMS 256 /* elements of each that are made terms of a sum at once */

/* One sum of each.  As a vector by name: what gcc makes of four numbers is at times one, at times twice as slow. */
#if defined(__GNUC__)
typedef double fa_abreast __attribute__((vector_size(FA_ABREAST * sizeof(double))));
#define FA_ADD_FOUR(sum, a, b, c, d) ((sum) += (fa_abreast){a, b, c, d})
#else
typedef struct {
    double a, b, c, d;
} fa_abreast;
#define FA_ADD_FOUR(sum, w, x, y, z) ((sum).a += (w), (sum).b += (x), (sum).c += (y), (sum).d += (z))
#endif

typedef struct {
    const long long *offsets; /* where segments begin, and the last one ends; NULL: they are of ``length`` elements */
    ptrdiff_t length, count;
    const void *in; /* elements to sum, or what each segment's are given */
    const unsigned char *mask; /* NULL: everything counts */
    long long *counts; /* how many elements of each do: of sums written; to spread means read, if not NULL */
    void *out;
    int mean, single;
} fa_segments;

FA_INLINE ptrdiff_t fa_begin(const fa_segments *s, ptrdiff_t segment)
{
    return s->offsets ? (ptrdiff_t)s->offsets[segment] : segment * s->length;
}

FA_INLINE long long fa_kept_within(const fa_segments *s, ptrdiff_t first, ptrdiff_t last)
{
    long long kept = 0;
    if (!s->mask) return last - first;
    for (; first < last; first += FA_BLOCK) /* fa_kept counts in lanes of an int */
        kept += fa_kept(s->mask + first, last - first < FA_BLOCK ? last - first : FA_BLOCK);
    return kept;
}

#define REAL float
#define NAME(stem) stem##_float
#include "group_body.h"
#define REAL double
#define NAME(stem) stem##_double
#include "group_body.h"

/* Segments a to b. */
static void fa_group_reduce(const fa_segments *s, ptrdiff_t a, ptrdiff_t b)
{
    s->single ? fa_group_reduce_float(s, a, b) : fa_group_reduce_double(s, a, b);
}

static void fa_group_spread(const fa_segments *s, ptrdiff_t a, ptrdiff_t b)
{
    s->single ? fa_group_spread_float(s, a, b) : fa_group_spread_double(s, a, b);
}

#endif
