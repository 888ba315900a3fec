/* The rules in C, in double and in float, and the table of the pointwise kinds. */
#ifndef FASTALIGN_RULES_H
#define FASTALIGN_RULES_H

#include <stddef.h>

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

static const fa_kind fa_kinds[] = {
#include "rules_table.h"
    {0, 0, 0, 0, 0, 0, 0, 0},
};

static FA_UNUSED const fa_kind *fa_find(const char *family, const char *kind)
{
    for (const fa_kind *it = fa_kinds; it->family; it++)
        if (strcmp(it->family, family) == 0 && strcmp(it->kind, kind) == 0) return it;
    return 0;
}

#endif
