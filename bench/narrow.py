"""With FASTALIGN_ISA=avx2 on a wider processor all that is compared does without AVX-512, not fastalign alone."""

import getpass
import os
import tempfile
from pathlib import Path

import numpy as np


def numpys_own():
    """What NumPy dispatches to beyond AVX2, by the names of its version."""
    umath = np._core._multiarray_umath
    wide = [name for name in umath.__cpu_dispatch__ if name.startswith(("AVX512", "X86_V4"))]
    return [name for name in wide if umath.__cpu_features__.get(name)]


def environment():
    """Variables for a new process; none unless FASTALIGN_ISA asks and this processor has AVX-512."""
    wide = numpys_own()
    if os.environ.get("FASTALIGN_ISA") != "avx2" or not wide:
        return {}
    return {
        "NPY_DISABLE_CPU_FEATURES": " ".join(wide),
        "OPENBLAS_CORETYPE": "Haswell",
        "NUMBA_CPU_NAME": "x86-64-v3",
        "NUMBA_CPU_FEATURES": "",
        "ATEN_CPU_CAPABILITY": "avx2",
        # Inductor's cache does not know the variable above: code of the other width is taken from it, and is wrong.
        "TORCHINDUCTOR_CACHE_DIR": str(Path(tempfile.gettempdir(), f"torchinductor_{getpass.getuser()}_avx2")),
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
    }
