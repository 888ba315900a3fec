"""Advantages: many environments against the memory and XLA, one stream against its latency, few against a call."""

import data
import numpy as np
import seed
from floors import Copy
from measures import Case, Claim, Side, arrays, nbytes, sizes, speedups

import fastalign

OPTIONS = {"gamma": data.GAMMA, "lam": data.LAM}
LEARNERS = ("tianshou", "rlax, jit", "stable-baselines3")


def sides_of(task):
    def make():
        a = arrays(task)
        out = tuple(np.zeros_like(a["rewards"]) for _ in range(2))
        moved = nbytes(*(x for name, x in a.items() if name != "last_values"), *out)
        found = {
            "ours": Side(lambda: fastalign.gae(**a, **OPTIONS), tuple, task),
            "into out": Side(lambda: fastalign.gae(**a, **OPTIONS, out=out), tuple, task),
            "copy": Side(Copy(moved)),
        }
        if task[0] == "streams" and len(task[1]) == 1:
            given = a["rewards"], a["values"], a["terminated"], a["last_values"], data.GAMMA, data.LAM
            found["seed"] = Side(lambda: seed.seed_gae(*given), tuple, task)
        return found

    return make


def environments(shape, dtype):
    """From thousands of environments on bounded by the memory, below by the cost of a call."""
    task = ("streams", shape, dtype)
    work = f"GAE + returns, {sizes(shape)} {dtype}"
    names = {name: f"{name} (advantages)" for name in LEARNERS[:2]}
    if shape[1] < 64:
        bounds = (1, 0.5) if shape[0] < 1_000 else ()
        claims = [
            Claim(f"{work}: a call", names["tianshou"], "share", "ours", "tianshou", *bounds),
            Claim(f"{work}: a call, into out=", names["tianshou"], "share", "into out", "tianshou"),
        ]
    else:
        near = (2.5, 1.5) if shape[1] == 4_096 else ()
        claims = [
            Claim(f"{work}, into out=", "copy of the same arrays", "share", "into out", "copy", *near),
            Claim(work, "copy of the same arrays", "share", "ours", "copy"),
            Claim(work, names["tianshou"], "speedup", "ours", "tianshou"),
        ]
    rlax = (1.2, 2) if shape[1] >= 4_096 else ()
    claims.append(Claim(work, names["rlax, jit"], "speedup", "ours", "rlax, jit", *rlax))
    peers = LEARNERS if dtype == "float32" else LEARNERS[:2]  # Stable-Baselines3 computes in float32
    claims += speedups(work, "ours", peers[2:])
    seconds = 0.1 if shape[1] < 64 else 0.3
    return Case(work, "scan", sides_of(task), ("ours", "into out", "copy"), tuple(claims), task, peers, seconds=seconds)


def one_stream():
    task = ("streams", (1_000_000,), "float64")
    work = "GAE + returns, one stream of 10^6 steps, 0.1 % ends, float64"
    claims = (
        Claim(work, "tianshou (advantages)", "speedup", "ours", "tianshou", 4, 8),
        Claim(f"{work}, into out=", "tianshou (advantages)", "speedup", "into out", "tianshou"),
        Claim(f"{work}, into out=", "the curriculum's loop", "speedup", "into out", "seed", 500),
        Claim(f"{work}, into out=", "copy of the same arrays", "share", "into out", "copy"),
    )
    sides = ("ours", "into out", "copy", "seed")
    return Case(work, "scan", sides_of(task), sides, claims, task, ("tianshou",), quick=False)


def one_stream_single():
    task = ("streams", (1_000_000,), "float32")
    work = "GAE + returns, one stream of 10^6 steps, 0.1 % ends, float32"
    claims = (
        Claim(work, "tianshou (advantages, float64)", "speedup", "ours", "tianshou", 4, 8),
        Claim(f"{work}, into out=", "copy of the same arrays", "share", "into out", "copy"),
    )
    return Case(work, "scan", sides_of(task), ("ours", "into out", "copy"), claims, task, ("tianshou",))


def other(task, shape, text, dtype):
    """Against the memory only."""
    task = (task, shape, dtype)
    work = f"GAE + returns, {text}, {dtype}, into out="
    claims = (Claim(work, "copy of the same arrays", "share", "into out", "copy"),)
    return Case(work, "scan", sides_of(task), ("ours", "into out", "copy"), claims, task, quick=False)


CASES = [
    *(environments(shape, "float32") for shape in ((128, 4_096), (24, 4_096), (64, 8_192), (64, 1_024))),
    one_stream(),
    one_stream_single(),
    *(
        other(*which, dtype)
        for which in (
            ("unbroken", (1_000_000,), "one stream of 10^6 steps, no ends"),
            ("truncated", (1_000_000,), "one stream of 10^6 steps, 0.1 % ends and 0.1 % cut"),
            ("masked", (64, 1_024), "64 answers of up to 1,024 tokens"),
            ("short", (16_384, 16), "16,384 streams of 16 steps, a row each, 5 % ends"),
            ("short", (2_048, 100), "2,048 streams of 100 steps, a row each, 5 % ends"),
        )
        for dtype in ("float64", "float32")
    ),
    *(environments((2_048, streams), "float32") for streams in (2, 8)),
    *(environments((128, 8), dtype) for dtype in ("float32", "float64")),
]
