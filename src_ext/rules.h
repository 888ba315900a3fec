/* The rules in C, in double and in float, and the table of the pointwise kinds. */
#ifndef FASTALIGN_RULES_H
#define FASTALIGN_RULES_H

#include <stddef.h>

/* a) What gcc 12 knows of a clamp's bounds becomes branches, then masks: unless the first two passes are off, PPO's
 *    loop in float is 87 vector instructions instead of 62 (1.16 and 0.95 ns per element).
 * b) A loop waits for the chain of one vector's operations (90 cycles): a scheduler of 64 does not reach the next
 *    one's.  So several vectors are worked at side by side, in the order of their chains.  gcc takes as many elements
 *    at once as the narrowest number in a loop has lanes: FA_BESIDE is a short, of no other use.  2^20 elements, ns per
 *    element, PPO in float and double, DPO in float and double, plain; in order; with a short; both:
 *    AVX2   1.26 2.86 1.63 4.46   1.27 2.88 1.42 4.07   1.34 2.61 1.61 4.12   0.94 2.12 1.38 3.77
 *    SSE2   2.93 6.68 3.48 11.2   2.76 6.60 3.60 10.9                         2.07 4.97 3.19 7.78
 *    With a short AVX-512 is slower: 0.91 2.04 1.32 3.4 for 0.70 1.95 1.12 3.1.
 * c) AVX-512 has the registers to write the loops out twice: the inner one, which of a long rule gcc does not, so that
 *    the tallies stay in registers; the outer one, so that there is more to put in between.  As above: 0.63 1.72 1.13
 *    2.93; the inner one 0.62 1.71 1.12 2.88; both 0.59 1.50 1.07 2.70; the outer one four times 0.61 1.53 1.09 2.90.
 *    Instead, 8 lanes in double, plain 1.63 2.85, twice 1.59 2.74; 32 lanes 1.90 3.3 for 1.95 3.1; put in order for
 *    more registers than there are, 9 and 2 % slower in double; selective scheduling and Zen 3's no better.  With AVX2
 *    the outer one makes DPO in float 7 % faster, the reward loss in float 15 % slower.
 * d) clang takes one vector after the other, its tallies in memory; FA_BY_TURNS has it take several.  4,096 elements,
 *    an EPYC of 2017, ns per element, PPO in float and double, DPO in float and double, plain; so; by gcc:
 *    AVX2   2.60 6.79 3.52 9.80   2.52 6.18 3.42 9.38   2.03 5.11 3.07 8.69
 *    SSE2   3.44 11.9 4.66 21.2   2.74 7.86 4.42 11.1   3.01 7.46 4.05 10.9
 *    Four with AVX2, too: DPO in double 9.2, KL 4.5 for 4.1.  What is left beside exponentials computed ahead, too: PPO
 *    in float 3.11 with SSE2, the reward loss 3.46 for 3.64.
 * e) Tallies that go on are copied by vectors, where gcc would make a memcpy by half of one: 7 ns less of a small call.
 */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC optimize("no-thread-jumps", "no-tree-pre", "schedule-insns", "sched-pressure", \
                     "no-tree-loop-distribute-patterns")
#endif

#if defined(__GNUC__) && !defined(__clang__) && !defined(__AVX512F__)
#define FA_BESIDE(statement) statement
#else
#define FA_BESIDE(statement)
#endif

#if defined(__GNUC__) && !defined(__clang__) && defined(__AVX512F__)
#define FA_TWICE _Pragma("GCC unroll 2")
#else
#define FA_TWICE
#endif

#if !defined(__clang__)
#define FA_BY_TURNS
#elif defined(__AVX2__)
#define FA_BY_TURNS _Pragma("clang loop interleave_count(2)")
#else
#define FA_BY_TURNS _Pragma("clang loop interleave_count(4)")
#endif

/* Whether a loop over so many arrays computes its next lanes' exponentials beside what is left of these (ahead_, cut.py):
 * two chains of half the length.  4,096 elements, ns per element, so and in one: reward loss in double and float, PPO,
 * DPO: AVX-512 1.70 and 1.77, 0.60 and 0.62, 1.10 and 1.35, 0.49 and 0.55, DPO no gain, 3 % slower from memory, for it
 * reads its four inputs twice; AVX2 2.3 and 2.8, 0.77 and 0.86, 1.70 and 1.90, 0.63 and 0.77, 2.9 and 3.1, 1.05 and 1.12;
 * SSE2 in double 5 to 40 % slower, in float 10 to 20 % faster.  With AVX2 and FA_BESIDE up to 10 % slower.
 * In two loops, by way of a buffer: as good or better from L1 (AVX-512 PPO in float 0.43), but from memory 25 % slower:
 * one loop then waits for memory, and the other one does not read ahead.  In turns of 32 to 128 elements, in between.
 * The inputs kept in registers as well: PPO 15 to 60 % slower. */
#if defined(__AVX512F__)
#define FA_AHEAD(streams, real) ((streams) < 8)
#elif defined(__AVX2__)
#define FA_AHEAD(streams, real) 1
#else
#define FA_AHEAD(streams, real) (sizeof(real) == sizeof(float))
#endif

#define FA_RESUMED (sizeof(REAL) == sizeof(double)) /* pointwise.h, e */

/* In an ahead_ loop over eight arrays and more tallies run in FA_PART lanes, which take their turns (FA_PARTS): with AVX2
 * in double all of them are in memory, and what is read and stored of them is half of it so: DPO 2.83 to 2.65 ns per
 * element, from memory 3.5 to 3.3; in float 0.96 to 1.01; PPO 1.56 to 1.64, in float 0.62 to 0.59.  Folded from all lanes
 * after each step PPO takes 1.8 to 2.3: gcc keeps what is folded in memory.  One set of exponentials, overwritten once it
 * was read: PPO 1.66, DPO 3.0, reward loss in float 0.97 for 0.76. */
#if defined(__AVX2__) && !defined(__AVX512F__) && defined(__GNUC__)
#define FA_PART (FA_LANES / 2)
#define FA_PARTS(at) _Pragma("GCC unroll 2") for (int at = 0; at < FA_LANES; at += FA_PART)
#else
#define FA_PART FA_LANES
#define FA_PARTS(at) enum { at = 0 };
#endif

#include "pointwise.h"

#define REAL double
#define NAME(stem) stem##_double
#define MATH(function) fa_##function
#include "rules_body.h"
#undef REAL
#undef NAME
#undef MATH
#undef FA_PART
#undef FA_PARTS
#define FA_PART FA_LANES
#define FA_PARTS(at) enum { at = 0 };

#define REAL float
#define NAME(stem) stem##_single
#define MATH(function) fa_##function##_single
#include "rules_body.h"
#undef REAL
#undef NAME
#undef MATH
#undef FA_PART
#undef FA_PARTS

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC pop_options
#endif

static const fa_kind fa_kinds[] = {
#include "rules_table.h"
    {0, 0, 0, 0, 0, 0, 0, 0, 0},
};

static FA_UNUSED const fa_kind *fa_find(const char *family, const char *kind)
{
    for (const fa_kind *it = fa_kinds; it->family; it++)
        if (strcmp(it->family, family) == 0 && strcmp(it->kind, kind) == 0) return it;
    return 0;
}

#endif
