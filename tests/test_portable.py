"""The C headers for compilers and processors that none of the builds is for."""

import platform
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

HERE = Path(__file__).parent
COMPILERS = {"as Python": shlex.split(sysconfig.get_config_var("CC") or "cc"), "clang": ["clang"]}
X86 = platform.machine().lower() in ("x86_64", "amd64")
KINDS = {
    "vectors of 16 bytes": [],
    "no vectors": ["-DWITHOUT_VECTORS"],
    "as built": ["-DAS_BUILT"],
    "for this processor": ["-DAS_BUILT", "-march=native"],
}
# As Python's compiler makes them, all the other tests see them.
CASES = [*(("as Python", kind) for kind in list(KINDS)[:2]), *(("clang", kind) for kind in KINDS)]


@pytest.mark.parametrize("compiler, kind", CASES)
def test_rows(tmp_path, compiler, kind):
    if shutil.which(COMPILERS[compiler][0]) is None:
        pytest.skip(f"there is no {COMPILERS[compiler][0]}")
    if kind == "for this processor" and not X86:
        pytest.skip("not every compiler knows -march=native elsewhere")
    program = tmp_path / "rows"
    source = ["-I", str(HERE.parent / "src_ext"), "-x", "c", str(HERE / "portable.h"), "-o", str(program), "-lm"]
    subprocess.run([*COMPILERS[compiler], "-O1", "-w", *KINDS[kind], *source], check=True)
    assert subprocess.run([program], check=False, timeout=60).returncode == 0, "a line of portable.h"
