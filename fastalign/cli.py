"""fastalign demo | bench | info | verify."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from . import __version__

BENCH = Path(__file__).parent.parent / "bench"

commands = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Log-probabilities, advantages, preference and policy losses, with their gradients, from NumPy arrays.",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@commands.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def _refuse(line: str) -> typer.Exit:
    typer.echo(f"fastalign: {line}", err=True)
    return typer.Exit(2)


@commands.command()
def demo(
    data: Annotated[
        Path | None,
        typer.Option(
            help="JSON Lines of preference pairs, plain or gzip: prompt/chosen/rejected as text, or chosen/rejected as "
            "whole dialogues (Human: ... Assistant: ...).  Without it pairs with a known preference are generated.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers, 0 or more.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller models, fewer steps: a third of the time.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Draw the learning curves into this file, of the kind of its name: .png, .pdf, .svg and others.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Reward model, DPO and PPO on a small language model, compared; then kernels against NumPy (a minute or a few)."""
    from . import dispatch
    from .demo import DataError, run

    try:
        dispatch.choose(None)
    except RuntimeError as error:
        raise _refuse(f"FASTALIGN_BACKEND: {error}") from None
    try:
        code = run(data=data, seed=seed, quick=quick, plot=plot)
    except DataError as error:
        raise _refuse(str(error)) from None
    raise typer.Exit(code)


@commands.command()
def info(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with the same facts.")] = False,
) -> None:
    """Versions, processor, instruction set, backends and why not, threads."""
    from . import system

    facts = system.info()
    typer.echo(json.dumps(facts, indent=2) if as_json else "\n".join(system.as_lines(facts)))


@commands.command()
def verify(
    backend: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this backend (cython, numba, numpy, cuda), or one build of the extension (cython/avx2); may be "
            "given several times.  A name that cannot be used fails.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Every kernel on every usable backend against the float64 reference, on this machine (a minute or two)."""
    from . import verify as work
    from .progress import stage

    found = work.targets()
    chosen = [name for name in found if backend is None or name in backend or name.partition("/")[0] in backend]
    for name in backend or []:
        if not any(name in (target, target.partition("/")[0]) for target in found):
            raise _refuse(f"--backend {name}: expected one of {', '.join(found)}")
    missing = {name: found[name] for name in chosen if found[name] is not None}
    usable = [name for name in chosen if name not in missing]
    results = []
    with stage("verify", len(usable) * len(work.OPERATIONS)) as advance:
        for finding in work.verify(usable, advance):
            results.append(finding)
    table = Table("backend", "kernels", "cases", "result", box=None, pad_edge=False)
    for name in usable:
        mine = [f for f in results if f.backend == name]
        failed = sum(f.failure is not None for f in mine)
        verdict = f"{failed} kernels differ" if failed else "agree with the reference"
        table.add_row(name, str(len(mine)), str(sum(f.cases for f in mine)), verdict)
    for name, reason in missing.items():
        table.add_row(name, "-", "-", f"not usable: {reason}")
    Console(soft_wrap=True).print(table)
    failures = [f for f in results if f.failure is not None]
    for f in failures:
        typer.echo(f"{f.backend} {f.operation} {f.failure}", err=True)
    raise typer.Exit(1 if failures or (backend and missing) else 0)


@commands.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench(
    context: typer.Context,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer sizes and rounds, no peers: a minute or a few.")
    ] = False,
    output: Annotated[
        Path, typer.Option(help="Folder for the JSON, the report and the plots.", show_default=True)
    ] = Path("bench-results"),
) -> None:
    """In a clone: what is promised and every kernel, against NumPy, the machine and peers (a quarter of an hour).

    Peers are compared with where they are installed.  Other options go to pytest."""
    if not (BENCH / "run.py").is_file():
        raise _refuse("the benchmark suite is not installed with the package: run it in a clone, by `make bench`")
    command = [sys.executable, str(BENCH / "run.py"), "--output", str(output), *(["--quick"] if quick else [])]
    raise typer.Exit(subprocess.run([*command, *context.args], check=False).returncode)
