"""Test the optimizer of a recipe: learning rates against their formula, and weight decay."""

import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seqjax.training.recipe import Recipe, optimizer_of
from seqjax.training.recipe_checks import check_recipe
from seqjax.training.schedules import SCHEDULES, learning_rates


def by_hand(schedule, rate, n, end, warmup, final):
    if n < warmup:
        return rate * (n + 1) / (warmup + 1)
    p = min((n - warmup) / (end - warmup), 1)
    fallen = {"constant": 0, "linear": p, "cosine": (1 - math.cos(math.pi * p)) / 2}[schedule]
    return rate * (1 - (1 - final) * fallen)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("warmup", "end", "final"), [(0, 6, 0.0), (3, 8, 0.1), (1, 2, 1.0)])
def test_learning_rates_are_those_of_the_formula(schedule, warmup, end, final):
    rates = learning_rates(schedule, 0.3, end=end, warmup_steps=warmup, final_rate=final)
    if schedule == "constant" and not warmup:
        assert rates == 0.3  # the state of the optimizer has no count
        return
    found = [float(rates(n)) for n in range(end + 3)]
    expected = [by_hand(schedule, 0.3, n, end, warmup, final) for n in range(end + 3)]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    assert min(found[:end]) > 0


def updates(recipe, number, params):
    optimizer = optimizer_of(recipe)
    state, found = optimizer.init(params), []
    for _ in range(number):
        update, state = optimizer.update({name: jnp.ones(2) for name in params}, state, params)
        found.append({name: float(value[0]) for name, value in update.items()})
    return found


def test_the_optimizer_follows_the_schedule_of_the_recipe():
    recipe = Recipe(optimizer="sgd", clip=0, learning_rate=0.5, steps=6, warmup_steps=2, schedule="linear")
    found = updates(recipe, 7, {"kernel": jnp.ones(2)})
    assert [round(-each["kernel"], 6) for each in found] == [
        round(by_hand("linear", 0.5, n, 6, 2, 0.0), 6) for n in range(7)
    ]


def test_weight_decay_acts_on_weights_alone():
    params = {"kernel": jnp.full(2, 3.0), "bias": jnp.full(2, 3.0)}
    none, some = (
        updates(Recipe(optimizer="adamw", clip=0, learning_rate=0.5, weight_decay=decay), 1, params)[0]
        for decay in (0.0, 0.2)
    )
    assert some["kernel"] - none["kernel"] == pytest.approx(-0.5 * 0.2 * 3.0)
    assert some["bias"] == none["bias"]
    usual = updates(Recipe(optimizer="adamw", clip=0, learning_rate=0.5), 1, params)[0]
    assert usual["kernel"] - none["kernel"] == pytest.approx(-0.5 * 1e-4 * 3.0, rel=1e-2)


def test_a_recipe_without_a_schedule_has_the_optimizer_of_optax():
    assert type(optimizer_of(Recipe(clip=0)).init(jnp.ones(2))) is type(optax.adam(0.1).init(jnp.ones(2)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight_decay": 0.1}, "weight_decay goes with optimizer adamw, got 'adam'"),
        ({"final_rate": 0.1}, "decay_steps and final_rate go with schedule cosine or linear, got constant"),
        ({"schedule": "linear", "final_rate": 1.5}, r"final_rate: expected a number in \[0, 1\], got 1.5"),
        ({"schedule": "cosine", "warmup_steps": 2000}, "warmup_steps: expected fewer than the 2000 steps"),
        ({"schedule": "cosine", "warmup_steps": 9, "decay_steps": 9}, "fewer than the 9 steps"),
        ({"schedule": "exponential"}, "schedule: unknown name 'exponential'"),
        ({"warmup_steps": -1}, "warmup_steps: expected a whole number of at least 0, got -1"),
        ({"dropout": 1.0}, r"dropout: expected a number in \[0, 1\), got 1.0"),
        ({"dropout": 0.1, "model": "griffin"}, "dropout goes with a cell or a transformer, got 'griffin'"),
        ({"accumulate": 3}, "accumulate: expected a divisor of batch_size 32, got 3"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        check_recipe(Recipe(**settings))
