"""Part 5: each kernel at a realistic size, the NumPy reference against each other backend of this machine."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import (
    available_backends,
    discounted_returns,
    gae,
    get_num_threads,
    kl_estimate,
    policy_loss,
    preference_loss,
    reward_model_loss,
    sequence_log_probs,
    sequence_log_probs_grad,
    token_log_probs,
    token_log_probs_grad,
)
from ..progress import stage
from .report import table
from .settings import Settings

BASELINE = "numpy"
VOCABULARY = 32_000
# The largest difference, in units of the largest value.
AGREEMENT = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-10}


@dataclass
class Kernel:
    """One line of the table; ``call`` takes the backend's name."""

    name: str
    size: str
    call: Callable[[str], Any]


def kernels(settings: Settings, rng: np.random.Generator) -> list[Kernel]:
    return [*_rows(settings, rng), *_scans(settings, rng), *_pointwise(settings, rng), *_groups(settings, rng)]


def _rows(settings: Settings, rng: np.random.Generator) -> list[Kernel]:
    rows, size = settings.kernel_rows, f"{settings.kernel_rows} x {VOCABULARY} float32"
    logits = rng.standard_normal((rows, VOCABULARY), np.float32) * np.float32(3)
    tokens = rng.integers(VOCABULARY, size=rows)
    grad, lse = np.full(rows, -1.0 / rows, np.float32), token_log_probs(logits, tokens).lse
    return [
        Kernel("token_log_probs", size, lambda b: token_log_probs(logits, tokens, backend=b)),
        Kernel("token_log_probs_grad", size, lambda b: token_log_probs_grad(logits, tokens, grad, lse=lse, backend=b)),
    ]


def _scans(settings: Settings, rng: np.random.Generator) -> list[Kernel]:
    steps, streams = settings.kernel_steps, 256
    rewards, values = rng.standard_normal((2, steps))
    ends = rng.random(steps) < 0.01
    shape = (streams, steps // streams)
    many = [x[: shape[0] * shape[1]].reshape(shape) for x in (rewards, values, ends)]
    return [
        Kernel("gae, one stream", f"{steps} float64", lambda b: gae(rewards, values, ends, backend=b)),
        Kernel("gae, batch", f"{streams} x {shape[1]} float64", lambda b: gae(*many, layout="NT", backend=b)),
        Kernel("discounted_returns", f"{steps} float64", lambda b: discounted_returns(rewards, ends, backend=b)),
    ]


def _pointwise(settings: Settings, rng: np.random.Generator) -> list[Kernel]:
    n = settings.kernel_elements
    size = f"{n} float64"
    a, b, c, d = rng.standard_normal((4, n)) - 2.0
    near = a + 0.2 * b
    return [
        Kernel("preference_loss", size, lambda name: preference_loss(a, b, c, d, backend=name)),
        Kernel("policy_loss", size, lambda name: policy_loss(near, a, c, backend=name)),
        Kernel("reward_model_loss", size, lambda name: reward_model_loss(a, b, backend=name)),
        Kernel("kl_estimate, k3", size, lambda name: kl_estimate(near, a, backend=name)),
    ]


def _groups(settings: Settings, rng: np.random.Generator) -> list[Kernel]:
    length = 512
    shape = (settings.kernel_elements // length, length)
    logp, mask = rng.standard_normal(shape), rng.random(shape) < 0.8
    grad = rng.standard_normal(shape[0])
    size = f"{shape[0]} x {length} float64"
    return [
        Kernel("sequence_log_probs", size, lambda b: sequence_log_probs(logp, mask=mask, backend=b)),
        Kernel("sequence_log_probs_grad", size, lambda b: sequence_log_probs_grad(grad, mask=mask, backend=b)),
    ]


def _numbers(result: Any) -> list[np.ndarray]:
    """All that a call returned, as arrays."""
    if isinstance(result, dict):
        result = tuple(result.values())
    if isinstance(result, tuple):
        return [x for part in result for x in _numbers(part)]
    return [] if result is None else [np.asarray(result)]


def check_agreement(kernel: Kernel, backend: str) -> None:
    """RuntimeError unless the backend computes what the reference does: a fast wrong answer is worth nothing."""
    for ours, theirs in zip(_numbers(kernel.call(backend)), _numbers(kernel.call(BASELINE)), strict=True):
        gap = float(np.max(np.abs(ours - theirs), initial=0.0))
        largest = float(np.max(np.abs(theirs), initial=0.0))
        if not gap <= AGREEMENT.get(theirs.dtype, 0.0) * largest:
            raise RuntimeError(f"{kernel.name}: {backend} differs by {gap:.3g} at values of {largest:.3g}")


def best_times(kernel: Kernel, backends: list[str], seconds: float) -> dict[str, float]:
    """The shortest time of each backend; they take turns, so that a slow moment of the machine hits them alike."""
    best = dict.fromkeys(backends, float("inf"))
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < 2 or time.perf_counter() < end:
        for backend in backends:
            start = time.perf_counter()
            kernel.call(backend)
            best[backend] = min(best[backend], time.perf_counter() - start)
        rounds += 1
    return best


def run(settings: Settings, rng: np.random.Generator) -> list[str]:
    """The table, and which backends it lacks and why."""
    states = available_backends()
    others = [name for name, why in states.items() if why is None and name != BASELINE]
    rows = []
    todo = kernels(settings, rng)
    with stage("5. kernels", len(todo)) as advance:
        for kernel in todo:
            for backend in others:
                check_agreement(kernel, backend)
            best = best_times(kernel, [BASELINE, *others], settings.kernel_seconds)
            rows.append([kernel.name, kernel.size, *_cells(best)])
            advance()
    header = ["kernel", "size", f"{BASELINE} ms", *(title for name in others for title in (f"{name} ms", "ratio"))]
    notes = [f"{name} is not in the table: {why}" for name, why in states.items() if why is not None]
    if "cuda" in others:
        notes.append("cuda: with the copies to the device and back.")
    threads = f"Shortest of several calls, backends in turn; {get_num_threads()} thread(s); agreement checked first."
    return [*table(header, rows), "", threads, *notes]


def _cells(best: dict[str, float]) -> list[str]:
    base = best[BASELINE]
    cells = [f"{1e3 * base:.2f}"]
    for name, seconds in best.items():
        if name != BASELINE:
            cells += [f"{1e3 * seconds:.2f}", f"{base / seconds:.1f}x"]
    return cells
