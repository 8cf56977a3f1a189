"""Test that a non-finite step makes no update, is counted, and keeps the streams."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.refusals import refusals
from jax.sharding import AxisType

import seqjax as sj
from seqjax.training import gradient_norms, init_train_state, make_train_step, update_norms

T, B, H = 4, 8, 3
KEY = jax.random.key(0)
MODEL = sj.recurrent(sj.elman(H, activation="identity", param_dtype=jnp.float64))
MESH = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))


def squares(ys, targets):
    return jnp.sum((ys - targets) ** 2, -1)


def batch_of(seed, spoilt=None):
    """With a value put into one input of the last row, which one device of several sees alone."""
    xs, targets = np.random.default_rng(seed).normal(size=(2, T, B, H))
    if spoilt is not None:
        xs[1, -1, 0] = spoilt
    return sj.Batch(xs, targets)


def host(tree):
    return jax.tree.map(np.array, tree)


def kept(state):
    """What a skipped step must leave as it is."""
    return host((state.params, state.opt_state, state.carry, state.estimator_state))


def assert_equal(got, expected):
    jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.mark.parametrize("mesh", [None, MESH], ids=["one", "many"])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("estimator", [sj.full_bptt(), sj.truncated_bptt(2)], ids=str)
@pytest.mark.fast_cases(2)
def test_what_is_not_finite_is_skipped_and_counted(mesh, accumulate, estimator):
    optimizer = optax.adam(0.01)
    step = make_train_step(MODEL, squares, optimizer, mesh=mesh, accumulate=accumulate, estimator=estimator)
    state = init_train_state(MODEL, optimizer, KEY, batch_of(0).xs[0], estimator=estimator)
    counts, spoilt = [], [None, np.nan, np.inf, None, 1e300, None]
    for seed, value in enumerate(spoilt):
        before = kept(state)
        state, metrics = step(state, batch_of(seed, value))
        assert bool(metrics.finite) == (value is None)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept(state)))
        if value is not None:
            assert_equal(kept(state), before)
        counts.append((int(state.step), int(state.skipped), int(state.consecutive)))
    assert counts == [(1, 0, 0), (2, 1, 1), (3, 2, 2), (4, 2, 0), (5, 3, 1), (6, 3, 0)]
    assert state.skipped.dtype == state.consecutive.dtype == jnp.int32
    for leaf in jax.tree.leaves(state.params):  # all devices agree
        assert_equal([shard.data for shard in leaf.addressable_shards], [leaf] * len(leaf.addressable_shards))

    good = init_train_state(MODEL, optimizer, KEY, batch_of(0).xs[0], estimator=estimator)
    for seed in (0, 3, 5):
        good, _ = step(good, batch_of(seed))
    assert_equal(kept(state), kept(good))  # as if there had been no such batches


def test_an_update_that_is_not_finite_is_skipped_as_well():
    optimizer = optax.stateless(lambda updates, params: jax.tree.map(lambda u: u / 0, updates))
    state = init_train_state(MODEL, optimizer, KEY, batch_of(0).xs[0])
    before = host(state.params)
    state, metrics = make_train_step(MODEL, squares, optimizer)(state, batch_of(0))
    assert not metrics.finite and np.isfinite(metrics.loss) and np.isfinite(metrics.gradient_norm)
    assert_equal(host(state.params), before)


def test_a_gradient_that_is_not_finite_beside_a_finite_loss():
    def loss(ys, targets):
        return jnp.sqrt(jnp.sum(ys * 0, -1))  # its derivative at zero is infinite, times zero

    optimizer = optax.adam(0.1)
    state = init_train_state(MODEL, optimizer, KEY, batch_of(0).xs[0])
    before = kept(state)
    state, metrics = make_train_step(MODEL, loss, optimizer)(state, batch_of(0))
    assert metrics.loss == 0 and not metrics.finite and int(state.skipped) == 1
    assert_equal(kept(state), before)


@pytest.mark.parametrize("mesh", [None, MESH], ids=["one", "many"])
def test_a_stream_that_overflows_unseen_by_loss_and_gradient_is_not_handed_on(mesh):
    """The sum of all inputs is finite up to the last step but one, and only the first step has a loss."""

    def add(params, h, x):
        return h + x, params * x

    cell = sj.Cell(
        init=lambda key, x: jnp.ones(H),
        initial_carry=lambda params, x: jnp.zeros_like(x),
        recurrence=sj.Step(add),
    )
    xs = np.zeros((T, B, H))
    xs[-2:, -1] = 1.5e308
    batch, estimator, optimizer = sj.Batch(xs, np.ones((T, B, H))), sj.truncated_bptt(T), optax.sgd(0.1)

    def first(ys, targets):
        return squares(ys[0], targets[0])

    step = make_train_step(sj.recurrent(cell), first, optimizer, estimator=estimator, mesh=mesh)
    state = init_train_state(sj.recurrent(cell), optimizer, KEY, xs[0], estimator=estimator)
    state, metrics = step(state, batch)
    assert np.isnan(metrics.loss) and np.isfinite(metrics.gradient_norm) and not metrics.finite
    assert_equal(np.asarray(state.carry), np.zeros((B, H)))


def test_norms_of_narrow_gradients_are_wide_and_updates_of_skipped_steps_are_zero():
    model = sj.recurrent(sj.elman(H, param_dtype=jnp.float16))
    probes = {"updates": lambda params, gradients, updates: updates, "norms": update_norms}
    step = make_train_step(model, lambda ys, _: 400 * jnp.sum(ys, -1), optax.sgd(0.01), probes=probes)
    xs = jnp.ones((1, B, H), jnp.float16)
    state = init_train_state(model, optax.sgd(0.01), KEY, xs[0])
    before = host(state.params)
    state, metrics = step(state, sj.Batch(xs, None))
    assert metrics.finite and 256 < metrics.gradient_norm < 4000  # its square is beyond float16
    updates = host(metrics.probes["updates"])
    jax.tree.map(
        lambda p, b, u: np.testing.assert_allclose(p, b + u, rtol=2e-3), host(state.params), before, updates
    )
    before = host(state.params)
    state, metrics = step(state, sj.Batch(xs * jnp.nan, None))
    assert not metrics.finite and not any(metrics.probes["norms"].values())
    assert_equal(host(state.params), before)


def test_random_keys_in_an_optimizer_pass_the_guard():
    optimizer = optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(1)), optax.sgd(0.1))
    step, state = (
        make_train_step(MODEL, squares, optimizer),
        init_train_state(MODEL, optimizer, KEY, batch_of(0).xs[0]),
    )
    for value in (None, np.nan):
        state, metrics = step(state, batch_of(0, value))
    assert int(state.skipped) == 1


# ---------------------------------------------------------------- probes


@pytest.mark.parametrize("mesh", [None, MESH], ids=["one", "many"])
def test_probes_see_params_gradients_and_updates(mesh):
    def everything(params, gradients, updates):
        return {"params": params, "gradients": gradients, "updates": updates}

    probes = {"all": everything, "norms": gradient_norms, "updates": update_norms}
    batch, optimizer = batch_of(0), optax.sgd(0.5)
    state = init_train_state(MODEL, optimizer, KEY, batch.xs[0])
    before = host(state.params)
    state, metrics = make_train_step(MODEL, squares, optimizer, probes=probes, mesh=mesh)(state, batch)
    found = metrics.probes["all"]
    assert_equal(host(found["params"]), before)
    jax.tree.map(lambda u, g: np.testing.assert_allclose(u, -0.5 * g), found["updates"], found["gradients"])
    jax.tree.map(lambda p, b, u: np.testing.assert_allclose(p, b + u), state.params, before, found["updates"])
    norms = metrics.probes["norms"]
    assert set(norms) == {"w_x", "w_h", "b"}
    for name, norm in norms.items():
        gradient = np.asarray(getattr(found["gradients"], name))
        np.testing.assert_allclose(norm, np.sqrt(np.sum(gradient**2)), rtol=1e-12)
        np.testing.assert_allclose(metrics.probes["updates"][name], 0.5 * norm, rtol=1e-12)
    total = np.sqrt(sum(float(norm) ** 2 for norm in norms.values()))
    np.testing.assert_allclose(metrics.gradient_norm, total, rtol=1e-12)


def step_with(probes):
    return make_train_step(MODEL, squares, optax.sgd(0.1), probes=probes)


REFUSED = {
    "a list": (
        lambda: step_with([gradient_norms]), TypeError,
        r"make_train_step\(probes\): expected a dict of functions .* got list"),
    "a number": (
        lambda: step_with({"a": 1}), TypeError,
        r"make_train_step\(probes\): expected a dict of functions .* got 'a': 1"),
}  # fmt: skip


@refusals(REFUSED)
def test_what_is_not_a_probe_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
