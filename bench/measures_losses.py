"""Loss, gradients and metrics of elements: large against the memory, small against the cost of a call."""

import baselines
import data
import numpy as np
import seed
from floors import Copy
from measures import Case, Claim, Side, arrays, nbytes, sizes, speedups

import fastalign

LARGE = 1 << 20
# must, aim, against NumPy
TIMES = {"float32": (3, 8), "float64": (5, 12)}
SMALL = {("PPO", 64): (6, 10), ("PPO", 1_024): (8, 15), ("DPO", 64): (12, 20), ("DPO", 1_024): (8, 15)}
BEST = "NumPy, in place, same outputs"
BARE = "copy without rewards"
SEED = "NumPy, the curriculum's"


def peers_of(n, dtype):
    return ("torch eager", "torch.compile", "jax.jit") if dtype == "float32" or n == LARGE else ()


def policy(n, dtype):
    task = ("policy", (n,), dtype)
    work = f"PPO loss + grad + metrics, {sizes((n,))} {dtype}"

    def make():
        a = arrays(task)
        new, old, advantages = a.values()  # and not *given, which beside a keyword costs a dict, 0.1 µs
        results = lambda r: (r.loss, r.grad_log_probs, *r.metrics.values())  # noqa: E731
        out, ours = np.zeros_like(new), fastalign.policy_loss
        found = {
            "ours": Side(lambda: ours(new, old, advantages, clip_low=data.CLIP), results, task),
            "into out": Side(lambda: ours(new, old, advantages, clip_low=data.CLIP, out=out), results, task),
            "copy": Side(Copy(nbytes(new, old, advantages) + new.nbytes)),
            "NumPy": Side(lambda: baselines.policy(new, old, advantages), tuple, task),
            "seed": Side(lambda: seed.seed_ppo_loss(new, old, advantages)),
        }
        if n == LARGE:
            mask = np.random.default_rng(n).random(n) < 0.9
            found["masked"] = Side(lambda: ours(new, old, advantages, clip_low=data.CLIP, mask=mask, out=out))
        return found

    sides = ("ours", "into out", "copy", "NumPy", "seed")
    claims = [*against(work, "PPO", n, dtype), *speedups(work, "ours", peers_of(n, dtype))]
    if n == LARGE:
        sides += ("masked",)
        claims.append(Claim(f"{work}, a mask keeps 90 %", "without a mask", "share", "masked", "into out"))
    return case(work, make, sides, claims, task)


def pairs(n, dtype):
    task = ("pairs", (n,), dtype)
    work = f"DPO loss + grads + metrics, {sizes((n,))} {dtype}"
    trainer = fastalign.DPOTrainer(beta=data.BETA)

    def make():
        a = arrays(task)
        w, l, w_ref, l_ref = a.values()  # noqa: E741
        out, ours = tuple(np.zeros_like(w) for _ in range(4)), fastalign.preference_loss
        results = lambda r: (r.loss, r.grad_chosen, r.grad_rejected, *r.metrics.values())  # noqa: E731
        found = {
            "ours": Side(lambda: ours(w, l, w_ref, l_ref, beta=data.BETA), results, task),
            "into out": Side(lambda: ours(w, l, w_ref, l_ref, beta=data.BETA, out=out), results, task),
            "copy": Side(Copy(nbytes(w, l, w_ref, l_ref) + 4 * w.nbytes)),
            "NumPy": Side(lambda: baselines.pairs(w, l, w_ref, l_ref), lambda r: r[:-2], task),
            "seed": Side(lambda: seed.seed_dpo_loss(w, l, w_ref, l_ref)),
        }
        if n == LARGE:
            found["trainer"] = Side(lambda: trainer.compute_loss(w, l, w_ref, l_ref))
            found["trainer into out"] = Side(lambda: trainer.compute_loss(w, l, w_ref, l_ref, out=out[:2]))
            found[BARE] = Side(Copy(nbytes(w, l, w_ref, l_ref) + 2 * w.nbytes))
        return found

    sides = ("ours", "into out", "copy", "NumPy", "seed")
    claims = against(f"{work}, + rewards", "DPO", n, dtype)
    if n == LARGE:
        sides += ("trainer", "trainer into out", BARE)
        claims += [
            Claim(f"{work}, into out=", "copy of the same bytes", "share", "trainer into out", BARE, 4, 2),
            Claim(work, "copy of the same bytes", "share", "trainer", BARE),
            Claim(work, BEST, "speedup", "trainer", "NumPy", *TIMES[dtype]),
            Claim(work, SEED, "speedup", "trainer", "seed", *TIMES[dtype]),
        ]
    claims += speedups(work, "trainer" if n == LARGE else "ours", peers_of(n, dtype))
    return case(work, make, sides, claims, task)


def against(work, loss, n, dtype):
    """The bounds of large calls and of small ones."""
    if n == LARGE:
        floor = [
            Claim(f"{work}, into out=", "copy of the same bytes", "share", "into out", "copy", 4, 2),
            Claim(work, "copy of the same bytes", "share", "ours", "copy"),
        ]
        times = TIMES[dtype]
    else:
        floor, times = [], SMALL[loss, n]
    return [
        *floor,
        Claim(work, BEST, "speedup", "ours", "NumPy", *times),
        Claim(work, SEED, "speedup", "ours", "seed", *times),
    ]


def case(work, make, sides, claims, task):
    _, (n,), dtype = task
    return Case(
        work, "losses", make, sides, tuple(claims), task, peers_of(n, dtype), seconds=0.3 if n == LARGE else 0.1
    )


CASES = [f(n, dtype) for f in (policy, pairs) for n in (LARGE, 1_024, 64) for dtype in ("float32", "float64")]
