/* The loops over streams; included by scan.h with REAL = float and REAL = double. */

/* The results of neighbouring streams at a step that is masked in all of them. */
FA_INLINE void NAME(fa_scan_nothing)(const fa_scan *s, ptrdiff_t at, int lanes)
{
    memset((REAL *)s->out + at, 0, (size_t)lanes * sizeof(REAL));
    if (s->returns) memset((REAL *)s->returns + at, 0, (size_t)lanes * sizeof(REAL));
}

#define LANES 1
#include "scan_tile.h"
#define LANES 4
#include "scan_tile.h"
#if FA_SCAN_LANES == 8
#define LANES 8
#include "scan_tile.h"
#endif

#define LANES 1
#include "scan_pair.h"
#if FA_SCAN_LANES == 4
#define LANES 4
#include "scan_pair.h"
#endif
#if FA_SCAN_WIDE > 4
#define LANES 8
#include "scan_pair.h"
#endif
#if FA_SCAN_LANES == 8
#define LANES 16
#include "scan_pair.h"
#endif

FA_INLINE void NAME(fa_scan_across)(fa_scan_rule rule, const int how, const fa_scan *w, ptrdiff_t at, ptrdiff_t depth,
                                    ptrdiff_t width, double *carry, double *follow, unsigned char *seen)
{
    const fa_scan s = *w; /* in registers: the outputs might be w's own memory */
    const ptrdiff_t lead = fa_scan_lead(&s, at, width, sizeof(REAL));
    ptrdiff_t j = 0;
    for (; j < lead; j++)
        FA_JOIN(NAME(fa_scan_tile), _1)(rule, how, &s, at + j, depth, carry + j, follow + j, seen + j);
#define FA_SCAN_ACROSS(lanes)                                                                                          \
    for (; j + lanes <= width; j += lanes)                                                                             \
        FA_JOIN(NAME(fa_scan_tile), _##lanes)(rule, how, &s, at + j, depth, carry + j, follow + j, seen + j);
#if FA_SCAN_LANES == 8
    FA_SCAN_ACROSS(8)
#endif
    FA_SCAN_ACROSS(4)
    FA_SCAN_ACROSS(1)
#undef FA_SCAN_ACROSS
}

/* Lines of what is written from ``at`` on, and a step earlier. */
FA_INLINE void NAME(fa_scan_asks)(const fa_scan *s, ptrdiff_t at, ptrdiff_t beyond)
{
    REAL *const out = (REAL *)s->out + at, *const returns = (REAL *)(s->returns ? s->returns : s->out) + at;
    fa_scan_ask(out, beyond), fa_scan_ask(returns, beyond);
    fa_scan_ask(out - s->time_stride, beyond), fa_scan_ask(returns - s->time_stride, beyond);
}

/* Streams `first` to before `last`.  Where `ahead` is 0 it is a constant: looked at in the loops they are 10 % slower. */
FA_INLINE void NAME(fa_scan_wide)(fa_scan_rule rule, const int how, const fa_scan *s, ptrdiff_t at, ptrdiff_t first,
                                  ptrdiff_t last, double *carry, double *follow, const ptrdiff_t ahead)
{
    if (fa_scan_downwards(s))
        for (ptrdiff_t k = last - FA_SCAN_WIDE; k >= first; k -= FA_SCAN_WIDE) {
            if (ahead) NAME(fa_scan_asks)(s, at + k, -ahead);
            FA_JOIN(NAME(fa_scan_pair), FA_JOIN(_, FA_SCAN_WIDE))(rule, how, s, at + k, carry + k, follow + k);
        }
    else
        for (ptrdiff_t k = first; k < last; k += FA_SCAN_WIDE) {
            if (ahead) NAME(fa_scan_asks)(s, at + k, ahead);
            FA_JOIN(NAME(fa_scan_pair), FA_JOIN(_, FA_SCAN_WIDE))(rule, how, s, at + k, carry + k, follow + k);
        }
}

FA_INLINE void NAME(fa_scan_pairs)(fa_scan_rule rule, const int how, const fa_scan *w, ptrdiff_t at, ptrdiff_t width,
                                   double *carry, double *follow)
{
    const fa_scan s = *w;
    const ptrdiff_t lead = fa_scan_lead(&s, at, width, sizeof(REAL));
    ptrdiff_t j = 0;
    for (; j < lead; j++)
        FA_JOIN(NAME(fa_scan_pair), _1)(rule, how, &s, at + j, carry + j, follow + j);
    const ptrdiff_t first = j;
    j += (width - j) / FA_SCAN_WIDE * FA_SCAN_WIDE;
    if (fa_scan_ahead)
        NAME(fa_scan_wide)(rule, how, &s, at, first, j, carry, follow, fa_scan_ahead);
    else
        NAME(fa_scan_wide)(rule, how, &s, at, first, j, carry, follow, 0);
    for (; j + FA_SCAN_LANES <= width; j += FA_SCAN_LANES)
        FA_JOIN(NAME(fa_scan_pair), FA_JOIN(_, FA_SCAN_LANES))(rule, how, &s, at + j, carry + j, follow + j);
    for (; j < width; j++)
        FA_JOIN(NAME(fa_scan_pair), _1)(rule, how, &s, at + j, carry + j, follow + j);
}

#include "scan_kept.h"

FA_INLINE void NAME(fa_scan_kept_pairs)(fa_scan_rule rule, const int how, const fa_scan *w, ptrdiff_t at,
                                        ptrdiff_t width, double *carry, double *follow, unsigned char *seen)
{
    const fa_scan s = *w;
    const ptrdiff_t lead = fa_scan_lead(&s, at, width, sizeof(REAL));
    ptrdiff_t j = 0;
    for (; j < lead; j++)
        FA_JOIN(NAME(fa_scan_tile), _1)(rule, how, &s, at + j, 2, carry + j, follow + j, seen + j);
    for (; j + FA_SCAN_LANES <= width; j += FA_SCAN_LANES)
        if (fa_all_flagged(seen + j, FA_SCAN_LANES))
            NAME(fa_scan_kept_pair)(rule, how, 0, &s, at + j, carry + j, follow + j, NULL);
        else if (fa_none_flagged(s.mask + at + j, FA_SCAN_LANES) &&
                 fa_none_flagged(s.mask + at + j - s.time_stride, FA_SCAN_LANES))
            NAME(fa_scan_nothing)(&s, at + j, FA_SCAN_LANES),
                NAME(fa_scan_nothing)(&s, at + j - s.time_stride, FA_SCAN_LANES);
        else
            NAME(fa_scan_kept_pair)(rule, how, 1, &s, at + j, carry + j, follow + j, seen + j);
    for (; j < width; j++)
        FA_JOIN(NAME(fa_scan_tile), _1)(rule, how, &s, at + j, 2, carry + j, follow + j, seen + j);
}

FA_INLINE void NAME(fa_scan_rows)(fa_scan_rule rule, int how, const fa_scan *w, ptrdiff_t at, ptrdiff_t depth,
                                  ptrdiff_t width, double *carry, double *follow, unsigned char *seen)
{
    if (how == FA_CUT)
        NAME(fa_scan_across)(rule, FA_CUT, w, at, depth, width, carry, follow, seen);
    else if (how == FA_MASKED && depth == 2)
        NAME(fa_scan_kept_pairs)(rule, FA_MASKED, w, at, width, carry, follow, seen);
    else if (how == (FA_MASKED | FA_VALUED) && depth == 2)
        NAME(fa_scan_kept_pairs)(rule, FA_MASKED | FA_VALUED, w, at, width, carry, follow, seen);
    else if (how == FA_MASKED)
        NAME(fa_scan_across)(rule, FA_MASKED, w, at, depth, width, carry, follow, seen);
    else if (how == (FA_CUT | FA_MASKED))
        NAME(fa_scan_across)(rule, FA_CUT | FA_MASKED, w, at, depth, width, carry, follow, seen);
    else if (how == (FA_CUT | FA_MASKED | FA_VALUED))
        NAME(fa_scan_across)(rule, FA_CUT | FA_MASKED | FA_VALUED, w, at, depth, width, carry, follow, seen);
    else if (how == (FA_CUT | FA_VALUED))
        NAME(fa_scan_across)(rule, FA_CUT | FA_VALUED, w, at, depth, width, carry, follow, seen);
    else if (how == (FA_MASKED | FA_VALUED))
        NAME(fa_scan_across)(rule, FA_MASKED | FA_VALUED, w, at, depth, width, carry, follow, seen);
    else if (how == FA_FIRST)
        NAME(fa_scan_across)(rule, FA_FIRST, w, at, 1, width, carry, follow, seen);
    else if (how == (FA_FIRST | FA_VALUED))
        NAME(fa_scan_across)(rule, FA_FIRST | FA_VALUED, w, at, 1, width, carry, follow, seen);
    else if (how == FA_PLAIN && depth == 2)
        NAME(fa_scan_pairs)(rule, FA_PLAIN, w, at, width, carry, follow);
    else if (how == FA_PLAIN)
        NAME(fa_scan_across)(rule, FA_PLAIN, w, at, depth, width, carry, follow, seen);
    else if (depth == 2)
        NAME(fa_scan_pairs)(rule, FA_VALUED, w, at, width, carry, follow);
    else
        NAME(fa_scan_across)(rule, FA_VALUED, w, at, depth, width, carry, follow, seen);
}

FA_INLINE void NAME(fa_scan_along)(fa_scan_rule rule, const int valued, const int count, const fa_scan *w,
                                   fa_chain *chains, ptrdiff_t shared)
{
    const REAL *rewards = (const REAL *)w->rewards, *values = (const REAL *)w->values;
    const unsigned char *terminated = w->terminated;
    REAL *out = (REAL *)w->out, *returns = (REAL *)w->returns;
    const double gamma = w->gamma, lam = w->lam;
    double c[FA_SCAN_CHAINS], f[FA_SCAN_CHAINS];
    ptrdiff_t top[FA_SCAN_CHAINS];
    for (int k = 0; k < count; k++) c[k] = chains[k].carry, f[k] = chains[k].follow, top[k] = chains[k].top;
    for (ptrdiff_t i = 0; i < shared; i++)
        for (int k = 0; k < count; k++) {
            const ptrdiff_t t = top[k] - i;
            const double value = valued ? (double)values[t] : 0.0;
            const double going = terminated[t] == 0 ? 1.0 : 0.0;
            c[k] = rule((double)rewards[t], value, f[k], c[k], going, going, gamma, lam);
            f[k] = value;
            out[t] = (REAL)c[k];
            if (valued) returns[t] = (REAL)(c[k] + value);
        }
    for (int k = 0; k < count; k++) {
        chains[k].carry = c[k], chains[k].follow = f[k];
        chains[k].top -= shared, chains[k].left -= shared;
    }
}

FA_INLINE void NAME(fa_scan_chains)(fa_scan_rule rule, const fa_scan *w, fa_chain *chains, int count, ptrdiff_t shared)
{
    if (w->values && count == 1)
        NAME(fa_scan_along)(rule, 1, 1, w, chains, shared);
    else if (w->values)
        NAME(fa_scan_along)(rule, 1, FA_SCAN_CHAINS, w, chains, shared);
    else if (count == 1)
        NAME(fa_scan_along)(rule, 0, 1, w, chains, shared);
    else
        NAME(fa_scan_along)(rule, 0, FA_SCAN_CHAINS, w, chains, shared);
}

#if FA_SCAN_LINE
#include "scan_line.h"
#endif

FA_INLINE void NAME(fa_scan_steps)(fa_scan_rule rule, const fa_scan *w, ptrdiff_t start, ptrdiff_t steps, double factor,
                                   double *carry, double *follow)
{
#if FA_SCAN_LINE
#define FA_ALONG(how) NAME(fa_scan_line)(rule, how, w, start, steps, factor, carry, follow)
    const int reached = w->next_values != NULL, cut = reached || w->truncated;
    if (w->values && reached)
        FA_ALONG(FA_VALUED | FA_CUT | FA_REACHED);
    else if (w->values && cut)
        FA_ALONG(FA_VALUED | FA_CUT);
    else if (w->values)
        FA_ALONG(FA_VALUED);
    else if (reached)
        FA_ALONG(FA_CUT | FA_REACHED);
    else if (cut)
        FA_ALONG(FA_CUT);
    else
        FA_ALONG(FA_PLAIN);
#undef FA_ALONG
#else
    (void)rule, (void)w, (void)start, (void)steps, (void)factor, (void)carry, (void)follow;
#endif
}

FA_INLINE void NAME(fa_scan_picks)(fa_scan_rule rule, const fa_scan *w, ptrdiff_t start, ptrdiff_t steps, double last)
{
    const int cut = w->truncated || w->next_values;
    if (w->values && cut)
        NAME(fa_scan_picked)(rule, FA_VALUED | FA_CUT, w, start, steps, last);
    else if (w->values)
        NAME(fa_scan_picked)(rule, FA_VALUED, w, start, steps, last);
    else if (cut)
        NAME(fa_scan_picked)(rule, FA_CUT, w, start, steps, last);
    else
        NAME(fa_scan_picked)(rule, FA_PLAIN, w, start, steps, last);
}

/* ---- which streams go how, whatever the rule ------------------------------------------------------------------------ */

static FA_UNUSED void NAME(fa_scan_side_by_side)(const fa_scan *w, const fa_scan_loops *loops, int plain)
{
    fa_scan_state state;
    const int valued = w->values ? FA_VALUED : 0;
    for (ptrdiff_t first = 0; first < w->streams; first += FA_SCAN_WIDTH) {
        const ptrdiff_t left = w->streams - first, width = left < FA_SCAN_WIDTH ? left : FA_SCAN_WIDTH;
        const ptrdiff_t deep = width < FA_SCAN_NARROW ? w->steps : 2;
        /* Vectors of what is carried begin where the arrays' do. */
        const ptrdiff_t pad = -fa_scan_lead(w, first, width, sizeof(REAL)) & (FA_SCAN_LANES - 1);
        double *const carry = state.carry + pad, *const follow = state.follow + pad;
        for (ptrdiff_t j = 0; j < width; j++) {
            carry[j] = 0.0, state.seen[j] = 0;
            follow[j] = w->last_values ? (double)((const REAL *)w->last_values)[first + j] : 0.0;
        }
        for (ptrdiff_t t = w->steps - 1, depth; t >= 0; t -= depth) {
            const int first_step = plain && t == w->steps - 1;
            const int how = first_step ? FA_FIRST : fa_scan_how(w);
            depth = first_step ? 1 : deep < t + 1 ? deep : t + 1;
            loops->rows(how | valued, w, t * w->time_stride + first, depth, width, carry, follow, state.seen);
        }
    }
}

/* Streams whose steps are neighbours, plain, shorter than `whole`: as many at once as there are chains, each taking the
 * next stream when its own ends.  The last ones, or a single one, go alone, cut into chains where that is possible. */
static FA_UNUSED void NAME(fa_scan_along_rows)(const fa_scan *w, const fa_scan_loops *loops, ptrdiff_t whole)
{
    const int how = FA_FIRST | (w->values ? FA_VALUED : 0);
    fa_chain chains[FA_SCAN_CHAINS];
    ptrdiff_t next = 0, shared = 0;
    for (int k = 0; k < FA_SCAN_CHAINS; k++) chains[k].left = 0;
    do {
        loops->chains(w, chains, FA_SCAN_CHAINS, shared);
        shared = PTRDIFF_MAX;
        for (int k = 0; k < FA_SCAN_CHAINS; k++) {
            fa_chain *c = chains + k;
            for (; c->left == 0 && next < w->streams; next++) {
                const ptrdiff_t start = fa_scan_begin(w, next), steps = fa_scan_end(w, next) - start;
                if (steps >= whole) continue;
                c->carry = 0.0, c->follow = w->last_values ? (double)((const REAL *)w->last_values)[next] : 0.0;
                c->top = start + steps - 2, c->left = steps ? steps - 1 : 0;
                if (steps) loops->rows(how, w, start + steps - 1, 1, 1, &c->carry, &c->follow, NULL);
                if (steps > FA_SCAN_WORTH)
                    loops->chains(w, c, 1, FA_SCAN_APART * k);
            }
            shared = c->left < shared ? c->left : shared;
        }
    } while (shared);
    for (int k = 0; k < FA_SCAN_CHAINS; k++) {
        fa_chain cut[FA_SCAN_CHAINS] = {chains[k]};
        shared = fa_cut_chain(w->terminated, cut);
        if (shared) loops->chains(w, cut, FA_SCAN_CHAINS, shared);
        for (int j = 0; j < (shared ? FA_SCAN_CHAINS : 1); j++) loops->chains(w, cut + j, 1, cut[j].left);
    }
}

typedef struct {
    FA_ALIGNED REAL rewards[FA_SCAN_TURN * FA_SCAN_LANES], values[FA_SCAN_TURN * FA_SCAN_LANES];
    REAL ahead[FA_SCAN_TURN * FA_SCAN_LANES], out[FA_SCAN_TURN * FA_SCAN_LANES];
    REAL returns[FA_SCAN_TURN * FA_SCAN_LANES];
    unsigned char terminated[FA_SCAN_TURN * FA_SCAN_LANES], truncated[FA_SCAN_TURN * FA_SCAN_LANES];
    unsigned char mask[FA_SCAN_TURN * FA_SCAN_LANES];
} NAME(fa_turned);

static FA_UNUSED void NAME(fa_scan_take)(REAL *to, const void *array, const ptrdiff_t *at, ptrdiff_t steps)
{
    const REAL *from[FA_SCAN_LANES];
    for (int i = 0; i < FA_SCAN_LANES; i++) from[i] = (const REAL *)array + at[i];
    NAME(fa_turn)(to, from, steps);
}

static FA_UNUSED void NAME(fa_scan_take_flags)(unsigned char *to, const unsigned char *array, const ptrdiff_t *at,
                                               ptrdiff_t steps)
{
    const unsigned char *from[FA_SCAN_LANES];
    for (int i = 0; i < FA_SCAN_LANES; i++) from[i] = array + at[i];
    fa_turn_flags(to, from, steps);
}

static FA_UNUSED void NAME(fa_scan_give)(void *array, const REAL *from, const ptrdiff_t *at, ptrdiff_t steps)
{
    REAL *to[FA_SCAN_LANES];
    for (int i = 0; i < FA_SCAN_LANES; i++) to[i] = (REAL *)array + at[i];
    NAME(fa_turn_back)(to, from, steps);
}

/* `steps` steps of FA_SCAN_LANES streams, that of lane i from at[i] on. */
static FA_UNUSED void NAME(fa_scan_turned)(const fa_scan *w, const fa_scan_loops *loops, int how, const ptrdiff_t *at,
                                           ptrdiff_t steps, double *carry, double *follow, unsigned char *seen)
{
    NAME(fa_turned) b;
    fa_scan s = *w;
    s.time_stride = FA_SCAN_LANES, s.stream_stride = 1;
    s.rewards = b.rewards, s.terminated = b.terminated, s.out = b.out, s.returns = b.returns;
    NAME(fa_scan_take)(b.rewards, w->rewards, at, steps);
    NAME(fa_scan_take_flags)(b.terminated, w->terminated, at, steps);
    if (w->values) s.values = b.values, NAME(fa_scan_take)(b.values, w->values, at, steps);
    if (w->next_values) s.next_values = b.ahead, NAME(fa_scan_take)(b.ahead, w->next_values, at, steps);
    else if (w->final_values) s.final_values = b.ahead, NAME(fa_scan_take)(b.ahead, w->final_values, at, steps);
    if (w->truncated) s.truncated = b.truncated, NAME(fa_scan_take_flags)(b.truncated, w->truncated, at, steps);
    if (w->mask) s.mask = b.mask, NAME(fa_scan_take_flags)(b.mask, w->mask, at, steps);
    loops->rows(how, &s, (steps - 1) * FA_SCAN_LANES, steps, FA_SCAN_LANES, carry, follow, seen);
    NAME(fa_scan_give)(w->out, b.out, at, steps);
    if (w->returns) NAME(fa_scan_give)(w->returns, b.returns, at, steps);
}

/* One stream along as many lines as the mask leaves of it. */
static FA_UNUSED void NAME(fa_scan_runs)(const fa_scan *w, const fa_scan_loops *loops, int how, ptrdiff_t start,
                                         ptrdiff_t steps, double last)
{
    double carry = 0.0, follow = last;
    unsigned char seen = 0;
    for (ptrdiff_t top = start + steps, bottom; top > start; top = bottom) {
        bottom = fa_same_below(w->mask, start, top, 0);
        memset((REAL *)w->out + bottom, 0, (size_t)(top - bottom) * sizeof(REAL));
        if (w->returns) memset((REAL *)w->returns + bottom, 0, (size_t)(top - bottom) * sizeof(REAL));
        if (bottom == start) break;
        top = bottom, bottom = fa_same_below(w->mask, start, top, 1);
        if (!seen) loops->rows(how, w, --top, 1, 1, &carry, &follow, &seen);
        loops->line(w, bottom, top - bottom, loops->factor, &carry, &follow);
    }
}

/* Streams whose steps are neighbours, with options, shorter than `whole`: long ones with a mask by themselves, along a
 * line if they may and its runs are long; of others as many as there are lanes at once, each lane taking the next stream
 * when its own ends.  A lane for which there is none does what another does, into the same places. */
static FA_UNUSED void NAME(fa_scan_turned_rows)(const fa_scan *w, const fa_scan_loops *loops, ptrdiff_t whole)
{
    const int how = fa_scan_how(w) | (w->values ? FA_VALUED : 0);
    FA_ALIGNED double carry[FA_SCAN_LANES] = {0}, follow[FA_SCAN_LANES] = {0};
    unsigned char seen[FA_SCAN_LANES] = {0};
    ptrdiff_t start[FA_SCAN_LANES], left[FA_SCAN_LANES] = {0}, at[FA_SCAN_LANES], next = 0;
    const int line = fa_goes_along_a_line(w, loops->factor);
    for (;;) {
        ptrdiff_t steps = FA_SCAN_TURN;
        int active = 0, some = 0;
        for (int i = 0; i < FA_SCAN_LANES; i++) {
            for (; left[i] == 0 && next < w->streams; next++) {
                start[i] = fa_scan_begin(w, next), left[i] = fa_scan_end(w, next) - start[i];
                carry[i] = 0.0, seen[i] = 0;
                follow[i] = w->last_values ? (double)((const REAL *)w->last_values)[next] : 0.0;
                const int alone = w->mask && (left[i] >= FA_SCAN_ALONE || w->streams == 1);
                if (alone && line && fa_has_long_runs(w, start[i], left[i]))
                    NAME(fa_scan_runs)(w, loops, how, start[i], left[i], follow[i]);
                else if (alone)
                    loops->picked(w, start[i], left[i], follow[i]);
                if (alone || left[i] >= whole) left[i] = 0;
            }
            if (left[i] == 0) continue;
            active++, some = i;
            steps = left[i] < steps ? left[i] : steps;
        }
        if (active < 2) break;
        for (int i = 0; i < FA_SCAN_LANES; i++) {
            if (left[i] == 0) carry[i] = carry[some], follow[i] = follow[some], seen[i] = seen[some];
            at[i] = left[i] ? start[i] + left[i] - steps : start[some] + left[some] - steps;
            left[i] -= left[i] && i != some ? steps : 0;
        }
        left[some] -= steps;
        NAME(fa_scan_turned)(w, loops, how, at, steps, carry, follow, seen);
    }
    for (int i = 0; i < FA_SCAN_LANES; i++)
        if (left[i]) loops->rows(how, w, start[i] + left[i] - 1, left[i], 1, carry + i, follow + i, seen + i);
}

static FA_UNUSED void NAME(fa_scan_run)(const fa_scan *w, const fa_scan_loops *loops)
{
    const int plain = w->mask == NULL && w->truncated == NULL && w->next_values == NULL;
    ptrdiff_t whole = PTRDIFF_MAX;
    if (w->time_stride != 1) {
        NAME(fa_scan_side_by_side)(w, loops, plain);
        return;
    }
    if (w->mask == NULL && fa_goes_along_a_line(w, loops->factor)) {
        whole = FA_SCAN_LONG;
        if (w->offsets || w->steps >= whole) loops->line(w, 0, w->streams, loops->factor, NULL, NULL);
        if (!w->offsets && w->steps >= whole) return;
    }
    if (plain)
        NAME(fa_scan_along_rows)(w, loops, whole);
    else
        NAME(fa_scan_turned_rows)(w, loops, whole);
}

#undef REAL
#undef NAME
