"""Test the losses of seqjax.training against optax, torch and scipy."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import seqjax as sj
from seqjax.decode import best_path
from seqjax.gradients.objective import sum_of, takes_mask
from seqjax.training import (
    cross_entropy,
    ctc_loss,
    gaussian,
    gaussian_nll,
    init_train_state,
    make_train_step,
    negative_binomial,
    negative_binomial_nll,
    quantile_loss,
    student_t,
    student_t_nll,
)

T, B, K, N = 7, 5, 4, 3


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_cross_entropy_equals_that_of_smoothed_labels():
    logits, labels = numbers(T, B, K), np.random.default_rng(1).integers(0, K, (T, B))
    found = cross_entropy(logits, labels, label_smoothing=0.2, ignored_label=2)
    smoothed = optax.smooth_labels(jax.nn.one_hot(labels, K), 0.2)
    expected = np.where(labels == 2, 0, optax.softmax_cross_entropy(logits, smoothed))
    np.testing.assert_allclose(found, expected, 1e-12)
    plain = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    np.testing.assert_array_equal(cross_entropy(logits, labels), plain)
    with_padding = np.where(labels == 2, -1, labels)
    np.testing.assert_array_equal(
        cross_entropy(logits, with_padding, ignored_label=-1), np.where(labels == 2, 0, plain)
    )


def ctc_case(seed):
    """Logits, labels with padding, and a mask, of random lengths; some labels do not fit."""
    random = np.random.default_rng(seed)
    lengths, label_lengths = random.integers(1, T + 1, B), random.integers(0, N + 1, B)
    labels = np.where(np.arange(N) < label_lengths[:, None], random.integers(1, K, (B, N)), -1)
    return random.normal(size=(T, B, K)), labels, np.arange(T)[:, None] < lengths


@pytest.mark.parametrize("blank", [0, 2])
def test_ctc_equals_that_of_torch(blank):
    torch = pytest.importorskip("torch")
    loss = jax.jit(
        jax.value_and_grad(lambda *args: jnp.sum(jnp.nan_to_num(ctc_loss(*args, blank=blank), posinf=0)))
    )
    seen = set()
    for seed in range(8):
        logits, labels, mask = ctc_case(seed)
        labels = np.where(labels == blank, 0, labels)
        ours = ctc_loss(logits, labels, mask, blank=blank)
        theirs_logits = torch.tensor(logits, requires_grad=True)
        theirs = torch.nn.functional.ctc_loss(
            theirs_logits.log_softmax(-1),
            torch.tensor(np.maximum(labels, 0)),
            torch.tensor(mask.sum(0)),
            torch.tensor((labels >= 0).sum(-1)),
            blank=blank,
            reduction="none",
        )
        np.testing.assert_allclose(ours, theirs.detach().numpy(), 1e-6)
        theirs[torch.isfinite(theirs)].sum().backward()
        fits = np.isfinite(ours)
        gradient = np.where(fits[:, None], theirs_logits.grad.numpy(), 0)
        np.testing.assert_allclose(loss(logits, labels, mask)[1], gradient, 1e-5, 1e-6)
        seen |= set(fits.tolist())
    assert seen == {True, False}


def test_ctc_sums_over_all_paths():
    logits, labels = numbers(4, 1, 3), [1, 1]
    log_p = jax.nn.log_softmax(logits)[:, 0]
    total = 0.0
    for path in itertools.product(range(3), repeat=4):
        merged = [c for c, _ in itertools.groupby(path) if c]
        total += np.exp(sum(log_p[t, c] for t, c in enumerate(path))) if merged == labels else 0.0
    np.testing.assert_allclose(ctc_loss(logits, np.array([labels]))[0], -np.log(total), 1e-6)


def test_labels_of_the_best_path_are_merged_and_have_no_blanks():
    for seed in range(5):
        logits, _, mask = ctc_case(seed)
        path = np.argmax(logits, -1)
        found = best_path(np.where(mask[..., None], logits, np.nan), mask, blank=2)
        for row in range(B):
            expected = [c for c, _ in itertools.groupby(path[mask[:, row], row]) if c != 2]
            assert found[row].tolist() == expected + [-1] * (T - len(expected))
    with pytest.raises(ValueError, match=r"best_path: expected .* got \[7, 5, 4\] and bool \[5, 7\]"):
        best_path(logits, mask.T)


def test_ctc_never_reads_what_is_masked():
    logits, labels, mask = ctc_case(1)
    poisoned = np.where(mask[..., None], logits, np.nan)
    loss = jax.jit(jax.grad(lambda *args: jnp.sum(ctc_loss(*args))))
    fits = np.isfinite(ctc_loss(logits, labels, mask))
    found, expected = (loss(each[:, fits], labels[fits], mask[:, fits]) for each in (poisoned, logits))
    np.testing.assert_array_equal(found, expected)
    assert np.isnan(poisoned).any() and not np.any(found[~mask[:, fits]])
    total, count = sum_of(ctc_loss, logits[:, fits], labels[fits], mask[:, fits], ())
    assert takes_mask(ctc_loss) and count == fits.sum() and np.isfinite(total)


def test_the_quantile_loss_is_least_at_the_quantiles():
    samples, grid = np.sort(numbers(999)), np.linspace(-3, 3, 601)
    for level in (0.1, 0.5, 0.9):
        of_constant = jax.vmap(partial(quantile_loss, quantiles=(level,)), (0, None))
        losses = of_constant(np.broadcast_to(grid[:, None, None], (601, 999, 1)), samples)
        assert abs(grid[np.argmin(losses.mean(-1))] - samples[int(level * 999)]) < 0.02


def test_the_quantile_loss_is_a_mean_over_quantiles_and_events():
    levels, ys, x = np.array([0.1, 0.5, 0.9]), numbers(T, B, 6, 3), numbers(T, B, 6, seed=1)
    above = x[..., None] - ys
    expected = np.where(above > 0, levels * above, (levels - 1) * above).mean((-1, -2))
    found = quantile_loss(ys, x, quantiles=levels.tolist(), event_ndim=1)
    np.testing.assert_allclose(found, expected, 1e-12)


def softplus(x):
    return np.log1p(np.exp(x)) + 1e-4


@pytest.mark.parametrize(
    ("loss", "width", "log_p"),
    [
        (gaussian_nll, 2, lambda x, y: stats.norm.logpdf(x, y[..., 0], softplus(y[..., 1]))),
        (
            student_t_nll,
            3,
            lambda x, y: stats.t.logpdf(x, 2 + softplus(y[..., 2]), y[..., 0], softplus(y[..., 1])),
        ),
        (
            negative_binomial_nll,
            2,
            lambda x, y: stats.nbinom.logpmf(
                x, 1 / softplus(y[..., 1]), 1 / (1 + softplus(y[..., 0]) * softplus(y[..., 1]))
            ),
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_likelihoods_equal_those_of_scipy(loss, width, log_p):
    ys = 2 * numbers(T, B, 6, width)
    counts = np.random.default_rng(2).integers(0, 9, (T, B, 6))
    x = counts if loss is negative_binomial_nll else 3 * numbers(T, B, 6, seed=1)
    np.testing.assert_allclose(loss(ys, x, event_ndim=1), -log_p(x, ys).mean(-1), 1e-9)
    np.testing.assert_allclose(loss(ys, x), -log_p(x, ys), 1e-9)
    gradient = jax.grad(lambda ys: loss(ys, x).sum())(ys)
    step = 1e-6 * numbers(*ys.shape, seed=3)
    difference = (loss(ys + step, x) - loss(ys - step, x)).sum() / 2
    np.testing.assert_allclose(difference, np.vdot(gradient, step), 1e-5)


def test_distributions_have_their_params():
    ys = np.zeros((2, 3))
    assert gaussian(ys[:, :2]).scale.shape == (2,)
    assert (student_t(ys).freedom > 2).all()
    assert (negative_binomial(ys[:, :2]).mean > 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: cross_entropy(numbers(T, B, K), np.zeros((B, T), int)),
            r"cross_entropy: .* got \[7, 5, 4\] and int64",
        ),
        (lambda: cross_entropy(numbers(T, B, K), np.zeros((T, B))), r"integer labels \[T, \*B\], got"),
        (lambda: cross_entropy(numbers(1, 2), np.zeros(1, int), label_smoothing=1.5), r"label_smoothing"),
        (lambda: ctc_loss(numbers(T, B, K), np.zeros((T, N), int)), r"integer labels \[\*B, N\]"),
        (lambda: ctc_loss(numbers(T, B, K), np.zeros((B, N))), r"got \[7, 5, 4\], float64 \[5, 3\]"),
        (lambda: ctc_loss(numbers(T, B, K), np.zeros((B, N), int), blank=4), r"K above blank=4"),
        (lambda: ctc_loss(numbers(T, B, K), np.zeros((B, N), int), np.ones((T, B))), r"and float64 \[7, 5\]"),
        (lambda: quantile_loss(numbers(T, B, 2), numbers(T, B), quantiles=(0.1,)), r"\[T, \*B, \*E, 1\]"),
        (lambda: quantile_loss(numbers(T, B, 1), numbers(T, B), quantiles=(1.1,)), r"quantiles"),
        (
            lambda: quantile_loss(numbers(1, 1), numbers(1), quantiles=(0.1,), event_ndim=2),
            r"at most the 1 axes",
        ),
        (lambda: gaussian_nll(numbers(T, B, 3), numbers(T, B)), r"gaussian: expected outputs \[..., 2\]"),
        (
            lambda: student_t_nll(numbers(T, B, 3), numbers(B)),
            r"student_t_nll: expected targets \[7, 5\].*got \[5\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_training_step_takes_ctc_and_its_mask():
    model, optimizer, xs = sj.recurrent(sj.elman(4)), optax.sgd(0.1), numbers(T, B, 2)
    batch = sj.Batch(xs, ctc_case(0)[1], mask=np.ones((T, B), bool))
    state = init_train_state(model, optimizer, jax.random.key(0), xs[0])
    ys = model.unroll(state.params, None, xs)[1]
    _, metrics = make_train_step(model, ctc_loss, optimizer)(state, batch)
    np.testing.assert_allclose(metrics.loss, ctc_loss(ys, batch.targets).mean(), 1e-6)
