"""Forecasts by quantiles: a chaotic laser, traffic on a highway, and the monthly series of the M3 competition."""

from typing import Any

import optax

from benchmarks.applications.application import Bar, Trained
from benchmarks.applications.forecasting import laser, m3, traffic
from benchmarks.applications.forecasting.common import Settings
from benchmarks.applications.training import fit_best

TASKS = {"laser": laser, "traffic": traffic, "M3": m3}
SETTINGS = {
    "laser, 1 step": Settings("laser", horizon=1, hidden_size=128, batch_size=32, num_steps=3000),
    "laser, 100 steps": Settings("laser", horizon=100, hidden_size=128, batch_size=16, num_steps=2000),
    "traffic": Settings(
        "traffic", horizon=24, hidden_size=64, batch_size=32, num_steps=1700, dropout=0.1, rate=4e-3
    ),
    "M3": Settings(
        "M3", horizon=18, hidden_size=64, num_layers=2, batch_size=256, num_steps=2500, dropout=0.1
    ),
}
CELLS = ("lstm", "gru")
VARIANTS = {
    f"{name}, {cell}": settings._replace(cell=cell) for name, settings in SETTINGS.items() for cell in CELLS
}
BARS = (
    Bar("laser 1 step NRMSE", at_most=0.13),
    Bar("laser 100 steps NRMSE", at_most=0.0, over="analogs"),
    Bar("traffic MAE", at_most=0.0, over="mean of four weeks"),
    Bar("traffic MAE", at_most=0.0, over="ridge"),
    Bar("M3 sMAPE", at_most=15.0),
    Bar("M3 MASE", at_most=1.0),
    Bar("M3 coverage", at_least=0.93, at_most=0.97),
)
TUNING = (
    "Orders, delays, neighbors and penalties of the baselines were chosen from three to nine settings by the "
    "validation part. The settings of the models were fixed before, without a search; the best params of a run have "
    "the lowest loss on the validation part."
)


def train(variant: str, *, seed: int, toy: bool = False) -> Trained:
    """Train a forecaster; the best params by the loss on the validation part are kept."""
    settings = VARIANTS[variant]
    if toy:
        settings = settings._replace(hidden_size=16, num_layers=1, batch_size=8, num_steps=20)
    task = TASKS[settings.task].task(settings, seed=seed, toy=toy)
    best = fit_best(
        task.model,
        task.loss,
        optimizer(settings),
        task.batches,
        task.evaluate,
        num_steps=settings.num_steps,
        eval_every=max(settings.num_steps // 20, 10),
        seed=seed,
    )
    metrics = {part: task.measure(*task.forecasts(best.params, part)) for part in ("validation", "test")}
    return Trained(task.model, best.params, metrics, best.minutes, best.parameters, best.losses)


def optimizer(settings: Settings) -> Any:
    """Return Adam with a falling rate and clipped gradients."""
    rate = optax.cosine_decay_schedule(settings.rate, settings.num_steps, 0.05)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def baselines(toy: bool = False) -> dict[str, dict[str, float]]:
    """Return the metrics of the baselines on the test part; several tasks may have a baseline of one name."""
    found: dict[str, dict[str, float]] = {}
    for task in TASKS.values():
        for name, metrics in task.baselines(toy).items():
            found.setdefault(name, {}).update(metrics)
    return found
