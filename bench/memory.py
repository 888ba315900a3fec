"""python memory.py NAME: how many bytes a call takes beyond what was there before, in a process of its own.

The larger of what Python and NumPy allocated (tracemalloc) and the growth of the resident set at its peak, which also
has what C allocated.  A small call before it loads and allocates what is needed once.  In place, the logits are the
output; what is returned besides counts.
"""

import resource
import sys
import tracemalloc

import data
import seed

import fastalign

SHAPES = {
    "forward": (512, 32_000),
    "in_place": (512, 32_000),
    "answers": (4, 64, 32_000),
    "linear": (1_024, 1_024, 32_000),
}
SMALL = {2: (4, 100), 3: (2, 2, 100)}


def forward(shape, **options):
    a = data.rows(shape, "float32")
    return lambda: fastalign.token_log_probs(**a, **options)


def in_place(shape):
    a = data.policy(shape[:1], "float32")
    a.update(data.rows(shape, "float32"), out=None)
    del a["log_probs"]
    a["out"] = a["logits"]
    return lambda: fastalign.policy_loss_from_logits(**a)


def answers(shape):
    a = data.rows((2 * shape[0] * shape[1], shape[2]), "float32")
    both, tokens = a["logits"].reshape(2, *shape), a["tokens"].reshape(2, *shape[:2])
    return lambda: fastalign.dpo_loss_from_logits(both[0], tokens[0], both[1], tokens[1], out=tuple(both))


def linear(shape):
    a = data.linear(shape, "float32")
    return lambda: fastalign.linear_log_probs(**a)


def curriculum(shape):
    a = data.rows(shape, "float32")
    return lambda: seed.seed_token_log_probs(**a)


MAKE = {
    "forward": forward,
    "entropy": lambda shape: forward(shape, entropy=True),
    "in_place": in_place,
    "answers": answers,
    "linear": linear,
    "NumPy": curriculum,
}


def resident(field):
    """In bytes, of this process: VmRSS now, VmHWM at its peak; the peak only, where there is no /proc."""
    try:
        with open("/proc/self/status", encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_peak():
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as control:
            control.write("5")  # proc(5): sets the peak back to what is resident now
    except OSError:
        pass


def extra(call):
    tracemalloc.start()
    forget_peak()
    before = resident("VmRSS")
    kept = call()
    peak, traced = resident("VmHWM"), tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    del kept
    return max(peak - before, traced)


def main(name):
    fastalign.set_num_threads(1)
    shape = SHAPES.get(name, SHAPES["forward"])
    MAKE[name](SMALL[len(shape)])()
    call = MAKE[name](shape)
    print(extra(call))


if __name__ == "__main__":
    main(sys.argv[1])
