"""Specialise plain functions: the rules for a compiler, a frame or a loop for a rule.

    exact = Binding(lambda f: f, math=mpmath)          the shipped formulas, in fifty digits
    exact.rules.pair_sigmoid(h_w, h_l, beta, eps)      one formula
    exact.element("pair", "sigmoid")                   the family's frame around it: the step over one element
    exact.drive(loop, "pair_sigmoid", njit, rule=...)  a loop whose free names mean compiled functions

A rule finds the rules it calls in its globals, so it is the namespace that is rebuilt.

So a loop of your own calls them, too:

    >>> from numba import njit
    >>> from fastalign.binding import Binding
    >>> ppo = Binding(njit).rules.policy_ppo
    >>> @njit
    ... def dual_clip(log_prob, old_log_prob, advantage, most):  # arXiv:1912.09729
    ...     value, slope = ppo(log_prob, old_log_prob, advantage, 0.2, 0.2, 20.0)
    ...     bound = -most * advantage
    ...     return (bound, 0.0) if advantage < 0.0 and value > bound else (value, slope)
    >>> dual_clip(-1.0, -3.0, -1.0, 3.0)
    (3.0, 0.0)
"""

import ast
import zlib
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

from .rules import FAMILIES, FILES, Family

__all__ = ["FAMILIES", "STAMP", "Binding", "Family", "clone", "family", "stamp_of"]

FOLDER = Path(__file__).parent / "rules"


def stamp_of(folder: Path) -> str:
    """Checksum of the formulas: an extension built from others is refused, a kernel cached from others recompiled."""
    crc = 0
    for name in ("__init__", *FILES):
        crc = zlib.crc32((folder / f"{name}.py").read_bytes(), crc)
    return f"{crc:08x}"


STAMP = stamp_of(FOLDER)


@cache
def _functions() -> dict[str, FunctionType]:
    found = {}
    for file in FILES:
        module = import_module(f"{__package__}.rules.{file}")
        for name, value in vars(module).items():
            if isinstance(value, FunctionType) and value.__module__ == module.__name__:
                if name in found:
                    raise ImportError(f"the rule {name} is defined in two files")
                found[name] = value
    return found


@cache
def _written() -> dict[str, ast.FunctionDef]:
    texts = [(FOLDER / f"{file}.py").read_text(encoding="utf-8") for file in FILES]
    nodes = [node for text in texts for node in ast.parse(text).body]
    return {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}


@cache
def _halves(family: str, kind: str) -> tuple[FunctionType, FunctionType, int] | None:
    from .cut import cut  # which the extension's first call need not wait for

    plain = {name: node for name, node in _written().items() if not name.startswith("frame_")}
    found = cut(_written()[f"frame_{family}"], plain[f"{family}_{kind}"], plain, "")
    if found is None:
        return None
    names = ", ".join(argument.arg for argument in found.rest.args.args[: -len(found.first)])
    values = [ast.unparse(part.body[-1]).removeprefix("return ") for part in found.first]
    space: dict[str, Any] = {"__name__": __name__}
    exec(f"def first({names}):\n    return {', '.join(values)},\n{ast.unparse(found.rest)}", space)
    return space["first"], space["rest"], len(values)


@cache
def family(prefix: str) -> tuple[str, ...]:
    """The kinds of a family: ``family("kl")`` is ``("k1", "k2", "k3", "p_log_ratio")``."""
    return tuple(name.removeprefix(f"{prefix}_") for name in _functions() if name.startswith(f"{prefix}_"))


class Binding:
    """The rules compiled by ``compile``, with ``world`` in place of their globals, and of rules, of those names.

    ``real`` is what their constants become: with numpy.float32, and with such arguments, they compute in float32.
    ``mark`` ends the names of what is compiled, which a cache on disk knows them by.
    """

    def __init__(
        self, compile: Callable[[Any], Any], real: Callable[[float], Any] = float, mark: str = "", **world: Any
    ) -> None:
        self.compile, self.real, self.mark, self.world = compile, real, mark, world
        self._space: dict[str, Any] = {}
        plain = {name: f for name, f in _functions().items() if not name.startswith("frame_")}
        for f in plain.values():
            self._space.update({k: v for k, v in f.__globals__.items() if k not in plain and not k.startswith("__")})
        self._space.update(world)
        for name, f in plain.items():
            self._space[name] = world[name] if name in world else compile(clone(f, self._space, name, real))
        self.rules = SimpleNamespace(**{name: self._space[name] for name in plain})

    def element(self, family: str, kind: str) -> Any:
        """The step of ``family`` over one element, for the rule ``kind``."""
        frame = _functions()[f"frame_{family}"]
        space = {**self._space, "rule": self._space[f"{family}_{kind}"]}
        return self.compile(clone(frame, space, f"frame_{family}_{kind}", self.real))

    def halves(self, family: str, kind: str) -> tuple[Any, Any, int] | None:
        """That step in two: its exponentials, as a tuple, of the frame's arguments; and what is left, of the arguments
        and the exponentials.  And how many these are; None if there are none."""
        found = _halves(family, kind)
        if found is None:
            return None
        first, rest = (clone(f, self._space, f"{f.__name__}_{family}_{kind}", self.real) for f in found[:2])
        return self.compile(first), self.compile(rest), found[2]

    def drive(self, loop: Any, name: str, compile: Callable[..., Any], **free: Any) -> Any:
        """``loop`` compiled, with its free names meaning what ``free`` says; ``name`` tells its versions apart."""
        own = clone(loop, {**loop.__globals__, **free}, f"{loop.__name__}_{name}{self.mark}")
        return compile(own)


def clone(function: Any, space: dict[str, Any], name: str, real: Callable[[float], Any] = float) -> FunctionType:
    """``function`` with ``space`` as its globals, and its constants made ``real``."""

    def made(x: Any) -> Any:
        return tuple(map(made, x)) if isinstance(x, tuple) else real(x) if type(x) is float else x

    # Numba keys its disk cache by qualified name and line, not by the callees: without the stamp an edited rule
    # would be served stale, and two rules would share one entry.
    code = function.__code__.replace(co_consts=made(function.__code__.co_consts))
    copy = FunctionType(code, space, name, function.__defaults__, function.__closure__)
    copy.__qualname__, copy.__module__ = f"{name}_{STAMP}", function.__module__
    return copy
