/* Whether the environment names another backend than this extension: asked at every call. */
#ifndef FASTALIGN_ASKED_H
#define FASTALIGN_ASKED_H

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define FA_ASKED "FASTALIGN_BACKEND"

#if defined(__linux__)
/* As getenv, in 13 ns for its 18, of 35 variables.  In 2 ns one could see that the list, its length and its last entry
 * are those without the variable, but glibc gives a value that was there before its old place again: the last variable
 * deleted and another, this one set and the last one again, and all three are the same. */
extern char **environ;

static const char *fa_asked_for(void)
{
    for (char **entry = environ; entry != NULL && *entry != NULL; entry++)
        if ((*entry)[0] == FA_ASKED[0] && strncmp(*entry, FA_ASKED "=", sizeof FA_ASKED) == 0)
            return *entry + sizeof FA_ASKED;
    return NULL;
}
#else
static const char *fa_asked_for(void)
{
    return getenv(FA_ASKED);
}
#endif

static int fa_asked_elsewhere(void)
{
    const char *asked = fa_asked_for();
    return asked != NULL && asked[0] != 0 && strcmp(asked, "cython") != 0;
}

#endif
