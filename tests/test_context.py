"""Test batches with a context: conditioning, encoder and decoder, decoding, probes, and what is refused."""

import dataclasses
import functools
import itertools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import seqjax as sj
from seqjax import probes
from seqjax.gradients import objective
from seqjax.gradients.conditioning import conditioned_on
from seqjax.training import (
    BFLOAT16,
    Checkpoints,
    CorpusMetrics,
    evaluation,
    fit,
    init_train_state,
    make_train_step,
)

T, B, S, V, H, D = 4, 8, 3, 5, 16, 2
OPTIMIZER = optax.adam(1e-2)
cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def attending(cell, **options):
    """Tokens to logits of V tokens, with a memory and a context as wide as the encoder's outputs, H."""
    inner = sj.conditioned(sj.recurrent(cell), H)
    reader = sj.with_memory(inner, sj.multiplicative_attention(), memory_size=H, **options)
    return sj.serial(sj.pointwise(nn.Embed(V, H)), reader, sj.pointwise(nn.Dense(V)))


ENCODER = sj.bidirectional(sj.recurrent(sj.elman(H // 2)))
MODEL = sj.encoder_decoder(ENCODER, attending(sj.elman(H)), source_shape=(D,), source_dtype="float64")


@functools.cache
def batch_of(step, rows=B):
    """Sources of floats and targets of tokens, both of different lengths."""
    random = np.random.default_rng(step)
    lengths, source_lengths = random.integers(1, T + 1, rows), random.integers(1, S + 1, rows)
    tokens = random.integers(0, V, (T + 1, rows))
    source = sj.Source(random.normal(size=(rows, S, D)), np.arange(S) < source_lengths[:, None])
    mask = np.arange(T)[:, None] < lengths
    return sj.Batch(tokens[:-1], tokens[1:], mask=mask, context=source)


@functools.cache
def params_of(model):
    params = model.init(jax.random.key(0), batch_of(0).xs[0])
    return jax.tree.map(lambda p: p.astype(jnp.float64), params)


@functools.cache
def gradient_of(model):
    def mean(params, batch):
        layer, batch = conditioned_on("test", model, batch)
        total, (count, _) = objective(layer, cross_entropy)(params, None, batch)
        return total / count

    return jax.jit(jax.value_and_grad(mean))


def close(a, b, rtol=1e-10):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol, rtol * float(np.abs(y).max(initial=0)) + 1e-300)


def equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


# ---------------------------------------------------------------- gradients and masks


def test_the_gradient_by_the_encoder_equals_finite_differences():
    params, batch = params_of(MODEL), batch_of(0)
    _, gradient = gradient_of(MODEL)(params, batch)
    random = np.random.default_rng(0)
    direction = jax.tree.map(lambda p: random.normal(size=p.shape), params)
    for part in ("encoder", "decoder"):
        along = params._replace(**{part: getattr(direction, part)})
        zero = jax.tree.map(jnp.zeros_like, params)._replace(**{part: getattr(direction, part)})
        ends = [
            gradient_of(MODEL)(jax.tree.map(lambda p, d: p + step * d, params, zero), batch)[0]  # noqa: B023
            for step in (1e-6, -1e-6)
        ]
        pairs = zip(
            jax.tree.leaves(getattr(gradient, part)), jax.tree.leaves(getattr(along, part)), strict=True
        )
        expected = sum(np.vdot(g, d) for g, d in pairs)
        np.testing.assert_allclose((ends[0] - ends[1]) / 2e-6, expected, 1e-5)
        assert abs(expected) > 1e-3


def test_padding_of_source_and_target_never_leaks():
    batch = batch_of(1)
    values, mask = batch.context
    poisoned = batch._replace(
        xs=np.where(batch.mask, batch.xs, V - 1 - batch.xs),
        targets=np.where(batch.mask, batch.targets, V - 1 - batch.targets),
        context=sj.Source(np.where(mask[..., None], values, np.nan), mask),
    )
    assert not np.array_equal(poisoned.xs, batch.xs) and np.isnan(poisoned.context.values).any()
    equal(gradient_of(MODEL)(params_of(MODEL), poisoned), gradient_of(MODEL)(params_of(MODEL), batch))


def test_more_padding_changes_nothing():
    batch = batch_of(1)
    values, mask = batch.context
    wider = sj.Source(np.pad(values, ((0, 0), (0, 4), (0, 0))), np.pad(mask, ((0, 0), (0, 4))))
    close(
        gradient_of(MODEL)(params_of(MODEL), batch._replace(context=wider)),
        gradient_of(MODEL)(params_of(MODEL), batch),
    )


@pytest.mark.parametrize("summary", ["mean", "last"])
@pytest.mark.fast_cases(1)
def test_the_decoder_reads_the_outputs_of_the_encoder(summary):
    model = sj.encoder_decoder(
        ENCODER, attending(sj.elman(H)), source_shape=(D,), source_dtype="float64", summary=summary
    )
    assert pickle.loads(pickle.dumps(model)) == model
    params, (values, mask) = params_of(model), batch_of(0).context
    carry = model.condition(params, model.initial_carry(params, batch_of(0).xs[0]), batch_of(0).context)
    memory = carry[1]
    for row in range(B):
        n = mask[row].sum()
        ys = ENCODER.unroll(params.encoder, None, values[row, :n][:, None])[1][:, 0]
        close(memory.memory[row, :n], ys)
        close(memory.carry.context[row], ys.mean(0) if summary == "mean" else ys[-1])
    equal(memory.memory_mask, mask)


@pytest.mark.slow  # a batch of other axes
def test_sources_may_have_several_batch_axes_and_no_mask():
    batch = batch_of(0)
    context = sj.Source(batch.context.values)
    whole = conditioned_on("test", MODEL, batch._replace(context=context))[0]
    apart = jax.tree.map(lambda a: a.reshape(2, B // 2, *a.shape[1:]), context)
    xs = batch.xs.reshape(T, 2, B // 2)
    split = conditioned_on("test", MODEL, sj.Batch(xs, None, context=apart))[0]
    ys = [layer.unroll(params_of(MODEL), None, x)[1] for layer, x in ((whole, batch.xs), (split, xs))]
    close(ys[1].reshape(ys[0].shape), ys[0])


class Patches(nn.Module):
    """A memory of four entries from a picture."""

    @nn.compact
    def __call__(self, image):
        return nn.Conv(H, (2, 2), (2, 2), param_dtype=jnp.float64)(image).reshape(4, H)


@pytest.mark.parametrize("encoder", [Patches(), jnp.ravel], ids=["memory", "vector"])
def test_an_encoder_may_be_a_module_over_a_whole_source(encoder):
    model = sj.encoder_decoder(
        encoder, attending(sj.elman(H)), source_shape=(4, 4, 1), source_dtype="float64"
    )
    images = np.random.default_rng(0).normal(size=(B, 4, 4, 1))
    params, x = params_of(model), batch_of(0).xs[0]
    memory = model.condition(params, model.initial_carry(params, x), sj.Source(images))[1]
    if encoder is jnp.ravel:
        expected = images.reshape(B, 1, 16)
    else:
        expected = np.stack([encoder.apply({"params": params.encoder}, image) for image in images])
    close((memory.memory, memory.carry.context), (expected, expected.mean(1)))


def test_the_encoder_has_dropout_of_its_own_in_each_batch():
    encoder = sj.serial(ENCODER, sj.dropout(0.5))
    model = sj.encoder_decoder(encoder, attending(sj.elman(H)), source_shape=(D,), source_dtype="float64")
    params, batch = params_of(model), batch_of(0)
    batch = batch._replace(context=sj.Source(batch.context.values))

    @jax.jit
    def memory(key):
        return conditioned_on("test", model, batch, key)[0].initial_carry(params, batch.xs[0])[1].memory

    found = [memory(key) for key in (None, *map(jax.random.key, (0, 0, 1)))]
    assert not (found[0] == 0).any() and 0.2 < (found[1] == 0).mean() < 0.8
    equal(found[1], found[2])
    assert (found[1] != found[3]).any()


# ---------------------------------------------------------------- resets


def set_state(params, carry, context, *, key=None):
    return jax.tree.map(lambda leaf: leaf + context, carry)


def set_all_contexts(params, carry, context, *, key=None):
    return sj.set_context(carry, context)


@pytest.mark.parametrize(
    ("layer", "condition", "scans"),
    [
        (sj.recurrent(sj.lru(3), sj.AssociativeScan()), set_state, 1),
        (sj.conditioned(sj.recurrent(sj.lru(3), sj.AssociativeScan()), 3), set_all_contexts, 0),
    ],
    ids=["state", "context"],
)
@pytest.mark.fast_cases(1)
def test_a_reset_restarts_from_the_conditioned_carry(layer, condition, scans):
    model = dataclasses.replace(layer, condition=condition)
    random = np.random.default_rng(0)
    xs, context = random.normal(size=(6, 2, 3)), random.normal(size=(2, 3))
    params = model.init(jax.random.key(0), xs[0])
    reset = np.zeros((6, 2), bool)
    reset[4], reset[2, 1] = True, True
    layer, batch = conditioned_on("test", model, sj.Batch(xs, None, reset, context=context))
    ys = layer.unroll(params, None, batch.xs, reset=batch.reset)[1]
    for row, pieces in ((0, [(0, 4), (4, 6)]), (1, [(0, 2), (2, 4), (4, 6)])):
        start = condition(params, model.initial_carry(params, xs[0, [row]]), context[[row]])
        expected = [model.unroll(params, start, xs[first:last, [row]])[1] for first, last in pieces]
        close(ys[:, [row]], np.concatenate(expected), 1e-9)
    by_step, carry = [], layer.initial_carry(params, xs[0])
    for t in range(6):
        carry, y = layer.step(params, carry, xs[t], reset=reset[t])
        by_step.append(y)
    close(np.stack(by_step), ys, 1e-9)
    text = str(jax.make_jaxpr(lambda p: layer.unroll(p, None, xs, reset=reset)[1])(params))
    assert text.count(" scan[") == scans  # the layer keeps its method where it can


# ---------------------------------------------------------------- training


@functools.cache
def trained(mesh_shape=None, **options):
    """Losses and params after three steps, in float32."""
    model = sj.encoder_decoder(ENCODER, attending(sj.elman(H)), source_shape=(D,), source_dtype="float32")
    mesh = None if mesh_shape is None else jax.make_mesh(mesh_shape, ("data", "fsdp"))
    of_state = {name: value for name, value in options.items() if name == "precision"}
    step = make_train_step(model, cross_entropy, OPTIMIZER, mesh=mesh, **options)
    x = jax.ShapeDtypeStruct((B,), jnp.int32)
    state = init_train_state(model, OPTIMIZER, jax.random.key(0), x, mesh=mesh, **of_state)
    losses = []
    for number in range(3):
        batch = jax.tree.map(lambda a: a.astype(np.float32) if a.dtype == float else a, batch_of(number))
        state, metrics = step(state, batch)
        losses.append(float(metrics.loss))
    return np.array(losses), jax.device_get(state.params)


@pytest.mark.slow  # test_training_accumulate.py splits every other leaf of a batch
def test_micro_batches_have_their_own_rows_of_the_context():
    close(trained(accumulate=4), trained(), 1e-5)
    assert np.ptp(trained()[0]) > 1e-3


@pytest.mark.slow  # another dtype
def test_low_precision_reaches_the_encoder():
    losses, params = trained(precision=BFLOAT16)
    close(losses, trained()[0], 1e-2)
    assert np.abs(losses - trained()[0]).max() > 1e-6
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 1), (2, 4)])
def test_eight_devices_train_as_one(shape):
    close(trained(shape), trained(), 1e-5)


def test_a_context_is_split_with_the_batch_even_where_it_looks_like_steps():
    from seqjax.training.sharding import batch_specs

    batch = sj.Batch(
        np.zeros((4, 4)), np.zeros((4, 4)), context=sj.Source(np.zeros((4, 4, 2)), np.ones((4, 4), bool))
    )
    specs = batch_specs(batch, {"data": 2}, {"time": 2})
    assert specs.xs == jax.P("time", "data")
    assert specs.context == sj.Source(jax.P("data"), jax.P("data"))
    with pytest.raises(
        ValueError, match=r"expected context.values \[4, \.\.\.\], as xs \[4, 4\], got \[3, 4\]"
    ):
        batch_specs(batch._replace(context=sj.Source(np.zeros((3, 4)))), {"data": 2})


def test_training_resumes_to_the_same_bits(tmp_path):
    step = make_train_step(MODEL, cross_entropy, OPTIMIZER)

    def run(steps, **options):
        state = init_train_state(MODEL, OPTIMIZER, jax.random.key(0), batch_of(0).xs[0])
        return fit(step, state, batch_of, num_steps=steps, **options).state

    whole = run(4)
    run(2, checkpoints=Checkpoints(tmp_path))
    resumed = run(4, checkpoints=Checkpoints(tmp_path))
    equal(resumed.params, whole.params)
    assert int(resumed.step) == 4


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_bits(tmp_path):
    script = Path(__file__).parent / "helpers" / "conditioned_run.py"

    def run(folder, kill_at):
        command = [sys.executable, script, tmp_path / folder, str(kill_at)]
        environment = {**os.environ, "PYTHONPATH": str(script.parents[2])}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    assert [run("killed", kill_at).returncode for kill_at in (11, 22)] == [-9, -9]
    resumed, whole = run("killed", -1), run("whole", -1)
    assert "continues from step" in resumed.stderr and "continues" not in whole.stderr
    assert resumed.stdout == whole.stdout and whole.stdout.endswith(" 30\n")


@pytest.mark.slow
def test_a_context_goes_with_a_mesh_that_splits_time():
    reader = sj.with_memory(
        sj.conditioned(sj.recurrent(sj.lru(4), sj.TimeSharded()), 4),
        sj.multiplicative_attention(),
        memory_size=4,
    )
    decoder = sj.serial(sj.pointwise(nn.Dense(4)), reader, sj.pointwise(nn.Dense(V)))
    model = sj.encoder_decoder(sj.recurrent(sj.gru(4)), decoder, source_shape=(D,), source_dtype="float64")
    random = np.random.default_rng(0)
    batch = batch_of(0)._replace(xs=random.normal(size=(T, B, 3)), mask=None)
    found = []
    for mesh in (None, jax.make_mesh((2, 4), ("data", "time"))):
        state = init_train_state(model, OPTIMIZER, jax.random.key(0), batch.xs[0], mesh=mesh)
        state, metrics = make_train_step(model, cross_entropy, OPTIMIZER, mesh=mesh)(state, batch)
        found.append((metrics.loss, jax.device_get(state.params)))
    close(found[1], found[0], 1e-5)


def test_evaluation_conditions_each_batch():
    params = params_of(MODEL)
    found = evaluation(MODEL, cross_entropy, batch_of, 2)(Trained())["loss"]
    counts = [batch_of(i).mask.sum() for i in range(2)]
    means = [float(gradient_of(MODEL)(params, batch_of(i))[0]) for i in range(2)]
    np.testing.assert_allclose(found, np.average(means, weights=counts), 1e-6)


class Trained:
    """What `evaluation` reads of a state."""

    params = property(lambda self: params_of(MODEL))


def test_corpus_metrics_see_all_batches_and_may_decode():
    start = np.ones((1, B), np.int32)

    def collect(params, ys, batch):
        carry = MODEL.condition(params, MODEL.initial_carry(params, start[0]), batch.context)
        made = sj.generate(MODEL, params, carry, start, max_length=2)
        return jnp.argmax(ys, -1), batch.targets, batch.mask, made.tokens

    seen = []

    def compute(parts):
        seen.extend(parts)
        right, counts = zip(
            *(((found == targets)[mask].sum(), mask.sum()) for found, targets, mask, _ in parts)
        )
        return {"accuracy": sum(right) / sum(counts)}

    found = evaluation(MODEL, cross_entropy, batch_of, 2, corpus_metrics=CorpusMetrics(compute, collect))(
        Trained()
    )
    pairs = []
    for number, part in enumerate(seen):
        layer, batch = conditioned_on("test", MODEL, batch_of(number))
        ys = layer.unroll(params_of(MODEL), None, batch.xs, mask=batch.mask)[1]
        pairs += list((np.argmax(ys, -1) == batch.targets)[batch.mask])
        assert part[3].shape == (2, B)
    assert len(seen) == 2 and isinstance(seen[0][0], np.ndarray)
    np.testing.assert_allclose(found["accuracy"], np.mean(pairs))
    assert found["loss"] == evaluation(MODEL, cross_entropy, batch_of, 2)(Trained())["loss"]


def test_corpus_metrics_of_another_kind_are_refused():
    with pytest.raises(
        TypeError, match=r"evaluation\(corpus_metrics\): expected CorpusMetrics\(compute\), got <"
    ):
        evaluation(MODEL, cross_entropy, batch_of, corpus_metrics=lambda parts: {})
    again = CorpusMetrics(lambda parts: {"loss": 1.0}, lambda params, ys, batch: ())
    with pytest.raises(ValueError, match=r"expected names other than loss, got loss"):
        evaluation(MODEL, cross_entropy, batch_of, corpus_metrics=again)(Trained())


# ---------------------------------------------------------------- decoding


@functools.cache
def decoding():
    """A model with sharp distributions, its params, two sources, and the conditioned carry."""
    params = jax.tree.map(lambda p: 3 * p, params_of(MODEL))
    source = jax.tree.map(lambda a: a[:2], batch_of(3).context)
    start = jnp.ones((1, 2), jnp.int32)
    return params, MODEL.condition(params, MODEL.initial_carry(params, start[0]), source), start


@pytest.mark.slow  # a beam of all continuations is the best of all
def test_a_beam_of_one_is_greedy_decoding_of_the_source():
    params, carry, start = decoding()
    options = {"max_length": 5, "end_token": 0}
    greedy = sj.generate(MODEL, params, carry, start, **options)
    beam = sj.beam_search(MODEL, params, carry, start, beam_size=1, **options)
    equal(beam.tokens[..., 0], greedy.tokens)
    other = sj.generate(MODEL, params, None, start, **options)
    assert (np.asarray(other.log_probabilities) != np.asarray(greedy.log_probabilities)).any()


def test_a_beam_of_all_continuations_is_the_best_of_all():
    params, carry, start = decoding()
    found = sj.beam_search(MODEL, params, carry, start, beam_size=V**3, max_length=3, end_token=0)
    for row in range(2):
        one = jax.tree.map(lambda a: a[row : row + 1], carry)  # noqa: B023
        scores = {}
        for tokens in itertools.product(range(V), repeat=3):
            stop = next((t for t, token in enumerate(tokens) if token == 0), 2) + 1
            scores.setdefault(tokens[:stop], None)
        words = np.array([w + (0,) * (3 - len(w)) for w in scores]).T
        inputs = np.concatenate([np.ones((1, words.shape[1]), int), words[:-1]])
        many = jax.tree.map(lambda a: jnp.repeat(a, words.shape[1], 0), one)  # noqa: B023
        log_p = jax.nn.log_softmax(MODEL.unroll(params, many, inputs)[1])
        log_p = np.take_along_axis(np.asarray(log_p), words[..., None], -1)[..., 0]
        lengths = np.array([len(w) for w in scores])
        totals = np.where(np.arange(3)[:, None] < lengths, log_p, 0).sum(0)
        best = np.argsort(-totals)[:5]
        np.testing.assert_allclose(found.scores[row, :5], totals[best], 1e-10)
        equal(found.tokens[:, row, :5], words[:, best])


# ---------------------------------------------------------------- attention


def test_feeding_reads_what_the_step_before_found():
    layer = sj.with_memory(sj.recurrent(sj.elman(3)), sj.multiplicative_attention(), memory_size=2, feed=True)
    random = np.random.default_rng(0)
    xs, memory = random.normal(size=(6, 1, 4)), random.normal(size=(1, 5, 2))
    params = jax.tree.map(
        lambda p: jnp.asarray(random.normal(size=p.shape)), layer.init(jax.random.key(0), xs[0])
    )
    carry = sj.set_memory(layer.initial_carry(params, xs[0]), memory)
    reset = np.zeros((6, 1), bool)
    reset[3] = True
    mask = np.ones((6, 1), bool)
    mask[4] = False
    after, ys = layer.unroll(params, carry, xs, reset=reset, mask=mask)
    w_x, w_h, b = map(np.asarray, params.layer)
    expected, h, read = np.zeros((6, 5)), np.zeros(3), np.zeros(2)
    for t in range(6):
        if reset[t]:
            h, read = np.zeros(3), np.zeros(2)
        if not mask[t]:
            continue
        h = np.tanh(np.concatenate([xs[t, 0], read]) @ w_x + h @ w_h + b)
        scores = np.exp(memory[0] @ (h @ np.asarray(params.attention.w)))
        read = scores / scores.sum() @ memory[0]
        expected[t] = np.concatenate([h, read])
    close(ys[:, 0], expected)
    close(after.read[0], read)


def weights_by_hand(params, memory, mask, hs):
    attention = sj.multiplicative_attention()
    return np.stack([attention(params.attention, memory, mask, h)[1] for h in hs])


def nested(reader):
    return sj.serial(sj.running_mean(), sj.residual(sj.serial(reader, sj.pointwise(nn.Dense(4)))))


@sj.definition
def composed(size):
    return nested(sj.with_memory(sj.recurrent(sj.elman(size)), sj.multiplicative_attention(), memory_size=2))


def of_a_factory(reader):
    """A model whose origin is a factory without layers among its arguments, as those of `seqjax.models` are."""
    return sj.residual(sj.residual(composed(3)))


@pytest.mark.parametrize(
    "wrap",
    [lambda reader: reader, nested, sj.frozen, of_a_factory],
    ids=["itself", "nested", "frozen", "of a factory"],
)
@pytest.mark.fast_cases(1)
def test_attention_weights_of_a_model_as_it_is(wrap):
    reader = sj.with_memory(sj.recurrent(sj.elman(3)), sj.multiplicative_attention(), memory_size=2)
    model = wrap(reader)
    random = np.random.default_rng(0)
    xs, memory = random.normal(size=(6, 2, 4)), random.normal(size=(2, 5, 2))
    mask = np.arange(5) < np.array([[5], [2]])
    params = model.init(jax.random.key(0), xs[0])
    carry = sj.set_memory(model.initial_carry(params, xs[0]), memory, mask)
    happened = np.arange(6)[:, None] < np.array([6, 4])
    (weights,) = sj.attention_weights(model, params, carry, xs, mask=happened)
    own, inputs = (params, xs)
    if wrap in (nested, of_a_factory):
        own, inputs = params[1][0], sj.running_mean().unroll((), None, xs)[1]
    hs = sj.recurrent(sj.elman(3)).unroll(own.layer, None, inputs)[1]
    expected = weights_by_hand(own, memory, mask, hs) * happened[..., None]
    close(weights, expected)
    assert weights.shape == (6, 2, 5)


def test_attention_weights_of_an_encoder_and_decoder():
    params, carry, _ = decoding()
    xs = batch_of(3).xs[:, :2]
    for feed in (False, True):
        model = sj.encoder_decoder(
            ENCODER, attending(sj.elman(H), feed=feed), source_shape=(D,), source_dtype="float64"
        )
        params = params_of(model)
        carry = model.condition(
            params, model.initial_carry(params, xs[0]), jax.tree.map(lambda a: a[:2], batch_of(3).context)
        )
        (weights,) = sj.attention_weights(model, params, carry, xs)
        close(weights.sum(-1), np.ones((T, 2)))
        equal(weights != 0, np.broadcast_to(carry[1].memory_mask, weights.shape))
    for bad in (sj.recurrent(sj.elman(H)), dataclasses.replace(model)):
        with pytest.raises(TypeError, match=r"attention_weights.*expected a model with a with_memory"):
            own = params if bad.condition else bad.init(jax.random.key(0), jnp.ones((2, 3)))
            sj.attention_weights(
                bad, own, carry if bad.condition else None, xs if bad.condition else np.ones((T, 2, 3))
            )


@pytest.mark.slow  # a composition of parts that are here
def test_the_depths_of_a_repeat_share_memory_and_context():
    reader = sj.with_memory(
        sj.conditioned(sj.recurrent(sj.elman(4)), 3), sj.multiplicative_attention(), memory_size=2
    )
    layer = sj.serial(reader, sj.pointwise(nn.Dense(4)))
    stack, random = sj.repeat(layer, 2), np.random.default_rng(0)
    xs, memory, context = (random.normal(size=shape) for shape in ((5, 2, 4), (2, 6, 2), (2, 3)))
    mask = np.arange(6) < np.array([[6], [2]])
    params = stack.init(jax.random.key(0), xs[0])

    def conditioned(layer, params):
        return sj.set_context(sj.set_memory(layer.initial_carry(params, xs[0]), memory, mask), context)

    by_hand, weights = xs, []
    for depth in range(2):
        own = jax.tree.map(lambda p: p[depth], params)  # noqa: B023
        weights += sj.attention_weights(layer, own, conditioned(layer, own), by_hand)
        by_hand = layer.unroll(own, conditioned(layer, own), by_hand)[1]
    close(stack.unroll(params, conditioned(stack, params), xs)[1], by_hand)
    (found,) = sj.attention_weights(stack, params, conditioned(stack, params), xs)
    close(np.moveaxis(found, -2, 0), np.stack(weights))


# ---------------------------------------------------------------- probes


def profile_of(batch, **options):
    profile = jax.jit(probes.gradient_profile, static_argnames=("loss", "extended_range"))
    return profile(probes.bind(MODEL, params_of(MODEL)), cross_entropy, batch, **options)


def test_a_gradient_profile_conditions_the_carry():
    found = profile_of(batch_of(0), extended_range=False)
    close((found.loss, found.gradients), gradient_of(MODEL)(params_of(MODEL), batch_of(0)))


@pytest.mark.slow
def test_other_probes_condition_the_carry():
    params, batch = params_of(MODEL), batch_of(0)
    bound = probes.bind(MODEL, params)
    expected = profile_of(batch, extended_range=False)
    for found in (profile_of(batch), probes.adjoint_profile(bound, cross_entropy, batch)):
        close(found.loss, expected.loss)
        norms = (probes.total_log_norm(each.log_norm) for each in (found, expected))
        np.testing.assert_allclose(*norms, 1e-8)
    each = probes.per_example_gradients(bound, cross_entropy, batch)
    shares = batch.mask.sum(0) / batch.mask.sum()
    close(jax.tree.map(lambda g: np.tensordot(shares, g, 1), each), expected.gradients, 1e-8)


@pytest.mark.slow
def test_the_precision_of_an_encoder_is_measured():
    rows = probes.precision_error(
        probes.bind(MODEL, params_of(MODEL)), cross_entropy, batch_of(0), dtypes=["float32"], lengths=[2, T]
    )
    assert len(rows) == 2 and all(1e-9 < row.error < 1e-5 and row.inputs > 0 for row in rows)


# ---------------------------------------------------------------- what is refused


def test_what_does_not_fit_is_refused():
    batch, x = batch_of(0), batch_of(0).xs[0]
    decoder = attending(sj.elman(H))
    params = params_of(MODEL)
    carry = MODEL.initial_carry(params, x)
    step = make_train_step(MODEL, cross_entropy, OPTIMIZER)
    state = init_train_state(MODEL, OPTIMIZER, jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"train step: expected batch.context, on which .*, got None"):
        step(state, batch._replace(context=None))
    with pytest.raises(
        ValueError, match=r"expected context.values \[\*B, ...\] with \*B = \[8\] .*, got \[4, 3, 2\]"
    ):
        step(state, batch._replace(context=batch_of(0, 4).context))
    with pytest.raises(TypeError, match=r"train step: expected a batch without a context, since serial"):
        plain = init_train_state(decoder, OPTIMIZER, jax.random.key(0), x)
        make_train_step(decoder, cross_entropy, OPTIMIZER)(plain, batch)
    for estimator in (sj.truncated_bptt(2), sj.rtrl()):
        streaming = init_train_state(MODEL, OPTIMIZER, jax.random.key(0), x, estimator=estimator)
        with pytest.raises(ValueError, match=r"such as full_bptt\(\), .*got (truncated_bptt|rtrl)\("):
            make_train_step(MODEL, cross_entropy, OPTIMIZER, estimator=estimator)(streaming, batch)
    with pytest.raises(
        ValueError, match=r"full_bptt\(\).update: expected a batch without a context, got one"
    ):
        sj.full_bptt().bind(MODEL, cross_entropy)[1](params, carry, (), batch)
    with pytest.raises(TypeError, match=r"expected layers without a condition .* top of the model"):
        sj.serial(MODEL, sj.running_mean())
    with pytest.raises(TypeError, match=r"expected a context Source\(values, mask\), got ndarray"):
        MODEL.condition(params, carry, batch.context.values)
    values, mask = batch.context
    for bad in (values[0, 0], values[..., :1], values.astype(int)):
        with pytest.raises(ValueError, match=r"expected values float64 \[\*B, S, 2\], got "):
            MODEL.condition(params, carry, sj.Source(bad))
    for bad in (mask.T, mask.astype(float), mask[:, :1]):
        with pytest.raises(ValueError, match=r"expected a mask bool \[8, 3\], as values \[8, 3, 2\], got "):
            MODEL.condition(params, carry, sj.Source(values, bad))
    deaf = sj.encoder_decoder(ENCODER, sj.recurrent(sj.elman(2)), source_shape=(D,))
    with pytest.raises(ValueError, match=r"expected a decoder that reads the source, with a with_memory"):
        deaf.condition(None, (), batch.context)
    with pytest.raises(ValueError, match=r"encoder_decoder\(summary\): expected one of 'mean', 'last'"):
        sj.encoder_decoder(ENCODER, decoder, summary="first")
    with pytest.raises(TypeError, match=r"expected a batch without a context for a plain step function"):
        probes.adjoint_profile(
            lambda c, x: (c, c), lambda ys, _: ys, sj.Batch(np.ones(3), None, context=1), carry=1.0
        )


@pytest.mark.slow  # an option beside what other tests read
def test_carries_without_a_reader_may_be_skipped():
    layer = sj.recurrent(sj.elman(2))
    carry = layer.initial_carry(layer.init(jax.random.key(0), jnp.ones((1, 3))), jnp.ones((1, 3)))
    equal(sj.set_memory(carry, jnp.ones((1, 2, 3)), missing="skip"), carry)
    equal(sj.set_context(carry, jnp.ones((1, 2)), missing="skip"), carry)
    with pytest.raises(
        ValueError, match=r"set_memory: .*with_memory\(...\) layer, got one without. Pass missing='skip'"
    ):
        sj.set_memory(carry, jnp.ones((1, 2, 3)))
    with pytest.raises(ValueError, match=r"set_memory\(missing\): expected one of 'error', 'skip'"):
        sj.set_memory(carry, jnp.ones((1, 2, 3)), missing=True)
    with pytest.raises(TypeError, match=r"with_memory: expected a causal layer"):
        sj.with_memory(sj.reverse(layer), sj.multiplicative_attention(), memory_size=2, feed=True)
