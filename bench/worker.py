"""A peer in a process of its own: python worker.py NAME; JSON lines in, JSON lines out.

{"prepare": [task, shape, dtype]} checks the peer's result against the float64 reference; {"time": seconds} times it.
Its own process, because allocator and threads are set before anything is loaded, and nothing of it disturbs the rest.
"""

import importlib
import json
import os
import sys
import time
import traceback
import warnings

import numpy as np
from timing import plan

# name: module, what it is asked for, packages it needs
PEERS = {
    "torch eager": ("peer_torch", "eager", ("torch",)),
    "torch eager, warm allocator": ("peer_torch", "eager", ("torch",)),
    "torch.compile": ("peer_torch", "compile", ("torch",)),
    "torch.compile, warm allocator": ("peer_torch", "compile", ("torch",)),
    "jax.jit": ("peer_jax", "jit", ("jax",)),
    "rlax, jit": ("peer_jax", "rlax", ("jax", "rlax")),
    "tianshou": ("peer_rl", "tianshou", ("tianshou",)),
    "stable-baselines3": ("peer_rl", "stable_baselines3", ("stable_baselines3", "gymnasium")),
    "scipy": ("peer_scipy", "scipy", ("scipy",)),
}
# Fresh pages for every large result are what the default costs: this keeps them.
WARM = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "8000000000"}
ENVIRONMENT = {
    "torch eager, warm allocator": WARM,
    "torch.compile, warm allocator": WARM,
    "jax.jit": {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"},
    "rlax, jit": {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"},
}


def load(name):
    """The peer's module, loaded where there is one processor.

    JAX's pool takes as many threads as there are processors at that moment; with XLA's flags
    (--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1) it still used 1.8 processors.
    """
    every = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if every:
        os.sched_setaffinity(0, {max(every)})
    module = importlib.import_module(PEERS[name][0])
    if every:  # the threads it has started may then run on any
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), every)
    return module


def prepare(module, what, task, shape, dtype):
    import data

    build = module.TASKS.get((what, {"accuracy": "rows"}.get(task, task)))
    if build is None:
        return None, {"skip": f"{what} has no {task}"}
    call, results = build(**data.arrays(task, shape, dtype))
    got, want = results(call()), data.truth(task, shape, dtype)
    got = (*got, *[None] * (len(want) - len(got)))  # what the peer does not compute
    data.compare(f"{what} {task}", got, want, dtype, slack=4096.0)
    errors = [None if g is None else float(np.abs(np.subtract(g, w)).max()) for g, w in zip(got, want, strict=True)]
    data.truth.cache_clear()
    return call, {"errors": errors}


def timed(call, seconds):
    """Seconds of a call in each round, and how many processors they kept busy; the rounds are those of ``measure``."""
    rounds, calls = plan(call, seconds)
    told, cpu, first = [], time.process_time(), time.perf_counter()
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        told.append((time.perf_counter() - start) / calls)
    return {"told": told, "processors": (time.process_time() - cpu) / (time.perf_counter() - first)}


def main(name):
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a peer prints is not an answer
    warnings.simplefilter("ignore")
    module, call = load(name), None
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if "prepare" in asked:
                task, shape, dtype = asked["prepare"]
                call, reply = prepare(module, PEERS[name][1], task, tuple(shape), dtype)
            else:
                reply = timed(call, asked["time"])
        except Exception as error:
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main(sys.argv[1])
