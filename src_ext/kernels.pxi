"""The shapes, compiled for one instruction set.  Arrays arrive checked; nothing is allocated or returned."""

from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
)
from cpython.unicode cimport PyUnicode_AsUTF8
from libc.math cimport INFINITY, NAN, exp, isfinite, log
from libc.stddef cimport ptrdiff_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memset

from numpy import empty_like, ndarray

cdef extern from "rules.h" nogil:
    enum:
        FA_BLOCK
        FA_INPUTS
        FA_RESULTS
        FA_PARAMS
    ctypedef void (*fa_one)(const double *x, const double *p, double *y) noexcept nogil
    ctypedef struct fa_kind:
        fa_one one
        int inputs, outputs, sums, peaks
    ctypedef struct fa_pointwise:
        const fa_kind *kind
        int single
        const void *in_ "in"[FA_INPUTS]
        const unsigned char *mask
        void *out[FA_RESULTS]
        double p[FA_PARAMS]
    const fa_kind *fa_find(const char *family, const char *kind) noexcept
    void fa_pointwise_run(const fa_pointwise *work, Py_ssize_t n, double *partials) noexcept
    double fa_peak(double a, double b) noexcept

cdef extern from "vecmath.h" nogil:
    double fa_exp(double x) noexcept
    double fa_expm1(double x) noexcept
    double fa_log(double x) noexcept
    double fa_log1p(double x) noexcept
    float fa_exp_single(float x) noexcept
    float fa_expm1_single(float x) noexcept
    float fa_log_single(float x) noexcept
    float fa_log1p_single(float x) noexcept

cdef extern from "rows.h" nogil:
    enum:
        FA_ENTROPY
        FA_MOMENTS
        FA_ROW_CUT
    ctypedef struct fa_row:
        double peak, total, weighted, squares, linear, top
        int sound
    fa_row fa_row_merge(fa_row a, fa_row b, double scale) noexcept
    fa_row fa_row_state_float(const float *x, Py_ssize_t n, double scale, int want) noexcept
    fa_row fa_row_part_float(const float *x, Py_ssize_t n, double scale, int want) noexcept
    int fa_row_hit_float(const float *x, Py_ssize_t at, double top) noexcept
    void fa_row_slopes_float(const float *x, Py_ssize_t n, double scale, double peak, double rest, double a,
                           double b, float *out) noexcept
    void fa_row_bends_float(const float *x, Py_ssize_t n, double scale, double peak, double rest, double a,
                          double b, double c, double d, float *out) noexcept
    fa_row fa_row_state_double(const double *x, Py_ssize_t n, double scale, int want) noexcept
    fa_row fa_row_part_double(const double *x, Py_ssize_t n, double scale, int want) noexcept
    int fa_row_hit_double(const double *x, Py_ssize_t at, double top) noexcept
    void fa_row_slopes_double(const double *x, Py_ssize_t n, double scale, double peak, double rest, double a,
                           double b, double *out) noexcept
    void fa_row_bends_double(const double *x, Py_ssize_t n, double scale, double peak, double rest, double a,
                          double b, double c, double d, double *out) noexcept
    fa_row fa_row_state_f16(const unsigned short *x, Py_ssize_t n, double scale, int want) noexcept
    fa_row fa_row_part_f16(const unsigned short *x, Py_ssize_t n, double scale, int want) noexcept
    int fa_row_hit_f16(const unsigned short *x, Py_ssize_t at, double top) noexcept
    void fa_row_slopes_f16(const unsigned short *x, Py_ssize_t n, double scale, double peak, double rest, double a,
                           double b, unsigned short *out) noexcept
    void fa_row_bends_f16(const unsigned short *x, Py_ssize_t n, double scale, double peak, double rest, double a,
                          double b, double c, double d, unsigned short *out) noexcept
    fa_row fa_row_state_bf16(const unsigned short *x, Py_ssize_t n, double scale, int want) noexcept
    fa_row fa_row_part_bf16(const unsigned short *x, Py_ssize_t n, double scale, int want) noexcept
    int fa_row_hit_bf16(const unsigned short *x, Py_ssize_t at, double top) noexcept
    void fa_row_slopes_bf16(const unsigned short *x, Py_ssize_t n, double scale, double peak, double rest, double a,
                           double b, unsigned short *out) noexcept
    void fa_row_bends_bf16(const unsigned short *x, Py_ssize_t n, double scale, double peak, double rest, double a,
                          double b, double c, double d, unsigned short *out) noexcept
    double fa_get_float(const float *x, Py_ssize_t i) noexcept
    double fa_get_double(const double *x, Py_ssize_t i) noexcept
    double fa_get_f16(const unsigned short *x, Py_ssize_t i) noexcept
    double fa_get_bf16(const unsigned short *x, Py_ssize_t i) noexcept
    void fa_put_float(float *x, Py_ssize_t i, double value) noexcept
    void fa_put_double(double *x, Py_ssize_t i, double value) noexcept
    void fa_put_f16(unsigned short *x, Py_ssize_t i, double value) noexcept
    void fa_put_bf16(unsigned short *x, Py_ssize_t i, double value) noexcept
    ctypedef struct fa_spans:
        pass
    fa_row fa_row_keep_float(const float *x, Py_ssize_t n, double scale, float *e, fa_spans *kept) noexcept
    fa_row fa_row_keep_double(const double *x, Py_ssize_t n, double scale, double *e, fa_spans *kept) noexcept
    fa_row fa_row_keep_f16(const unsigned short *x, Py_ssize_t n, double scale, unsigned short *e,
                           fa_spans *kept) noexcept
    fa_row fa_row_keep_bf16(const unsigned short *x, Py_ssize_t n, double scale, unsigned short *e,
                            fa_spans *kept) noexcept
    void fa_row_scale_float(const float *x, Py_ssize_t n, double scale, double peak, double rest, double a,
                            const fa_spans *kept, float *out) noexcept
    void fa_row_scale_double(const double *x, Py_ssize_t n, double scale, double peak, double rest, double a,
                             const fa_spans *kept, double *out) noexcept
    void fa_row_scale_f16(const unsigned short *x, Py_ssize_t n, double scale, double peak, double rest, double a,
                          const fa_spans *kept, unsigned short *out) noexcept
    void fa_row_scale_bf16(const unsigned short *x, Py_ssize_t n, double scale, double peak, double rest, double a,
                           const fa_spans *kept, unsigned short *out) noexcept

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
    ctypedef double (*fa_scan_rule)(double, double, double, double, double, double, double, double) noexcept nogil
    void fa_scan_rows_float(fa_scan_rule rule, int how, const fa_scan *w, ptrdiff_t at, ptrdiff_t depth,
                            ptrdiff_t width, double *carry, double *follow, unsigned char *seen) noexcept
    void fa_scan_rows_double(fa_scan_rule rule, int how, const fa_scan *w, ptrdiff_t at, ptrdiff_t depth,
                             ptrdiff_t width, double *carry, double *follow, unsigned char *seen) noexcept
    void fa_scan_chains_float(fa_scan_rule rule, const fa_scan *w, fa_chain *chains, int count,
                              ptrdiff_t shared) noexcept
    void fa_scan_chains_double(fa_scan_rule rule, const fa_scan *w, fa_chain *chains, int count,
                               ptrdiff_t shared) noexcept
    bint fa_odd_flags(const unsigned char *p, ptrdiff_t n) noexcept
    void fa_scan_run_float(const fa_scan *w, const fa_scan_loops *loops) noexcept
    void fa_scan_run_double(const fa_scan *w, const fa_scan_loops *loops) noexcept


cdef fa_row row_of_parts(const double[:, ::1] parts, Py_ssize_t r, Py_ssize_t cuts, double scale) noexcept nogil:
    """The whole of row r from its parts, each of which lies in parts as the struct it is."""
    cdef const fa_row *part = <const fa_row *> &parts[r * cuts, 0]
    cdef fa_row row = part[0]
    cdef Py_ssize_t c
    for c in range(1, cuts):
        row = fa_row_merge(row, part[c], scale)
    return row


ctypedef void (*scan_loop)(const fa_scan *work) noexcept nogil


include "rules.pxi"


cdef const fa_kind *find_kind(str family, str kind) except NULL:
    cdef const fa_kind *found = fa_find(PyUnicode_AsUTF8(family), PyUnicode_AsUTF8(kind))
    if found == NULL:
        raise ValueError(f"{family}_{kind} is not compiled into this extension")
    return found


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
    with nogil:
        fa_pointwise_run(&work, n, &partials[0, 0])


def pointwise_at_once(str family, str kind, tuple inputs, tuple params, tuple outputs, Py_ssize_t most):
    """The tallies, if all arrays are plain ones of one shape and of float32 or float64, of ``most`` elements at most.

    None if they are not: nothing was written then.  What takes Python microseconds to find out takes this a fraction.
    Outputs may be the first few only.
    """
    cdef fa_pointwise work
    cdef plain_array first, other
    cdef Py_ssize_t k = 0
    work.kind, work.mask = find_kind(family, kind), NULL
    if len(inputs) != work.kind.inputs or len(outputs) > work.kind.outputs or len(params) > FA_PARAMS:
        return None
    if not look(inputs[0], &first) or first.code not in (c"f", c"d") or first.size > most:
        return None
    for k, array in enumerate(inputs):
        if not look(array, &other) or other.code != first.code or not alike(&other, &first):
            return None
        work.in_[k] = other.at
    for k in range(work.kind.outputs):
        work.out[k] = NULL
    for k, array in enumerate(outputs):
        if not look(array, &other) or other.code != first.code or not alike(&other, &first) or other.readonly:
            return None
        if touches(other.at, first.bytes_, work.in_, len(inputs)):
            return None
        if touches(other.at, first.bytes_, <const void **> work.out, k):
            return None
        work.out[k] = <void *> other.at
    for k, number in enumerate(params):
        work.p[k] = number
    work.single = first.code == c"f"
    return run_at_once(&work, first.size)


cdef bint touches(const void *one, Py_ssize_t size, const void **others, Py_ssize_t count) noexcept:
    """Whether an array of so many bytes shares memory with one of the others, of the same size."""
    cdef Py_ssize_t k
    for k in range(count):
        if <const char *> one < <const char *> others[k] + size and <const char *> others[k] < <const char *> one + size:
            return True
    return False


cdef list run_at_once(fa_pointwise *work, Py_ssize_t n):
    """The tallies of all blocks, folded in the order of the blocks, as dispatch.fold does."""
    cdef int k, sums = work.kind.sums, tallies = work.kind.sums + work.kind.peaks
    cdef Py_ssize_t block, blocks = (n + FA_BLOCK - 1) // FA_BLOCK
    cdef double[FA_RESULTS] few
    cdef double *partials = few
    if blocks > 1:
        partials = <double *> malloc(blocks * tallies * sizeof(double))
        if partials == NULL:
            raise MemoryError
    for k in range(tallies):
        partials[k] = 0.0 if k < sums else -INFINITY
    if n > 0:
        with nogil:
            fa_pointwise_run(work, n, partials)
    for block in range(1, blocks):
        for k in range(tallies):
            if k < sums:
                partials[k] += partials[block * tallies + k]
            else:
                partials[k] = fa_peak(partials[k], partials[block * tallies + k])
    folded = [partials[k] for k in range(tallies)]
    if blocks > 1:
        free(partials)
    return folded


def scan(str kind, rewards, values, next_values, final_values, last_values, terminated, truncated, mask, double gamma,
         double lam, str layout, out, returns, offsets=None):
    cdef fa_scan work
    cdef scan_loop loop = find_scan(kind, rewards.dtype.itemsize == 4)
    cdef Py_ssize_t rows, columns
    rows, columns = rewards.shape
    work.rewards, work.values = address(rewards), address(values)
    work.next_values, work.final_values = address(next_values), address(final_values)
    work.last_values = address(last_values)
    work.terminated = <const unsigned char *> address(terminated)
    work.truncated, work.mask = <const unsigned char *> address(truncated), <const unsigned char *> address(mask)
    work.out, work.returns = writable(out), writable(returns)
    work.gamma, work.lam = gamma, lam
    work.offsets = <const long long *> address(offsets)
    if offsets is not None:
        rows, columns = len(offsets) - 1, 0
    lay_out(&work, rows, columns, layout == "TN")
    if rewards.size:
        with nogil:
            loop(&work)


def scan_ready(str kind, rewards, values, next_values, final_values, last_values, terminated, truncated, mask, gamma,
               lam, layout, out, Py_ssize_t limit):
    """The checks, the outputs and the scan of arrays that need no cast, in a few hundred nanoseconds.

    None if anything is unusual or wrong, for others to cast or to explain, and where streams in rows are as many
    elements as ``limit``, from which on they are divided among threads.
    """
    cdef fa_scan work
    cdef plain_array like, other
    cdef const void **places[4]
    cdef const unsigned char **flags[3]
    cdef int k
    cdef bint time_major, given
    if type(rewards) is not ndarray or not look(rewards, &like) or like.size == 0:
        return None
    if like.code not in (c"f", c"d") or like.ndim not in (1, 2) or type(layout) is not str:
        return None
    time_major = like.ndim == 2 and layout == "TN"
    if not time_major and layout not in ("TN", "NT"):
        return None
    if type(gamma) not in (float, int) or type(lam) not in (float, int):
        return None
    work.gamma, work.lam = gamma, lam
    if not (0.0 <= work.gamma <= 1.0 and 0.0 <= work.lam <= 1.0):
        return None
    if terminated is None or (last_values is not None and next_values is not None):
        return None
    if truncated is not None and final_values is None and next_values is None:
        return None
    lay_out(&work, like.shape[0] if like.ndim == 2 else 1, like.shape[like.ndim - 1], time_major)
    if not time_major and work.streams > 1 and like.size >= limit:
        return None
    work.rewards, work.offsets = like.at, NULL
    places[0], places[1], places[2], places[3] = &work.values, &work.next_values, &work.final_values, &work.last_values
    for k, array in enumerate((values, next_values, final_values, last_values)):
        places[k][0] = NULL
        if array is None:
            continue
        if not look(array, &other) or other.code != like.code:
            return None
        if other.ndim != 1 or other.size != work.streams if k == 3 else not alike(&other, &like):
            return None
        places[k][0] = other.at
    flags[0], flags[1], flags[2] = &work.terminated, &work.truncated, &work.mask
    for k, array in enumerate((terminated, truncated, mask)):
        flags[k][0] = NULL
        if array is None:
            continue
        if not look(array, &other) or not alike(&other, &like) or other.code not in (c"?", c"B"):
            return None
        if other.code == c"B" and fa_odd_flags(<const unsigned char *> other.at, other.size):
            return None
        flags[k][0] = <const unsigned char *> other.at
    given = out is not None
    if not given:
        out = (empty_like(rewards),) if values is None else (empty_like(rewards), empty_like(rewards))
    elif type(out) is not tuple or len(out) != (1 if values is None else 2):
        return None
    work.returns = NULL
    for k, array in enumerate(out):
        if not look(array, &other) or other.code != like.code or not alike(&other, &like) or other.readonly:
            return None
        if k == 0:
            work.out = <void *> other.at
        else:
            work.returns = <void *> other.at
        if given:
            for x in (rewards, values, next_values, final_values, last_values, terminated, truncated, mask):
                if x is not None and overlap(&other, x):
                    return None
            if k == 1 and overlap(&other, out[0]):
                return None
    cdef scan_loop loop = find_scan(kind, like.code == c"f")
    with nogil:
        loop(&work)
    return out


cdef enum:
    MOST_AXES = 8  # of arrays that calls take as they are

ctypedef struct plain_array:
    const void *at
    Py_ssize_t size, bytes_
    Py_ssize_t[MOST_AXES] shape
    int ndim
    char code
    bint readonly


cdef bint look(array, plain_array *found) except -1:
    """Whether this is a plain ndarray: contiguous, aligned, native; what it is like, its code being that of struct."""
    cdef Py_buffer view
    cdef int k
    if type(array) is not ndarray:
        return False
    try:
        PyObject_GetBuffer(array, &view, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS)
    except (BufferError, ValueError):  # strided, or of a dtype that buffers do not know
        return False
    # What is swapped or not aligned has a longer format.
    found.code = view.format[0] if view.format != NULL and view.format[0] and not view.format[1] else 0
    if view.ndim > MOST_AXES:
        found.code = 0
    found.at, found.bytes_, found.ndim, found.readonly = view.buf, view.len, view.ndim, view.readonly
    found.size = view.len // view.itemsize if view.itemsize else 0
    for k in range(min(view.ndim, MOST_AXES)):
        found.shape[k] = view.shape[k]
    PyBuffer_Release(&view)
    return found.code != 0


cdef bint alike(const plain_array *one, const plain_array *other) noexcept:
    """Whether both have the same shape."""
    return one.ndim == other.ndim and memcmp(one.shape, other.shape, one.ndim * sizeof(Py_ssize_t)) == 0


cdef bint overlap(const plain_array *one, array) except -1:
    cdef plain_array other
    look(array, &other)
    return (<const char *> one.at < <const char *> other.at + other.bytes_
            and <const char *> other.at < <const char *> one.at + one.bytes_)


cdef void lay_out(fa_scan *work, Py_ssize_t rows, Py_ssize_t columns, bint time_major) noexcept:
    if time_major:
        work.steps, work.streams, work.time_stride, work.stream_stride = rows, columns, columns, 1
    else:
        work.steps, work.streams, work.time_stride, work.stream_stride = columns, rows, 1, columns
    if work.streams == 1:  # its steps are neighbours in either layout
        work.time_stride, work.stream_stride = 1, work.steps


cdef const void *address(array) except? NULL:
    """Where a contiguous array lies; NULL for None and for an empty one."""
    return held_by(array, PyBUF_SIMPLE)


cdef void *writable(array) except? NULL:
    return held_by(array, PyBUF_WRITABLE)


cdef void *held_by(array, int how) except? NULL:
    cdef Py_buffer view
    cdef void *buf
    if array is None:
        return NULL
    PyObject_GetBuffer(array, &view, how)
    buf = view.buf if view.len else NULL
    PyBuffer_Release(&view)  # the caller holds the array itself
    return buf


def group_reduce(values, const long long[::1] offsets, const unsigned char[::1] mask, bint mean, out,
                 long long[::1] counts):
    if values.dtype.itemsize == 4:
        reduce_float(values, offsets, mask, mean, out, counts)
    else:
        reduce_double(values, offsets, mask, mean, out, counts)


def group_spread(grad, const long long[::1] offsets, const unsigned char[::1] mask, bint mean,
                 const long long[::1] counts, out):
    if grad.dtype.itemsize == 4:
        spread_float(grad, offsets, mask, mean, counts, out)
    else:
        spread_double(grad, offsets, mask, mean, counts, out)


def vecmath_values(str name, x, out):
    """The build's own exp, expm1, log or log1p of float64 or float32 arrays, for the tests."""
    if x.dtype.itemsize == 4:
        vecmath_single(name, x, out)
    else:
        vecmath_double(name, x, out)


cdef vecmath_double(str name, const double[::1] x, double[::1] out):
    cdef Py_ssize_t i
    cdef int which = ("exp", "expm1", "log", "log1p").index(name)
    for i in range(x.shape[0]):
        out[i] = (fa_exp(x[i]) if which == 0 else fa_expm1(x[i]) if which == 1 else
                  fa_log(x[i]) if which == 2 else fa_log1p(x[i]))


cdef vecmath_single(str name, const float[::1] x, float[::1] out):
    cdef Py_ssize_t i
    cdef int which = ("exp", "expm1", "log", "log1p").index(name)
    for i in range(x.shape[0]):
        out[i] = (fa_exp_single(x[i]) if which == 0 else fa_expm1_single(x[i]) if which == 1 else
                  fa_log_single(x[i]) if which == 2 else fa_log1p_single(x[i]))
