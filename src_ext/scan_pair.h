/* Two plain steps of LANES neighbouring streams; included by scan_body.h for one, for a vector and for two of them.
 *
 * All is read before anything is written: arrays that begin at the same place of their pages, as large ones do, or a
 * few bytes apart, as small ones do, have loads wait for stores to the same place of another page.  24 x 4096 float32,
 * out and returns 16 bytes before and 32 after values: 39 us (AVX2 42), one vector at a time 50 (47).
 */

/* A vector, or two: a loop over them keeps gcc 12 from holding them in registers (24 x 4096: 38.5 us, so 36). */
#define PART (LANES < FA_SCAN_LANES ? LANES : FA_SCAN_LANES)
#define EACH(call)                                                                                                     \
    do {                                                                                                               \
        enum { here = 0 };                                                                                             \
        call;                                                                                                          \
        if (LANES > PART) {                                                                                            \
            enum { here = LANES - PART };                                                                              \
            call;                                                                                                      \
        }                                                                                                              \
    } while (0)
#define PAIR FA_JOIN(NAME(fa_scan_pair), FA_JOIN(_, LANES))

FA_INLINE void PAIR(fa_scan_rule rule, const int how, const fa_scan *s, ptrdiff_t at, double *carry, double *follow)
{
    FA_ALIGNED double r[LANES], v[LANES], c[LANES], f[LANES], y[LANES], q[LANES], p[LANES];
    FA_ALIGNED double r_too[LANES], v_too[LANES], after[LANES], trace[LANES];
    const ptrdiff_t too = at - s->time_stride;
    EACH(fa_lanes_from_double(c + here, carry + here, PART));
    EACH(fa_lanes_from_double(f + here, follow + here, PART));
    for (int i = 0; i < LANES; i++) v[i] = v_too[i] = 0.0;
    EACH(NAME(fa_lanes_from)(r + here, (const REAL *)s->rewards + at + here, PART));
    EACH(NAME(fa_lanes_from)(r_too + here, (const REAL *)s->rewards + too + here, PART));
    if (how & FA_VALUED) {
        EACH(NAME(fa_lanes_from)(v + here, (const REAL *)s->values + at + here, PART));
        EACH(NAME(fa_lanes_from)(v_too + here, (const REAL *)s->values + too + here, PART));
    }
    EACH(fa_shut_lanes(f + here, c + here, s->terminated + at + here, PART));
    FA_SCAN_SIMD
    for (int i = 0; i < LANES; i++) {
        y[i] = rule(r[i], v[i], f[i], c[i], 1.0, 1.0, s->gamma, s->lam);
        q[i] = y[i] + v[i];
    }
    for (int i = 0; i < LANES; i++) after[i] = v[i], trace[i] = y[i];
    EACH(fa_shut_lanes(after + here, trace + here, s->terminated + too + here, PART));
    FA_SCAN_SIMD
    for (int i = 0; i < LANES; i++) {
        c[i] = rule(r_too[i], v_too[i], after[i], trace[i], 1.0, 1.0, s->gamma, s->lam);
        p[i] = c[i] + v_too[i];
    }
    EACH(NAME(fa_lanes_to)((REAL *)s->out + at + here, y + here, PART));
    if (how & FA_VALUED) EACH(NAME(fa_lanes_to)((REAL *)s->returns + at + here, q + here, PART));
    EACH(NAME(fa_lanes_to)((REAL *)s->out + too + here, c + here, PART));
    if (how & FA_VALUED) EACH(NAME(fa_lanes_to)((REAL *)s->returns + too + here, p + here, PART));
    EACH(fa_lanes_to_double(carry + here, c + here, PART));
    EACH(fa_lanes_to_double(follow + here, v_too + here, PART));
}

#undef LANES
#undef PAIR
#undef PART
#undef EACH
