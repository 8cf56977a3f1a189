"""``seqjax train``: train a cell or a stack on a task or a text, into a folder from which the run can be repeated."""

import contextlib
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import jax
import typer
from jax.experimental import multihost_utils

from seqjax.cli.common import UsageError, usage_errors
from seqjax.cli.options import options_of
from seqjax.cli.train_folder import REPORT, check_run_folder, claim
from seqjax.cli.train_instruments import Every, Names, instruments_of
from seqjax.cli.train_output import log_to_stderr, show_run, shown_progress, telling
from seqjax.cli.train_recipe import AS, SUBJECT, recipe_of
from seqjax.files import put_text, why
from seqjax.training import Checkpoints, Fitted, MetricsLog, WarmStart, fit
from seqjax.training.applications.common import Learning
from seqjax.training.definition import write_definition
from seqjax.training.distributed import start
from seqjax.training.folder_lock import FolderLock
from seqjax.training.recipe import (
    MAY_CHANGE,
    PATHS,
    Recipe,
    learning_rate,
    read_recipe,
)
from seqjax.training.run import Run, begin_from, inputs_of, open_run, prepare
from seqjax.user_model import is_own


@options_of(Recipe, leave_out=SUBJECT)
def train(
    what: Annotated[
        str | None,
        typer.Argument(
            help="A task (see 'seqjax list'), 'text' for Moby-Dick, a file, or a folder.", show_default=False
        ),
    ] = None,
    *,
    application: Annotated[
        str | None,
        typer.Option(
            "--as",
            help=f"What the file or folder is trained as: {', '.join(AS)}; language by default.",
            show_default=False,
        ),
    ] = None,
    given: dict[str, Any],
    config: Annotated[Path | None, typer.Option(help="The config.json of a run, to repeat it.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The folder of the run: 'run' by default, with --resume that of --config."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in that folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in that folder.")] = False,
    allow_code: Annotated[
        bool,
        typer.Option(
            "--allow-code", help="Run the code that --config or --resume names as its model, if you trust it."
        ),
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard's event files, too.")
    ] = False,
    instruments: Names = None,
    instrument_every: Every = None,
    distributed: Annotated[
        bool,
        typer.Option(
            "--distributed",
            help="Train with several processes, started by the same command; the batch is split over all devices.",
        ),
    ] = False,
    coordinator: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT of process 0. SLURM, Kubernetes, MPI and TPU pods need none of these three options."
        ),
    ] = None,
    processes: Annotated[int | None, typer.Option(help="Number of processes.")] = None,
    process: Annotated[int | None, typer.Option(help="Number of this process, from 0.")] = None,
    progress: Annotated[
        bool | None, typer.Option(help="Show a bar; by default on a terminal only.", show_default=False)
    ] = None,
) -> None:
    """Train a model on a task, a text or other files, evaluate it on held-out data, and keep the best params.

    Writes config.json (which alone repeats the run), metrics.jsonl, curves.svg, and checkpoints in steps/ and best/.
    Ctrl-C and SIGTERM save the state and stop; --resume continues to the same bits. With --resume, --steps,
    --learning-rate, --decay-steps, --patience, --eval-every and --checkpoint-every change the run, and config.json
    logs it. The exit status is 1 when training fails or its result could not be saved, 2 for bad input.
    """
    folder = out or (config.parent if resume and config is not None else Path("run"))
    recipe = recipe_of(what, application, config, folder, resume, given, allow_code)
    if recipe.precision == "float64":
        jax.config.update("jax_enable_x64", True)
    mesh = _join(distributed, coordinator, processes, process)
    with usage_errors():
        run, recipe, warm = _prepared(recipe, folder, mesh, resume, overwrite)
    measuring = instruments_of(run, instruments, instrument_every, recipe.eval_every)
    lock = FolderLock(folder)
    if jax.process_index() == 0:
        claim(lock, resume, overwrite)
    if mesh is not None:
        multihost_utils.sync_global_devices("the folder is claimed")
    log_to_stderr()
    _tell_notes(run)
    options = {"allow-code": is_own(recipe.model), "tensorboard": tensorboard, "distributed": distributed}
    options |= {"instruments": instruments, "instrument-every": instrument_every}  # type: ignore[dict-item]
    cluster = {"coordinator": coordinator, "processes": processes, "process": process}
    again = _again(folder, {**options, **cluster})
    may_change = [name for name in MAY_CHANGE if resume and name in given]
    fitted = _train(recipe, run, warm, lock, may_change, tensorboard, progress, again, measuring)
    if jax.process_index() == 0:
        show_run(folder, run, fitted, tensorboard)
    if fitted.unsaved is not None:
        _end_unsaved(fitted.unsaved, folder, again)


def _end_unsaved(what: str, folder: Path, again: str) -> NoReturn:
    typer.echo(f"seqjax: {what}, could not be saved in {folder}. Make room, then: {again}", err=True)
    raise typer.Exit(1)


def _prepared(
    recipe: Recipe, folder: Path, mesh: jax.sharding.Mesh | None, resume: bool, overwrite: bool
) -> tuple[Run, Recipe, WarmStart | None]:
    """Check the folder; return the run of a recipe, the recipe, and the report of its warm start if it has one."""
    if jax.process_index() == 0:
        check_run_folder(folder, resume, overwrite)
    last = None
    if resume and (folder / "config.json").is_file():
        with open_run(folder, recipe) as there:
            there.check_run()  # before any code of the user runs
            last = there.last()
        _tell_rates(read_recipe(folder / "config.json"), recipe, last or 0)
    run = prepare(recipe, mesh)
    if recipe.init_from is None or last is not None:
        return run, recipe, None
    if Path(recipe.init_from).resolve() == folder.resolve():
        raise UsageError(f"--init-from: expected the folder of another run than --out, got {folder}.")
    run, warm = begin_from(run, recipe)
    return run, replace(recipe, init_sha256=warm.sha256), warm


def _tell_rates(before: Recipe, after: Recipe, step: int) -> None:
    """Print how a change of the recipe changes its schedule of learning rates."""
    old, new = (learning_rate(each) for each in (before, after))
    if callable(old) and callable(new) and float(old(step)) != float(new(step)) and jax.process_index() == 0:
        typer.echo(
            f"seqjax: the {after.schedule} schedule now ends at step {after.decay_steps or after.steps}: after step "
            f"{step} the learning rate is {float(new(step)):.3g}, where it was {float(old(step)):.3g}.",
            err=True,
        )


def _tell_notes(run: Run) -> None:
    """Print what the user should know about the data."""
    for note in run.task.notes if isinstance(run.task, Learning) and jax.process_index() == 0 else ():
        typer.echo(f"seqjax: {note}", err=True)


def _train(
    recipe: Recipe,
    run: Run,
    warm: WarmStart | None,
    lock: FolderLock,
    may_change: list[str],
    tensorboard: bool,
    progress: bool | None,
    again: str,
    measuring: dict[str, Any],
) -> Fitted:
    """Train, with checkpoints in the locked folder of the run, and release the lock."""
    folder, first = lock.folder, jax.process_index() == 0
    shown = shown_progress(progress)
    try:
        with contextlib.closing(lock), usage_errors(of=(ValueError, ImportError)):
            log = MetricsLog(folder, tensorboard=tensorboard) if first else None
            if warm is not None and first:
                typer.echo(str(warm))
                _write_report(folder, warm)
            checkpoints = Checkpoints(
                folder,
                config=recipe.to_json(),
                may_change=may_change,
                paths=PATHS,
                inputs=inputs_of(recipe, run.definition),
                lock=lock,
            )
            if run.definition is not None and first:
                write_definition(folder, run.definition)
            with checkpoints:
                return fit(
                    run.step,
                    run.state,
                    run.batches,
                    num_steps=recipe.steps,
                    evaluate=telling(run.evaluate, recipe.steps)
                    if first and shown == "lines"
                    else run.evaluate,
                    eval_every=recipe.eval_every,
                    early_stop=run.early_stop,
                    checkpoints=checkpoints,
                    checkpoint_every=recipe.checkpoint_every,
                    log=log,
                    **measuring,
                    progress=shown,
                    how_to_resume=f"run '{again}'",
                )
    except FloatingPointError as error:
        typer.echo(f"seqjax: {error}", err=True)
        raise typer.Exit(1) from None


def _write_report(folder: Path, warm: WarmStart) -> None:
    try:
        put_text(folder / REPORT, json.dumps(warm.to_json(), indent=2) + "\n")
    except OSError as error:
        raise ValueError(
            f"{folder / REPORT} cannot be written ({why(error)}). Make room, or choose another folder."
        ) from None


def _join(
    wanted: bool, coordinator: str | None, processes: int | None, process: int | None
) -> jax.sharding.Mesh | None:
    """Join the other processes; return a mesh of all devices for the batch, or None for one device."""
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
    """Return the command that resumes a run, with the options that config.json does not hold."""
    words = ["seqjax", "train", "--config", str(folder / "config.json"), "--resume"]
    for name, value in options.items():
        if value is not None and value is not False:
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return shlex.join(words)
