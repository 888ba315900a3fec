"""The shapes, compiled for one instruction set.  Arrays arrive checked; nothing is allocated or returned."""

cimport cython
cimport numpy as cnp
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_AsUTF8
from libc.math cimport INFINITY, NAN, exp, fabs, isfinite
from libc.stddef cimport ptrdiff_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from numpy import may_share_memory

from fastalign import arrays
from fastalign import threads as pool

cnp.import_array()

cdef extern from "rules.h" nogil:
    enum:
        FA_BLOCK
        FA_INPUTS
        FA_LANES
        FA_RESULTS
        FA_TILE
        FA_PARAMS
    ctypedef void (*fa_one)(const double *x, const double *p, double *y) noexcept nogil
    ctypedef struct fa_kind:
        fa_one one
        int inputs, outputs, sums, peaks
    ctypedef struct fa_pointwise:
        const fa_kind *kind
        int single, wide
        const void *in_ "in"[FA_INPUTS]
        const unsigned char *mask
        void *out[FA_RESULTS]
        double p[FA_PARAMS]
    const fa_kind *fa_find(const char *family, const char *kind) noexcept
    void fa_pointwise_run(const fa_pointwise *work, Py_ssize_t n, double *partials) noexcept
    ctypedef struct fa_buffers_double:
        double x[FA_INPUTS][FA_TILE]
        double y[FA_RESULTS][FA_TILE]
    void fa_clear(const fa_kind *kind, double (*lanes)[FA_LANES]) noexcept
    void fa_fold(const fa_kind *kind, double (*lanes)[FA_LANES], double *tallies) noexcept
    void fa_buffered_double(const fa_pointwise *work, fa_buffers_double *given, Py_ssize_t n,
                            double (*lanes)[FA_LANES]) noexcept
    double fa_peak(double a, double b) noexcept
    bint fa_single_holds(const double *p, int n) noexcept
    ptrdiff_t fa_kept(const unsigned char *mask, ptrdiff_t n) noexcept
    void fa_masks_begin() noexcept

cdef extern from "share.h" nogil:
    enum:
        FA_SHARES
    ctypedef void (*fa_part)(void *loop, ptrdiff_t a, ptrdiff_t b) noexcept nogil
    void fa_share(fa_part part, void *loop, ptrdiff_t n, ptrdiff_t grain, int threads) noexcept

cdef extern from "vecmath.h" nogil:
    double fa_exp(double x) noexcept
    double fa_expm1(double x) noexcept
    double fa_log(double x) noexcept
    double fa_log1p(double x) noexcept
    double fa_exp_of_minus(double x) noexcept
    double fa_log1p_unit(double x) noexcept
    float fa_exp_single(float x) noexcept
    float fa_expm1_single(float x) noexcept
    float fa_log_single(float x) noexcept
    float fa_log1p_single(float x) noexcept
    float fa_exp_of_minus_single(float x) noexcept
    float fa_log1p_unit_single(float x) noexcept

cdef extern from "rows.h" nogil:
    void fa_row_begin() noexcept
    enum:
        FA_ENTROPY
        FA_MOMENTS
        FA_ROW_CUT
        FA_ROW_STREAM
        FA_BRIEF
        FA_SLIM_ROWS
        FA_BENT
        FA_NANS
    ctypedef struct fa_row:
        double peak, total, weighted, squares, linear, top
        int sound
    ctypedef struct fa_slim:
        double peak[FA_SLIM_ROWS]
        double total[FA_SLIM_ROWS]
        double rest[FA_SLIM_ROWS]
        double weighted[FA_SLIM_ROWS]
        double squares[FA_SLIM_ROWS]
        double linear[FA_SLIM_ROWS]
        unsigned char sound[FA_SLIM_ROWS]
        unsigned char settled
    ctypedef struct fa_slopes:
        double peak[FA_SLIM_ROWS]
        double rest[FA_SLIM_ROWS]
        double a[FA_SLIM_ROWS]
        double b[FA_SLIM_ROWS]
        double c[FA_SLIM_ROWS]
        double d[FA_SLIM_ROWS]
        double own[FA_SLIM_ROWS]
        long long token[FA_SLIM_ROWS]
        unsigned char fate[FA_SLIM_ROWS]
    bint fa_is_many(Py_ssize_t n, double scale) noexcept
    void fa_slope_none(fa_slopes *all, Py_ssize_t lane) noexcept
    void fa_drain() noexcept
    fa_row fa_row_merge(fa_row a, fa_row b, double scale) noexcept
    double fa_product(double a, double b) noexcept
    double fa_row_rest(double total) noexcept
    fa_row fa_row_state_float(const float *x, Py_ssize_t n, double scale, int want) noexcept
    fa_row fa_row_part_float(const float *x, Py_ssize_t n, double scale, int want) noexcept
    int fa_row_hit_float(const float *x, Py_ssize_t at, double top) noexcept
    void fa_row_bends_float(const float *x, Py_ssize_t n, double scale, double peak, double rest, double a,
                          double b, double c, double d, float *out, bint stream) noexcept
    fa_row fa_row_state_double(const double *x, Py_ssize_t n, double scale, int want) noexcept
    fa_row fa_row_part_double(const double *x, Py_ssize_t n, double scale, int want) noexcept
    int fa_row_hit_double(const double *x, Py_ssize_t at, double top) noexcept
    void fa_row_bends_double(const double *x, Py_ssize_t n, double scale, double peak, double rest, double a,
                          double b, double c, double d, double *out, bint stream) noexcept
    fa_row fa_row_state_f16(const unsigned short *x, Py_ssize_t n, double scale, int want) noexcept
    fa_row fa_row_part_f16(const unsigned short *x, Py_ssize_t n, double scale, int want) noexcept
    int fa_row_hit_f16(const unsigned short *x, Py_ssize_t at, double top) noexcept
    void fa_row_bends_f16(const unsigned short *x, Py_ssize_t n, double scale, double peak, double rest, double a,
                          double b, double c, double d, unsigned short *out, bint stream) noexcept
    fa_row fa_row_state_bf16(const unsigned short *x, Py_ssize_t n, double scale, int want) noexcept
    fa_row fa_row_part_bf16(const unsigned short *x, Py_ssize_t n, double scale, int want) noexcept
    int fa_row_hit_bf16(const unsigned short *x, Py_ssize_t at, double top) noexcept
    void fa_row_bends_bf16(const unsigned short *x, Py_ssize_t n, double scale, double peak, double rest, double a,
                          double b, double c, double d, unsigned short *out, bint stream) noexcept
    void fa_many_states_float(const float *x, Py_ssize_t n, Py_ssize_t far, Py_ssize_t rows, double scale, int want,
                            fa_slim *many) noexcept
    void fa_many_settle_float(fa_slim *many, Py_ssize_t lane, const float *x, Py_ssize_t n, double scale,
                           int want) noexcept
    bint fa_is_brief_float(Py_ssize_t n, double scale) noexcept
    void fa_many_back_float(const float *x, Py_ssize_t n, Py_ssize_t far, Py_ssize_t rows, double scale, fa_slopes *all,
                          float *out, Py_ssize_t apart) noexcept
    bint fa_takes_again_float(Py_ssize_t n) noexcept
    void fa_many_bends_float(const float *x, Py_ssize_t n, Py_ssize_t far, Py_ssize_t rows, double scale, int curved,
                           fa_slopes *all, float *out, Py_ssize_t apart) noexcept
    void fa_many_states_double(const double *x, Py_ssize_t n, Py_ssize_t far, Py_ssize_t rows, double scale, int want,
                            fa_slim *many) noexcept
    void fa_many_settle_double(fa_slim *many, Py_ssize_t lane, const double *x, Py_ssize_t n, double scale,
                           int want) noexcept
    bint fa_is_brief_double(Py_ssize_t n, double scale) noexcept
    void fa_many_back_double(const double *x, Py_ssize_t n, Py_ssize_t far, Py_ssize_t rows, double scale, fa_slopes *all,
                          double *out, Py_ssize_t apart) noexcept
    bint fa_takes_again_double(Py_ssize_t n) noexcept
    void fa_many_bends_double(const double *x, Py_ssize_t n, Py_ssize_t far, Py_ssize_t rows, double scale, int curved,
                           fa_slopes *all, double *out, Py_ssize_t apart) noexcept
    void fa_many_states_f16(const unsigned short *x, Py_ssize_t n, Py_ssize_t far, Py_ssize_t rows, double scale, int want,
                            fa_slim *many) noexcept
    void fa_many_settle_f16(fa_slim *many, Py_ssize_t lane, const unsigned short *x, Py_ssize_t n, double scale,
                           int want) noexcept
    bint fa_is_brief_f16(Py_ssize_t n, double scale) noexcept
    void fa_many_back_f16(const unsigned short *x, Py_ssize_t n, Py_ssize_t far, Py_ssize_t rows, double scale, fa_slopes *all,
                          unsigned short *out, Py_ssize_t apart) noexcept
    bint fa_takes_again_f16(Py_ssize_t n) noexcept
    void fa_many_bends_f16(const unsigned short *x, Py_ssize_t n, Py_ssize_t far, Py_ssize_t rows, double scale, int curved,
                           fa_slopes *all, unsigned short *out, Py_ssize_t apart) noexcept
    void fa_many_states_bf16(const unsigned short *x, Py_ssize_t n, Py_ssize_t far, Py_ssize_t rows, double scale, int want,
                            fa_slim *many) noexcept
    void fa_many_settle_bf16(fa_slim *many, Py_ssize_t lane, const unsigned short *x, Py_ssize_t n, double scale,
                           int want) noexcept
    bint fa_is_brief_bf16(Py_ssize_t n, double scale) noexcept
    void fa_many_back_bf16(const unsigned short *x, Py_ssize_t n, Py_ssize_t far, Py_ssize_t rows, double scale, fa_slopes *all,
                          unsigned short *out, Py_ssize_t apart) noexcept
    bint fa_takes_again_bf16(Py_ssize_t n) noexcept
    void fa_many_bends_bf16(const unsigned short *x, Py_ssize_t n, Py_ssize_t far, Py_ssize_t rows, double scale, int curved,
                           fa_slopes *all, unsigned short *out, Py_ssize_t apart) noexcept
    void fa_row_powers_float(const float *t, ptrdiff_t n, float *out) noexcept
    void fa_row_powers_double(const double *t, ptrdiff_t n, double *out) noexcept
    double fa_get_float(const float *x, Py_ssize_t i) noexcept
    double fa_get_double(const double *x, Py_ssize_t i) noexcept
    double fa_get_f16(const unsigned short *x, Py_ssize_t i) noexcept
    double fa_get_bf16(const unsigned short *x, Py_ssize_t i) noexcept
    void fa_put_float(float *x, Py_ssize_t i, double value) noexcept
    void fa_put_double(double *x, Py_ssize_t i, double value) noexcept
    void fa_put_f16(unsigned short *x, Py_ssize_t i, double value) noexcept
    void fa_put_bf16(unsigned short *x, Py_ssize_t i, double value) noexcept
    ctypedef struct fa_spans:
        int count
        Py_ssize_t end
    fa_row fa_row_keep_float(const float *x, Py_ssize_t n, double scale, int want, float *e, fa_spans *kept) noexcept
    fa_row fa_row_keep_double(const double *x, Py_ssize_t n, double scale, int want, double *e, fa_spans *kept) noexcept
    fa_row fa_row_keep_f16(const unsigned short *x, Py_ssize_t n, double scale, int want, unsigned short *e,
                           fa_spans *kept) noexcept
    fa_row fa_row_keep_bf16(const unsigned short *x, Py_ssize_t n, double scale, int want, unsigned short *e,
                            fa_spans *kept) noexcept
    void fa_row_give_float(const float *x, Py_ssize_t n, double scale, const fa_row *row, double rest, double chosen,
                           Py_ssize_t token, double a, double b, double own, const fa_spans *kept,
                           const float *e, float *out, bint stream) noexcept
    void fa_row_give_double(const double *x, Py_ssize_t n, double scale, const fa_row *row, double rest, double chosen,
                            Py_ssize_t token, double a, double b, double own, const fa_spans *kept,
                            const double *e, double *out, bint stream) noexcept
    void fa_row_give_f16(const unsigned short *x, Py_ssize_t n, double scale, const fa_row *row, double rest, double chosen,
                         Py_ssize_t token, double a, double b, double own, const fa_spans *kept,
                         const unsigned short *e, unsigned short *out, bint stream) noexcept
    void fa_row_give_bf16(const unsigned short *x, Py_ssize_t n, double scale, const fa_row *row, double rest, double chosen,
                          Py_ssize_t token, double a, double b, double own, const fa_spans *kept,
                          const unsigned short *e, unsigned short *out, bint stream) noexcept

cdef extern from "scan.h" nogil:
    ctypedef struct fa_scan:
        const void *rewards
        const void *values
        const void *next_values
        const void *final_values
        const void *last_values
        const unsigned char *terminated
        const unsigned char *truncated
        const unsigned char *mask
        void *out
        void *returns
        double gamma, lam
        ptrdiff_t steps, streams, time_stride, stream_stride
        const long long *offsets
    ctypedef struct fa_chain:
        pass
    ctypedef struct fa_scan_loops:
        void (*rows)(int how, const fa_scan *w, ptrdiff_t at, ptrdiff_t depth, ptrdiff_t width, double *carry,
                     double *follow, unsigned char *seen) noexcept nogil
        void (*chains)(const fa_scan *w, fa_chain *chains, int count, ptrdiff_t shared) noexcept nogil
        void (*line)(const fa_scan *w, ptrdiff_t start, ptrdiff_t steps, double factor, double *carry,
                     double *follow) noexcept nogil
        void (*picked)(const fa_scan *w, ptrdiff_t start, ptrdiff_t steps, double last) noexcept nogil
        double factor
    ctypedef double (*fa_scan_rule)(double, double, double, double, double, double, double, double) noexcept nogil
    void fa_scan_rows_float(fa_scan_rule rule, int how, const fa_scan *w, ptrdiff_t at, ptrdiff_t depth,
                            ptrdiff_t width, double *carry, double *follow, unsigned char *seen) noexcept
    void fa_scan_rows_double(fa_scan_rule rule, int how, const fa_scan *w, ptrdiff_t at, ptrdiff_t depth,
                             ptrdiff_t width, double *carry, double *follow, unsigned char *seen) noexcept
    void fa_scan_chains_float(fa_scan_rule rule, const fa_scan *w, fa_chain *chains, int count,
                              ptrdiff_t shared) noexcept
    void fa_scan_chains_double(fa_scan_rule rule, const fa_scan *w, fa_chain *chains, int count,
                               ptrdiff_t shared) noexcept
    void fa_scan_steps_float(fa_scan_rule rule, const fa_scan *w, ptrdiff_t start, ptrdiff_t steps, double factor,
                             double *carry, double *follow) noexcept
    void fa_scan_steps_double(fa_scan_rule rule, const fa_scan *w, ptrdiff_t start, ptrdiff_t steps, double factor,
                              double *carry, double *follow) noexcept
    void fa_scan_picks_float(fa_scan_rule rule, const fa_scan *w, ptrdiff_t start, ptrdiff_t steps,
                             double last) noexcept
    void fa_scan_picks_double(fa_scan_rule rule, const fa_scan *w, ptrdiff_t start, ptrdiff_t steps,
                              double last) noexcept
    void fa_scan_prepare() noexcept
    bint fa_odd_flags(const unsigned char *p, ptrdiff_t n) noexcept
    void fa_scan_run_float(const fa_scan *w, const fa_scan_loops *loops) noexcept
    void fa_scan_run_double(const fa_scan *w, const fa_scan_loops *loops) noexcept


fa_row_begin()
fa_scan_prepare()
fa_masks_begin()

ctypedef struct row_work:
    # Rows of logits, and of each what is read and written beside it; NULL is what is absent or not wanted.
    const void *logits
    const long long *tokens
    const unsigned char *mask
    fa_row *parts  # the sums of every unit, where they are known: FA_ROW_CUT columns of a row
    bint stream, keeps  # whether a gradient goes past the caches, and is made of the exponentials of its own sums
    void *room  # for those of a row, if they are not to lie in out, and how much it takes
    Py_ssize_t room_bytes
    double scale
    Py_ssize_t rows, columns, first, last  # the last two are units, of row_forward rows
    Py_ssize_t height  # so many rows, of logits and of out, are evenly spaced, and so are the next so many
    Py_ssize_t far, jump  # elements from a row of the logits to the next, and from so many rows to the next; may be < 0
    Py_ssize_t out_far, out_jump
    int want  # of row_parts
    void *logp
    void *lse
    void *entropy
    void *sum_p2
    void *mean_logit
    unsigned char *top1
    const void *grad_logp
    const void *grad_lse
    const void *grad_entropy
    const void *grad_sum_p2
    const void *grad_mean_logit
    void *out

ctypedef struct policy_work:
    # What a policy loss reads beside the rows.
    const fa_kind *rule
    const void *old
    const void *advantages
    double grad_entropy
    double[FA_PARAMS] p

ctypedef void (*row_loop)(const row_work *work) noexcept nogil
ctypedef void (*policy_loop)(const row_work *work, const policy_work *policy, double *tally) noexcept nogil


cdef inline bint of_logps_alone(const row_work *w) noexcept nogil:
    """Whether a gradient is that of log-probabilities, and of nothing else."""
    return not (w.grad_lse or w.grad_entropy or w.grad_sum_p2 or w.grad_mean_logit)


cdef inline bint keeps_all(const row_work *w) noexcept nogil:
    """Whether a gradient is made of the exponentials of its own sums."""
    return not (w.lse or w.parts or w.grad_sum_p2 or w.grad_mean_logit)


cdef inline Py_ssize_t place_of(const row_work *w, Py_ssize_t r, Py_ssize_t far, Py_ssize_t jump) noexcept nogil:
    return r * far if r < w.height else r // w.height * jump + r % w.height * far


cdef inline Py_ssize_t row_at(const row_work *w, Py_ssize_t r) noexcept nogil:
    """Where row r of the logits begins."""
    return place_of(w, r, w.far, w.jump)


cdef inline Py_ssize_t out_at(const row_work *w, Py_ssize_t r) noexcept nogil:
    return place_of(w, r, w.out_far, w.out_jump)


cdef void clear_rows(const row_work *w, Py_ssize_t r, Py_ssize_t m, size_t size) noexcept nogil:
    """Zeros to m rows of gradients, whose elements are of that size."""
    cdef Py_ssize_t k, row = w.columns * size, whole = w.height * w.columns
    if w.out_far == w.columns and (w.height == w.rows or w.out_jump == whole):
        memset(<char *> w.out + r * row, 0, m * row)
    else:
        for k in range(r, r + m):
            memset(<char *> w.out + out_at(w, k) * size, 0, row)


cdef inline Py_ssize_t next_rows(const row_work *w, Py_ssize_t r, Py_ssize_t *skipped) noexcept nogil:
    """How many rows, evenly spaced, are walked at once, after so many from r on that do not count.  A few of those are
    walked along, where that is cheaper than to begin anew."""
    cdef Py_ssize_t end, first = r, last = r
    if not w.mask:
        skipped[0] = 0
        return min(w.last - r, FA_SLIM_ROWS, w.height - r % w.height)
    while first < w.last and w.mask[first] == 0:
        first += 1
    skipped[0], last, end = first - r, first - 1, min(w.last, first + FA_SLIM_ROWS, first + w.height - first % w.height)
    r = first
    while r < end and (r - last - 1) * w.columns <= FA_BRIEF:
        if w.mask[r] != 0:
            last = r
        r += 1
    return last + 1 - first


cdef fa_row row_of_parts(const fa_row *parts, Py_ssize_t r, Py_ssize_t cuts, double scale) noexcept nogil:
    """The whole of row r from its parts."""
    cdef fa_row row = parts[r * cuts]
    cdef Py_ssize_t c
    for c in range(1, cuts):
        row = fa_row_merge(row, parts[r * cuts + c], scale)
    return row


ctypedef void (*scan_loop)(const fa_scan *work) noexcept nogil


include "rules.pxi"


def shares():
    """Whether calls divide themselves among threads."""
    return FA_SHARES != 0


cdef const fa_kind *find_kind(str family, str kind) except NULL:
    cdef const fa_kind *found = fa_find(PyUnicode_AsUTF8(family), PyUnicode_AsUTF8(kind))
    if found == NULL:
        raise ValueError(f"{family}_{kind} is not compiled into this extension")
    return found


cdef int helpers(Py_ssize_t n, Py_ssize_t grain, Py_ssize_t work) except -1:
    """How many threads walk a whole call; 0: others must divide it."""
    cdef int count = 1 if n <= grain else pool.parts(n, grain, work)
    return count if count == 1 or shares() else 0


def pointwise(str family, str kind, tuple inputs, const unsigned char[::1] mask, tuple params, tuple outputs,
              double[:, ::1] partials):
    cdef fa_pointwise work
    cdef Py_ssize_t n = inputs[0].shape[0]
    cdef int k
    work.kind = find_kind(family, kind)
    work.single = inputs[0].dtype.itemsize == 4
    work.mask = &mask[0] if mask is not None and n else NULL
    if n == 0:
        return
    for k in range(work.kind.inputs):
        work.in_[k] = address(inputs[k])
    for k in range(work.kind.outputs):
        work.out[k] = writable(outputs[k])
    for k in range(len(params)):
        work.p[k] = params[k]
    work.wide = not fa_single_holds(work.p, <int> len(params))
    share_elements(&work, n, &partials[0, 0], pool.parts(n, FA_BLOCK, n))


ctypedef struct elements_loop:
    const fa_pointwise *work
    double *partials


cdef void some_elements(void *loop, ptrdiff_t a, ptrdiff_t b) noexcept nogil:
    cdef elements_loop *all = <elements_loop *> loop
    cdef fa_pointwise some = all.work[0]
    cdef Py_ssize_t skipped = a * (4 if some.single else 8)
    cdef int k
    for k in range(some.kind.inputs):
        some.in_[k] = behind(some.in_[k], skipped)
    for k in range(some.kind.outputs):
        some.out[k] = behind(some.out[k], skipped)
    some.mask = <const unsigned char *> behind(some.mask, a)
    fa_pointwise_run(&some, b - a, all.partials + a // FA_BLOCK * (some.kind.sums + some.kind.peaks))


cdef void share_elements(const fa_pointwise *work, Py_ssize_t n, double *partials, int threads) noexcept:
    """Partials are of every block."""
    cdef elements_loop all
    all.work, all.partials = work, partials
    with nogil:
        fa_share(some_elements, &all, n, FA_BLOCK, threads)


def scan(str kind, rewards, values, next_values, final_values, last_values, terminated, truncated, mask, double gamma,
         double lam, str layout, out, returns, offsets=None, Py_ssize_t first=0, Py_ssize_t last=-1, int threads=1):
    """Of layout "TN" the streams from ``first`` to ``last``; by ``threads`` threads, as many neighbours each."""
    cdef fa_scan work
    cdef bint single = rewards.dtype.itemsize == 4
    cdef scan_loop loop = find_scan(kind, single)
    cdef Py_ssize_t rows, columns, skipped = first * rewards.dtype.itemsize
    rows, columns = rewards.shape
    work.rewards, work.values = behind(address(rewards), skipped), behind(address(values), skipped)
    work.next_values = behind(address(next_values), skipped)
    work.final_values, work.last_values = behind(address(final_values), skipped), behind(address(last_values), skipped)
    work.terminated = <const unsigned char *> behind(address(terminated), first)
    work.truncated = <const unsigned char *> behind(address(truncated), first)
    work.mask = <const unsigned char *> behind(address(mask), first)
    work.out, work.returns = behind(writable(out), skipped), behind(writable(returns), skipped)
    work.gamma, work.lam = gamma, lam
    work.offsets = <const long long *> address(offsets)
    if offsets is not None:
        rows, columns = len(offsets) - 1, 0
    lay_out(&work, rows, columns, layout == "TN")
    if last >= 0:
        work.streams = last - first
    if rewards.size:
        share_streams(loop, &work, single, max(threads, 1))


ctypedef struct streams_loop:
    scan_loop loop
    const fa_scan *work
    Py_ssize_t real


cdef void some_streams(void *loop, ptrdiff_t a, ptrdiff_t b) noexcept nogil:
    cdef streams_loop *all = <streams_loop *> loop
    cdef fa_scan some = all.work[0]
    cdef Py_ssize_t skipped = 0 if some.offsets else a * some.stream_stride
    some.rewards, some.values = behind(some.rewards, skipped * all.real), behind(some.values, skipped * all.real)
    some.next_values = behind(some.next_values, skipped * all.real)
    some.final_values = behind(some.final_values, skipped * all.real)
    some.last_values = behind(some.last_values, a * all.real)
    some.terminated = <const unsigned char *> behind(some.terminated, skipped)
    some.truncated = <const unsigned char *> behind(some.truncated, skipped)
    some.mask = <const unsigned char *> behind(some.mask, skipped)
    some.out, some.returns = behind(some.out, skipped * all.real), behind(some.returns, skipped * all.real)
    some.offsets = <const long long *> behind(some.offsets, a * sizeof(long long))
    some.streams = b - a
    all.loop(&some)


cdef void share_streams(scan_loop loop, const fa_scan *work, bint single, int threads) noexcept:
    """Side by side they are cut where lines of the cache are; elsewhere several are walked at once, if they are not
    given away one by one."""
    cdef streams_loop all
    cdef Py_ssize_t grain = (work.streams + threads - 1) // threads
    if work.stream_stride == 1 and work.offsets == NULL:
        grain = (grain + COLUMNS - 1) // COLUMNS * COLUMNS
    all.loop, all.work, all.real = loop, work, 4 if single else 8
    with nogil:
        fa_share(some_streams, &all, work.streams, grain, threads)


cdef enum:
    COLUMNS = 64  # as in fastalign/threads.py


cdef void *behind(const void *array, Py_ssize_t skipped) noexcept nogil:
    """The same array without its first bytes."""
    return NULL if array == NULL else <void *> (<const char *> array + skipped)


def scan_ready(str kind, rewards, values, next_values, final_values, last_values, terminated, truncated, mask, gamma,
               lam, layout, cu_seqlens, out, Py_ssize_t limit):
    """The checks, the outputs and the scan, in a few hundred nanoseconds of arrays that need no cast; from ``limit``
    elements on divided among threads.

    None if anything is unusual or wrong, for others to cast or to explain.
    """
    done = scan_plain(kind, rewards, values, next_values, final_values, last_values, terminated, truncated, mask, gamma,
                      lam, layout, cu_seqlens, out, limit)
    if done is not None:
        return done
    given = rewards, values, next_values, final_values, last_values, terminated, truncated, mask, cu_seqlens
    a = cast_all(given, b"rrrrefffi", out)
    return None if a is None else scan_plain(
        kind, a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], gamma, lam, layout, a[8], out, limit)


cdef object scan_plain(str kind, rewards, values, next_values, final_values, last_values, terminated, truncated, mask,
                       gamma, lam, layout, cu_seqlens, out, Py_ssize_t limit):
    cdef fa_scan work
    cdef plain_array like, other, target
    cdef const void **places[4]
    cdef const unsigned char **flags[3]
    cdef int k, threads = 1
    cdef bint time_major
    cdef Py_ssize_t streams
    cdef double number
    cdef float single
    if asked_elsewhere() or not look(rewards, &like) or like.size == 0 or like.ndim not in (1, 2):
        return None
    if like.type not in (cnp.NPY_FLOAT, cnp.NPY_DOUBLE) or type(layout) is not str:
        return None
    time_major = like.ndim == 2 and layout == "TN"
    if not time_major and layout not in ("TN", "NT"):
        return None
    if not (number_of(gamma, &work.gamma) and number_of(lam, &work.lam)):
        return None
    if not (0.0 <= work.gamma <= 1.0 and 0.0 <= work.lam <= 1.0):
        return None
    if terminated is None or (last_values is not None and next_values is not None):
        return None
    if truncated is not None and final_values is None and next_values is None:
        return None
    lay_out(&work, like.shape[0] if like.ndim == 2 else 1, like.shape[like.ndim - 1], time_major)
    work.rewards, work.offsets = like.at, NULL
    if cu_seqlens is not None:
        bounds = offsets_of(cu_seqlens, &like, &work.offsets, &streams)
        if bounds is None:
            return None
        lay_out(&work, streams, 0, False)
    places[0], places[1], places[2], places[3] = &work.values, &work.next_values, &work.final_values, &work.last_values
    for k, array in enumerate((values, next_values, final_values, last_values)):
        places[k][0] = NULL
        if array is None:
            continue
        if k == 3 and work.streams == 1 and number_of(array, &number) and fabs(number) <= 1e30:  # beyond, NumPy casts
            single = <float> number
            places[k][0] = &single if like.type == cnp.NPY_FLOAT else <const void *> &number
            continue
        if not look(array, &other) or other.type != like.type:
            return None
        if other.ndim != 1 or other.size != work.streams if k == 3 else not alike(&other, &like):
            return None
        places[k][0] = other.at
    flags[0], flags[1], flags[2] = &work.terminated, &work.truncated, &work.mask
    cdef list held = []
    for k, array in enumerate((terminated, truncated, mask)):
        flags[k][0] = NULL
        if array is not None:
            taken = flags_of(array, &like, &other)
            if taken is None:
                return None
            if taken is not array:
                held.append(taken)
            flags[k][0] = <const unsigned char *> other.at
    if (like.ndim == 2 or work.offsets) and like.size >= limit:
        threads = pool.stream_parts(time_major, work.streams, like.size)
        if threads > 1 and not shares():
            return None
    cdef tuple made, given
    if out is None:
        made = (new_array(&like),) if values is None else (new_array(&like), new_array(&like))
    elif type(out) is not tuple or len(out) != (1 if values is None else 2):
        return None
    else:
        made = out
    for k, array in enumerate(made if out is not None else ()):
        if not look(array, &target) or target.type != like.type or not alike(&target, &like) or target.readonly:
            return None
        given = rewards, values, next_values, final_values, last_values, terminated, truncated, mask, cu_seqlens
        if meets(&target, given, 9) or meets(&target, made, k):
            return None
    work.out = cnp.PyArray_DATA(<cnp.ndarray> made[0])
    work.returns = NULL if values is None else cnp.PyArray_DATA(<cnp.ndarray> made[1])
    share_streams(find_scan(kind, like.type == cnp.NPY_FLOAT), &work, like.type == cnp.NPY_FLOAT, threads)
    return made


cdef void lay_out(fa_scan *work, Py_ssize_t rows, Py_ssize_t columns, bint time_major) noexcept:
    if time_major:
        work.steps, work.streams, work.time_stride, work.stream_stride = rows, columns, columns, 1
    else:
        work.steps, work.streams, work.time_stride, work.stream_stride = columns, rows, 1, columns
    if work.streams == 1:  # its steps are neighbours in either layout
        work.time_stride, work.stream_stride = 1, work.steps


cdef const void *address(cnp.ndarray array) noexcept:
    """Where an array that is contiguous, or whose rows are, begins; NULL for None and for an empty one."""
    return NULL if array is None or cnp.PyArray_SIZE(array) == 0 else cnp.PyArray_DATA(array)


cdef void *writable(cnp.ndarray array) except? NULL:
    if array is not None and not cnp.PyArray_ISWRITEABLE(array):
        raise ValueError("an output is read-only")
    return <void *> address(array)


include "plain.pxi"
include "casts.pxi"
include "row_calls.pxi"
include "call.pxi"
include "group_calls.pxi"


VECMATH = ("exp", "expm1", "log", "log1p", "exp_of_minus", "log1p_unit")


def vecmath_values(str name, x, out):
    """The build's own function of float64 or float32 arrays, for the tests; exp2 is that of the rows."""
    if name == "exp2" and x.dtype.itemsize == 4:
        fa_row_powers_float(<const float *> address(x), len(x), <float *> writable(out))
    elif name == "exp2":
        fa_row_powers_double(<const double *> address(x), len(x), <double *> writable(out))
    elif x.dtype.itemsize == 4:
        vecmath_single(name, x, out)
    else:
        vecmath_double(name, x, out)


cdef vecmath_double(str name, const double[::1] x, double[::1] out):
    cdef Py_ssize_t i
    cdef int which = VECMATH.index(name)
    for i in range(x.shape[0]):
        out[i] = (fa_exp(x[i]) if which == 0 else fa_expm1(x[i]) if which == 1 else
                  fa_log(x[i]) if which == 2 else fa_log1p(x[i]) if which == 3 else
                  fa_exp_of_minus(x[i]) if which == 4 else fa_log1p_unit(x[i]))


cdef vecmath_single(str name, const float[::1] x, float[::1] out):
    cdef Py_ssize_t i
    cdef int which = VECMATH.index(name)
    for i in range(x.shape[0]):
        out[i] = (fa_exp_single(x[i]) if which == 0 else fa_expm1_single(x[i]) if which == 1 else
                  fa_log_single(x[i]) if which == 2 else fa_log1p_single(x[i]) if which == 3 else
                  fa_exp_of_minus_single(x[i]) if which == 4 else fa_log1p_unit_single(x[i]))
