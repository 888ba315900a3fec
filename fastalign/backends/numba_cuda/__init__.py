"""Backend "cuda": Numba CUDA kernels on device arrays of any library.

Imports without a GPU, without a driver and without Numba; ``why_not`` then has the reason.  An absent array reaches a
kernel as an empty one, so that there is one compiled kernel per dtype.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from ...binding import FAMILIES
from ...binding import family as kinds_of
from . import device, elements, group, moments, recurrence, row
from .device import SIMULATED, cuda
from .memory import empty, on_stream, stream_for, stream_of, to_device, to_host, wrap

__all__ = [
    "empty",
    "first_bad_token",
    "group_reduce",
    "group_spread",
    "on_stream",
    "pointwise",
    "row_backward",
    "row_forward",
    "scan",
    "stream_of",
    "to_device",
    "to_host",
    "warmup",
    "why_not",
    "wrap",
]

# Numba warns of grids of less than 128 blocks; one without work ends at once.
LEAST_BLOCKS, MOST_BLOCKS = (1 if SIMULATED else 128), 1 << 16


def why_not() -> str | None:
    """Why this backend cannot be used; None if it can."""
    if device.FAILURE is not None:
        return device.FAILURE
    if SIMULATED:
        return None if hasattr(cuda, "shfl_sync") else "Numba's CUDA simulator has no warp operations"
    try:
        if cuda.is_available():
            return None
        error = cuda.cuda_error()
    except Exception as failure:  # whatever a broken driver raises is the reason
        error = failure
    return f"no CUDA driver: {' '.join(str(error).split())}" if error else "no CUDA device"


@cache
def _kernel(make: Callable[..., Any], *key: str) -> Any:
    return cuda.jit(make(*key))


@cache
def _absent(dtype: str, ndim: int) -> Any:
    return cuda.device_array((0,) * ndim, dtype)


def _given(x: Any, dtype: Any, ndim: int = 1) -> Any:
    return _absent(np.dtype(dtype).str, ndim) if x is None else wrap(x)


def _launch(kernel: Any, blocks: int, threads: int, *arguments: Any) -> None:
    flat = [x for a in arguments for x in (a if isinstance(a, tuple) else (a,)) if hasattr(x, "__cuda_ndarray__")]
    stream = stream_for(flat)
    kernel[min(max(blocks, LEAST_BLOCKS), MOST_BLOCKS), threads, stream](*arguments)
    for x in flat:
        x.stream = x.stream or stream  # whoever copies one of them to the host waits there


def _row_threads(columns: int) -> int:
    return next((threads for threads in (32, 64, 128) if 4 * threads >= columns), row.THREADS)


def row_forward(
    logits: Any, kind: str, tokens: Any, mask: Any, scale: float, logp: Any, lse: Any, entropy: Any,
    sum_p2: Any = None, mean_logit: Any = None, top1: Any = None,
) -> None:  # fmt: skip
    logits, logp, lse = wrap(logits), wrap(logp), wrap(lse)
    entropy = _given(entropy, logp.dtype)
    arguments = logits, wrap(tokens), _given(mask, np.uint8), float(scale)
    if logits.shape[0]:
        shape = logits.shape[0], _row_threads(logits.shape[1])
        _launch(_kernel(row.make_forward, kind), *shape, *arguments, logp, lse, entropy)
        if not (sum_p2 is mean_logit is top1 is None):
            outputs = _given(sum_p2, logp.dtype), _given(mean_logit, logp.dtype), _given(top1, np.uint8)
            _launch(_kernel(moments.make_moments, kind), *shape, *arguments, *outputs)


def row_backward(
    logits: Any, kind: str, tokens: Any, mask: Any, scale: float, grad_logp: Any, grad_lse: Any, grad_entropy: Any,
    lse: Any, entropy: Any, out: Any, grad_sum_p2: Any = None, grad_mean_logit: Any = None,
) -> None:  # fmt: skip
    logits, grad_logp = wrap(logits), wrap(grad_logp)
    real, shape = grad_logp.dtype, (logits.shape[0], _row_threads(logits.shape[1]))
    where = logits, wrap(tokens), _given(mask, np.uint8), float(scale)
    optional = (_given(x, real) for x in (grad_lse, grad_entropy, lse, entropy))
    if logits.size:
        squares = _absent(np.dtype(real).str, 1)
        if grad_sum_p2 is not None:  # before out, which may be logits, is written
            squares = wrap(empty((logits.shape[0],), real, grad_sum_p2))
            none = _absent(np.dtype(real).str, 1), _absent(np.dtype(np.uint8).str, 1)
            _launch(_kernel(moments.make_moments, kind), *shape, *where, squares, *none)
        more = _given(grad_sum_p2, real), squares, _given(grad_mean_logit, real)
        _launch(_kernel(row.make_backward, kind), *shape, *where, grad_logp, *optional, wrap(out), *more)


def first_bad_token(tokens: Any, mask: Any, vocabulary: int) -> int:
    """The first position whose token counts and is outside [0, vocabulary); −1 if there is none.  Waits for it."""
    tokens = wrap(tokens)
    if tokens.size == 0:
        return -1
    none = np.iinfo(np.int64).max
    found = to_device(np.full(1, none))
    blocks = -(-tokens.size // row.THREADS)
    _launch(_kernel(row.make_first_bad), blocks, row.THREADS, tokens, _given(mask, np.uint8), int(vocabulary), found)
    at = int(to_host(found)[0])
    return -1 if at == none else at


def pointwise(
    family: str,
    kind: str,
    inputs: tuple[Any, ...],
    mask: Any,
    params: tuple[float, ...],
    outputs: tuple[Any, ...],
    partials: Any,
) -> None:
    inputs, outputs, partials = tuple(map(wrap, inputs)), tuple(map(wrap, outputs)), wrap(partials)
    arguments = inputs, _given(mask, np.uint8), tuple(map(float, params)), outputs, partials
    if inputs[0].size:
        kernel = _kernel(elements.make_pointwise, family, kind)
        _launch(kernel, partials.shape[0], elements.THREADS, *arguments)


def scan(
    kind: str,
    rewards: Any,
    values: Any,
    next_values: Any,
    final_values: Any,
    last_values: Any,
    terminated: Any,
    truncated: Any,
    mask: Any,
    gamma: float,
    lam: float,
    layout: str,
    out: Any,
    returns: Any,
    offsets: Any = None,
) -> None:
    rewards = wrap(rewards)
    values, next_values, final_values, returns = (
        _given(x, rewards.dtype, 2) for x in (values, next_values, final_values, returns)
    )
    truncated, mask = (_given(x, np.uint8, 2) for x in (truncated, mask))
    last_values = _given(last_values, rewards.dtype)
    ends = wrap(terminated), truncated, mask
    numbers = float(gamma), float(lam), layout == "TN"
    streams = rewards.shape[1 if layout == "TN" else 0] if offsets is None else offsets.shape[0] - 1
    both = wrap(out), returns
    arguments = (
        rewards,
        values,
        next_values,
        final_values,
        last_values,
        *ends,
        *numbers,
        *both,
        _given(offsets, np.int64),
    )
    if rewards.size:
        _launch(_kernel(recurrence.make_scan, kind), -(-streams // recurrence.THREADS), recurrence.THREADS, *arguments)


def group_reduce(values: Any, offsets: Any, mask: Any, mean: bool, out: Any, counts: Any) -> None:
    out = wrap(out)
    arguments = wrap(values), wrap(offsets), _given(mask, np.uint8), bool(mean), out, wrap(counts)
    if out.size:
        _launch(_kernel(group.make_reduce), -(-out.size // group.PER_BLOCK), group.THREADS, *arguments)


def group_spread(grad: Any, offsets: Any, mask: Any, mean: bool, counts: Any, out: Any) -> None:
    grad = wrap(grad)
    arguments = grad, wrap(offsets), _given(mask, np.uint8), bool(mean), wrap(counts), wrap(out)
    if grad.size:
        _launch(_kernel(group.make_spread), -(-grad.size // group.PER_BLOCK), group.THREADS, *arguments)


def warmup() -> None:
    """Compile every kernel for float32, and the rows for every kind of logits."""
    one = to_device(np.zeros(1, np.float32))
    ids, offsets, counts = (to_device(np.array(x, np.int64)) for x in ([0], [0, 1], [1]))
    first_bad_token(ids, None, 1)
    for kind, dtype in (("f32", np.float32), ("f64", np.float64), ("f16", np.uint16), ("bf16", np.uint16)):
        logits = to_device(np.zeros((1, 1), dtype))
        real = [to_device(np.zeros(1, np.float64 if kind == "f64" else np.float32)) for _ in range(3)]
        row_forward(logits, kind, ids, None, 1.0, *real)
        row_backward(logits, kind, ids, None, 1.0, real[0], real[1], real[2], None, None, logits)
    for name, of in FAMILIES.items():
        partials, params = to_device(np.zeros((1, of.tallies))), (0.1,) * len(of.params)
        for kind in kinds_of(name):
            pointwise(name, kind, (one,) * len(of.inputs), None, params, (one,) * len(of.outputs), partials)
    square, flag = one.reshape((1, 1)), to_device(np.zeros((1, 1), np.uint8))
    for kind in kinds_of("scan"):
        scan(kind, square, square, None, None, None, flag, None, None, 0.9, 0.9, "TN", square, square)
    group_reduce(one, offsets, None, False, one, counts)
    group_spread(one, offsets, None, False, counts, one)
