"""Segments: what walks them, and whole calls of arrays that need no cast."""

cdef extern from "group.h" nogil:
    enum:
        FA_ABREAST
    ctypedef struct fa_segments:
        const long long *offsets
        Py_ssize_t length, count
        const void *in_ "in"
        const unsigned char *mask
        long long *counts
        void *out
        bint mean, single
    void fa_group_reduce(const fa_segments *s, ptrdiff_t a, ptrdiff_t b) noexcept
    void fa_group_spread(const fa_segments *s, ptrdiff_t a, ptrdiff_t b) noexcept

ctypedef void (*group_loop)(const fa_segments *s, ptrdiff_t a, ptrdiff_t b) noexcept nogil

ctypedef struct segments_loop:
    group_loop loop
    const fa_segments *work


cdef void some_segments(void *loop, ptrdiff_t a, ptrdiff_t b) noexcept nogil:
    cdef segments_loop *all = <segments_loop *> loop
    all.loop(all.work, a, b)


cdef int share_segments(group_loop loop, const fa_segments *work, Py_ssize_t size) except -1:
    """Of ``size`` elements in all."""
    cdef segments_loop all
    cdef int threads
    if size <= WITH_THE_GIL:
        loop(work, 0, work.count)
        return 0
    all.loop, all.work = loop, work
    threads = max(1, helpers(work.count, FA_ABREAST, size) if size >= pool.WORTH_SHARING else 1)
    with nogil:
        fa_share(some_segments, &all, work.count, FA_ABREAST, threads)
    return 0


def group_reduce(values, offsets, mask, bint mean, out, counts):
    cdef fa_segments work
    work.offsets, work.length, work.count = <const long long *> address(offsets), 0, len(out)
    work.in_, work.mask, work.out = address(values), <const unsigned char *> address(mask), writable(out)
    work.counts, work.mean, work.single = <long long *> writable(counts), mean, values.dtype.itemsize == 4
    share_segments(fa_group_reduce, &work, len(values))


def group_spread(grad, offsets, mask, bint mean, counts, out):
    cdef fa_segments work
    work.offsets, work.length, work.count = <const long long *> address(offsets), 0, len(grad)
    work.in_, work.mask, work.out = address(grad), <const unsigned char *> address(mask), writable(out)
    work.counts, work.mean, work.single = <long long *> address(counts), mean, grad.dtype.itemsize == 4
    share_segments(fa_group_spread, &work, len(out))


cdef object segments_of(const plain_array *like, cu_seqlens, fa_segments *work):
    """What is to be held while the segments of an array are walked; None if it has none, or they need preparation."""
    memset(work, 0, sizeof(fa_segments))
    work.single = like.type == cnp.NPY_FLOAT
    if like.size == 0 or like.type not in (cnp.NPY_FLOAT, cnp.NPY_DOUBLE):
        return None
    if cu_seqlens is None:
        if like.ndim != 2:
            return None
        work.length, work.count = like.shape[1], like.shape[0]
        return True
    return offsets_of(cu_seqlens, like, &work.offsets, &work.count)


cdef object offsets_of(cu_seqlens, const plain_array *like, const long long **found, Py_ssize_t *count):
    """Where the sequences of an array of one axis begin, for as long as what is returned is held; None if that needs
    preparation, or is wrong."""
    cdef plain_array bounds
    cdef Py_ssize_t k
    if like.ndim != 1 or not look(cu_seqlens, &bounds) or bounds.ndim != 1 or bounds.size < 2:
        return None
    if bounds.type == cnp.NPY_INT32:
        cu_seqlens = cnp.PyArray_Cast(<cnp.ndarray> cu_seqlens, cnp.NPY_INT64)
        look(cu_seqlens, &bounds)
    if bounds.type != cnp.NPY_INT64:
        return None
    at = <const long long *> bounds.at
    count[0], found[0] = bounds.size - 1, at
    if at[0] != 0 or at[count[0]] != like.size:
        return None
    for k in range(count[0]):
        if at[k + 1] < at[k]:
            return None
    return cu_seqlens


cdef int mean_of(reduction) noexcept:
    """Whether that is the mean; -1 if it is nothing known."""
    if type(reduction) is not str:
        return -1
    return 0 if <str> reduction == "sum" else 1 if <str> reduction == "mean" else -1


def group_reduce_ready(logp, mask, cu_seqlens, reduction):
    """sequence_log_probs; None where anything is unusual or wrong."""
    done = reduce_plain(logp, mask, cu_seqlens, reduction)
    if done is not None:
        return done
    a = cast_all((logp, mask, cu_seqlens), b"rfi", None)
    return None if a is None else reduce_plain(a[0], a[1], a[2], reduction)


cdef object reduce_plain(logp, mask, cu_seqlens, reduction):
    cdef fa_segments work
    cdef plain_array x, kept
    cdef cnp.npy_intp count
    cdef int mean = mean_of(reduction)
    if asked_elsewhere() or mean < 0 or not look(logp, &x):
        return None
    bounds = segments_of(&x, cu_seqlens, &work)
    if bounds is None:
        return None
    if mask is not None:
        counts = flags_of(mask, &x, &kept)
        if counts is None:
            return None
        work.mask = <const unsigned char *> kept.at
    count = work.count
    sums = cnp.PyArray_SimpleNew(1, &count, x.type)
    work.in_, work.out, work.mean = x.at, cnp.PyArray_DATA(<cnp.ndarray> sums), mean
    share_segments(fa_group_reduce, &work, x.size)
    return sums


def group_spread_ready(grad, shape, mask, cu_seqlens, reduction):
    """sequence_log_probs_grad, likewise; the shape may be that of the mask, or the end of cu_seqlens."""
    done = spread_plain(grad, shape, mask, cu_seqlens, reduction)
    if done is not None:
        return done
    a = cast_all((grad, mask, cu_seqlens), b"rfi", None)
    return None if a is None else spread_plain(a[0], shape, a[1], a[2], reduction)


cdef object spread_plain(grad, shape, mask, cu_seqlens, reduction):
    cdef fa_segments work
    cdef plain_array g, like, kept
    cdef cnp.npy_intp[2] axes
    cdef int k, ndim, mean = mean_of(reduction)
    if asked_elsewhere() or mean < 0 or not look(grad, &g) or g.ndim != 1 or g.size == 0:
        return None
    if g.type not in (cnp.NPY_FLOAT, cnp.NPY_DOUBLE):
        return None
    if shape is not None:
        if type(shape) is not tuple or len(shape) not in (1, 2):
            return None
        ndim = <int> len(shape)
        for k in range(ndim):
            if type(shape[k]) is not int or not 0 < shape[k] < MOST_LENGTH:
                return None
            axes[k] = shape[k]
    elif mask is not None:
        if not look(mask, &like) or like.ndim not in (1, 2):
            return None
        ndim = like.ndim
        for k in range(ndim):
            axes[k] = like.shape[k]
    else:
        if not look(cu_seqlens, &like) or like.ndim != 1 or like.size < 2:
            return None
        ndim, last = 1, cu_seqlens[like.size - 1]
        if not 0 < last < MOST_LENGTH:
            return None
        axes[0] = last
    out = cnp.PyArray_SimpleNew(ndim, axes, g.type)
    look(out, &like)
    bounds = segments_of(&like, cu_seqlens, &work)
    if bounds is None or work.count != g.size:
        return None
    if mask is not None:
        counts = flags_of(mask, &like, &kept)
        if counts is None:
            return None
        work.mask = <const unsigned char *> kept.at
    work.in_, work.out, work.mean = g.at, cnp.PyArray_DATA(<cnp.ndarray> out), mean
    share_segments(fa_group_spread, &work, like.size)
    return out


cdef enum:
    MOST_LENGTH = 1 << 30  # of an axis: beyond all memory Python says
