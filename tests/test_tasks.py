"""The synthetic tasks: their layout against NumPy, their baselines against the best guess without memory."""

import pickle

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from seqjax.tasks import TASKS, adding, copying, cross_entropy, squared_error

KEY = jax.random.key(0)


def sample(task, batch, key=KEY):
    return [np.asarray(part) for part in jax.jit(task.sample, static_argnums=1)(key, batch)]


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_what_it_says(name):
    task = TASKS[name](30)
    xs, targets = task.sample(KEY, 4)
    ys = jnp.zeros((30, 4, task.num_outputs))
    assert task.name == name and task.length == 30 and "arXiv:" in task.reference
    assert xs.shape[:2] == targets.shape == task.loss(ys, targets).shape == (30, 4)
    assert (xs.ndim == 2) == (task.num_inputs is not None)
    assert task.baseline > 0 and task.baseline_at in ("mean", "last")


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_a_value(name):
    task = TASKS[name](30)
    assert task == TASKS[name](30) != TASKS[name](31)
    assert repr(task) == f"{name}(length=30)" and pickle.loads(pickle.dumps(task)) == task


@pytest.mark.parametrize("name", TASKS)
def test_samples_are_a_pure_function_of_the_key(name):
    task = TASKS[name](30)
    expected = task.sample(KEY, 4)
    with jax.enable_x64(False):
        narrow = task.sample(KEY, 4)
    for got in (task.sample(KEY, 4), jax.jit(task.sample, static_argnums=1)(KEY, 4), narrow):
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
    other = task.sample(jax.random.key(1), 4)
    assert (np.asarray(other[0]) != np.asarray(expected[0])).any()


@settings(max_examples=8)  # each example compiles
@given(num_symbols=st.integers(1, 5), num_recall=st.integers(1, 4), extra=st.integers(1, 6))
def test_copying_has_the_layout_of_the_paper(num_symbols, num_recall, extra):
    length = 2 * num_recall + extra
    xs, targets = sample(copying(length, num_symbols, num_recall), 3)
    assert xs.dtype == targets.dtype == np.int32
    blank, go = num_symbols, num_symbols + 1
    for b in range(3):
        symbols = list(xs[:num_recall, b])
        assert all(0 <= symbol < num_symbols for symbol in symbols)
        # Arjovsky et al.: num_recall symbols, T - 1 blanks, the delimiter, num_recall blanks; here T is `extra`.
        assert list(xs[:, b]) == symbols + [blank] * (extra - 1) + [go] + [blank] * num_recall
        assert list(targets[:, b]) == [blank] * (extra + num_recall) + symbols


def test_copying_draws_every_symbol_equally_often():
    xs, _ = sample(copying(21), 2000)
    counts = np.bincount(xs[:10].ravel(), minlength=8)
    # 20,000 draws of probability 1/8: a standard deviation of 47 around 2500.
    assert len(counts) == 8 and (abs(counts - 2500) < 5 * 47).all()


def test_copying_baseline_is_the_loss_of_the_best_guess_without_memory():
    task = copying(50)
    _, targets = sample(task, 500)
    # The best guess at each step: how often each class is the target there, over the batch.
    p = np.stack([(targets == c).mean(1) for c in range(9)], -1)
    np.testing.assert_array_equal(p[:40, 8], 1.0)
    ys = np.where(p > 0, np.log(np.maximum(p, 1e-9)), -1e9)[:, None].repeat(500, 1)
    loss = task.loss(jnp.asarray(ys), jnp.asarray(targets)).mean()
    # Fitting 7 frequencies to 500 draws gains 7/2/500 nats at each of the 10 steps in 50.
    assert float(loss) == pytest.approx(task.baseline, abs=2 * 10 / 50 * 7 / 2 / 500)
    assert task.baseline == pytest.approx(10 * np.log(8) / (30 + 20), rel=1e-12)


@pytest.mark.parametrize("length", [2, 3, 8])
def test_adding_has_the_layout_of_the_paper(length):
    xs, targets = sample(adding(length), 16)
    values, markers = xs[..., 0], xs[..., 1]
    assert xs.dtype == targets.dtype == np.float32
    assert ((values >= 0) & (values < 1)).all() and set(np.unique(markers)) <= {0.0, 1.0}
    assert (markers[: length // 2].sum(0) == 1).all() and (markers[length // 2 :].sum(0) == 1).all()
    for b in range(16):
        total = np.float32(0)
        for t in range(length):
            total += values[t, b] if markers[t, b] else np.float32(0)
            assert targets[t, b] == total


def test_adding_puts_a_marker_on_every_step_equally_often():
    xs, _ = sample(adding(8), 4000)
    # 4000 draws of probability 1/4: a standard deviation of 27 around 1000.
    assert (abs(xs[..., 1].sum(1) - 1000) < 5 * 27).all()
    # Places and values are independent: a correlation has a standard deviation of 1 / sqrt(4000).
    first, second = xs[:4, :, 1].argmax(0), xs[4:, :, 1].argmax(0)
    correlations = np.corrcoef([first, second, *xs[..., 0]]) - np.eye(10)
    assert (abs(correlations) < 5 / np.sqrt(4000)).all()


def test_adding_baseline_is_the_loss_of_the_best_constant_at_the_last_step():
    task = adding(20)
    _, targets = sample(task, 20_000)
    best = targets[-1].mean()
    assert best == pytest.approx(1.0, abs=0.02)
    ys = jnp.full((20, 20_000, 1), best)
    # The squared error of one sample has a standard deviation of 0.197: of the mean of 20,000, 0.0014.
    assert float(task.loss(ys, jnp.asarray(targets))[-1].mean()) == pytest.approx(
        task.baseline, abs=5 * 0.0014
    )


def test_losses_are_per_step():
    ys = np.random.default_rng(0).normal(size=(3, 2, 4))
    classes = np.array([[0, 1], [2, 3], [3, 0]])
    picked = np.take_along_axis(ys, classes[..., None], -1)[..., 0]
    expected = np.log(np.exp(ys).sum(-1)) - picked
    np.testing.assert_allclose(cross_entropy(jnp.asarray(ys), jnp.asarray(classes)), expected, rtol=1e-12)
    numbers = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    np.testing.assert_allclose(
        squared_error(jnp.asarray(ys[..., :1]), jnp.asarray(numbers)), (ys[..., 0] - numbers) ** 2, rtol=1e-12
    )


def test_losses_say_what_is_wrong():
    message = (
        r"cross_entropy: expected ys \[T, B, num_outputs\] for targets \[T, B\] = \[3, 2\], got \[3, 1, 4\]"
    )
    with pytest.raises(ValueError, match=message):
        cross_entropy(jnp.zeros((3, 1, 4)), jnp.zeros((3, 2), int))
    with pytest.raises(
        ValueError, match=r"squared_error: expected ys \[T, B, 1\] for targets .* got \[3, 2\]"
    ):
        squared_error(jnp.zeros((3, 2)), jnp.zeros((3, 2)))
    with pytest.raises(
        ValueError, match=r"squared_error: expected ys \[T, B, 1\], got \[3, 2, 4\]. Give the model one"
    ):
        squared_error(jnp.zeros((3, 2, 4)), jnp.zeros((3, 2)))


@pytest.mark.parametrize("length", [20, 1, 0, -5])
def test_copying_says_when_it_is_too_short(length):
    message = rf"copying: expected a length of at least 21 \(10 symbols, a go marker, 10 recalls\), got {length}. Use"
    with pytest.raises(ValueError, match=message):
        copying(length)


@pytest.mark.parametrize("length", [1, 0, -5])
def test_adding_says_when_it_is_too_short(length):
    with pytest.raises(
        ValueError, match=rf"adding: expected a length of at least 2 \(.*\), got {length}. Use a longer"
    ):
        adding(length)


@pytest.mark.parametrize("name", ["num_symbols", "num_recall"])
def test_copying_says_when_a_number_is_not_positive(name):
    with pytest.raises(ValueError, match=f"copying: expected {name} of at least 1, got 0"):
        copying(50, **{name: 0})


@pytest.mark.parametrize("name", TASKS)
def test_a_batch_is_not_empty(name):
    with pytest.raises(ValueError, match=f"{name}.sample: expected a batch of at least 1, got 0"):
        TASKS[name](30).sample(KEY, 0)
