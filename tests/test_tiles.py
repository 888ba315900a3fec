"""The pointwise loops of every build, by length: tiles, blocks, what is left of them, and what a mask leaves."""

import numpy as np
import pytest
from test_single import OPTIONS, build_of

from fastalign.backends import BLOCK, cython_cpu, reference
from fastalign.binding import FAMILIES, family

RULES = [(prefix, kind) for prefix in FAMILIES for kind in family(prefix)]
EDGES = [k * size + d for size in (16, 512, BLOCK) for k in (1, 2) for d in (-1, 0, 1, 15, 16, 17, 31, 32)]
LENGTHS = sorted({1, 2, 7, 15, *EDGES})


def columns(prefix, n, dtype):
    rng = np.random.default_rng(n)
    return [(rng.standard_normal(n) - 1).astype(dtype) for _ in FAMILIES[prefix].inputs]


def walked(core, rule, x, mask, wanted=None):
    """Outputs and tallies; of outputs that are not wanted nothing."""
    shape, n = FAMILIES[rule[0]], len(x[0])
    blocks = -(-n // BLOCK)
    out = tuple(np.full(n, 7.0, x[0].dtype) if wanted is None or k in wanted else np.empty(0, x[0].dtype)
                for k in range(len(shape.outputs)))  # fmt: skip
    tallies = np.empty((blocks, shape.tallies))
    core.pointwise(*rule, tuple(x), mask, (*OPTIONS[rule[0]], 1.0 / n), out, tallies)
    return out, tallies


@pytest.mark.parametrize("isa", cython_cpu.ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", RULES, ids="_".join)
def test_tallies_do_not_depend_on_what_is_wanted_nor_on_a_mask_of_ones(isa, dtype, rule):
    core = build_of(isa)
    for n in LENGTHS:
        x = columns(rule[0], n, dtype)
        out, tallies = walked(core, rule, x, None)
        none, without = walked(core, rule, x, None, wanted=())
        same, masked = walked(core, rule, x, np.ones(n, np.uint8))
        np.testing.assert_array_equal(without, tallies, err_msg=str(n))
        np.testing.assert_array_equal(masked, tallies, err_msg=str(n))
        np.testing.assert_array_equal(same, out, err_msg=str(n))
        assert all(y.size == 0 for y in none)


@pytest.mark.parametrize("isa", cython_cpu.ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", RULES, ids="_".join)
def test_masks_of_every_density(isa, dtype, rule):
    """What is masked is NaN, and shows nowhere."""
    core = build_of(isa)
    tolerance = 64 * np.finfo(dtype).eps
    for n in LENGTHS:
        x, rng = columns(rule[0], n, dtype), np.random.default_rng(n + 1)
        for density in (0.0, 0.05, 0.5, 0.95):
            mask = (rng.random(n) < density).astype(np.uint8)
            hidden = [np.where(mask, v, np.nan).astype(dtype) for v in x]
            out, tallies = walked(core, rule, hidden, mask)
            want, exact = walked(reference, rule, [v.astype(np.float64) for v in x], mask)
            for y, w in zip(out, want, strict=True):
                assert not y[mask == 0].any()
                np.testing.assert_allclose(y, w, rtol=tolerance, atol=tolerance, err_msg=f"{n} {density}")
            np.testing.assert_allclose(tallies, exact, rtol=tolerance, atol=tolerance * n, err_msg=f"{n} {density}")
