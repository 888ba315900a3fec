/* Threads that take parts of one loop after the other, without Python: its lock, held by others, would keep them out.
 *
 * a) The caller works too; idle workers sleep on a condition.  A part is given to whoever is free, so that a thread
 *    that wakes late, or whose processor is busy, holds up no more than one of them.
 * b) One loop at a time is shared: a second caller walks its own alone.
 * c) Workers are kept off the caller's processor, unless it may use no other: a system may wake one there and leave it
 *    until the caller, busy with the first part, is done.  64 x 32,000 logits by two Python threads: 271 us so, 240 by
 *    one thread, 203 kept off.
 * d) The caller waits for the last parts awake for a while: to be woken up takes as long as a part.
 * e) A fork leaves the child without workers: it starts afresh.  Workers take no signals but those of their own
 *    faults, which faulthandler reports.
 */
#ifndef FASTALIGN_SHARE_H
#define FASTALIGN_SHARE_H

#include <stddef.h>

/* Items a to b of the loop. */
typedef void (*fa_part)(void *loop, ptrdiff_t a, ptrdiff_t b);

#if defined(__GNUC__) && !defined(_WIN32)
#ifdef __linux__
#include <sched.h>
#endif
#include <pthread.h>
#include <signal.h>
#include <string.h>

#define FA_SHARES 1
#define FA_STACK (1 << 20) /* bytes; loops have up to 130 KB of their own, some systems' threads no more */
#define FA_PARTS 16 /* per thread */
#define FA_AWAKE 5000 /* pauses, some 10 to 40 ns each */

typedef struct {
    fa_part part;
    void *loop;
    ptrdiff_t n, grain, parts, next; /* next: the first part that nobody has taken */
} fa_shared;

static struct {
    pthread_mutex_t sharing, state; /* who shares; all below */
    pthread_cond_t work, done;
    fa_shared *shared;
    long round;           /* of the loop that is shared */
    int workers, wanted;  /* threads there are; how many more the loop takes */
    int busy;             /* workers within the loop */
#ifdef __linux__
    cpu_set_t allowed; /* the caller's processors, */
    int here, placed;  /* and its own, when so many workers were placed */
    pthread_t worker[256];
#endif
} fa_pool = {.sharing = PTHREAD_MUTEX_INITIALIZER, .state = PTHREAD_MUTEX_INITIALIZER,
             .work = PTHREAD_COND_INITIALIZER, .done = PTHREAD_COND_INITIALIZER};

static void fa_take_parts(fa_shared *s)
{
    for (;;) {
        const ptrdiff_t k = __atomic_fetch_add(&s->next, 1, __ATOMIC_RELAXED), grains = (s->n - 1) / s->grain + 1;
        if (k >= s->parts) return;
        const ptrdiff_t a = grains * k / s->parts * s->grain, b = grains * (k + 1) / s->parts * s->grain;
        s->part(s->loop, a, b < s->n ? b : s->n);
    }
}

static void *fa_worker(void *unused)
{
    long seen = 0;
    (void)unused;
    pthread_mutex_lock(&fa_pool.state);
    for (;;) {
        while (fa_pool.round == seen || !fa_pool.wanted) pthread_cond_wait(&fa_pool.work, &fa_pool.state);
        seen = fa_pool.round;
        fa_pool.wanted--;
        __atomic_add_fetch(&fa_pool.busy, 1, __ATOMIC_RELAXED); /* the caller looks without the lock */
        fa_shared *const shared = fa_pool.shared;
        pthread_mutex_unlock(&fa_pool.state);
        fa_take_parts(shared);
        pthread_mutex_lock(&fa_pool.state);
        if (__atomic_sub_fetch(&fa_pool.busy, 1, __ATOMIC_RELEASE) == 0) pthread_cond_signal(&fa_pool.done);
    }
    return NULL;
}

static void fa_after_fork(void)
{
    memset(&fa_pool, 0, sizeof fa_pool);
    pthread_mutex_init(&fa_pool.sharing, NULL);
    pthread_mutex_init(&fa_pool.state, NULL);
    pthread_cond_init(&fa_pool.work, NULL);
    pthread_cond_init(&fa_pool.done, NULL);
}

/* As many workers as asked for, or as the system grants. */
static void fa_hire(int count)
{
    static int prepared; /* a child inherits the handler */
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    sigset_t all, before;
    pthread_attr_t how;
    if (count > 255) count = 255;
    if (fa_pool.workers >= count) return;
    if (!prepared) prepared = pthread_atfork(NULL, NULL, fa_after_fork) == 0;
    if (pthread_attr_init(&how)) return;
    pthread_attr_setstacksize(&how, FA_STACK);
    pthread_attr_setdetachstate(&how, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    for (size_t k = 0; k < sizeof faults / sizeof *faults; k++) sigdelset(&all, faults[k]);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (prepared && fa_pool.workers < count) {
        pthread_t thread;
        if (pthread_create(&thread, &how, fa_worker, NULL)) break;
#ifdef __linux__
        pthread_setname_np(thread, "fastalign");
        fa_pool.worker[fa_pool.workers] = thread;
#endif
        fa_pool.workers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&how);
}

static void fa_place(void)
{
#ifdef __linux__
    cpu_set_t allowed;
    const int here = sched_getcpu();
    if (here < 0 || here >= CPU_SETSIZE || sched_getaffinity(0, sizeof allowed, &allowed)) return;
    if (fa_pool.placed == fa_pool.workers && fa_pool.here == here && CPU_EQUAL(&allowed, &fa_pool.allowed)) return;
    fa_pool.placed = fa_pool.workers;
    fa_pool.here = here;
    fa_pool.allowed = allowed;
    if (CPU_COUNT(&allowed) > 1) CPU_CLR(here, &allowed);
    for (int k = 0; k < fa_pool.workers; k++)
        pthread_setaffinity_np(fa_pool.worker[k], sizeof allowed, &allowed);
#endif
}

/* The whole loop, cut at multiples of ``grain``, by up to ``threads`` threads; when this returns all is done. */
static void fa_share(fa_part part, void *loop, ptrdiff_t n, ptrdiff_t grain, int threads)
{
    if (n <= 0) return;
    const ptrdiff_t grains = (n - 1) / grain + 1, most = (ptrdiff_t)threads * FA_PARTS;
    fa_shared shared = {part, loop, n, grain, grains < most ? grains : most, 0};
    if (threads < 2 || grains < 2 || pthread_mutex_trylock(&fa_pool.sharing)) {
        part(loop, 0, n);
        return;
    }
    pthread_mutex_lock(&fa_pool.state);
    fa_hire(threads - 1);
    fa_place();
    fa_pool.shared = &shared;
    const int wanted = fa_pool.wanted = threads < grains ? threads - 1 : (int)(grains - 1);
    fa_pool.round++;
    pthread_mutex_unlock(&fa_pool.state);
    for (int k = 0; k < wanted; k++) pthread_cond_signal(&fa_pool.work);
    fa_take_parts(&shared);
    for (int k = 0; k < FA_AWAKE && __atomic_load_n(&fa_pool.busy, __ATOMIC_ACQUIRE); k++) {
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#endif
    }
    pthread_mutex_lock(&fa_pool.state);
    fa_pool.wanted = 0; /* who wakes up now finds nothing */
    while (fa_pool.busy) pthread_cond_wait(&fa_pool.done, &fa_pool.state);
    pthread_mutex_unlock(&fa_pool.state);
    pthread_mutex_unlock(&fa_pool.sharing);
}

#else /* no threads of ours: fastalign/threads.py has some */
#define FA_SHARES 0

static void fa_share(fa_part part, void *loop, ptrdiff_t n, ptrdiff_t grain, int threads)
{
    (void)grain, (void)threads;
    if (n > 0) part(loop, 0, n);
}
#endif

#endif
