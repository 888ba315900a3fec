"""Copies of the source tree, to edit and to build."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import need

ROOT = Path(__file__).parent.parent
# An editable installation finds what a copy lacks in the original: not here.
SITE = """import sys
sys.meta_path[:] = [f for f in sys.meta_path if "__editable__" not in getattr(f, "__module__", "")]
"""
BUILT = shutil.ignore_patterns("*.so", "*.c", "__pycache__", "generated", "*.egg-info")


def copy_to(folder):
    """The tree as a clone has it, without what is built."""
    folder.mkdir(exist_ok=True)
    for name in ("fastalign", "src_ext", "tests", "bench"):
        shutil.copytree(ROOT / name, folder / name, ignore=BUILT)
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith(".git"):
            shutil.copy(path, folder / path.name)
    return folder


def need_to_build():
    for name in ("setuptools", "Cython"):
        if importlib.util.find_spec(name) is None:
            need("cython", f"{name} is not installed")
    if shutil.which(os.environ.get("CC", "cc").split()[0]) is None:
        need("cython", "no C compiler")


def environment(**changes):
    """Ours, without the choices of the tests, and of who runs them side by side."""
    given = os.environ.items()
    return {name: value for name, value in given if not name.startswith(("FASTALIGN_", "PYTEST_XDIST_"))} | changes


def python(folder, *command, code=0, **changes):
    """Run Python in a folder, importing from it first; what it printed, both streams."""
    (folder / "sitecustomize.py").write_text(SITE)
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment(PYTHONPATH=str(folder), **changes),
        capture_output=True,
        text=True,
    )
    assert code is None or done.returncode == code, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def build(folder, isa="baseline", **changes):
    """The extension in place, for one instruction set: enough to run, a third of the time."""
    python(
        folder,
        "setup.py",
        "-q",
        "build_ext",
        "--inplace",
        FASTALIGN_BUILD_ISA=isa,
        FASTALIGN_REQUIRE_EXT="1",
        **changes,
    )
