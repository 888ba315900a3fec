"""Gradients so large that they are written past the caches: the same bits as in small pieces, and in place."""

import numpy as np
import pytest

import fastalign
from fastalign.backends import cython_cpu

pytestmark = pytest.mark.skipif(cython_cpu.why_not() is not None, reason="the extension is not built")
ROWS, COLUMNS = 270, 32_011  # 33 MiB of float32; rows start anywhere in a cache line,
OFFSET = 3  # as does the first
AS = {"f32": np.float32, "f64": np.float64, "f16": np.float16, "bf16": np.uint16}


@pytest.mark.parametrize("kind", AS)
@pytest.mark.parametrize("isa", cython_cpu.isas())
@pytest.mark.parametrize("asked", ["log-probs", "entropy", "loss", "loss, entropy"])
def test_past_the_caches(monkeypatch, isa, kind, asked):
    monkeypatch.setattr(cython_cpu, "core", lambda: cython_cpu.load(isa))
    rng = np.random.default_rng(1)
    rows = ROWS * (2 if AS[kind]().itemsize == 2 else 1)
    x = rng.standard_normal((rows, COLUMNS), np.float32)
    x[3, 5], x[4, 6], x[5] = np.nan, -np.inf, -np.inf
    logits = (x.view(np.uint32) >> 16).astype(np.uint16) if kind == "bf16" else x.astype(AS[kind])
    tokens = rng.integers(0, COLUMNS, rows)
    mask = np.arange(rows) % 7 != 6
    real = np.float64 if kind == "f64" else np.float32
    grad, spread = rng.standard_normal((2, rows)).astype(real)
    room = np.full(x.size + OFFSET + 1, 9, logits.dtype)
    out = room[OFFSET:-1].reshape(x.shape)

    def gradient(a, b, into, of=logits):
        given = {"mask": mask[a:b], "backend": "cython", "out": into}
        if "loss" in asked:
            given["aggregation"] = "token_sum"
            coefficient = 0.5 if "entropy" in asked else 0.0
            fastalign.policy_loss_from_logits(
                of[a:b], tokens[a:b], -11 + spread[a:b], grad[a:b], entropy_coef=coefficient, **given
            )
        else:
            given |= {"grad_entropy": spread[a:b]} if "entropy" in asked else {}
            fastalign.token_log_probs_grad(of[a:b], tokens[a:b], grad[a:b], **given)

    gradient(0, rows, out)
    small, inside = np.empty_like(out), logits.copy()
    for a in range(0, rows, 20):
        gradient(a, a + 20, small[a : a + 20])
    gradient(0, rows, inside, of=inside)
    bits = np.dtype(f"u{out.itemsize}")
    assert np.array_equal(out.view(bits), small.view(bits))
    assert np.array_equal(inside.view(bits), small.view(bits))
    assert np.all(room[:OFFSET] == 9) and room[-1] == 9
