/* Scans and losses as a build's loops see them, against plain loops in double; all arrays end where no memory may be
 * touched.  The exit status is 0, or 1, and the line of what is off is printed. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include "rules.h"
#include "scan.h"

#if FA_SCAN_LANES != 8 || !defined(FA_BY_BITS) || defined(FA_BY_TABLES)
#error "these are not AVX-512's loops"
#endif

#define ROOM (1 << 17)
#define CHECK(yes)                                                                                                   \
    if (!(yes)) return __LINE__

static uint64_t drawn = 1;

static double draw(void) /* in [0, 1) */
{
    drawn = drawn * 6364136223846793005u + 1442695040888963407u;
    return (double)(drawn >> 40) * 0x1p-24;
}

/* The last so many bytes before memory that may not be touched, one place for each k. */
static void *place(int k, size_t bytes)
{
    static char *ends[16];
    if (!ends[k]) {
        char *all = mmap(NULL, 2 * ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (all == MAP_FAILED || mprotect(all + ROOM, ROOM, PROT_NONE)) return NULL;
        ends[k] = all + ROOM;
    }
    return ends[k] - bytes;
}

static int near(double a, double b, double tolerance)
{
    return a == b || fabs(a - b) <= tolerance * (1 + fabs(b));
}

/* ---- scans ------------------------------------------------------------------------------------------------------- */

/* rules/recurrence.py's scan_gae: what is not to be read is NaN here. */
FA_INLINE double gae(double r, double v, double after, double c, double alive, double going, double gamma, double lam)
{
    return r + gamma * (alive > 0 ? after : 0) - v + gamma * lam * (going > 0 ? c : 0);
}

enum { FINAL = 1, NEXT = 2, CUT = FINAL | NEXT, MASK = 4, LAST = 8, OPTIONS = 16 };
enum { BY_TIME, BY_STREAM, PACKED, LAYOUTS };

#define SCANS_OF(real, tolerance)                                                                                    \
    static void rows_##real(int how, const fa_scan *w, ptrdiff_t at, ptrdiff_t depth, ptrdiff_t width, double *carry, \
                            double *follow, unsigned char *seen)                                                     \
    {                                                                                                                \
        fa_scan_rows_##real(gae, how, w, at, depth, width, carry, follow, seen);                                     \
    }                                                                                                                \
    static void chains_##real(const fa_scan *w, fa_chain *chains, int count, ptrdiff_t shared)                       \
    {                                                                                                                \
        fa_scan_chains_##real(gae, w, chains, count, shared);                                                        \
    }                                                                                                                \
    static void line_##real(const fa_scan *w, ptrdiff_t start, ptrdiff_t steps, double factor, double *carry,        \
                            double *follow)                                                                          \
    {                                                                                                                \
        fa_scan_steps_##real(gae, w, start, steps, factor, carry, follow);                                           \
    }                                                                                                                \
    static void picked_##real(const fa_scan *w, ptrdiff_t start, ptrdiff_t steps, double last)                       \
    {                                                                                                                \
        fa_scan_picks_##real(gae, w, start, steps, last);                                                            \
    }                                                                                                                \
                                                                                                                     \
    static int same_##real(const fa_scan *w, const real *out, const real *returns)                                   \
    {                                                                                                                \
        for (ptrdiff_t k = 0; k < w->streams; k++) {                                                                 \
            const ptrdiff_t start = fa_scan_begin(w, k), n = w->offsets ? fa_scan_end(w, k) - start : w->steps;      \
            double carry = 0, after = w->last_values ? ((const real *)w->last_values)[k] : 0;                        \
            for (ptrdiff_t t = n - 1, seen = 0; t >= 0; t--) {                                                       \
                const ptrdiff_t at = start + t * w->time_stride;                                                     \
                const int cut = w->truncated && w->truncated[at];                                                    \
                const double v = ((const real *)w->values)[at], r = ((const real *)w->rewards)[at];                  \
                if (w->mask && !w->mask[at]) {                                                                       \
                    CHECK(out[at] == 0 && returns[at] == 0);                                                         \
                    continue;                                                                                        \
                }                                                                                                    \
                if (w->next_values) after = ((const real *)w->next_values)[at];                                      \
                else if (cut) after = ((const real *)w->final_values)[at];                                           \
                carry = gae(r, v, after, carry, !w->terminated[at], seen && !cut && !w->terminated[at], w->gamma,    \
                            w->lam);                                                                                 \
                CHECK(near(out[at], carry, tolerance) && near(returns[at], carry + v, tolerance));                   \
                after = v, seen = 1;                                                                                 \
            }                                                                                                        \
        }                                                                                                            \
        return 0;                                                                                                    \
    }                                                                                                                \
                                                                                                                     \
    static int scan_##real(int layout, int options, ptrdiff_t steps, ptrdiff_t streams, double ends, double kept)    \
    {                                                                                                                \
        static long long offsets[128];                                                                               \
        ptrdiff_t n = steps * streams;                                                                               \
        if (layout == PACKED) {                                                                                      \
            for (ptrdiff_t k = n = 0; k < streams; k++) offsets[k + 1] = n += (ptrdiff_t)(draw() * (double)steps);   \
            steps = 0;                                                                                               \
        }                                                                                                            \
        real *x[7];                                                                                                  \
        unsigned char *flag[3];                                                                                      \
        for (int k = 0; k < 7; k++) x[k] = place(k, (size_t)(k == 6 ? streams : n) * sizeof(real));                  \
        for (int k = 0; k < 3; k++) flag[k] = place(7 + k, (size_t)n);                                               \
        CHECK(x[0] && x[6] && flag[2]);                                                                              \
        for (ptrdiff_t i = 0; i < n; i++) {                                                                          \
            for (int k = 0; k < 2; k++) flag[k][i] = draw() < ends;                                                  \
            flag[2][i] = options & MASK && draw() > kept ? 0 : (unsigned char)(1 + 2 * draw());                      \
            for (int k = 0; k < 3; k++) x[k][i] = (real)(2 * draw() - 1);                                            \
            if (!flag[2][i]) x[0][i] = x[1][i] = NAN;                                                                \
            if (!flag[2][i] || flag[0][i] || (!flag[1][i] && options & FINAL)) x[2][i] = NAN;                        \
        }                                                                                                            \
        for (ptrdiff_t k = 0; k < streams; k++) x[6][k] = (real)draw();                                              \
        const int by_time = layout == BY_TIME;                                                                       \
        const fa_scan w = {                                                                                          \
            x[0], x[1], options & NEXT ? x[2] : NULL, options & FINAL ? x[2] : NULL, options & LAST ? x[6] : NULL,   \
            flag[0], options & CUT ? flag[1] : NULL, options & MASK ? flag[2] : NULL, x[3], x[4], 0.98, 0.9, steps,  \
            streams, by_time ? streams : 1, by_time ? 1 : steps, layout == PACKED ? offsets : NULL};                 \
        const fa_scan_loops loops = {rows_##real, chains_##real, line_##real, picked_##real, w.gamma * w.lam};       \
        fa_scan_run_##real(&w, &loops);                                                                              \
        return same_##real(&w, x[3], x[4]);                                                                          \
    }

SCANS_OF(float, 3e-6)
SCANS_OF(double, 1e-13)

static int scans(void)
{
    static const ptrdiff_t lengths[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 31, 33, 63, 64, 65, 130, 700};
    static const ptrdiff_t widths[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 90};
    static const double often[] = {0, 0.02, 0.4}, kept[] = {0.5, 0.99, 0.05};
    int line, turn = 0;
    for (int options = 0; options < OPTIONS; options++)
        for (int layout = 0; layout < LAYOUTS; layout++)
            for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
                for (size_t j = 0; j < sizeof widths / sizeof *widths; j++, turn++) {
                    const ptrdiff_t steps = lengths[i], streams = widths[j];
                    if ((options & CUT) == CUT || (options & NEXT && options & LAST)) continue;
                    if (steps * streams > 12000) continue;
                    const double ends = often[turn % 3], some = kept[turn / 3 % 3];
                    if ((line = scan_float(layout, options, steps, streams, ends, some))) return line;
                    if ((line = scan_double(layout, options, steps, streams, ends, some))) return line;
                }
    return 0;
}

/* ---- losses ------------------------------------------------------------------------------------------------------ */

#define LOSSES_OF(real, is_single, tolerance)                                                                        \
    static int loss_##real(const fa_kind *kind, ptrdiff_t n, int masked, double kept)                                \
    {                                                                                                                \
        const int tallies = kind->sums + kind->peaks;                                                                \
        fa_pointwise w = {kind, is_single, 0, {0}, NULL, {0}, {0.25, 0.5, 1.5, 0.5}};                                \
        double partials[FA_RESULTS], want[FA_RESULTS], size[FA_RESULTS] = {0};                                       \
        real *in[FA_INPUTS], *out[FA_RESULTS];                                                                       \
        unsigned char *mask = place(0, (size_t)n);                                                                   \
        CHECK(mask && n <= FA_BLOCK);                                                                                \
        if (masked) w.mask = mask;                                                                                   \
        for (int c = 0; c < kind->inputs; c++) w.in[c] = in[c] = place(1 + c, (size_t)n * sizeof(real));             \
        for (int c = 0; c < kind->outputs; c++) w.out[c] = out[c] = place(6 + c, (size_t)n * sizeof(real));          \
        for (ptrdiff_t i = 0; i < n; i++) {                                                                          \
            mask[i] = masked && draw() > kept ? 0 : (unsigned char)(1 + 2 * draw());                                 \
            for (int c = 0; c < kind->inputs; c++) in[c][i] = mask[i] ? (real)(4 * draw() - 2) : (real)NAN;          \
            for (int c = 0; c < kind->outputs; c++) out[c][i] = 7;                                                   \
        }                                                                                                            \
        for (int k = 0; k < tallies; k++) want[k] = k < kind->sums ? 0 : -(double)INFINITY;                          \
        fa_pointwise_run(&w, n, partials);                                                                           \
        for (ptrdiff_t i = 0; i < n; i++) {                                                                          \
            double x[FA_INPUTS], y[FA_RESULTS + FA_INPUTS];                                                          \
            for (int c = 0; c < kind->inputs; c++) x[c] = in[c][i];                                                  \
            kind->one(x, w.p, y);                                                                                    \
            for (int c = 0; c < kind->outputs; c++)                                                                  \
                CHECK(mask[i] ? near(out[c][i], y[c], tolerance) : out[c][i] == 0);                                  \
            for (int k = 0; mask[i] && k < tallies; k++) {                                                           \
                const double t = y[kind->outputs + k];                                                               \
                want[k] = k < kind->sums ? want[k] + t : fa_peak(t, want[k]), size[k] += fabs(t);                    \
            }                                                                                                        \
        }                                                                                                            \
        for (int k = 0; k < tallies; k++)                                                                            \
            CHECK(partials[k] == want[k] || fabs(partials[k] - want[k]) <= 8 * (tolerance) * (1 + size[k]));         \
        return 0;                                                                                                    \
    }

LOSSES_OF(float, 1, 2e-6)
LOSSES_OF(double, 0, 1e-14)

static int losses(void)
{
    int line;
    for (const fa_kind *kind = fa_kinds; kind->family; kind++)
        for (ptrdiff_t n = 1; n <= 1200; n += n < 100 ? 1 : n % 16 == 15 ? 130 : 1)
            for (int masked = 0; masked < 5; masked++) {
                const double kept = (const double[]){1, 0.9, 0.5, 0.1, 0}[masked];
                if ((line = loss_float(kind, n, masked > 0, kept))) return line;
                if ((line = loss_double(kind, n, masked > 0, kept))) return line;
            }
    return 0;
}

int main(void)
{
    int line;
    fa_masks_begin();
    fa_scan_prepare();
    if ((line = losses()) || (line = scans())) fprintf(stderr, "line %d\n", line);
    return line != 0;
}
