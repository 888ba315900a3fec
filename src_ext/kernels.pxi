"""The shapes, compiled for one instruction set.  Arrays arrive checked; nothing is allocated or returned."""

from libc.math cimport NAN, exp, isfinite, log
from libc.string cimport memchr, memset

cdef extern from "pointwise.h" nogil:
    enum:
        FA_TILE
        FA_INPUTS
        FA_RESULTS
        FA_PARAMS
    ctypedef struct fa_tile:
        double x[FA_INPUTS][FA_TILE]
        double y[FA_RESULTS][FA_TILE]
        double p[FA_PARAMS]
    ctypedef void (*fa_step)(fa_tile *tile, Py_ssize_t n) noexcept nogil
    ctypedef struct fa_pointwise:
        fa_step step
        int inputs, outputs, sums, peaks, single
        const void *in_ "in"[FA_INPUTS]
        const unsigned char *mask
        void *out[FA_RESULTS]
        double p[FA_PARAMS]
    void fa_pointwise_run(const fa_pointwise *work, Py_ssize_t n, double *partials) noexcept

cdef extern from "rows.h" nogil:
    ctypedef struct fa_row:
        double peak, total, weighted
        int sound
    fa_row fa_row_state_float(const float *x, Py_ssize_t n, double scale, int entropy) noexcept
    fa_row fa_row_state_double(const double *x, Py_ssize_t n, double scale, int entropy) noexcept
    fa_row fa_row_state_f16(const unsigned short *x, Py_ssize_t n, double scale, int entropy) noexcept
    fa_row fa_row_state_bf16(const unsigned short *x, Py_ssize_t n, double scale, int entropy) noexcept
    void fa_row_slopes_float(const float *x, Py_ssize_t n, double scale, double peak, double rest, double a, double b,
                             float *out) noexcept
    void fa_row_slopes_double(const double *x, Py_ssize_t n, double scale, double peak, double rest, double a,
                              double b, double *out) noexcept
    void fa_row_slopes_f16(const unsigned short *x, Py_ssize_t n, double scale, double peak, double rest, double a,
                           double b, unsigned short *out) noexcept
    void fa_row_slopes_bf16(const unsigned short *x, Py_ssize_t n, double scale, double peak, double rest, double a,
                            double b, unsigned short *out) noexcept
    double fa_get_float(const float *x, Py_ssize_t i) noexcept
    double fa_get_double(const double *x, Py_ssize_t i) noexcept
    double fa_get_f16(const unsigned short *x, Py_ssize_t i) noexcept
    double fa_get_bf16(const unsigned short *x, Py_ssize_t i) noexcept
    void fa_put_float(float *x, Py_ssize_t i, double value) noexcept
    void fa_put_double(double *x, Py_ssize_t i, double value) noexcept
    void fa_put_f16(unsigned short *x, Py_ssize_t i, double value) noexcept
    void fa_put_bf16(unsigned short *x, Py_ssize_t i, double value) noexcept

cdef enum:
    SCAN_WIDTH = 64  # streams at once: carry and next value stay in L1
    SCAN_CHAINS = 3  # of one stream; 2 and 4 are as fast within 5 %, for want of registers
    SCAN_WORTH = 512  # steps: below, looking for chains costs more than they save

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
    Py_ssize_t steps, streams, time_stride, stream_stride

ctypedef void (*scan_loop)(const fa_scan *work) noexcept nogil


cdef Py_ssize_t scan_chains(const unsigned char *terminated, Py_ssize_t n, Py_ssize_t *tops,
                            Py_ssize_t *bottoms) noexcept nogil:
    """Steps n - 1 ... 0 as chains tops[k] ... bottoms[k], all but the first from the end of an episode; returns the
    length of the shortest, 0 if there are too few ends."""
    cdef Py_ssize_t above = n - 1, from_, shared = n
    cdef const unsigned char *end
    cdef int k
    if n < SCAN_WORTH:
        return 0
    tops[0] = above
    for k in range(1, SCAN_CHAINS):
        from_ = n * (SCAN_CHAINS - k) // SCAN_CHAINS
        end = <const unsigned char *> memchr(terminated + from_, 1, above - from_) if from_ < above else NULL
        if end == NULL:
            return 0
        tops[k] = end - terminated
        bottoms[k - 1] = tops[k] + 1
        above = tops[k]
    bottoms[SCAN_CHAINS - 1] = 0
    for k in range(SCAN_CHAINS):
        shared = min(shared, tops[k] - bottoms[k] + 1)
    return shared


include "rules.pxi"


def pointwise(str family, str kind, tuple inputs, const unsigned char[::1] mask, tuple params, tuple outputs,
              double[:, ::1] partials):
    cdef fa_pointwise work
    cdef Py_ssize_t n = inputs[0].shape[0]
    cdef int k
    find_pointwise(family, kind, &work)
    work.single = inputs[0].dtype.itemsize == 4
    work.mask = &mask[0] if mask is not None and n else NULL
    if n == 0:
        return
    for k in range(work.inputs):
        work.in_[k] = address(inputs[k])
    for k in range(work.outputs):
        work.out[k] = writable(outputs[k])
    for k in range(len(params)):
        work.p[k] = params[k]
    with nogil:
        fa_pointwise_run(&work, n, &partials[0, 0])


def scan(str kind, rewards, values, next_values, final_values, last_values, const unsigned char[:, ::1] terminated,
         const unsigned char[:, ::1] truncated, const unsigned char[:, ::1] mask, double gamma, double lam, str layout,
         out, returns):
    cdef fa_scan work
    cdef Py_ssize_t rows = rewards.shape[0], columns = rewards.shape[1]
    cdef scan_loop loop = find_scan(kind, rewards.dtype.itemsize == 4)
    if rows == 0 or columns == 0:
        return
    work.rewards, work.values = address(rewards), address(values)
    work.next_values, work.final_values = address(next_values), address(final_values)
    work.last_values = address(last_values)
    work.terminated = &terminated[0, 0]
    work.truncated = &truncated[0, 0] if truncated is not None else NULL
    work.mask = &mask[0, 0] if mask is not None else NULL
    work.out, work.returns = writable(out), writable(returns)
    work.gamma, work.lam = gamma, lam
    if layout == "TN":
        work.steps, work.streams, work.time_stride, work.stream_stride = rows, columns, columns, 1
    else:
        work.steps, work.streams, work.time_stride, work.stream_stride = columns, rows, 1, columns
    if work.streams == 1:  # one stream: its steps are neighbours in either layout
        work.time_stride, work.stream_stride = 1, work.steps
    with nogil:
        loop(&work)


cdef const void *address(array) except? NULL:
    """Where a contiguous array lies; NULL for None and for an empty one."""
    cdef const float[::1] narrow
    cdef const double[::1] wide
    if array is None or array.size == 0:
        return NULL
    if array.dtype.itemsize == 4:
        narrow = array.reshape(-1)
        return &narrow[0]
    wide = array.reshape(-1)
    return &wide[0]


cdef void *writable(array) except? NULL:
    cdef float[::1] narrow
    cdef double[::1] wide
    if array is None or array.size == 0:
        return NULL
    if array.dtype.itemsize == 4:
        narrow = array.reshape(-1)
        return &narrow[0]
    wide = array.reshape(-1)
    return &wide[0]


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


def vecmath_values(str name, const double[::1] x, double[::1] out):
    """The build's own exp, expm1, log or log1p, for the tests."""
    cdef Py_ssize_t i
    if name == "exp":
        for i in range(x.shape[0]):
            out[i] = math.exp(x[i])
    elif name == "expm1":
        for i in range(x.shape[0]):
            out[i] = math.expm1(x[i])
    elif name == "log":
        for i in range(x.shape[0]):
            out[i] = math.log(x[i])
    elif name == "log1p":
        for i in range(x.shape[0]):
            out[i] = math.log1p(x[i])
    else:
        raise ValueError(name)
