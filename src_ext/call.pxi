"""Pointwise calls taken whole: recognised, walked, and what they return put together.

A call that is neither plain nor made so by casts.pxi, or wrong, is given back as None before anything was written, for
others to cast or to explain.
"""


cdef class Call:
    """One pointwise rule with checked options: of arrays that need little preparation, what fastalign's Rule returns.

    ``rates`` are (name, tally) pairs, or None: no metrics.
    """
    cdef const fa_kind *kind
    cdef double[FA_PARAMS] params
    cdef double weight
    cdef bint mean, wide
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
        self.wide = not (fa_single_holds(self.params, self.options) and fa_single_holds(&self.weight, 1))
        if rates is not None:
            self.rates = tuple([name for name, _ in rates])
            for k, (_, tally) in enumerate(rates):
                self.tally[k] = tally

    def ready(self, tuple given, mask, out):
        """The whole call, of arrays that are plain, or small ones that can be made so."""
        done = self.plain(given, mask, out)
        return done if done is not None else self.cast(given, mask, out)

    cdef object cast(self, tuple given, mask, out):
        """The whole call, if some arrays are not plain and all can be made so."""
        if len(given) != self.kind.inputs:
            return None
        made = cast_all((*given, mask), b"r" * len(given) + b"f", out)
        return None if made is None else self.plain(made[:len(given)], made[len(given)], out)

    cdef object plain(self, tuple given, mask, out):
        """The whole call, if all arrays are plain, of one shape and dtype."""
        cdef fa_pointwise work
        cdef plain_array first, kept
        cdef Py_ssize_t n
        cdef int k, threads
        cdef tuple outputs
        if asked_elsewhere() or not look(given[0], &first) or first.size == 0:
            return None
        threads = helpers(first.size, FA_BLOCK, first.size)
        if threads == 0:
            return None
        if first.type not in (cnp.NPY_FLOAT, cnp.NPY_DOUBLE):
            return None
        work.kind, work.single, work.mask, n = self.kind, first.type == cnp.NPY_FLOAT, NULL, first.size
        work.wide = self.wide
        if mask is not None:
            counts = flags_of(mask, &first, &kept)
            if counts is None:
                return None
            work.mask = <const unsigned char *> kept.at
            n = kept_of(work.mask, n)
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
        tallies_of(&work, first.size, threads, tallies)
        return self.returned(tallies, n, outputs)

    def rows_ready(self, logits, tokens, old, advantages, temperature, mask, entropy_coef, out, Py_ssize_t limit,
                   Py_ssize_t cached):
        """The same for a policy loss from logits and back: (loss, gradient, log-probabilities, metrics).

        As many rows have their own tallies as fit into ``cached`` bytes, as in policy_rows.py; from ``limit`` elements
        on blocks of them are divided among threads.
        """
        done = self.rows_plain(logits, tokens, old, advantages, temperature, mask, entropy_coef, out, limit, cached)
        if done is not None:
            return done
        a = cast_all((logits, tokens, old, advantages, mask), b"linnf", out)
        return None if a is None else self.rows_plain(
            a[0], a[1], a[2], a[3], temperature, a[4], entropy_coef, out, limit, cached)

    cdef object rows_plain(self, logits, tokens, old, advantages, temperature, mask, entropy_coef, out,
                           Py_ssize_t limit, Py_ssize_t cached):
        cdef row_work work
        cdef policy_work policy
        cdef plain_rows rows
        cdef plain_array one, other
        cdef Py_ssize_t n, few
        cdef int threads
        cdef double[FA_RESULTS] tallies
        cdef double coef, weight
        counts = look_at_rows(logits, tokens, temperature, mask, &rows, &work)
        if counts is None or not number_of(entropy_coef, &coef) or not fabs(coef) <= 1e30:
            return None
        if not look(old, &one) or one.type != rows.real or not alike(&one, &rows.tokens):
            return None
        if not look(advantages, &other) or other.type != rows.real or not alike(&other, &rows.tokens):
            return None
        few = min(FA_BLOCK, max(1, cached // (work.columns * <Py_ssize_t> cnp.PyArray_ITEMSIZE(<cnp.ndarray> logits))))
        threads = 1 if rows.logits.size < limit else helpers(work.rows, few, rows.logits.size)
        n = kept_of(work.mask, work.rows) if work.mask else work.rows
        if threads == 0 or n == 0:
            return None
        made = gradient_of(logits, &rows, out, (tokens, mask, old, advantages), &work)
        if made is None:
            return None
        logp = like_tokens(&rows, rows.real)
        entropy = like_tokens(&rows, rows.real) if coef else None
        weight = 1.0 / n if self.mean else self.weight
        work.logp, work.entropy = cnp.PyArray_DATA(<cnp.ndarray> logp), writable(entropy)
        policy.rule, policy.grad_entropy, policy.old, policy.advantages = self.kind, -coef * weight, one.at, other.at
        memcpy(policy.p, self.params, sizeof(policy.p))
        policy.p[self.options] = weight
        look_past(&work, rows.kind, True)
        policy_tallies(policy_of(rows.kind), &work, &policy, few, threads, tallies)
        if entropy is None:
            return self.returned(tallies, n, (made, logp))
        spread = entropy.sum(dtype="d")  # and Python's product: C would round that and the difference at once
        return self.returned(tallies, n, (made, logp), spread, (coef * weight) * spread)

    cdef object takes(self, tuple given, const plain_array *first, fa_pointwise *work):
        """What must live on while the inputs are read; None if one of them is not plain, or absent alone."""
        cdef plain_array other
        cdef int k
        held = True
        if len(given) != self.kind.inputs:
            return None
        for k in range(self.kind.inputs):
            array = given[k]
            if k >= self.required and (array is None) != (given[self.required] is None):
                return None
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

    cdef object returned(self, const double *tallies, Py_ssize_t n, tuple outputs, spread=None, bonus=None):
        """As Rule.returned in fastalign/elementwise.py; with the sum of entropies, and what it takes off the loss."""
        cdef double loss = tallies[0] / n if self.mean else tallies[0] * self.weight
        cdef int k, tally
        cdef dict metrics
        cdef int count = <int> len(outputs)
        if spread is not None:
            loss -= <double> bonus
        values = new_tuple(self.result, 1 + count + (self.rates is not None))
        put(values, 0, loss)
        for k in range(count):
            put(values, 1 + k, outputs[k])
        if self.rates is not None:
            metrics = {}
            for k in range(<int> len(self.rates)):
                tally = self.tally[k]
                metrics[self.rates[k]] = (
                    loss if tally == 0 else tallies[tally] / n if tally < self.kind.sums else tallies[tally])
            if spread is not None:
                metrics["entropy"] = <double> spread / n
            put(values, 1 + count, metrics)
        return values


cdef class Again:
    """Calls by options: of those that were kept last, found again, whole; all others by ``otherwise``."""
    cdef object otherwise
    cdef list kept

    def __init__(self, otherwise):
        self.otherwise, self.kept = otherwise, []

    def keep(self, tuple options, Call call):
        """Options of types that never change, and what they come to."""
        for pair in self.kept:
            if same(options, pair[0]):
                return
        self.kept.insert(0, (options, call))
        del self.kept[KEPT_OPTIONS:]

    def call(self, tuple options, tuple given, mask, out, backend):
        """As Rules.call in fastalign/elementwise.py, whose place it takes."""
        if backend is None:
            for pair in self.kept:
                if same(options, (<tuple> pair)[0]):
                    done = (<Call> (<tuple> pair)[1]).plain(given, mask, out)
                    if done is None:
                        done = (<Call> (<tuple> pair)[1]).cast(given, mask, out)
                    if done is not None:
                        return done
                    break
        return self.otherwise(options, given, mask, out, backend)


cdef enum:
    KEPT_OPTIONS = 4


cdef bint same(tuple a, tuple b) noexcept:
    """Whether these are the same objects, or floats of one value; of other ones the hash takes as long as a call."""
    cdef Py_ssize_t k
    if len(a) != len(b):
        return False
    for k in range(len(a)):
        if PyTuple_GET_ITEM(a, k) == PyTuple_GET_ITEM(b, k):
            continue
        one, other = a[k], b[k]
        if type(one) is not float or type(other) is not float or <double> one != <double> other:
            return False
    return True


cdef int policy_tallies(policy_loop loop, const row_work *work, const policy_work *policy, Py_ssize_t few, int threads,
                        double *tallies) except -1:
    """Of all rows, ``few`` after few."""
    cdef int sums = policy.rule.sums, count = policy.rule.sums + policy.rule.peaks
    cdef Py_ssize_t k, blocks = (work.rows + few - 1) // few
    cdef double *partials = new_partials(blocks * count)
    for k in range(blocks * count):
        partials[k] = 0.0 if k % count < sums else -INFINITY
    share_blocks(loop, work, policy, few, partials, threads)
    fold(partials, blocks, sums, count, tallies)
    free(partials)
    return 0


cdef int tallies_of(fa_pointwise *work, Py_ssize_t n, int threads, double *tallies) except -1:
    """Walk n > 0 elements."""
    cdef int sums = work.kind.sums, count = work.kind.sums + work.kind.peaks
    cdef Py_ssize_t blocks = (n + FA_BLOCK - 1) // FA_BLOCK
    cdef double *partials
    if n <= WITH_THE_GIL:
        fa_pointwise_run(work, n, tallies)
        return 0
    partials = new_partials(blocks * count)
    share_elements(work, n, partials, threads)
    fold(partials, blocks, sums, count, tallies)
    free(partials)
    return 0


cdef double *new_partials(Py_ssize_t size) except NULL:
    cdef double *partials = <double *> malloc(size * sizeof(double))
    if partials == NULL:
        raise MemoryError
    return partials


cdef void fold(const double *partials, Py_ssize_t blocks, int sums, int count, double *tallies) noexcept:
    """The tallies of all blocks, in the order of the blocks, as dispatch.fold does."""
    cdef Py_ssize_t block
    cdef int k
    memcpy(tallies, partials, count * sizeof(double))
    for block in range(1, blocks):
        for k in range(count):
            one = partials[block * count + k]
            tallies[k] = tallies[k] + one if k < sums else fa_peak(tallies[k], one)
