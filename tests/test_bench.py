"""The benchmark suite's own parts: what it compares, what it says, what it counts."""

import importlib
import sys

import numpy as np
import pytest
from trees import ROOT

pytest.importorskip("pytest_benchmark")


@pytest.fixture
def bench(monkeypatch):
    """A module of bench/ by its name."""
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(ROOT / "bench")):
            del sys.modules[name]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_baselines_compute_what_fastalign_does(bench, dtype):
    data, baselines = bench("data"), bench("baselines")
    for task, shape, f, extra in (
        ("rows", (7, 501), baselines.rows, 0),
        ("policy", (1_001,), baselines.policy, 0),
        ("pairs", (1_001,), baselines.pairs, 2),
    ):
        given = data.arrays(task, shape, dtype)
        before = {name: x.copy() for name, x in given.items()}
        got = f(*given.values())
        data.compare(task, got[: len(got) - extra], data.truth(task, shape, dtype), dtype)
        assert all((given[name] == x).all() for name, x in before.items()), "an input was overwritten"
        arrays = [x for x in got if isinstance(x, np.ndarray)]
        assert arrays and all(x.dtype == dtype for x in arrays)


def test_what_differs_is_not_timed(bench):
    data = bench("data")
    with pytest.raises(AssertionError, match="result 1 is off by"):
        data.compare("it", (1.0, np.ones(3)), (1.0, np.array([1, 1, 1.01])), "float32")
    with pytest.raises(AssertionError):
        data.compare("it", (np.array([np.nan]),), (np.ones(1),), "float32")
    with pytest.raises(AssertionError, match="shape"):
        data.compare("it", (np.ones((3, 1)),), (np.ones(3),), "float32")
    data.compare("it", (1.0, None), (1.0, np.ones(3)), "float32")


def test_cases_are_about_sides_they_have(bench):
    cases, report, worker = bench("test_measures").CASES, bench("report"), bench("worker")
    assert len({case.name for case in cases}) == len(cases)
    for case in cases:
        assert case.group in report.GROUPS and set(case.peers) <= set(worker.PEERS)
        known = {*case.sides, *case.peers}
        assert case.claims and all({claim.ours, claim.other} - {None} <= known for claim in case.claims)


def test_a_bound_is_held_or_not(bench):
    measures, report, results = bench("measures"), bench("report"), bench("results")
    claim = measures.Claim("work", "it", "speedup", "ours", "it", 2, 4)
    assert [report.state(claim, x) for x in (1.9, 2, 3.9, 4)] == [report.SHORT, *[report.HOLDS] * 2, report.AIM]
    share = claim._replace(kind="share", must=2, aim=1)
    assert [report.state(share, x) for x in (2.1, 2, 1.1, 1)] == [report.SHORT, *[report.HOLDS] * 2, report.AIM]
    assert report.state(share._replace(must=None), 9) == ""

    def told(sides, reasons=None):
        timings = {("case", name): ({}, results.Timing(x, x, 0.0)) for name, x in sides.items()}
        found = results.Results({}, timings, {}, reasons or {})
        return report.row(found, measures.Case("case", "rows", None, (), ()), claim)

    assert told({"ours": 1.0, "it": 3.0})[0] == report.HOLDS and "3×" in told({"ours": 1.0, "it": 3.0})[1][4]
    assert told({"ours": 1.0}) is None
    state, cells = told({"ours": 1.0}, {("case", "it"): "it is not installed"})
    assert state == report.SKIPPED and cells[-1] == "skipped: it is not installed"
    assert told({}, {("case", "ours"): "failed: off by 3"})[0] == report.SHORT


def test_a_peer_that_is_absent_says_so(bench, monkeypatch):
    remote = bench("remote")
    monkeypatch.setitem(remote.PEERS, "nobody", ("peer_nobody", "it", ("no_such_package",)))
    for _ in range(2):
        with pytest.raises(remote.Unavailable, match="no_such_package is not installed"):
            remote.worker("nobody")


def test_a_peer_in_its_process(bench, monkeypatch, tmp_path):
    """One that is right, one that is wrong and one that ends."""
    remote = bench("remote")
    (tmp_path / "peer_mine.py").write_text(
        "import baselines, os\n"
        "def right(**a):\n    return (lambda: baselines.rows(**a)), tuple\n"
        "def wrong(**a):\n    return (lambda: (1e9,)), tuple\n"
        "TASKS = {('it', 'rows'): right, ('it', 'policy'): wrong,\n"
        "         ('it', 'fused'): lambda **a: os._exit(3)}\n"
    )
    text = (ROOT / "bench" / "worker.py").read_text(encoding="utf-8")
    (tmp_path / "worker.py").write_text(text.replace("PEERS = {", "PEERS = {'mine': ('peer_mine', 'it', ()),", 1))
    monkeypatch.setitem(remote.PEERS, "mine", ("peer_mine", "it", ()))
    path = str(ROOT / "bench")
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setattr(remote, "HERE", tmp_path)
    monkeypatch.setattr(remote, "PATHS", (str(tmp_path), path, *remote.PATHS))
    try:
        mine = remote.worker("mine")
        (error,) = mine.prepare("rows", (200, 2000), "float32")
        assert 0 <= error < 1e-5
        found = mine.ask(time=0.2)  # processors are counted in ticks of milliseconds: of 4 ms the share was 2.03
        assert len(found["told"]) >= 2 and min(found["told"]) > 0 and found["processors"] < 2
        with pytest.raises(remote.Unavailable, match="result 0 is off by"):
            mine.prepare("policy", (5,), "float32")
        with pytest.raises(remote.Unavailable, match="has no pairs"):
            mine.prepare("pairs", (5,), "float32")
        with pytest.raises(remote.Unavailable, match="ended with status 3"):
            mine.prepare("fused", (5, 100), "float32")
        assert remote.worker("mine") is not mine and remote.worker("mine").prepare("rows", (5, 100), "float32")
    finally:
        remote.close()


def test_memory_counts_what_a_call_takes(bench):
    memory = bench("memory")
    found = memory.extra(lambda: np.ones(1 << 20))
    assert 8 << 20 <= found < 9 << 20
    assert memory.extra(lambda: None) < 1 << 20
