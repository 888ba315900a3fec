"""What fastalign promises, each as a ratio of two timings in one run; one thread."""

import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pytest
import seed
from timing import measure

import fastalign

TURNS = 3


class Measure(NamedTuple):
    """``least``: how many times as fast as the baseline; ``most``: how many seconds more than the baseline."""

    text: str
    make: Callable  # () -> (ours, baseline)
    least: float | None = None
    most: float | None = None


def rows():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((512, 32_000), np.float32) * np.float32(3)
    tokens = rng.integers(0, 32_000, 512)
    return lambda: fastalign.selective_log_softmax(logits, tokens), lambda: seed.seed_token_log_probs(logits, tokens)


def pairs():
    logps = np.random.default_rng(0).standard_normal((4, 1 << 20)) * 20 - 100
    trainer = fastalign.DPOTrainer(beta=0.1)
    return lambda: trainer.compute_loss(*logps), lambda: seed.seed_dpo_loss(*logps)


def policy():
    rng = np.random.default_rng(0)
    old, advantages = rng.standard_normal((2, 1 << 20))
    new = old + 0.3 * rng.standard_normal(1 << 20)
    return lambda: fastalign.ppo_loss(new, old, advantages), lambda: seed.seed_ppo_loss(new, old, advantages)


def stream():
    rng = np.random.default_rng(0)
    rewards, values = rng.standard_normal((2, 1_000_000))
    ends, out = rng.random(1_000_000) < 0.001, (np.zeros(1_000_000), np.zeros(1_000_000))
    return lambda: fastalign.gae(rewards, values, ends, out=out), lambda: seed.seed_gae(rewards, values, ends)


def importing():
    return python("import numpy, fastalign"), python("import numpy")


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


def python(code):
    return lambda: subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def first(call):
    """The time of the first call in a new process, as it tells it itself."""

    def make():
        run = python(FIRST.format(call=CALLS[call]))
        return (lambda: float(run().stdout)), None

    return make


MEASURES = {
    "rows": Measure("log-prob forward, 512x32000 float32, against the seed", rows, least=5),
    "pairs": Measure("DPOTrainer.compute_loss, 2^20 float64, against the seed", pairs, least=1.5),
    "policy": Measure("ppo_loss, 2^20 float64, against the seed", policy, least=1.5),
    "stream": Measure("gae with out=, 10^6 steps, 0.1 % ends, against the seed's loop", stream, least=500),
    "import": Measure("import fastalign, beyond import numpy", importing, most=0.060),
    **{f"first {name}": Measure(f"first call of {name} in a new process", first(name), most=0.020) for name in CALLS},
}


@lru_cache(maxsize=1)
def made(name):
    return MEASURES[name].make()


@pytest.mark.parametrize("side", ["ours", "baseline"])
@pytest.mark.parametrize("turn", range(TURNS))
@pytest.mark.parametrize("name", MEASURES)
def test_measure(benchmark, name, turn, side):
    case = MEASURES[name]
    call = made(name)[0 if side == "ours" else 1]
    if call is None:
        pytest.skip("measured without a baseline")
    benchmark.group = case.text
    info = {"measure": case.text, "side": side, "least": case.least, "most": case.most}
    benchmark.extra_info.update(info)
    fastalign.set_num_threads(1)
    try:
        if name.startswith("first"):
            told = [call() for _ in range(3)]
            benchmark.extra_info["told"] = told
            benchmark.pedantic(lambda: None, rounds=1)
        else:
            measure(benchmark, call, 0.3)
    finally:
        fastalign.set_num_threads(None)
