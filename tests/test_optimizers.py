"""Every optimizer of optax and optax.contrib in a training step: it works, or it is refused by name."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import seqjax as sj
from seqjax.training import init_train_state, make_train_step
from seqjax.training.nonfinite import guarded_update
from seqjax.training.optimizers import as_optimizer

SGD = optax.sgd(0.1)
ARGUMENTS = {
    "learning_rate": 1e-2,
    "clipping": 1.0,
    "eta": 0.1,
    "gamma": 0.5,
    "inner": SGD,
    "max_consecutive_errors": 3,
    "max_delta": 1.0,
    "threshold": 1.0,
    "max_norm": 1.0,
    "should_transform_fn": lambda *args, **kwargs: jnp.array(True),
    "decay": 0.9,
    "mask": {"w": True, "b": False},
    "freeze_mask": {"w": True, "b": False},
    "inner_factory": optax.adam,
    "transforms": {"a": SGD, "b": optax.adam(0.1)},
    "param_labels": {"w": "a", "b": "b"},
    "max_backtracking_steps": 2,
    "max_linesearch_steps": 2,
    "step_size_fn": lambda count: 0.1,
    "step_size": -0.1,
    "optimizer": SGD,
    "tx": SGD,
    "base_optimizer": SGD,
    "adv_optimizer": optax.chain(optax.contrib.normalize(), optax.sgd(0.01)),
    "l2_norm_clip": 1.0,
    "noise_multiplier": 0.1,
    "seed": 0,
    "measure_name": "norm",
    "fast_optimizer": SGD,
    "sync_period": 2,
    "slow_step_size": 0.5,
}
BY_NAME = {
    "scale_by_muon": lambda: optax.contrib.scale_by_muon(
        weight_dimension_numbers={"w": optax.contrib.MuonDimensionNumbers()}
    ),
    "chain": lambda: optax.chain(optax.clip(1.0), SGD),
    "named_chain": lambda: optax.named_chain(("clip", optax.clip(1.0)), ("sgd", SGD)),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=1e-2),
    "inject_stateful_hyperparams": lambda: optax.inject_stateful_hyperparams(optax.adam)(learning_rate=1e-2),
    "stateless": lambda: optax.stateless(lambda g, p: g),
    "stateless_with_tree_map": lambda: optax.stateless_with_tree_map(lambda g, p: g),
    "measure_with_ema": lambda: optax.measure_with_ema(lambda updates: updates, 0.9),
    "snapshot": lambda: optax.snapshot("norm", lambda updates, *args, **kw: optax.tree.norm(updates)),
}
REFUSED = {
    "lbfgs": r"got scale_by_zoom_linesearch, which also needs '.*value_fn'",
    "scale_by_backtracking_linesearch": r"got scale_by_backtracking_linesearch, .* 'value_fn'",
    "scale_by_zoom_linesearch": r"got scale_by_zoom_linesearch, .* 'value_fn'",
    "sophia": r"which also needs obj_fn",
    "lookahead": r"LookaheadParams",
    "dpsgd": r"updates of the params' shapes|an axis of examples",
    "differentially_private_aggregate": r"updates of the params' shapes|an axis of examples",
}


def optimizers():
    found = {}
    for module in (optax, optax.contrib):
        for name, make in vars(module).items():
            if name.startswith("_") or not inspect.isfunction(make):
                continue
            if "GradientTransformation" in str(inspect.signature(make).return_annotation):
                found[name] = make
    return found


ALL = optimizers()


def made(name):
    if name in BY_NAME:
        return BY_NAME[name]()
    parameters = inspect.signature(ALL[name]).parameters.values()
    return ALL[name](**{p.name: ARGUMENTS[p.name] for p in parameters if p.default is p.empty})


def update(optimizer, params):
    """One update by gradients of ones, through `as_optimizer` and `guarded_update`."""
    optimizer = as_optimizer("make_train_step", optimizer)
    gradients = jax.tree.map(jnp.ones_like, params)
    return guarded_update(
        optimizer, jnp.array(True), gradients, optimizer.init(params), params, jnp.float32(0.5)
    )


PARAMS = {"w": jnp.full((3, 3), 0.5, jnp.float32), "b": jnp.full(3, 0.5, jnp.float32)}
MATRICES_ALONE = {"scale_by_muon"}


@pytest.mark.parametrize("name", sorted(ALL))
@pytest.mark.fast_cases(40)
def test_every_optimizer_works_or_is_refused_by_name(name):
    if name in REFUSED:
        with pytest.raises(TypeError, match=REFUSED[name]):
            jax.eval_shape(lambda: update(made(name), PARAMS))
        return
    given = {"w": PARAMS["w"]} if name in MATRICES_ALONE else PARAMS
    params, _, updates, _ = jax.eval_shape(lambda: update(made(name), given))
    shapes = jax.tree.map(lambda a: a.shape, given)
    assert jax.tree.map(lambda a: a.shape, params) == jax.tree.map(lambda a: a.shape, updates) == shapes


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ALL.keys() - REFUSED.keys()))
def test_every_optimizer_takes_steps(name):
    model, batch = sj.recurrent(sj.elman(3)), sj.Batch(np.ones((4, 2, 3), "f"), np.zeros((4, 2, 3), "f"))
    named = {"mask", "freeze_mask", "param_labels"} & set(inspect.signature(ALL[name]).parameters)
    if (named and name not in BY_NAME) or name in MATRICES_ALONE:
        pytest.skip("made for other params")
    optimizer = made(name)
    step, state = make_train_step(model, optax.l2_loss, optimizer), None
    state = init_train_state(model, optimizer, jax.random.key(0), batch.xs[0])
    for _ in range(2):
        state, metrics = step(state, batch)
    assert bool(metrics.finite) and step.jitted._cache_size() == 1


def test_optimizers_that_want_the_loss_are_given_it():
    seen = []

    def spy(updates, state, params=None, *, value, **extra):
        seen.append(value)
        return updates, state

    wants = optax.GradientTransformationExtraArgs(lambda params: (), spy)
    model, batch = sj.recurrent(sj.elman(3)), sj.Batch(np.ones((4, 2, 3), "f"), np.zeros((4, 2, 3), "f"))
    plateau = optax.chain(optax.adam(1e-2), optax.contrib.reduce_on_plateau(patience=1), wants)
    step = make_train_step(model, optax.l2_loss, plateau)
    state, metrics = step(init_train_state(model, plateau, jax.random.key(0), batch.xs[0]), batch)
    average = optax.tree.get(state.opt_state, "avg_value")
    assert seen and np.isfinite(metrics.loss) and average.shape == ()
    assert float(optax.tree.get(state.opt_state, "best_value")) in (float("inf"), float(metrics.loss))


def test_multi_steps_are_taken():
    model, batch = sj.recurrent(sj.elman(3)), sj.Batch(np.ones((4, 2, 3), "f"), np.zeros((4, 2, 3), "f"))
    optimizer = optax.MultiSteps(optax.sgd(0.1), every_k_schedule=2)
    step, state = (
        make_train_step(model, optax.l2_loss, optimizer),
        init_train_state(model, optimizer, jax.random.key(0), batch.xs[0]),
    )
    first = np.asarray(state.params.w_x)
    state, _ = step(state, batch)
    np.testing.assert_array_equal(state.params.w_x, first)
    state, _ = step(state, batch)
    assert (np.asarray(state.params.w_x) != first).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda g: jax.tree.map(lambda a: a.mean(0), g),
            r"updates of the params' shapes, got b \[\] for \[3\]",
        ),
        (
            lambda g: jax.tree.map(lambda a: a[None], g),
            r"updates of the params' shapes, got b \[1, 3\] for \[3\]",
        ),
        (lambda g: g["w"], r"updates of the params' structure"),
        (lambda g: {"w": g["w"]}, r"updates of the params' structure"),
    ],
)
def test_updates_of_another_shape_or_structure_are_refused(change, message):
    dropping = optax.stateless(lambda g, p: change(g))
    with pytest.raises(TypeError, match=message):
        jax.eval_shape(lambda: update(dropping, PARAMS))


def test_line_searches_are_refused_when_the_step_is_made():
    for optimizer in (optax.lbfgs(), optax.chain(optax.clip(1.0), optax.lbfgs()), optax.contrib.sophia(1e-2)):
        with pytest.raises(
            TypeError, match=r"make_train_step\(optimizer\): expected an optimizer of gradients"
        ):
            make_train_step(sj.recurrent(sj.elman(3)), optax.l2_loss, optimizer)
