"""From the source archive to an installation, with and without a compiler, whatever the user's flags."""

import subprocess
import sys
import tarfile
import zipfile

import pytest
from trees import ROOT, build, copy_to, environment, need_to_build, python

CHECK = """
import warnings
import fastalign
from fastalign.backends import cython_cpu
print("from", fastalign.__file__)
print("cython:", fastalign.available_backends()["cython"], cython_cpu.isas())
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print("gae:", fastalign.gae([1.0, 2.0], [0.5, 0.4], [0, 0], gamma=0.9, lam=0.8)[0].tolist())
print("warned:", [str(w.message) for w in caught])
"""


def pip(*command, folder, **changes):
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *command],
        cwd=folder, env=environment(**changes), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    need_to_build()
    folder = copy_to(tmp_path_factory.mktemp("sdist"))
    kept = folder / "bench" / "__pycache__"
    kept.mkdir()
    for name in ("floors.nbi", "floors.1.nbc"):  # what a run of the suite leaves there
        (kept / name).write_text("")
    code = "import setuptools.build_meta as b; print(b.build_sdist('dist'))"
    python(folder, "-c", code)
    (found,) = (folder / "dist").glob("*.tar.gz")
    return found


def test_the_archive_holds_the_sources_and_nothing_built(archive):
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    for name in ("setup.py", "pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md", "src_ext/kernels.pxi"):
        assert name in names
    assert {"src_ext/vecmath.h", "src_ext/scan.pxi.in", "tests/conftest.py", "fastalign/rules/policy.py"} <= names
    assert not [name for name in names if name.endswith((".so", ".pyc", ".c")) or "generated" in name]
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert {name for name in listed if not name.startswith(".")} <= names, "what is in the repository is in the archive"
    assert not [name for name in names if "__pycache__" in name or name.endswith((".nbi", ".nbc", "results.json"))]


def test_archive_to_wheel_to_installation(archive, tmp_path):
    pip(
        "wheel", "--no-build-isolation", "--no-deps", "-w", "wheels", str(archive),
        folder=tmp_path, FASTALIGN_BUILD_ISA="baseline", FASTALIGN_REQUIRE_EXT="1",
    )  # fmt: skip
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {name for name in tops if not name.endswith("dist-info")} == {"fastalign"}
    assert "fastalign/py.typed" in names and "fastalign/rules/policy.py" in names
    assert sum("_core_baseline" in name for name in names) == 1
    assert not [name for name in names if name.endswith((".pyx", ".pxi", ".in", ".h", ".c"))]
    site = tmp_path / "site"
    pip("install", "--no-deps", "--target", str(site), str(wheel), folder=tmp_path)
    told = python(site, "-c", CHECK)
    assert f"from {site}" in told and "cython: None ('baseline',)" in told and "warned: []" in told
    assert "gae: [2.012" in told


def test_without_a_compiler_it_installs_and_works(tmp_path):
    need_to_build()
    folder = copy_to(tmp_path / "tree")
    site = tmp_path / "site"
    absent = str(tmp_path / "no-compiler")
    told = pip(
        "install", "-v", "--no-build-isolation", "--no-deps", "--target", str(site), str(folder),
        folder=tmp_path, CC=absent, FASTALIGN_BUILD_ISA="baseline",
    )  # fmt: skip
    assert "fastalign" in told
    told = python(site, "-c", CHECK)
    assert "cython: the extension was not built" in told
    assert "gae: [2.012" in told and "fastalign computes with numba instead of its extension" in told
    told = python(site, "-m", "fastalign", "info")
    assert "backend cython" in told and "no: the extension was not built" in told
    assert "backend numba     usable (default)" in told


def test_a_required_extension_fails_loudly(tmp_path):
    need_to_build()
    folder = copy_to(tmp_path / "tree")
    told = python(
        folder, "setup.py", "build_ext", "--inplace", code=1,
        CC=str(tmp_path / "no-compiler"), FASTALIGN_REQUIRE_EXT="1", FASTALIGN_BUILD_ISA="baseline",
    )  # fmt: skip
    assert "no-compiler" in told


def test_the_users_fast_math_changes_nothing(tmp_path):
    """-ffast-math would make NaN a number and flush subnormals, of the whole process."""
    need_to_build()
    folder = copy_to(tmp_path / "tree")
    build(folder, CFLAGS="-ffast-math -O1")
    files = ("tests/test_special_values.py", "tests/test_vecmath.py")
    told = python(folder, "-m", "pytest", "-q", *files, "-k", "cython or core or numpy", FASTALIGN_ISA="baseline")
    assert " passed" in told and "failed" not in told
    code = (
        "import fastalign, numpy as np\n"
        "from fastalign.backends import cython_cpu\n"
        "fastalign.warmup('cython')\n"
        "tiny = np.float64(5e-324)\n"
        "print(cython_cpu.keeps_subnormals(), tiny * np.float64(1) > 0)"
    )
    assert python(folder, "-c", code).split() == ["True", "True"]


def test_an_unknown_instruction_set_is_refused(tmp_path):
    need_to_build()
    folder = copy_to(tmp_path / "tree")
    told = python(folder, "setup.py", "build_ext", "--inplace", code=1, FASTALIGN_BUILD_ISA="mmx")
    assert "FASTALIGN_BUILD_ISA: 'mmx' is not one of" in told


def test_versions_agree():
    import fastalign

    assert f"## {fastalign.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"version: {fastalign.__version__}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
