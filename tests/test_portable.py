"""The C headers for compilers and processors that none of the builds is for."""

import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CC = shlex.split(sysconfig.get_config_var("CC") or "cc")


@pytest.mark.skipif(shutil.which(CC[0]) is None, reason="there is no C compiler")
@pytest.mark.parametrize("flags", [[], ["-DWITHOUT_VECTORS"]], ids=["vectors of 16 bytes", "no vectors"])
def test_rows(tmp_path, flags):
    program = tmp_path / "rows"
    source = ["-I", str(HERE.parent / "src_ext"), "-x", "c", str(HERE / "portable.h"), "-o", str(program), "-lm"]
    subprocess.run([*CC, "-O1", "-w", *flags, *source], check=True)
    assert subprocess.run([program], check=False, timeout=60).returncode == 0, "a line of portable.h"
