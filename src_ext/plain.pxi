"""Arrays that need no cast, recognised: what takes Python microseconds takes NumPy's C interface nanoseconds."""


cdef extern from *:
    """
    #define FA_NEW(type, size) ((PyTypeObject *)(type))->tp_alloc((PyTypeObject *)(type), size)

    /* Whether the elements are bfloat16, or its bits; ml_dtypes' type has another number in each process. */
    static int fa_holds_bfloat16(PyArrayObject *array)
    {
        const char *name = PyArray_DESCR(array)->typeobj->tp_name, *dot = strrchr(name, '.');
        if (!PyTypeNum_ISUSERDEF(PyArray_TYPE(array))) return PyArray_TYPE(array) == NPY_UINT16;
        return PyArray_ITEMSIZE(array) == 2 && strcmp(dot ? dot + 1 : name, "bfloat16") == 0;
    }

    /* The low bytes of integers; returns their or, 0 or 1 if they are flags.  To look at each costs a random mask of
     * 65,536 int64 0.33 ms, branches that nothing foretells, so 0.05. */
    #define FA_FLAGS_OF(stem, integer)                                                                         \
        static unsigned long long fa_flags_of_##stem(const integer *x, Py_ssize_t n, unsigned char *flags)      \
        {                                                                                                      \
            integer all = 0;                                                                                   \
            for (Py_ssize_t i = 0; i < n; i++) {                                                               \
                flags[i] = (unsigned char)x[i];                                                                \
                all |= x[i];                                                                                   \
            }                                                                                                  \
            return all;                                                                                        \
        }
    FA_FLAGS_OF(long, unsigned long long)
    FA_FLAGS_OF(int, unsigned)

    /* No Python runs meanwhile, so that the items need no references: 2 ns for each, by Cython's loop 8, by NumPy 50. */
    #include "numpy/arrayscalars.h"
    static int fa_numbers(PyObject *list, Py_ssize_t count, double *to)
    {
        Py_ssize_t i = 0;
        int beyond = 0;
    #ifdef Py_GIL_DISABLED
        Py_BEGIN_CRITICAL_SECTION(list);
    #endif
        if (PyList_GET_SIZE(list) == count)
            for (; i < count; i++) {
                PyObject *const x = PyList_GET_ITEM(list, i);
                PyTypeObject *const type = Py_TYPE(x);
                if (type == &PyFloat_Type || type == &PyDoubleArrType_Type) to[i] = PyFloat_AS_DOUBLE(x);
                else if (type == &PyBool_Type) to[i] = x == Py_True;
                else if (type == &PyFloatArrType_Type) to[i] = PyArrayScalar_VAL(x, Float);
                else if (type == &PyBoolArrType_Type) to[i] = PyArrayScalar_VAL(x, Bool) != 0;
                else if (type == &PyLong_Type) to[i] = (double)PyLong_AsLongLongAndOverflow(x, &beyond);
                else break;
                if (beyond) break;
            }
        else i = -1;
    #ifdef Py_GIL_DISABLED
        Py_END_CRITICAL_SECTION();
    #endif
        return i == count;
    }

    static int fa_integers(PyObject *list, Py_ssize_t count, int bools, long long *to)
    {
        Py_ssize_t i = 0;
        int beyond = 0;
    #ifdef Py_GIL_DISABLED
        Py_BEGIN_CRITICAL_SECTION(list);
    #endif
        if (PyList_GET_SIZE(list) == count)
            for (; i < count; i++) {
                PyObject *const x = PyList_GET_ITEM(list, i);
                if (Py_TYPE(x) == &PyLong_Type) to[i] = PyLong_AsLongLongAndOverflow(x, &beyond);
                else if (bools && Py_TYPE(x) == &PyBool_Type) to[i] = x == Py_True;
                else break;
                if (beyond) break;
            }
        else i = -1;
    #ifdef Py_GIL_DISABLED
        Py_END_CRITICAL_SECTION();
    #endif
        return i == count;
    }
    """
    bint fa_integers(list numbers, Py_ssize_t count, bint bools, long long *to) noexcept
    bint fa_numbers(list numbers, Py_ssize_t count, double *to) noexcept
    object FA_NEW(object type_, Py_ssize_t size)
    unsigned long long fa_flags_of_long(const unsigned long long *x, Py_ssize_t n, unsigned char *flags) noexcept
    unsigned long long fa_flags_of_int(const unsigned *x, Py_ssize_t n, unsigned char *flags) noexcept
    bint fa_holds_bfloat16(cnp.ndarray array) noexcept

cdef extern from "asked.h":
    int fa_asked_elsewhere() noexcept

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
    cdef int k
    x = <cnp.ndarray> array
    found.at, found.shape, found.ndim = cnp.PyArray_DATA(x), cnp.PyArray_DIMS(x), cnp.PyArray_NDIM(x)
    found.size = 1
    for k in range(found.ndim):
        found.size *= found.shape[k]
    found.bytes_ = found.size * cnp.PyArray_ITEMSIZE(x)
    found.type, found.readonly = cnp.PyArray_TYPE(x), not cnp.PyArray_ISWRITEABLE(x)
    return True


ctypedef struct row_spaces:
    # In elements: ``height`` rows lie so far from one another, the next so many so far from those.
    Py_ssize_t height, far, jump


cdef bint look_rows(array, plain_array *found, row_spaces *spaces) noexcept:
    """As ``look``, also of an array whose rows are contiguous and spaced evenly, or in equal pieces that are, as those of
    x[:, :-1], each step going forward; bytes_ reaches from the first row to the end of the last."""
    cdef Py_ssize_t[2] steps, counts
    cdef Py_ssize_t step, size, columns
    cdef int k, level = 0
    if look(array, found):
        columns = found.shape[found.ndim - 1] if found.ndim else 1
        spaces.height, spaces.far, spaces.jump = found.size // max(1, columns), columns, 0
        return True
    if not cnp.PyArray_CheckExact(array) or not cnp.PyArray_ISBEHAVED_RO(<cnp.ndarray> array):
        return False
    x = <cnp.ndarray> array
    found.at, found.shape, found.ndim = cnp.PyArray_DATA(x), cnp.PyArray_DIMS(x), cnp.PyArray_NDIM(x)
    found.size, size = cnp.PyArray_SIZE(x), cnp.PyArray_ITEMSIZE(x)
    found.type, found.readonly = cnp.PyArray_TYPE(x), not cnp.PyArray_ISWRITEABLE(x)
    if found.ndim < 2 or found.size == 0:
        return False
    columns, strides = found.shape[found.ndim - 1], cnp.PyArray_STRIDES(x)
    if columns > 1 and strides[found.ndim - 1] != size:
        return False
    steps[0], steps[1], counts[0], counts[1] = columns, 0, 1, 1
    for k in range(found.ndim - 2, -1, -1):
        if found.shape[k] == 1:
            continue
        step = strides[k] // size
        if step < 0 or step * size != strides[k]:
            return False
        if counts[level] > 1 and step != steps[level] * counts[level]:
            if level == 1:
                return False
            level = 1
        if counts[level] == 1:
            steps[level] = step
        counts[level] *= found.shape[k]
    spaces.height, spaces.far, spaces.jump = counts[0], steps[0], steps[1]
    found.bytes_ = (columns + steps[0] * (counts[0] - 1) + steps[1] * (counts[1] - 1)) * size
    return True


cdef bint lie_apart(const row_spaces *spaces, Py_ssize_t rows, Py_ssize_t columns) noexcept:
    """Whether no two rows share memory."""
    cdef Py_ssize_t far = spaces.far, height = spaces.height, jump = spaces.jump, pieces = rows // spaces.height
    if height == 1 or (pieces > 1 and jump < far):
        far, height, jump, pieces = jump, pieces, far, height
    return (height == 1 or far >= columns) and (pieces == 1 or jump >= far * (height - 1) + columns)


cdef bint in_step(row_spaces *one, row_spaces *other, Py_ssize_t rows) noexcept:
    """Both in pieces of the same height, if they can be."""
    if one.height == rows:
        one.height, one.jump = other.height, one.far * other.height
    elif other.height == rows:
        other.height, other.jump = one.height, other.far * one.height
    return one.height == other.height


cdef bint alike(const plain_array *one, const plain_array *other) noexcept:
    """Whether both have the same shape."""
    cdef int k
    if one.ndim != other.ndim:
        return False
    for k in range(one.ndim):
        if one.shape[k] != other.shape[k]:
            return False
    return True


cdef bint overlap(const plain_array *one, const plain_array *other) noexcept:
    return (<const char *> one.at < <const char *> other.at + other.bytes_
            and <const char *> other.at < <const char *> one.at + one.bytes_)


cdef bint meets(const plain_array *one, tuple others, int count) noexcept:
    """Whether an array shares memory with one of the first ``count`` others, all of them plain, but for rows, or None."""
    cdef plain_array other
    cdef row_spaces spaces
    cdef int k
    for k in range(count):
        if others[k] is not None and look_rows(others[k], &other, &spaces) and overlap(one, &other):
            return True
    return False


cdef object flags_of(array, const plain_array *like, plain_array *found):
    """An array of that shape whose elements are bools, or bytes of nothing but 0 and 1, for as long as it is held: this
    one if it is plain, or a copy of integers; None if it is neither."""
    cdef unsigned long long all = 0
    if not look(array, found) or not alike(found, like):
        return None
    if found.type == cnp.NPY_BOOL:
        return array
    if found.type in (cnp.NPY_UBYTE, cnp.NPY_BYTE):
        return None if fa_odd_flags(<const unsigned char *> found.at, found.size) else array
    if found.type not in (cnp.NPY_INT64, cnp.NPY_INT32, cnp.NPY_UINT64, cnp.NPY_UINT32):
        return None
    flags = cnp.PyArray_SimpleNew(found.ndim, <cnp.npy_intp *> found.shape, cnp.NPY_BOOL)
    to = <unsigned char *> cnp.PyArray_DATA(<cnp.ndarray> flags)
    if found.type in (cnp.NPY_INT64, cnp.NPY_UINT64):
        all = fa_flags_of_long(<const unsigned long long *> found.at, found.size, to)
    else:
        all = fa_flags_of_int(<const unsigned *> found.at, found.size, to)
    return flags if all <= 1 and look(flags, found) else None


cdef Py_ssize_t kept_of(const unsigned char *mask, Py_ssize_t n) noexcept:
    """How many of n elements count; fa_kept has the lanes of an int for it, of which 2^31 is the end."""
    cdef Py_ssize_t kept = 0, at
    for at in range(0, n, 1 << 30):
        kept += fa_kept(mask + at, min(n - at, 1 << 30))
    return kept


cdef bint number_of(x, double *found) noexcept:
    """Whether this is a float, of Python or NumPy's float64, which is one; or an int that is one."""
    if not isinstance(x, float) and type(x) is not int:
        return False
    try:
        found[0] = x
    except OverflowError:
        return False
    return True


def numbers_ready(numbers, Py_ssize_t count):
    """A list of so many floats, integers of 64 bits and bools, of Python's types or NumPy's commonest, in float64, as
    NumPy makes it; None of all others."""
    cdef cnp.npy_intp size = count
    if type(numbers) is not list:
        return None
    made = cnp.PyArray_SimpleNew(1, &size, cnp.NPY_DOUBLE)
    return made if fa_numbers(numbers, count, <double *> cnp.PyArray_DATA(made)) else None


cdef bint asked_elsewhere() noexcept:
    """Whether the environment names another backend: then Python chooses.  os.environ writes through to C's."""
    return fa_asked_elsewhere()


cdef object new_array(const plain_array *like):
    return cnp.PyArray_SimpleNew(like.ndim, <cnp.npy_intp *> like.shape, like.type)


cdef tuple new_arrays(int count, const plain_array *like):
    """As Rule.fresh in fastalign/elementwise.py, which has the larger ones: those in one piece of memory."""
    cdef cnp.npy_intp[MOST_AXES + 1] shape
    cdef int k
    cdef tuple made
    if count > 1 and like.size > ONE_PIECE and like.ndim <= MOST_AXES:
        shape[0] = count
        for k in range(like.ndim):
            shape[1 + k] = like.shape[k]
        return tuple(cnp.PyArray_SimpleNew(like.ndim + 1, shape, like.type))
    made = PyTuple_New(count)
    for k in range(count):
        put(made, k, new_array(like))
    return made


cdef enum:
    MOST_AXES = 8
    ONE_PIECE = 10_000  # elements: of less, to make views costs more than to make arrays
    WITH_THE_GIL = 4096  # elements: to let go of it and take it back costs 0.1 us


cdef object new_tuple(result, Py_ssize_t size):
    """Of the named tuple's class ``result``, or None: a plain one; to be filled at once, by ``put``."""
    return PyTuple_New(size) if result is None else FA_NEW(result, size)


cdef void put(values, Py_ssize_t k, value) noexcept:
    """Into a tuple that nobody has seen yet."""
    Py_INCREF(value)
    PyTuple_SET_ITEM(values, k, value)
