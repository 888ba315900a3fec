"""The formulas themselves: the language they are written in, their tables of extremes, their stamp."""

import ast
import importlib.util
import inspect
import itertools
import math
import re
import shutil
from pathlib import Path

import mpmath
import numpy as np
import pytest

from fastalign import binding
from fastalign.binding import FAMILIES, FOLDER, STAMP, Binding, family, stamp_of
from fastalign.rules import FILES

FLOATS = Binding(lambda f: f)
EXACT = Binding(lambda f: f, math=mpmath)
NAMES = [name for name in vars(FLOATS.rules)]
KINDS = [(prefix, kind) for prefix in FAMILIES for kind in family(prefix)]
SOURCES = Path(__file__).parent.parent / "src_ext"


def load_translate():
    spec = importlib.util.spec_from_file_location("translate", SOURCES / "translate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


translate = load_translate()

# ---- the language ----------------------------------------------------------------------------------------------------

# What CPython, Numba, CUDA and, translated, C understand alike; branches are ternaries, so that loops vectorise.
STATEMENTS = (ast.Assign, ast.Return, ast.Expr)
EXPRESSIONS = (
    ast.BinOp, ast.UnaryOp, ast.IfExp, ast.Compare, ast.Call, ast.Name, ast.Attribute, ast.Constant, ast.Tuple,
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.USub, ast.Lt, ast.Gt, ast.LtE, ast.GtE, ast.Eq, ast.NotEq,
    ast.Load, ast.Store,
)  # fmt: skip


def math_names():
    """The functions that the C side offers under the name ``math``."""
    return {*translate.MATH, *translate.LIBM}


def parsed():
    for file in FILES:
        for node in ast.parse((FOLDER / f"{file}.py").read_text(encoding="utf-8")).body:
            yield file, node


FUNCTIONS = [pytest.param(node, id=node.name) for _, node in parsed() if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("file", FILES)
def test_a_file_holds_functions_and_two_kinds_of_import(file):
    for node in (node for where, node in parsed() if where == file):
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant), "only the docstring stands alone"
        elif isinstance(node, ast.Import):
            assert [alias.name for alias in node.names] == ["math"]
        elif isinstance(node, ast.ImportFrom):
            assert (node.module, node.level) == ("elementary", 1)
        else:
            assert isinstance(node, ast.FunctionDef), ast.dump(node)


@pytest.mark.parametrize("node", FUNCTIONS)
def test_every_argument_is_a_float_without_default(node):
    a = node.args
    assert not (a.defaults or a.kw_defaults or a.posonlyargs or a.kwonlyargs or a.vararg or a.kwarg)
    assert {ast.unparse(arg.annotation) for arg in a.args} == {"float"}
    assert re.fullmatch(r"float|tuple\[float(, float)*\]", ast.unparse(node.returns))
    assert not node.decorator_list


@pytest.mark.parametrize("node", FUNCTIONS)
def test_a_body_is_assignments_and_one_return(node):
    assert isinstance(node.body[-1], ast.Return)
    for statement in node.body:
        assert isinstance(statement, STATEMENTS), f"line {statement.lineno}: {type(statement).__name__}"
        for part in ast.walk(statement):
            assert isinstance(part, (*STATEMENTS, *EXPRESSIONS)), f"line {statement.lineno}: {type(part).__name__}"
            if isinstance(part, ast.Compare):
                assert len(part.ops) == 1, "chained comparisons are branches in C"
    assert sum(isinstance(statement, ast.Return) for statement in node.body) == 1


@pytest.mark.parametrize("node", FUNCTIONS)
def test_every_number_is_a_float(node):
    # An integer would divide as one in C, and change a type in Numba.
    for statement in node.body:
        for part in ast.walk(statement):
            if isinstance(part, ast.Constant) and not isinstance(part.value, str):
                assert type(part.value) is float, f"line {part.lineno}: {part.value!r}"


@pytest.mark.parametrize("node", FUNCTIONS)
def test_only_other_rules_abs_and_what_vecmath_has_are_called(node):
    known = {*NAMES, "abs", *(["rule"] if node.name.startswith("frame_") else [])}
    for part in ast.walk(node):
        if not isinstance(part, ast.Call):
            continue
        assert not part.keywords
        if isinstance(part.func, ast.Attribute):
            assert ast.unparse(part.func.value) == "math"
            assert part.func.attr in math_names()
        else:
            assert part.func.id in known


@pytest.mark.parametrize("node", FUNCTIONS)
def test_a_name_is_assigned_once(node):
    # Numba would unify types, and Cython infer one, over all assignments.
    targets = [
        name.id
        for part in ast.walk(node)
        if isinstance(part, ast.Assign)
        for name in ast.walk(part.targets[0])
        if isinstance(name, ast.Name)
    ]
    assert len(targets) == len(set(targets))
    assert not set(targets) & {arg.arg for arg in node.args.args}


# ---- families --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", FAMILIES)
def test_a_frame_takes_and_returns_what_its_family_says(prefix):
    shape = FAMILIES[prefix]
    node = next(node for _, node in parsed() if getattr(node, "name", "") == f"frame_{prefix}")
    assert tuple(arg.arg for arg in node.args.args) == shape.inputs + shape.params
    assert len(node.returns.slice.elts) == len(shape.outputs) + shape.tallies
    assert shape.params[-1] == "weight"
    assert shape.bound in ("", *shape.params)


@pytest.mark.parametrize("prefix", [*FAMILIES, "scan"])
def test_the_rules_of_a_family_share_a_signature(prefix):
    assert family(prefix)
    signatures = {kind: inspect.signature(getattr(FLOATS.rules, f"{prefix}_{kind}")) for kind in family(prefix)}
    assert len(set(signatures.values())) == 1, signatures


def test_every_rule_is_documented_and_registered():
    prefixes = (*FAMILIES, "scan", "row")
    for file, node in parsed():
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("frame_"):
            assert ast.get_docstring(node), node.name
            assert file == "elementary" or node.name.split("_")[0] in prefixes, node.name


def test_a_family_fits_into_the_tiles_of_the_extension():
    limits = dict(re.findall(r"#define FA_(\w+) (\d+)", (SOURCES / "pointwise.h").read_text(encoding="utf-8")))
    for shape in FAMILIES.values():
        assert len(shape.inputs) <= int(limits["INPUTS"])
        assert len(shape.params) <= int(limits["PARAMS"])
        assert len(shape.outputs) + shape.tallies <= int(limits["RESULTS"])


# ---- exponentials ahead: cut.py --------------------------------------------------------------------------------------


def cut_of(prefix, kind, rule=None):
    nodes = {node.name: node for _, node in parsed() if isinstance(node, ast.FunctionDef)}
    plain = {name: node for name, node in nodes.items() if not name.startswith("frame_")}
    return translate.cut.cut(nodes[f"frame_{prefix}"], rule or plain[f"{prefix}_{kind}"], plain, FAMILIES[prefix].bound)


def callables(found):
    space = {**vars(FLOATS.rules), "math": math, "exp_near": math.exp, "growth_near": lambda x: math.expm1(x) - x}
    for node in (*found.first, found.rest):
        exec(compile(ast.fix_missing_locations(ast.Module([node], [])), node.name, "exec"), space)
    return [space[node.name] for node in found.first], space["rest"]


@pytest.mark.parametrize("prefix, kind", KINDS)
def test_an_element_in_two_is_the_same_element(prefix, kind):
    found = cut_of(prefix, kind)
    if found is None:
        lines = inspect.getsource(binding._functions()[f"{prefix}_{kind}"])
        assert not re.search(r"\b(exp\w*|growth_within|sigmoid|softplus)\(", lines)
        return
    first, rest = callables(found)
    frame, shape = FLOATS.element(prefix, kind), FAMILIES[prefix]
    rng = np.random.default_rng(0)
    for options in OPTIONS[prefix]:
        for x in (*rng.standard_normal((50, len(shape.inputs))), *itertools.product(ENDS[:11], repeat=2)):
            x = (*map(float, np.resize(x, len(shape.inputs))), *options, 0.25)
            assert rest(*x, *(part(*x) for part in first)) == frame(*x), x


@pytest.mark.parametrize("prefix, kind", KINDS)
def test_halves_of_a_binding_are_its_element(prefix, kind):
    found, names = FLOATS.halves(prefix, kind), len(FAMILIES[prefix].inputs)
    assert (found is None) == (cut_of(prefix, kind) is None)
    if found is None:
        return
    first, rest, count = found
    for x in np.random.default_rng(1).standard_normal((50, names)):
        x = (*map(float, x), *OPTIONS[prefix][0], 0.25)
        exponentials = first(*x)
        assert len(exponentials) == count
        assert rest(*x, *exponentials) == FLOATS.element(prefix, kind)(*x), x


def test_which_exponentials_are_computed_ahead():
    kinds = [("policy", "ppo"), ("pair", "sigmoid"), ("reward", "bradley_terry"), ("kl", "k3")]
    assert [len(cut_of(*kind).first) for kind in kinds] == [2, 1, 1, 1]
    assert [cut_of(*kind).bounded for kind in kinds] == [True, False, False, False]


@pytest.mark.parametrize("prefix, kind", KINDS)
def test_what_is_within_is_so_by_the_bound_of_its_family(prefix, kind):
    """The second argument of exp_within and growth_within; backends look at no other."""
    nodes = [node for _, node in parsed() if getattr(node, "name", "") in (f"frame_{prefix}", f"{prefix}_{kind}")]
    for part in (part for node in nodes for part in ast.walk(node) if isinstance(part, ast.Call)):
        if ast.unparse(part.func) in translate.cut.NEAR:
            assert ast.unparse(part.args[1]) == FAMILIES[prefix].bound


def test_exponentials_of_different_arguments_are_different_ones():
    rule = ast.parse("""def kl_other(log_prob, ref_log_prob):
        x = log_prob - ref_log_prob
        log_prob_1_ = math.exp(x)
        within = exp_within(x, x)
        return math.exp(log_prob - ref_log_prob) + log_prob_1_ + sigmoid(log_prob), within * math.exp(-x)""").body[0]
    found = cut_of("kl", "other", rule)
    assert [ast.unparse(part.body[0].value) for part in found.first] == [
        "math.exp(log_prob - ref_log_prob)",
        "exp_within(log_prob - ref_log_prob, log_prob - ref_log_prob)",  # not bounded by the family's bound
        "exp_of_minus(log_prob)",
        "math.exp(-(log_prob - ref_log_prob))",
    ]
    assert not found.bounded
    first, rest = callables(found)
    x = (0.3, 0.7, 1.0)
    value, slope, _ = rest(*x, *(part(*x) for part in first))
    ratio = math.exp(-0.4)
    assert value == pytest.approx(2 * ratio + 1 / (1 + math.exp(-0.3)))
    assert slope == pytest.approx(1.0)


# ---- stamp -----------------------------------------------------------------------------------------------------------


def test_the_stamp_is_of_what_is_on_disk():
    assert STAMP == stamp_of(FOLDER)
    assert re.fullmatch("[0-9a-f]{8}", STAMP)


@pytest.mark.parametrize("file", ["__init__", *FILES])
def test_every_file_is_in_the_stamp(tmp_path, file):
    copy = tmp_path / "rules"
    shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns("__pycache__"))
    assert stamp_of(copy) == STAMP
    (copy / f"{file}.py").write_bytes((copy / f"{file}.py").read_bytes() + b" ")
    assert stamp_of(copy) != STAMP


def test_no_file_of_rules_is_left_out():
    assert {path.stem for path in FOLDER.glob("*.py")} == {"__init__", *FILES}


def test_a_name_in_two_files_is_refused(monkeypatch):
    monkeypatch.setattr(binding, "FILES", (*FILES, FILES[0]))
    binding._functions.cache_clear()
    try:
        with pytest.raises(ImportError, match="is defined in two files"):
            binding._functions()
    finally:
        binding._functions.cache_clear()


# ---- extremes --------------------------------------------------------------------------------------------------------

INF, NAN = math.inf, math.nan
# Fifty digits from mpmath by the definitions, not by the rules: log(1 + exp(x)), 1/(1 + exp(-x)), exp(d) - 1 - d, …
EXTREMES = [
    ("softplus", (0.0,), "0.69314718055994530941723212145817656807550013436026"),
    ("softplus", (1e-20,), "0.69314718055994530942223212145817656807551263436026"),
    ("softplus", (-37.0,), "8.5330476257440657427e-17"),
    ("softplus", (-745.0,), "4.9821995862449105e-324"),
    ("softplus", (-1e308,), "0"),
    ("softplus", (1e308,), "1e308"),
    ("softplus", (INF,), "inf"),
    ("softplus", (-INF,), "0"),
    ("softplus", (NAN,), "nan"),
    ("sigmoid", (0.0,), "0.5"),
    ("sigmoid", (-37.0,), "8.5330476257440653787e-17"),
    ("sigmoid", (-700.0,), "9.8596765437597708567e-305"),
    ("sigmoid", (-1e308,), "0"),
    ("sigmoid", (1e308,), "1"),
    ("sigmoid", (INF,), "1"),
    ("sigmoid", (-INF,), "0"),
    ("sigmoid", (NAN,), "nan"),
    ("clamp", (3.0, -1.0, 1.0), "1"),
    ("clamp", (-INF, -1.0, 1.0), "-1"),
    ("clamp", (NAN, -1.0, 1.0), "nan"),
    ("row_entropy", (1.0, 0.0), "0"),
    ("row_entropy", (131072.0, 0.0), "11.783502069519070260093"),
    ("row_entropy", (1.0, -5e-324), "4.9406564584124654e-324"),
]


@pytest.mark.parametrize("name, arguments, want", EXTREMES)
def test_extremes(name, arguments, want):
    got = getattr(FLOATS.rules, name)(*arguments)
    np.testing.assert_allclose(got, float(want), rtol=4 * np.finfo(float).eps, atol=0)


ENDS = (0.0, -0.0, 5e-324, 1e-300, 1e-8, -1e-8, 1.0, -1.0, 0.3, -30.0, 30.0, -700.0, 700.0, -1e5, 1e5)
OPTIONS = {
    "pair": [(0.1, 0.0), (0.5, 0.2)],
    "reward": [(0.0,), (0.01,)],
    "policy": [(0.2, 0.28, 20.0), (0.2, 0.2, INF)],
    "kl": [()],
}


def arguments_of(prefix, kind):
    """Extremes in every argument that is not an option."""
    count = len(inspect.signature(getattr(FLOATS.rules, f"{prefix}_{kind}")).parameters)
    for options in OPTIONS[prefix]:
        for x in itertools.product(ENDS, repeat=count - len(options)):
            yield (*x, *options)


@pytest.mark.parametrize("prefix, kind", KINDS)
def test_a_formula_keeps_its_digits(prefix, kind):
    """The same lines in double and in fifty digits: at the extremes nothing overflows early, cancels or becomes NaN."""
    rule, exact = (getattr(side.rules, f"{prefix}_{kind}") for side in (FLOATS, EXACT))
    with mpmath.workdps(50):
        for x in arguments_of(prefix, kind):
            try:
                got = rule(*x)
            except OverflowError:  # CPython raises where every compiler gives infinity
                continue
            # A rounding of the arguments' sums is not the formula's fault.
            slack = 8 * np.finfo(float).eps * max(1.0, *(abs(v) for v in x))
            for g, w in zip(got, exact(*map(mpmath.mpf, x)), strict=True):
                w = float(w)
                assert abs(g - w) <= max(slack * max(1.0, abs(w)), 5e-324) or g == w, (x, g, w)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("scan_")])
def test_a_recurrence_is_affine_in_its_carry(name):
    """By one factor wherever the trace goes on, and the end of an episode is as good as zeros: src_ext/scan_line.h."""
    rule = getattr(FLOATS.rules, name)
    rng = np.random.default_rng(0)
    for reward, value, after, carry in rng.standard_normal((50, 4)):
        for gamma, lam in ((0.99, 0.95), (1.0, 1.0), (0.9, 0.0), (0.0, 0.5)):
            factor = rule(0.0, 0.0, 0.0, 1.0, 1.0, 1.0, gamma, lam)
            alone = rule(reward, value, after, 0.0, 1.0, 1.0, gamma, lam)
            whole = rule(reward, value, after, carry, 1.0, 1.0, gamma, lam)
            assert whole == pytest.approx(alone + factor * carry, rel=1e-14, abs=1e-14)
            ended = rule(reward, value, after, carry, 0.0, 0.0, gamma, lam)
            assert ended == rule(reward, value, 0.0, 0.0, 1.0, 1.0, gamma, lam)
