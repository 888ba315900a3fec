"""The row kernels: forward, halves, entropy, and from logits to loss and back."""

import baselines
import data
import numpy as np
import seed
from floors import Copy, Read
from measures import Case, Claim, Side, arrays, nbytes, needs, sizes, speedups

import fastalign

TYPICAL, LARGE, FEW = (512, 32_000), (128, 128_256), ((65_536, 6), (16_384, 100))
TORCH = ("torch eager", "torch eager, warm allocator", "torch.compile", "torch.compile, warm allocator")
GRADIENTS = {
    "torch eager": "torch autograd, eager",
    "torch eager, warm allocator": "torch autograd, eager, warm allocator",
    "jax.jit": "jax.jit of value_and_grad",
}
HALVES = ("bfloat16", "float16")


def logp(found):
    return (found.logp,)


def forward_sides(shape, dtype, halves):
    def make():
        a = arrays(("rows", shape, dtype))
        check = ("rows", shape, dtype)
        found = {
            "ours": Side(lambda: fastalign.token_log_probs(**a), logp, check),
            "entropy": Side(lambda: fastalign.token_log_probs(**a, entropy=True), logp, check),
            "read": Side(Read(nbytes(*a.values()))),
            "seed": Side(lambda: (seed.seed_token_log_probs(**a),), tuple, check),
            "NumPy": Side(lambda: baselines.rows(**a), tuple, check),
        }
        for half in halves:
            given = data.rows(shape, half)
            call = lambda given=given: fastalign.token_log_probs(**given)  # noqa: E731
            found[half] = Side(call, logp, ("rows", shape, half))
        return found

    return make


def forward(shape, dtype):
    single, promised = dtype == "float32", shape not in FEW
    halves = HALVES if single else ()

    def within(*bounds):
        return bounds if promised else ()

    work = f"log-probs forward, {sizes(shape)} {dtype}"
    claims = [
        Claim(work, "pure read of the same bytes", "share", "ours", "read", *(within(1.9, 1.3) if single else ())),
        Claim(
            work, "NumPy, the curriculum's", "speedup", "ours", "seed", *(within(10, 20) if single else within(6, 10))
        ),
        *speedups(work, "ours", ["NumPy"]),
        Claim(f"{work}, + entropy", "without", "share", "entropy", "ours", *(within(1.35, 1.1) if single else ())),
    ]
    for half in halves:
        claims.append(
            Claim(f"log-probs forward, {sizes(shape)} {half}", "our float32", "share", half, "ours", *within(1.0, 0.7))
        )
    bounds = {
        "torch eager": (7, 12),
        "torch eager, warm allocator": (3, None),
        "torch.compile": (2, 3),
        "jax.jit": (5, 8),
    }
    peers = (*TORCH, "jax.jit", "scipy") if single else ("torch eager", "torch.compile", "jax.jit")
    for peer in peers:
        claims.append(Claim(work, peer, "speedup", "ours", peer, *(within(*bounds.get(peer, ())) if single else ())))
    sides = ("ours", "entropy", "read", "seed", "NumPy", *halves)
    quick = single and shape == TYPICAL
    task = ("rows", shape, dtype)
    return Case(work, "rows", forward_sides(shape, dtype, halves), sides, tuple(claims), task, peers, quick)


def call(shape, dtype):
    """Of a few rows, where a call counts."""
    task = ("rows", shape, dtype)
    work = f"log-probs forward, {sizes(shape)} {dtype}: a call"

    def make():
        a = arrays(task)
        return {
            "ours": Side(lambda: fastalign.token_log_probs(**a), logp, task),
            "seed": Side(lambda: (seed.seed_token_log_probs(**a),), tuple, task),
            "NumPy": Side(lambda: baselines.rows(**a), tuple, task),
        }

    claims = [Claim(work, "NumPy, the curriculum's", "speedup", "ours", "seed"), *speedups(work, "ours", ["NumPy"])]
    return Case(work, "rows", make, ("ours", "seed", "NumPy"), tuple(claims), task, quick=False, seconds=0.1)


class Restored:
    """A buffer that holds the original again before each call, and is not in the cache."""

    def __init__(self, original):
        self.original, self.buffer, self.other = original, original.copy(), np.ones_like(original)

    def __call__(self):
        np.copyto(self.buffer, self.original)
        self.other.max()


def from_logits(shape, dtype):
    work = f"policy_loss_from_logits in place, {sizes(shape)} {dtype}"
    task = ("fused", shape, dtype)

    def make():
        a = dict(arrays(task))
        restored = Restored(a.pop("logits"))
        whole = restored.buffer

        def call():
            return fastalign.policy_loss_from_logits(whole, **a, clip_low=data.CLIP, out=whole)

        return {
            "ours": Side(call, lambda r: (r.loss, r.grad_logits, r.logp), task, restored),
            "copy": Side(Copy(2 * whole.nbytes), setup=restored),
        }

    bounds = {"torch eager": (15, 25), "torch.compile": (6, 10), "jax.jit": (8, 12)} if shape == TYPICAL else {}
    peers = (*TORCH, "jax.jit")
    claims = [Claim(work, "copy of the same bytes", "share", "ours", "copy", *((1.6, 1.2) if bounds else ()))]
    claims += [Claim(work, GRADIENTS.get(p, p), "speedup", "ours", p, *bounds.get(p, ())) for p in peers]
    return Case(work, "rows", make, ("ours", "copy"), tuple(claims), task, peers)


def pairs_from_logits(shape):
    """Two sweeps: a pair's coefficient needs the sums of both answers."""
    pairs, length, vocabulary = shape
    work = f"dpo_loss_from_logits in place, 2 × {sizes(shape)} float32"
    task = ("answers", shape, "float32")

    def make():
        f, a = needs("dpo_loss_from_logits"), dict(arrays(task))
        restored = Restored(a["logits"])
        both = tuple(restored.buffer.reshape(2, *shape))
        tokens, refs = a["tokens"].reshape(2, pairs, length), a["refs"]

        def call():
            return f(both[0], tokens[0], both[1], tokens[1], *refs, beta=data.BETA, out=both)

        return {
            "ours": Side(call, lambda r: (r.loss, restored.buffer), task, restored),
            "copy": Side(Copy(2 * restored.buffer.nbytes), setup=restored),
        }

    peers = ("torch eager", "torch eager, warm allocator", "torch.compile", "jax.jit")
    claims = [Claim(work, "copy of the same bytes", "share", "ours", "copy")]
    claims += [Claim(work, GRADIENTS.get(p, p), "speedup", "ours", p) for p in peers]
    return Case(work, "rows", make, ("ours", "copy"), tuple(claims), task, peers, quick=False)


def linear():
    shape = (1_024, 1_024, 32_000)
    work = "linear_log_probs forward, 1,024 × 1,024 hidden, V = 32,000, float32"
    task = ("linear", shape, "float32")

    def make():
        f, a = needs("linear_log_probs"), arrays(task)
        product, across = np.empty((shape[0], shape[2]), np.float32), a["weight"].T

        def whole():
            return (seed.seed_token_log_probs(a["hidden"] @ across, a["tokens"]),)

        return {
            "ours": Side(lambda: f(**a), lambda r: (getattr(r, "logp", r),), task),
            "sgemm": Side(lambda: np.matmul(a["hidden"], across, out=product)),
            "NumPy": Side(whole, tuple, task),
        }

    peers = ("torch eager", "torch.compile", "jax.jit")
    claims = (
        Claim(work, "the bare sgemm into memory that is there", "share", "ours", "sgemm", 1.25, 1.1),
        Claim(work, "NumPy: hidden @ weight.T, then the curriculum's", "speedup", "ours", "NumPy"),
        *speedups(work, "ours", peers),
    )
    return Case(work, "linear", make, ("ours", "sgemm", "NumPy"), claims, task, peers, quick=False, seconds=2.0)


CASES = [
    *(forward(shape, dtype) for dtype in ("float32", "float64") for shape in (TYPICAL, LARGE)),
    *(call((8, 1_000), dtype) for dtype in ("float32", "float64")),
    *(forward(shape, "float32") for shape in FEW),
    *(from_logits(shape, "float32") for shape in (TYPICAL, *FEW)),
    pairs_from_logits((4, 64, 32_000)),
    linear(),
]
