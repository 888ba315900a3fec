/* A row's exponentials, kept from the way forward for the way back.
 *
 * a) The way back then multiplies: 512 x 32,000 floats in place take 4.4 ms, of which the way back 0.6; computing the
 *    exponentials twice 6.5 ms (the same with AVX2: 5.7 and 8.4; copying the logits: 5.1; Zen 4).
 * b) They lie in the row's output, which may be the row: a tile is computed aside before it is overwritten.
 * c) Each is relative to the peak of its time.  Spans remember which that was.
 * d) Tried and slower: prefetching the next row on the way back (6.9 instead of 4.5 ms: the hardware does it).
 */

#ifndef FASTALIGN_FUSED_H
#define FASTALIGN_FUSED_H

#include "rows.h"

#define FA_SPANS 16
typedef struct { int count; ptrdiff_t from[FA_SPANS]; double base[FA_SPANS]; } fa_spans;

#define REAL float
#define NAME(stem) stem##_float
#define LOWEST -87.0f
#include "fused_body.h"

#define REAL double
#define NAME(stem) stem##_double
#define LOWEST -708.0
#include "fused_body.h"

/* Nothing is kept: a half has no room for an exponential. */
#define FA_HALF_KEEP(kind)                                                                                           \
    static FA_UNUSED fa_row fa_row_keep_##kind(const uint16_t *x, ptrdiff_t n, double scale, uint16_t *e,            \
                                               fa_spans *kept)                                                        \
    {                                                                                                                \
        (void)e, (void)kept;                                                                                         \
        return fa_row_state_##kind(x, n, scale, 0);                                                                  \
    }                                                                                                                \
    static FA_UNUSED void fa_row_scale_##kind(const uint16_t *x, ptrdiff_t n, double scale, double peak,             \
                                              double rest, double a, const fa_spans *kept, uint16_t *out)             \
    {                                                                                                                \
        (void)kept;                                                                                                  \
        fa_row_slopes_##kind(x, n, scale, peak, rest, a, 0.0, out);                                                  \
    }

FA_HALF_KEEP(f16)
FA_HALF_KEEP(bf16)

#endif
