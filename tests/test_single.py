"""Rules that are walked in float32 keep the digits of float32: in every build, against 50 digits."""

import inspect

import mpmath
import numpy as np
import pytest
from conftest import usable

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


def test_all_of_them_exist():
    assert {f"{prefix}_{kind}" for prefix in FAMILIES for kind in family(prefix)} >= SINGLE


@pytest.mark.parametrize("isa", cython_cpu.ISAS)
@pytest.mark.parametrize("name", sorted(SINGLE))
def test_within_four_eps_for_inputs_within_a_rounding(isa, name):
    usable("cython")
    if isa not in cython_cpu.isas():
        pytest.skip(f"{isa} was not built, or does not run here")
    prefix, kind = name.split("_", 1)
    columns = arguments(prefix, kind)
    got = outputs(cython_cpu.load(isa), prefix, kind, columns)
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


@pytest.mark.parametrize("count", [1, 1000, 4096, 100_000])
def test_a_mean_of_equal_terms_is_the_term(count):
    """Before training all pairs have the loss log 2: a sum that drifts would show."""
    from fastalign import preference_loss

    zeros = np.zeros(count, np.float32)
    assert preference_loss(zeros, zeros, backend="cython").loss == pytest.approx(np.log(2), rel=4 * EPS)
