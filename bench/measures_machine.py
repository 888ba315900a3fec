"""Threads, the two compiled backends, memory, accuracy, and the cost of starting."""

import os
import subprocess
import sys
from pathlib import Path

import baselines
import data
import numpy as np
import pytest
import seed
from floors import Copy, Read
from measures import Case, Claim, Side, arrays, sizes
from measures_rows import LARGE, TYPICAL, Restored

import fastalign

CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
MANY = 1 << 20
FEW = (64, 32_000)  # a quarter of a millisecond: to wake a thread counts
LARGE_ROWS = (1.6, 1.9)  # must, aim


def threads(name, shape, make, *bounds, dtype="float32"):
    """The same call with one thread and with two, and what the floor gains."""
    work = f"{name}, {sizes(shape)} {dtype}: two threads"

    def both():
        if CPUS < 2:
            pytest.skip("this process may use one CPU only")
        call, setup, floor = make()
        return {
            f"{what}, {n}": Side(f, setup=setup, threads=n)
            for what, f in (("ours", call), ("floor", floor))
            for n in (1, 2)
        }

    claims = (
        Claim(work, "one thread", "speedup", "ours, 2", "ours, 1", *bounds),
        Claim(f"{work}: its floor", "one thread", "speedup", "floor, 2", "floor, 1"),
    )
    return Case(work, "threads", both, ("ours, 1", "ours, 2", "floor, 1", "floor, 2"), claims, quick=shape == TYPICAL)


def forward(shape):
    def make():
        a = arrays(("rows", shape, "float32"))
        return lambda: fastalign.token_log_probs(**a), None, Read(a["logits"].nbytes)

    return threads("log-probs forward", shape, make, *(LARGE_ROWS if shape != FEW else ()))


def backward():
    def make():
        a = arrays(("rows", TYPICAL, "float32"))
        lse = fastalign.token_log_probs(**a).lse
        out, grad = np.zeros_like(a["logits"]), np.ones(TYPICAL[0], np.float32)
        return lambda: fastalign.token_log_probs_grad(**a, grad_logp=grad, lse=lse, out=out), None, Copy(2 * out.nbytes)

    return threads("log-probs gradient", TYPICAL, make, *LARGE_ROWS)


def in_place():
    def make():
        a = dict(arrays(("fused", TYPICAL, "float32")))
        restored = Restored(a.pop("logits"))
        whole = restored.buffer
        call = lambda: fastalign.policy_loss_from_logits(whole, **a, out=whole)  # noqa: E731
        return call, restored, Copy(2 * whole.nbytes)

    return threads("policy_loss_from_logits in place", TYPICAL, make, *LARGE_ROWS)


def elements():
    def make():
        a = arrays(("policy", (MANY,), "float64"))
        given, out = tuple(a.values()), np.zeros(MANY)
        return lambda: fastalign.policy_loss(*given, clip_low=data.CLIP, out=out), None, Copy(4 * out.nbytes)

    return threads("PPO", (MANY,), make, dtype="float64")


def environments():
    shape = (1_024, 4_096)

    def make():
        a = arrays(("streams", shape, "float32"))
        out = tuple(np.zeros_like(a["rewards"]) for _ in range(2))
        moved = 4 * out[0].nbytes + a["terminated"].nbytes
        return lambda: fastalign.gae(**a, gamma=data.GAMMA, lam=data.LAM, out=out), None, Copy(moved)

    return threads("GAE", shape, make)


def gae(a, backend):
    return fastalign.gae(**a, gamma=data.GAMMA, lam=data.LAM, backend=backend)


SMALL = ((8, 1_000), (64,), (128, 8))
# what: function, task, must
TWINS = {
    "log-probs forward": (lambda a, b: fastalign.token_log_probs(**a, backend=b)[:1], "rows", 1.5),
    "PPO": (lambda a, b: fastalign.policy_loss(**a, backend=b)[:2], "policy", 1.3),
    "DPO": (lambda a, b: fastalign.preference_loss(**a, beta=data.BETA, backend=b)[:3], "pairs", 1.3),
    "GAE": (gae, "streams", 1.3),
}


def twins(name, shape, dtype, quick=False):
    """Numba against Cython."""
    call, task, must = TWINS[name]
    work = f"{name}, {sizes(shape)} {dtype}: Numba"

    def make():
        why = fastalign.available_backends()["cython"]
        if why is not None:
            pytest.skip(why)
        a, check = arrays((task, shape, dtype)), (task, shape, dtype)
        return {b: Side(lambda b=b: call(a, b), padded(task), check) for b in ("numba", "cython")}

    calls = shape in SMALL  # mostly Python
    claims = (Claim(work, "Cython", "share", "numba", "cython", *(() if calls else (must, 1.1))),)
    return Case(work, "backends", make, ("numba", "cython"), claims, quick=quick)


def padded(task):
    """What is not compared is None: the metrics."""
    more = {"policy": 5, "pairs": 4}.get(task, 0)
    return lambda found: (*found, *[None] * more)


def python(*command):
    given = os.environ.get("PYTHONPATH")
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(seed.__file__).parent), *([given] if given else [])])
    done = subprocess.run(
        [sys.executable, *command], check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    return done.stdout


# name in memory.py: text, function it needs, must, aim: what rounds to 0.0 MB
MEMORY = {
    "forward": ("log-probs forward of 64 MB logits", "token_log_probs", 1e6, 5e4),
    "entropy": ("log-probs forward of 64 MB logits, + entropy", "token_log_probs", 1e6, 5e4),
    "in_place": ("policy_loss_from_logits of 64 MB logits, in place", "policy_loss_from_logits", None, None),
    "answers": ("dpo_loss_from_logits of 64 MB logits, in place", "dpo_loss_from_logits", None, None),
    "linear": ("linear_log_probs, 1,024 × 1,024 hidden, V = 32,000", "linear_log_probs", 64e6, None),
    "NumPy": ("the curriculum's NumPy, forward of 64 MB logits", "token_log_probs", None, None),
}


def memory(name):
    text, function, must, aim = MEMORY[name]
    work = f"extra memory: {text}"

    def make():
        if not hasattr(fastalign, function):
            pytest.skip(f"fastalign has no {function} yet")
        return {"ours": Side(lambda: float(python(str(Path(__file__).parent / "memory.py"), name)), tells=True)}

    claims = (Claim(work, "", "bytes", "ours", None, must, aim),)
    return Case(work, "memory", make, ("ours",), claims, quick=name == "forward", turns=1)


def accuracy(dtype, must):
    """The largest error of a log-probability; a peer tells its own when its result is checked."""
    task = ("accuracy", (32, LARGE[1]), dtype)
    work = f"largest error of a log-prob, {sizes(task[1])} {dtype}, logits N(0, 3²)"

    def make():
        a = arrays(task)

        def error(call):
            return lambda: float(np.abs(call() - data.truth(*task)[0]).max())

        return {
            "ours": Side(error(lambda: fastalign.token_log_probs(**a).logp), tells=True),
            "NumPy": Side(error(lambda: baselines.rows(**a)[0]), tells=True),
        }

    peers = ("torch eager", "jax.jit", "scipy")
    claims = [
        Claim(f"{work}: {who}", "long double", "error", who, None, must if who == "ours" else None)
        for who in ("ours", "NumPy", *peers)
    ]
    return Case(work, "accuracy", make, ("ours", "NumPy"), tuple(claims), task, peers, quick=False, turns=1)


FIRST = """
import time, numpy as np, fastalign
logits, tokens, x = np.ones((4, 100), np.float32), np.zeros(4, np.int64), np.ones(100)
start = time.perf_counter()
fastalign.{call}
print(time.perf_counter() - start)
"""
CALLS = {
    "token_log_probs": "token_log_probs(logits, tokens)",
    "gae": "gae(x, x, x > 1)",
    "preference_loss": "preference_loss(x, x, x, x)",
    "sequence_log_probs": "sequence_log_probs(logits)",
}


def first(name):
    """The time of the first call in a new process, as it tells it itself."""
    work = f"first call of {name} in a new process"
    code = FIRST.format(call=CALLS[name])
    make = lambda: {"ours": Side(lambda: float(python("-c", code)), tells=True)}  # noqa: E731
    claims = (Claim(work, "", "seconds", "ours", None, 0.020),)
    return Case(work, "start", make, ("ours",), claims, quick=name == "gae")


def importing():
    def make():
        return {
            "ours": Side(lambda: python("-c", "import numpy, fastalign")),
            "numpy": Side(lambda: python("-c", "import numpy")),
        }

    claims = (Claim("import fastalign", "import numpy", "seconds", "ours", "numpy", 0.060),)
    return Case("import fastalign", "start", make, ("ours", "numpy"), claims)


CASES = [
    forward(TYPICAL),
    forward(LARGE),
    forward(FEW),
    backward(),
    in_place(),
    elements(),
    environments(),
    twins("log-probs forward", TYPICAL, "float32", quick=True),
    twins("log-probs forward", LARGE, "float32"),
    *(twins("log-probs forward", TYPICAL, dtype) for dtype in ("float64", "bfloat16", "float16")),
    *(twins(name, (MANY,), dtype) for name in ("PPO", "DPO") for dtype in ("float32", "float64")),
    *(twins("GAE", (128, 4_096), dtype) for dtype in ("float32", "float64")),
    twins("GAE", (1_000_000,), "float64"),
    twins("GAE", (1_000_000,), "float32"),
    *(twins(name, shape, "float32") for name, shape in zip(("log-probs forward", "PPO", "GAE"), SMALL, strict=True)),
    *map(memory, MEMORY),
    accuracy("float32", 4e-6),
    accuracy("float64", 2e-13),
    importing(),
    *map(first, CALLS),
]
