"""From logits to loss and back, with nothing of the size of the logits in between.

The policy losses are of single tokens: a row is finished while it is in the cache.  A preference loss needs the sums of
whole sequences before it has a slope: two sweeps.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from . import arrays, policy_rows, threads
from .arrays import Array
from .at_once import FEW
from .dispatch import Engine, choose, extension
from .elementwise import kept_count
from .log_probs import TokenLogProbs, countable, prepare, token_log_probs_grad
from .policy import RATES, entropy_weight, policy_options, policy_result
from .policy_rows import Rows
from .preference import preference_loss
from .sequences import checked_references, reduce_sequences, sequence_log_probs, sequence_log_probs_grad


class FusedLoss(NamedTuple):
    """What ``policy_loss_from_logits`` returns; logp has the shape of the tokens, grad_logits that of the logits."""

    loss: float
    grad_logits: Array
    logp: Array
    metrics: dict[str, float]


def policy_loss_from_logits(
    logits: Array,
    tokens: Array,
    old_log_probs: Array,
    advantages: Array,
    *,
    mask: Array | None = None,
    ignore_index: int | None = None,
    temperature: float = 1.0,
    entropy_coef: float = 0.0,
    loss_type: str = "ppo",
    clip_low: float = 0.2,
    clip_high: float | None = None,
    log_ratio_clamp: float | None = 20.0,
    aggregation: str = "token_mean",
    out: Array | None = None,
    backend: str | None = None,
) -> FusedLoss:
    """``policy_loss`` of the tokens' log-probabilities, with the gradient taken back to the logits in the same sweep.

    logp = log softmax(logits / T)[token],   loss = policy_loss(logp, old, A) − c · mean H,   ∂loss/∂logits

    logits: (…, V) and tokens: (…), as in ``token_log_probs``; old_log_probs and advantages: of the shape of the tokens,
    cast to float64 for float64 logits, else to float32.  c = entropy_coef weighs the entropy H of the rows, averaged or
    summed as aggregation says, and adds the metric entropy.  Options, metrics, masks, special values and errors as in
    ``token_log_probs`` and ``policy_loss``; the results are those of the separate calls.  grad_logits has the dtype of
    the logits; ``out`` receives it and may be ``logits`` itself, whose rows may lie apart: memory is then read once and
    written once, and nothing larger than a row for each thread is allocated.

    >>> import numpy as np
    >>> from fastalign import policy_loss_from_logits
    >>> logits = np.array([[1.0, 2.0, 3.0], [0.5, 0.5, 0.0]])
    >>> r = policy_loss_from_logits(logits, [2, 0], [-0.5, -1.0], [1.0, -0.5], out=logits)
    >>> round(r.loss, 6), r.grad_logits is logits, logits.round(4).tolist()
    (-0.28768, True, [[0.0494, 0.1342, -0.1836], [0.1607, -0.1, -0.0607]])
    """
    core = extension(backend) if type(logits) in arrays.in_hand else None
    if core is not None:
        whole = _whole(core, loss_type, clip_low, clip_high, log_ratio_clamp, aggregation)
        ids, kept = countable(tokens, mask, ignore_index, out)
        arguments = logits, ids, old_log_probs, advantages, temperature, kept, entropy_coef, out
        done = whole(*arguments, threads.WORTH_SHARING, policy_rows.CACHED)
        if done is not None:
            return done
    engine = choose(backend, logits, tokens, old_log_probs, advantages)
    options = policy_options(loss_type, clip_low, clip_high, log_ratio_clamp, aggregation)
    rows, ids, kept, scale = prepare(engine, logits, "tokens", tokens, temperature, mask, ignore_index)
    coef = entropy_weight(entropy_coef, rows.real)
    shape, flat = rows.shape[:-1], (rows.rows,)
    both = arrays.reals(old_log_probs=old_log_probs, advantages=advantages)
    if both[0].shape != shape:  # reals has seen to it that they are alike
        raise ValueError(f"old_log_probs has shape {both[0].shape}; expected {shape}, the shape of tokens")
    names = ("old_log_probs", "advantages")
    old, advantage = (arrays.cast_to(name, x, rows.real).reshape(flat) for name, x in zip(names, both, strict=True))
    given = [x for x in (logits, tokens, mask, old_log_probs, advantages) if x is not None]
    grad = rows.gradient(engine, out, logits, given)
    target = rows.as_rows(grad)
    logp = engine.empty(flat, rows.real, logits)
    n = rows.rows if kept is None else kept_count(engine, kept)
    weight = 1.0 / n if n and options.mean else 1.0
    entropy = engine.empty(flat, rows.real, logits) if coef else None
    own = arrays.take("logp", logp)  # with NumPy's dtype, whichever library's array it is
    work = Rows(rows.bits, rows.kind, ids, kept, scale, old, advantage, own, entropy, target)
    tallies = policy_rows.policy_rows(engine, options.loss_type, work, (*options.bounds, weight), -coef * weight)
    rows.settle(target, grad)
    loss, metrics = policy_result(tallies, n, options)
    if entropy is not None:
        spread = float(engine.host(entropy).sum(dtype=np.float64))
        loss -= coef * weight * spread
        metrics["entropy"] = spread / n if n else math.nan
    return FusedLoss(loss, grad, logp.reshape(shape), metrics)


@arrays.remembered
def _whole(core: Any, *given: Any) -> Any:
    """The call of these options that the extension takes whole."""
    options = policy_options(*given)
    weight = None if options.mean else 1.0
    return core.Call("policy", options.loss_type, options.bounds, weight, 3, 1, RATES, FusedLoss).rows_ready


class FusedPreferenceLoss(NamedTuple):
    """What ``dpo_loss_from_logits`` returns: gradients of the shape of the logits, then one element per pair."""

    loss: float
    grad_chosen_logits: Array
    grad_rejected_logits: Array
    chosen_logps: Array
    rejected_logps: Array
    chosen_rewards: Array
    rejected_rewards: Array
    metrics: dict[str, float]


def dpo_loss_from_logits(
    chosen_logits: Array,
    chosen_tokens: Array,
    rejected_logits: Array,
    rejected_tokens: Array,
    ref_chosen_logps: Array | None = None,
    ref_rejected_logps: Array | None = None,
    *,
    chosen_mask: Array | None = None,
    rejected_mask: Array | None = None,
    chosen_cu_seqlens: Array | None = None,
    rejected_cu_seqlens: Array | None = None,
    ignore_index: int | None = None,
    temperature: float = 1.0,
    reduction: str = "sum",
    loss_type: str = "sigmoid",
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    out: tuple[Array, Array] | None = None,
    backend: str | None = None,
) -> FusedPreferenceLoss:
    """``preference_loss`` of the sequences' log-probabilities, with the gradient taken back to the logits.

    log π(y) = Σₜ log softmax(logitsₜ / T)[tokenₜ], or its mean,   loss = preference_loss(log π),   ∂loss/∂logits

    Per side, chosen and rejected: logits (batch, length, V) with tokens and mask (batch, length), of lengths that may
    differ; or packed, logits (N, V) with tokens and mask (N,) and cu_seqlens (batch + 1).  No shift: logits[:, t]
    predicts tokens[:, t].  The logits are the policy's, of one dtype; the reference enters as ref_*_logps (batch,),
    cast to float64 for float64 logits, else to float32; None counts as 0.  Options, metrics, masks, special values and
    errors as in ``token_log_probs``, ``sequence_log_probs`` (reduction) and ``preference_loss``; the results are those
    of the separate calls.  The logits are read twice: a pair's slope needs the sums of both its sequences.  Nothing of
    their size is allocated but the gradients, which have their dtype; ``out``, the pair (chosen, rejected), receives
    these, may be the logits themselves, and its rows may lie apart.

    >>> import numpy as np
    >>> from fastalign import dpo_loss_from_logits
    >>> chosen, rejected = np.array([[[1.0, 2.0], [0.0, 1.0]]]), np.array([[[2.0, 1.0]]])
    >>> r = dpo_loss_from_logits(chosen, [[1, 1]], rejected, [[1]], [-1.0], [-1.0], beta=0.5)
    >>> round(r.loss, 6), r.chosen_logps.round(6).tolist(), r.grad_rejected_logits.round(6).tolist()
    (0.536129, [-0.626523], [[[-0.151691, 0.151691]]])
    """
    options: dict[str, Any] = {
        "loss_type": arrays.kind("loss_type", loss_type, "pair"),
        "beta": arrays.number("beta", beta, 0.0, above=True),
        "label_smoothing": arrays.number("label_smoothing", label_smoothing, 0.0, 1.0),
    }
    mean = arrays.choice("reduction", reduction, ("sum", "mean")) == "mean"
    common = temperature, ignore_index
    if chosen_cu_seqlens is None and rejected_cu_seqlens is None:
        given = (chosen_logits, chosen_tokens, chosen_mask), (rejected_logits, rejected_tokens, rejected_mask)
        done = _at_once(*given, (ref_chosen_logps, ref_rejected_logps), *common, reduction, options, out, backend)
        if done is not None:
            return done
    engine = choose(backend, chosen_logits, chosen_tokens, rejected_logits, rejected_tokens)
    chosen = _Side(engine, "chosen_", chosen_logits, chosen_tokens, chosen_mask, chosen_cu_seqlens, *common)
    rejected = _Side(engine, "rejected_", rejected_logits, rejected_tokens, rejected_mask, rejected_cu_seqlens, *common)
    first, second = chosen.rows.dtype, rejected.rows.dtype
    if first != second:
        raise TypeError(f"rejected_logits has dtype {second}; expected {first}, the dtype of chosen_logits")
    if rejected.count != chosen.count:
        raise ValueError(f"rejected_logits holds {rejected.count} sequences; expected {chosen.count}, as chosen_logits")
    ref = {"ref_chosen_logps": ref_chosen_logps, "ref_rejected_logps": ref_rejected_logps}
    references = checked_references(chosen.count, chosen.rows.real, ref)
    _place_gradients(engine, out, chosen, rejected, [x for x in ref.values() if x is not None])

    logps = [side.forward(engine, mean) for side in (chosen, rejected)]
    result = preference_loss(*logps, *references, **options, backend=backend)
    # Tried without effect, 16 to 131 MB: the rejected side first, whose last rows might still be in a cache.
    chosen.backward(engine, mean, result.grad_chosen)
    rejected.backward(engine, mean, result.grad_rejected)
    rewards = result.chosen_rewards, result.rejected_rewards
    return FusedPreferenceLoss(result.loss, chosen.grad, rejected.grad, logps[0], logps[1], *rewards, result.metrics)


def _at_once(
    chosen: tuple[Any, ...], rejected: tuple[Any, ...], refs: tuple[Any, Any], temperature: float, ignore: Any,
    reduction: str, options: dict[str, Any], out: Any, backend: str | None,
) -> FusedPreferenceLoss | None:  # fmt: skip
    """Few logits of answers of one length, by the calls that this is made of; None where anything is unusual or wrong.

    The way below costs 150 µs, whatever the sizes.
    """
    sides = chosen, rejected
    for (logits, *_), (other, *_) in zip(sides, sides[::-1], strict=True):
        if type(logits) is not np.ndarray or logits.ndim != 3 or logits.size > FEW // 2:
            return None
        if type(other) is not np.ndarray or other.dtype != logits.dtype or other.shape[:1] != logits.shape[:1]:
            return None
        if logits.dtype.kind in "biu" and logits.dtype != np.uint16:  # gradients are of another dtype
            return None
    core = extension(backend, True)
    if core is None or any(x is not None and type(x) is not np.ndarray for x in refs):
        return None
    rows, logps = [], []
    for logits, tokens, mask in sides:
        ids, kept = countable(tokens, mask, ignore)
        if type(ids) is not np.ndarray:
            return None
        wanted = (False,) * 4
        r = core.row_forward_ready(TokenLogProbs, logits, ids, temperature, kept, *wanted, None, threads.WORTH_SHARING)
        if r is None:
            return None
        logps.append(sequence_log_probs(r.logp, mask=kept, reduction=reduction, backend=backend))
        rows.append((ids, kept, r.lse))
    names = "ref_chosen_logps", "ref_rejected_logps"
    references = checked_references(len(logps[0]), logps[0].dtype, dict(zip(names, refs, strict=True)))
    result = preference_loss(*logps, *references, **options, backend=backend)
    if out is not None:
        read = ([x for x in side if x is not None] for side in sides)
        _check_outputs(out, [(x[0].shape, x[0].dtype, x) for x in read], [x for x in refs if x is not None])
    grads = []
    slopes = result.grad_chosen, result.grad_rejected
    for (logits, *_), (ids, kept, lse), slope, place in zip(sides, rows, slopes, out or (None, None), strict=True):
        each = sequence_log_probs_grad(slope, ids.shape, mask=kept, reduction=reduction, backend=backend)
        here = {"lse": lse, "temperature": temperature, "mask": kept, "out": place, "backend": backend}
        grads.append(token_log_probs_grad(logits, ids, each, **here))
    rewards = result.chosen_rewards, result.rejected_rewards
    return FusedPreferenceLoss(result.loss, grads[0], grads[1], logps[0], logps[1], *rewards, result.metrics)


class _Side:
    """The chosen or the rejected answers: rows of logits, what counts of them, and where the sequences begin."""

    grad: Any  # of the shape of the logits

    def __init__(
        self, engine: Engine, prefix: str, logits: Any, tokens: Any, mask: Any, cu_seqlens: Any, temperature: float,
        ignore: int | None,
    ) -> None:  # fmt: skip
        given = arrays.take(f"{prefix}logits", logits)
        if given.ndim != (3 if cu_seqlens is None else 2):
            wanted = "(batch, length, V); packed ones need" if cu_seqlens is None else "(tokens, V), packed, with"
            raise ValueError(f"{prefix}logits has shape {given.shape}; expected {wanted} {prefix}cu_seqlens")
        self.rows, self.ids, self.kept, self.scale = prepare(
            engine, given, f"{prefix}tokens", tokens, temperature, mask, ignore, prefix=prefix
        )
        if cu_seqlens is None:
            self.offsets = np.arange(given.shape[0] + 1, dtype=np.int64) * given.shape[1]
        else:
            self.offsets = arrays.offsets(cu_seqlens, self.rows.rows, f"{prefix}cu_seqlens")
        self.count, self.logits = len(self.offsets) - 1, logits
        self.inputs = [x for x in (logits, tokens, mask, cu_seqlens) if x is not None]

    def forward(self, engine: Engine, mean: bool) -> Array:
        """The log-probability of each sequence."""
        rows, flat = self.rows, (self.rows.rows,)
        logp, self.lse = (engine.empty(flat, rows.real, self.logits) for _ in range(2))
        if rows.rows:
            engine.rows("row_forward", rows.bits, rows.kind, self.ids, self.kept, self.scale, logp, self.lse, None)
        logp = arrays.take("logp", logp)
        sums, self.counts = reduce_sequences(engine, logp, self.offsets, self.kept, mean, self.logits)
        return sums

    def backward(self, engine: Engine, mean: bool, grad: Array) -> None:
        """Fill ``grad``, from the derivatives by the sequences' log-probabilities."""
        rows = self.rows
        if not rows.rows:
            return
        each = engine.empty((rows.rows,), rows.real, self.logits)
        engine.group_spread(grad, engine.place(self.offsets), self.kept, mean, self.counts, each)
        saved = each, None, None, self.lse, None
        target = rows.as_rows(self.grad)
        engine.rows("row_backward", rows.bits, rows.kind, self.ids, self.kept, self.scale, *saved, target)
        rows.settle(target, self.grad)


def _place_gradients(engine: Engine, out: Any, chosen: _Side, rejected: _Side, others: list[Any]) -> None:
    """New arrays, or where ``out`` says; nothing else that is read may lie there, least of all the other side."""
    sides = chosen, rejected
    if out is not None:
        _check_outputs(out, [(side.rows.shape, side.rows.dtype, side.inputs) for side in sides], others)
    for side, place in zip(sides, out or (None, None), strict=True):
        side.grad = side.rows.gradient(engine, None, side.logits, ()) if place is None else place


def _check_outputs(out: Any, sides: list[tuple[tuple[int, ...], np.dtype, list[Any]]], others: list[Any]) -> None:
    """``sides``: shape, dtype and what is read of each, its logits first, which alone may be what is written."""
    if not isinstance(out, tuple) or len(out) != 2:
        raise TypeError(f"out is a {type(out).__name__}; expected a tuple of 2 arrays")
    for k, ((shape, dtype, own), (_, _, other)) in enumerate((sides, sides[::-1])):
        for inputs, allowed in (([*other, *others], None), (own, own[0])):
            arrays.output(f"out[{k}]", out[k], shape, dtype, inputs, allowed, in_pieces=True)
    if isinstance(out[0], np.ndarray) and isinstance(out[1], np.ndarray) and np.may_share_memory(*out):
        raise ValueError("out[0] shares memory with out[1]")
