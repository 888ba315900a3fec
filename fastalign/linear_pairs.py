"""The preference loss from hidden states and a weight matrix, without the matrix of logits."""

from typing import Any, NamedTuple

import numpy as np

from . import arrays
from .arrays import Array, is_device
from .at_once import is_few, logits_of, products
from .fused import dpo_loss_from_logits
from .preference import preference_loss
from .projection import MAX_BYTES, Gradients, host
from .sequences import checked_references, reduce_sequences
from .sweeps import Linear, backward, forward, prepare_linear, prepare_side, slope_of_parts


class LinearPreferenceLoss(NamedTuple):
    """What ``linear_dpo_loss`` returns: gradients of the shapes of their arguments, then one element per pair.

    None as in ``LinearGradients``.
    """

    loss: float
    grad_chosen_hidden: Array
    grad_rejected_hidden: Array
    grad_weight: Array | None
    grad_bias: Array | None
    chosen_logps: Array
    rejected_logps: Array
    chosen_rewards: Array
    rejected_rewards: Array
    metrics: dict[str, float]


def linear_dpo_loss(
    chosen_hidden: Array,
    chosen_tokens: Array,
    rejected_hidden: Array,
    rejected_tokens: Array,
    weight: Array,
    ref_chosen_logps: Array | None = None,
    ref_rejected_logps: Array | None = None,
    bias: Array | None = None,
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
    frozen: bool = False,
    max_bytes: int = MAX_BYTES,
    backend: str | None = None,
) -> LinearPreferenceLoss:
    """``dpo_loss_from_logits`` of the logits hidden · weightᵀ + bias, with the gradients of all.

    log π(y) = Σₜ log softmax((hₜ Wᵀ + b) / T)[tokenₜ], or its mean,   loss = preference_loss(log π),   ∂loss/∂h, ∂W, ∂b

    Per side, chosen and rejected: hidden (batch, length, H) with tokens and mask (batch, length), of lengths that may
    differ; or packed, hidden (N, H) with tokens and mask (N,) and cu_seqlens (batch + 1).  weight, bias, frozen,
    max_bytes, precision and repeatability as in ``linear_log_probs`` and ``linear_log_probs_grad``; the loss, its
    options, metrics, masks, special values and errors as in ``dpo_loss_from_logits``.  The logits are computed
    twice, tile by tile, but for few that all count: a pair's slope needs the sums of both its sequences.

    >>> import numpy as np
    >>> from fastalign import linear_dpo_loss
    >>> chosen, rejected, weight = np.array([[[1.0], [-1.0]]]), np.array([[[2.0]]]), np.array([[0.5], [-0.5]])
    >>> r = linear_dpo_loss(chosen, [[0, 1]], rejected, [[1]], weight, [-1.0], [-1.0], beta=0.5)
    >>> round(r.loss, 6), r.chosen_logps.round(6).tolist(), r.grad_weight.round(4).tolist()
    (0.386806, [-0.626523], [[-0.3688], [0.3688]])
    """
    refs = ref_chosen_logps, ref_rejected_logps
    choices = chosen_mask, rejected_mask, ignore_index, chosen_cu_seqlens, rejected_cu_seqlens
    if all(x is None for x in choices) and not (is_device(refs[0]) or is_device(refs[1])):
        rows = (chosen_hidden, chosen_tokens), (rejected_hidden, rejected_tokens)
        alike = is_few(weight, bias, max_bytes, *rows) and chosen_hidden.ndim == rejected_hidden.ndim == 3
        if alike and len(chosen_hidden) == len(rejected_hidden):
            first, second = (logits_of(hidden, weight, bias) for hidden, _ in rows)
            r = dpo_loss_from_logits(
                first, chosen_tokens, second, rejected_tokens, *refs, temperature=temperature, reduction=reduction,
                loss_type=loss_type, beta=beta, label_smoothing=label_smoothing, out=(first, second), backend=backend,
            )  # fmt: skip
            chosen, of_weight, of_bias = products(first, chosen_hidden, weight, bias, frozen)
            rejected, *more = products(second, rejected_hidden, weight, bias, frozen)
            for total, some in zip((of_weight, of_bias), more, strict=True):
                if total is not None:
                    total += some
            return LinearPreferenceLoss(r.loss, chosen, rejected, of_weight, of_bias, *r[3:])
    options: dict[str, Any] = {
        "loss_type": arrays.kind("loss_type", loss_type, "pair"),
        "beta": arrays.number("beta", beta, 0.0, above=True),
        "label_smoothing": arrays.number("label_smoothing", label_smoothing, 0.0, 1.0),
    }
    mean = arrays.choice("reduction", reduction, ("sum", "mean")) == "mean"
    hidden = {"chosen_hidden": chosen_hidden, "rejected_hidden": rejected_hidden}
    linear, both = prepare_linear(weight, bias, temperature, max_bytes, backend, **hidden)
    given = (
        ("chosen_", both[0], chosen_tokens, chosen_mask, chosen_cu_seqlens),
        ("rejected_", both[1], rejected_tokens, rejected_mask, rejected_cu_seqlens),
    )
    sides = [_Sequences(linear, *some, ignore_index, mean) for some in given]
    count = sides[0].count
    if sides[1].count != count:
        raise ValueError(f"rejected_hidden holds {sides[1].count} sequences; expected {count}, as chosen_hidden")
    named = {"ref_chosen_logps": ref_chosen_logps, "ref_rejected_logps": ref_rejected_logps}
    named = {name: None if x is None else host(name, x) for name, x in named.items()}
    references = checked_references(count, linear.projection.real, named)

    logps = [side.forward() for side in sides]
    result = preference_loss(*logps, *references, **options, backend=backend)
    gradients = Gradients(linear.projection, frozen)
    chosen = sides[0].backward(result.grad_chosen, gradients)
    rejected = sides[1].backward(result.grad_rejected, gradients)
    rewards = result.chosen_rewards, result.rejected_rewards
    return LinearPreferenceLoss(
        result.loss, chosen, rejected, *gradients.results(), logps[0], logps[1], *rewards, result.metrics
    )


class _Sequences:
    """The chosen or the rejected answers."""

    def __init__(
        self, linear: Linear, prefix: str, hidden: np.ndarray, tokens: Any, mask: Any, cu_seqlens: Any,
        ignore_index: int | None, mean: bool,
    ) -> None:  # fmt: skip
        if hidden.ndim != (3 if cu_seqlens is None else 2):
            wanted = "(batch, length, H); packed ones need" if cu_seqlens is None else "(tokens, H), packed, with"
            raise ValueError(f"{prefix}hidden has shape {hidden.shape}; expected {wanted} {prefix}cu_seqlens")
        self.linear, self.mean = linear, mean
        self.side = prepare_side(linear, hidden, tokens, mask, ignore_index, prefix)
        if cu_seqlens is None:
            self.offsets = np.arange(hidden.shape[0] + 1, dtype=np.int64) * hidden.shape[1]
        else:
            self.offsets = arrays.offsets(cu_seqlens, self.side.rows.rows, f"{prefix}cu_seqlens")
        self.count = len(self.offsets) - 1

    def forward(self) -> np.ndarray:
        """The log-probability of each sequence."""
        logp, self.lse, _ = forward(self.linear, self.side, False)
        rows, engine = self.side.rows, self.linear.engine
        flat = rows.spread(logp).reshape(-1)
        sums, self.counts = reduce_sequences(engine, flat, self.offsets, rows.kept, self.mean, flat)
        return sums

    def backward(self, grad: np.ndarray, gradients: Gradients) -> np.ndarray:
        """∂/∂hidden, from the derivatives by the sequences' log-probabilities."""
        linear, rows = self.linear, self.side.rows
        each = np.zeros(rows.rows, rows.real)
        if rows.rows:
            linear.engine.group_spread(grad, self.offsets, rows.kept, self.mean, self.counts, each)
        slope = slope_of_parts(linear, self.side.ids, self.lse, None, rows.compact(each))
        return backward(linear, self.side, linear.blocks(), slope, gradients)
