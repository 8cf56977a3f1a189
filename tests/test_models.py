"""Test the models: they train, take any cell, ignore padding, and are values; and `stack`, `last_step`, `best_path`."""

import inspect
import itertools
import pickle
import re
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import seqjax as sj
from seqjax import models
from seqjax.training import (
    cross_entropy,
    ctc_loss,
    init_train_state,
    last_step,
    make_train_step,
    quantile_loss,
)

T, B, S, H = 6, 3, 4, 8
V = 7
QUANTILES = (0.1, 0.5, 0.9)
RANDOM = np.random.default_rng(0)
MASK = np.arange(T)[:, None] < np.array([6, 3, 5])
SOURCE_MASK = np.arange(S) < np.array([[4], [2], [3]])
VECTORS = RANDOM.normal(size=(T, B, 2)).astype(np.float32)
TOKENS = RANDOM.integers(0, V, (T, B))
IMAGES = RANDOM.integers(0, 256, (B, 6, 5, 3)).astype(np.uint8)
SOURCE = sj.Source(RANDOM.integers(0, V, (B, S)), SOURCE_MASK)

# Each model as a function of its cell, with its loss and one batch.
MODELS = {
    "language_model": (
        lambda cell: models.language_model(V, cell, hidden_size=H),
        cross_entropy,
        sj.Batch(TOKENS, (TOKENS + 1) % V, mask=MASK),
    ),
    "sequence_classifier": (
        lambda cell: models.sequence_classifier(
            3, cell, vocabulary_size=V, hidden_size=H, bidirectional=False
        ),
        last_step(cross_entropy),
        sj.Batch(TOKENS, np.array([0, 1, 2]), mask=MASK),
    ),
    "ctc_recognizer": (
        lambda cell: models.ctc_recognizer(4, cell, hidden_size=H),
        ctc_loss,
        sj.Batch(VECTORS, np.array([[1, 2, 3], [2, -1, -1], [3, 3, -1]]), mask=MASK),
    ),
    "forecaster": (
        lambda cell: models.forecaster(3, cell, horizon=2, hidden_size=H),
        last_step(partial(quantile_loss, quantiles=QUANTILES, event_ndim=1)),
        sj.Batch(VECTORS, RANDOM.normal(size=(B, 2)).astype(np.float32), mask=MASK),
    ),
    "translator": (
        lambda cell: models.translator(V, V, cell, hidden_size=H),
        cross_entropy,
        sj.Batch(TOKENS, (TOKENS + 1) % V, mask=MASK, context=SOURCE),
    ),
    "captioner": (
        lambda cell: models.captioner(V, cell, image_shape=(6, 5, 3), hidden_size=H),
        cross_entropy,
        sj.Batch(TOKENS, (TOKENS + 1) % V, mask=MASK, context=IMAGES),
    ),
}


def first_params(model, batch):
    return init_train_state(model, optax.sgd(0.1), jax.random.key(0), batch.xs[0]).params


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.fast_cases(1)
def test_a_model_learns_a_batch_whatever_its_padding_holds(name):
    """Losses fall; the padding of inputs, targets and sources changes no bit of any param."""
    make, loss, batch = MODELS[name]
    model, optimizer = make(sj.gru), optax.adam(3e-2)
    step = make_train_step(model, loss, optimizer)

    def trained(batch):
        state, losses = init_train_state(model, optimizer, jax.random.key(0), batch.xs[0]), []
        for _ in range(8):
            state, metrics = step(state, batch)
            losses.append(float(metrics.loss))
        return losses, jax.device_get(state.params)

    losses, params = trained(batch)
    assert np.isfinite(losses).all() and losses[-1] < 0.8 * losses[0]
    again, poisoned = trained(with_poison(batch))
    assert losses == again
    jax.tree.map(np.testing.assert_array_equal, params, poisoned)


def with_poison(batch):
    """The batch with other tokens, or NaN, in the padding of inputs, of targets per step, and of the source."""

    def poison(mask, values):
        wrong = V - 1 - values if np.issubdtype(values.dtype, np.integer) else np.full_like(values, np.nan)
        return np.where(mask.reshape(*mask.shape, *(1,) * (values.ndim - mask.ndim)), values, wrong)

    per_step = batch.targets.shape == MASK.shape
    batch = batch._replace(
        xs=poison(MASK, batch.xs), targets=poison(MASK, batch.targets) if per_step else batch.targets
    )
    if isinstance(batch.context, sj.Source):
        batch = batch._replace(context=sj.Source(poison(SOURCE_MASK, batch.context.values), SOURCE_MASK))
    return batch


CELLS = {
    "gated": sj.lstm,
    "diagonal": "rg_lru",
    "matrix": "gated_delta_net",
    "attention": partial(sj.attention, num_heads=2, key_size=4, window=3),
    "options": partial(sj.lstm, forget_bias=2.0),
    "hybrid": (sj.griffin_block, partial(sj.transformer_block, num_heads=2, window=4)),
    "stack": partial(sj.griffin, depth=3, num_heads=2, window=4),
    "several": (sj.gru, sj.min_gru),
}


def models_and_cells():
    """The fast tier: one model with all cells but a stack of a hybrid's blocks, and all models with two layers."""
    for name, cell in itertools.product(MODELS, CELLS):
        fast = (name == "language_model" and cell != "stack") or cell == "several"
        yield pytest.param(name, cell, id=f"{name}-{cell}", marks=() if fast else pytest.mark.slow)


@pytest.mark.parametrize(("name", "cell"), list(models_and_cells()))
def test_the_cell_is_one_argument(name, cell):
    """Shapes alone: outputs are those of another cell, and the gradient has the form of the params."""
    make, loss, batch = MODELS[name]
    model = make(CELLS[cell])
    params = jax.eval_shape(model.init, jax.random.key(0), batch.xs[0])

    def total(params):
        carry = model.initial_carry(params, batch.xs[0])
        if batch.context is not None:
            carry = model.condition(params, carry, batch.context)
        ys = model.unroll(params, carry, batch.xs, mask=MASK)[1]
        arguments = (
            (batch.targets, MASK)
            if name in ("ctc_recognizer", "forecaster", "sequence_classifier")
            else (batch.targets,)
        )
        return jnp.sum(loss(ys, *arguments)), ys

    gradient, ys = jax.eval_shape(jax.grad(total, has_aux=True), params)
    assert jax.tree.map(lambda g: (g.shape, g.dtype), gradient) == jax.tree.map(
        lambda p: (p.shape, p.dtype), params
    )
    tail = {"sequence_classifier": (3,), "ctc_recognizer": (4,), "forecaster": (2, 3)}.get(name, (V,))
    assert ys.shape == (T, B, *tail)
    assert model != make(sj.elman) and repr(make(sj.elman)) != repr(model)


@pytest.mark.parametrize("name", MODELS)
def test_models_are_values(name):
    make = MODELS[name][0]
    model = make((sj.gru, partial(sj.lstm, forget_bias=2.0), "gated_delta_net"))
    assert model == make([sj.gru, partial(sj.lstm, forget_bias=2.0), "gated_delta_net"]) != make(sj.gru)
    again = pickle.loads(pickle.dumps(model))
    assert again == model and hash(again) == hash(model)
    assert repr(model).startswith(f"{name}(") and "partial(seqjax.lstm, forget_bias=2.0)" in repr(model)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.fast_cases(2)
def test_the_paths_of_params_do_not_depend_on_dropout(name):
    batch = MODELS[name][2]
    arguments = {"sequence_classifier": {"vocabulary_size": V}, "captioner": {"image_shape": (6, 5, 3)}}.get(
        name, {}
    )
    sizes = (V, V) if name == "translator" else (V,)
    found = [
        jax.tree_util.tree_flatten_with_path(jax.eval_shape(model.init, jax.random.key(0), batch.xs[0]))[0]
        for model in (
            getattr(models, name)(*sizes, sj.gru, hidden_size=H, num_layers=2, dropout=rate, **arguments)
            for rate in (0.0, 0.3)
        )
    ]
    assert found[0] == found[1]


def test_no_model_has_a_loop_over_time_of_its_own():
    for name in MODELS:
        source = inspect.getsource(sys.modules[f"seqjax.models.{name}"])
        assert not re.search(r"\blax\b|\bscan\(|^\s+while |\brange\(|step_fn|unroll_fn", source, re.MULTILINE)
        assert len(source.splitlines()) < 130


# ---------------------------------------------------------------- facts about single models


def test_the_last_output_of_a_classifier_is_the_head_of_the_mean_of_the_hidden_states():
    model = models.sequence_classifier(3, sj.gru, hidden_size=H, num_layers=2)
    params = first_params(model, MODELS["ctc_recognizer"][2])
    logits = sj.last(model.unroll(params, None, VECTORS, mask=MASK)[1], MASK)
    layers = sj.stack(sj.gru(H // 2), 2, bidirectional=True)
    inputs, (recurrent,), head = params[0][0], params[1], params[3]
    hs = layers.unroll(recurrent, None, VECTORS @ inputs["kernel"] + inputs["bias"], mask=MASK)[1]
    means = jnp.stack([hs[: MASK[:, b].sum(), b].mean(0) for b in range(B)])
    np.testing.assert_allclose(logits, means @ head["kernel"] + head["bias"], rtol=1e-5, atol=1e-6)


def test_attention_and_feeding_are_options_of_the_decoder():
    """They show in its carry."""
    batch = MODELS["captioner"][2]
    start = batch.xs[0]
    for attention in (None, sj.scaled_dot_attention(1)):
        model = models.captioner(V, sj.gru, image_shape=(6, 5, 3), hidden_size=H, attention=attention)
        params = jax.eval_shape(model.init, jax.random.key(0), start)
        carry = jax.eval_shape(model.initial_carry, params, start)
        assert hasattr(carry[1], "memory") is (attention is not None)
    fed = models.translator(V, V, sj.gru, hidden_size=H, feed=True)
    params = jax.eval_shape(fed.init, jax.random.key(0), start)
    assert jax.eval_shape(fed.initial_carry, params, start)[1].read.shape == (B, H)


def test_images_alone_are_a_context_as_a_source_of_them_is():
    model = models.captioner(V, sj.gru, image_shape=(6, 5, 3), hidden_size=H)
    batch = MODELS["captioner"][2]
    params = first_params(model, batch)
    carry = model.initial_carry(params, batch.xs[0])
    both = [model.condition(params, carry, context) for context in (IMAGES, sj.Source(IMAGES))]
    jax.tree.map(np.testing.assert_array_equal, *both)
    assert both[0][1].memory.shape == (B, 4, H)  # a grid of 2 x 2


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: models.language_model(V, sj.gru(8)), TypeError,
         r"language_model\(cell\): expected a factory .*got gru\(hidden_size=8\)\. Pass the factory itself"),
        (lambda: models.language_model(V, "grru"), ValueError, "unknown name 'grru'. Did you mean 'gru'"),
        (lambda: models.language_model(V, "conv_lstm"), ValueError, "unknown name 'conv_lstm'"),
        (lambda: models.language_model(V, abs), TypeError,
         r"language_model\(cell\): expected .* to return a Cell or Layer, got 256"),
        (lambda: models.language_model(V, num_layers=0), ValueError,
         r"language_model\(num_layers\): expected a whole number of at least 1"),
        (lambda: models.language_model(V, ()), ValueError, r"expected one cell or more"),
        (lambda: models.translator(V, V, hidden_size=7), ValueError,
         r"translator\(hidden_size\) of both directions: expected a multiple of 2, got 7"),
        (lambda: models.translator(0, V), ValueError, r"translator\(source_size\)"),
        (lambda: models.translator(V, 0), ValueError, r"translator\(target_size\)"),
        (lambda: models.captioner(0), ValueError, r"captioner\(vocabulary_size\)"),
        (lambda: models.captioner(V, dropout=1.0), ValueError, r"captioner\(dropout\): expected a number in \[0, 1\)"),
        (lambda: models.sequence_classifier(3, pool="max"), ValueError, r"\(pool\): expected one of 'mean', 'last'"),
        (lambda: models.ctc_recognizer(1), ValueError, r"\(num_classes\): expected a whole number of at least 2"),
        (lambda: models.forecaster(3, horizon=0), ValueError, r"forecaster\(horizon\)"),
        (lambda: sj.stack(sj.gru), TypeError, r"stack\(cell\): expected cells or layers .* Call the factory first"),
        (lambda: sj.stack((sj.gru(4), sj.lstm(4)), 1), ValueError,
         r"stack\(num_layers\): expected a whole number of at least 2, the number of cells, got 1"),
        (lambda: sj.stack((), 2), ValueError, r"stack\(cell\): expected one cell or more, got none"),
        (lambda: sj.stack(sj.gru(4), norm="batch"), ValueError, "norm"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


# ---------------------------------------------------------------- the parts: stack, last_step, best_path


def identity(x):
    return x


def test_a_stack_drops_outputs_of_all_layers_but_the_last():
    layer = sj.stack(sj.pointwise(identity), 3, dropout=0.5)
    ys = layer.unroll(
        layer.init(jax.random.key(0), jnp.ones((2, 64))), None, jnp.ones((5, 2, 64)), key=jax.random.key(1)
    )[1]
    assert set(np.unique(ys)) == {0, 4}  # each dropout doubles what it keeps
    assert 0.15 < np.mean(ys == 4) < 0.35


def test_a_residual_stack_adds_inputs_and_normalizes_before_each_layer_and_at_the_end():
    layer, xs = sj.stack(sj.elman(3), 2, norm="rms", residual=True), RANDOM.normal(size=(4, 1, 3))
    params = layer.init(jax.random.key(0), xs[0])
    ys = layer.unroll(params, None, xs)[1]

    def norm(x):
        return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6)

    x = xs
    for _, p in params[:2]:
        h, out = np.zeros((1, 3)), []
        for z in norm(x):
            h = np.tanh(z @ p.w_x + h @ p.w_h + p.b)
            out.append(h)
        x = x + np.stack(out)
    np.testing.assert_allclose(ys, norm(x), rtol=1e-6)


def test_layers_take_their_cells_in_turn():
    layer = sj.stack((sj.gru(4), sj.lstm(4)), 3)
    params = jax.eval_shape(layer.init, jax.random.key(0), jnp.ones((1, 4)))
    assert [type(p[0]).__name__ for p in params] == ["GRUParams", "LSTMParams", "GRUParams"]


def test_the_loss_of_the_last_step_is_that_of_the_last_output():
    logits = RANDOM.normal(size=(T, B, 3))
    labels = np.array([2, 0, 1])
    ends = np.stack([logits[MASK[:, b].sum() - 1, b] for b in range(B)])
    expected = np.log(np.exp(ends).sum(-1)) - ends[np.arange(B), labels]
    np.testing.assert_allclose(last_step(cross_entropy)(logits, labels, MASK), expected, rtol=1e-6)


def test_the_best_path_merges_repeated_classes_and_removes_blanks():
    """Against a loop over random paths, with steps that did not happen anywhere."""
    path = RANDOM.integers(0, 3, (40, 50))
    mask = RANDOM.random((40, 50)) < 0.7
    labels = sj.best_path(np.eye(3)[path], mask, blank=1)
    for b in range(50):
        expected = [k for k, _ in itertools.groupby(path[mask[:, b], b]) if k != 1]
        assert labels[b].tolist() == expected + [-1] * (40 - len(expected))


def test_the_best_path_of_other_shapes_is_refused():
    with pytest.raises(
        ValueError, match=r"best_path: expected logits \[T, \*B, K\] and a mask bool \[T, \*B\], got "
    ):
        sj.best_path(np.zeros((5, 2, 3)), np.ones((5, 3), bool))
