"""Arrays that are not plain, made so where little is to be cast, by the rules of fastalign/arrays.py: for a whole call to
be tried again.

Python takes 20 to 100 us for it.  What is wrong, may be, or may warn, is left to it.
"""

cdef enum:
    SMALL_SIZE = 1 << 16  # elements to be cast: a call that declines them after all has them cast again
    PIECE_BYTES = 1 << 16  # of logits whose rows lie in no order that row_work knows: larger ones are walked in pieces
    TO_BE_FOUND = -1


cdef tuple cast_all(tuple given, const char *kinds, out):
    """The arguments of a call as plain arrays; None if all are already, or one cannot be one.

    ``kinds``, of each argument: l logits, whose dtype is that of all numbers; r real numbers, without logits in the
    dtype that all r have in common; n and e numbers in that of the others, e of one axis though it be one; f flags; i
    integers.  No copy is of what shares memory with ``out``, which would not be seen.
    """
    cdef int k, real = TO_BE_FOUND
    cdef bint changed = False
    cdef list found = [], own = []
    if asked_elsewhere():
        return None
    try:
        for k, x in enumerate(given):
            array = x if x is None or cnp.PyArray_CheckExact(x) else read(x, kinds[k])
            if x is not None and array is None:
                return None
            own.append(array)
            if array is not None and kinds[k] == c"l":
                array = plain_logits(<cnp.ndarray> array)
                if array is None:
                    return None
                real = cnp.NPY_DOUBLE if cnp.PyArray_TYPE(<cnp.ndarray> array) == cnp.NPY_DOUBLE else cnp.NPY_FLOAT
            found.append(array)
        if real == TO_BE_FOUND:
            real = cnp.NPY_FLOAT
            for k, array in enumerate(found):
                if array is not None and kinds[k] == c"r" and real_of(<cnp.ndarray> array) == cnp.NPY_DOUBLE:
                    real = cnp.NPY_DOUBLE
        for k, array in enumerate(found):
            if array is None:
                continue
            if kinds[k] == c"f":
                array = plain_flags(<cnp.ndarray> array)
            elif kinds[k] == c"i":
                array = plain_integers(<cnp.ndarray> array)
            elif kinds[k] != c"l":
                array = plain_real(<cnp.ndarray> array, real)
                if array is not None and kinds[k] == c"e" and cnp.PyArray_NDIM(<cnp.ndarray> array) == 0:
                    array = array.reshape(1)
            if array is None:
                return None
            if array is not given[k]:
                changed = True
                if out is not None and not lies_apart(out, own[k]):
                    return None
                found[k] = array
    except Exception:  # a warning that is one; objects in lists that refuse
        return None
    return tuple(found) if changed else None


cdef object read(x, char kind):
    """A list, a tuple, a number or another library's array on the host, as np.asarray reads it, but for lists of real
    numbers in float64; or None."""
    if isinstance(x, (list, tuple)) and len(x) > SMALL_SIZE:
        return None
    made = read_list(<list> x, kind) if type(x) is list else None
    if made is not None:
        return made
    if isinstance(x, (list, tuple, float, int, cnp.generic)):
        return cnp.PyArray_FROM_O(x)
    if type(x) in arrays.in_hand and not arrays.is_device(x):
        return cnp.PyArray_FROM_OF(x, cnp.NPY_ARRAY_ENSUREARRAY)
    return None


@cython.boundscheck(True)  # without a lock of Python's others may shorten a list
cdef object read_list(list x, char kind):
    """Python's own numbers in a list, or in lists of one length: 2 ns each, by NumPy 50 to 200; or None."""
    cdef cnp.npy_intp[2] shape
    cdef Py_ssize_t row, count, rows = len(x)
    cdef bint integers = kind in (c"f", c"i"), taken
    if rows == 0:
        return None
    numbers, nested = x[0], type(x[0]) is list
    count = len(<list> numbers) if nested else rows
    if count == 0 or rows * (count if nested else 1) > SMALL_SIZE:
        return None
    first = (<list> numbers)[0] if nested else numbers
    if not integers and type(first) not in (float, int):  # all may be NumPy's float32, or bools
        return None
    shape[0], shape[1] = rows, count
    made = cnp.PyArray_SimpleNew(2 if nested else 1, shape, cnp.NPY_INT64 if integers else cnp.NPY_DOUBLE)
    to = cnp.PyArray_DATA(<cnp.ndarray> made)
    for row in range(rows if nested else 1):
        numbers = x[row] if nested else x
        if type(numbers) is not list:
            return None
        if integers:
            taken = fa_integers(<list> numbers, count, kind == c"f", <long long *> to + row * count)
        else:
            taken = fa_numbers(<list> numbers, count, <double *> to + row * count)
        if not taken:
            return None
    return made


cdef int real_of(cnp.ndarray x) noexcept:
    """As arrays.real_dtype; -1 of what is no number, or no type of NumPy's own."""
    cdef int type_ = cnp.PyArray_TYPE(x)
    if type_ in (cnp.NPY_FLOAT, cnp.NPY_FLOAT16):
        return cnp.NPY_FLOAT
    return cnp.NPY_DOUBLE if type_ == cnp.NPY_DOUBLE or cnp.PyTypeNum_ISINTEGER(type_) or type_ == cnp.NPY_BOOL else -1


cdef object cast(cnp.ndarray x, int type_):
    """None of a large one."""
    return cnp.PyArray_Cast(x, type_) if cnp.PyArray_SIZE(x) <= SMALL_SIZE else None


cdef object plain_real(cnp.ndarray x, int type_):
    cdef plain_array found
    cdef Py_ssize_t i
    cdef int own = real_of(x)
    if own < 0:
        return None
    if look(x, &found) and found.type == type_:
        return x
    if own == type_ or type_ == cnp.NPY_DOUBLE:
        return cast(x, type_)
    wide = cast(x, cnp.NPY_DOUBLE)
    if wide is None:
        return None
    look(wide, &found)
    for i in range(found.size):
        if not fabs((<const double *> found.at)[i]) <= 2.0 ** 53:  # of others NumPy warns, or rounds them once
            return None
    return cnp.PyArray_Cast(<cnp.ndarray> wide, type_)


cdef object plain_flags(cnp.ndarray x):
    cdef plain_array found
    cdef int type_ = cnp.PyArray_TYPE(x)
    if type_ != cnp.NPY_BOOL and not cnp.PyTypeNum_ISINTEGER(type_):
        return None
    if look(x, &found) and type_ in (cnp.NPY_BOOL, cnp.NPY_BYTE, cnp.NPY_UBYTE, cnp.NPY_INT32, cnp.NPY_UINT32,
                                     cnp.NPY_INT64, cnp.NPY_UINT64):
        return x
    return cast(x, cnp.NPY_BOOL if type_ == cnp.NPY_BOOL else cnp.NPY_INT64)


cdef object plain_integers(cnp.ndarray x):
    cdef plain_array found
    if look(x, &found) and found.type == cnp.NPY_INT64:
        return x
    if not cnp.PyTypeNum_ISINTEGER(cnp.PyArray_TYPE(x)) or cnp.PyArray_TYPE(x) == cnp.NPY_UINT64:  # which would wrap
        return None
    return cast(x, cnp.NPY_INT64)


cdef object plain_logits(cnp.ndarray x):
    cdef plain_array found
    cdef row_spaces spaces
    cdef int type_ = cnp.PyArray_TYPE(x)
    if type_ in (cnp.NPY_FLOAT, cnp.NPY_DOUBLE, cnp.NPY_FLOAT16) or fa_holds_bfloat16(x):
        if look_rows(x, &found, &spaces):
            return x
        few = cnp.PyArray_NBYTES(x) < PIECE_BYTES
        return cnp.PyArray_NewCopy(x, cnp.NPY_CORDER) if few and cnp.PyArray_ISNOTSWAPPED(x) else None
    return cast(x, cnp.NPY_DOUBLE) if type_ == cnp.NPY_BOOL or cnp.PyTypeNum_ISINTEGER(type_) else None


cdef bint lies_apart(out, x) except -1:
    """Whether no output shares memory with this, if it has any; only if they can be outputs."""
    for array in out if type(out) is tuple else (out,):
        if not cnp.PyArray_CheckExact(array) or (cnp.PyArray_CheckExact(x) and may_share_memory(array, x)):
            return False
    return True
