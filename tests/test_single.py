"""Rules that are walked in float32 keep the digits of float32: in every build, against 50 digits."""

import inspect
import math
from importlib import import_module

import mpmath
import numpy as np
import pytest
from conftest import usable

import fastalign
from fastalign.backends import cython_cpu
from fastalign.binding import FAMILIES, Binding, family
from fastalign.rules import SINGLE

EXACT = Binding(lambda f: f, math=mpmath)
EPS = float(np.finfo(np.float32).eps)
OPTIONS = {"pair": (0.1, 0.2), "reward": (0.01,), "policy": (0.2, 0.28, 20.0), "kl": ()}
COUNT = 150


def arguments(prefix, kind):
    """Log-probabilities near each other and far apart, of tokens and of sequences; scores of all sizes."""
    rng = np.random.default_rng(11)
    count = len(FAMILIES[prefix].inputs)
    near = -(10 ** rng.uniform(-3, 2, COUNT))
    columns = [near * (1 + 10 ** rng.uniform(-5, 0, COUNT) * rng.choice([-1, 1], COUNT)) for _ in range(count)]
    if prefix in ("policy", "reward"):
        columns[-1] = rng.standard_normal(COUNT) * 10 ** rng.uniform(-3, 2, COUNT)
    return [x.astype(np.float32) for x in columns]


def outputs(core, prefix, kind, columns):
    shape = FAMILIES[prefix]
    out = tuple(np.empty(COUNT, np.float32) for _ in shape.outputs)
    params = (*OPTIONS[prefix], 1.0)
    core.pointwise(prefix, kind, tuple(columns), None, params, out, np.empty((1, shape.tallies)))
    return out


def build_of(isa):
    """A build of the extension, or Numba."""
    if isa == "numba":
        usable("numba")
        return import_module("fastalign.backends.numba_cpu")
    usable("cython")
    if isa not in cython_cpu.isas():
        pytest.skip(f"{isa} was not built, or does not run here")
    return cython_cpu.load(isa)


def test_all_of_them_exist():
    assert {f"{prefix}_{kind}" for prefix in FAMILIES for kind in family(prefix)} >= SINGLE


@pytest.mark.parametrize("isa", cython_cpu.ISAS)
@pytest.mark.parametrize("name", sorted(SINGLE))
def test_within_four_eps_for_inputs_within_a_rounding(isa, name):
    core = build_of(isa)
    prefix, kind = name.split("_", 1)
    columns = arguments(prefix, kind)
    got = outputs(core, prefix, kind, columns)
    element = EXACT.element(prefix, kind)
    assert len(inspect.signature(element).parameters) == len(columns) + len(OPTIONS[prefix]) + 1
    with mpmath.workdps(50):
        options = [mpmath.mpf(float(np.float32(v))) for v in (*OPTIONS[prefix], 1.0)]
        for i in range(COUNT):
            x = [mpmath.mpf(float(column[i])) for column in columns]
            exact = element(*x, *options)[: len(got)]
            near = [
                element(*(v * (1 + sign * EPS) if j == k else v for j, v in enumerate(x)), *options)
                for k in range(len(x))
                for sign in (-1, 1)
            ]
            for k, (g, w) in enumerate(zip(got, exact, strict=True)):
                reach = sum(abs(other[k] - w) for other in near)
                assert abs(float(g[i]) - w) <= 4 * EPS * abs(w) + reach + 2.4e-38, (k, x, float(g[i]), float(w))


def test_what_is_not_one_of_them_is_computed_in_double():
    """expm1(d) - d cancels: in float32 it would be off by 2 eps / d."""
    usable("cython")
    x, y = np.float32(-2.0), np.float32(-2.0 + 2**-20)
    (value, _) = outputs(cython_cpu.core(), "kl", "k3", [np.full(COUNT, x), np.full(COUNT, y)])
    d = float(y) - float(x)
    assert value[0] == pytest.approx(d * d / 2 + d**3 / 6, rel=2 * EPS)


def extremes(count):
    """Log-probabilities, some of them equal, and scores: arrays of float32 and the same in float64."""
    rng = np.random.default_rng(count)
    x = (rng.standard_normal((4, count)) * 3 - 5).astype(np.float32)
    x[:, ::3] = x[0, ::3]
    return x, x.astype(np.float64)


def losses(x, option, value, backend):
    """Every call that ``option`` is one of."""
    given = {option: value, "backend": backend}
    mask = np.arange(x.shape[1]) % 5 != 1
    if option in ("beta", "label_smoothing"):
        r = fastalign.preference_loss(*x, **given)
        trained = fastalign.DPOTrainer(**given).compute_loss(*x)
        return [*r[:5], *r.metrics.values(), trained[0], *trained[1].values(), *trained[2:]]
    if option == "center_coef":
        return fastalign.reward_model_loss(x[0], x[1], margin=x[2], **given)
    if option == "clip_ratio":
        return fastalign.ppo_loss(*x[:3], mask=mask, **given)
    if option == "kl_coef":
        kinds = family("kl")
        return [fastalign.kl_penalty_reward(x[0], x[1], estimator=kind, mask=mask, **given) for kind in kinds]
    found = [fastalign.policy_loss(*x[:3], mask=m, aggregation=a, **given) for m in (None, mask) for a in TOKENS]
    return [y for r in found for y in (*r[:2], *r.metrics.values())]


TOKENS = "token_mean", "token_sum"
WHERE = [
    *((option, value) for option in ("beta", "center_coef", "kl_coef") for value in (1e39, 1e-50)),
    *((option, 1e39) for option in ("clip_ratio", "clip_low", "clip_high", "log_ratio_clamp")),
    *((option, 1e-50) for option in ("clip_low", "log_ratio_clamp", "label_smoothing")),
    *(("kl_coef", value) for value in (-1e39, 3e38, 1e300)),
]


@pytest.mark.parametrize("count", [1, 37, 5000])
@pytest.mark.parametrize("option, value", WHERE)
def test_an_option_beyond_float32_is_taken_in_double(walker, option, value, count):
    """In float32 it would be infinite, and times 0 no number, or 0: such a call is that of float64, rounded once."""
    single, double = extremes(count)
    if option == "log_ratio_clamp":
        single[0, 0], double[0, 0] = math.inf, math.inf
    got, want = losses(single, option, value, walker), losses(double, option, value, "numpy")
    for g, w in zip(got, want, strict=True):
        if isinstance(w, float):
            assert g == pytest.approx(w, rel=1e-12, abs=1e-12 * min(value, 1), nan_ok=True)
        else:
            assert g.dtype == np.float32
            with np.errstate(over="ignore", under="ignore"):
                np.testing.assert_array_max_ulp(g, w.astype(np.float32), 1)


@pytest.mark.parametrize("count", [1, 40, 600, 4097, 9000])
@pytest.mark.parametrize("huge", [3e37, 3e38])
def test_a_mean_of_what_float32_cannot_add_is_no_infinity(walker, count, huge):
    """Nor is that of elements beyond float32, whose gradients are infinite there; of a NaN or an infinity it stays."""
    x, wide = extremes(count)
    for some in (x, wide):
        some[2, count // 2 :] = np.float32(huge)
    mask = np.arange(count) % 7 != 1

    def found(x, backend):
        two, named = np.stack([x[0], x[2]]), {"backend": backend}
        results = [
            fastalign.policy_loss(x[0], x[1], x[2], **named),
            fastalign.policy_loss(x[0], x[1], -x[2], mask=mask, **named),
            fastalign.policy_loss(x[0] + 100, x[1], x[3], log_ratio_clamp=None, aggregation="token_sum", **named),
            fastalign.preference_loss(-two, two, **named),
            fastalign.preference_loss(two, -two, label_smoothing=0.2, **named),
        ]
        losses = [y for r in results for y in (r.loss, *r.metrics.values())]
        losses += [fastalign.kl_divergence(0 * x[0], -x[2], **named), fastalign.kl_divergence(0 * x[0], x[2], **named)]
        losses.append(fastalign.reward_model_loss(x[0], x[2], center_coef=0.1, **named)[0])
        return losses, [r[1] for r in results]

    (losses, slopes), (exact, want) = found(x, walker), found(wide, "numpy")
    assert np.isfinite(exact).all()
    np.testing.assert_allclose(losses, exact, rtol=3e-5)
    for g, w in zip(slopes, want, strict=True):
        with np.errstate(over="ignore"):
            np.testing.assert_allclose(g, w.astype(np.float32), rtol=1e-4)
    for bad in (math.nan, math.inf, -math.inf):
        x[2, -1] = wide[2, -1] = bad
        np.testing.assert_array_equal(
            fastalign.policy_loss(*x[:3], backend=walker).loss, fastalign.policy_loss(*wide[:3], backend="numpy").loss
        )


def test_an_entropy_coefficient_is_a_number_of_the_rows_dtype(backend):
    x, one = np.zeros((2, 3), np.float32), np.zeros(2, np.float32)
    for fused in (
        lambda x, c: fastalign.policy_loss_from_logits(x, [0, 1], one, one, entropy_coef=c, backend=backend),
        lambda x, c: fastalign.linear_policy_loss(x, np.eye(3, dtype=x.dtype), [0, 1], one, one, entropy_coef=c),
    ):
        for c in (1e39, -1e39):
            with pytest.raises(ValueError, match=r"entropy_coef is -?1e\+39; expected a finite number in \[-3.402"):
                fused(x, c)
        assert fused(x.astype(np.float64), 1e39).loss == pytest.approx(-1e39 * math.log(3))


@pytest.mark.parametrize("isa", [*cython_cpu.ISAS, "numba"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("most", [0.5, 20.0, 86.9, 87.0, 87.1, 88.7, 707.9, 708.0, 709.7, math.inf])
def test_log_ratios_up_to_any_bound(isa, dtype, most):
    """Up to 87 and 708 exp needs no bounds of its own, and is not given any."""
    core = build_of(isa)
    reach = min(most, 86.0 if dtype == np.float32 else 700.0)
    ends = [0.0, -0.0, 1e-30, reach, -reach, -math.inf, -most, -reach * 1.01]
    d = np.concatenate([np.linspace(-1000, reach, 30), ends])
    d, advantage = d.astype(dtype), np.resize([1.0, -1.0, 0.5], len(d)).astype(dtype)
    grad, tallies = np.empty_like(d), np.empty((1, 6))
    core.pointwise("policy", "ppo", (d, np.zeros_like(d), advantage), None, (0.2, 0.28, most, 1.0), (grad,), tallies)
    wide, bound = d.astype(np.longdouble), np.longdouble(dtype(most))
    bounded = np.clip(wide, -bound, bound)
    ratio, clipped = np.exp(bounded), np.clip(np.exp(bounded), 0.8, 1.28)
    value = np.maximum(-ratio * advantage, -clipped * advantage)
    slope = np.where((np.abs(wide) > bound) | (-ratio * advantage < -clipped * advantage), 0, value)
    eps = float(np.finfo(dtype).eps)
    tiny = 2e-38 if dtype == np.float32 else 0  # exp of a float32 may be 0 from there on
    np.testing.assert_allclose(grad, slope.astype(dtype), rtol=4 * eps * max(1, reach / 44), atol=tiny)
    want = [value.sum(), (np.expm1(bounded) - bounded).sum(), None, None, ratio.sum(), ratio.max()]
    for got, exact in zip(tallies[0], want, strict=True):
        assert exact is None or got == pytest.approx(float(exact), rel=8 * eps * max(1, reach / 44)), (got, exact)


@pytest.mark.parametrize("count", [1, 1000, 4096, 100_000])
def test_a_mean_of_equal_terms_is_the_term(count):
    """Before training all pairs have the loss log 2: a sum that drifts would show."""
    from fastalign import preference_loss

    zeros = np.zeros(count, np.float32)
    assert preference_loss(zeros, zeros, backend="cython").loss == pytest.approx(np.log(2), rel=4 * EPS)
