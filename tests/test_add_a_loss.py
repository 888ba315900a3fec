"""A new loss is two edits: the rule, and a formula in the reference.  Done here in a copy; then everything has it."""

import re

import pytest
from trees import ROOT, build, copy_to, need_to_build, python

# What CONTRIBUTING tells to write, and where.
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RULE, FORMULA = (f"\n\n{block}" for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
USE = """
import warnings
import numpy as np
import fastalign

logps = np.random.default_rng(0).standard_normal((4, 5000)) * 5
z = 0.3 * (logps[0] - logps[2] - logps[1] + logps[3])
for backend in ("numpy", "cython", "numba"):
    result = fastalign.preference_loss(*logps, loss_type="hinge", beta=0.3, label_smoothing=0.1, backend=backend)
    want = 0.9 * np.maximum(0, 1 - z) + 0.1 * np.maximum(0, 1 + z)
    assert np.isclose(result.loss, want.mean(), rtol=1e-12), backend
    np.testing.assert_allclose(result.grad_chosen, (0.03 * (z > -1) - 0.27 * (z < 1)) / 5000, rtol=1e-12)
    trainer = fastalign.DPOTrainer(0.3, 0.1, loss_type="hinge", backend=backend)
    assert trainer.compute_loss(*logps)[0] == result.loss
print("agreed")
"""
STALE = """
import fastalign
print(fastalign.available_backends()["cython"])
try:
    fastalign.kl_divergence([0.0], [0.0], backend="cython")
except RuntimeError as error:
    print("refused:", error)
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy that was built, then edited in two places, then not built again."""
    need_to_build()
    folder = copy_to(tmp_path_factory.mktemp("loss"))
    build(folder)
    for name, text in (("rules/preference.py", RULE), ("backends/reference.py", FORMULA)):
        path = folder / "fastalign" / name
        path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")
    return folder


def test_an_extension_of_other_formulas_is_refused(tree):
    told = python(tree, "-c", STALE)
    assert "was built from other formulas; rebuild it: python -m pip install -e ." in told
    assert "refused: backend 'cython' cannot be used" in told


def test_what_is_chosen_by_itself_falls_back_and_says_so(tree):
    told = python(tree, "-c", "import fastalign; print(fastalign.kl_divergence([0.0], [0.0]))")
    assert "RuntimeWarning: fastalign computes with numba instead of its extension" in told
    assert "built from other formulas" in told and "0.0" in told


def test_two_edits_are_a_loss_on_every_backend(tree):
    build(tree)
    assert "agreed" in python(tree, "-c", USE)
    refused = python(tree, "-c", "import fastalign as f; f.preference_loss([0.], [0.], loss_type='x')", code=1)
    assert "loss_type is 'x'; expected one of 'sigmoid', 'hinge'" in refused
    assert "cython/baseline" in python(tree, "-m", "fastalign", "verify", "--backend", "cython")
    listed = python(tree, "-c", "from fastalign.cases import OPERATIONS; print(*OPERATIONS)")
    assert "preference_loss-hinge" in listed  # so that verify, the demo and bench/ have it
    # The tests find it by themselves: slopes, digits, reference, backends, and the kernels for CUDA.
    files = ("rules", "slopes", "reference", "backends")
    told = python(tree, "-m", "pytest", "-q", *(f"tests/test_{name}.py" for name in files), "-k", "hinge")
    assert " passed" in told and "failed" not in told
    for name in files:
        listed = python(tree, "-m", "pytest", "--collect-only", "-q", f"tests/test_{name}.py", "-k", "hinge")
        assert "hinge" in listed, name


def test_it_runs_on_cuda_too(tree):
    pytest.importorskip("greenlet")
    code = (
        "import os; os.environ['NUMBA_ENABLE_CUDASIM'] = '1'\n"
        "import sys; sys.path.insert(0, 'tests/cuda'); sys.argv = ['run_source.py']\n"
        "import run_source, runs\n"
        "done = [r.label for r in runs.TABLE['pointwise pair'](False) if 'hinge' in r.label and "
        "runs.check(r, run_source.launch, run_source.ORDERS) is None]\n"
        "print(len(done), 'runs')"
    )
    told = python(tree, "-c", code)
    assert int(told.split()[0]) >= 4
