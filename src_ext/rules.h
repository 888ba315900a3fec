/* The rules in C, in double and in float, and the table of the pointwise kinds. */
#ifndef FASTALIGN_RULES_H
#define FASTALIGN_RULES_H

#include <stddef.h>

/* What gcc 12 knows of a clamp's bounds becomes branches, then masks: without these two passes PPO's loop in float is 62
 * vector instructions, with them 87 (0.95 and 1.16 ns per element). */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC optimize("no-thread-jumps", "no-tree-pre")
#endif

#include "pointwise.h"

#define REAL double
#define NAME(stem) stem##_double
#define MATH(function) fa_##function
#include "rules_body.h"
#undef REAL
#undef NAME
#undef MATH

#define REAL float
#define NAME(stem) stem##_single
#define MATH(function) fa_##function##_single
#include "rules_body.h"
#undef REAL
#undef NAME
#undef MATH

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
