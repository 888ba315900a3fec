"""Rows: the kinds of logits told apart, and whole calls of those that are plain, or made so by casts.pxi."""


cdef int kind_of(str kind) except -1:
    cdef int k
    for k in range(4):
        if kind == ("f32", "f64", "f16", "bf16")[k]:
            return k
    raise ValueError(f"there are no rows of kind {kind}")


cdef row_loop forward_of(int kind) noexcept:
    return row_forward_f32 if kind == 0 else row_forward_f64 if kind == 1 else \
        row_forward_f16 if kind == 2 else row_forward_bf16


cdef row_loop backward_of(int kind) noexcept:
    return row_backward_f32 if kind == 0 else row_backward_f64 if kind == 1 else \
        row_backward_f16 if kind == 2 else row_backward_bf16


cdef row_loop parts_of(int kind) noexcept:
    return row_parts_f32 if kind == 0 else row_parts_f64 if kind == 1 else \
        row_parts_f16 if kind == 2 else row_parts_bf16


cdef policy_loop policy_of(int kind) noexcept:
    return policy_rows_f32 if kind == 0 else policy_rows_f64 if kind == 1 else \
        policy_rows_f16 if kind == 2 else policy_rows_bf16


SPACED = True  # as ``read_rows`` takes them; asked for by fastalign/backends/cython_cpu.py


cdef void read_rows(row_work *work, logits, tokens, mask, double scale):
    memset(work, 0, sizeof(row_work))
    work.rows, work.columns = logits.shape
    work.logits, work.scale = address(logits), scale
    work.height, work.far = work.rows, logits.strides[0] // logits.itemsize
    work.tokens, work.mask = <const long long *> address(tokens), <const unsigned char *> address(mask)


cdef void write_rows(row_work *work, out):
    """Where gradients go: as many rows as the logits have, spaced evenly, as those of the logits are."""
    work.out, work.out_far = writable(out), out.strides[0] // out.itemsize


cdef void look_past(row_work *work, int kind, bint keeps) noexcept:
    """How the gradient is to be written; ``keeps``: whether it is made of the exponentials of its own sums."""
    cdef Py_ssize_t size = sizeof(float) if kind == 0 else sizeof(double)
    cdef bint inside = work.out == work.logits
    work.keeps = keeps and work.columns <= FA_ROW_CUT
    work.stream = kind < 2 and not inside and work.rows * work.columns * size >= FA_ROW_STREAM
    work.room_bytes = work.columns * size if kind < 2 and work.keeps and (work.stream or inside) else 0


cdef void *room_of(const row_work *work) noexcept nogil:
    return malloc(work.room_bytes) if work.room_bytes else NULL


ctypedef struct rows_loop:
    row_loop loop
    const row_work *work


cdef void some_rows(void *loop, ptrdiff_t a, ptrdiff_t b) noexcept nogil:
    cdef rows_loop *all = <rows_loop *> loop
    cdef row_work some = all.work[0]
    some.first, some.last, some.room = all.work.first + a, all.work.first + b, room_of(&some)
    all.loop(&some)
    free(some.room)


cdef int row_helpers(const row_work *work, Py_ssize_t grain, Py_ssize_t limit=0) except -1:
    """Who is asked for from ``limit`` elements on.

    An element of a row costs a fraction of one elsewhere: 8 x 32,000, one thread 45 us, two 53; 16 x 32,000, 74, 70.
    """
    cdef Py_ssize_t size = work.rows * work.columns // 2
    return 1 if size < limit else helpers(work.last - work.first, grain, size)


cdef void share_rows(row_loop loop, const row_work *work, Py_ssize_t grain, int threads) noexcept:
    """Units first to last, cut at multiples of ``grain``."""
    cdef rows_loop all
    all.loop, all.work = loop, work
    with nogil:
        fa_share(some_rows, &all, work.last - work.first, grain, threads)


def row_forward(logits, str kind, tokens, mask, double scale, logp, lse, entropy=None, sum_p2=None, mean_logit=None,
                top1=None, parts=None):
    cdef row_work work
    cdef row_loop loop = forward_of(kind_of(kind))
    read_rows(&work, logits, tokens, mask, scale)
    work.parts, work.last = <fa_row *> address(parts), work.rows
    work.logp, work.lse, work.entropy = writable(logp), writable(lse), writable(entropy)
    work.sum_p2, work.mean_logit, work.top1 = writable(sum_p2), writable(mean_logit), <unsigned char *> writable(top1)
    share_rows(loop, &work, 1, row_helpers(&work, 1))


def row_backward(logits, str kind, tokens, mask, double scale, grad_logp, grad_lse, grad_entropy, lse, entropy, out,
                 grad_sum_p2, grad_mean_logit, parts, Py_ssize_t first, Py_ssize_t last, Py_ssize_t grain):
    """Whoever begins within a row, where grain is 1, must find all that is needed of it in what was saved, or in parts:
    others may have written the rest of it."""
    cdef row_work work
    cdef row_loop loop = backward_of(kind_of(kind))
    read_rows(&work, logits, tokens, mask, scale)
    work.parts, work.first, work.last = <fa_row *> address(parts), first, last
    work.grad_logp, work.grad_lse, work.grad_entropy = address(grad_logp), address(grad_lse), address(grad_entropy)
    work.grad_sum_p2, work.grad_mean_logit = address(grad_sum_p2), address(grad_mean_logit)
    work.lse, work.entropy = <void *> address(lse), <void *> address(entropy)
    write_rows(&work, out)
    look_past(&work, kind_of(kind), keeps_all(&work))
    share_rows(loop, &work, grain, row_helpers(&work, grain))


def row_parts(logits, str kind, mask, double scale, bint spread, bint moments, parts, Py_ssize_t first, Py_ssize_t last):
    cdef row_work work
    cdef row_loop loop = parts_of(kind_of(kind))
    read_rows(&work, logits, None, mask, scale)
    work.parts, work.first, work.last = <fa_row *> writable(parts), first, last
    work.want = (FA_ENTROPY if spread else 0) | (FA_MOMENTS if moments else 0)
    share_rows(loop, &work, 1, row_helpers(&work, 1))


ctypedef struct policy_rows_loop:
    policy_loop loop
    const row_work *work
    const policy_work *policy
    Py_ssize_t few
    double *partials


cdef void some_blocks(void *loop, ptrdiff_t a, ptrdiff_t b) noexcept nogil:
    cdef policy_rows_loop *all = <policy_rows_loop *> loop
    cdef row_work some = all.work[0]
    cdef ptrdiff_t block
    some.room = room_of(&some)
    for block in range(a, b):
        some.first, some.last = block * all.few, min(some.rows, (block + 1) * all.few)
        all.loop(&some, all.policy, all.partials + block * (all.policy.rule.sums + all.policy.rule.peaks))
    free(some.room)


def policy_rows(str loss_type, logits, str kind, tokens, mask, double scale, old, advantages, logp, entropy, out,
                tuple params, double grad_entropy, double[:, ::1] partials, Py_ssize_t few):
    cdef row_work work
    cdef policy_work policy
    policy.rule, policy.grad_entropy = find_kind("policy", loss_type), grad_entropy
    policy.old, policy.advantages = address(old), address(advantages)
    for k, number in enumerate(params):
        policy.p[k] = number
    read_rows(&work, logits, tokens, mask, scale)
    work.logp, work.entropy = writable(logp), writable(entropy)
    write_rows(&work, out)
    look_past(&work, kind_of(kind), True)
    share_blocks(policy_of(kind_of(kind)), &work, &policy, few, &partials[0, 0],
                 pool.parts(work.rows, few, work.rows * work.columns))


cdef void share_blocks(policy_loop loop, const row_work *work, const policy_work *policy, Py_ssize_t few,
                       double *partials, int threads) noexcept:
    """All rows, ``few`` after few; each block adds to its own partials."""
    cdef policy_rows_loop all
    all.loop, all.work, all.policy, all.few, all.partials = loop, work, policy, few, partials
    with nogil:
        fa_share(some_blocks, &all, (work.rows + few - 1) // few, 1, threads)


ctypedef struct plain_rows:
    plain_array logits, tokens
    row_spaces spaces
    int kind, real


cdef object look_at_rows(logits, tokens, temperature, mask, plain_rows *found, row_work *work):
    """What is to be held while rows and tokens, which are plain, and right, are walked; None if they are not."""
    cdef plain_array kept
    cdef double t
    cdef Py_ssize_t r
    memset(work, 0, sizeof(row_work))
    if asked_elsewhere() or not look_rows(logits, &found.logits, &found.spaces) or not look(tokens, &found.tokens):
        return None
    x, y = &found.logits, &found.tokens
    if x.size == 0 or y.type != cnp.NPY_INT64 or x.ndim != y.ndim + 1:
        return None
    if memcmp(x.shape, y.shape, y.ndim * sizeof(cnp.npy_intp)) or not number_of(temperature, &t):
        return None
    found.kind = 0 if x.type == cnp.NPY_FLOAT else 1 if x.type == cnp.NPY_DOUBLE else 2 if x.type == cnp.NPY_FLOAT16 else \
        3 if fa_holds_bfloat16(<cnp.ndarray> logits) else -1
    found.real = cnp.NPY_DOUBLE if found.kind == 1 else cnp.NPY_FLOAT
    if found.kind < 0 or not 1e-30 < t < 1e30:  # what is nearer to the bounds, others know
        return None
    work.logits, work.tokens, work.scale = x.at, <const long long *> y.at, 1.0 / t
    work.rows, work.columns = y.size, x.shape[x.ndim - 1]
    work.height, work.far, work.jump = found.spaces.height, found.spaces.far, found.spaces.jump
    if work.columns > FA_ROW_CUT:  # the loops differ in what they count: rows, and parts of them
        return None
    work.last = work.rows
    if mask is not None:
        counts = flags_of(mask, y, &kept)
        if counts is None:
            return None
        work.mask = <const unsigned char *> kept.at
    for r in range(work.rows):
        if not 0 <= work.tokens[r] < work.columns and (work.mask == NULL or work.mask[r]):
            return None
    return True if mask is None else counts


cdef object gradient_of(logits, plain_rows *rows, out, tuple others, row_work *work):
    """Where the gradient goes, a new array or ``out``; None if it cannot be written there: it must be like the logits, if
    it is not the logits, and no part of others."""
    cdef plain_array target
    cdef row_spaces spaces
    made = new_array(&rows.logits) if out is None else out
    if not look_rows(made, &target, &spaces):
        return None
    if out is not None:
        if target.type != rows.logits.type or not alike(&target, &rows.logits) or target.readonly:
            return None
        if not lie_apart(&spaces, work.rows, work.columns) or meets(&target, others, <int> len(others)):
            return None
        if out is not logits and overlap(&target, &rows.logits):
            return None
    if not in_step(&rows.spaces, &spaces, work.rows):
        return None
    work.height, work.far, work.jump = rows.spaces.height, rows.spaces.far, rows.spaces.jump
    work.out, work.out_far, work.out_jump = <void *> target.at, spaces.far, spaces.jump
    return made


cdef object like_tokens(const plain_rows *rows, int type_):
    return cnp.PyArray_SimpleNew(rows.tokens.ndim, <cnp.npy_intp *> rows.tokens.shape, type_)


cdef void walk_rows(row_loop loop, const row_work *work, int threads) noexcept:
    cdef rows_loop all
    if work.rows * work.columns <= WITH_THE_GIL:
        all.loop, all.work = loop, work
        some_rows(&all, 0, work.last - work.first)
    else:
        share_rows(loop, work, 1, threads)


def row_forward_ready(result, logits, tokens, temperature, mask, bint entropy, bint sum_p2, bint mean_logit, bint top1,
                      out, Py_ssize_t limit):
    """token_log_probs's ``result``, its six fields, the first into ``out``; None where anything is unusual or wrong.

    From ``limit`` elements on it is divided among threads.
    """
    done = forward_plain(result, logits, tokens, temperature, mask, entropy, sum_p2, mean_logit, top1, out, limit)
    if done is not None:
        return done
    a = cast_all((logits, tokens, mask), b"lif", out)
    return None if a is None else forward_plain(
        result, a[0], a[1], temperature, a[2], entropy, sum_p2, mean_logit, top1, out, limit)


cdef object forward_plain(result, logits, tokens, temperature, mask, bint entropy, bint sum_p2, bint mean_logit,
                          bint top1, out, Py_ssize_t limit):
    cdef row_work work
    cdef plain_rows rows
    cdef plain_array target
    cdef int k, threads
    counts = look_at_rows(logits, tokens, temperature, mask, &rows, &work)
    if counts is None:
        return None
    threads = row_helpers(&work, 1, limit)
    if threads == 0:
        return None
    if out is not None:
        if not look(out, &target) or target.type != rows.real or not alike(&target, &rows.tokens) or target.readonly:
            return None
        if meets(&target, (logits, tokens, mask), 3):
            return None
    values = new_tuple(result, 6)
    cdef bint[6] wanted
    cdef (void *)[6] places
    wanted[0], wanted[1], wanted[2], wanted[3], wanted[4], wanted[5] = True, True, entropy, sum_p2, mean_logit, top1
    for k in range(6):
        array = None
        if k == 0 and out is not None:
            array = out
        elif wanted[k]:
            array = like_tokens(&rows, cnp.NPY_BOOL if k == 5 else rows.real)
        places[k] = cnp.PyArray_DATA(<cnp.ndarray> array) if wanted[k] else NULL
        put(values, k, array)
    work.logp, work.lse, work.entropy = places[0], places[1], places[2]
    work.sum_p2, work.mean_logit, work.top1 = places[3], places[4], <unsigned char *> places[5]
    walk_rows(forward_of(rows.kind), &work, threads)
    return values


def row_backward_ready(logits, tokens, tuple reals, temperature, mask, out, Py_ssize_t limit):
    """The gradient; None where anything is unusual or wrong.

    ``reals`` are grad_logp, grad_lse, grad_entropy, lse, entropy, grad_sum_p2, grad_mean_logit; all but the first may
    be None.  ``out`` may be the logits themselves.  From ``limit`` elements on it is divided among threads.
    """
    if reals[0] is None:
        return None
    done = backward_plain(logits, tokens, reals, temperature, mask, out, limit)
    if done is not None:
        return done
    a = cast_all((logits, tokens, mask, *reals), b"lifnnnnnnn", out)
    return None if a is None else backward_plain(a[0], a[1], a[3:], temperature, a[2], out, limit)


cdef object backward_plain(logits, tokens, tuple reals, temperature, mask, out, Py_ssize_t limit):
    cdef row_work work
    cdef plain_rows rows
    cdef plain_array one
    cdef (const void *)[7] places
    cdef int k, threads
    counts = look_at_rows(logits, tokens, temperature, mask, &rows, &work)
    if counts is None:
        return None
    threads = row_helpers(&work, 1, limit)
    if threads == 0:
        return None
    for k in range(7):
        places[k] = NULL
        if reals[k] is not None:
            if not look(reals[k], &one) or one.type != rows.real or not alike(&one, &rows.tokens):
                return None
            places[k] = one.at
    made = gradient_of(logits, &rows, out, (*reals, tokens, mask), &work)
    if made is None:
        return None
    work.grad_logp, work.grad_lse, work.grad_entropy = places[0], places[1], places[2]
    work.lse, work.entropy = <void *> places[3], <void *> places[4]
    work.grad_sum_p2, work.grad_mean_logit = places[5], places[6]
    look_past(&work, rows.kind, keeps_all(&work))
    walk_rows(backward_of(rows.kind), &work, threads)
    return made
