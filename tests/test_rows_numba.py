"""Sums of rows in the numba backend where octaves cannot be counted, at the ends of both dtypes, on any processor."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import usable

from fastalign import policy_loss_from_logits, token_log_probs, token_log_probs_grad
from fastalign.cases import as_dtype, real, widened

MORE = {"entropy": True, "sum_p2": True, "mean_logit": True, "top1": True}


def rows(dtype):
    """Logits around bases of all sizes, peaks that appear late, -inf where the first peak is looked for."""
    rng, width, of = np.random.default_rng(3), 5000, np.finfo(dtype)
    found = [rng.standard_normal(width) * 3 + base for base in (0, 50, -1e4, 1e4, 7e5, -8e5, 3e6, -1e9)]
    found += [np.linspace(-5e3, 5e3, width), np.linspace(3e3, -3e3, width)]
    late = rng.standard_normal(width)
    late[3000] = 250.0  # octaves wrap round if nothing bounds them
    later = late.copy()
    later[3000:3002] = 1e30
    hidden = np.full(width, -np.inf)
    hidden[4000:] = -1e4 - rng.random(1000)
    lone = np.full(width, -np.inf)
    lone[4500] = -of.max
    wide = np.where(rng.random(width) < 0.5, -of.max, of.max / 4)
    return np.array([*found, late, later, hidden, lone, wide]).astype(dtype)


def close(got, x, tokens, temperature):
    """As the reference, to the digits it can have; an entropy is a difference of sums, scaled as peaks rose."""
    eps = float(np.finfo(x.dtype).eps)
    want = token_log_probs(x.astype(np.float64), tokens, temperature=temperature, backend="numpy", **MORE)
    size = np.abs(np.where(np.isfinite(want.lse), want.lse, 0.0))
    with np.errstate(invalid="ignore"):
        spread = np.abs((x[np.arange(len(x)), tokens] - x.max(axis=1)).astype(np.float64) / temperature)
    spread[~np.isfinite(spread)] = 0.0
    for name in ("logp", "lse", "entropy", "sum_p2"):
        g, w = np.asarray(getattr(got, name), np.float64), getattr(want, name).astype(x.dtype).astype(np.float64)
        bound = (64 if name == "entropy" else 16) * eps * (1 + {"lse": size, "logp": spread}.get(name, np.abs(w)))
        assert (np.isfinite(w) == np.isfinite(g)).all(), name
        assert (np.abs(g - w)[np.isfinite(w)] <= bound[np.isfinite(w)]).all(), (name, g, w)
    np.testing.assert_array_equal(got.top1, want.top1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 1e-3, 1e4, 1e30, 1e-30])
def test_any_base_and_any_temperature(dtype, temperature):
    usable("numba")
    x = rows(dtype)
    tokens = np.random.default_rng(4).integers(0, x.shape[1], len(x))
    with np.errstate(all="ignore"):
        close(token_log_probs(x, tokens, temperature=temperature, backend="numba", **MORE), x, tokens, temperature)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_sure_token_has_exactly_one(dtype):
    usable("numba")
    x = np.full((64, 3000), -1e4, dtype)
    tokens = np.arange(64)
    x[tokens, tokens] = np.random.default_rng(5).standard_normal(64) * 30
    got = token_log_probs(x, tokens, backend="numba", **MORE)
    np.testing.assert_array_equal(got.logp, 0.0)
    np.testing.assert_array_equal(got.lse, x[tokens, tokens])
    np.testing.assert_allclose(got.sum_p2, 1.0, rtol=np.finfo(dtype).eps)
    assert (got.entropy >= 0).all() and (got.entropy < 1e-30).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_same_bits_whatever_else_is_asked_for(dtype):
    usable("numba")
    rng = np.random.default_rng(8)
    for shape, far in (((40, 3001), 0.0), ((400, 30), -1e4)):  # what is far goes by other loops, with AVX2
        x = (rng.standard_normal(shape) * 3).astype(dtype)
        x[:, 1] += far
        tokens = rng.integers(2, shape[1], shape[0])
        want = token_log_probs(x, tokens, temperature=0.8, backend="numba")
        for more in ({"entropy": True}, {"sum_p2": True}, MORE):
            got = token_log_probs(x, tokens, temperature=0.8, backend="numba", **more)
            np.testing.assert_array_equal([got.logp, got.lse], [want.logp, want.lse])


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_powers_of_vectors(kind):
    """To two units of the last place, from what is nothing to the peak, whole octaves exactly."""
    usable("numba")
    from numba import njit, types

    from fastalign.backends.numba_cpu.exponential import F32, F64
    from fastalign.backends.numba_cpu.row import sweeps
    from fastalign.backends.numba_cpu.sweeps import sweeping

    if not sweeps(kind):
        pytest.skip("no instructions for it")
    of, real, number = (F32, np.float32, types.float32) if kind == "f32" else (F64, np.float64, types.float64)
    one = sweeping(kind, sweeps(kind))[1]

    @njit(types.void(number[::1], number[::1], *[number] * 4))
    def each(x, out, least, octaves, count, peak):
        for i in range(x.size):
            out[i] = one(x[i], (least, octaves, count, peak, peak))

    least = -126.0 if kind == "f32" else -1022.0
    rng = np.random.default_rng(6)
    t = np.concatenate([rng.uniform(least, 1, 500_000), rng.uniform(-1, 0, 500_000), [0.0, -1.0, least]]).astype(real)
    got = np.empty_like(t)
    each(t, got, real(least), real(1.0), real(of.level.counter), real(0.0))
    want = np.exp2(t.astype(np.longdouble))
    unit = np.exp2(np.floor(t.astype(np.longdouble)) - np.finfo(real).nmant)
    assert (np.abs(got - want) <= 2 * unit).all(), np.max(np.abs(got - want) / unit)
    np.testing.assert_array_equal(got[-3:], want[-3:])


@pytest.mark.parametrize("kind", ["f32", "f64", "f16", "bf16"])
def test_lines_are_asked_for_early_where_told_and_nothing_else_changes(kind):
    usable("numba")
    from numba import njit, types

    from fastalign.backends.numba_cpu.access import start
    from fastalign.backends.numba_cpu.row import sweeps
    from fastalign.backends.numba_cpu.sweeps import sweeping

    if not sweeps(kind):
        pytest.skip("no instructions for it")
    real = types.float64 if kind == "f64" else types.float32
    x = np.random.default_rng(9).standard_normal(1001).astype({"f32": "f4", "f64": "f8"}.get(kind, "f2"))
    x, found = x.view("u2") if x.itemsize == 2 else x, []
    for ahead in (0, 4096):
        swept = sweeping(kind, sweeps(kind), ahead)[0]

        @njit(types.UniTuple(real, 4)((types.uint16 if x.itemsize == 2 else real)[::1], types.UniTuple(real, 5)))
        def swept_tile(x, level):
            return swept(start(x), x.size, level, 4)  # noqa: B023

        assert ("prefetcht0" in next(iter(swept_tile.inspect_asm().values()))) == (ahead > 0)
        found.append(swept_tile(x, (-80.0, 1.0, 0.0, 0.0, 0.0)))
    np.testing.assert_array_equal(*found)
    assert np.isfinite(found).all()


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86's instruction")
def test_kernels_that_ask_for_lines_agree_to_the_bit(monkeypatch):
    usable("numba")
    from fastalign.backends.numba_cpu import row, row_backward, row_forward

    rng = np.random.default_rng(10)
    x, kind = (rng.standard_normal((3, 20_011)) * 3).astype(np.float32), "f32"
    tokens, g, found = rng.integers(0, x.shape[1], 3), rng.standard_normal(3).astype(np.float32), []
    for ahead in (0, 4096):
        monkeypatch.setattr(row, "lines_ahead", lambda: ahead)  # noqa: B023
        row.row_kernels.cache_clear()
        row.row_driver.cache_clear()
        logp, lse, entropy = (np.empty(3, np.float32) for _ in range(3))
        out = np.empty_like(x)
        row_forward(x, kind, tokens, None, 0.8, logp, lse, entropy)
        row_backward(x, kind, tokens, None, 0.8, g, None, g, lse, entropy, out)
        found.append(np.concatenate([a.view(np.uint8).ravel() for a in (logp, lse, entropy, out)]))
        for kernel, asks in zip(row.row_kernels(kind), (bool(row.sweeps(kind)), True), strict=False):
            code = next(iter(kernel.inspect_asm().values()))
            assert ("prefetcht0" in code) == (asks and ahead > 0)
    row.row_kernels.cache_clear()
    row.row_driver.cache_clear()
    np.testing.assert_array_equal(*found)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86's processors")
def test_whose_processor_asks_for_lines():
    usable("numba")
    from fastalign.backends.numba_cpu.compiling import lines_ahead, vector_registers

    for name in ("haswell", "skylake-avx512", "icelake-server", "sapphirerapids", "emeraldrapids", "core2"):
        assert lines_ahead(name) == (4096 if vector_registers() else 0), name
    for name in ("znver1", "znver4", "znver9", "bdver2", "btver2", "generic", "x86-64", "x86-64-v3"):
        assert lines_ahead(name) == 0, name


@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "bfloat16"])
def test_every_width_and_whatever_is_far_at_every_place(kind):
    """What is left after whole vectors; an element too far below for a power of two, above, or no number."""
    usable("numba")
    half = kind in ("float16", "bfloat16")
    dtype = np.dtype(kind) if kind != "bfloat16" else np.dtype(np.uint16)
    rng, far = np.random.default_rng(7), 3e4 if half else 1e5

    def stored(x):
        x = x.astype(np.float32 if half else dtype)
        return (x.view(np.uint32) >> 16).astype(np.uint16) if kind == "bfloat16" else x.astype(dtype)

    def real(x):
        if kind == "bfloat16":
            return (x.astype(np.uint32) << 16).view(np.float32)
        return x.astype(np.float32 if half else dtype)

    for width in (*range(1, 19), 31, 32, 33, 63, 64, 65, 127, 130):
        x = np.repeat(stored(rng.standard_normal(width))[None], width + 1, 0)
        tokens = rng.integers(0, width, width + 1)
        for value in (-np.inf, -far, far, -95.0, np.inf, np.nan):
            odd = x.copy()
            odd[np.arange(width), np.arange(width)] = stored(np.full(1, value))[0]
            got = token_log_probs(odd, tokens, backend="numba", **MORE)
            if np.isfinite(value) or value == -np.inf:
                with np.errstate(all="ignore"):
                    close(got, real(odd), tokens, 1.0)
            else:
                np.testing.assert_array_equal(np.isfinite(got.logp), np.arange(width + 1) == width)


PROCESSORS = {"x86-64": "not fuses() and not converts() and not sweeps('f32')", "x86-64-v3": "sweeps('f16') == 'y'"}


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names processors of x86")
@pytest.mark.parametrize("name", PROCESSORS)
def test_another_processor(name):
    """Without fused operations, and with vectors of 32 bytes."""
    from fastalign.backends import cython_cpu

    usable("numba")
    if name == "x86-64-v3" and "avx2" not in cython_cpu.isas():
        pytest.skip("this processor has no AVX2")
    use = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import numpy as np, test_brief_numba as brief, test_rows, test_rows_numba as here\n"
        "from fastalign.backends.numba_cpu.compiling import converts, fuses\n"
        "from fastalign.backends.numba_cpu.row import sweeps\n"
        f"assert {PROCESSORS[name]}\n"
        "for dtype in (np.float32, np.float64):\n"
        "    here.test_a_sure_token_has_exactly_one(dtype)\n"
        "    here.test_the_same_bits_whatever_else_is_asked_for(dtype)\n"
        "    here.test_every_width_and_whatever_is_far_at_every_place(np.dtype(dtype).name)\n"
        "    for temperature in (1.0, 0.7, 1e4):\n"
        "        here.test_any_base_and_any_temperature(dtype, temperature)\n"
        "for kind in ('float16', 'bfloat16'):\n"
        "    here.test_every_width_and_whatever_is_far_at_every_place(kind)\n"
        "    for temperature in (1.0, 1e4):\n"
        "        here.test_halves_are_what_they_stand_for(kind, temperature)\n"
        "for dtype in test_rows.DTYPES:\n"
        "    test_rows.test_what_is_far_below_is_nothing_whatever_its_bits('numba', dtype)\n"
        "for dtype in ('float32', 'float16'):\n"
        "    brief.test_as_in_double(dtype)\n"
        "    brief.test_what_is_no_number_is_seen_at_every_place(dtype, 47)\n"
        "if sweeps('f32'):\n"
        "    here.test_powers_of_vectors('f32')\n"
        "    here.test_powers_of_vectors('f64')\n"
        "    here.test_lines_are_asked_for_early_where_told_and_nothing_else_changes('bf16')\n"
        "print('agreed')"
    )
    changes = {**os.environ, "NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": ""}
    done = subprocess.run([sys.executable, "-c", use], env=changes, capture_output=True, text=True)
    assert "agreed" in done.stdout, done.stderr[-3000:]


def through(function, values, kind):
    from numba import njit

    one = njit(error_model="numpy")(function)

    @njit(error_model="numpy")
    def each(x, out):
        for i in range(x.size):
            out[i] = one(x[i])
        return out

    return each(values, np.empty(values.size, kind))


def ways(name):
    """The conversion of float16, by instructions where there are such, and by parts."""
    usable("numba")
    from fastalign.backends.numba_cpu import compiling, tiles

    return [getattr(tiles, f"{name}_f16_by_parts")] + [getattr(tiles, f"{name}_f16")] * compiling.converts()


def test_every_half_is_widened_exactly():
    bits = np.arange(65536, dtype=np.uint16)
    want = bits.view(np.float16).astype(np.float32)
    sound = ~np.isnan(want)
    for way in ways("wide"):
        got = through(way, bits, np.float32)
        np.testing.assert_array_equal(got[sound].view(np.uint32), want[sound].view(np.uint32))
        assert np.isnan(got[~sound]).all()
    from fastalign.backends.numba_cpu.tiles import wide_bf16

    got = through(wide_bf16, bits, np.float32)
    np.testing.assert_array_equal(got.view(np.uint32), bits.astype(np.uint32) << 16)


def test_floats_are_narrowed_to_the_nearest_even_half():
    """All halves, the middles between them and the floats beside these, ends and subnormals; and any bits at all."""
    halves = np.arange(0x7C01, dtype=np.uint16).view(np.float16).astype(np.float32)
    halves[-1] = 65536.0
    x = np.concatenate([halves, (halves[1:] + halves[:-1]) / 2])
    x = np.concatenate([np.nextafter(x, np.float32(-1)), x, np.nextafter(x, np.float32(np.inf))])
    x = np.concatenate([x, -x, np.random.default_rng(6).integers(0, 2**32, 100000).astype(np.uint32).view(np.float32)])
    x = np.concatenate([x, np.array([np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3.4e38], np.float32)])
    sound = ~np.isnan(x)
    with np.errstate(all="ignore"):
        want = x.astype(np.float16)
    for way in ways("narrow"):
        got = through(way, x, np.uint16)
        np.testing.assert_array_equal(got[sound], want.view(np.uint16)[sound])
        assert np.isnan(got.view(np.float16)[~sound]).all()


def test_floats_are_narrowed_to_the_nearest_even_bfloat16():
    usable("numba")
    from fastalign.backends.numba_cpu.tiles import narrow_bf16

    bits = np.random.default_rng(7).integers(0, 2**32, 100000).astype(np.uint32)
    some = np.array([0x80008000, 0x00018000, 0x7F7F8000, 0x7F7F7FFF, 0x7F800000, 0x7F800001, 0xFFFFFFFF], np.uint32)
    bits = np.concatenate([bits, bits & 0xFFFF0000 | 0x8000, some])
    got = through(narrow_bf16, bits.view(np.float32), np.uint16).astype(np.uint64)
    low, half = bits.astype(np.uint64) & 0xFFFF, np.uint64(0x8000)
    up = (low > half) | ((low == half) & (bits >> 16 & 1 == 1))
    sound = ~np.isnan(bits.view(np.float32))
    np.testing.assert_array_equal(got[sound], ((bits.astype(np.uint64) >> np.uint64(16)) + up)[sound])
    assert np.isnan((got.astype(np.uint32) << 16).view(np.float32)[~sound]).all()


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 1e4])
def test_halves_are_what_they_stand_for(kind, temperature):
    usable("numba")
    rng = np.random.default_rng(8)
    x = (rng.standard_normal((6, 5000)) * 3 + np.array([0, 40, -900, 900, 0, 0])[:, None]).astype(np.float32)
    x[3, :4000], x[4, 4500:], x[5] = -np.inf, 600.0, 1e-7 * x[5]
    halves = x.astype(np.float16) if kind == "float16" else (x.view(np.uint32) >> 16).astype(np.uint16)
    x = halves.astype(np.float32) if kind == "float16" else (halves.astype(np.uint32) << 16).view(np.float32)
    tokens = rng.integers(4600, 5000, len(x))
    close(token_log_probs(halves, tokens, temperature=temperature, backend="numba", **MORE), x, tokens, temperature)


def uneven(width):
    """Rows whose tiles are of different levels, some too far below to be multiplied, and what is no number."""
    x = np.random.default_rng(width).standard_normal((12, width))
    x[1] += np.linspace(0, 60, width)
    x[2] += np.linspace(0, 900, width)
    x[3] += np.linspace(900, 0, width)
    x[4, -1] = 95
    x[5, : width // 2] = -np.inf
    x[6, :-3] = -1e4
    x[7, width // 2] = np.nan
    x[8, 7] = np.inf
    x[9] = -np.inf
    x[10] *= 1e-3
    x[11] -= 2e4
    return x


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("width", [1025, 2048, 2051, 9001])
def test_slopes_are_made_of_the_exponentials_of_a_sum(dtype, width):
    usable("numba")
    x = as_dtype(uneven(width), dtype)
    exact, tokens = widened("logits", x).astype(np.float64), np.arange(12) * 37 % width
    for given in (-1.5, 2.0, 1e-33, 1e33):
        up = np.full(12, given).astype(real(dtype))
        with np.errstate(all="ignore"):
            got = token_log_probs_grad(x, tokens, up, backend="numba")
            want = token_log_probs_grad(exact, tokens, up.astype(np.float64), backend="numpy")
            want = widened("logits", as_dtype(want, dtype))
        eps = float(np.finfo(real(dtype)).eps)  # of log p, which float64 takes down to -700
        unit = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float64": 250 * eps}.get(dtype, 100 * eps)
        least = {"float16": 2.0**-23, "float64": 1e-300}.get(dtype, 1e-37)  # times what p is multiplied by
        found = widened("logits", got)
        np.testing.assert_allclose(found, want, 4 * unit, least * max(1.0, abs(given)))
        inside, apart = x.copy(), np.empty_like(x)
        assert token_log_probs_grad(inside, tokens, up, backend="numba", out=inside).tobytes() == got.tobytes()
        for r in range(12):
            token_log_probs_grad(x[r : r + 1], tokens[r : r + 1], up[r : r + 1], backend="numba", out=apart[r : r + 1])
        assert apart.tobytes() == got.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_a_policy_loss_multiplies_the_exponentials_of_the_way_there(dtype):
    usable("numba")
    sound = [0, 1, 4, 5, 10, 11]
    for width in (1025, 4099):
        x = as_dtype(uneven(width)[sound], dtype)
        tokens, advantages = width - 1 - np.arange(6) * 37, np.linspace(-1, 2, 6).astype(real(dtype))
        first = token_log_probs(x, tokens, backend="numba")
        old, more = first.logp - real(dtype)(0.01), {"aggregation": "token_sum"}
        keep = np.arange(6) != 3
        got = policy_loss_from_logits(x, tokens, old, advantages, mask=keep, backend="numba", **more)
        exact = widened("logits", x).astype(np.float64)
        given = (exact, tokens, old.astype(np.float64), advantages.astype(np.float64))
        want = policy_loss_from_logits(*given, mask=keep, backend="numpy", **more)
        unit = {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(dtype, 100 * float(np.finfo(real(dtype)).eps))
        found, least = widened("logits", got.grad_logits), 1e-300 if dtype == "float64" else 1e-7
        np.testing.assert_allclose(found, want.grad_logits, 4 * unit, least)
        inside = x.copy()
        same = policy_loss_from_logits(inside, tokens, old, advantages, mask=keep, backend="numba", out=inside, **more)
        np.testing.assert_allclose(widened("logits", inside), found, 4 * unit, least)
        np.testing.assert_allclose(same.loss, got.loss, 4 * unit)
