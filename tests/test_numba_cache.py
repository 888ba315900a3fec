"""With FASTALIGN_NUMBA_CACHE=1 Numba keeps kernels on disk; an edited rule must not be served from there."""

import os

import pytest
from conftest import usable
from trees import copy_to, python

USE = """
import numpy as np
import fastalign
x = np.array([3.0, 5.0])
print(*fastalign.kl_estimate(x, np.ones(2), estimator="k1", backend="numba").value)
print(*fastalign.kl_estimate(x, np.ones(2), estimator="k2", backend="numba").value)
"""


@pytest.fixture
def tree(tmp_path):
    usable("numba")
    return copy_to(tmp_path / "tree")


def test_an_edited_rule_is_compiled_again(tree, tmp_path):
    folder = tmp_path / "cache"
    choices = {"NUMBA_CACHE_DIR": str(folder), "FASTALIGN_NUMBA_CACHE": "1"}
    run = lambda: python(tree, "-c", USE, **choices).split()  # noqa: E731
    assert run() == ["2.0", "4.0", "2.0", "8.0"]
    kept = {path: os.stat(path).st_mtime_ns for path in folder.rglob("*.nbc")}
    assert kept, "nothing was kept on disk"
    assert run() == ["2.0", "4.0", "2.0", "8.0"]
    assert {path: os.stat(path).st_mtime_ns for path in folder.rglob("*.nbc")} == kept, "compiled again for nothing"
    rule = tree / "fastalign" / "rules" / "divergence.py"
    text = rule.read_text(encoding="utf-8")
    rule.write_text(
        text.replace("return log_prob - ref_log_prob, 1.0", "return 10.0 * (log_prob - ref_log_prob), 10.0")
    )
    assert run() == ["20.0", "40.0", "2.0", "8.0"]


def test_another_value_is_refused(tree):
    told = python(tree, "-c", USE, FASTALIGN_NUMBA_CACHE="yes", code=1)
    assert "FASTALIGN_NUMBA_CACHE is 'yes'; expected 0 or 1" in told
