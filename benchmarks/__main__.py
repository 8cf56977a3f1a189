"""Run one of the benchmarks. Each command is one file in ``benchmarks/``."""

import os
import shlex
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import jax
import typer

from benchmarks import algorithms as algorithms_
from benchmarks import fit as fit_
from benchmarks import gpu_program as gpu_program_
from benchmarks import learning as learning_
from benchmarks import levers as levers_
from benchmarks import lyapunov as lyapunov_
from benchmarks import methods as methods_
from benchmarks import models as models_
from benchmarks import peers as peers_
from benchmarks import profiles as profiles_
from benchmarks import scaling as scaling_
from benchmarks.applications import APPLICATIONS, runner, table
from benchmarks.gpu_compiler import Unavailable, prepare
from benchmarks.results import Group, beside_other_versions, save
from benchmarks.timing import Mismatch
from seqjax.files import check_can_write, put_text, why

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)


class What(StrEnum):
    """The program of a layer that is measured."""

    gradient = "gradient"
    train = "train"
    both = "both"


class CellName(StrEnum):
    """The cell whose layer is measured."""

    lstm = "lstm"
    gru = "gru"
    both = "both"


ModelName = StrEnum("ModelName", {name: name for name in models_.MODELS})
GroupName = StrEnum("GroupName", {name: name for name in methods_.GROUPS})
GROUPS = list(GroupName)
SHAPES = [",".join(map(str, shape)) for shape in peers_.SHAPES]
PROFILE_SHAPES = [",".join(map(str, shape)) for shape in profiles_.SHAPES]
LENGTHS = list(methods_.LENGTHS)
ALGORITHMS = list(algorithms_.LENGTHS)
SCALING = list(scaling_.LENGTHS)
ShapeOption = Annotated[list[str], typer.Option("--shape", help="B,T,D,H; may be given several times.")]
Rounds = Annotated[
    int, typer.Option(min=2, help="Interleaved rounds that are measured; 15 or more for an interval.")
]
Out = Annotated[Path, typer.Option(help="Folder for the results.", file_okay=False)]


@app.command()
def peers(
    ctx: typer.Context,
    shape: ShapeOption = SHAPES,
    cell: Annotated[CellName, typer.Option(help="The cell of the layer.")] = CellName.both,
    what: Annotated[What, typer.Option(help="Value and gradient, a step of training, or both.")] = What.both,
    rounds: Rounds = 15,
    out: Out = Path("benchmarks/results"),
) -> None:
    """Compare LSTM and GRU layers with those of Flax, Haiku, Equinox and PyTorch (about ten minutes)."""
    cells = [c.value for c in CellName if c is not CellName.both and cell in (c, CellName.both)]
    whats = [w.value for w in What if w is not What.both and what in (w, What.both)]
    shapes = [_shape(text) for text in shape]
    _finish(
        ctx, "peers", peers_.TITLE, peers_.ABOUT, lambda: peers_.run(cells, shapes, whats, rounds, _say), out
    )


@app.command()
def models(
    ctx: typer.Context,
    model: Annotated[list[ModelName], typer.Option(help="Models to measure.")] = list(ModelName),  # noqa: B006
    batch_size: Annotated[int, typer.Option(min=1, help="B.")] = models_.SIZES[0],
    length: Annotated[int, typer.Option(min=1, help="T.")] = models_.SIZES[1],
    hidden_size: Annotated[int, typer.Option(min=8, help="The width, a multiple of eight.")] = models_.SIZES[
        2
    ],
    rounds: Rounds = 15,
    out: Out = Path("benchmarks/results"),
) -> None:
    """Compare a training step of whole models with Flax and PyTorch: tokens per second, memory and compile time."""
    if hidden_size % 8:
        raise typer.BadParameter(f"expected a width that is a multiple of eight, got {hidden_size}.")
    names, sizes = [m.value for m in model], (batch_size, length, hidden_size)
    _finish(ctx, "models", models_.TITLE, models_.ABOUT, lambda: models_.run(names, sizes, rounds, _say), out)


@app.command()
def methods(
    ctx: typer.Context,
    shape: ShapeOption = SHAPES,
    length: Annotated[list[int], typer.Option(min=1, help="T of the scans.")] = LENGTHS,
    group: Annotated[
        list[GroupName], typer.Option(help="Groups to measure; some of them go into a separate file.")
    ] = GROUPS,
    rounds: Rounds = 15,
    out: Out = Path("benchmarks/results"),
) -> None:
    """Compare the methods of seqjax: chunks of time, scans of diagonal recurrences, memories in chunks."""
    shapes = [_shape(text) for text in shape]
    _finish(
        ctx,
        "methods" if group == GROUPS else "_".join(["methods", *(g.value for g in group)]),
        methods_.TITLE,
        methods_.ABOUT,
        lambda: methods_.run([g.value for g in group], shapes, length, rounds, _say),
        out,
    )


@app.command()
def levers(
    ctx: typer.Context,
    shape: ShapeOption = SHAPES,
    cell: Annotated[CellName, typer.Option(help="The cell of the layer.")] = CellName.both,
    rounds: Rounds = 15,
    out: Out = Path("benchmarks/results"),
) -> None:
    """Compare ways to run LSTM and GRU layers on a CPU: chunks, axes of products, a device per core."""
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    cells = [c.value for c in CellName if c is not CellName.both and cell in (c, CellName.both)]
    shapes = [_shape(text) for text in shape]
    _finish(
        ctx,
        "levers",
        levers_.TITLE,
        levers_.ABOUT,
        lambda: levers_.run(cells, shapes, rounds, _say),
        out,
    )


@app.command()
def profiles(
    ctx: typer.Context,
    shape: ShapeOption = PROFILE_SHAPES,
    rounds: Rounds = 15,
    out: Out = Path("benchmarks/results"),
) -> None:
    """Compare gradient profiles with a plain backward pass."""
    shapes = [_shape(text) for text in shape]
    _finish(
        ctx,
        "profiles",
        profiles_.TITLE,
        profiles_.ABOUT,
        lambda: profiles_.run(shapes, rounds, _say),
        out,
    )


@app.command()
def algorithms(
    ctx: typer.Context,
    length: Annotated[list[int], typer.Option(min=8, help="T.")] = ALGORITHMS,
    batch_size: Annotated[int, typer.Option(min=1, help="B.")] = 4,
    input_size: Annotated[int, typer.Option(min=1, help="D.")] = 16,
    hidden_size: Annotated[
        int, typer.Option(min=2, help="H; the memory of dense RTRL grows with its cube.")
    ] = 16,
    rounds: Rounds = 15,
    out: Out = Path("benchmarks/results"),
) -> None:
    """Measure cosine and error of gradient algorithms against the exact gradient, memory and time, by length."""
    _finish(
        ctx,
        "algorithms",
        algorithms_.TITLE,
        algorithms_.ABOUT,
        lambda: algorithms_.run(length, (batch_size, input_size, hidden_size), rounds, _say),
        out,
    )


@app.command()
def scaling(
    ctx: typer.Context,
    length: Annotated[list[int], typer.Option(min=1, help="T; at least two different ones.")] = SCALING,
    batch_size: Annotated[int, typer.Option(min=1, help="B.")] = 8,
    hidden_size: Annotated[int, typer.Option(min=4, help="H and D, a multiple of four.")] = 64,
    cell: Annotated[
        list[str], typer.Option(help=f"Of {', '.join(scaling_.CELLS)}; by default all but {scaling_.LONG}.")
    ] = [],  # noqa: B006
    rounds: Rounds = 15,
    out: Out = Path("benchmarks/results"),
) -> None:
    """Measure bytes, operations and seconds of gradients by length and method, with slopes and crossovers."""
    if len(set(length)) < 2:
        raise typer.BadParameter(f"expected at least two different lengths, got {length}.")
    if hidden_size % 4:
        raise typer.BadParameter(f"expected a hidden size that is a multiple of four, got {hidden_size}.")
    if not set(cell) <= set(scaling_.CELLS):
        raise typer.BadParameter(f"expected cells of {', '.join(scaling_.CELLS)}, got {', '.join(cell)}.")
    _finish(
        ctx,
        "_".join(["scaling", *cell]),
        scaling_.TITLE,
        scaling_.ABOUT,
        lambda: scaling_.run(length, (batch_size, hidden_size), rounds, _say, cell),
        out,
    )


@app.command()
def lyapunov(
    ctx: typer.Context,
    length: Annotated[list[int], typer.Option(min=1, help="T.")] = list(lyapunov_.LENGTHS),  # noqa: B006
    hidden_size: Annotated[int, typer.Option(min=1, help="H.")] = lyapunov_.SIZE[0],
    exponents: Annotated[int, typer.Option(min=1, help="k, at most H.")] = lyapunov_.SIZE[1],
    rounds: Rounds = 15,
    out: Out = Path("benchmarks/results"),
) -> None:
    """Measure Lyapunov spectra of long sequences, by the interval between QR decompositions."""
    if exponents > hidden_size:
        raise typer.BadParameter(
            f"expected at most {hidden_size} exponents, the hidden size, got {exponents}."
        )
    _finish(
        ctx,
        "lyapunov",
        lyapunov_.TITLE,
        lyapunov_.ABOUT,
        lambda: lyapunov_.run((hidden_size, exponents), length, rounds, _say),
        out,
    )


@app.command()
def learning(
    ctx: typer.Context,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each model and task.")] = 5,
    length: Annotated[int, typer.Option(min=20, help="T of adding and copying.")] = 200,
    scale: Annotated[float, typer.Option(min=0, help="Factor of the budgets of steps.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of initial params and batches.")] = 0,
    only: Annotated[str, typer.Option(help="A part of the names of tasks and models to run.")] = "",
    name: Annotated[str, typer.Option(help="Name of the files.")] = "learning",
    out: Out = Path("benchmarks/results"),
) -> None:
    """Train models on tasks that need a long memory, with fixed budgets of steps."""
    _finish(
        ctx,
        name,
        learning_.TITLE,
        learning_.ABOUT,
        lambda: learning_.run(seeds, seed, length, scale, only, _say),
        out,
    )


@app.command()
def fit(
    ctx: typer.Context,
    step: Annotated[list[str], typer.Option(help=f"Duration of a step: {', '.join(fit_.SIZES)}.")] = list(  # noqa: B006
        fit_.SIZES
    ),
    steps: Annotated[int, typer.Option(min=1, help="Training steps per sample.")] = fit_.STEPS,
    rounds: Rounds = 15,
    out: Out = Path("benchmarks/results"),
) -> None:
    """Compare `fit` with a bare loop over the same training step."""
    if not set(step) <= set(fit_.SIZES):
        raise typer.BadParameter(f"expected steps of {' or '.join(fit_.SIZES)}, got {', '.join(step)}.")
    _finish(ctx, "fit", fit_.TITLE, fit_.ABOUT, lambda: fit_.run(step, steps, rounds, _say), out)


@app.command()
def applications(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME...]", help=f"Of {', '.join(APPLICATIONS)}; by default all."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each variant.")] = 3,
    toy: Annotated[
        bool, typer.Option(help="Small runs, whose results are in a folder of their own.")
    ] = False,
    variant: Annotated[
        list[str] | None, typer.Option(help="Train these variants only, without baselines.")
    ] = None,
    out: Out = runner.RESULTS,
) -> None:
    """Train the models of the applications on real data, and run their baselines; continues after an interruption."""
    chosen = names or list(APPLICATIONS)
    if not set(chosen) <= set(APPLICATIONS):
        raise typer.BadParameter(f"expected names of {', '.join(APPLICATIONS)}, got {', '.join(chosen)}.")
    _check(out)
    command = ["python", "-m", "benchmarks", "applications", *(names or []), "--seeds", str(seeds)]
    try:
        failures = runner.run(
            chosen, seeds=seeds, toy=toy, variants=variant or [], command=command, out=out, say=_say
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if out == runner.RESULTS and not toy:
        put_text(table.PAGE, table.page())
        typer.echo(table.PAGE)
    for failure in failures:
        typer.echo(f"Failed: {failure.what}: {failure.error}", err=True)
    if failures:
        raise typer.Exit(1)


@app.command(name="gpu_program")
def gpu_program(
    ctx: typer.Context,
    cell: Annotated[
        list[str], typer.Option(help="Gated cells whose kernels are compiled; all of them by default.")
    ] = [],  # noqa: B006
    out: Out = Path("benchmarks/results"),
) -> None:
    """Count operations on a GPU, compiled for an H200 on a CPU, by version of JAX (needs jax-cuda12-plugin)."""
    known = gpu_program_.gated_cells()
    if not set(cell) <= set(known):
        raise typer.BadParameter(f"expected gated cells ({', '.join(known)}), got {', '.join(cell)}.")
    try:
        prepare()
    except Unavailable as error:
        typer.echo(error, err=True)
        raise typer.Exit(2) from None
    missed: list[str] = []

    def run() -> Sequence[Group]:
        groups, lines = gpu_program_.run(cell or known, _say)
        missed.extend(lines)
        return beside_other_versions(groups, out / "gpu_program.json")

    _finish(ctx, "gpu_program", gpu_program_.TITLE, gpu_program_.ABOUT, run, out)
    for line in missed:
        typer.echo(line, err=True)
    if missed:
        raise typer.Exit(1)


def _check(out: Path) -> None:
    """Raise an error of the command line unless results can be written, before anything is measured."""
    try:
        check_can_write(out)
    except OSError as error:
        raise typer.BadParameter(f"{out} cannot be written ({why(error)}).", param_hint="--out") from None


def _finish(ctx: typer.Context, name: str, title: str, about: str, run: Any, out: Path) -> None:
    """Measure and save the results; on a mismatch print one line, write no file and exit with status 1."""
    _check(out)
    try:
        groups: Sequence[Group] = run()
    except Mismatch as mismatch:
        typer.echo(f"Nothing was timed: {mismatch}", err=True)
        raise typer.Exit(1) from None
    for path in save(name, title, about, _command(ctx), groups, out):
        typer.echo(path)


def _command(ctx: typer.Context) -> str:
    """Return the command that repeats this result: every option that differs from its default, except the folder."""
    words = ["python", "-m", "benchmarks", str(ctx.info_name)]
    for option in ctx.command.params:
        value = ctx.params.get(str(option.name))
        if option.name == "out" or value == option.default:
            continue
        for item in value if isinstance(value, list | tuple) else [value]:
            words += [option.opts[0], str(getattr(item, "value", item))]
    return shlex.join(words)


def _shape(text: str) -> peers_.Shape:
    sizes = text.split(",")
    if len(sizes) != 4 or not all(size.strip().isdigit() and int(size) > 0 for size in sizes):
        raise typer.BadParameter(f"expected four sizes B,T,D,H such as 8,2048,64,64, got {text!r}.")
    batch, length, input_size, hidden_size = map(int, sizes)
    return batch, length, input_size, hidden_size


def _say(line: str) -> None:
    typer.echo(line, err=True)


if __name__ == "__main__":
    # All arms multiply in full float32; by default JAX rounds the factors to fewer digits on GPUs and TPUs.
    jax.config.update("jax_default_matmul_precision", "highest")
    app(prog_name="python -m benchmarks")
