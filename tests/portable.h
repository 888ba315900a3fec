/* The rows as a compiler without GNU vectors sees them, as one for a processor that is not Intel's kind, or as it is:
 * sums and gradients against the plain loop in double.  The exit status is 0, or the line of what is off. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifndef AS_BUILT
#undef __SSE2__
#undef __AVX2__
#undef __AVX512F__
#endif
#ifdef WITHOUT_VECTORS
#undef __GNUC__
#endif
#include "rows.h"

#ifdef WITHOUT_VECTORS
#ifdef FA_VECTOR
#error "there are vectors"
#endif
#elif !defined(AS_BUILT) && FA_VECTOR != 16
#error "there are no vectors of 16 bytes"
#elif defined(EMULATED) && FA_VECTOR != 64
#error "there are no vectors of 64 bytes"
#endif

#define MOST 600
#define ROWS 7
#define WANT (FA_ENTROPY | FA_MOMENTS)
#define CHECK(yes)                                                                                                   \
    if (!(yes)) return __LINE__

static int near(double a, double b, double tolerance)
{
    return fabs(a - b) <= tolerance * (1 + fabs(b));
}

#define ROWS_OF(kind, stored, sums, slopes)                                                                          \
    static int same_##kind(fa_row a, fa_row b)                                                                       \
    {                                                                                                                \
        CHECK(near(a.peak + log(a.total), b.peak + log(b.total), sums));                                             \
        CHECK(near(log(a.total) - a.weighted / a.total, log(b.total) - b.weighted / b.total, 8 * (sums)));           \
        CHECK(near(a.squares / a.total / a.total, b.squares / b.total / b.total, 8 * (sums)));                       \
        CHECK(near(a.linear, b.linear, sums));                                                                       \
        return 0;                                                                                                    \
    }                                                                                                                \
                                                                                                                     \
    static int check_##kind(const stored *x, ptrdiff_t n, stored *out)                                               \
    {                                                                                                                \
        static fa_slim many;                                                                                         \
        static fa_slopes all;                                                                                        \
        int line;                                                                                                    \
        if (fa_is_many(n, 1)) fa_many_states_##kind(x, n, n, ROWS, 1, WANT, &many);                                  \
        for (ptrdiff_t l = 0; l < ROWS; l++) {                                                                       \
            const fa_row truth = fa_row_plain_##kind(x + l * n, n, 1);                                               \
            if ((line = same_##kind(fa_row_state_##kind(x + l * n, n, 1, WANT), truth))) return line;                \
            fa_slope_none(&all, l);                                                                                  \
            all.peak[l] = truth.peak, all.rest[l] = log(truth.total), all.a[l] = -1, all.own[l] = 1;                 \
            all.token[l] = l % n, all.fate[l] = FA_BENT;                                                             \
            if (!fa_is_many(n, 1)) continue;                                                                         \
            const fa_row one = {many.peak[l], many.total[l], many.weighted[l], many.squares[l], many.linear[l], 0, 1}; \
            if ((line = same_##kind(one, truth))) return line;                                                       \
            CHECK(near(many.rest[l], log(many.total[l]), 1e-15));                                                    \
        }                                                                                                            \
        if (fa_is_many(n, 1))                                                                                        \
            fa_many_bends_##kind(x, n, n, ROWS, 1, 0, &all, out, n);                                                 \
        else                                                                                                         \
            for (ptrdiff_t l = 0; l < ROWS; l++)                                                                     \
                fa_row_bends_##kind(x + l * n, n, 1, all.peak[l], all.rest[l], -1, 0, 0, 0, out + l * n, 0);         \
        for (ptrdiff_t l = 0; l < ROWS; l++)                                                                         \
            for (ptrdiff_t j = 0; j < n; j++) {                                                                      \
                const double p = exp(fa_get_##kind(x + l * n, j) - all.peak[l] - all.rest[l]);                       \
                const int one = fa_is_many(n, 1) && j == all.token[l];                                               \
                CHECK(near(fa_get_##kind(out + l * n, j), one - p, slopes));                                         \
            }                                                                                                        \
        return 0;                                                                                                    \
    }

ROWS_OF(float, float, 1e-6, 1e-6)
ROWS_OF(double, double, 1e-14, 1e-14)
ROWS_OF(f16, uint16_t, 1e-6, 1e-3)
ROWS_OF(bf16, uint16_t, 1e-6, 8e-3)

int main(void)
{
    static float x[ROWS * MOST], out[ROWS * MOST];
    static double wide[ROWS * MOST], wide_out[ROWS * MOST];
    static uint16_t half[ROWS * MOST], half_out[ROWS * MOST];
    int line;
    for (ptrdiff_t n = 1; n <= MOST; n += n < 70 ? 1 : 53) {
        for (ptrdiff_t i = 0; i < ROWS * n; i++) wide[i] = x[i] = (float)(rand() % 4096) / 512 - 4;
        if ((line = check_float(x, n, out)) || (line = check_double(wide, n, wide_out))) return line;
        for (ptrdiff_t i = 0; i < ROWS * n; i++) half[i] = fa_narrow_f16(x[i]);
        if ((line = check_f16(half, n, half_out))) return line;
        for (ptrdiff_t i = 0; i < ROWS * n; i++) half[i] = fa_narrow_bf16(x[i]);
        if ((line = check_bf16(half, n, half_out))) return line;
    }
    return 0;
}
