"""Build the extensions: the rules are written out in C, then compiled for several instruction sets.

FASTALIGN_BUILD_ISA=baseline,avx2,avx512 (any of them) restricts what is built; FASTALIGN_NO_EXT=1 builds nothing.
Where there is no C compiler the package installs without extensions and computes with Numba or NumPy.
"""

import importlib.util
import os
import platform
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "src_ext"
GENERATED = SOURCES / "generated"
RULES = HERE / "fastalign" / "rules"
X86 = platform.machine().lower() in ("x86_64", "amd64", "i686", "x86")

# In this order: -fno-fast-math last would undo the two flags after it.  It also stands at the link line, where gcc 12
# answers -ffast-math, which setuptools passes on from CFLAGS, with start-up code that flushes subnormals for the
# whole process.  -fno-associative-math and -fno-finite-math-only are in it; -O3 against a user's -O0.  Python's own
# flags bring -fwrapv: without it the row kernels' loops are 6 % faster (2.63 to 2.47 ms for 512 x 32,000 float32).
COMPILE = [
    "-O3", "-fno-wrapv", "-fno-fast-math", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd",
    "-ffp-contract=fast", "-g0", "-fvisibility=hidden", "-Wno-unused-function", "-pthread",
]  # fmt: skip
LINK = ["-fno-fast-math", "-pthread"]

ISAS = {
    "baseline": [],
    # Against the generic processor model: PPO in double 10 % faster, DPO 3, entropy of doubles 17; the rest within 3.
    "avx2": ["-mavx2", "-mfma", "-mf16c", "-mtune=skylake"],
    "avx512": [
        "-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl",
        "-mprefer-vector-width=512",
    ],
}  # fmt: skip
DIRECTIVES = {
    "language_level": 3, "boundscheck": False, "wraparound": False, "cdivision": True, "initializedcheck": False,
    "freethreading_compatible": True,
}  # fmt: skip


def load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def stamp(rules: ModuleType) -> str:
    """As in fastalign/binding.py, which cannot be imported before the package is."""
    crc = 0
    for file in ("__init__", *rules.FILES):
        crc = zlib.crc32((RULES / f"{file}.py").read_bytes(), crc)
    return f"{crc:08x}"


def write(path: Path, text: str) -> None:
    """Only what changed, so that nothing else is compiled again."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def isas() -> list[str]:
    names = list(ISAS) if X86 else ["baseline"]
    asked = os.environ.get("FASTALIGN_BUILD_ISA")
    if not asked:
        return names
    chosen = [name.strip() for name in asked.split(",")]
    unknown = [name for name in chosen if name not in names]
    if unknown:
        raise SystemExit(f"FASTALIGN_BUILD_ISA: {unknown[0]!r} is not one of {', '.join(names)}")
    return chosen


def extensions() -> list[Extension]:
    import numpy
    from Cython.Build import cythonize

    GENERATED.mkdir(exist_ok=True)
    rules = load("fastalign_rules", RULES / "__init__.py")
    translate = load("fastalign_translate", SOURCES / "translate.py").translate
    written = translate(rules, RULES, stamp(rules))
    for name, text in written.items():
        write(GENERATED / name, text)
    depends = [str(p.relative_to(HERE)) for p in sorted(SOURCES.glob("*")) if p.is_file()]
    depends += ["fastalign/cut.py", "setup.py"]
    found = [Extension("fastalign._cpu", ["src_ext/cpu.pyx"], depends=depends)]
    for isa in isas():
        source = GENERATED / f"core_{isa}.pyx"
        write(source, f'"""The kernels, built for {isa}."""\n\ninclude "kernels.pxi"\n')
        name = f"fastalign._core_{isa}"
        depends_too = [*depends, *(f"src_ext/generated/{name}" for name in written)]
        include = ["src_ext", "src_ext/generated", numpy.get_include()]
        macros = [("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")]
        files = [str(source.relative_to(HERE))]
        found.append(Extension(name, files, include_dirs=include, define_macros=macros, depends=depends_too))
    return cythonize(
        found, compiler_directives=DIRECTIVES, include_path=[str(SOURCES), str(GENERATED)], language_level=3, quiet=True
    )


class Build(build_ext):
    """The instruction sets side by side, and an installation also where nothing compiles."""

    def build_extensions(self) -> None:
        for extension in self.extensions:
            isa = extension.name.removeprefix("fastalign._core_") if "_core_" in extension.name else "baseline"
            extension.extra_compile_args = COMPILE + ISAS[isa]
            extension.extra_link_args = list(LINK)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            built = list(pool.map(self.build_or_none, self.extensions))
        # What cannot be built is left out; the package then says why it computes with something else.
        self.extensions = [extension for extension in built if extension]

    def build_or_none(self, extension: Extension) -> Extension | None:
        from setuptools.errors import CCompilerError, CompileError, ExecError, PlatformError

        try:
            self.build_extension(extension)
        except (CCompilerError, CompileError, ExecError, PlatformError, OSError) as error:
            if os.environ.get("FASTALIGN_REQUIRE_EXT") == "1":
                raise
            print(f"fastalign: {extension.name} was not built ({error}); Numba or NumPy will compute", file=sys.stderr)
            return None
        return extension


if os.environ.get("FASTALIGN_NO_EXT") == "1":
    setup()
else:
    setup(ext_modules=extensions(), cmdclass={"build_ext": Build})
