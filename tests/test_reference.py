"""The oracle itself: against golden values from the papers' side, against definitions, against the rules."""

import inspect
import math

import mpmath
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastalign
from fastalign.backends import BLOCK, reference, reference_scan
from fastalign.binding import FAMILIES, Binding, family

EXACT = Binding(lambda f: f, math=mpmath)
KINDS = [(prefix, kind) for prefix in FAMILIES for kind in family(prefix)]
TINY = np.finfo(float).tiny


# ---- golden values ---------------------------------------------------------------------------------------------------
# Computed by other people's code (TRL, torch autograd, torchrl, verl), to the digits printed.

LOGITS = np.array([[1.0, 2.0, 3.0, -np.inf, 0.5]])
ROWS = {
    1.0: (
        (-1.46077349, 3.46077349, 0.99301512),
        (-0.08536889, 0.76794329, -0.63079554, 0, -0.05177885),
        (0.12530091, 0.10854647, -0.33573565, 0, 0.10188827),
    ),
    2.0: (
        (-1.31576955, 2.31576955, 1.27101701),
        (-0.08135632, 0.36586610, -0.22114941, 0, -0.06336037),
        (0.04431906, 0.00600283, -0.10067771, 0, 0.05035581),
    ),
}


@pytest.mark.parametrize("temperature", ROWS)
def test_golden_rows(backend, temperature):
    values, d_logp, d_entropy = ROWS[temperature]
    options = {"temperature": temperature, "backend": backend}
    assert_allclose(np.ravel(fastalign.token_log_probs(LOGITS, [1], entropy=True, **options)[:3]), values, atol=5e-9)
    assert_allclose(fastalign.token_log_probs_grad(LOGITS, [1], [1.0], **options)[0], d_logp, atol=5e-9)
    grad = fastalign.token_log_probs_grad(LOGITS, [1], [0.0], grad_entropy=[1.0], **options)
    assert_allclose(grad[0], d_entropy, atol=5e-9)


@pytest.mark.parametrize(
    "smoothing, loss, slope", [(0.0, 0.4200553, -0.1714948), (0.1, 0.4850553, -0.1214948)], ids=["dpo", "cdpo"]
)
def test_golden_dpo(backend, smoothing, loss, slope):
    logps = ([-12.5], [-14.0], [-13.0], [-13.2])
    r = fastalign.preference_loss(*logps, beta=0.5, label_smoothing=smoothing, backend=backend)
    assert_allclose([r.loss, r.grad_chosen[0], r.grad_rejected[0]], [loss, slope, -slope], atol=5e-8)
    assert_allclose([r.chosen_rewards[0], r.rejected_rewards[0]], [0.25, -0.4], rtol=1e-14)
    assert r.metrics == pytest.approx(
        {"rewards/chosen": 0.25, "rewards/rejected": -0.4, "rewards/accuracies": 1.0, "rewards/margins": 0.65}
    )


def test_golden_reward_model(backend):
    got = fastalign.reward_model_loss([1.2], [0.7], margin=[0.3], center_coef=0.01, backend=backend)
    assert_allclose(np.ravel([got[0], got[1][0], got[2][0]]), [0.6342389, -0.412166, 0.488166], atol=5e-7)


PPO = [  # advantage, log-ratio, loss, slope; clip 0.2 below and 0.28 above
    (1, -0.5, -0.606531, -0.606531),
    (1, 0.1, -1.10517, -1.10517),
    (1, 0.5, -1.28, 0),
    (-1, -0.5, 0.8, 0),
    (-1, 0.1, 1.10517, 1.10517),
    (-1, 0.5, 1.64872, 1.64872),
]


@pytest.mark.parametrize("advantage, log_ratio, loss, slope", PPO)
def test_golden_ppo(backend, advantage, log_ratio, loss, slope):
    r = fastalign.policy_loss([-2 + log_ratio], [-2.0], [float(advantage)], clip_high=0.28, backend=backend)
    assert_allclose([r.loss, r.grad_log_probs[0]], [loss, slope], atol=5e-6)
    assert r.metrics["clip_ratio/region_mean"] == (slope == 0)
    assert r.metrics["clipfrac"] == (abs(log_ratio) > 0.3)
    assert r.metrics["ratio_max"] == r.metrics["ratio_mean"] == pytest.approx(math.exp(log_ratio), rel=1e-14)


def test_golden_kl(backend):
    for h, estimator, value in [
        (-0.3, "k1", -0.3),
        (-0.3, "k2", 0.045),
        (-0.3, "k3", 0.04985881),
        (0.3, "k3", 0.04081822),
    ]:
        got = fastalign.kl_estimate([-1.0 + h], [-1.0], estimator=estimator, backend=backend)
        assert_allclose(got.value, [value], atol=5e-9)
    slopes = [fastalign.kl_estimate([-1.0 + h], [-1.0], backend=backend).grad[0] for h in (-0.3, 0.3)]
    assert_allclose(slopes, [-0.3498588, 0.2591818], atol=5e-8)


REWARDS, VALUES = (1.0, 0.0, 2.0, -1.0, 0.5), (0.5, 0.4, 0.3, 0.2, 0.1)
EVENT, NEVER = (0, 0, 1, 0, 0), (0, 0, 0, 0, 0)
GAE = {
    "no event": ({}, (1.579301, 0.999029, 1.568096, -0.4332, 0.94)),
    "terminated": ({"terminated": EVENT}, (1.64768, 1.094, 1.7, -0.4332, 0.94)),
    "truncated": (
        {"truncated": EVENT, "final_values": [0, 0, 0.7, 0, 0]},
        (1.974272, 1.5476, 2.33, -0.4332, 0.94),
    ),
    "tokens": ({"mask": (1, 1, 0, 1, 1), "last_values": None}, (0.275475, -0.81184, 0, -0.822, 0.4)),
}


@pytest.mark.parametrize("case", GAE)
@pytest.mark.parametrize("layout", ["one", "TN", "NT"])
def test_golden_gae(backend, case, layout):
    options, want = GAE[case]
    given = {"rewards": REWARDS, "values": VALUES, "terminated": NEVER, "last_values": 0.6, **options}
    if layout != "one":
        turn = (lambda x: np.stack([x] * 3, axis=1)) if layout == "TN" else (lambda x: np.stack([x] * 3))
        last = given.pop("last_values")
        given = {name: turn(np.asarray(x)) for name, x in given.items()}
        given |= {"last_values": None if last is None else [last] * 3, "layout": layout}
    advantages, returns = fastalign.gae(**given, gamma=0.9, lam=0.8, backend=backend)
    want = want if layout == "one" else turn(np.array(want))
    assert_allclose(advantages, want, atol=1e-6)
    kept = np.asarray(given["mask"]) if "mask" in given else 1
    assert_allclose(returns, (advantages + np.asarray(given["values"])) * kept, rtol=1e-14)


def test_golden_controller():
    for kl, want in ((0.3, 0.00100512), (0.09, 0.00099744)):
        assert fastalign.AdaptiveKLController(0.001, 0.1, 10_000).update(kl, 256) == pytest.approx(want, abs=5e-9)


# ---- definitions, in fifty digits or by plain loops ------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.25, 1.0, 7.0])
def test_rows_against_fifty_digits(temperature):
    rng = np.random.default_rng(5)
    logits, tokens = rng.standard_normal((4, 33)) * 10, rng.integers(0, 33, 4)
    got = fastalign.token_log_probs(logits, tokens, temperature=temperature, entropy=True, backend="numpy")
    with mpmath.workdps(50):
        for r in range(4):
            z = [mpmath.mpf(float(v)) / mpmath.mpf(temperature) for v in logits[r]]
            lse = mpmath.log(mpmath.fsum(map(mpmath.exp, z)))
            entropy = -mpmath.fsum(mpmath.exp(v - lse) * (v - lse) for v in z)
            want = [float(v) for v in (z[tokens[r]] - lse, lse, entropy)]
            assert_allclose([got.logp[r], got.lse[r], got.entropy[r]], want, rtol=2e-14, atol=2e-15)


def slow_gae(r, v, last, next_values, final, terminated, truncated, mask, gamma, lam):
    """One stream, by the definition: compact the row, then sum the discounted errors up to the first cut."""
    steps = [t for t in range(len(r)) if mask[t]]
    out = np.zeros(len(r))

    def ahead(k):
        t = steps[k]
        if terminated[t]:
            return 0.0
        if next_values is not None:
            return next_values[t]
        if truncated[t]:
            return final[t]
        return v[steps[k + 1]] if k + 1 < len(steps) else last

    delta = [r[t] + gamma * ahead(k) - v[t] for k, t in enumerate(steps)]
    for k, t in enumerate(steps):
        for hop, u in enumerate(steps[k:]):
            out[t] += (gamma * lam) ** hop * delta[k + hop]
            if terminated[u] or truncated[u]:
                break
    return out


def slow_returns(r, v, last, next_values, final, terminated, truncated, mask, gamma, lam):
    steps = len(r)
    out = np.zeros(steps)
    for t in range(steps):
        for hop, u in enumerate(range(t, steps)):
            out[t] += gamma**hop * r[u]
            if terminated[u]:
                break
            if truncated[u] or u == steps - 1:
                after = next_values[u] if next_values is not None else final[u] if truncated[u] else last
                out[t] += gamma ** (hop + 1) * after
                break
    return out


@pytest.mark.parametrize("bootstrap", ["last", "final", "next"])
@pytest.mark.parametrize("layout", ["TN", "NT"])
def test_recurrences_against_sums(backend, bootstrap, layout):
    rng = np.random.default_rng(17)
    steps, streams = 23, 9
    r, v, next_values, final = rng.standard_normal((4, steps, streams))
    terminated, truncated, masked = (rng.random((steps, streams)) < p for p in (0.15, 0.15, 0.3))
    mask = ~masked
    mask[:, 4] = False
    mask[-3:, 5] = False  # the last step that counts is not the last one
    last = rng.standard_normal(streams)
    cut = truncated if bootstrap != "last" else np.zeros_like(truncated)
    ahead = next_values if bootstrap == "next" else None
    options = {
        "truncated": cut if bootstrap != "last" else None,
        "final_values": final if bootstrap == "final" else None,
        "next_values": ahead,
        "last_values": None if bootstrap == "next" else last,
    }
    turned = {k: x.T if layout == "NT" and np.ndim(x) == 2 else x for k, x in options.items()}
    turn = (lambda x: x.T) if layout == "NT" else (lambda x: x)
    both = {"layout": layout, "backend": backend, "gamma": 0.9, **turned}

    columns = [
        (r[:, j], v[:, j], last[j], None if ahead is None else ahead[:, j], final[:, j], terminated[:, j], cut[:, j])
        for j in range(streams)
    ]
    every = np.ones(steps, bool)
    want = np.stack([slow_gae(*c, mask[:, j], 0.9, 0.8) for j, c in enumerate(columns)], axis=1)
    got, returns = fastalign.gae(turn(r), turn(v), turn(terminated), mask=turn(mask), lam=0.8, **both)
    assert_allclose(turn(got), want, rtol=1e-12, atol=1e-13)
    assert_allclose(turn(returns), np.where(mask, want + v, 0), rtol=1e-12, atol=1e-13)

    want = np.stack([slow_returns(*c, every, 0.9, 1.0) for c in columns], axis=1)
    got = fastalign.discounted_returns(turn(r), turn(terminated), **both)
    assert_allclose(turn(got), want, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_sequences_against_loops(backend, reduction):
    rng = np.random.default_rng(23)
    x, mask = rng.standard_normal((6, 11)), rng.random((6, 11)) < 0.6
    mask[2] = False
    want, count = np.zeros(6), mask.sum(axis=1)
    for b in range(6):
        want[b] = math.fsum(x[b][mask[b]]) / (max(count[b], 1) if reduction == "mean" else 1)
    got = fastalign.sequence_log_probs(x, mask=mask, reduction=reduction, backend=backend)
    assert_allclose(got, want, rtol=1e-14, atol=1e-15)
    grad = rng.standard_normal(6)
    spread = fastalign.sequence_log_probs_grad(grad, mask=mask, reduction=reduction, backend=backend)
    share = grad / np.maximum(count, 1) if reduction == "mean" else grad
    assert_allclose(spread, np.where(mask, share[:, None], 0), rtol=1e-15)


# ---- against the rules, which it does not know -----------------------------------------------------------------------

OPTIONS = {
    "pair": [(0.1, 0.0, 0.5), (0.7, 0.2, 1.0), (0.3, 1.0, 1.0)],
    "reward": [(0.0, 1.0), (0.05, 0.25)],
    "policy": [(0.2, 0.28, 20.0, 0.5), (0.1, 0.1, 0.3, 1.0), (0.2, 0.2, math.inf, 1.0)],
    "kl": [(1.0,), (0.1,)],
}


@pytest.mark.parametrize("prefix, kind", KINDS)
@pytest.mark.parametrize("masked", [False, True])
def test_formulas_agree_with_the_rules_in_fifty_digits(prefix, kind, masked):
    shape, rng, n = FAMILIES[prefix], np.random.default_rng(29), 60
    element = EXACT.element(prefix, kind)
    for options in OPTIONS[prefix]:
        inputs = tuple(rng.standard_normal(n) for _ in shape.inputs)
        mask = (rng.random(n) < 0.7).astype(np.uint8) if masked else None
        outputs = tuple(np.full(n, np.nan) for _ in shape.outputs)
        partials = np.zeros((1, shape.tallies))
        reference.pointwise(prefix, kind, inputs, mask, options, outputs, partials)
        kept = range(n) if mask is None else np.flatnonzero(mask)
        with mpmath.workdps(50):
            exact = [element(*(mpmath.mpf(float(v)) for v in (*(x[i] for x in inputs), *options))) for i in kept]
        columns = list(zip(*exact, strict=True))
        for k, out in enumerate(outputs):
            want = np.zeros(n)
            want[list(kept)] = [float(v) for v in columns[k]]
            assert_allclose(out, want, rtol=1e-13, atol=1e-15, err_msg=shape.outputs[k])
        for k, name in enumerate(shape.sums + shape.peaks):
            fold = mpmath.fsum if k < len(shape.sums) else max
            assert_allclose(
                partials[0, k], float(fold(columns[len(outputs) + k])), rtol=1e-12, atol=1e-13, err_msg=name
            )


def test_every_rule_has_a_formula():
    assert set(reference.FORMULAS) == set(KINDS)


@pytest.mark.parametrize("prefix", FAMILIES)
def test_a_missing_formula_is_named(prefix):
    shape = FAMILIES[prefix]
    arrays = (tuple(np.zeros(1) for _ in x) for x in (shape.inputs, shape.outputs))
    with pytest.raises(NotImplementedError, match=f"no formula for {prefix}_unheard_of"):
        reference.pointwise(
            prefix, "unheard_of", next(arrays), None, (1.0,) * len(shape.params), next(arrays), np.zeros((1, 1))
        )


def test_a_missing_recurrence_is_named():
    x, flag = np.zeros((1, 1)), np.zeros((1, 1), np.uint8)
    with pytest.raises(NotImplementedError, match="no recurrence for scan_unheard_of"):
        reference.scan("unheard_of", x, x, None, None, None, flag, None, None, 1.0, 1.0, "TN", x.copy(), None)


def test_it_does_not_know_the_rules():
    """An oracle that shared the formulas would prove nothing."""
    for module in (reference, reference_scan):
        relative = [line for line in inspect.getsource(module).splitlines() if line.startswith("from .")]
        shared = {"from . import BLOCK", "from . import BLOCK, single_holds", "from .reference_scan import scan"}
        assert set(relative) <= shared


# ---- the contract ----------------------------------------------------------------------------------------------------


def test_slabs_do_not_change_the_result(monkeypatch):
    rng = np.random.default_rng(31)
    logits, tokens = rng.standard_normal((9, 50)).astype(np.float32), rng.integers(0, 50, 9)
    mask = (np.arange(9) % 3 != 1).astype(np.uint8)
    for kept in (None, mask):
        results = []
        for size in (1, 100, 1 << 20):
            monkeypatch.setattr(reference, "SLAB", size)
            out = [np.full(9, np.nan, np.float32) for _ in range(3)]
            reference.row_forward(logits, "f32", tokens, kept, 0.7, *out)
            grad = np.full_like(logits, np.nan)
            reference.row_backward(logits, "f32", tokens, kept, 0.7, *out, None, None, grad)
            results.append([*out, grad])
        for other in results[1:]:
            for g, w in zip(other, results[0], strict=True):
                assert_array_equal(g, w)


@pytest.mark.parametrize("name", ["numpy", "cython", "numba"])
def test_every_output_is_written(name):
    """Whatever was in the arrays before, and whichever outputs are not wanted."""
    from conftest import usable

    from fastalign.dispatch import choose

    module = choose(usable(name)).module
    n = BLOCK + 5
    rng = np.random.default_rng(37)
    mask = (rng.random(n) < 0.5).astype(np.uint8)
    for prefix, kind in KINDS:
        shape = FAMILIES[prefix]
        inputs = tuple(rng.standard_normal(n) for _ in shape.inputs)
        options = OPTIONS[prefix][0]
        for kept in (None, mask):
            full = tuple(np.full(n, np.nan) for _ in shape.outputs)
            partials = np.zeros((2, shape.tallies))
            partials[:, len(shape.sums) :] = -np.inf
            module.pointwise(prefix, kind, inputs, kept, options, full, partials)
            assert all(np.isfinite(x).all() for x in full)
            if kept is not None:
                assert all((x[kept == 0] == 0).all() for x in full)
            for wanted in range(len(full)):
                some = tuple(np.full(n if k == wanted else 0, np.nan) for k in range(len(full)))
                again = np.zeros_like(partials)
                again[:, len(shape.sums) :] = -np.inf
                module.pointwise(prefix, kind, inputs, kept, options, some, again)
                assert_array_equal(some[wanted], full[wanted])
                assert_array_equal(again, partials)
