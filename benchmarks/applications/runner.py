"""Train the variants of applications with several seeds, run their baselines, and store what they reached."""

import json
import math
import shlex
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax

from benchmarks.applications.application import APPLICATIONS, load, missing_data
from benchmarks.results import header
from seqjax.files import put_text, read_json

RESULTS = Path(__file__).parent.parent / "results" / "applications"
TOY = "toy"
"""The folder inside, for results of the toy setting."""

POINTS = 100
"""How many points of a curve are stored."""


class Failure(NamedTuple):
    """A run that raised an error, and its text in one line."""

    what: str
    error: str


def run(
    names: Sequence[str],
    *,
    seeds: int,
    toy: bool,
    variants: Sequence[str],
    command: Sequence[str],
    out: Path,
    say: Callable[[str], None],
) -> list[Failure]:
    """Run what is not in the result files yet; a file is written after each run, so that a later call continues.

    A run whose settings differ from the stored ones is done again. Delete a file to run everything again.

    Args:
        names: the applications.
        seeds: the number of seeds, from 0 on.
        toy: whether to use the toy setting, whose files are in a folder of their own.
        variants: run these variants only, without baselines; empty for everything.
        command: the words of the command line, for the files.
        out: the folder of the files.
        say: gets lines about the progress.

    Returns:
        The runs that raised an error. The others go on.
    """
    failures = []
    for name in names:
        missing = missing_data(name)
        if missing:
            failures.append(Failure(name, f"no data. Run 'seqjax data fetch {' '.join(missing)}'"))
            say(f"{name}: {failures[-1].error}")
            continue
        try:
            module = load(name)
        except (ImportError, TypeError) as error:
            failures.append(Failure(name, str(error)))
            say(f"{name}: {error}")
            continue
        path = (out / TOY if toy else out) / f"{name}.json"
        document = _document(name, module, path, toy, command)
        failures += _run_one(name, module, document, path, range(seeds), variants, say)
    return failures


def _run_one(
    name: str,
    module: ModuleType,
    document: dict[str, Any],
    path: Path,
    seeds: Sequence[int],
    variants: Sequence[str],
    say: Callable[[str], None],
) -> list[Failure]:
    jobs: list[tuple[str, Callable[[], None]]] = []
    if not variants and "baselines" not in document:
        jobs.append(("baselines", lambda: _baselines(module, document)))
    for variant in variants or module.VARIANTS:
        if variant not in module.VARIANTS:
            raise ValueError(
                f"{name}: expected a variant of {', '.join(module.VARIANTS)}, got {variant!r}. "
                "Name it as it is in the file of the application."
            )
        for seed in seeds:
            if not any(run["variant"] == variant and run["seed"] == seed for run in document["runs"]):
                jobs.append(
                    (
                        f"{variant}, seed {seed}",
                        lambda variant=variant, seed=seed: _train(module, document, variant, seed),
                    )
                )
    failures = []
    path.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    for number, (what, job) in enumerate(jobs, 1):
        left = "" if number == 1 else f", {_left(start, number - 1, len(jobs))}"
        say(f"{name}: {what} ({number} of {len(jobs)}{left})")
        try:
            job()
        except Exception as error:
            traceback.print_exc()
            failures.append(Failure(f"{name}: {what}", f"{type(error).__name__}: {error}".splitlines()[0]))
            continue
        put_text(path, json.dumps(document, indent=1) + "\n")
        jax.clear_caches()  # the programs of a finished run are not used again
    put_text(path, json.dumps(document, indent=1) + "\n")
    return failures


def _document(name: str, module: ModuleType, path: Path, toy: bool, command: Sequence[str]) -> dict[str, Any]:
    """Return the stored results that are still valid, under the present title, bars and command."""
    stored = read_json(path) if path.exists() else {}
    runs = [
        run
        for run in stored.get("runs", [])
        if run["variant"] in module.VARIANTS and run["settings"] == repr(module.VARIANTS[run["variant"]])
    ]
    document = {
        "name": name,
        "title": APPLICATIONS[name].title,
        "toy": toy,
        "command": shlex.join(command),
        "tuning": module.TUNING,
        "bars": [asdict(bar) for bar in module.BARS],
        "runs": runs,
    }
    return document | ({"baselines": stored["baselines"]} if "baselines" in stored else {})


def _baselines(module: ModuleType, document: dict[str, Any]) -> None:
    start = time.perf_counter()
    found = module.baselines(toy=document["toy"])
    minutes = round((time.perf_counter() - start) / 60, 2)
    document["baselines"] = {
        "minutes": minutes,
        "metrics": {name: _numbers(metrics) for name, metrics in found.items()},
        "header": header(),
    }


def _train(module: ModuleType, document: dict[str, Any], variant: str, seed: int) -> None:
    trained = module.train(variant, seed=seed, toy=document["toy"])
    run = {
        "variant": variant,
        "seed": seed,
        "settings": repr(module.VARIANTS[variant]),
        "metrics": {part: _numbers(metrics) for part, metrics in trained.metrics.items()},
        "minutes": round(trained.minutes, 2),
        "parameters": trained.parameters,
        "losses": {part: _thinned(points) for part, points in trained.losses.items()},
        "extra": dict(trained.extra),
        "header": header(),
    }
    order = list(module.VARIANTS)
    runs = [*document["runs"], run]
    document["runs"] = sorted(runs, key=lambda each: (order.index(each["variant"]), each["seed"]))


def _numbers(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Round to six digits; numbers that are not finite become null, which JSON can hold."""
    return {
        name: float(f"{float(value):.6g}") if math.isfinite(float(value)) else None
        for name, value in metrics.items()
    }


def _thinned(points: Sequence[tuple[int, float]]) -> list[list[float]]:
    every = -(-len(points) // POINTS) or 1
    kept = [*points[:-1:every], *points[-1:]]
    return [[int(step), float(f"{float(value):.5g}")] for step, value in kept]


def _left(start: float, done: int, total: int) -> str:
    seconds = (time.perf_counter() - start) / done * (total - done)
    return f"about {seconds / 3600:.1f} h left" if seconds > 5400 else f"about {seconds / 60:.0f} min left"
