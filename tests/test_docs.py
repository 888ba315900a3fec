"""Every example runs, every public name is documented and listed, links lead somewhere."""

import doctest
import importlib
import inspect
import pkgutil
import re
import typing

import pytest
from trees import ROOT

import fastalign

README = (ROOT / "README.md").read_text(encoding="utf-8")
MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(fastalign.__path__, "fastalign.")
    if not re.search(r"\._c(ore|pu)|__main__|numba_cuda|\.cli$", name)
]


@pytest.mark.parametrize("name", ["fastalign", *MODULES])
def test_doctests(name, threads):
    module = importlib.import_module(name)
    found = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert found.failed == 0


def test_readme_example():
    parser = doctest.DocTestParser()
    test = parser.get_doctest(README, {}, "README.md", "README.md", 0)
    assert len(test.examples) >= 8
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test).failed == 0


PUBLIC = [name for name in fastalign.__all__ if not name.startswith("__")]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented(name):
    value = getattr(fastalign, name)
    text = inspect.getdoc(value)
    assert text and text.splitlines()[0].rstrip().endswith((".", ";", ":")), "the first line is a sentence"
    if ">>>" in text:
        assert re.search(r">>> (from fastalign import .*|import fastalign$)", text, re.MULTILINE), "not to be copied"
    if inspect.isfunction(value):
        assert ">>>" in text, "no example"
        for parameter in inspect.signature(value).parameters.values():
            assert parameter.annotation is not inspect.Parameter.empty
        assert "return" in value.__annotations__


@pytest.mark.parametrize("name", PUBLIC)
def test_annotations_can_be_read(name):
    """Quoted ones too: what they name is there."""
    value = getattr(fastalign, name)
    assert typing.get_type_hints(value) or inspect.isclass(value)
    for function in [value, *vars(value).values()]:
        if inspect.isfunction(function):
            assert typing.get_type_hints(function).keys() == function.__annotations__.keys()
            assert inspect.signature(function, eval_str=True)


COMPUTING = [name for name in PUBLIC if "backend" in getattr(getattr(fastalign, name), "__annotations__", {})]


@pytest.mark.parametrize("name", sorted(set(COMPUTING) - {"warmup"}))
def test_what_computes_tells_its_formula_and_errors(name):
    text = inspect.getdoc(getattr(fastalign, name)).partition(">>>")[0]
    assert re.search(r"[Σ∂βπκσδγ]|log softmax", text), "no formula"
    assert re.search(r"Raises|errors (and|as)|[Ss]pecial values|as in ``", text), "nothing on errors"


@pytest.mark.parametrize("name", PUBLIC)
def test_the_readme_lists_every_name(name):
    assert f"`{name}" in README


def test_the_readme_names_both_commands_first():
    assert README.index("make demo") < README.index("## ") or "make demo" in README.split("## ")[1]
    assert "make test" in README


@pytest.mark.parametrize("path", ["README.md", "CONTRIBUTING.md", "bench/README.md", "CHANGELOG.md"])
def test_links_lead_somewhere(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((ROOT / path).parent / target).exists(), f"{path}: {target}"
