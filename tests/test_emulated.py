"""The loops written for AVX-512, also where no processor has it: every intrinsic lane by lane, by avx512_emulated.h; of
Numba's by avx512_numba.py."""

import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from conftest import usable

from fastalign import rules
from fastalign.backends import cython_cpu

HERE = Path(__file__).parent
SOURCES = HERE.parent / "src_ext"
COMPILER = shlex.split(sysconfig.get_config_var("CC") or "cc")
FLAGS = ["-O1", "-w", "-Wno-psabi", "-flax-vector-conversions", "-fopenmp-simd", "-mavx2", "-mfma", "-mf16c"]
# The one instruction that is no intrinsic, and what it does.
WRITTEN = '__asm__("kmovb %1,%0" : "=k"(bits) : "m"(((const unsigned char *)word)[group]));'
INSTEAD = "bits = ((const unsigned char *)word)[group];"


def why_not():
    if platform.machine().lower() not in ("x86_64", "amd64") or "avx2" not in cython_cpu.supported():
        return "no processor with AVX2, or no extension that could tell"
    if shutil.which(COMPILER[0]) is None:
        return f"there is no {COMPILER[0]}"
    known = subprocess.run([*COMPILER, "-dM", "-E", "-x", "c", "-"], input="", capture_output=True, text=True).stdout
    return None if "__GNUC__" in known and "__clang__" not in known else "the compiler is not gcc"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the programs include: the emulation by the names it stands for, scan.h in C alone, the rules in C."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("emulated")
    text = (HERE / "avx512_emulated.h").read_text()
    names = set(re.findall(r"^[A-Z_]+\(.*?\b(_mm(?:256|512)?_\w+)", text, re.MULTILINE))
    used = {name for path in SOURCES.glob("*.h") for name in re.findall(r"\b_mm512_\w+", path.read_text())}
    assert used <= names, f"avx512_emulated.h lacks {', '.join(sorted(used - names))}"
    lines = (f"#undef {name}\n#define {name} emulated{name}\n" for name in sorted(names))
    (folder / "emulated.h").write_text(text + "".join(lines))
    scan = (SOURCES / "scan.h").read_text()
    assert scan.count(WRITTEN) == 1
    (folder / "scan.h").write_text(scan.replace(WRITTEN, INSTEAD))
    spec = importlib.util.spec_from_file_location("translate", SOURCES / "translate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, body in module.translate(rules, Path(rules.__file__).parent, "").items():
        (folder / name).write_text(body)
    return folder


@pytest.mark.parametrize("source", ["portable.h", "loops.h"])
def test_loops(folder, source):
    program = folder / f"of_{source.removesuffix('.h')}"
    include = ["-include", str(folder / "emulated.h"), "-I", str(folder), "-I", str(SOURCES), "-DAS_BUILT"]
    command = [*COMPILER, *FLAGS, *include, "-x", "c", str(HERE / source), "-o", str(program), "-lm"]
    subprocess.run(command, check=True)
    assert subprocess.run([program], check=False, timeout=60).returncode == 0, f"a line of {source}"


ROWS = {
    "test_rows_numba.py": "slopes or multiplies or every_width or powers or what_they_stand_for or sure or same_bits",
    "test_brief_numba.py": "in_double",
    "test_policy_numba.py": "separate",
}


@pytest.mark.parametrize("kinds", ["float32 or float64", "float16 or bfloat16"])
def test_rows_of_numba(tmp_path, kinds):
    """Those tests of rows again, by its vectors of 64 bytes."""
    usable("numba")
    if platform.machine().lower() not in ("x86_64", "amd64") or "avx2" not in cython_cpu.supported():
        pytest.skip("no processor with AVX2, or no extension that could tell")
    paths = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    own = {**os.environ, "PYTHONPATH": paths, "NUMBA_CACHE_DIR": str(tmp_path)}
    wanted = f"({' or '.join(ROWS.values())}) and ({kinds})"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "avx512_numba", "-p", "no:cacheprovider", "-k", wanted]
    done = subprocess.run([*command, *(str(HERE / name) for name in ROWS)], env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "emulated: add, mask.reduce, mask.scalef, vpermi2var" in done.stdout
