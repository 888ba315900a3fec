"""Every derivative in the rules against fifty-digit differentiation of the same lines, and the kinks by convention."""

import math

import mpmath
import numpy as np
import pytest

from fastalign.binding import FAMILIES, Binding, family

FLOATS = Binding(lambda f: f)
EXACT = Binding(lambda f: f, math=mpmath)
KINDS = [(prefix, kind) for prefix in FAMILIES for kind in family(prefix)]
EPS = np.finfo(float).eps

# (spread of the inputs, options) of each family; log-ratios on both sides of every clip.
POINTS = {
    "pair": (3.0, [(0.1, 0.0), (0.7, 0.2), (5.0, 1.0)]),
    "reward": (2.0, [(0.0,), (0.05,)]),
    "policy": (0.5, [(0.2, 0.28, 20.0), (0.05, 0.3, 0.4), (0.2, 0.2, math.inf)]),
    "kl": (1.5, [()]),
}


def points(prefix, kind):
    spread, options = POINTS[prefix]
    rule = getattr(EXACT.rules, f"{prefix}_{kind}")
    rng = np.random.default_rng(11)
    for some in options:
        inputs = rule.__code__.co_argcount - len(some)
        for x in spread * rng.standard_normal((25, inputs)):
            yield rule, [mpmath.mpf(float(v)) for v in (*x, *some)]


def derivative(rule, x, k):
    return mpmath.diff(lambda v: rule(*x[:k], v, *x[k + 1 :])[0], x[k])


@pytest.mark.parametrize("prefix, kind", KINDS)
def test_slopes_are_the_derivatives_of_the_value(prefix, kind):
    with mpmath.workdps(50):
        for rule, x in points(prefix, kind):
            for k, slope in enumerate(rule(*x)[1:]):
                assert mpmath.almosteq(slope, derivative(rule, x, k), 1e-20, 1e-20), (x, k)


@pytest.mark.parametrize("prefix, kind", KINDS)
def test_the_test_notices_a_wrong_slope(prefix, kind):
    """What would pass with a slope that is off by one part in 10^12 tests nothing."""
    with mpmath.workdps(50):
        rule, x = next((rule, x) for rule, x in points(prefix, kind) if rule(*x)[1] != 0)
        wrong = rule(*x)[1] * (1 + mpmath.mpf(10) ** -12)
        assert not mpmath.almosteq(wrong, derivative(rule, x, 0), 1e-20, 1e-20)


@pytest.mark.parametrize("prefix, kind", KINDS)
def test_the_frame_stores_the_weighted_slopes(prefix, kind):
    shape = FAMILIES[prefix]
    element = FLOATS.element(prefix, kind)
    grads = [k for k, name in enumerate(shape.outputs) if name.startswith("grad")]
    options = POINTS[prefix][1][0]
    x = np.random.default_rng(2).standard_normal(len(shape.inputs))
    one, third = element(*x, *options, 1.0), element(*x, *options, 1 / 3)
    loss = len(shape.outputs) + shape.sums.index("loss" if "loss" in shape.sums else "value")
    exact = EXACT.element(prefix, kind)
    # The derivative of what is tallied, with respect to the inputs that have one: in the order of the frame's.
    for which, k in enumerate(grads):
        assert third[k] == pytest.approx(one[k] / 3, rel=4 * EPS)
        with mpmath.workdps(40):
            at = [mpmath.mpf(float(v)) for v in (*x, *options, 1.0)]
            slope = mpmath.diff(lambda v, w=which, at=at: exact(*at[:w], v, *at[w + 1 :])[loss], at[which])
            assert one[k] == pytest.approx(float(slope), rel=1e-13, abs=1e-15)


# ---- kinks: at a bound the derivative passes, as in torch.clamp ------------------------------------------------------

ppo = FLOATS.rules.policy_ppo


def test_ppo_passes_at_the_upper_bound():
    ratio = math.exp(0.25)
    high = ratio - 1.0
    assert 1.0 + high == ratio, "exact by Sterbenz"
    assert ppo(0.25, 0.0, 2.0, 0.2, high, 20.0) == (-2.0 * ratio, -2.0 * ratio)
    above = math.nextafter(0.25, 1.0)
    assert ppo(above, 0.0, 2.0, 0.2, high, 20.0)[1] == (0.0 if math.exp(above) > ratio else -2.0 * ratio)
    assert ppo(0.2500001, 0.0, 2.0, 0.2, high, 20.0) == (-2.0 * ratio, 0.0)
    assert ppo(0.2499999, 0.0, 2.0, 0.2, high, 20.0)[1] == -2.0 * math.exp(0.2499999)


def test_ppo_passes_at_the_lower_bound():
    ratio = math.exp(-0.25)
    low = 1.0 - ratio
    assert 1.0 - low == ratio
    assert ppo(-0.25, 0.0, -2.0, low, 0.2, 20.0) == (2.0 * ratio, 2.0 * ratio)
    assert ppo(-0.2500001, 0.0, -2.0, low, 0.2, 20.0) == (2.0 * ratio, 0.0)
    assert ppo(-0.2499999, 0.0, -2.0, low, 0.2, 20.0)[1] == 2.0 * math.exp(-0.2499999)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_ppo_keeps_its_slope_where_the_unclipped_branch_is_the_minimum(advantage):
    log_ratio = -0.5 if advantage > 0 else 0.5  # outside the range, on the side the curriculum gives no gradient
    value, slope = ppo(log_ratio, 0.0, advantage, 0.2, 0.2, 20.0)
    assert value == slope == -math.exp(log_ratio) * advantage


def test_the_bound_of_the_log_ratio_passes_and_beyond_it_nothing_does():
    assert ppo(-20.0, 0.0, 1.0, 0.2, 0.2, 20.0)[1] == -math.exp(-20.0)
    assert ppo(math.nextafter(-20.0, -21.0), 0.0, 1.0, 0.2, 0.2, 20.0) == (-math.exp(-20.0), 0.0)
    assert ppo(20.0, 0.0, -1.0, 0.2, 0.2, 20.0)[1] == math.exp(20.0)
    assert ppo(math.nextafter(20.0, 21.0), 0.0, -1.0, 0.2, 0.2, 20.0) == (math.exp(20.0), 0.0)


@pytest.mark.parametrize("advantage", [0.0, -0.0])
@pytest.mark.parametrize("log_ratio", [0.0, 5.0, -5.0, math.inf])
def test_no_advantage_no_slope(advantage, log_ratio):
    assert ppo(log_ratio, 0.0, advantage, 0.2, 0.2, 20.0) == (0.0, 0.0)


# ---- row -------------------------------------------------------------------------------------------------------------

LOGITS = [mpmath.mpf(v) for v in ("1", "2.5", "-3", "0.125", "2.375")]
GRADS = [("1", "0", "0"), ("0", "1", "0"), ("0", "0", "1"), ("0.75", "-1.5", "2.25")]


def state(logits, scale):
    z = [x * scale for x in logits]
    peak = max(z)
    total = mpmath.fsum(mpmath.exp(v - peak) for v in z)
    weighted = mpmath.fsum(mpmath.exp(v - peak) * (v - peak) for v in z)
    return z, peak + mpmath.log(total), EXACT.rules.row_entropy(total, weighted)


@pytest.mark.parametrize("scale", ["1", "0.5", "3"])
@pytest.mark.parametrize("grads", GRADS)
@pytest.mark.parametrize("token", range(5))
def test_row_slope_is_the_derivative_of_log_softmax_and_entropy(scale, grads, token):
    with mpmath.workdps(50):
        scale, grads = mpmath.mpf(scale), [mpmath.mpf(g) for g in grads]

        def loss(*logits):
            z, lse, _ = state(logits, scale)
            p = [mpmath.exp(v - lse) for v in z]
            # The entropy by its definition, not by row_entropy.
            return grads[0] * (z[token] - lse) + grads[1] * lse - grads[2] * mpmath.fsum(q * mpmath.log(q) for q in p)

        z, lse, entropy = state(LOGITS, scale)
        a, b = EXACT.rules.row_slope(*grads, entropy, scale)
        for j in range(5):
            slope = mpmath.exp(z[j] - lse) * (a + b * (z[j] - lse)) + (grads[0] * scale if j == token else 0)
            want = mpmath.diff(loss, LOGITS, tuple(int(k == j) for k in range(5)))
            assert mpmath.almosteq(slope, want, 1e-20, 1e-20)


@pytest.mark.parametrize("scale", ["1", "0.5", "3"])
@pytest.mark.parametrize("grads", [("1", "0"), ("0", "1"), ("0.75", "-1.5")])
def test_row_moment_slope_is_the_derivative_of_sum_p2_and_mean(scale, grads):
    with mpmath.workdps(50):
        scale, grads = mpmath.mpf(scale), [mpmath.mpf(g) for g in grads]

        def values(logits):
            z, lse, _ = state(logits, scale)
            p = [mpmath.exp(v - lse) for v in z]
            return p, mpmath.fsum(q * q for q in p), mpmath.fsum(z) / 5

        def loss(*logits):
            _, squares, mean = values(logits)
            return grads[0] * squares + grads[1] * mean

        p, squares, mean = values(LOGITS)
        total = mpmath.fsum(mpmath.exp((v - 2) * scale) for v in LOGITS)
        raw = mpmath.fsum(mpmath.exp((v - 2) * scale) ** 2 for v in LOGITS)
        assert mpmath.almosteq(EXACT.rules.row_sum_p2(total, raw), squares, 1e-45)
        assert mpmath.almosteq(EXACT.rules.row_mean_logit(mpmath.fsum(LOGITS), 5, scale), mean, 1e-45)
        a, c, d = EXACT.rules.row_moment_slope(*grads, squares, 5, scale)
        for j in range(5):
            want = mpmath.diff(loss, LOGITS, tuple(int(k == j) for k in range(5)))
            assert mpmath.almosteq(p[j] * (a + c * p[j]) + d, want, 1e-20, 1e-20)


def test_row_moment_slope_does_not_look_at_a_sum_it_does_not_need():
    assert FLOATS.rules.row_moment_slope(0.0, 3.0, math.nan, 6.0, 2.0) == (0.0, 0.0, 1.0)


def test_row_slope_does_not_look_at_an_entropy_it_does_not_need():
    a, b = FLOATS.rules.row_slope(1.0, 0.5, 0.0, math.nan, 2.0)
    assert (a, abs(b)) == (-1.0, 0.0)


# ---- scan ------------------------------------------------------------------------------------------------------------


def walk(step, rewards, values, last, gamma, lam):
    carry, follow, out = mpmath.mpf(0), last, []
    for t in reversed(range(len(rewards))):
        going = 1.0 if t < len(rewards) - 1 else 0.0
        carry = step(rewards[t], values[t], follow, carry, 1.0, going, gamma, lam)
        follow = values[t]
        out.append(carry)
    return out[::-1]


def stream():
    rng = np.random.default_rng(3)
    return tuple([mpmath.mpf(float(v)) for v in rng.standard_normal(6)] for _ in range(2))


def test_gae_is_the_discounted_sum_of_td_errors():
    with mpmath.workdps(50):
        (rewards, values), last = stream(), mpmath.mpf("0.7")
        gamma, lam = mpmath.mpf("0.9"), mpmath.mpf("0.8")
        ahead = [*values[1:], last]
        delta = [r + gamma * n - v for r, n, v in zip(rewards, ahead, values, strict=True)]
        want = [mpmath.fsum((gamma * lam) ** k * d for k, d in enumerate(delta[t:])) for t in range(6)]
        got = walk(EXACT.rules.scan_gae, rewards, values, last, gamma, lam)
        assert all(mpmath.almosteq(g, w, 1e-45) for g, w in zip(got, want, strict=True))


def test_returns_are_the_discounted_sum_of_rewards_and_what_follows():
    with mpmath.workdps(50):
        (rewards, _), last, gamma = stream(), mpmath.mpf("0.7"), mpmath.mpf("0.9")
        want = [
            mpmath.fsum(gamma**k * r for k, r in enumerate(rewards[t:])) + gamma ** (6 - t) * last for t in range(6)
        ]
        zero = [mpmath.mpf(0)] * 6

        def step(reward, value, follow, carry, alive, going, gamma, lam):
            return EXACT.rules.scan_returns(reward, value, last, carry, alive, going, gamma, lam)

        got = walk(step, rewards, zero, last, gamma, mpmath.mpf(1))
        assert all(mpmath.almosteq(g, w, 1e-45) for g, w in zip(got, want, strict=True))


@pytest.mark.parametrize("kind", family("scan"))
def test_nothing_passes_the_end_of_an_episode(kind):
    step = getattr(FLOATS.rules, f"scan_{kind}")
    value = 0.0 if kind == "returns" else 0.5
    assert step(2.0, value, math.nan, math.nan, 0.0, 0.0, 0.9, 0.8) == 2.0 - value
    cut = step(2.0, value, 3.0, math.nan, 1.0, 0.0, 0.9, 0.8)
    assert cut == pytest.approx(2.0 + 0.9 * 3.0 - value, rel=2 * EPS)
