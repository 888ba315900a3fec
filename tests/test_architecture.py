"""Who imports whom, and what an import costs."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import usable

import fastalign
from fastalign.backends import cython_cpu
from fastalign.binding import STAMP

PACKAGE = Path(fastalign.__file__).parent
# A layer imports lower ones only.
LAYERS = [
    {"rules", "cut"},
    {"binding"},
    {"backends"},
    {"arrays"},
    {"at_once", "logits", "projection"},
    {"threads"},
    {"dispatch"},
    {"elementwise"},
    {"policy_rows", "sequences"},
    {"log_probs", "advantages", "preference", "policy", "divergence", "reward", "pairs"},
    {"fused", "sweeps"},
    {"linear", "linear_pairs"},
    {"system"},
    {"__init__"},
    {"cases", "progress"},
    {"verify", "demo"},
    {"cli"},
    {"__main__"},
]
# A report on the package names the package's version.
EXCEPTIONS = {("system", "__init__")}


def layer_of(name):
    return next(k for k, layer in enumerate(LAYERS) if name in layer)


def modules():
    return [(path, ".".join(path.relative_to(PACKAGE).with_suffix("").parts)) for path in sorted(PACKAGE.rglob("*.py"))]


def imported(path, name):
    """The top-level parts of the package that a file imports, relative or absolute."""
    here = ["fastalign", *name.split(".")]
    package = here[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            targets = [f"{whole}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            parts = target.split(".")
            if parts[0] == "fastalign":
                known = len(parts) > 1 and any(parts[1] in layer for layer in LAYERS)
                yield parts[1] if known else "__init__", target


@pytest.mark.parametrize("path, name", modules(), ids=[name for _, name in modules()])
def test_imports_point_down(path, name):
    own = name.split(".")[0]
    for target, whole in imported(path, name):
        if target != own and (own, target) not in EXCEPTIONS:
            assert layer_of(target) < layer_of(own), f"{name} imports {whole}"


def test_every_module_has_a_layer():
    tops = {name.split(".")[0] for _, name in modules()}
    assert tops == set().union(*LAYERS)


@pytest.mark.parametrize("path", sorted((PACKAGE / "backends").rglob("*.py")), ids=lambda p: p.stem)
def test_backends_do_not_know_each_other(path):
    names = {"cython_cpu", "numba_cpu", "numba_cuda", "reference"}
    own = path.relative_to(PACKAGE / "backends").parts[0].removesuffix(".py")
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    used = {part for _, whole in imported(path, name) for part in whole.split(".")}
    assert not used & (names - {own})


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_an_import_brings_no_compiler_and_no_other_library():
    loaded = set(run("import sys, fastalign; print(*sys.modules)"))
    roots = {name.split(".")[0] for name in loaded}
    assert not roots & {"numba", "llvmlite", "Cython", "torch", "cupy", "jax", "typer", "click", "rich", "matplotlib"}
    assert not roots & {"setuptools", "pytest", "mpmath", "hypothesis", "ml_dtypes"}


def brought(code):
    """What ``code`` imports after NumPy."""
    return set(run(f"import sys, numpy\nbefore = set(sys.modules)\n{code}\nprint(*set(sys.modules) - before)"))


def test_an_import_brings_little():
    """numpy.random takes 14 ms, concurrent.futures with logging 9, the files of our own, with dataclasses, 6."""
    loaded = brought("import fastalign")
    assert not loaded & {"numpy.random", "concurrent.futures", "logging", "dataclasses"}
    assert not loaded & {f"fastalign.{name}" for name in ("fused", "linear", "pairs", "system")}


def test_what_is_imported_later_is_what_is_declared():
    (declared,) = [node for node in ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body
                   if isinstance(node, ast.If) and isinstance(node.test, ast.Name)]  # fmt: skip
    assert {x.module: tuple(name.name for name in x.names) for x in declared.body} == fastalign._LATER


@pytest.mark.parametrize("name", ["linear_log_probs", "linear"])
def test_what_is_imported_later_is_there_as_the_rest_is(name):
    code = f"import sys, fastalign\nassert '{name}' in dir(fastalign)\nassert 'fastalign.linear' not in sys.modules\n"
    code += f"print(fastalign.{name}.__name__, 'linear_log_probs' in vars(fastalign), hasattr(fastalign, 'nothing'))"
    assert run(code) == [{"linear": "fastalign.linear"}.get(name, name), "True", "False"]
    assert run(f"from fastalign import *\nprint({name.partition('_')[0]}_log_probs.__name__)") == ["linear_log_probs"]


def test_a_call_of_the_default_backend_brings_no_compiler():
    code = "import sys, numpy, fastalign; fastalign.gae([1.0], [0.5], [0]); print(*sys.modules)"
    loaded = run(code)
    assert not {name.split(".")[0] for name in loaded} & {"numba", "llvmlite", "Cython", "torch", "dataclasses"}
    assert len([name for name in loaded if name.startswith("fastalign._core_")]) <= 1  # of the extension's builds


def test_the_command_answers_without_a_compiler():
    code = "import sys\nfrom fastalign.__main__ import main\nsys.argv = ['fastalign', '--version']\n"
    code += "try:\n    main()\nexcept SystemExit:\n    print(*sys.modules)"
    roots = {name.split(".")[0] for name in run(code)}
    assert "typer" in roots and not roots & {"numba", "torch", "matplotlib"}


def test_files_are_small_enough_to_know():
    long = {name: n for path, name in modules() if (n := len(path.read_text(encoding="utf-8").splitlines())) > 360}
    assert not long


def test_all_that_is_called_of_the_extension_is_known():
    """What is not in CALLED would fail in the middle of a call where an older extension is left."""
    text = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py") if "numba" not in path.parts[-2])
    found = set(re.findall(r"\bcore(?:\(\))?\.(\w+)", text)) - {"__name__", "cache_clear"}
    assert {"Again", "row_parts"} < found
    assert found <= cython_cpu.CALLED


@pytest.mark.parametrize("missing", ["Again", "SPACED"])
def test_an_extension_of_older_sources_is_refused(monkeypatch, missing):
    usable("cython")
    isa = cython_cpu.isa()
    assert cython_cpu.load(isa).SPACED is cython_cpu.SPACED is True
    old = SimpleNamespace(**dict.fromkeys(cython_cpu.CALLED - {missing}), STAMP=STAMP)
    monkeypatch.setitem(sys.modules, f"fastalign._core_{isa}", old)
    with pytest.raises(ImportError, match=f"_core_{isa} was built from older sources, without {missing}; rebuild it: "):
        cython_cpu.load.__wrapped__(isa)
