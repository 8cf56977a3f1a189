"""Test the synthetic tasks: their layout against NumPy, their baselines against the best guess without memory."""

import pickle

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.refusals import refusals
from hypothesis import given, settings

from seqjax.tasks import (
    NOT_SCORED,
    TASKS,
    adding,
    copying,
    cross_entropy,
    sequential_images,
    squared_error,
)
from seqjax.tasks.dynamics import LORENZ_DEVIATION
from seqjax.tasks.groups import GROUPS

KEY = jax.random.key(0)


def sample(task, batch, key=KEY):
    return [np.asarray(part) for part in jax.jit(task.sample, static_argnums=1)(key, batch)]


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_what_it_says(name):
    task = TASKS[name](36)
    xs, targets = jax.jit(task.sample, static_argnums=1)(KEY, 4)
    ys = jnp.zeros((36, 4, task.num_outputs))
    assert task.name == name and task.length == 36 and any(year in task.reference for year in YEARS)
    assert xs.shape[:2] == targets.shape == task.loss(ys, targets).shape == (36, 4)
    assert (xs.ndim == 2) == (task.num_inputs is not None)
    assert task.baseline > 0 and task.objective(ys, targets).shape in ((36, 4), (4,))
    if task.num_inputs is not None:
        assert xs.min() >= 0 and xs.max() < task.num_inputs
    if jnp.issubdtype(targets.dtype, jnp.integer):
        assert targets.min() >= NOT_SCORED and targets.max() < task.num_outputs
        assert (targets != NOT_SCORED).any(0).all()


YEARS = tuple(map(str, range(1963, 2027)))


@pytest.mark.parametrize("name", TASKS)
def test_right_answers_solve_a_task_and_ignorance_does_not(name):
    task = TASKS[name](36)
    _, targets = jax.jit(task.sample, static_argnums=1)(KEY, 4)
    if jnp.issubdtype(targets.dtype, jnp.integer):
        right = 30 * jax.nn.one_hot(targets, task.num_outputs)
    else:
        right = targets[..., None]
    assert bool(task.score(right, targets).solved)
    guess = task.score(jnp.zeros_like(right), targets)
    assert not bool(guess.solved) and float(guess.loss) > 0.3 * task.baseline


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.fast_cases(3)
def test_a_task_is_a_value(name):
    task = TASKS[name](36)
    assert task == TASKS[name](36) != TASKS[name](49)
    assert repr(task) == f"{name}(length=36)" and pickle.loads(pickle.dumps(task)) == task


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.fast_cases(4)
def test_samples_are_a_pure_function_of_the_key(name):
    task = TASKS[name](36)
    program = jax.jit(task.sample, static_argnums=1)
    expected = program(KEY, 4)
    with jax.enable_x64(False):
        narrow = program(KEY, 4)
    for got in (program(KEY, 4), narrow):
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
    other = program(jax.random.key(1), 4)
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
@pytest.mark.fast_cases(2)
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


def test_a_squared_error_is_the_mean_over_the_outputs():
    np.testing.assert_allclose(squared_error(jnp.ones((3, 2, 4)), jnp.zeros((3, 2, 4))), np.ones((3, 2)))


def blind_loss(task, targets, given):
    """The loss of the best guess from the time and what is `given` (the present input), counted over a large batch."""
    total, steps = 0.0, range(task.length) if task.baseline_at != "last" else [task.length - 1]
    scored = [t for t in steps if (targets[t] != NOT_SCORED).any()]
    for t in scored:
        for value in np.unique(given[t]):
            chosen = targets[t][given[t] == value]
            p = np.bincount(chosen[chosen != NOT_SCORED], minlength=task.num_outputs).astype(float)
            total += -np.sum(p[p > 0] * np.log(p[p > 0] / p.sum()))
    divisor = (
        len(scored) * targets.shape[1] if task.baseline_at != "scored" else (targets != NOT_SCORED).sum()
    )
    return total / divisor


@pytest.mark.parametrize(
    "name", ["delayed_recall", "induction_heads", "parity", "modular_arithmetic", "dyck"]
)
@pytest.mark.fast_cases(3)
def test_baselines_are_the_entropy_that_is_left_without_memory(name):
    task = TASKS[name](12)
    xs, targets = sample(task, 4000)
    # Counting frequencies in 4,000 draws gains at most (classes - 1) (inputs) / 8,000 nats a step.
    inputs = len(np.unique(xs))
    tolerance = 0.004 + task.num_outputs * inputs / 8000
    assert blind_loss(task, targets, xs) == pytest.approx(task.baseline, abs=tolerance)


@pytest.mark.parametrize("name", ["noisy_copying", "selective_copying", "multi_query_recall"])
@pytest.mark.fast_cases(1)
def test_recalled_symbols_are_uniform(name):
    task = TASKS[name](36)
    _, targets = sample(task, 2000)
    found = targets[targets != NOT_SCORED]
    p = np.bincount(found) / len(found)
    assert len(p) == task.num_outputs and np.log(len(p)) == task.baseline
    assert (abs(p - 1 / len(p)) < 5 * np.sqrt(1 / len(p) / len(found))).all()


def test_noise_fills_the_delay_of_noisy_copying():
    xs, targets = sample(TASKS["noisy_copying"](40), 16)
    assert ((xs[:10] >= 0) & (xs[:10] < 8)).all() and (xs[10:29] >= 10).all()
    assert (xs[29] == 9).all() and (xs[30:] == 8).all()
    np.testing.assert_array_equal(targets[30:], xs[:10])
    assert (targets[:30] == NOT_SCORED).all() and len(np.unique(xs[10:29])) == 8


def test_selective_copying_keeps_the_order_of_what_it_scatters():
    xs, targets = sample(TASKS["selective_copying"](40), 16)
    for b in range(16):
        assert list(targets[30:, b]) == [x for x in xs[:29, b] if x < 8]
    places = np.stack([np.flatnonzero(xs[:29, b] < 8) for b in range(16)])
    assert places.shape == (16, 10) and places.std(0).min() > 0
    assert (xs[29] == 9).all() and (xs[30:] == 8).all()


def test_recall_tasks_ask_for_what_was_said():
    xs, targets = sample(TASKS["delayed_recall"](20), 16)
    np.testing.assert_array_equal(targets[-1], xs[0])
    assert (xs[1:] >= 8).all() and (targets[:-1] == NOT_SCORED).all()
    xs, targets = sample(TASKS["induction_heads"](20), 64)
    for b in range(64):
        first, second = np.flatnonzero(xs[:, b] == 16)
        assert second == 19 and targets[19, b] == xs[first + 1, b] < 16
    xs, targets = sample(TASKS["multi_query_recall"](24), 64)
    for b in range(64):
        memory = dict(zip(xs[0:8:2, b], xs[1:8:2, b] - 16, strict=True))
        asked = {t: x for t, x in enumerate(xs[8:, b], 8) if x != 32}
        assert len(memory) == 4 and sorted(asked.values()) == sorted(memory)
        assert {t: memory[x] for t, x in asked.items()} == {
            t: v for t, v in enumerate(targets[:, b]) if v != NOT_SCORED
        }


def test_parity_and_arithmetic_are_what_python_computes():
    xs, targets = sample(TASKS["parity"](15), 8)
    for t in range(15):
        np.testing.assert_array_equal(targets[t], [sum(column) % 2 for column in xs[: t + 1].T.tolist()])
    xs, targets = sample(TASKS["modular_arithmetic"](16), 16)
    for b in range(16):
        words = ["01234+-"[x] for x in xs[:, b]]
        for t in range(16):
            want = eval("".join(words[: t + 1])) % 5 if t % 2 == 0 else NOT_SCORED
            assert targets[t, b] == want


def test_dyck_targets_are_the_top_of_a_stack():
    xs, targets = sample(TASKS["dyck"](60), 64)
    deepest = 0
    for b in range(64):
        stack = []
        for x, target in zip(xs[:, b], targets[:, b], strict=True):
            if x < 2:
                stack.append(x)
            else:
                assert stack.pop() == x - 2
            deepest = max(deepest, len(stack))
            assert target == (stack[-1] if stack else 2)
    assert deepest == 8


@pytest.mark.parametrize(("group", "size"), [("S5", 120), ("A5", 60), ("S3", 6), ("Z60", 60)])
@pytest.mark.fast_cases(2)
def test_state_tracking_composes_permutations(group, size):
    task = TASKS["state_tracking"](9, group=group)
    xs, targets = sample(task, 4)
    elements = [np.array(p) for p in GROUPS[group]()]
    assert len({tuple(p) for p in elements}) == size == task.num_outputs
    for b in range(4):
        things = np.arange(len(elements[0]))
        product = np.arange(len(things))
        for x, target in zip(xs[:, b], targets[:, b], strict=True):
            product = elements[x][product]  # things moved by what came before, then by x
            np.testing.assert_array_equal(elements[target], product)


def value_of(words):
    """A ListOps expression, evaluated by recursion."""
    functions = {10: max, 11: min, 12: lambda v: sorted(v)[(len(v) - 1) // 2], 13: lambda v: sum(v) % 10}
    word = words.pop(0)
    if word < 10:
        return word
    values = []
    while words[0] != 14:
        values.append(value_of(words))
    words.pop(0)
    return functions[word](values)


@pytest.mark.parametrize("length", [4, 36])
@pytest.mark.fast_cases(1)
def test_listops_expressions_have_the_value_that_they_say(length):
    task = TASKS["listops"](length)
    xs, targets = sample(task, 64)
    deepest = 0
    for b in range(64):
        words = xs[:, b].tolist()
        depth = np.cumsum([1 if 10 <= x < 14 else -1 if x == 14 else 0 for x in words])
        deepest = max(deepest, depth.max())
        assert depth[-1] == 0 and (depth[:-1] > 0).all()
        assert value_of(words) == targets[-1, b] and not words
    assert deepest == (4 if length == 36 else 1)
    assert task.baseline < np.log(10)


def test_pathfinder_dots_are_joined_half_the_time():
    task = TASKS["pathfinder"](144)
    xs, targets = sample(task, 400)
    assert set(np.unique(xs)) == {0.0, 0.5, 1.0} and ((xs == 1).sum((0, 2)) <= 2).all()
    # 400 fair draws: a standard deviation of 10.
    assert abs(targets[-1].sum() - 200) < 50
    # Two ends of one path are as far apart as a path can reach: joined dots are seldom apart by more than its length.
    dots = [np.argwhere(xs[:, b, 0].reshape(12, 12) == 1) for b in range(400)]
    apart = np.array([np.abs(d[0] - d[-1]).max() for d in dots])
    assert apart[targets[-1] == 1].mean() > 0


def test_lorenz_follows_the_equations():
    xs, targets = sample(TASKS["lorenz"](2000), 64)
    np.testing.assert_array_equal(xs[10:, :, 0], targets[:-10])
    assert abs(xs.std() - 1) < 0.02 and abs(xs.mean()) < 0.1

    def flow(s):
        x, y, z = s
        return np.array([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])

    # An integration in small steps, in float64: the same attractor, hence the same deviation.
    s, seen = np.array([1.0, 2.0, 20.0]), []
    for step in range(60_000):
        k1 = flow(s)
        s = s + 0.005 * flow(s + 0.0025 * k1)
        if step > 2000:
            seen.append(s[0])
    assert np.std(seen) == pytest.approx(LORENZ_DEVIATION, rel=0.05)


def test_mackey_glass_follows_the_equation():
    xs, targets = sample(TASKS["mackey_glass"](120), 3)
    np.testing.assert_array_equal(xs[6:, :, 0], targets[:-6])
    x = 0.25 * xs[..., 0].astype(np.float64) + 0.9
    # The trapezoidal rule over one unit of time with what is seen of the delayed value; x is smooth.
    drive = 0.2 * x / (1 + x**10)
    inflow = (drive[: -18 + 1 - 1][:102] + drive[1:103]) / 2
    change = inflow - 0.1 * (x[17:-1][:102] + x[18:][:102]) / 2
    assert np.abs(x[18:][:102] - x[17:-1][:102] - change).max() < 0.01


def test_narma_follows_the_equation():
    xs, targets = sample(TASKS["narma10"](40), 4)
    u, y = (xs[..., 0].astype(np.float64) + 1) / 4, targets.astype(np.float64) * 0.1 + 0.4
    for t in range(1, 40):
        past = sum(y[t - 1 - i] for i in range(10) if t - 1 - i >= 0)
        before = u[t - 9] if t >= 9 else 0
        want = 0.3 * y[t - 1] + 0.05 * y[t - 1] * past + 1.5 * before * u[t] + 0.1
        np.testing.assert_allclose(y[t], np.minimum(want, 1), atol=1e-5)


def test_linear_system_is_linear_with_unit_variance():
    task = TASKS["linear_system"](400)
    xs, targets = sample(task, 400)
    # The response to the first input is that to every other, by regression of one target on the inputs before it.
    u, y = xs[:60, :, 0], targets[59]
    response = np.linalg.lstsq(u.T.astype(np.float64), y.astype(np.float64), rcond=None)[0][::-1]
    late = targets[200:]
    assert late.var() == pytest.approx(1, abs=0.05)
    assert abs(np.sum(response**2) - 1) < 0.2
    # The baseline is what is left of the target when the present input's share is taken out.
    u, y = xs[..., 0].ravel(), targets.ravel()
    share = u @ y / (u @ u)
    assert np.mean((y - share * u) ** 2) == pytest.approx(task.baseline, rel=0.03)


def test_forecasts_have_the_error_of_a_straight_line_as_baseline():
    for name in ("lorenz", "mackey_glass", "narma10"):
        task = TASKS[name](36)
        xs, targets = sample(task, 512, jax.random.key(5))
        x, y = xs.ravel().astype(np.float64), targets.ravel().astype(np.float64)
        residual = y - np.polyval(np.polyfit(x, y, 1), x)
        assert np.mean(residual**2) == pytest.approx(task.baseline, rel=0.1)


def test_images_come_pixel_by_pixel():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (20, 3, 4), np.uint8), np.arange(20) % 5
    task = sequential_images(images, labels)
    xs, targets = sample(task, 50)
    for b in range(50):
        (found,) = [i for i in range(20) if np.allclose(images[i].ravel() / 255, xs[:, b, 0])]
        assert targets[-1, b] == labels[found]
    assert task.baseline == pytest.approx(np.log(5)) and (targets[:-1] == NOT_SCORED).all()
    shuffled = sample(sequential_images(images, labels, permuted=True), 50)[0]
    assert not np.array_equal(shuffled, xs)
    np.testing.assert_array_equal(np.sort(shuffled, 0), np.sort(xs, 0))


@pytest.mark.parametrize("name", ["adding", "delayed_recall", "copying"])
@pytest.mark.fast_cases(2)
def test_steps_that_do_not_happen_before_a_task_change_no_objective(name):
    """Shorter sequences are padded in front and masked, so that all lengths share one compiled step."""
    task = TASKS[name](24)
    xs, targets = task.sample(jax.random.key(0), 3)
    ys = jax.random.normal(jax.random.key(1), (*xs.shape[:2], task.num_outputs))
    padding = [(4, 0), (0, 0)]
    mask = jnp.pad(jnp.ones(xs.shape[:2], bool), padding)
    unscored = NOT_SCORED if jnp.issubdtype(targets.dtype, jnp.integer) else 0
    wide = (
        jnp.pad(targets, padding[: targets.ndim], constant_values=unscored) if targets.ndim > 1 else targets
    )
    found = task.objective(jnp.pad(ys, [*padding, (0, 0)]), wide, mask)
    expected = task.objective(ys, targets)
    np.testing.assert_allclose(found[-len(expected) :], expected, rtol=1e-6)


REFUSED = {
    "cross_entropy: another batch": (
        lambda: cross_entropy(jnp.zeros((3, 1, 4)), jnp.zeros((3, 2), int)), ValueError,
        r"cross_entropy: expected ys \[T, B, num_outputs\] for targets \[T, B\] = \[3, 2\], got \[3, 1, 4\]"),
    "squared_error: no axis of outputs": (
        lambda: squared_error(jnp.zeros((3, 2)), jnp.zeros((3, 2))), ValueError,
        r"squared_error: expected ys \[T, B, 1\] for targets .* got \[3, 2\]"),
    "squared_error: several outputs": (
        lambda: squared_error(jnp.zeros((3, 2, 4)), jnp.zeros((3, 2))), ValueError,
        r"squared_error: expected ys \[T, B, 1\], got \[3, 2, 4\]. Use a model with one output"),
    "pathfinder: no square": (
        lambda: TASKS["pathfinder"](140), ValueError,
        r"pathfinder: expected a length that is a square, got 140. Use 121 or 144"),
    "sequential_images: one image": (
        lambda: sequential_images(np.zeros((3, 4), np.uint8), np.arange(20) % 5), ValueError,
        r"expected images \[N, height, width\] or .*, got \[3, 4\]"),
    "sequential_images: fewer labels": (
        lambda: sequential_images(np.zeros((20, 3, 4), np.uint8), np.arange(19) % 5), ValueError,
        r"expected 20 labels, integers from 0, got \[19\]"),
    "sequential_images: NaN": (
        lambda: sequential_images(np.full((2, 2, 2), np.nan), np.array([0, 1])), ValueError, "expected finite images"),
    **{f"copying: length {length}": (
        lambda length=length: copying(length), ValueError,
        rf"copying: expected a length of at least 21 \(10 symbols, a go marker, 10 recalls\), got {length}. Use")
       for length in (20, 1, 0, -5)},
    **{f"adding: length {length}": (
        lambda length=length: adding(length), ValueError,
        rf"adding: expected a length of at least 2 \(.*\), got {length}. Use a longer")
       for length in (1, 0, -5)},
    **{f"copying: {name}": (
        lambda name=name: copying(50, **{name: 0}), ValueError,
        rf"copying\({name}\): expected a whole number of at least 1, got 0")
       for name in ("num_symbols", "num_recall")},
    **{f"{name}: batch_size": (
        lambda name=name: TASKS[name](36).sample(KEY, 0), ValueError,
        rf"{name}\.sample\(batch_size\): expected a whole number of at least 1, got 0")
       for name in TASKS},
}  # fmt: skip


@refusals(REFUSED)
def test_arguments_that_do_not_fit_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
