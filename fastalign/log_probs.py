"""Token log-probabilities from logits, and their gradients."""

from typing import Any, NamedTuple

import numpy as np

from . import arrays, threads
from .arrays import Array
from .dispatch import Engine, choose, extension
from .logits import Logits
from .sequences import sequence_log_probs

# The least normal numbers: temperatures and their reciprocals are not smaller.
TINY = {np.dtype(x): float(np.finfo(x).tiny) for x in (np.float32, np.float64)}
INT64 = np.dtype(np.int64)


class TokenLogProbs(NamedTuple):
    """What ``token_log_probs`` returns; each of the shape of the tokens, float32 or float64, in nats; top1 is bool.

    None is what was not asked for.
    """

    logp: Array
    lse: Array
    entropy: Array | None = None
    sum_p2: Array | None = None
    mean_logit: Array | None = None
    top1: Array | None = None


def token_log_probs(
    logits: Array,
    tokens: Array,
    *,
    temperature: float = 1.0,
    mask: Array | None = None,
    ignore_index: int | None = None,
    entropy: bool = False,
    sum_p2: bool = False,
    mean_logit: bool = False,
    top1: bool = False,
    backend: str | None = None,
) -> TokenLogProbs:
    """Log-probability of each token under its row of logits, with the log-sum-exp and, on request, more of the row.

    z = logits / T,   lse = log Σⱼ exp zⱼ,   logp = z_token − lse,   p = exp(z − lse)
    entropy H = −Σⱼ pⱼ log pⱼ,   sum_p2 = Σⱼ pⱼ²,   mean_logit = Σⱼ zⱼ / V,   top1: the token is the first argmax

    logits: (…, V) float64, float32, float16, bfloat16 (ml_dtypes, or its uint16 bits); tokens: (…) integers, not
    shifted: a row of logits predicts the token at its own place.  Rows may lie apart, as those of logits[:, :-1] or
    logits[..., :V]: they are read where they are (by Numba and CUDA copied where fewer than 64 KiB lie together).
    Results in nats, shape (…): float64 for float64 logits, and for integers but uint16, else float32.  T > 0.  mask (1
    = counts) and ignore_index skip rows: these are not read, and give 0.  A NaN makes its row NaN, top1 False; +inf
    gives lse = +inf and logp, H, Σp² = NaN; −inf is a probability of 0; a row of nothing but −inf gives lse = −inf and
    logp, H, Σp² = NaN.  The mean follows arithmetic.  No rows: empty results.  All is computed in one sweep.

    Raises IndexError for a token outside [0, V), ValueError for shapes and options, TypeError for dtypes.
    From shifted sums: H = log S − U/S, Σp² = Q/S² with S = Σ exp(z−m), U = Σ exp(z−m)(z−m), Q = Σ exp(2(z−m)).

    >>> import numpy as np
    >>> from fastalign import token_log_probs
    >>> x = np.array([[1.0, 2.0, 3.0, -np.inf, 0.5]])
    >>> r = token_log_probs(x, [1], entropy=True, sum_p2=True)
    >>> [float(v[0].round(6)) for v in r if v is not None]
    [-1.460773, 3.460773, 0.993015, 0.461722]
    """
    moments = sum_p2, mean_logit, top1
    return _forward(logits, "tokens", tokens, temperature, mask, ignore_index, entropy, None, backend, moments)


def _forward(
    logits: Array,
    name: str,
    tokens: Array,
    temperature: float,
    mask: Array | None,
    ignore_index: int | None,
    entropy: bool,
    out: Array | None,
    backend: str | None,
    moments: tuple[bool, bool, bool] = (False, False, False),
) -> TokenLogProbs:
    """``name`` is what the caller calls the tokens; ``out`` is for logp; ``moments``: which of the last three."""
    core = extension(backend, True) if type(logits) in arrays.in_hand else None
    if core is not None:
        ids, kept = countable(tokens, mask, ignore_index, out)
        plain = logits, ids, temperature, kept
        done = core.row_forward_ready(TokenLogProbs, *plain, entropy, *moments, out, threads.WORTH_SHARING)
        if done is not None:
            return done
    engine = choose(backend, logits, tokens)
    rows, ids, kept, scale = prepare(engine, logits, name, tokens, temperature, mask, ignore_index)
    shape, flat = rows.shape[:-1], (rows.rows,)
    if out is None:
        logp = engine.empty(flat, rows.real, logits)
    else:
        given = [x for x in (logits, tokens, mask) if x is not None]
        logp = arrays.output("out", out, shape, rows.real, given).reshape(flat)
    lse = engine.empty(flat, rows.real, logits)
    types = rows.real, rows.real, rows.real, np.dtype(np.bool_)
    wanted = zip(types, (entropy, *moments), strict=True)
    more = [engine.empty(flat, dtype, logits) if want else None for dtype, want in wanted]
    if rows.rows:
        hits = arrays.flags("top1", more[3], flat)
        engine.rows("row_forward", rows.bits, rows.kind, ids, kept, scale, logp, lse, *more[:3], hits)
    target = logp.reshape(shape) if out is None else out
    return TokenLogProbs(target, lse.reshape(shape), *(None if x is None else x.reshape(shape) for x in more))


def countable(tokens: Any, mask: Any, ignore_index: Any, out: Any = None) -> tuple[Any, Any]:
    """Tokens and mask as a whole call takes them, where a cast is all they lack, or ignore_index stands for a mask.

    Else as they are, or (None, None), which it does not take; what is wrong is said on the long way.  Copies share no
    memory with ``out``, so what they are of must not.
    """
    if ignore_index is None and (type(tokens) is not np.ndarray or tokens.dtype is INT64):
        return tokens, mask
    if type(tokens) is not np.ndarray:
        return None, None
    plain = mask is None or (type(mask) is np.ndarray and mask.dtype == np.bool_ and mask.shape == tokens.shape)
    if out is not None and type(out) is not np.ndarray:  # NumPy would ask it for an array
        return None, None
    if not plain or tokens.dtype.kind not in "iu" or tokens.dtype == np.uint64:  # which would wrap
        return (tokens, mask) if ignore_index is None else (None, None)
    if out is not None and any(x is not None and np.may_share_memory(out, x) for x in (tokens, mask)):
        return None, None
    if ignore_index is not None:
        if type(ignore_index) is not int:
            return None, None
        counts = tokens != ignore_index
        mask = counts if mask is None else counts & mask
    return np.ascontiguousarray(tokens, INT64).reshape(tokens.shape), mask


def prepare(
    engine: Engine,
    logits: Array,
    name: str,
    tokens: Array,
    temperature: float,
    mask: Array | None,
    ignore_index: int | None,
    prefix: str = "",
) -> tuple[Logits, Array, Array | None, float]:
    """Checked; ``name`` is what the caller calls the tokens, ``prefix`` stands before its "logits" and "mask"."""
    rows = Logits(logits, f"{prefix}logits", engine.spaced)
    scale = inverse(temperature, rows.real)
    ids, kept = arrays.tokens(name, tokens, rows.shape[:-1], rows.vocabulary, mask, ignore_index, prefix)
    return rows, ids, kept, scale


def inverse(temperature: float, real: np.dtype) -> float:
    """1 / temperature, checked: both are normal numbers of that dtype."""
    temperature = arrays.number("temperature", temperature, 0.0, above=True)
    if not TINY[real] <= temperature <= 1.0 / TINY[real]:
        raise ValueError(f"temperature is {temperature!r}, too small or too large for {real}")
    return 1.0 / temperature


def token_log_probs_grad(
    logits: Array,
    tokens: Array,
    grad_logp: Array,
    *,
    lse: Array | None = None,
    entropy: Array | None = None,
    grad_entropy: Array | None = None,
    grad_lse: Array | None = None,
    grad_sum_p2: Array | None = None,
    grad_mean_logit: Array | None = None,
    temperature: float = 1.0,
    mask: Array | None = None,
    ignore_index: int | None = None,
    out: Array | None = None,
    backend: str | None = None,
) -> Array:
    """Gradient with respect to the logits of what ``token_log_probs`` returns.

    ∂/∂logitⱼ = (1/T) [ g_logp ([j = token] − pⱼ) + g_lse pⱼ − g_H pⱼ (log pⱼ + H) + 2 g_Σp² pⱼ (pⱼ − Σp²) + g_mean/V ]

    logits, tokens, temperature, mask, ignore_index: as in the forward call; grad_logp, grad_lse, grad_entropy,
    grad_sum_p2, grad_mean_logit: the derivatives of the loss, of the shape of the tokens.  lse and entropy, saved from
    the forward call, spare a sweep; without them, or where |lse| > 64 and its rounding would show, or with grad_sum_p2,
    they are computed again.  Returns (…, V) in the dtype of the logits, rounded once; ``out`` receives it, may be
    ``logits`` itself, and its rows may lie apart.  Skipped rows are not read and get 0.  A logit of −inf gets g_mean /
    (V T), unless it is the token; a row without probabilities (NaN, +inf, nothing but −inf) gets NaN.

    Raises IndexError for a token outside [0, V), ValueError for shapes, options and overlapping arrays, TypeError for
    dtypes; then nothing is written.

    >>> import numpy as np
    >>> from fastalign import token_log_probs_grad
    >>> x = np.array([[1.0, 2.0, 3.0, -np.inf, 0.5]])
    >>> token_log_probs_grad(x, [1], [1.0]).round(6).tolist()
    [[-0.085369, 0.767943, -0.630796, 0.0, -0.051779]]
    """
    core = extension(backend, True) if type(logits) in arrays.in_hand else None
    if core is not None:
        ids, kept = countable(tokens, mask, ignore_index, out)
        reals = grad_logp, grad_lse, grad_entropy, lse, entropy, grad_sum_p2, grad_mean_logit
        done = core.row_backward_ready(logits, ids, reals, temperature, kept, out, threads.WORTH_SHARING)
        if done is not None:
            return done
    engine = choose(backend, logits, tokens, grad_logp)
    rows, ids, kept, scale = prepare(engine, logits, "tokens", tokens, temperature, mask, ignore_index)
    named = {"grad_logp": grad_logp, "grad_lse": grad_lse, "grad_entropy": grad_entropy, "lse": lse, "entropy": entropy}
    named |= {"grad_sum_p2": grad_sum_p2, "grad_mean_logit": grad_mean_logit}
    flat = [_like_tokens(name, x, rows) for name, x in named.items()]
    if flat[0] is None:
        raise TypeError("grad_logp is None; expected an array")
    given = [x for x in (logits, tokens, mask, *named.values()) if x is not None]
    grad = rows.gradient(engine, out, logits, given)
    if rows.rows:
        target = rows.as_rows(grad)
        engine.rows("row_backward", rows.bits, rows.kind, ids, kept, scale, *flat[:5], target, *flat[5:])
        rows.settle(target, grad)
    return grad


def _like_tokens(name: str, x: Array | None, rows: Logits) -> Array | None:
    if x is None:
        return None
    x = arrays.take(name, x)
    if x.shape != rows.shape[:-1]:
        raise ValueError(f"{name} has shape {x.shape}; expected {rows.shape[:-1]}, the shape of tokens")
    arrays.real_dtype(name, x.dtype)
    return arrays.cast_to(name, x, rows.real).reshape((rows.rows,))


def selective_log_softmax(
    logits: Array,
    index: Array,
    *,
    temperature: float = 1.0,
    mask: Array | None = None,
    ignore_index: int | None = None,
    out: Array | None = None,
    backend: str | None = None,
) -> Array:
    """Log-softmax of the logits, gathered at one index per row: ``token_log_probs(...).logp``.

    logp = z_index − log Σⱼ exp zⱼ,   z = logits / T

    index: the shape of the logits without their last axis (several indices per row: ValueError).  Half precision gives
    float32.  Everything else as in ``token_log_probs``; ``out`` receives the result.

    >>> import numpy as np
    >>> from fastalign import selective_log_softmax
    >>> selective_log_softmax(np.zeros((2, 4), np.float32), [0, 3]).tolist()
    [-1.3862943649291992, -1.3862943649291992]
    """
    x = arrays.take("logits", logits)
    if arrays.take("index", index).ndim == x.ndim and x.ndim > 0:
        raise ValueError("index has as many axes as logits; expected one fewer (one index per row)")
    return _forward(x, "index", index, temperature, mask, ignore_index, False, out, backend).logp


def compute_log_probs(
    logits: Array,
    tokens: Array,
    *,
    mask: Array | None = None,
    ignore_index: int | None = None,
    temperature: float = 1.0,
    backend: str | None = None,
) -> Array:
    """Log-probability of each sequence: the sum over its tokens.

    Σₜ log softmax(logitsₜ / T)[tokenₜ]

    logits: (batch, length, V); tokens, mask: (batch, length).  No shift: logits[:, t] predicts tokens[:, t].  Returns
    (batch,), in nats, summed in double; float64 for float64 logits, else float32.  Special values and errors as in
    ``token_log_probs``; a sequence without counting tokens gives 0.

    >>> import numpy as np
    >>> from fastalign import compute_log_probs
    >>> compute_log_probs(np.zeros((1, 3, 2)), [[0, 1, 1]]).round(6).tolist()
    [-2.079442]
    """
    x = arrays.take("logits", logits)
    arrays.rank("logits", x, 3)
    ids = arrays.take("tokens", tokens)
    logp = token_log_probs(x, ids, temperature=temperature, mask=mask, ignore_index=ignore_index, backend=backend).logp
    # Skipped tokens have a log-probability of 0 already: the plain sum is the masked one.
    return sequence_log_probs(logp, backend=backend)
