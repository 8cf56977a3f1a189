"""Train models on tasks that need a long memory with fixed budgets, and compare the outcomes with the literature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import seqjax as sj
from benchmarks.results import Group, Table
from seqjax.gradients import objective
from seqjax.statistics import wilson
from seqjax.tasks import Task, adding, copying, multi_query_recall, parity

TITLE = "What is learned"
ABOUT = """\
Every run trains with Adam on fresh batches. The learning rate decays by a cosine over a budget of steps that was fixed
before the run, and the norm of the gradient is clipped at 1. At regular intervals the model is evaluated on {held_out}
new sequences. A seed has solved the task where one evaluation meets the task's criterion; a run stops once all of its
seeds have solved it. Success rates have 95% Wilson intervals. "As expected" compares the rate with results known for
the
model: "solved" requires more than half of the seeds, "not solved" requires none. Losses and accuracies are those of the
last evaluation: the median over the seeds, with their range in brackets."""
HELD_OUT = 512
ABOUT = ABOUT.format(held_out=HELD_OUT)


Make = Callable[[int], sj.Layer]


@dataclass(frozen=True)
class Trial:
    """One or more models on a task.

    Attributes:
        task: name in the tables.
        train: the task for training.
        test: the task for evaluation, whose criterion decides.
        models: by name, the factory ``width -> layer of vectors``, and whether the model should solve the task. Several
            models of a trial differ in their initial params only, and share one program.
        steps: budget of training steps.
        width: width of the layers.
        batch_size: sequences per step.
        rate: learning rate of Adam.
        evaluations: number of evaluations, evenly spread over the budget.
    """

    task: str
    train: Task
    test: Task
    models: dict[str, tuple[Make, bool]]
    steps: int
    width: int = 128
    batch_size: int = 64
    rate: float = 1e-3
    evaluations: int = 20


def cell(make: Callable[..., sj.Cell], **options: Any) -> Make:
    """Return a factory of a single layer of a cell."""
    return lambda width: sj.recurrent(make(width, **options))


def linear_blocks(make: Callable[..., sj.Cell], **options: Any) -> Make:
    """Return a factory of two residual blocks, each a linear recurrence and a nonlinear feed-forward part."""

    def block(width: int) -> sj.Layer:
        feed_forward = nn.Sequential([nn.LayerNorm(), nn.Dense(2 * width), nn.gelu, nn.Dense(width)])
        return sj.serial(
            sj.residual(sj.recurrent(make(width, **options))), sj.residual(sj.pointwise(feed_forward))
        )

    return lambda width: sj.serial(block(width), block(width))


def blocks(make: Callable[..., sj.Layer], **options: Any) -> Make:
    """Return a factory of two blocks."""
    return lambda width: sj.serial(make(width, **options), make(width, **options))


def trials(length: int = 200, scale: float = 1.0) -> list[Trial]:
    """Return all trials; `scale` multiplies the budgets.

    The length of the copying task is its delay, as in the literature; its sequences have 20 more steps.
    """
    long, memory = adding(length), copying(length + 20)
    short, extended, recall = parity(40), parity(256), multi_query_recall(64, num_pairs=8)
    adds, copies = f"adding, T = {length}", f"copying, T = {length}"
    sums, recalls = "parity, trained at T = 40, tested at T = 256", "multi-query recall, 8 pairs, T = 64"
    chrono, turning = cell(sj.chrono_lstm, t_max=float(length)), cell(sj.orthogonal_rnn)
    linear = linear_blocks(sj.lru, r_min=0.9, r_max=0.999)
    negative = blocks(sj.gated_delta_block, num_heads=4, negative_eigenvalues=True)
    positive = blocks(sj.gated_delta_block, num_heads=4)
    attends = blocks(sj.transformer_block, num_heads=4, max_length=recall.length)
    table = [
        Trial(adds, long, long, {"GRU": (cell(sj.gru), True)}, 6000),
        Trial(adds, long, long, {"LRU": (linear, True)}, 6000, 64),
        Trial(copies, memory, memory, {"orthogonal RNN": (turning, True)}, 6000),
        Trial(
            copies,
            memory,
            memory,
            {"LSTM, chrono": (chrono, True), "LSTM": (cell(sj.lstm), False)},
            20_000,
        ),
        Trial(sums, short, extended, {"LSTM": (cell(sj.lstm), True)}, 6000, 64),
        Trial(sums, short, extended, {"gated_delta_net, eigenvalues in (-1, 1)": (negative, True)}, 9000, 64),
        Trial(sums, short, extended, {"gated_delta_net, eigenvalues in (0, 1)": (positive, False)}, 9000, 64),
        Trial(recalls, recall, recall, {"delta_net": (blocks(_delta_block), True)}, 6000, 64),
        Trial(recalls, recall, recall, {"attention": (attends, True)}, 6000, 64),
    ]
    return [Trial(**{**vars(trial), "steps": max(1, round(trial.steps * scale))}) for trial in table]


def learn(trial: Trial, seeds: int, seed: int) -> dict[str, dict[str, Any]]:
    """Return, by model, the scores as lists ``[evaluation][seed]``, and the steps of the evaluations.

    One program trains all seeds at once.
    """
    models = {name: _model(trial, make) for name, (make, _) in trial.models.items()}
    model, *_ = models.values()
    schedule = optax.cosine_decay_schedule(trial.rate, trial.steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    evaluate = objective(model, trial.train.objective)

    def mean(params: Any, batch: sj.Batch) -> jax.Array:
        total, (count, _) = evaluate(params, model.initial_carry(params, batch.xs[0]), batch)
        return total / count

    def begin(key: jax.Array, begun: sj.Layer) -> Any:
        params = begun.init(key, jax.eval_shape(lambda: trial.train.sample(key, 1)[0][0]))
        return params, optimizer.init(params)

    def step(state: Any, key: jax.Array) -> Any:
        params, opt_state = state
        gradients = jax.grad(mean)(params, sj.Batch(*trial.train.sample(key, trial.batch_size)))
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    def train(state: Any, key: jax.Array, numbers: jax.Array) -> Any:
        return jax.lax.scan(lambda s, n: step(s, jax.random.fold_in(key, n)), state, numbers)[0]

    def test(state: Any, key: jax.Array) -> Any:
        xs, targets = trial.test.sample(key, HELD_OUT)
        ys = model.unroll(state[0], model.initial_carry(state[0], xs[0]), xs)[1]
        return trial.test.score(ys, targets)

    for_params, for_training, for_test = jax.random.split(jax.random.key(seed), (3, seeds))
    begun = [jax.vmap(lambda key, each=each: begin(key, each))(for_params) for each in models.values()]
    state = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *begun)
    for_training, for_test = (jnp.tile(keys, len(models)) for keys in (for_training, for_test))
    train = jax.jit(jax.vmap(train, (0, 0, None)), donate_argnums=0)
    test = jax.jit(jax.vmap(test))
    edges = np.linspace(0, trial.steps, trial.evaluations + 1).round().astype(int)
    scores, steps = [], []
    for first, last in zip(edges, edges[1:]):
        state = train(state, for_training, jnp.arange(first, last))
        scores.append(jax.tree.map(np.asarray, test(state, for_test)))
        steps.append(int(last))
        if np.any([score.solved for score in scores], 0).all():
            break
    curves = {}
    for number, name in enumerate(models):
        own = slice(number * seeds, (number + 1) * seeds)
        fields = ("loss", "accuracy", "solved")
        values = {field: [getattr(score, field)[own].tolist() for score in scores] for field in fields}
        curves[name] = {"steps": steps, **values}
    return curves


def run(seeds: int, seed: int, length: int, scale: float, only: str, say: Callable) -> list[Group]:
    """Return a table per task; `only` is a part of the names of the models and tasks to run."""
    chosen = [item for item in trials(length, scale) if only in f"{item.task}: {', '.join(item.models)}"]
    if not chosen:
        raise ValueError(f"learning(only): expected a part of the name of a run, got {only!r}.")
    groups: dict[str, list] = {}
    for item in chosen:
        models = ", ".join(item.models)
        say(f"{item.task}: {models}; {item.steps} steps of {item.batch_size} sequences, {seeds} seeds")
        for name, curves in learn(item, seeds, seed).items():
            say(f"  {_row(item, name, curves)}")
            groups.setdefault(item.task, []).append((item, name, curves))
    return [_group(task, found) for task, found in groups.items()]


def _group(task: str, found: Sequence[tuple[Trial, str, dict]]) -> Group:
    test = found[0][0].test
    columns = ["model", "solved", "expected", "as expected", "steps to solve", "budget", "loss", "accuracy"]
    title = (
        f"{test.success.metric} to reach: {test.success.threshold:.4g}; "
        f"blind baseline of the loss: {test.baseline:.4g}"
    )
    table = Table(title, columns, [_row(*item) for item in found])
    options = ("steps", "width", "batch_size", "rate")
    data = [
        {"model": name, **{key: getattr(item, key) for key in options}, "curves": curves}
        for item, name, curves in found
    ]
    return Group(task, "", [], [table], data)


def _row(item: Trial, name: str, curves: dict) -> list[str]:
    solved, expected = np.any(curves["solved"], 0), item.models[name][1]
    count, seeds = int(solved.sum()), len(solved)
    _, low, high = wilson(count, seeds)
    as_expected = count > seeds / 2 if expected else count == 0
    firsts = [
        curves["steps"][int(np.argmax(column))] for column in np.transpose(curves["solved"]) if column.any()
    ]
    return [
        name,
        f"{count}/{seeds} [{low:.2f}, {high:.2f}]",
        "solved" if expected else "not solved",
        "yes" if as_expected else "**no**",
        f"{np.median(firsts):.0f}" if firsts else "",
        f"{item.steps}",
        _spread(curves["loss"][-1], "{:.2g}"),
        _spread(curves["accuracy"][-1], "{:.3f}"),
    ]


def _spread(values: Sequence[float], form: str) -> str:
    if not np.isfinite(values).all():
        return ""
    middle, low, high = (form.format(value) for value in (np.median(values), min(values), max(values)))
    return f"{middle} [{low}, {high}]"


def _delta_block(width: int) -> sj.Layer:
    feed_forward = nn.Sequential([nn.RMSNorm(), nn.Dense(2 * width), nn.gelu, nn.Dense(width)])
    mixed = sj.serial(
        sj.pointwise(nn.RMSNorm()),
        sj.causal_conv(4),
        sj.recurrent(sj.delta_net(width, num_heads=4)),
    )
    return sj.serial(sj.residual(mixed), sj.residual(sj.pointwise(feed_forward)))


def _model(trial: Trial, make: Make) -> sj.Layer:
    inputs: Any = nn.Dense(trial.width)
    if trial.train.num_inputs is not None:
        inputs = nn.Embed(trial.train.num_inputs, trial.width)
    return sj.serial(sj.pointwise(inputs), make(trial.width), sj.pointwise(nn.Dense(trial.train.num_outputs)))
