"""Test that accumulated micro-batches equal the whole batch, with one collective per step."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.hlo import collectives
from helpers.refusals import refusals
from jax.sharding import AxisType

import seqjax as sj
from seqjax.training import init_train_state, make_train_step

T, B, H = 4, 16, 3
KEY = jax.random.key(0)
MESH = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
ELMAN = sj.recurrent(sj.elman(H, param_dtype=jnp.float64))


def squares(ys, targets):
    return jnp.sum((ys - targets) ** 2, -1)


def batch_of(seed):
    """Masked so that micro-batches have different counts, one of them none."""
    rng = np.random.default_rng(seed)
    xs, targets = rng.normal(size=(2, T, B, H))
    mask = np.arange(T)[:, None] < np.repeat([0, 4, 3, 1], B // 4)
    return sj.Batch(xs, targets, rng.random((T, B)) < 0.3, mask)


def run(model, loss, batches, *, key=None, **options):
    estimator = options.get("estimator", sj.full_bptt())
    optimizer = optax.adam(0.01)
    step, history = make_train_step(model, loss, optimizer, **options), []
    state = init_train_state(model, optimizer, KEY, batches[0].xs[0], estimator=estimator)._replace(key=key)
    for batch in batches:
        state, metrics = step(state, batch)
        history.append(metrics)
    return state, history


def assert_close(got, expected, rtol=1e-11):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max(initial=0))
        assert a.dtype == b.dtype and a.shape == b.shape


@pytest.mark.parametrize("estimator", [sj.full_bptt(), sj.truncated_bptt(2), sj.rtrl()], ids=str)
@pytest.mark.fast_cases(1)
def test_micro_batches_add_up_to_the_batch(estimator):
    batches = [batch_of(seed) for seed in range(3)]
    whole = run(ELMAN, squares, batches, estimator=estimator)
    assert_close(run(ELMAN, squares, batches, estimator=estimator, accumulate=4), whole)
    assert_close(run(ELMAN, squares, batches, estimator=estimator, accumulate=2, mesh=MESH), whole)


def test_losses_per_sequence_are_split_with_the_batch():
    def last_squares(ys, targets, mask):
        return squares(sj.last(ys, mask), targets["last"])

    batch = batch_of(0)
    batch = batch._replace(targets={"last": batch.targets[-1], "unused": np.arange(B)})
    assert_close(run(ELMAN, last_squares, [batch], accumulate=4), run(ELMAN, last_squares, [batch]))


def test_sums_in_low_precision_are_kept_in_float32():
    """Most micro-batches add so little to the gradient that bfloat16 would not see it."""
    model = sj.pointwise(
        nn.Dense(1, use_bias=False, param_dtype=jnp.bfloat16, kernel_init=nn.initializers.ones)
    )
    xs = np.ones((1, 8, 1)) * np.array([2048.0, *[4.0] * 7])[:, None]
    state, _ = run_sgd(model, sj.Batch(jnp.asarray(xs, jnp.bfloat16), None), accumulate=8)
    # 2048 + 7 * 4 = 2076, which bfloat16 holds as 2080: the update is 1 - 260, rounded to -260. Added one by one in
    # bfloat16 the sum stays 2048, and the update is -255.
    (kernel,) = jax.tree.leaves(state.params)
    assert kernel.dtype == jnp.bfloat16 and float(kernel[0, 0]) == -260


def run_sgd(model, batch, **options):
    step = make_train_step(model, lambda ys, _: ys[..., 0], optax.sgd(1.0), **options)
    return step(init_train_state(model, optax.sgd(1.0), KEY, batch.xs[0]), batch)


def test_every_micro_batch_draws_noise_of_its_own():
    """Row b of the embedding is seen by row b of the batch alone, so its gradient is that row's dropout."""
    model = sj.serial(sj.pointwise(nn.Embed(B, 64, embedding_init=nn.initializers.zeros)), sj.dropout(0.5))
    xs = np.broadcast_to(np.arange(B), (1, B))
    step = make_train_step(model, lambda ys, _: jnp.sum(ys, -1), optax.sgd(1.0), accumulate=B)
    state, _ = step(init_train_state(model, optax.sgd(1.0), KEY, xs[0]), sj.Batch(xs, None))
    (rows,) = jax.tree.leaves(state.params)
    assert len(np.unique(rows, axis=0)) == B


@pytest.mark.parametrize("name", ["lstm", "lru"])
@pytest.mark.fast_cases(1)
def test_devices_speak_once_after_all_loops(name):
    cell = {"lstm": sj.lstm, "lru": sj.lru}[name](H, param_dtype=jnp.float64)
    model, batch, optimizer = sj.recurrent(cell), batch_of(0), optax.sgd(0.1)
    step = make_train_step(model, squares, optimizer, mesh=MESH, accumulate=2)
    state = init_train_state(model, optimizer, KEY, batch.xs[0])
    found = collectives(step.lower(state, batch).compile().as_text())
    assert found.total == {"all-reduce": 1} and found.in_loops == {} and found.num_loops > 0


def twelve_rows():
    return jax.tree.map(lambda a: a[:, :12], batch_of(0))


REFUSED = {
    "five parts of twelve": (
        lambda: run(ELMAN, squares, [twelve_rows()], accumulate=5), ValueError,
        r"divides into 5 micro-batches \(accumulate=5\), got B = 12 .* a multiple of 5"),
    "two parts on four devices": (
        lambda: run(ELMAN, squares, [twelve_rows()], accumulate=2, mesh=MESH), ValueError,
        r"divides into 2 micro-batches on each of 4 devices .* got B = 12 .* a multiple of 8"),
    "no batch axis": (
        lambda: run(sj.pointwise(jnp.tanh), lambda ys, _: ys, [sj.Batch(np.ones(T), None)], accumulate=2), ValueError,
        r"expected xs \[T, B, \.\.\.\], to be split on B, got \[4\]"),
    **{f"accumulate={wrong}": (
        lambda wrong=wrong: make_train_step(ELMAN, squares, optax.sgd(0.1), accumulate=wrong), ValueError,
        r"make_train_step\(accumulate\): expected a whole number of at least 1")
       for wrong in (0, 2.0, True)},
    "a loss that does not add up": (
        lambda: run(
            ELMAN, lambda ys, targets, mask: jnp.mean(squares(ys, targets)), [batch_of(0)], accumulate=4), ValueError,
        r"split with the batch into 4 micro-batches, got \[\] for the whole batch"),
}  # fmt: skip


@refusals(REFUSED)
def test_what_does_not_divide_or_add_up_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
