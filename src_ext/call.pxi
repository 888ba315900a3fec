"""Whole calls: arrays that need no cast are recognised, walked, and what a call returns is put together.

What takes Python microseconds to find out takes NumPy's C interface nanoseconds.  A call that is not plain, or wrong,
is given back as None before anything was written, for others to cast or to explain.
"""


cdef extern from "Python.h":
    object new_tuple "PyTuple_Type.tp_new" (PyTypeObject *made, PyObject *arguments, PyObject *named)

ctypedef struct plain_array:
    const void *at
    const cnp.npy_intp *shape
    Py_ssize_t size, bytes_
    int ndim, type
    bint readonly


cdef bint look(array, plain_array *found) noexcept:
    """Whether this is a plain ndarray: contiguous, aligned, native; and what it is like, as long as it lives."""
    if not cnp.PyArray_CheckExact(array) or not cnp.PyArray_ISCARRAY_RO(<cnp.ndarray> array):
        return False
    x = <cnp.ndarray> array
    found.at, found.shape, found.ndim = cnp.PyArray_DATA(x), cnp.PyArray_DIMS(x), cnp.PyArray_NDIM(x)
    found.size, found.bytes_ = cnp.PyArray_SIZE(x), cnp.PyArray_NBYTES(x)
    found.type, found.readonly = cnp.PyArray_TYPE(x), not cnp.PyArray_ISWRITEABLE(x)
    return True


cdef bint alike(const plain_array *one, const plain_array *other) noexcept:
    """Whether both have the same shape."""
    return one.ndim == other.ndim and memcmp(one.shape, other.shape, one.ndim * sizeof(cnp.npy_intp)) == 0


cdef bint overlap(const plain_array *one, const plain_array *other) noexcept:
    return (<const char *> one.at < <const char *> other.at + other.bytes_
            and <const char *> other.at < <const char *> one.at + one.bytes_)


cdef bint meets(const plain_array *one, tuple others, int count) noexcept:
    """Whether an array shares memory with one of the first ``count`` others, all of them plain, or None."""
    cdef plain_array other
    cdef int k
    for k in range(count):
        if others[k] is not None and look(others[k], &other) and overlap(one, &other):
            return True
    return False


cdef bint flags_of(array, const plain_array *like, plain_array *found) noexcept:
    """Whether this is a plain array of that shape whose elements are bools, or bytes of nothing but 0 and 1."""
    if not look(array, found) or not alike(found, like) or found.type not in (cnp.NPY_BOOL, cnp.NPY_UBYTE):
        return False
    return found.type == cnp.NPY_BOOL or not fa_odd_flags(<const unsigned char *> found.at, found.size)


cdef bint asked_elsewhere() noexcept:
    """Whether the environment names another backend: then Python chooses.  os.environ writes through to C's."""
    cdef const char *asked = getenv("FASTALIGN_BACKEND")
    return asked != NULL and asked[0] != 0 and strcmp(asked, "cython") != 0


cdef object new_array(const plain_array *like):
    return cnp.PyArray_EMPTY(like.ndim, <cnp.npy_intp *> like.shape, like.type, 0)


cdef tuple new_arrays(int count, const plain_array *like):
    """Large ones in one piece of memory, since several would each be given back to the system and cost page faults at
    every call (four of 4 MB: 6.8 ms instead of 2.4 for a whole DPO loss)."""
    cdef cnp.npy_intp[MOST_AXES + 1] shape
    cdef int k
    if count > 1 and like.size > ONE_PIECE and like.ndim <= MOST_AXES:
        shape[0] = count
        for k in range(like.ndim):
            shape[1 + k] = like.shape[k]
        return tuple(cnp.PyArray_EMPTY(like.ndim + 1, shape, like.type, 0))
    if count == 1:
        return (new_array(like),)
    return tuple([new_array(like) for _ in range(count)])


cdef enum:
    MOST_AXES = 8
    ONE_PIECE = 10_000  # elements: of less, to make views costs more than to make arrays
    WITH_THE_GIL = 4096  # elements: to let go of it and take it back costs 0.1 us


cdef class Call:
    """One pointwise rule with checked options: of arrays that need no preparation, what fastalign's Rule returns.

    ``rates`` are (name, tally) pairs, or None: no metrics.
    """
    cdef const fa_kind *kind
    cdef double[FA_PARAMS] params
    cdef double weight
    cdef bint mean
    cdef int options, required, wanted
    cdef tuple rates
    cdef int[FA_RESULTS] tally
    cdef object result

    def __init__(self, str family, str kind, tuple options, weight, int required, int wanted, tuple rates, result):
        self.kind, self.rates, self.result = find_kind(family, kind), None, result
        self.options, self.required, self.wanted = len(options), required, wanted
        self.mean, self.weight = weight is None, 1.0 if weight is None else weight
        if self.options >= FA_PARAMS or wanted > self.kind.outputs or (rates is not None and len(rates) > FA_RESULTS):
            raise ValueError(f"{family}_{kind} has no such options or results")
        for k, number in enumerate(options):
            self.params[k] = number
        if rates is not None:
            self.rates = tuple([name for name, _ in rates])
            for k, (_, tally) in enumerate(rates):
                self.tally[k] = tally

    def ready(self, tuple given, mask, out, Py_ssize_t limit):
        """The whole call, if all arrays are plain, of one shape and dtype and of fewer elements than ``limit``."""
        cdef fa_pointwise work
        cdef plain_array first, kept
        cdef plain_array[FA_RESULTS] places
        cdef Py_ssize_t n
        cdef int k
        cdef tuple outputs
        if asked_elsewhere() or not look(given[0], &first) or not 0 < first.size < limit:
            return None
        if first.type not in (cnp.NPY_FLOAT, cnp.NPY_DOUBLE):
            return None
        work.kind, work.single, work.mask, n = self.kind, first.type == cnp.NPY_FLOAT, NULL, first.size
        if mask is not None:
            if not flags_of(mask, &first, &kept):
                return None
            work.mask = <const unsigned char *> kept.at
            n = fa_kept(work.mask, n)
            if n == 0:
                return None
        held = self.takes(given, &first, &work)
        if held is None:
            return None
        if out is None:
            outputs = new_arrays(self.wanted, &first)
        else:
            outputs = (out,) if self.wanted == 1 else out if type(out) is tuple else ()
            if not self.fits(outputs, given, mask, &first):
                return None
        for k in range(self.kind.outputs):
            work.out[k] = cnp.PyArray_DATA(<cnp.ndarray> outputs[k]) if k < self.wanted else NULL
        memcpy(work.p, self.params, sizeof(work.p))
        work.p[self.options] = 1.0 / n if self.mean else self.weight
        cdef double[FA_RESULTS] tallies
        tallies_of(&work, first.size, tallies)
        return self.returned(tallies, n, outputs)

    cdef object takes(self, tuple given, const plain_array *first, fa_pointwise *work):
        """What must live on while the inputs are read; None if one of them is not plain."""
        cdef plain_array other
        cdef int k
        held = True
        if len(given) != self.kind.inputs:
            return None
        for k in range(self.kind.inputs):
            array = given[k]
            if array is None and k >= self.required:
                held = array = held if held is not True else cnp.PyArray_ZEROS(
                    first.ndim, <cnp.npy_intp *> first.shape, first.type, 0)
            if not look(array, &other) or other.type != first.type or not alike(&other, first):
                return None
            work.in_[k] = other.at
        return held

    cdef bint fits(self, tuple outputs, tuple given, mask, const plain_array *first) noexcept:
        """Whether these can be written: plain, of the shape and dtype of the first input, and no part of anything."""
        cdef plain_array one
        cdef int k
        if len(outputs) != self.wanted:
            return False
        for k in range(self.wanted):
            if not look(outputs[k], &one) or one.type != first.type or not alike(&one, first) or one.readonly:
                return False
            if meets(&one, given, <int> len(given)) or meets(&one, outputs, k) or meets(&one, (mask,), 1):
                return False
        return True

    cdef object returned(self, const double *tallies, Py_ssize_t n, tuple outputs):
        """As Rule.returned in fastalign/elementwise.py."""
        cdef double loss = tallies[0] / n if self.mean else tallies[0] * self.weight
        cdef int k, tally
        cdef dict metrics
        cdef tuple values = PyTuple_New(1 + self.wanted + (self.rates is not None))
        put(values, 0, loss)
        for k in range(self.wanted):
            put(values, 1 + k, outputs[k])
        if self.rates is not None:
            metrics = {}
            for k in range(<int> len(self.rates)):
                tally = self.tally[k]
                metrics[self.rates[k]] = (
                    loss if tally == 0 else tallies[tally] / n if tally < self.kind.sums else tallies[tally])
            put(values, 1 + self.wanted, metrics)
        if self.result is None:
            return values
        arguments = (values,)
        return new_tuple(<PyTypeObject *> self.result, <PyObject *> arguments, NULL)


cdef void put(tuple values, Py_ssize_t k, value) noexcept:
    """Into a tuple that nobody has seen yet."""
    Py_INCREF(value)
    PyTuple_SET_ITEM(values, k, value)


cdef int tallies_of(fa_pointwise *work, Py_ssize_t n, double *tallies) except -1:
    """Walk n > 0 elements; the tallies of all blocks, folded in the order of the blocks, as dispatch.fold does."""
    cdef int k, sums = work.kind.sums, count = work.kind.sums + work.kind.peaks
    cdef Py_ssize_t block, blocks = (n + FA_BLOCK - 1) // FA_BLOCK
    cdef double *partials
    if n <= WITH_THE_GIL:
        fa_pointwise_run(work, n, tallies)
        return 0
    partials = <double *> malloc(blocks * count * sizeof(double))
    if partials == NULL:
        raise MemoryError
    with nogil:
        fa_pointwise_run(work, n, partials)
    memcpy(tallies, partials, count * sizeof(double))
    for block in range(1, blocks):
        for k in range(count):
            one = partials[block * count + k]
            tallies[k] = tallies[k] + one if k < sums else fa_peak(tallies[k], one)
    free(partials)
    return 0
