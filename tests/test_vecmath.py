"""The extension's own exp and log functions against 50 digits and at the ends of their domains, in every build."""

import mpmath
import numpy as np
import pytest

from fastalign.backends import cython_cpu

RNG = np.random.default_rng(0)
NEAR_ZERO = np.concatenate([10.0 ** RNG.uniform(-300, 0, 400), -(10.0 ** RNG.uniform(-18, -1e-9, 400))])
ARGUMENTS = {
    "exp": np.concatenate([RNG.uniform(-708, 709.7, 500), RNG.uniform(-1, 1, 500), NEAR_ZERO]),
    "expm1": np.concatenate([RNG.uniform(-50, 709, 500), RNG.uniform(-1, 1, 500), NEAR_ZERO]),
    "log": np.concatenate([10.0 ** RNG.uniform(-322, 308, 500), RNG.uniform(0.5, 2, 500), 1 + np.abs(NEAR_ZERO)]),
    "log1p": np.concatenate([10.0 ** RNG.uniform(-320, 300, 500), RNG.uniform(-0.9, 2, 500), NEAR_ZERO]),
    "exp_of_minus": np.concatenate([RNG.uniform(-708, 708, 700), RNG.uniform(-1, 1, 500), NEAR_ZERO]),
    "log1p_unit": np.concatenate([10.0 ** RNG.uniform(-320, 0, 500), RNG.uniform(0, 1, 2000)]),
}
OF_MPMATH = {"exp_of_minus": lambda x: mpmath.exp(-abs(x)), "log1p_unit": mpmath.log1p}
OF_NUMPY = {"exp_of_minus": lambda x: np.exp(-np.abs(x)), "log1p_unit": np.log1p}
ENDS = np.array(
    [0.0, -0.0, np.inf, -np.inf, np.nan, -1.0, -2.0, 710.0, 709.78, -745.13, -746.0, 1e308, 5e-324, -5e-324]
)
ARGUMENTS["expm1"] = np.concatenate([ARGUMENTS["expm1"], RNG.uniform(0.3, 0.4, 2000)])  # where it is worst
MOST_ULP = {"exp": 1.2, "expm1": 2.5, "log": 1.2, "log1p": 1.2, "exp_of_minus": 1.2, "log1p_unit": 1.2}


@pytest.fixture(params=cython_cpu.ISAS)
def core(request):
    try:
        return cython_cpu.load(request.param)
    except ImportError as error:
        pytest.skip(str(error))


def compute(core, name, x):
    out = np.full_like(x, 7.0)
    core.vecmath_values(name, x, out)
    return out


def of_numpy(name):
    return OF_NUMPY.get(name) or getattr(np, name)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_error_in_ulp(core, name):
    x = ARGUMENTS[name]
    with mpmath.workdps(50):
        of = OF_MPMATH.get(name) or getattr(mpmath, name)
        exact = [of(mpmath.mpf(float(v))) for v in x]
        spacing = np.spacing(np.abs(np.array([float(v) for v in exact])))
        error = [float(abs(mpmath.mpf(float(y)) - t)) for y, t in zip(compute(core, name, x), exact, strict=True)]
    error = error / spacing
    worst = np.argmax(error)
    assert error[worst] <= MOST_ULP[name], f"{name}({x[worst]!r}) is off by {error[worst]:.2f} ulp"


@pytest.mark.parametrize("name", ARGUMENTS)
def test_error_of_the_float_version(core, name):
    with np.errstate(all="ignore"):
        x = ARGUMENTS[name].astype(np.float32)
    x = x[np.isfinite(x)]
    with np.errstate(all="ignore"):
        exact = of_numpy(name)(x.astype(np.float64))  # exact enough to judge 24 bits by
    normal = np.finfo(np.float32)
    some = (np.abs(exact) <= float(normal.max)) & (np.abs(exact) >= 4 * float(normal.tiny))
    x, exact = x[some], exact[some]
    error = np.abs(compute(core, name, x) - exact) / np.spacing(np.abs(exact).astype(np.float32))
    # With one product for x - n ln 2, n times the rounding of ln 2 is left over; a rounding of x changes 22 times that.
    reduced = np.abs(x) / 22 if name.startswith("exp") else 0
    worst = np.argmax(error - reduced)
    assert (error - reduced)[worst] <= MOST_ULP[name], f"{name}({x[worst]!r}) is off by {error[worst]:.2f} ulp"


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_ends_of_the_domain(core, name, dtype):
    with np.errstate(all="ignore"):
        x = ENDS.astype(dtype)
        if name == "log1p_unit":
            x = x[~((x < 0) | (x > 1))]
        want = of_numpy(name)(x)
    got = compute(core, name, x)
    if dtype == np.float64:
        np.testing.assert_allclose(got, want, rtol=1e-15, atol=0)
        assert np.array_equal(np.signbit(got[want == 0]), np.signbit(want[want == 0]))
    else:
        np.testing.assert_allclose(got, want, rtol=2.4e-7, atol=0)


def test_a_float_exp_is_zero_below_the_last_normal_numbers(core):
    x = np.array([-86.5, -86.6, -87.0, -87.5, -100.0, -104.0, -np.inf], np.float32)
    want = [*np.exp(x[:2].astype(float)), 0, 0, 0, 0, 0]
    np.testing.assert_allclose(compute(core, "exp", x), want, rtol=4.8e-7, atol=0)


def test_subnormal_results_survive(core):
    x = np.linspace(-745.0, -709.0, 50)
    np.testing.assert_allclose(compute(core, "exp", x), np.exp(x), rtol=4e-16, atol=5e-324)


@pytest.mark.parametrize("dtype, lowest", [(np.float32, -125.0), (np.float64, -1021.0)])
def test_powers_of_two_of_the_rows(core, dtype, lowest):
    """What sums of exponentials and gradients are made of: 2 ulp, from the least normal numbers on; exactly 1 at 0."""
    rng = np.random.default_rng(1)
    t = np.concatenate([rng.uniform(lowest, 0, 2000), rng.uniform(-1, 1, 8000), rng.uniform(0, 16, 500), [0.0, -0.0]])
    t = t.astype(dtype)
    with mpmath.workdps(50):
        exact = [mpmath.power(2, mpmath.mpf(float(x))) for x in t]
        spacing = np.spacing(np.array([float(x) for x in exact]).astype(dtype)).astype(np.float64)
        found = compute(core, "exp2", t)
        error = [float(abs(mpmath.mpf(float(y)) - x)) for y, x in zip(found, exact, strict=True)] / spacing
    worst = np.argmax(error)
    assert error[worst] <= 2.0, f"2^{t[worst]!r} is off by {error[worst]:.2f} ulp"
    assert found[-2] == found[-1] == 1.0
    ends = np.array([-np.inf, -5000.0, np.nan], dtype)
    np.testing.assert_array_equal(compute(core, "exp2", ends)[:2], 0.0)
    assert np.isnan(compute(core, "exp2", ends)[2])
