"""Which task is learned at which length: trained from scratch, several seeds at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import polars as pl

from seqjax.base import Batch
from seqjax.gradients import objective
from seqjax.methods import NAMED
from seqjax.report.blocks import Caption, Figure, Note, Panel, Row, Table, Text, View, listed, row, say
from seqjax.report.frames import Data
from seqjax.report.grid import grid
from seqjax.report.lab import Lab
from seqjax.report.models import make_model, representatives
from seqjax.report.settings import Settings
from seqjax.report.statistics import wilson
from seqjax.report.store import Part
from seqjax.report.text import number, plural
from seqjax.tasks import NOT_SCORED, TASKS, Task

NAME = "success"
TITLE = "What is learned, by task and length"
SOLVED = 0.5
"""A run succeeds where its loss is below this share of the blind baseline: it must have used its memory."""


class Size(NamedTuple):
    """How much a profile trains."""

    tasks: int
    lengths: tuple[int, ...]
    seeds: int
    steps: int
    batch: int


SIZES = {
    "smoke": Size(1, (24,), 2, 3, 2),
    "cpu": Size(2, (24, 48), 4, 200, 16),
    "gpu": Size(3, (32, 128), 8, 200, 32),
}
CELLS = {"smoke": 1, "cpu": 3, "gpu": 3}
"""So many cells, of different kinds of recurrence where there are; the page names the others."""
_LAST = 20


def tasks(settings: Settings) -> tuple[str, ...]:
    """The names of the tasks that a profile trains."""
    return tuple(TASKS)[: SIZES[settings.profile].tasks]


def parts(settings: Settings) -> Iterable[Part]:
    """One per cell and length, with all tasks and seeds in it."""
    cells = representatives(settings.cells, CELLS[settings.profile])
    return [Part(NAME, cell, length) for cell in cells for length in SIZES[settings.profile].lengths]


def work(settings: Settings, part: Part) -> float:
    """Compilation once per cell, then steps as long as the greatest length."""
    size = SIZES[settings.profile]
    first = part.length == size.lengths[0]
    return len(tasks(settings)) * (2.5 * first + size.steps * max(size.lengths) * 1e-4)


def measure(lab: Lab, part: Part) -> Iterable[Row]:
    """The loss of every seed over the last steps of its training, and the baseline, by task."""
    size, length = SIZES[lab.settings.profile], part.length or 0
    for name in tasks(lab.settings):
        try:
            task = TASKS[name](length)
        except ValueError as error:  # too short for this task
            yield row("not_measured", 0, group=name, leaf=str(error))
            continue
        step = lab.keep(("learn", part.cell, name), lambda: _step(lab, part.cell or "", task, size))  # noqa: B023
        losses = _learn(step, lab.settings, part.cell or "", task, size)
        for seed, loss in enumerate(losses):
            yield row("final_loss", loss, group=name, seed=seed, training_step=size.steps)
        yield row("baseline", task.baseline, group=name)


def view(data: Data) -> View:
    """One map per task, a table with intervals."""
    rows = data.rows(NAME)
    found = _rates(data, rows)
    if not found:
        return View("", [Note("Not measured.", muted=True)])
    size = SIZES.get(str(data.settings.get("profile")), SIZES["cpu"])
    intro = say(
        "Each cell is trained from scratch on synthetic tasks. A run succeeds where its loss falls below {} of the "
        "<i>blind baseline</i>, the best that is possible without memory.",
        f"{SOLVED:.0%}".replace("%", "\u00a0%"),
    )
    names = list(dict.fromkeys(task for task, _, _ in found))
    panels = [_panel(data, name, found) for name in names]
    left_out = [name for name in TASKS if name not in names]
    measured = say(
        "{} seeds, {} steps of Adam on fresh batches of {}, width {}; mean loss of the last {}. 95\u00a0% Wilson "
        "intervals in the table: with few seeds they are wide.",
        size.seeds,
        size.steps,
        size.batch,
        data.settings.get("hidden_size", "?"),
        min(_LAST, size.steps),
    )
    if left_out:
        measured += say(
            " Not trained under this profile: {} (<code>seqjax list</code>).", plural(len(left_out), "task")
        )
    trained = {cell for _, cell, _ in found}
    idle = [cell for cell in data.cells if cell not in trained]
    if idle:
        measured += say(" Cells not trained on tasks under this profile: {}.", listed(idle))
    for name, length, why in (
        rows.filter(pl.col("quantity") == "not_measured")
        .select("group", "length", "leaf")
        .unique()
        .iter_rows()
    ):
        measured += say(" {} at T = {} does not exist: {}", name, length, why)
    caption = Caption(
        "The share of seeds that succeed, by cell (down) and length (across), a map per task.",
        measured,
        _conclusion(found),
    )
    return View(intro, [Figure("Success", panels, caption), _table(data, found)])


# ---------------------------------------------------------------- measured


def _step(lab: Lab, cell: str, task: Task, size: Size) -> Callable:
    """One step of every seed: ``(params, optimizer state, batch) -> (params, optimizer state, loss)``, leaves [S, ...].

    All lengths share it: shorter sequences are padded in front, where nothing has happened yet.
    """
    model, optimizer = _model(lab.settings, cell, task), _optimizer(lab.settings)
    evaluate = objective(model, task.objective)

    def one(params: Any, state: Any, batch: Batch) -> Any:
        def mean(params: Any) -> jax.Array:
            total, (count, _) = evaluate(params, model.initial_carry(params, batch.xs[0]), batch)
            return total / count

        value, gradients = jax.value_and_grad(mean)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    return lab.jit(jax.vmap(one), size.steps * max(size.lengths))


def _learn(step: Callable, settings: Settings, cell: str, task: Task, size: Size) -> np.ndarray:
    """The loss ``[S]`` over the last steps."""
    model, optimizer = _model(settings, cell, task), _optimizer(settings)
    longest = max(size.lengths)
    keys = jax.vmap(jax.random.key)(jnp.arange(size.seeds))

    def draw(key: jax.Array) -> Batch:
        xs, targets = task.sample(key, size.batch)
        classes = jnp.issubdtype(targets.dtype, jnp.integer)
        xs, targets = _pad(xs, longest), _pad(targets, longest, NOT_SCORED if classes else 0)
        xs = xs.astype(settings.dtype) if jnp.issubdtype(xs.dtype, jnp.floating) else xs
        mask = jnp.broadcast_to(jnp.arange(longest)[:, None] >= longest - task.length, targets.shape[:2])
        return Batch(xs, targets, mask=mask)

    sample = jax.jit(jax.vmap(draw))
    x = jax.eval_shape(draw, keys[0]).xs
    params = jax.vmap(lambda key: model.init(key, jnp.zeros(x.shape[1:], x.dtype)))(keys)
    state, losses = jax.vmap(optimizer.init)(params), []
    for place in range(size.steps):
        batch = sample(jax.vmap(lambda key: jax.random.fold_in(key, place + 1))(keys))  # noqa: B023
        params, state, loss = step(params, state, batch)
        losses.append(loss)
    return np.mean(np.asarray(losses[-_LAST:], np.float64), 0)


def _pad(array: jax.Array, length: int, value: int = 0) -> jax.Array:
    widths = [(length - array.shape[0], 0), *[(0, 0)] * (array.ndim - 1)]
    return jnp.pad(array, widths, constant_values=value)


def _model(settings: Settings, cell: str, task: Task) -> Any:
    return make_model(cell, settings.hidden_size, NAMED[settings.method], settings.dtype, task)


def _optimizer(settings: Settings) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(settings.learning_rate))


# ---------------------------------------------------------------- shown

Rates = dict[tuple[str, str, int], tuple[int, int, float]]


def _rates(data: Data, rows: pl.DataFrame) -> Rates:
    """By task, cell and length: successes, seeds, and the median share of the baseline that is left."""
    found: Rates = {}
    wanted = rows.filter(pl.col("quantity").is_in(["final_loss", "baseline"]))
    for (task, cell, length), some in wanted.group_by("group", "cell", "length", maintain_order=True):
        baseline = some.filter(pl.col("quantity") == "baseline")["value"][0]
        shares = (
            some.filter(pl.col("quantity") == "final_loss")["value"].fill_null(float("nan")).to_numpy()
            / baseline
        )
        shares = np.where(np.isfinite(shares), shares, np.inf)
        found[str(task), str(cell), int(str(length))] = (
            int((shares < SOLVED).sum()),
            len(shares),
            float(np.median(shares)),
        )
    order = {cell: place for place, cell in enumerate(data.cells)}
    return dict(sorted(found.items(), key=lambda item: (item[0][0], order[item[0][1]], item[0][2])))


def _panel(data: Data, task: str, found: Rates) -> Panel:
    lengths = sorted({length for name, _, length in found if name == task})
    cells = [cell for cell in data.cells if any((task, cell, length) in found for length in lengths)]
    values = np.full((len(cells), len(lengths)), np.nan)
    texts = [["" for _ in lengths] for _ in cells]
    for i, cell in enumerate(cells):
        for j, length in enumerate(lengths):
            if (task, cell, length) in found:
                won, of, _ = found[task, cell, length]
                values[i, j], texts[i][j] = won / of, f"{won} of {of}"
    columns = [f"T = {length}" for length in lengths]
    return grid(values, texts, cells, columns, f"success-{task}", task, f"Share of successful seeds, {task}.")


def _conclusion(found: Rates) -> Text:
    said = say("")
    for task in dict.fromkeys(task for task, _, _ in found):
        whole = [
            (length, cell) for (t, cell, length), (won, of, _) in found.items() if t == task and won == of
        ]
        some = [cell for (t, cell, _), (won, _, _) in found.items() if t == task and won]
        if whole:
            longest = max(whole)[0]
            best = listed(cell for length, cell in whole if length == longest)
            said += say("<b>{}</b>: every seed succeeds at T = {} for {}. ", task, longest, best)
        elif some:
            said += say(
                "<b>{}</b>: some seeds succeed for {}, all for none. ", task, listed(dict.fromkeys(some))
            )
        else:
            left, cell = min((share, cell) for (t, cell, _), (_, _, share) in found.items() if t == task)
            said += say(
                "<b>{}</b>: no seed succeeds; closest is {}, with {} times the baseline's loss. ",
                task,
                cell,
                number(left, 2),
            )
    return said + "This says what these few steps teach, not what a long training could."


def _table(data: Data, found: Rates) -> Table:
    groups: dict[str, list[Sequence[Text]]] = {}
    for (task, cell, length), (won, of, share) in found.items():
        interval = wilson(won, of)
        groups.setdefault(task, []).append(
            [
                say("<b>{}</b>", cell),
                str(length),
                f"{won} of {of}",
                f"{interval.low:.2f} to {interval.high:.2f}",
                number(share, 3),
            ]
        )
    columns: list[tuple[Text, str]] = [("cell", ""), ("T", "number"), ("successes", "number")]
    columns += [("Wilson interval", "number"), ("median loss ÷ baseline", "number")]
    return Table("Table of successes", columns, list(groups.items()))
