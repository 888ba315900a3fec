"""The element of a pointwise loop, cut in two: its exponentials, and what is left.

A loop waits for the chain of its operations, which of one vector is longer than what a processor looks ahead.  Cut,
it is two: the extension computes the exponentials of the next lanes beside what is left of these (src_ext/rules.h),
Numba those of a tile in a loop of their own (elements.py).
"""

import ast
import copy
from dataclasses import dataclass, field

EXPONENTIALS = ("exp", "expm1", "exp_of_minus", "exp_within", "growth_within")
NEAR = {"exp_within": "exp_near", "growth_within": "growth_near"}  # where their second argument is small enough
Functions = dict[str, ast.FunctionDef]


@dataclass
class Cut:
    first: list[ast.FunctionDef]  # one exponential each, of the frame's arguments
    rest: ast.FunctionDef  # of the frame's arguments and the exponentials, in this order
    bounded: bool  # whether the family's bound must be small enough for the first


def cut(frame: ast.FunctionDef, rule: ast.FunctionDef, functions: Functions, bound: str) -> Cut | None:
    """``bound``: the family's, or nothing, to leave calls as they are.  None if there is no exponential."""
    flat = Flat({**functions, "rule": rule})
    results = flat.write_out(frame)
    found = Exponentials(flat.lines)
    lines = {name: found.visit(value) for name, value in flat.lines.items()}
    results = [found.visit(value) for value in results]
    if not found.calls:
        return None
    names = [f"cut{k}" for k in range(len(found.calls))]
    parameters = [argument.arg for argument in frame.args.args]
    near = [called(call) in NEAR and ast.unparse(call.args[1]) == bound for call in found.calls.values()]
    calls = [
        ast.Call(ast.Name(NEAR[called(call)]), call.args[:1], []) if is_near else call
        for call, is_near in zip(found.calls.values(), near, strict=True)
    ]
    first = [function(name, parameters, {}, [call]) for name, call in zip(names, calls, strict=True)]
    return Cut(first, function("rest", [*parameters, *names], needed(lines, results), results), any(near))


def called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)


@dataclass
class Flat(ast.NodeTransformer):
    """Functions as assignments and results: calls of the rule, and of what holds exponentials, are written out."""

    functions: Functions
    lines: dict[str, ast.expr] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # what the function being written out calls what
    count: int = 0

    def write_out(self, written: ast.FunctionDef, arguments: list[ast.expr] | None = None) -> list[ast.expr]:
        """Its results; the first one's arguments and names stay its own."""
        outer, suffix = self.names, f"_{self.count}_" if self.count else ""
        self.names, self.count = {}, self.count + 1
        for parameter, value in zip(written.args.args, arguments or [], strict=bool(suffix)):
            self.assign(parameter.arg, suffix, value)
        results: list[ast.expr] = []
        for statement in copy.deepcopy(written.body):
            if isinstance(statement, ast.Assign):
                target = statement.targets[0]
                targets = target.elts if isinstance(target, ast.Tuple) else [target]
                for name, value in zip(targets, self.values(statement.value), strict=True):
                    self.assign(ast.unparse(name), suffix, value)
            elif isinstance(statement, ast.Return) and statement.value:
                results = self.values(statement.value)
        self.names = outer
        return results

    def assign(self, name: str, suffix: str, value: ast.expr) -> None:
        if suffix and isinstance(value, ast.Name):
            self.names[name] = value.id
            return
        self.names[name] = name + suffix
        self.lines[name + suffix] = value

    def values(self, node: ast.expr) -> list[ast.expr]:
        if isinstance(node, ast.Tuple):
            return [self.visit(value) for value in node.elts]
        if isinstance(node, ast.Call) and called(node) == "rule":
            return self.write_out(self.functions["rule"], [self.visit(argument) for argument in node.args])
        return [self.visit(node)]

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self.names.get(node.id, node.id))

    def visit_Call(self, node: ast.Call) -> ast.expr:
        arguments = [self.visit(argument) for argument in node.args]
        if self.holds(node):
            return self.write_out(self.functions[called(node)], arguments)[0]
        return ast.Call(node.func, arguments, [])

    def holds(self, node: ast.Call) -> bool:
        """Whether what is called holds exponentials, and is none."""
        written = self.functions.get(called(node))
        if called(node) in EXPONENTIALS or written is None:
            return False
        calls = [part for part in ast.walk(written) if isinstance(part, ast.Call)]
        return any(called(part) in EXPONENTIALS or self.holds(part) for part in calls)


@dataclass
class Exponentials(ast.NodeTransformer):
    """Names in their places; those of equal arguments, once written out, are one."""

    lines: dict[str, ast.expr]
    calls: dict[str, ast.Call] = field(default_factory=dict)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if called(node) not in EXPONENTIALS:
            self.generic_visit(node)
            return node
        whole = Expanded(self.lines).visit(copy.deepcopy(node))
        self.calls.setdefault(ast.unparse(whole), whole)
        return ast.Name(f"cut{list(self.calls).index(ast.unparse(whole))}")


@dataclass
class Expanded(ast.NodeTransformer):
    """An expression of arguments alone."""

    lines: dict[str, ast.expr]

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.visit(copy.deepcopy(self.lines[node.id])) if node.id in self.lines else node


def needed(lines: dict[str, ast.expr], results: list[ast.expr]) -> dict[str, ast.expr]:
    names = {part.id for value in results for part in ast.walk(value) if isinstance(part, ast.Name)}
    kept: dict[str, ast.expr] = {}
    for name, value in reversed(lines.items()):
        if name in names:
            kept[name] = value
            names |= {part.id for part in ast.walk(value) if isinstance(part, ast.Name)}
    return dict(reversed(kept.items()))


def function(name: str, parameters: list[str], lines: dict[str, ast.expr], results: list[ast.expr]) -> ast.FunctionDef:
    returned = ", ".join(["float"] * len(results))
    text = [f"def {name}({', '.join(parameters)}) -> {returned if len(results) == 1 else f'tuple[{returned}]'}:"]
    text += [f"    {line} = {ast.unparse(value)}" for line, value in lines.items()]
    text.append(f"    return {', '.join(map(ast.unparse, results))}")
    made = ast.parse("\n".join(text)).body[0]
    assert isinstance(made, ast.FunctionDef)
    return made
