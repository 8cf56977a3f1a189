"""``seqjax train``: a task or a text, a cell or a stack, into a folder from which the run can be repeated."""

import logging
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import jax
import typer
from jax.experimental import multihost_utils

from seqjax.cli.common import UsageError, at_least_one, console, one_of, option
from seqjax.cli.recipe import (
    ESTIMATORS,
    OPTIMIZERS,
    PRECISIONS,
    STACKS,
    Recipe,
    Run,
    file_digest,
    prepare,
    read_recipe,
)
from seqjax.report.settings import METHODS
from seqjax.tasks import TASKS
from seqjax.training import Checkpoints, Fitted, MetricsLog, fit
from seqjax.training.distributed import start

WRITTEN = ("config.json", "steps", "best", "metrics.jsonl", "tensorboard", "curves.svg")
"""What a run leaves in its folder."""

DEFAULTS = Recipe()


def train(
    what: Annotated[
        str | None,
        typer.Argument(
            help="A task (see 'seqjax list'), 'text' for Moby-Dick, or a file.", show_default=False
        ),
    ] = None,
    model: Annotated[
        str | None,
        option(
            f"A cell, 'lru' or with options 'lru(r_min=0.9)'; a stack, {', '.join(STACKS)}; or file.py:function",
            DEFAULTS.model,
        ),
    ] = None,
    hidden_size: Annotated[int | None, option("Width of the layers", DEFAULTS.hidden_size)] = None,
    depth: Annotated[
        int | None, option("Layers; from two on they are residual, with norms", DEFAULTS.depth)
    ] = None,
    heads: Annotated[
        int | None, option("Of stacks (a cell takes options of its own)", DEFAULTS.heads)
    ] = None,
    length: Annotated[int | None, option("Time steps T", DEFAULTS.length)] = None,
    batch: Annotated[int | None, option("Sequences B", DEFAULTS.batch)] = None,
    steps: Annotated[int | None, option("Training steps", DEFAULTS.steps)] = None,
    method: Annotated[
        str | None, option(f"Of cells and own functions: one of {', '.join(METHODS)}", DEFAULTS.method)
    ] = None,
    precision: Annotated[str | None, option(f"One of {', '.join(PRECISIONS)}", DEFAULTS.precision)] = None,
    estimator: Annotated[
        str | None,
        option(
            "full, or truncated: a text is read on from batch to batch, and the carry kept",
            DEFAULTS.estimator,
        ),
    ] = None,
    optimizer: Annotated[str | None, option(f"One of {', '.join(OPTIMIZERS)}", DEFAULTS.optimizer)] = None,
    learning_rate: Annotated[float | None, option("Of the optimizer", DEFAULTS.learning_rate)] = None,
    clip: Annotated[float | None, option("Largest norm of the gradient, 0 for any", DEFAULTS.clip)] = None,
    seed: Annotated[int | None, option("Of params and batches", DEFAULTS.seed)] = None,
    eval_every: Annotated[int | None, option("Steps between evaluations", DEFAULTS.eval_every)] = None,
    eval_batches: Annotated[
        int | None, option("Held-out batches of an evaluation", DEFAULTS.eval_batches)
    ] = None,
    checkpoint_every: Annotated[
        int | None, option("Steps between checkpoints", DEFAULTS.checkpoint_every)
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many evaluations without a better one.")
    ] = None,
    until_solved: Annotated[
        bool | None, typer.Option("--until-solved", help="Stop when the task counts as solved.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="The config.json of a run, to repeat it.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder: run, or with --resume that of --config.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in that folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in that folder.")] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard's events, too.")
    ] = False,
    distributed: Annotated[
        bool,
        typer.Option(
            "--distributed",
            help="One of several processes, started alike, with the batch split over all their devices.",
        ),
    ] = False,
    coordinator: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT of process 0; SLURM, Kubernetes, MPI and TPU pods need none of the three."
        ),
    ] = None,
    processes: Annotated[int | None, typer.Option(help="How many processes there are.")] = None,
    process: Annotated[int | None, typer.Option(help="Which of them this is, from 0.")] = None,
    progress: Annotated[
        bool | None, typer.Option(help="Show a bar; by default where a terminal is.", show_default=False)
    ] = None,
) -> None:
    """Train a model on a task or a text, evaluate it on what it has not seen, and keep the best.

    Writes config.json (from which alone the run can be repeated), metrics.jsonl, curves.svg, and checkpoints in
    steps/ and best/. Ctrl-C and SIGTERM save and stop, --resume goes on to the same bits. The exit status is 1 where
    training fails, 2 for bad input.
    """
    folder = out or (config.parent if resume and config is not None else Path("run"))
    if resume and config is None and (folder / "config.json").exists():
        config = folder / "config.json"
    elif resume and config is None and what is None:
        raise UsageError(f"--resume: expected a run in {folder}, got none: it has no config.json.")
    if config is None and what is None:
        raise UsageError("train: expected a task or a file, or --config. 'seqjax list' shows the tasks.")
    recipe = Recipe() if config is None else read_recipe(config)
    given: dict[str, Any] = {
        "model": None if model is None else _from_anywhere(model),
        "hidden_size": hidden_size,
        "depth": depth,
        "heads": heads,
        "length": length,
        "batch": batch,
        "steps": steps,
        "method": method,
        "precision": precision,
        "estimator": estimator,
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "clip": clip,
        "seed": seed,
        "eval_every": eval_every,
        "eval_batches": eval_batches,
        "checkpoint_every": checkpoint_every,
        "patience": patience,
        "until_solved": until_solved,
        **(_subject(what) if what is not None else {}),
    }
    subject = ("task", "data", "data_sha256")
    recipe = replace(recipe, **{n: v for n, v in given.items() if v is not None or n in subject})
    if heads is not None and recipe.model not in STACKS:
        raise UsageError(
            f"--heads goes with a stack ({', '.join(STACKS)}), got the model {recipe.model!r}. Options of a cell are "
            "written 'delta_net(num_heads=2)'."
        )
    _check(recipe)
    if recipe.precision == "float64":
        jax.config.update("jax_enable_x64", True)
    mesh = _join(distributed, coordinator, processes, process)
    run = prepare(recipe, mesh)
    first = jax.process_index() == 0
    if first:
        _claim(folder, resume, overwrite)
    if mesh is not None:
        multihost_utils.sync_global_devices("the folder is claimed")
    _speak()
    again = _again(
        folder,
        {
            "tensorboard": tensorboard,
            "distributed": distributed,
            "coordinator": coordinator,
            "processes": processes,
            "process": process,
        },
    )
    try:
        log = MetricsLog(folder, tensorboard=tensorboard) if first else None
        with Checkpoints(folder, config=recipe.to_json()) as checkpoints:
            fitted = fit(
                run.step,
                run.state,
                run.batches,
                num_steps=recipe.steps,
                evaluate=run.evaluate,
                eval_every=recipe.eval_every,
                early_stop=run.early_stop,
                checkpoints=checkpoints,
                checkpoint_every=recipe.checkpoint_every,
                log=log,
                progress=progress,
                how_to_resume=f"run '{again}'",
            )
    except KeyboardInterrupt as interrupt:
        typer.echo(str(interrupt), err=True)
        raise typer.Exit(130) from None
    except FloatingPointError as error:
        typer.echo(f"seqjax: {error}", err=True)
        raise typer.Exit(1) from None
    except (ValueError, ImportError) as error:
        raise UsageError(" ".join(str(error).split())) from None
    if first:
        _show(folder, run, fitted, tensorboard)


def _join(
    wanted: bool, coordinator: str | None, processes: int | None, process: int | None
) -> jax.sharding.Mesh | None:
    """All devices of all processes, for data; None for one device."""
    if not wanted:
        if (coordinator, processes, process) != (None, None, None):
            raise UsageError("--coordinator, --processes and --process go with --distributed.")
        return None
    try:
        start(coordinator, processes, process)
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"--distributed: {' '.join(str(error).split())}") from None
    return jax.make_mesh((jax.device_count(),), ("data",))


def _again(folder: Path, options: dict[str, Any]) -> str:
    """The command that goes on with a run in the same way; of its options config.json does not hold these."""
    words = ["seqjax", "train", "--config", str(folder / "config.json"), "--resume"]
    for name, value in options.items():
        if value is not None and value is not False:
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return shlex.join(words)


def _from_anywhere(model: str) -> str:
    """A model in a file by its whole path, so that a run goes on, and is repeated, from any folder."""
    place, _, function = model.rpartition(":")
    return f"{Path(place).absolute()}:{function}" if place.endswith(".py") else model


def _subject(what: str) -> dict[str, Any]:
    """The task, and the file where it is one."""
    if what == "text" or what in TASKS:
        return {"task": what, "data": None, "data_sha256": None}
    if not Path(what).exists() and "/" not in what and "." not in what:
        one_of("train", what, ["text", *TASKS])
    try:
        return {"task": "text", "data": str(Path(what).absolute()), "data_sha256": file_digest(what)}
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from None


def _check(recipe: Recipe) -> None:
    for name in (
        "hidden_size",
        "depth",
        "heads",
        "length",
        "batch",
        "steps",
        "eval_every",
        "eval_batches",
        "checkpoint_every",
    ):
        at_least_one(f"--{name.replace('_', '-')}", getattr(recipe, name))
    if recipe.patience is not None:
        at_least_one("--patience", recipe.patience)
    for name, known in (
        ("method", METHODS),
        ("precision", PRECISIONS),
        ("estimator", ESTIMATORS),
        ("optimizer", OPTIMIZERS),
        ("task", ("text", *TASKS)),
    ):
        one_of(f"--{name}", getattr(recipe, name), known)
    if not 0 < recipe.learning_rate < float("inf"):
        raise UsageError(f"--learning-rate: expected a number above 0, got {recipe.learning_rate}.")
    if not 0 <= recipe.clip < float("inf"):
        raise UsageError(f"--clip: expected a number of at least 0, got {recipe.clip}.")
    if not 0 <= recipe.seed < 2**31:  # beyond, JAX cuts seeds off, and two runs would be one
        raise UsageError(f"--seed: expected a whole number from 0 to 2^31 - 1, got {recipe.seed}.")
    if recipe.model in STACKS and recipe.method != "auto":
        raise UsageError(
            f"--method goes with a cell, got {recipe.method!r} for {recipe.model!r}, whose layers have methods of "
            "their own. Leave it out."
        )


def _claim(folder: Path, resume: bool, overwrite: bool) -> None:
    """Make sure that a folder may be written to."""
    if resume and overwrite:
        raise UsageError(
            "--resume goes on with a run, --overwrite replaces it: expected one of them, got both."
        )
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out: expected a folder, got the file {folder}. Choose another name.")
    there = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if resume:
        if "config.json" not in there:
            raise UsageError(f"--resume: expected a run in {folder}, got none: it has no config.json.")
    elif overwrite and "config.json" in there:
        for name in WRITTEN:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    elif "config.json" in there:
        raise UsageError(
            f"--out: {folder} holds a run already. --resume goes on with it, --overwrite replaces it, --out DIR keeps "
            "both."
        )
    elif there:
        raise UsageError(f"--out: {folder} is not empty and holds no run. Choose another folder.")


def _speak() -> None:
    """What `fit` says goes to stderr as it is, also while a bar is shown."""

    class Echo(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            typer.echo(record.getMessage(), err=True)

    logger = logging.getLogger("seqjax.training")
    logger.handlers, logger.propagate = [Echo()], False


def _show(folder: Path, run: Run, fitted: Fitted, tensorboard: bool) -> None:
    """How it ended, and where everything is."""
    console.print(f"Trained: {fitted.reason}. {fitted.skipped or 'No'} steps were skipped.", markup=False)
    metric, success = run.early_stop.metric, run.task.success
    if fitted.best_value is not None:
        console.print(
            f"Best held-out {metric} {fitted.best_value:.6g} at step {fitted.best_step}; who remembers nothing has a "
            f"loss of {run.task.baseline:.6g}; solved at {success.metric} {success.threshold:g}.",
            markup=False,
            soft_wrap=True,
        )
    about = {
        "config.json": "repeats the run: seqjax train --config",
        "metrics.jsonl": "training and evaluation by step",
        "curves.svg": "the same as curves",
        "best": "the best state",
        "steps": "the last states",
        "tensorboard": "tensorboard --logdir",
    }
    for name, text in about.items():
        if (folder / name).exists() and (name != "tensorboard" or tensorboard):
            console.print(f"  {folder / name}: {text}", markup=False, soft_wrap=True)
