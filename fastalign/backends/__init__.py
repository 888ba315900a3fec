"""The ways to walk a shape.  A backend fills arrays it is given: it allocates nothing, checks nothing, returns nothing.

numpy      reference.py    array-style NumPy, written from the papers: the oracle and the baseline
cython     cython_cpu.py   the compiled extension: the default
numba      numba_cpu/      compiled when first called
cuda       numba_cuda/     device arrays only

Each module has the same functions, one per shape and operation:

row_forward(logits, kind, tokens, mask, scale, logp, lse, entropy, sum_p2, mean_logit, top1)
row_backward(logits, kind, tokens, mask, scale, grad_logp, grad_lse, grad_entropy, lse, entropy, out, grad_sum_p2,
             grad_mean_logit)
pointwise(family, kind, inputs, mask, params, outputs, partials)
scan(kind, rewards, values, next_values, final_values, last_values, terminated, truncated, mask, gamma, lam, layout,
     out, returns)
group_reduce(values, offsets, mask, mean, out, counts)
group_spread(grad, offsets, mask, mean, counts, out)
why_not()    None, or in a line why the backend cannot be used here
warmup()     compile or load what the first call would wait for

and, where a row can be divided among threads,

row_parts(logits, kind, mask, scale, spread, moments, parts, units)

which fills parts[u], the sums of unit u: CUT columns of a row, the units of a row one after the other.  row_forward
then takes ``parts`` and sums nothing, row_backward ``parts`` and the ``units`` to write.  A row is summed part by part
whether it is divided or not.

And, where a row's loss and gradient are computed while it is in the cache,

policy_rows(loss_type, logits, kind, tokens, mask, scale, old, advantages, logp, entropy, out, params, grad_entropy,
            partials, few)

of all rows, or of those for which

takes_policy_rows(columns)

says so.

And, where a pointwise rule's whole call can be taken of arrays that need no cast, or few,

pointwise_ready(rule)

which returns a function of (arrays, mask, out) that returns what the rule does, or None, having written nothing; and
for rows and recurrences scan_ready, row_forward_ready, row_backward_ready, of the extension's build and, where few
enough elements are to stay in one thread, of numba_cpu/whole.py; for sequences group_reduce_ready and
group_spread_ready, and for lists numbers_ready, of the extension's alone.  Such a backend checks and allocates itself.

And, where columns can be divided among threads,

scan_columns(..., first, last)

scan, of layout "TN", of the streams from first to last.

And, where a backend divides its work among threads itself,

shares()

which says whether it does; scan then takes ``threads``, how many, and all other functions ask threads.parts.

Arrays are C-contiguous; what is absent is None.  Logits of kind f16 and bf16 are uint16 bit patterns.  Masks are uint8,
1 = counts; what is masked is not read, and 0 is written there.  partials[k] holds the tallies of elements
k·BLOCK … (k+1)·BLOCK − 1, so that sums do not depend on how the work was divided; of policy_rows those of
``few`` rows each.
"""

import math

BLOCK = 4096
CUT = 1 << 18  # columns: 262,144
PART = 7  # numbers that describe one part


def single_holds(params: tuple[float, ...]) -> bool:
    """Whether a rule may be walked in float32 with these options: 0, ∞, or so far from the ends of float32 that neither
    they nor their products with arrays of any use are infinite there, or lose digits."""
    return all([x == 0.0 or abs(x) == math.inf or 2.0**-100 <= abs(x) <= 2.0**100 for x in params])


def row_units(shape: tuple[int, ...]) -> int:
    """How many parts rows of this shape have."""
    return shape[0] * -(-shape[1] // CUT)
