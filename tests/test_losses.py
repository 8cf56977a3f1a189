"""One rule for losses in training, evaluation, estimators and probes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import seqjax as sj
from seqjax.gradients.objective import losses_of, takes_mask
from seqjax.training import evaluation, init_train_state, make_train_step

T, B, H = 5, 4, 3
RNG = np.random.default_rng(0)
XS, TARGETS = RNG.normal(size=(T, B, H)), RNG.normal(size=(T, B, H))
MASK = np.ones((T, B), bool)
MASK[3:] = False
MODEL, SGD = sj.recurrent(sj.elman(H)), optax.sgd(0.1)


def squares(ys, targets):
    return (ys - targets) ** 2


REFUSED = {
    "mean over batch and features": lambda ys, t: jnp.mean(squares(ys, t), (1, 2)),  # [T]
    "mean over time and batch": lambda ys, t: jnp.mean(squares(ys, t), (0, 1)),  # [H]
    "flattened": lambda ys, t: squares(ys, t).mean(-1).ravel(),  # [T B]
    "batch first": lambda ys, t: squares(ys, t).mean(-1).T,  # [B, T]
    "an axis kept": lambda ys, t: squares(ys, t).mean(-1, keepdims=True),  # [T, B, 1]
    "targets broadcast": lambda ys, t: (ys[-1, :, :1] - t[-1, :, 0]) ** 2,  # [B, B]
    "last step of the shape of ys": lambda ys, t: squares(ys, t)[-1],  # [B, H]
}
TAKEN = {
    "per step": lambda ys, t: squares(ys, t).mean(-1),
    "of the shape of ys": squares,
    "per sequence": lambda ys, t: squares(ys, t).mean((0, 2)),
    "scalar": lambda ys, t: squares(ys, t).mean(),
}


def trained(loss, batch, **options):
    step = make_train_step(MODEL, loss, SGD, **options)
    state, metrics = step(init_train_state(MODEL, SGD, jax.random.key(0), batch.xs[0]), batch)
    return float(metrics.loss), jax.device_get(state.params)


def entries(batch):
    """Everything that takes a loss, by name."""
    params = MODEL.init(jax.random.key(0), batch.xs[0])

    class State:
        pass

    State.params = params
    bound = sj.probes.bind(MODEL, params)

    def estimator(made, loss):
        init, update = made.bind(MODEL, loss)
        carry = MODEL.initial_carry(params, batch.xs[0])
        return jax.eval_shape(lambda: update(params, carry, init(params, carry, batch.xs[0]), batch))

    return {
        "training": lambda loss: make_train_step(MODEL, loss, SGD).lower(
            init_train_state(MODEL, SGD, jax.random.key(0), batch.xs[0]), batch
        ),
        "evaluation": lambda loss: evaluation(MODEL, loss, lambda n: batch)(State),
        "full_bptt": functools.partial(estimator, sj.full_bptt()),
        "truncated_bptt": functools.partial(estimator, sj.truncated_bptt(2)),
        "gradient_profile": lambda loss: sj.probes.gradient_profile(bound, loss, batch),
        "input_saliency": lambda loss: sj.probes.input_saliency(bound, loss, batch),
    }


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
@pytest.mark.parametrize("name", entries(sj.Batch(XS, TARGETS)))
@pytest.mark.fast_cases(4)
def test_losses_of_another_shape_are_refused_everywhere(name, mask):
    run = entries(sj.Batch(XS, TARGETS, mask=mask))[name]
    for loss in REFUSED.values():
        with pytest.raises(ValueError, match=r"loss: expected losses per step \[5, 4\], .* got \["):
            run(loss)


def test_the_mean_is_over_the_own_axes_of_the_outputs_and_over_the_steps_that_happen():
    poison = np.where(MASK[..., None], TARGETS, np.nan)
    expected = trained(TAKEN["per step"], sj.Batch(XS, TARGETS, mask=MASK))
    for loss in (TAKEN["of the shape of ys"], TAKEN["per step"]):
        found = trained(loss, sj.Batch(XS, poison, mask=MASK))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)
    whole = [trained(loss, sj.Batch(XS, TARGETS)) for loss in TAKEN.values()]
    for found in whole[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, whole[0])


@pytest.mark.parametrize("name", ["per sequence", "scalar"])
def test_a_loss_that_reduces_over_time_takes_the_mask_or_is_refused(name):
    batch = sj.Batch(XS, TARGETS, mask=MASK)
    with pytest.raises(
        ValueError, match=r"loss with the mask as its third argument, got .* Write loss\(ys, t"
    ):
        trained(TAKEN[name], batch)
    axes = (0, 2) if name == "per sequence" else None

    def masked(ys, targets, valid):
        return jnp.sum(jnp.where(valid[..., None], squares(ys, targets), 0), axes) / (
            3 * H * (axes is None or 1)
        )

    if axes is None:
        by_hand = lambda ys, t, mask: masked(ys, t, mask) / B  # noqa: E731
    else:
        by_hand = masked
    expected = trained(TAKEN["per step"], batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), trained(by_hand, batch), expected)


def test_sequences_without_a_step_do_not_count():
    mask = MASK.copy()
    mask[:, 1] = False
    targets = np.where(mask[..., None], TARGETS, np.nan)
    last = sj.gradients.last_step(lambda ys, t: squares(ys, t).sum(-1))
    found = trained(last, sj.Batch(XS, targets, mask=mask))
    rows = [0, 2, 3]
    expected = trained(last, sj.Batch(XS[:3, rows], targets[:3, rows]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)


def test_on_a_mesh_the_rule_is_the_same():
    mesh = jax.make_mesh((2,), ("data",))
    batch = sj.Batch(XS, TARGETS, mask=MASK)
    for loss in (*REFUSED.values(), TAKEN["per sequence"], TAKEN["scalar"]):
        with pytest.raises(ValueError, match="loss: expected"):
            trained(loss, batch, mesh=mesh)

    def per_sequence(ys, targets, mask):
        return jnp.sum(jnp.where(mask, squares(ys, targets).sum(-1), 0), 0)

    for loss in (squares, per_sequence):
        found, expected = trained(loss, batch, mesh=mesh), trained(loss, batch)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)


def test_shapes_that_agree_by_chance_do_not_hide_a_wrong_loss():
    """With T = B = H each of these looks like losses per step or per sequence."""
    ys = jnp.zeros((4, 4, 4))
    for name, loss in REFUSED.items():
        if name == "an axis kept" or name == "flattened":
            continue
        with pytest.raises(ValueError, match="loss: expected losses per step"):
            losses_of(loss, ys, ys, None, ((4, 4),))
    for loss in (*TAKEN.values(), optax.l2_loss, optax.cosine_distance):
        losses_of(loss, ys, ys, None, ((4, 4),))
    one = jnp.zeros((5, 1, 1))  # one series: [T, 1, 1] - [T, 1]
    with pytest.raises(ValueError, match=r"got \[5, 5, 1\]"):
        losses_of(squares, one, one[..., 0], None, ((5, 1),))


def test_the_mask_is_taken_by_name_or_by_a_third_required_argument():
    assert takes_mask(lambda ys, targets, mask=None: ys) and takes_mask(lambda ys, targets, valid: ys)
    assert takes_mask(sj.gradients.last_step(squares))
    integer_labels = optax.softmax_cross_entropy_with_integer_labels  # its third argument is an axis
    assert not takes_mask(integer_labels) and not takes_mask(optax.huber_loss) and not takes_mask(squares)
    assert not takes_mask(functools.partial(lambda ys, t, mask: ys, mask=None))


def test_metrics_of_an_evaluation_take_the_mask_as_losses_do():
    batch = sj.Batch(XS, TARGETS, mask=MASK)

    class State:
        params = MODEL.init(jax.random.key(0), XS[0])

    def last(ys, targets, mask):
        return {"last": sj.last(ys, mask).mean()}

    ys = np.asarray(MODEL.unroll(State.params, None, XS, mask=MASK)[1])
    expected = np.mean([ys[np.flatnonzero(row)[-1], b] for b, row in enumerate(MASK.T)])
    found = evaluation(MODEL, squares, lambda n: batch, metrics=last)(State)
    np.testing.assert_allclose(found["last"], expected, rtol=1e-5)
