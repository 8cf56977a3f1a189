"""Compare labels of params, clipping by layer and averages with transcriptions and closed forms."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.refusals import refusals
from helpers.tiers import slow

import seqjax as sj
from seqjax.base import Diagonal, Matrix
from seqjax.cells import REGISTRY
from seqjax.cells.common.labels import elementwise, sets_recurrence
from seqjax.training import (
    average_params,
    averaged_params,
    clip_by_layer_norm,
    init_train_state,
    make_train_step,
    parameter_labels,
)

KEY = jax.random.key(0)
H = 4


def names(tree):
    return {
        jax.tree_util.keystr(path, simple=True): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize("name", REGISTRY)
@pytest.mark.fast_cases(20)
def test_labels_have_the_structure_of_the_params(name):
    entry = REGISTRY[name]
    layer = sj.recurrent(entry.make(H))
    params = jax.eval_shape(layer.init, KEY, entry.example((2,), 3))
    labels = parameter_labels(params)
    assert jax.tree.structure(labels) == jax.tree.structure(params)
    assert set(jax.tree.leaves(labels)) <= {"recurrence", "elementwise", "other"}
    # One number per unit has one axis; those with more of them, a row per gate or per number of the state, are named.
    packed = {"a_log", "a_imag"} if name in ("mamba", "s4d", "s4d_bilinear") else set()
    packed |= {"w_h", "w_c"} if name in ("para_gru", "para_lstm") else set()
    packed |= {"w_c"} if name == "conv_lstm" else set()  # per place as well
    shapes = names(jax.tree.map(lambda leaf: len(leaf.shape), params))
    for key, label in names(labels).items():
        assert (label != "other") == (shapes[key] == 1 or key in packed), (key, label)


@pytest.mark.parametrize(
    ("name", "recurrence", "elementwise"),
    [
        ("lstm", "", "b"),
        ("gru", "", "b b_h"),
        ("peephole_lstm", "", "b w_ci w_cf w_co"),
        ("layer_norm_lstm", "", "b b_c alpha_x alpha_h alpha_c"),
        ("indrnn", "", "b w_h"),
        ("orthogonal_rnn", "", "b"),
        ("lru", "nu_log theta_log gamma_log", ""),
        ("s4d", "step_log a_log a_imag", "d"),
        ("mamba", "b_step a_log", "d"),
        ("rg_lru", "b_r a_logit", "b_i"),
        ("hgrn", "b_f theta", "b_c b_g b_o scale shift"),
        ("mlstm", "", "b_q b_k b_v b_if b_g"),
        ("rwkv7", "b_d", "b_a xi alpha rho gain bias"),
        ("multi_query_attention", "", "b_q b_k b_v b_o"),
    ],
)
def test_labels_of_cells(name, recurrence, elementwise):
    entry = REGISTRY[name]
    params = jax.eval_shape(sj.recurrent(entry.make(H)).init, KEY, entry.example((2,), 3))
    found = names(parameter_labels(params))
    for label, expected in (("recurrence", recurrence), ("elementwise", elementwise)):
        assert {key for key, value in found.items() if value == label} == set(expected.split())


LINEAR = [name for name, entry in REGISTRY.items() if isinstance(entry.make(H).recurrence, Diagonal | Matrix)]


@pytest.mark.parametrize("name", [*LINEAR[:6], *slow(*LINEAR[6:])])
@pytest.mark.fast_cases(1)
def test_labeled_are_the_params_that_set_the_decays(name):
    """At an input of zero no projection has a say: what the decay still depends on are elementwise params."""
    cell, x = REGISTRY[name].make(H), REGISTRY[name].example((1, 1), 3)
    params = cell.init(KEY, x[0])

    def decay(params):
        us = cell.project(params, x)
        a = us.a if isinstance(cell.recurrence, Diagonal) else us.log_decay
        if a is None or not jnp.issubdtype(a.dtype, jnp.inexact):
            return jnp.zeros(())
        return jnp.sum(jnp.cos(3 * jnp.real(a)) + jnp.sin(2 * jnp.imag(a)))

    sets = {key for key, g in names(jax.grad(decay)(params)).items() if np.any(g)}
    labeled = {key for key, label in names(parameter_labels(params)).items() if label == "recurrence"}
    # A bias of which only some columns set the decay is no such parameter; gamma scales what enters by the decay.
    packed, scales = {"b", "b_if"}, {"gamma_log"}
    assert sets - labeled <= packed and labeled - sets <= scales
    assert labeled or sets <= packed


def test_labels_are_found_anywhere_in_a_model():
    model = sj.serial(
        sj.pointwise(nn.Dense(H)),
        sj.residual(sj.repeat(sj.serial(sj.recurrent(sj.lru(H)), sj.pointwise(nn.Dense(H))), 2)),
        sj.repeat(sj.recurrent(sj.normalized(sj.lstm(H))), 2),
        sj.bidirectional(sj.recurrent(sj.s5(H))),
        sj.pointwise(nn.LayerNorm()),
    )
    params = model.init(KEY, jnp.ones((1, H)))
    found = [key for key, label in names(parameter_labels(params)).items() if label == "recurrence"]
    assert len(found) == 3 + 2 * 3 and all("log" in key or "imag" in key for key in found)
    assert jax.tree.structure(parameter_labels(params)) == jax.tree.structure(params)
    found = [key for key, label in names(parameter_labels(params)).items() if label == "elementwise"]
    ends = ["bias"] * 2 + ["b", "gain_x", "gain_h", "gain_s", "shift_s"] + ["bias", "scale"]
    assert all(key.endswith(end) for key, end in zip(found, ends, strict=True))
    # Of a dict "b" may be a layer, and so may any name that holds one.
    other = {"a": jnp.ones(2), "b": jnp.ones(2), "bias": {"kernel": jnp.ones(2)}, "scale": None}
    assert parameter_labels(other) == {"a": "other", "b": "other", "bias": {"kernel": "other"}, "scale": None}


def test_labeled_params_learn_at_their_own_rate_and_do_not_decay():
    model, x = sj.serial(sj.recurrent(sj.lru(H)), sj.pointwise(nn.Dense(H))), np.ones((3, 2, H), np.float32)
    decayed = optax.chain(optax.add_decayed_weights(0.5), optax.scale(-1.0))
    groups = {"recurrence": optax.sgd(0.25), "elementwise": optax.sgd(1.0), "other": decayed}
    optimizer = optax.multi_transform(groups, parameter_labels)
    probes = {"gradients": lambda params, gradients, updates: gradients}
    step = make_train_step(model, lambda ys, targets: jnp.sum(ys**2, -1), optimizer, probes=probes)
    state = init_train_state(model, optimizer, KEY, x[0])
    before = jax.tree.map(np.array, state.params)
    state, metrics = step(state, sj.Batch(x, None))
    labels = parameter_labels(before)

    def expected(p, g, label):
        return {"recurrence": p - 0.25 * g, "elementwise": p - g, "other": p - g - 0.5 * p}[label]

    wanted = jax.tree.map(expected, before, metrics.probes["gradients"], labels)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.params, wanted)


# ---------------------------------------------------------------- clipping and averages


def test_layers_are_clipped_each_by_itself():
    model = sj.serial(sj.pointwise(nn.Dense(H)), sj.recurrent(sj.lstm(H)), sj.pointwise(nn.Dense(H)))
    shapes = jax.eval_shape(model.init, KEY, jnp.ones((1, H)))
    rng = np.random.default_rng(0)
    gradients = jax.tree.map(lambda a: rng.normal(size=a.shape), shapes)
    small = 0.01 / optax.tree.norm(gradients[2])
    gradients = (*gradients[:2], jax.tree.map(lambda g: g * small, gradients[2]))
    got, _ = clip_by_layer_norm(1.5).update(gradients, optax.EmptyState())
    for layer, clipped, norm in zip(gradients, got, (1.5, 1.5, 0.01), strict=True):
        length = np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(layer)))
        wanted = jax.tree.map(lambda g, s=norm / length: g * s, layer)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), clipped, wanted)
    zero = jax.tree.map(np.zeros_like, gradients)
    jax.tree.map(np.testing.assert_array_equal, clip_by_layer_norm(1.0).update(zero, ())[0], zero)


def test_clipping_keeps_dtypes_and_sums_wide():
    gradients = {"a": jnp.full(4, 300.0, jnp.float16), "b": jnp.full(4, 3 + 4j, jnp.complex64)}
    got, _ = clip_by_layer_norm(10.0).update({"one": gradients, "two": [gradients["b"]]}, ())
    assert got["one"]["a"].dtype == jnp.float16 and got["one"]["b"].dtype == jnp.complex64
    np.testing.assert_allclose(got["two"][0], (3 + 4j) * np.ones(4), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(np.float64(got["one"]["a"])), 10, rtol=1e-3)


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.9999])
def test_the_average_of_params_is_the_weighted_mean_of_what_updates_left(decay):
    model, x = sj.recurrent(sj.elman(H, param_dtype=jnp.float64)), np.ones((3, 2, H))
    optimizer = optax.chain(optax.adam(0.1), average_params(decay))
    step = make_train_step(model, lambda ys, targets: jnp.sum((ys - targets) ** 2, -1), optimizer)
    state = init_train_state(model, optimizer, KEY, x[0])
    first = np.array(state.params.w_x)
    np.testing.assert_array_equal(averaged_params(state.opt_state).w_x, first)
    history = []
    for seed in range(5):
        targets = np.random.default_rng(seed).normal(size=x.shape)
        if seed == 2:
            targets[0] = np.nan  # skipped: no update, nothing to average
        state, metrics = step(state, sj.Batch(x, targets))
        if metrics.finite:
            history.append(np.array(state.params.w_x))
        weights = decay ** np.arange(len(history))[::-1]
        mean = sum(w * p for w, p in zip(weights, history, strict=True)) / np.sum(weights)
        np.testing.assert_allclose(averaged_params(state.opt_state).w_x, mean, rtol=1e-9)
    assert len(history) == 4 and jax.tree.structure(averaged_params(state.opt_state)) == jax.tree.structure(
        state.params
    )


def test_an_update_that_is_not_finite_is_not_averaged():
    """The step before it and the step after it alone."""

    def update(gradients, count, params=None):
        rate = jnp.where(count == 1, jnp.inf, -0.5)
        return jax.tree.map(lambda g: rate * g, gradients), count + 1

    once = optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)
    model, x = sj.recurrent(sj.elman(H, param_dtype=jnp.float64)), np.ones((3, 2, H))
    optimizer = optax.chain(once, average_params(0.5))
    step = make_train_step(model, lambda ys, targets: jnp.sum((ys - targets) ** 2, -1), optimizer)
    state, history = init_train_state(model, optimizer, KEY, x[0]), []
    for _ in range(3):
        state, _ = step(state, sj.Batch(x, np.zeros_like(x)))
        history.append(np.array(state.params.w_x))
    assert int(state.skipped) == 1
    mean = (0.5 * history[0] + history[2]) / 1.5
    np.testing.assert_allclose(averaged_params(state.opt_state).w_x, mean, rtol=1e-12)


def test_averages_of_narrow_params_are_wide_and_integers_pass():
    params = {"w": jnp.ones(2, jnp.bfloat16), "n": jnp.zeros(2, jnp.int32)}
    transform = average_params(0.999)
    state = transform.init(params)
    assert {k: v.dtype for k, v in state.average.items()} == {"w": jnp.float32, "n": jnp.int32}
    updates = {"w": jnp.full(2, 0.5, jnp.bfloat16), "n": jnp.ones(2, jnp.int32)}
    _, state = transform.update(updates, state, params)
    np.testing.assert_array_equal(state.average["w"], [1.5, 1.5])
    np.testing.assert_array_equal(state.average["n"], [1, 1])


class Weights(NamedTuple):
    w: jax.Array


REFUSED = {
    "sets_recurrence: no field": (
        lambda: sets_recurrence("decay")(Weights), ValueError,
        r"sets_recurrence\('decay'\): expected a field of Weights, which has w\."),
    "elementwise: no field": (
        lambda: elementwise("b")(Weights), ValueError,
        r"elementwise\('b'\): expected a field of Weights, which has w\."),
    "clip_by_layer_norm: max_norm": (
        lambda: clip_by_layer_norm(0), ValueError,
        r"clip_by_layer_norm\(max_norm\): expected a finite number above 0, got 0"),
    "average_params: decay of 1": (
        lambda: average_params(1.0), ValueError, r"average_params\(decay\): expected a number in \[0, 1\)"),
    "average_params: negative decay": (
        lambda: average_params(-0.1), ValueError, r"average_params\(decay\): expected a number in \[0, 1\)"),
    "average_params: no params": (
        lambda: average_params(0.9).update(1.0, average_params(0.9).init(jnp.ones(1))), ValueError,
        "expected the params, got None"),
    "averaged_params: no average": (
        lambda: averaged_params(optax.adam(0.1).init(jnp.ones(1))), ValueError,
        "expected an optimizer state with one average, got 0"),
    "averaged_params: two averages": (
        lambda: averaged_params(optax.chain(average_params(0.9), average_params(0.5)).init(jnp.ones(1))), ValueError,
        "expected an optimizer state with one average, got 2"),
}  # fmt: skip


@refusals(REFUSED)
def test_arguments_that_do_not_fit_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
