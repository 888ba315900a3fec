/* Whether the environment names another backend than this extension: asked at every call. */
#ifndef FASTALIGN_ASKED_H
#define FASTALIGN_ASKED_H

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define FA_ASKED "FASTALIGN_BACKEND"

static int fa_asked_now(int *absent)
{
    const char *asked = getenv(FA_ASKED);
    *absent = asked == NULL;
    return asked != NULL && asked[0] != 0 && strcmp(asked, "cython") != 0;
}

#if defined(__linux__)
/* getenv walks the whole environment: 35 ns of a call of 800.  A variable that is not there appears at the end, in the
 * place of NULL, with the C libraries of Linux: while the list, its length and its last entry are those that were seen
 * without it, it is not there. */
extern char **environ;

static int fa_asked_elsewhere(void)
{
    static char **seen = NULL, *last = NULL;
    static ptrdiff_t count = 0;
    char **const list = environ;
    if (list != NULL && list == seen && list[count] == NULL && list[count - 1] == last &&
        strncmp(last, FA_ASKED "=", sizeof FA_ASKED) != 0)
        return 0;
    int absent;
    const int elsewhere = fa_asked_now(&absent);
    seen = NULL;
    if (absent && list != NULL && list[0] != NULL) {
        for (count = 1; list[count] != NULL; count++) continue;
        seen = list;
        last = list[count - 1];
    }
    return elsewhere;
}
#else
static int fa_asked_elsewhere(void)
{
    int absent;
    return fa_asked_now(&absent);
}
#endif

#endif
