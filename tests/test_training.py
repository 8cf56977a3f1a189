"""Compare the train step with a plain optax loop, on any number of devices, with one collective per step."""

import logging

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from helpers.hlo import collectives
from helpers.refusals import refusals
from helpers.tiers import slow
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import seqjax as sj
from seqjax.inputs import first_step
from seqjax.training import TrainState, init_train_state, make_train_step
from seqjax.training.sharding import axes_of, batch_specs

T, B, H, V = 6, 8, 3, 5
KEY = jax.random.key(0)
CELLS = {
    "lstm": sj.lstm(H, param_dtype=jnp.float64),
    "gru": sj.gru(H, param_dtype=jnp.float64),
    "lru": sj.lru(H, param_dtype=jnp.float64),
    "elman": sj.elman(H, param_dtype=jnp.float64),
}
METHODS = (sj.Scan(gradient="autodiff"), sj.Scan(chunk=4), sj.AssociativeScan())
cross_entropy = optax.softmax_cross_entropy_with_integer_labels


@pytest.fixture
def as_users_see_it(monkeypatch):
    """The library's own messages: annotations are executed in tests only, and would come first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def squares(ys, targets):
    return jnp.sum((ys - targets) ** 2, -1)


def data_mesh(size=8):
    return jax.make_mesh((size,), ("data",), axis_types=(AxisType.Auto,))


def language_model(cell):
    return sj.serial(
        sj.pointwise(nn.Embed(V, H, param_dtype=jnp.float64)),
        sj.recurrent(cell),
        sj.pointwise(nn.Dense(V, param_dtype=jnp.float64)),
    )


def tokens(seed):
    """Uneven lengths, from a row without any step that counts to a whole one, and resets."""
    rng = np.random.default_rng(seed)
    mask = np.arange(T)[:, None] < rng.permutation([0, 1, 2, 3, 4, 5, 6, 6])
    return sj.Batch(
        xs=rng.integers(0, V, (T, B)),
        targets=rng.integers(0, V, (T, B)),
        reset=rng.random((T, B)) < 0.3,
        mask=mask & (rng.random((T, B)) < 0.9),
    )


def vectors(seed=0):
    xs, targets = np.random.default_rng(seed).normal(size=(2, T, B, H))
    return sj.Batch(xs, targets)


def start(model, optimizer, batch, key=None):
    return init_train_state(model, optimizer, KEY, first_step(batch.xs))._replace(key=key)


def run(model, loss, optimizer, batches, *, mesh=None, key=None):
    step = make_train_step(model, loss, optimizer, mesh=mesh)
    state, history = start(model, optimizer, batches[0], key), []
    for batch in batches:
        state, metrics = step(state, batch)
        history.append(metrics)
    return state._replace(key=None), history


def assert_close(got, expected, rtol):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


# ---------------------------------------------------------------- what a step computes


@pytest.mark.parametrize("name", ["lstm", *slow("lru")])
def test_steps_are_a_plain_optax_loop(name):
    model, optimizer = language_model(CELLS[name]), optax.adam(1e-2)
    batches = [tokens(seed) for seed in range(3)]
    state, history = run(model, cross_entropy, optimizer, batches)

    params = start(model, optimizer, batches[0]).params
    opt_state = optimizer.init(params)

    @jax.jit
    @jax.value_and_grad
    def mean_loss(params, batch):
        carry = model.initial_carry(params, batch.xs[0])
        _, ys = model.unroll(params, carry, batch.xs, reset=batch.reset, mask=batch.mask)
        losses = cross_entropy(ys, batch.targets)
        return jnp.sum(jnp.where(batch.mask, losses, 0)) / jnp.sum(batch.mask)

    for batch, metrics in zip(batches, history, strict=True):
        value, gradients = mean_loss(params, batch)
        norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(gradients)))
        assert_close(tuple(metrics), (value, norm, True, 0, {}), 1e-12)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)

    assert_close(state, TrainState(params, opt_state, 3, None), 1e-12)


def test_a_scalar_loss_is_minimized_as_it_is():
    def scalar(ys, targets):
        return 7 * jnp.sum(squares(ys, targets))

    batch, model, optimizer = vectors(), sj.recurrent(CELLS["elman"]), optax.sgd(1.0)
    _, (metrics,) = run(model, scalar, optimizer, [batch])
    _, (mean,) = run(model, squares, optimizer, [batch])
    assert_close(metrics[:2], tuple(7 * T * B * m for m in mean[:2]), 1e-12)


def test_a_batch_in_which_nothing_happens_changes_nothing():
    batch = vectors()._replace(mask=np.zeros((T, B), bool))
    model, optimizer = sj.recurrent(CELLS["elman"]), optax.sgd(1.0)
    state, (metrics,) = run(model, squares, optimizer, [batch])
    assert metrics == (0, 0, True, 0, {})
    assert_close(state.params, start(model, optimizer, batch).params, 0)


def test_a_learned_initial_carry_has_a_gradient():
    cell = sj.Cell(
        init=lambda key, x: jnp.zeros(x.shape[-1:]),
        initial_carry=lambda params, x: jnp.broadcast_to(params, x.shape),
        recurrence=sj.Step(lambda params, h, x: (h, h)),
    )
    batch = vectors()
    state, _ = run(sj.recurrent(cell), squares, optax.sgd(0.5), [batch], mesh=data_mesh())
    assert_close(state.params, batch.targets.mean((0, 1)), 1e-12)


def test_complex_params_go_downhill():
    cell = sj.Cell(
        init=lambda key, x: jnp.zeros(x.shape[-1:], complex),
        initial_carry=lambda params, x: (),
        recurrence=sj.Step(lambda params, carry, x: (carry, x)),
        readout=lambda params, hs, xs: params - xs,
    )
    target = np.broadcast_to(np.array([1 + 2j, -3j, 2.0]), (T, B, H))
    state, _ = run(
        sj.recurrent(cell),
        lambda ys, _: jnp.sum(jnp.abs(ys) ** 2, -1),
        optax.sgd(0.5),
        [sj.Batch(target, None)],
    )
    assert_close(state.params, target[0, 0], 1e-12)


# ---------------------------------------------------------------- over many devices


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.fast_cases(1)
def test_many_devices_equal_one(name):
    model, optimizer = language_model(CELLS[name]), optax.adam(1e-2)
    batches = [tokens(seed) for seed in range(5)]
    expected = run(model, cross_entropy, optimizer, batches)
    # With a key, which changes nothing where nothing is noisy.
    got = run(model, cross_entropy, optimizer, batches, mesh=data_mesh(), key=KEY)
    assert_close(got, expected, 1e-10)

    step = make_train_step(model, cross_entropy, optimizer, mesh=data_mesh())
    compiled = step.lower(start(model, optimizer, batches[0], KEY), batches[0]).compile()
    found = collectives(compiled.as_text())
    assert found.total == {"all-reduce": 1} and found.in_loops == {} and found.num_loops > 0


def test_other_axes_and_axis_types_do_not_matter():
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit, AxisType.Auto))
    model, optimizer, batches = sj.recurrent(CELLS["elman"]), optax.sgd(0.1), [vectors(0), vectors(1)]
    expected = run(model, squares, optimizer, batches)
    assert_close(run(model, squares, optimizer, batches, mesh=mesh), expected, 1e-10)


EVERY_CELL_AND_METHOD = [
    pytest.param(cell, method, id=f"{name}-{method}")
    for name, cell in CELLS.items()
    for method in METHODS
    if isinstance(cell.recurrence, method.kinds)
]


@pytest.mark.parametrize(("cell", "method"), EVERY_CELL_AND_METHOD)
@pytest.mark.fast_cases(1)
def test_devices_speak_once_and_outside_of_loops(cell, method):
    model, optimizer, batch = sj.recurrent(cell, method), optax.sgd(0.1), vectors()
    step = make_train_step(model, squares, optimizer, mesh=data_mesh())
    found = collectives(step.lower(start(model, optimizer, batch, KEY), batch).compile().as_text())
    assert found.total == {"all-reduce": 1} and found.in_loops == {}
    assert found.num_loops > 0 or method == sj.AssociativeScan()


def test_a_naive_step_speaks_inside_its_loop():
    """The count sees what it is there to see: autodiff of a scan, over a batch that the compiler splits."""

    def mean_loss(w, xs):
        def body(h, x):
            h = jnp.tanh(x + h @ w)
            return h, h

        return jnp.mean(jax.lax.scan(body, jnp.zeros_like(xs[0]), xs)[1] ** 2)

    placed = NamedSharding(data_mesh(), PartitionSpec(None, "data"))
    step = jax.jit(jax.grad(mean_loss), in_shardings=(NamedSharding(data_mesh(), PartitionSpec()), placed))
    found = collectives(step.lower(jnp.eye(H), jnp.ones((T, B, H))).compile().as_text())
    assert found.in_loops == {"all-reduce": 1} and found.num_loops == 2


def test_losses_per_sequence():
    def last_squares(ys, targets, mask):
        return squares(sj.last(ys, mask), targets["last"])

    batch = vectors()
    batch = batch._replace(targets={"last": batch.targets[-1], "unused": np.arange(B)}, mask=tokens(0).mask)
    model, optimizer = sj.recurrent(CELLS["elman"]), optax.sgd(0.1)
    expected = run(model, last_squares, optimizer, [batch])
    assert_close(run(model, last_squares, optimizer, [batch], mesh=data_mesh()), expected, 1e-12)


def test_batches_are_split_by_their_shapes():
    steps, sequences = PartitionSpec(None, "data"), PartitionSpec("data")
    targets = {
        "step": np.zeros((T, B)),
        "vector": np.zeros((T, B, H)),
        "label": np.zeros(B),
        "soft": np.zeros((B, V)),
    }
    specs = batch_specs(tokens(0)._replace(targets=targets), {"data": 4})
    assert specs.xs == specs.reset == specs.mask == steps
    assert specs.targets == {"step": steps, "vector": steps, "label": sequences, "soft": sequences}
    # T = B: still told apart, as long as there are not B classes as well.
    xs = np.zeros((B, B))
    targets = (np.zeros(B), np.zeros((B, V)), np.zeros((B, 1, B)), np.zeros((B, B)))
    assert batch_specs(sj.Batch(xs, targets), {"data": 2}).targets == (sequences, sequences, sequences, steps)


def test_the_data_axis_is_the_one_of_that_name_or_the_only_one():
    types = (AxisType.Auto, AxisType.Auto)
    assert axes_of(jax.make_mesh((2, 2), ("model", "data"), axis_types=types)).batch == {"data": 2}
    assert axes_of(jax.make_mesh((2,), ("rows",), axis_types=types[:1])).batch == {"rows": 2}
    axes = axes_of(jax.make_mesh((2, 2, 2), ("time", "fsdp", "data"), axis_types=(*types, types[0])))
    assert axes == ({"data": 2, "fsdp": 2}, {"fsdp": 2}, {"time": 2})


# ---------------------------------------------------------------- noise


def noisy(rows_seen):
    """Row b of the embedding is seen by row b of the batch alone, so its gradient is that row's dropout."""
    model = sj.serial(sj.pointwise(nn.Embed(rows_seen, H, param_dtype=jnp.float64)), sj.dropout(0.5))
    xs = np.broadcast_to(np.arange(rows_seen), (T, rows_seen))
    return model, lambda ys, targets: jnp.sum(ys, -1), sj.Batch(xs, None)


def drops(num_steps=1, key=KEY, mesh=None):
    """What the last of some steps dropped, as the change of the embedding."""
    model, loss, batch = noisy(B)
    step = make_train_step(model, loss, optax.sgd(1.0), mesh=mesh)
    state = start(model, optax.sgd(1.0), batch, key)
    for _ in range(num_steps):
        before = np.asarray(jax.tree.leaves(state.params)[0]).copy()
        state, _ = step(state, batch)
    return np.round((np.asarray(jax.tree.leaves(state.params)[0]) - before) * T * B).astype(int)


def test_noise_is_a_function_of_key_and_step():
    once = drops()
    assert (once == drops()).all() and len(np.unique(once)) > 2
    assert (once != drops(num_steps=2)).any() and (once != drops(key=jax.random.key(1))).any()
    assert (drops(key=None) == -T).all()


def test_every_device_draws_noise_of_its_own():
    rows = drops(mesh=data_mesh())
    assert len(np.unique(rows, axis=0)) > B // 2  # one row for each device: the same key would drop the same
    assert (drops(mesh=data_mesh(1)) == drops()).all()


# ---------------------------------------------------------------- one program, on the memory of the last state


def compilations(caplog):
    return [r.getMessage() for r in caplog.records if r.getMessage().startswith("Compiling jit(train_step)")]


@pytest.mark.parametrize("mesh", [None, 8], ids=["one", "many"])
def test_a_step_is_compiled_once_and_donates_its_state(mesh, caplog):
    mesh = None if mesh is None else data_mesh(mesh)
    # Weakly typed params, and an optimizer that begins with the params themselves.
    cell = sj.Cell(
        init=lambda key, x: jnp.full(x.shape[-1:], 0.5),
        initial_carry=lambda params, x: jnp.zeros_like(x),
        recurrence=sj.Step(lambda params, h, x: (params * h + x,) * 2),
    )
    model, optimizer, batch = sj.recurrent(cell), optax.contrib.schedule_free_sgd(0.1), vectors()
    step = make_train_step(model, squares, optimizer, mesh=mesh)
    state = init_train_state(model, optimizer, KEY, batch.xs[0])
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for place in (np.asarray, jnp.asarray, np.asarray):
            before = state
            state, metrics = step(state, jax.tree.map(place, batch))
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before._replace(key=None)))
            assert not before.key.is_deleted()
    assert len(compilations(caplog)) == 1
    if mesh is not None:
        placed = NamedSharding(mesh, PartitionSpec())
        assert all(leaf.sharding == placed for leaf in jax.tree.leaves((state, metrics)))


def test_a_step_is_pure():
    model, optimizer, batch = sj.recurrent(CELLS["elman"]), optax.adam(0.1), vectors()
    step = make_train_step(model, squares, optimizer)
    first, other, again = (step(start(model, optimizer, b), b) for b in (batch, vectors(1), batch))
    assert_close(again, first, 0)
    assert other[1].loss != first[1].loss


def test_a_step_can_be_lowered_from_shapes():
    model, optimizer, batch = sj.recurrent(CELLS["elman"]), optax.sgd(0.1), vectors()
    state = start(model, optimizer, batch, KEY)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (state, batch))
    step = make_train_step(model, squares, optimizer, mesh=data_mesh())
    assert step.lower(*shapes).as_text() == step.lower(state, batch).as_text()


def test_the_first_state():
    model, optimizer = sj.recurrent(CELLS["elman"]), optax.adam(0.1)
    state = init_train_state(model, optimizer, KEY, jnp.zeros((B, H)))
    same = init_train_state(model, optimizer, KEY, jax.ShapeDtypeStruct((B, H), float))
    assert_close(state._replace(key=0), same._replace(key=0), 0)
    assert state.step == 0 and state.step.dtype == jnp.int32 and (state.key != KEY)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state._replace(key=None)))


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda b: jax.tree.map(lambda a: a[:, :6], b),
            r"divides among the 4 devices of mesh axis 'data', got B = 6",
        ),
        (
            lambda b: b._replace(mask=b.mask[:, :4]),
            r"expected mask \[6, 8, \.\.\.\], as xs \[6, 8, 3\], got \[6, 4\]",
        ),
        (
            lambda b: b._replace(reset=b.mask[0]),
            r"expected reset \[6, 8, \.\.\.\], as xs \[6, 8, 3\], got \[8\]",
        ),
        (
            lambda b: b._replace(targets={"a": (0.0,)}),
            r"expected targets\.a\.0 \[6, 8, \.\.\.\] or \[8, \.\.\.\], as xs \[6, 8, 3\], got \[\]",
        ),
        (
            lambda b: sj.Batch(b.mask[:, 0], None),
            r"expected xs \[T, B, \.\.\.\], to be split on B, got \[6\]",
        ),
    ],
)
def test_a_batch_that_cannot_be_split_is_refused(change, message):
    model, optimizer = sj.recurrent(CELLS["elman"]), optax.sgd(0.1)
    batch = vectors()._replace(mask=tokens(0).mask)
    step = make_train_step(model, squares, optimizer, mesh=data_mesh(4))
    with pytest.raises(ValueError, match=message):
        step(start(model, optimizer, batch), change(batch))


@pytest.mark.parametrize(
    ("loss", "shapes"),
    [
        (
            lambda ys, targets: jnp.mean(squares(ys, targets)),
            r"which split with the batch over the 4 devices .* got \[\] for the whole batch and \[\] on one device",
        ),
        (
            lambda ys, targets: jnp.mean(ys - targets, (0, 1)),
            r"loss: expected losses per step \[6, 8\], .* per sequence \[8\] or a scalar, got \[3\]",
        ),
    ],
)
def test_a_loss_that_does_not_split_is_refused(loss, shapes):
    model, optimizer, batch = sj.recurrent(CELLS["elman"]), optax.sgd(0.1), vectors()
    step = make_train_step(model, loss, optimizer, mesh=data_mesh(4))
    with pytest.raises(ValueError, match=shapes):
        step(start(model, optimizer, batch), batch)


ELMAN, SGD = sj.recurrent(CELLS["elman"]), optax.sgd(0.1)


def step_by(**options):
    return make_train_step(ELMAN, squares, SGD, **options)


def state_of(**options):
    return init_train_state(ELMAN, SGD, KEY, vectors().xs[0], **options)


def step_from_another(estimator, other):
    return step_by(estimator=estimator)(state_of(estimator=other), vectors())


AUTO = (AxisType.Auto, AxisType.Auto)
NO_LAYER = r"\(model\): expected a Layer, got elman.* Bind a cell with recurrent"
NO_OPTIMIZER = r"\(optimizer\): expected an optax optimizer .*, got float"
REFUSED = {
    "a tuple as the batch": (
        lambda: step_by()(state_of(), (vectors().xs, vectors().targets)), TypeError,
        r"expected a Batch, got tuple\. Write Batch\(xs, targets\)"),
    "params as the state": (
        lambda: step_by()(state_of().params, vectors()), TypeError,
        r"expected a TrainState, got ElmanParams\. Make one with init_train_state"),
    "a batch without steps": (
        lambda: step_by()(state_of(), vectors()._replace(xs=vectors().xs[:0])), ValueError,
        r"expected xs \[T, \*B, \.\.\.\] with T of at least 1, got \[0, 8, 3\]"),
    "make_train_step: a cell": (
        lambda: make_train_step(CELLS["elman"], squares, SGD), TypeError, NO_LAYER),
    "init_train_state: a cell": (
        lambda: init_train_state(CELLS["elman"], SGD, KEY, vectors().xs[0]), TypeError, NO_LAYER),
    "make_train_step: a rate": (
        lambda: make_train_step(ELMAN, squares, 0.1), TypeError, NO_OPTIMIZER),
    "init_train_state: a rate": (
        lambda: init_train_state(ELMAN, 0.1, KEY, vectors().xs[0]), TypeError, NO_OPTIMIZER),
    "a number as the mesh": (
        lambda: step_by(mesh=8), TypeError, r"make_train_step\(mesh\): expected a jax.sharding.Mesh, got int"),
    "a mesh without a data axis": (
        lambda: step_by(mesh=jax.make_mesh((2, 2), ("rows", "columns"), axis_types=AUTO)), ValueError,
        r"with an axis 'data', 'fsdp' or 'time', or with one axis only, got axes 'rows', 'columns'"),
    "rtrl: a state of full_bptt": (
        lambda: step_from_another(sj.rtrl(), sj.full_bptt()), ValueError,
        r"expected a TrainState for rtrl\(\), got one for another"),
    "full_bptt: a state of rtrl": (
        lambda: step_from_another(sj.full_bptt(), sj.rtrl()), ValueError,
        r"expected a TrainState for full_bptt\(\), got one for another"),
    "a text as the estimator": (
        lambda: step_by(estimator="rtrl"), TypeError,
        r"make_train_step\(estimator\): expected an Estimator such as .*, got str"),
}  # fmt: skip


@refusals(REFUSED)
def test_arguments_of_another_kind_are_refused(as_users_see_it, call, error, message):
    with pytest.raises(error, match=message):
        call()


# ---------------------------------------------------------------- streams


def streamed(estimator, batches, *, mesh=None):
    model, optimizer = sj.recurrent(CELLS["elman"]), optax.sgd(0.1)
    step = make_train_step(model, squares, optimizer, estimator=estimator, mesh=mesh)
    state = init_train_state(model, optimizer, KEY, batches[0].xs[0], estimator=estimator)._replace(key=None)
    for batch in batches:
        state, metrics = step(state, batch)
    return state, metrics


def test_a_streaming_estimator_goes_on_where_the_last_batch_ended():
    batches, estimator = [vectors(seed) for seed in range(3)], sj.truncated_bptt(4)
    state, metrics = streamed(estimator, batches)
    model = sj.recurrent(CELLS["elman"])
    params = start(model, optax.sgd(0.1), batches[0]).params
    init, update = estimator.bind(model, squares)
    update = jax.jit(update)
    carry = model.initial_carry(params, batches[0].xs[0])
    kept = init(params, carry, batches[0].xs[0])
    for batch in batches:
        estimate, carry, kept = update(params, carry, kept, batch)
        params = jax.tree.map(lambda p, g: p - 0.1 * g / (T * B), params, estimate.gradients)
    assert_close((state.params, state.carry), (params, carry), 1e-12)
    np.testing.assert_allclose(metrics.loss, estimate.total / (T * B), rtol=1e-12)


@pytest.mark.parametrize("estimator", [sj.truncated_bptt(4), sj.rtrl(), sj.snap(1)], ids=str)
@pytest.mark.fast_cases(1)
def test_streams_over_devices_are_those_of_one(estimator):
    batches = [vectors(seed) for seed in range(2)]
    found, one = (streamed(estimator, batches, mesh=mesh) for mesh in (data_mesh(), None))
    assert_close(found, one, 1e-12)
    assert found[0].carry.h.sharding.spec == PartitionSpec("data")


@pytest.mark.parametrize("devices", [None, 2])
def test_a_state_begins_with_given_params_and_leaves_them_as_they_are(devices):
    mesh = None if devices is None else jax.make_mesh((devices,), ("fsdp",))
    model, optimizer, x = sj.recurrent(sj.elman(4)), optax.adam(1e-2), jnp.ones((2, 3))
    params = jax.tree.map(lambda a: a + 1, model.init(KEY, x))
    before = [np.asarray(leaf).tobytes() for leaf in params]
    state = init_train_state(model, optimizer, KEY, x, mesh=mesh, params=params)
    assert [np.asarray(leaf).tobytes() for leaf in state.params] == before
    batch = sj.Batch(jnp.ones((3, 2, 3)), jnp.ones((3, 2, 4)))
    state, _ = make_train_step(model, optax.l2_loss, optimizer, mesh=mesh)(state, batch)
    assert [np.asarray(leaf).tobytes() for leaf in params] == before  # the step reuses memory of its own
    assert [np.asarray(leaf).tobytes() for leaf in state.params] != before


@pytest.mark.parametrize(
    ("params", "what"),
    [
        (sj.elman(5).init(jax.random.key(0), jnp.ones((2, 3))), r"\.w_x \[3, 4\] -> \[3, 5\]"),
        (tuple(sj.elman(4).init(jax.random.key(0), jnp.ones((2, 3)))), r"\.w_x \[3, 4\] -> None; .* \.\.\."),
        ({}, "w_h .* -> None"),
    ],
)
def test_params_of_another_model_are_refused(params, what):
    with pytest.raises(ValueError, match=rf"init_train_state\(params\): expected params as .*{what}"):
        init_train_state(sj.recurrent(sj.elman(4)), optax.adam(1e-2), KEY, jnp.ones((2, 3)), params=params)
