"""Recurrences in every shape that is walked differently: few and many streams, rows, chains, and what needs no cast."""

import subprocess
import sys

import mpmath
import numpy as np
import pytest
from conftest import need

from fastalign import discounted_returns, gae

NAN = np.nan
OPTIONS = ("none", "final", "next", "mask", "all")


def streams(shape, layout, dtype, option, seed=0):
    """Arguments whose unused elements are NaN: beyond masks, and final values where nothing is cut."""
    rng = np.random.default_rng(seed)
    rewards, values, other = rng.standard_normal((3, *shape)).astype(dtype)
    terminated, cut = (rng.random(shape) < p for p in (0.1, 0.15))
    mask = rng.random(shape) < 0.7
    count = shape[1 if layout == "TN" else 0]
    given = {"rewards": rewards, "values": values, "terminated": terminated, "layout": layout}
    if option != "next":
        given["last_values"] = rng.standard_normal(count).astype(dtype)
    if option in ("final", "all"):
        given |= {"truncated": cut, "final_values": np.where(cut & ~terminated, other, NAN).astype(dtype)}
    if option == "next":
        given |= {"truncated": cut, "next_values": other}
    if option in ("mask", "all"):
        given["mask"] = mask
        for name in ("rewards", "values"):
            given[name] = np.where(mask, given[name], NAN).astype(dtype)
    return given


def widened(given):
    return {k: x.astype(np.float64) if getattr(x, "dtype", None) == np.float32 else x for k, x in given.items()}


def close(got, want, dtype):
    for g, w in zip(got, want, strict=True):
        assert g.dtype == dtype
        np.testing.assert_allclose(g, w, rtol=16 * np.finfo(dtype).eps, atol=64 * np.finfo(dtype).eps)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("layout", ["TN", "NT"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_width_and_length(monkeypatch, option, layout, dtype):
    """Lanes and what is left of them, pairs of steps and single ones, blocks of 4096, long rows, rows turned."""
    from fastalign.backends import cython_cpu

    need("cython", cython_cpu.why_not())
    sizes = [(5, n) for n in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 63, 64, 67)]
    sizes += [(steps, n) for steps in (1, 2, 3, 4, 31, 32, 33, 65, 100) for n in (9, 70)]
    sizes += [(3, 4101), (4, 1024), (5, 300), (514, 2), (700, 5)]
    for steps, count in sizes:
        given = streams((steps, count) if layout == "TN" else (count, steps), layout, dtype, option, steps * count)
        want = gae(**widened(given), backend="numpy")
        for isa in cython_cpu.isas():
            monkeypatch.setattr(cython_cpu, "core", lambda isa=isa: cython_cpu.load(isa))
            close(gae(**given, backend="cython"), want, dtype)


@pytest.mark.parametrize("gamma", [0.997, 0.9999, 0.99999, 1 - 1e-7, 1 - 3e-9, 1 - 2.0**-53, 1.0])
def test_a_power_does_not_drift(monkeypatch, gamma):
    """The rounding of gamma^4 or gamma^8, in every group of lanes: up to 10,000 eps."""
    from fastalign.backends import cython_cpu

    need("cython", cython_cpu.why_not())
    steps = 100_001
    rewards = np.zeros(steps)
    rewards[-1] = 1.0
    for isa in cython_cpu.isas():
        monkeypatch.setattr(cython_cpu, "core", lambda isa=isa: cython_cpu.load(isa))
        got = discounted_returns(rewards, rewards < 0, gamma=gamma, backend="cython")[0]
        assert abs(got / (mpmath.mpf(gamma) ** (steps - 1)) - 1) < 500 * np.finfo(float).eps


@pytest.mark.parametrize("option", ["none", "final", "next"])
@pytest.mark.parametrize("layout", ["TN", "NT"])
def test_every_width_of_returns(backend, option, layout):
    for shape in ((6, 1), (6, 9), (40, 3), (3, 70)):
        given = streams(shape, layout, np.float64, option)
        del given["values"]
        got = discounted_returns(**given, gamma=0.9, backend=backend)
        close([got], [discounted_returns(**given, gamma=0.9, backend="numpy")], np.float64)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("layout", ["TN", "NT"])
def test_what_needs_no_cast_gives_the_same_bits(backend, option, layout):
    for dtype in (np.float32, np.float64):
        given = streams((13, 21), layout, dtype, option)
        want = gae(**given, backend=backend)
        strided = {k: np.repeat(x, 2, -1)[..., ::2] if isinstance(x, np.ndarray) else x for k, x in given.items()}
        bytes_ = {k: x.view(np.uint8) if getattr(x, "dtype", None) == np.bool_ else x for k, x in given.items()}
        pair = np.empty_like(want[0]), np.empty_like(want[1])
        for other in (strided, bytes_, given | {"out": pair}, given | {"gamma": np.float64(0.99)}):
            for g, w in zip(gae(**other, backend=backend), want, strict=True):
                np.testing.assert_array_equal(g, w)


def reached(rng, option, terminated, cut, dtype):
    """The values of the states reached: NaN wherever they must not be read."""
    other = rng.standard_normal(len(cut)).astype(dtype)
    if option == "none":
        return {"last_values": 0.5}
    if option == "final":
        values = np.where(cut & ~terminated, other, NAN).astype(dtype)
        return {"last_values": 0.5, "truncated": cut, "final_values": values}
    values = np.where(terminated, NAN, other).astype(dtype)
    return {"next_values": values, **({"truncated": cut} if option == "next" else {})}


LONG = (127, 128, 129, 136, 191, 192, 193, 200, 257, 1000)


@pytest.mark.parametrize("option", ["none", "final", "next", "next, uncut"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ends", [0.0, 0.01, 0.3, 1.0])
def test_long_streams(monkeypatch, dtype, ends, option):
    """Lanes of neighbouring steps: blocks of 64, groups that are left, steps that are left, an end at every place."""
    from fastalign.backends import cython_cpu

    need("cython", cython_cpu.why_not())
    rng = np.random.default_rng(5)
    for steps in LONG:
        rewards, values = rng.standard_normal((2, steps)).astype(dtype)
        given = {"rewards": rewards, "values": values, "terminated": rng.random(steps) < ends}
        given |= reached(rng, option, given["terminated"], rng.random(steps) < ends, dtype)
        returns = {name: x for name, x in given.items() if name != "values"}
        for gamma, lam in ((0.99, 0.95), (1.0, 1.0), (0.9, 0.0), (0.0, 1.0), (1.0, 1e-5), (1e-40, 1.0)):
            want = gae(**widened(given), gamma=gamma, lam=lam, backend="numpy")
            sums = discounted_returns(**widened(returns), gamma=gamma, backend="numpy")
            for isa in cython_cpu.isas():
                monkeypatch.setattr(cython_cpu, "core", lambda isa=isa: cython_cpu.load(isa))
                near = {"rtol": 16 * np.finfo(dtype).eps}
                near["atol"] = near["rtol"] * (1 + max(np.abs(want[0]).max(), np.abs(sums).max()))
                got = (*gae(**given, gamma=gamma, lam=lam, backend="cython"),)
                got += (discounted_returns(**returns, gamma=gamma, backend="cython"),)
                for g, w in zip(got, (*want, sums), strict=True):
                    np.testing.assert_allclose(g, w, **near)


@pytest.mark.parametrize("option", ["none", "final", "next", "next, uncut"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_of_every_length(monkeypatch, dtype, option):
    """Several at once, or one after the other where no whole lanes fit: the bits of packed ones and of each alone."""
    from fastalign.backends import cython_cpu

    need("cython", cython_cpu.why_not())
    rng = np.random.default_rng(8)
    for steps in (*range(1, 66), 72, 100, 128, 131):
        count = 1 + steps % 11
        size, ends = steps * count, (0.0, 0.05, 0.4)[steps % 3]
        given = dict(zip(("rewards", "values"), rng.standard_normal((2, size)).astype(dtype), strict=True))
        given["terminated"] = rng.random(size) < ends
        given |= reached(rng, option, given["terminated"], rng.random(size) < ends, dtype)
        if "last_values" in given:
            given["last_values"] = rng.standard_normal(count).astype(dtype)
        rows = {name: x if name == "last_values" else x.reshape(count, steps) for name, x in given.items()}
        rows["layout"] = "NT"
        for valued in (True, False):
            if not valued:
                del given["values"], rows["values"]
            function = gae if valued else lambda **options: (discounted_returns(**options),)
            for gamma in (0.99, 1.0, 0.0):
                want = function(**widened(rows), gamma=gamma, backend="numpy")
                for isa in cython_cpu.isas():
                    monkeypatch.setattr(cython_cpu, "core", lambda isa=isa: cython_cpu.load(isa))
                    got = function(**rows, gamma=gamma, backend="cython")
                    close(got, want, dtype)
                    offsets = np.arange(count + 1) * steps
                    packed_ones = function(**given, cu_seqlens=offsets, gamma=gamma, backend="cython")
                    np.testing.assert_array_equal(np.reshape(packed_ones, np.shape(got)), got)
                    for b, part in enumerate(parts_of(given, offsets)):
                        alone = function(**part, gamma=gamma, backend="cython")
                        np.testing.assert_array_equal(alone, np.array(got)[:, b])


@pytest.mark.parametrize("value", [NAN, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_row(monkeypatch, value):
    """Among rows that go along one line, at every place of the one in the middle; and no step is left out."""
    from fastalign.backends import cython_cpu

    need("cython", cython_cpu.why_not())
    rng = np.random.default_rng(9)
    for steps in (4, 7, 8, 16, 24, 30):
        given = {name: rng.standard_normal((5, steps)) for name in ("rewards", "values")}
        given |= {"last_values": rng.standard_normal(5), "terminated": rng.random((5, steps)) < 0.1, "layout": "NT"}
        for name, at in (*((name, t) for name in ("rewards", "values") for t in range(steps)), ("last_values", None)):
            odd = given | {name: given[name].copy()}
            odd[name][2 if at is None else (2, at)] = value
            want = gae(**odd, backend="numpy")
            for isa in cython_cpu.isas():
                monkeypatch.setattr(cython_cpu, "core", lambda isa=isa: cython_cpu.load(isa))
                out = tuple(np.full((5, steps), 7.0) for _ in range(2))
                for g, w in zip(gae(**odd, out=out, backend="cython"), want, strict=True):
                    np.testing.assert_allclose(g, w, rtol=1e-13, atol=1e-13)


def masks(rng, steps):
    """Rows of nothing, of everything, of a beginning, of an end, of runs of ever more steps."""
    place = np.arange(steps)
    rows = [place < 0, place >= 0, place < steps // 3, place >= steps // 2, (place > 20) & (place < steps - 20)]
    return np.array(rows + [np.repeat(rng.random(steps) < 0.6, run)[:steps] for run in (1, 4, 9, 16, 40, 70)])


@pytest.mark.parametrize("option", ["none", "final", "next", "next, uncut"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ends", [0.0, 0.02, 1.0])
def test_long_streams_with_masks(monkeypatch, dtype, ends, option):
    """A line for each run of what is kept, or all turned; what is masked is not read, and 0."""
    from fastalign.backends import cython_cpu

    need("cython", cython_cpu.why_not())
    rng = np.random.default_rng(7)
    for steps in (128, 129, 200, 1000):
        mask = masks(rng, steps)
        shape, layout = mask.shape, {"layout": "NT", "mask": mask}
        terminated, cut = (rng.random(shape) < ends for _ in range(2))
        given = {"rewards": rng.standard_normal(shape), "values": rng.standard_normal(shape)}
        if option != "none":
            given["final_values" if option == "final" else "next_values"] = rng.standard_normal(shape)
        given = {name: np.where(mask, x, NAN).astype(dtype) for name, x in given.items()} | layout
        given |= {"terminated": terminated, **({"truncated": cut} if option in ("final", "next") else {})}
        if option in ("none", "final"):
            given["last_values"] = rng.standard_normal(len(mask)).astype(dtype)
        want = gae(**widened(given), backend="numpy")
        for isa in cython_cpu.isas():
            monkeypatch.setattr(cython_cpu, "core", lambda isa=isa: cython_cpu.load(isa))
            out = tuple(np.full(shape, 7, dtype) for _ in range(2))
            got = gae(**given, out=out, backend="cython")
            for g, w in zip(got, want, strict=True):
                near = 16 * np.finfo(dtype).eps
                np.testing.assert_allclose(g, w, rtol=near, atol=near * (1 + np.abs(w).max()))
                assert not g[~mask].any()
            alone = {name: x[3] if getattr(x, "ndim", 0) == 2 else x for name, x in given.items() if name != "layout"}
            if "last_values" in given:
                alone["last_values"] = given["last_values"][3]
            for g, w in zip(gae(**alone, backend="cython"), got, strict=True):
                np.testing.assert_array_equal(g, w[3])  # whatever its neighbours


def picks(rng, steps, count):
    """Masks of columns: random ones of three densities, a beginning, an end, every other step, nothing, everything."""
    place = np.arange(steps)
    border = rng.integers(0, steps + 1)
    columns = [rng.random(steps) < p for p in (0.05, 0.5, 0.95)] + [place < border, place >= border, place % 2 == 0]
    columns += [place < 0, place >= 0]
    return np.stack([columns[k % len(columns)] for k in rng.permutation(count)], 1)


def same_bits(got, want):
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.signbit(got) & ~np.isnan(got), np.signbit(want) & ~np.isnan(want))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "layout, shape",
    [("TN", (300,)), ("TN", (40, 7)), ("TN", (20, 1030)), ("NT", (9, 150)), ("NT", (2, 1100)), ("NT", (3, 5))],
)
@pytest.mark.parametrize("last", [False, True])
def test_masks_without_other_options(compiled, dtype, layout, shape, last):
    """Few and many streams, short and long ones, with what is kept at random, in runs, all of it and nothing."""
    rng = np.random.default_rng(len(shape))
    rewards, values = rng.standard_normal((2, *shape))
    ends = rng.random(shape) < 0.05
    streams = 1 if len(shape) == 1 else shape[layout == "TN"]
    after = rng.standard_normal(streams).astype(dtype) if last else None
    place, eps = np.arange(rewards.size).reshape(shape), float(np.finfo(dtype).eps)
    for mask in (
        rng.random(shape) < 0.3,
        rng.random(shape) < 0.95,
        place % 257 < 180,
        place % 300 > 20,
        place >= 0,
        place < 0,
    ):
        r, v = (np.where(mask, x, NAN).astype(dtype) for x in (rewards, values))
        options = {"mask": mask, "layout": layout, "last_values": after}
        got, want = (gae(r, v, ends, backend=name, **options) for name in (compiled, "numpy"))
        for g, w in zip(got, want, strict=True):
            assert g.dtype == dtype and not g[~mask].any()
            np.testing.assert_allclose(g, w, rtol=8 * eps, atol=16 * eps)


@pytest.mark.parametrize("option", ["none", "final", "next", "next, uncut"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("odd", [False, True])
def test_a_mask_is_the_bits_of_what_it_keeps(monkeypatch, dtype, option, odd):
    """Each column is as one without a mask, of the steps that are kept; so are rows and single streams."""
    from fastalign.backends import cython_cpu

    need("cython", cython_cpu.why_not())
    rng = np.random.default_rng(11)
    for steps, count in ((1, 3), (2, 9), (5, 2), (31, 4), (33, 8), (64, 17), (65, 63), (130, 64), (40, 71), (1100, 5)):
        shape, mask = (steps, count), picks(rng, steps, count)
        rewards, values, other = rng.standard_normal((3, *shape)).astype(dtype)
        if odd:
            special = np.array([0.0, -0.0, np.inf, -np.inf, NAN], dtype)
            for x in (rewards, values, other):
                x[...] = np.where(rng.random(shape) < 0.1, rng.choice(special, shape), x)
        ends, cut = (rng.random(shape) < 0.1 for _ in range(2))
        given = {"rewards": rewards, "values": values, "terminated": ends}
        if option != "none":
            given["final_values" if option == "final" else "next_values"] = other
        if option in ("final", "next"):
            given["truncated"] = cut
        last = rng.standard_normal(count).astype(dtype) if option in ("none", "final") else None
        for isa in cython_cpu.isas():
            monkeypatch.setattr(cython_cpu, "core", lambda isa=isa: cython_cpu.load(isa))
            got = gae(**given, mask=mask, last_values=last, backend="cython")
            rows = {k: np.ascontiguousarray(x.T) for k, x in given.items()}
            rows |= {"mask": np.ascontiguousarray(mask.T), "layout": "NT"}
            turned = gae(**rows, last_values=last, backend="cython")
            for j in range(count):
                kept, after = mask[:, j], None if last is None else last[[j, j]]
                pair = {k: np.repeat(x[kept, j : j + 1], 2, 1) for k, x in given.items()}
                want = gae(**pair, last_values=after, backend="cython")
                alone = {k: np.ascontiguousarray(x[:, j]) for k, x in given.items()}
                after = None if last is None else last[j : j + 1]
                single = gae(**alone, mask=np.ascontiguousarray(kept), last_values=after, backend="cython")
                lies_together = steps >= 128 and np.count_nonzero(np.diff(kept)) * 64 <= steps  # then along lines
                for g, t, s, w in zip(got, turned, single, want, strict=True):
                    same_bits(g[kept, j], w[:, 0])
                    assert not g[~kept, j].any()
                    same_bits(t[j], s)
                    if not lies_together:
                        same_bits(s, g[:, j])


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("value", [NAN, np.inf, -np.inf])
def test_what_is_not_finite_reaches_as_far_along_a_line(monkeypatch, value, cut):
    """As far as one step after the other: to the end of the episode before, not beyond, and nothing underflows."""
    from fastalign.backends import cython_cpu

    need("cython", cython_cpu.why_not())
    rng = np.random.default_rng(6)
    given = {name: rng.standard_normal(150) for name in ("rewards", "values")}
    given["terminated"] = np.isin(np.arange(150), (12, 13, 40, 63, 64, 100))
    if cut:
        given |= {"truncated": np.isin(np.arange(150), (5, 40, 62, 120)), "final_values": np.full(150, NAN)}
        given["final_values"][[5, 62, 120]] = 1.0, value, 2.0
    for gamma, lam in ((0.99, 0.95), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.5, 1e-30), (1e-45, 1.0), (1e-160, 1e-160)):
        for at in range(0, 150, 3):
            for name in ("rewards", "values"):
                odd = given | {name: np.where(np.arange(150) == at, value, given[name])}
                if at % 2:
                    odd["rewards"] = np.where(np.arange(150) == at - 5, -np.inf, odd["rewards"])
                want = gae(**odd, gamma=gamma, lam=lam, backend="numpy")
                for isa in cython_cpu.isas():
                    monkeypatch.setattr(cython_cpu, "core", lambda isa=isa: cython_cpu.load(isa))
                    for g, w in zip(gae(**odd, gamma=gamma, lam=lam, backend="cython"), want, strict=True):
                        np.testing.assert_allclose(g, w, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_long_stream_has_the_same_bits_wherever_it_lies(dtype):
    given = streams((300, 1), "TN", dtype, "none")
    given = {k: x[:, 0] if np.ndim(x) == 2 else x for k, x in given.items() if k != "layout"}
    want = gae(**given)
    for shift in range(1, 17):
        room = [np.zeros(300 + shift, dtype)[shift:] for _ in range(4)]
        room[0][...], room[1][...] = given["rewards"], given["values"]
        moved = given | {"rewards": room[0], "values": room[1], "out": tuple(room[2:])}
        for g, w in zip(gae(**moved), want, strict=True):
            np.testing.assert_array_equal(g, w)
    many = {k: np.stack([x, x, x]) for k, x in given.items() if k != "last_values"}
    last = np.repeat(given["last_values"], 3)
    for g, w in zip(gae(**many, last_values=last, layout="NT"), want, strict=True):
        np.testing.assert_array_equal(g, np.stack([w, w, w]))


def test_a_flag_is_any_byte_but_zero():
    """As in numpy, whose views of bytes as bool hold what the bytes held; a run along a line ended at none of them."""
    from fastalign.backends import cython_cpu

    need("cython", cython_cpu.why_not())
    code = (
        "import numpy as np\n"
        "from fastalign import gae\n"
        "from fastalign.backends import cython_cpu\n"
        "x, bytes_ = np.random.default_rng(3).standard_normal((5, 300)), np.repeat([0, 255, 1, 2, 0, 8], 50)\n"
        "mask = np.tile(bytes_.astype(np.uint8), (5, 1))\n"
        "ends = (x > 1).astype(np.uint8) * 4\n"
        "for isa in cython_cpu.isas():\n"
        "    cython_cpu.core = lambda isa=isa: cython_cpu.load(isa)\n"
        "    for backend in ('cython', 'numpy'):\n"
        "        options = {'layout': 'NT', 'last_values': x[:, 0], 'backend': backend}\n"
        "        got = gae(x, x, ends.view(bool), mask=mask.view(bool), **options)\n"
        "        want = gae(x, x, ends != 0, mask=mask != 0, **options)\n"
        "        np.testing.assert_array_equal(got, want)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_integers_are_discounts(backend):
    x, ends = np.arange(4.0), np.array([False, False, True, False])
    for given in ({"gamma": 1.0}, {"lam": 0.0}):
        whole = {name: int(x) for name, x in given.items()}
        np.testing.assert_array_equal(
            gae(x, x, ends, **whole, backend=backend), gae(x, x, ends, **given, backend=backend)
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [1024, 1031])
def test_where_the_arrays_lie_makes_no_difference(dtype, count):
    """It decides where in wide rows the lanes begin, and the direction."""
    shape, size = (7, count), 7 * count * np.dtype(dtype).itemsize
    given = streams(shape, "TN", dtype, "none")
    want = gae(**given, backend="numpy")
    buffer = np.zeros(8 * (size // 4096 + 3) * 4096, np.uint8)
    start = -buffer.ctypes.data % 4096
    first = None
    for places in ((0, 0, 0, 0), (16, 16, 16, 16), (0, 16, 32, 48), (48, 32, 16, 0), (0, 8, 2048, 2056)):
        at = [start + k * (size // 4096 + 3) * 4096 + place for k, place in enumerate(places)]
        rewards, values, *out = (buffer[a : a + size].view(dtype).reshape(shape) for a in at)
        rewards[...], values[...] = given["rewards"], given["values"]
        got = gae(**given | {"rewards": rewards, "values": values, "out": tuple(out)})
        close(got, want, dtype)
        first = first or [x.copy() for x in got]
        for g, f in zip(got, first, strict=True):
            np.testing.assert_array_equal(g, f)


def refused():
    x, e = np.ones((4, 3), np.float32), np.zeros((4, 3), bool)
    odd, frozen, out = e.astype(np.uint8), np.ones_like(x), (np.empty_like(x), np.empty_like(x))
    odd[2, 1] = 3
    frozen.flags.writeable = False
    cut, last = e.copy(), np.ones(3, np.float32)
    cut[1, 2] = True
    yield "odd flags", (x, x, odd), {}, ValueError, r"terminated\[2, 1\] is 3; expected 0 or 1"
    yield "odd mask", (x, x, e), {"mask": odd}, ValueError, r"mask\[2, 1\] is 3; expected 0 or 1"
    yield "odd cuts", (x, x, e, odd), {"next_values": x}, ValueError, r"truncated\[2, 1\] is 3; expected 0 or 1"
    yield "shape", (x, x[:3], e), {}, ValueError, r"values has shape \(3, 3\); expected \(4, 3\)"
    yield "as many", (x, x.reshape(3, 4), e), {}, ValueError, r"values has shape \(3, 4\); expected \(4, 3\)"
    yield "axes", (x, x.reshape(-1), e), {}, ValueError, r"values has shape \(12,\); expected \(4, 3\)"
    yield "flags", (x, x, e[:, :2]), {}, ValueError, r"terminated has shape \(4, 2\); expected \(4, 3\)"
    yield "kind of flags", (x, x, x), {}, TypeError, "terminated has dtype float32; expected bool or integers"
    yield "no flags", (x, x, None), {}, TypeError, "terminated is None"
    yield "last", (x, x, e), {"last_values": np.ones(4, np.float32)}, ValueError, r"last_values has shape \(4,\)"
    yield "two ends", (x, x, e), {"last_values": last, "next_values": x}, ValueError, "are both given"
    yield "cut", (x, x, e, cut), {}, ValueError, r"truncated\[1, 2\] is True"
    yield "gamma", (x, x, e), {"gamma": 1.01}, ValueError, "gamma is 1.01; expected"
    yield "no number", (x, x, e), {"lam": NAN}, ValueError, "lam is nan; expected"
    yield "layout", (x, x, e), {"layout": "nt"}, ValueError, "layout is 'nt'"
    yield "read-only", (x, x, e), {"out": (out[0], frozen)}, ValueError, r"out\[1\] is read-only"
    yield "dtype of out", (x, x, e), {"out": (out[0], out[1].astype(float))}, TypeError, r"out\[1\] has dtype float64"
    yield "shape of out", (x, x, e), {"out": (out[0], out[1].T)}, ValueError, r"out\[1\] has shape \(3, 4\)"
    yield "input as out", (x, x, e), {"out": (x, out[1])}, ValueError, r"out\[0\] shares memory with an input"
    yield "out twice", (x, x, e), {"out": (out[0], out[0])}, ValueError, r"out\[0\] shares memory with out\[1\]"
    yield "part of a pair", (x, x, e), {"out": out[:1]}, TypeError, "expected a tuple of 2 arrays"
    yield "backend", (x, x, e), {"backend": "tpu"}, ValueError, "backend is 'tpu'"


@pytest.mark.parametrize("name", [case[0] for case in refused()])
def test_what_needs_no_cast_is_refused_with_the_same_words(name):
    _, arguments, options, error, text = next(case for case in refused() if case[0] == name)
    with pytest.raises(error, match=text):
        gae(*arguments, **options)


def test_many_rows_and_columns_are_divided(threads, divisions, monkeypatch):
    monkeypatch.setattr("fastalign.threads.WORTH_SHARING", 100)
    threads(2)
    for layout, asked in (("TN", (200, 2)), ("NT", (10, 2))):
        given = streams((10, 200), layout, np.float32, "none")
        want = gae(**given, backend="numpy")
        divisions.clear()
        close(gae(**given, backend="cython"), want, np.float32)
        assert divisions == [asked]


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(7, 64), (7, 65), (5, 129), (200, 130), (1, 300)])
def test_columns_do_not_depend_on_the_threads(shape, dtype, option, threads, monkeypatch):
    given = streams(shape, "TN", dtype, option)
    want = gae(**given, backend="cython")
    monkeypatch.setattr("fastalign.threads.WORTH_SHARING", 2)
    for count in (2, 3):
        threads(count)
        got = gae(**given, backend="cython")
        np.testing.assert_array_equal(got, want)
        out = tuple(np.full(shape, 7, dtype) for _ in range(2))
        assert all(x is y for x, y in zip(gae(**given, backend="cython", out=out), out, strict=True))
        np.testing.assert_array_equal(out, want)


# ---- packed sequences ----------------------------------------------------------------------------------------------


LENGTHS = {
    "one": [7],
    "some": [3, 0, 1, 40, 5],
    "many": [17, 2, 33, 0, 64, 1, 9, 100, 31, 32, 5, 5, 5, 0, 70],
    "long": [2000, 5, 1500],
    "nothing": [0, 0],
    "none": [],
}


def packed(lengths, dtype, option):
    offsets = np.concatenate([[0], np.cumsum(np.array(lengths, int))])
    given = streams((int(offsets[-1]), 1), "TN", dtype, option, len(lengths))
    given = {k: x[:, 0] if np.ndim(x) == 2 else x for k, x in given.items() if k != "layout"}
    if "last_values" in given:
        given["last_values"] = np.random.default_rng(1).standard_normal(len(lengths)).astype(dtype)
    return given, offsets


def parts_of(given, offsets):
    for b in range(len(offsets) - 1):
        part = slice(offsets[b], offsets[b + 1])
        yield {k: x[b : b + 1] if k == "last_values" else x[part] for k, x in given.items()}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", LENGTHS)
def test_packed_sequences_are_separate_calls(backend, name, option):
    for dtype in (np.float32, np.float64):
        given, offsets = packed(LENGTHS[name], dtype, option)
        got = gae(**given, cu_seqlens=offsets, gamma=0.9, backend=backend)
        assert got[0].shape == got[1].shape == (offsets[-1],) and got[0].dtype == dtype
        for b, part in enumerate(parts_of(given, offsets)):
            for g, w in zip(got, gae(**part, gamma=0.9, backend=backend), strict=True):
                np.testing.assert_array_equal(g[offsets[b] : offsets[b + 1]], w)
        if option in ("none", "final", "next"):
            del given["values"]
            (got,) = (discounted_returns(**given, cu_seqlens=offsets, backend=backend),)
            for b, part in enumerate(parts_of(given, offsets)):
                want = discounted_returns(**part, backend=backend)
                np.testing.assert_array_equal(got[offsets[b] : offsets[b + 1]], want)


def test_packed_sequences_do_not_depend_on_the_threads(backend, threads, monkeypatch):
    monkeypatch.setattr("fastalign.threads.WORTH_SHARING", 2)
    given, offsets = packed(LENGTHS["many"], np.float32, "all")
    threads(1)
    want = gae(**given, cu_seqlens=offsets, backend=backend)
    for count in (2, 5):
        threads(count)
        pair = np.full_like(want[0], NAN), np.full_like(want[1], NAN)
        for g, w in zip(gae(**given, cu_seqlens=offsets, out=pair, backend=backend), want, strict=True):
            np.testing.assert_array_equal(g, w)


def test_packed_sequences_are_padded_ones(backend):
    """The reference's property: packed = padded, the padding masked."""
    lengths = [5, 9, 1]
    given, offsets = packed(lengths, np.float64, "none")
    got = gae(**given, cu_seqlens=offsets, backend=backend)
    mask = np.arange(9) < np.array(lengths)[:, None]

    def padded(x):
        wide = np.zeros(mask.shape, x.dtype)
        wide[mask] = x
        return wide

    rows = {k: x if k == "last_values" else padded(x) for k, x in given.items()}
    for g, w in zip(got, gae(**rows, mask=mask, layout="NT", backend=backend), strict=True):
        np.testing.assert_allclose(g, w[mask], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    "given, error, text",
    [
        ({"cu_seqlens": [0, 2]}, ValueError, "cu_seqlens ends with 2; expected 3, the number of elements"),
        ({"cu_seqlens": [1, 3]}, ValueError, "cu_seqlens starts with 1; expected 0"),
        ({"cu_seqlens": [0, 2, 1, 3]}, ValueError, r"cu_seqlens\[2\] is 1, less than the 2 before it"),
        ({"cu_seqlens": [0.0, 3.0]}, TypeError, "cu_seqlens has dtype float64; expected integers"),
        ({"cu_seqlens": [0, 1, 3], "last_values": 1.0}, ValueError, r"last_values has shape \(\); expected \(2,\)"),
        ({"cu_seqlens": [0, 1, 3], "last_values": [1.0]}, ValueError, r"last_values has shape \(1,\); expected \(2,\)"),
        ({"cu_seqlens": [0, 1, 3], "truncated": [0, 1, 0]}, ValueError, r"truncated\[1\] is True"),
    ],
)
def test_packed_sequences_are_refused(backend, given, error, text):
    x = np.ones(3)
    pair = np.full(3, 7.0), np.full(3, 7.0)
    with pytest.raises(error, match=text):
        gae(x, x, [0, 0, 0], **given, out=pair, backend=backend)
    assert (pair[0] == 7).all() and (pair[1] == 7).all()
    with pytest.raises(error, match=text):
        discounted_returns(x, [0, 0, 0], **given, backend=backend)


def test_packed_sequences_have_one_axis():
    x = np.ones((2, 3))
    with pytest.raises(ValueError, match=r"rewards has shape \(2, 3\); expected one axis with cu_seqlens"):
        gae(x, x, x > 1, cu_seqlens=[0, 6])


@pytest.mark.parametrize("value", [NAN, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_stream_and_episode(backend, value):
    """In wide rows, whose vectors go several at once."""
    rng = np.random.default_rng(7)
    rewards, values = rng.standard_normal((2, 9, 301))
    ended = rng.random((9, 301)) < 0.3
    at = rng.random((2, 9, 301)) < 0.02
    rewards[at[0]], values[at[1]] = value, -value
    got = gae(rewards, values, ended, last_values=np.full(301, value), backend=backend)
    for g, w in zip(got, gae(rewards, values, ended, last_values=np.full(301, value), backend="numpy"), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-13, atol=1e-13)
