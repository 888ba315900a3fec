"""The numba backend's own exp, expm1, log, log1p and kin in both dtypes, and what a rule may use beside them."""

import platform
import re

import mpmath
import numpy as np
import pytest
from conftest import usable
from trees import copy_to, python

from fastalign.binding import FAMILIES, Binding, clone, family

RNG = np.random.default_rng(0)
NAMES = ("exp", "expm1", "log", "log1p")
EXACT = Binding(lambda f: f, math=mpmath).rules
# dtype: least and largest exponent of ten, ends of exp
RANGE = {"float64": (-307, 308, -745.1, 709.7), "float32": (-37, 38, -86.9, 88.7)}
MOST_ULP = {"exp": 1.2, "expm1": 2.0, "log": 1.2, "log1p": 1.2, "exp_of_minus": 1.2, "log1p_unit": 1.2}


def arguments(name, dtype):
    low, high, least, most = RANGE[dtype]
    near_zero = np.concatenate([10.0 ** RNG.uniform(low, 0, 400), -(10.0 ** RNG.uniform(-18, -1e-9, 400))])
    x = {
        "exp": [RNG.uniform(least, most, 700), RNG.uniform(-1, 1, 500), near_zero],
        "expm1": [RNG.uniform(-50, most, 500), RNG.uniform(-1, 1, 700), near_zero],
        "log": [10.0 ** RNG.uniform(low - 7, high, 500), RNG.uniform(0.5, 2, 500), 1 + np.abs(near_zero)],
        "log1p": [10.0 ** RNG.uniform(low, high, 500), RNG.uniform(-0.9, 2, 500), near_zero],
        "exp_of_minus": [RNG.uniform(least, -least, 700), RNG.uniform(-1, 1, 500), near_zero],
        "log1p_unit": [RNG.uniform(0, 1, 700), np.abs(near_zero)],
    }
    return np.concatenate(x[name]).astype(dtype)


@pytest.fixture(scope="module")
def compute():
    """(name, x) -> the function of that name, of every element of x in its dtype."""
    usable("numba")
    from fastalign.backends.numba_cpu.compiling import CONTRACT, inlined, jit
    from fastalign.backends.numba_cpu.vecmath import vecmath

    def loop(x, out):
        for i in range(x.size):
            out[i] = function(x[i])  # noqa: F821

    def apply(name, x):
        key = name, x.dtype.name
        if key not in made:
            own = vecmath(x.dtype.name, inlined)
            function = getattr(own["math"], name) if name in NAMES else own[name]
            made[key] = jit(fastmath=CONTRACT)(clone(loop, {"function": function}, f"loop_{name}"))
        out = np.full_like(x, 7.0)
        made[key](x, out)
        return out

    made = {}
    return apply


@pytest.mark.parametrize("dtype", RANGE)
@pytest.mark.parametrize("name", MOST_ULP)
def test_error_in_ulp(compute, name, dtype):
    x = arguments(name, dtype)
    with mpmath.workdps(50):
        exact = [getattr(mpmath if name in NAMES else EXACT, name)(mpmath.mpf(float(v))) for v in x]
        error = [float(abs(mpmath.mpf(float(y)) - t)) for y, t in zip(compute(name, x), exact, strict=True)]
    spacing = np.spacing(np.abs(np.array([float(t) for t in exact])).astype(dtype)).astype(np.float64)
    worst = np.argmax(error / spacing)
    assert (error / spacing)[worst] <= MOST_ULP[name], (
        f"{name}({x[worst]!r}) is off by {(error / spacing)[worst]:.2f} ulp"
    )


@pytest.mark.parametrize("dtype", RANGE)
@pytest.mark.parametrize("name", NAMES)
def test_ends_of_the_domain(compute, name, dtype):
    of = np.finfo(dtype)
    ends = [0.0, -0.0, np.inf, -np.inf, np.nan, -1.0, -2.0, of.max, -of.max, of.smallest_subnormal, of.tiny, -of.tiny]
    ends += [-of.smallest_subnormal, *RANGE[dtype][2:], RANGE[dtype][2] - 1, RANGE[dtype][3] + 1]
    x = np.array(ends, dtype)
    with np.errstate(all="ignore"):
        want = getattr(np, name)(x.astype(np.float64 if dtype == "float32" else np.longdouble)).astype(dtype)
    got = compute(name, x)
    # In float32 exp has no subnormal results, and expm1 loses what is below them: the last one, and -0.
    lost = {"exp": of.tiny, "expm1": of.smallest_subnormal} if dtype == "float32" else {"exp": of.smallest_subnormal}
    np.testing.assert_allclose(got, want, rtol=2 * of.eps, atol=lost.get(name, 0))
    if lost.get(name, 0) == 0:
        assert np.array_equal(np.signbit(got[want == 0]), np.signbit(want[want == 0]))
    infinity = int(np.array(np.inf, dtype).view(f"u{of.bits // 8}"))
    for mantissa in (1, 1 << of.nmant - 1, (1 << of.nmant) - 1):  # every NaN stays one
        for sign in (0, 1 << of.bits - 1):
            nan = np.array([infinity | mantissa | sign], f"u{of.bits // 8}").view(dtype)
            assert np.isnan(compute(name, nan)).all()


@pytest.mark.parametrize("dtype", RANGE)
def test_ends_of_the_shorter_ones(compute, dtype):
    of, least = np.finfo(dtype), RANGE[dtype][2]
    x = np.array([0.0, -0.0, of.tiny, of.smallest_subnormal, least, -least, 1e4, -of.max, np.inf, -np.inf], dtype)
    want = np.exp(-np.abs(x.astype(np.longdouble))).astype(dtype)
    lost = of.tiny if dtype == "float32" else of.smallest_subnormal
    np.testing.assert_allclose(compute("exp_of_minus", x), want, rtol=2 * of.eps, atol=lost)
    assert compute("exp_of_minus", x)[:4].tolist() == [1.0] * 4 and not compute("exp_of_minus", x)[6:].any()
    x = np.array([0.0, of.tiny, of.smallest_subnormal, 1.0], dtype)
    np.testing.assert_allclose(compute("log1p_unit", x), np.log1p(x), rtol=2 * of.eps, atol=0)
    for name in ("exp_of_minus", "log1p_unit"):
        assert np.isnan(compute(name, np.array([np.nan, -np.nan], dtype))).all()


def test_subnormal_results_survive(compute):
    x = np.linspace(-745.1, -730.0, 50)
    want = np.exp(x.astype(np.longdouble)).astype(np.float64)
    got = compute("exp", x)
    assert (got > 0).all() and (want < np.finfo(np.float64).tiny).any()
    np.testing.assert_allclose(got, want, rtol=4e-16, atol=5e-324)


def test_a_float_exp_is_zero_below_the_last_normal_numbers(compute):
    x = np.array([-86.5, -86.6, -87.0, -87.5, -100.0, -104.0, -np.inf], np.float32)
    want = [*np.exp(x[:2].astype(float)), 0, 0, 0, 0, 0]
    np.testing.assert_allclose(compute("exp", x), want, rtol=2.4e-7, atol=0)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="looks for instructions of x86")
@pytest.mark.parametrize("dtype", RANGE)
@pytest.mark.parametrize("prefix, kind", [(prefix, kind) for prefix in FAMILIES for kind in family(prefix)])
def test_the_loop_of_a_rule_is_vectorised(prefix, kind, dtype):
    """A call of libm, or arrays that might overlap, would leave it scalar; in two loops (elements.py), one of them."""
    usable("numba")
    from fastalign.backends.numba_cpu.elements import pointwise_kernel
    from fastalign.rules import SINGLE

    text = "\n".join(pointwise_kernel(prefix, kind, dtype, False).inspect_asm().values())
    single = dtype == "float32" and f"{prefix}_{kind}" in SINGLE
    packed = len(re.findall(r"\bv?(?:mul|add|sub|fn?m(?:add|sub)\d+)p" + ("s" if single else "d"), text))
    scalar = len(re.findall(r"\bv?(?:mul|add|sub|fn?m(?:add|sub)\d+)s[sd]", text))
    # What is left of a vector is scalar: 57 of DPO in float32, cut in two, for 111; of a loop all of which is, more.
    assert packed >= 5 and packed > 1.5 * scalar, (packed, scalar)
    assert not re.search(r"\b(?:exp|log|expm1|log1p)f?\b(?=[@\n])", text)


def test_a_rule_may_use_the_rest_of_math(tmp_path):
    """What vecmath.py lacks comes from Python's math, in double or, if the rule is in SINGLE, in float32."""
    usable("numba")
    tree = copy_to(tmp_path / "tree")
    rules = tree / "fastalign" / "rules"
    with open(rules / "divergence.py", "a", encoding="utf-8") as file:
        file.write(
            "\n\ndef kl_odd(log_prob: float, ref_log_prob: float) -> tuple[float, float]:\n"
            '    """Of no use."""\n'
            "    h = math.tanh(log_prob - ref_log_prob)\n"
            "    return math.sqrt(h * h + 0.1) + math.exp(h), math.cos(h) + math.pi\n"
        )
    use = (
        "import numpy as np, fastalign\n"
        "x, y = np.random.default_rng(0).standard_normal((2, 500))\n"
        "h = np.tanh(x - y)\n"
        "for real, near in ((np.float64, 1e-13), (np.float32, 1e-5)):\n"
        "    got = fastalign.kl_estimate(x.astype(real), y.astype(real), estimator='odd', backend='numba')\n"
        "    np.testing.assert_allclose(got.value, np.sqrt(h * h + 0.1) + np.exp(h), rtol=near)\n"
        "    np.testing.assert_allclose(got.grad, np.cos(h) + np.pi, rtol=near)\n"
        "print('agreed')"
    )
    assert "agreed" in python(tree, "-c", use)
    text = (rules / "__init__.py").read_text(encoding="utf-8")
    (rules / "__init__.py").write_text(text.replace('"kl_k1", ', '"kl_k1", "kl_odd", '))
    assert "agreed" in python(tree, "-c", use)
