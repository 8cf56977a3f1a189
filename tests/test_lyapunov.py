"""Compare Lyapunov spectra with closed forms and published values, with masks and resets, for every cell."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import digamma
from scipy.stats import t as student_t

import seqjax as sj
from seqjax.cells import REGISTRY, ElmanCarry, ElmanParams
from seqjax.probes import Bound, bind, lyapunov_spectrum
from seqjax.probes.internals.system import prepare
from seqjax.probes.lyapunov import half_width, kaplan_yorke

LOG = np.log


def spectrum(step, carry, xs, **options):
    """`lyapunov_spectrum` as one compiled program."""
    flags = {name: options.pop(name) for name in ("reset", "mask") if name in options}
    others = {name: options.pop(name) for name in ("initial", "key") if name in options}
    fixed = [] if isinstance(step, Bound) else [step]  # a bound layer is an argument, a function is not
    num_steps, xs = (xs, None) if isinstance(xs, int) else (None, xs)

    @jax.jit
    def measure(bound, carry, xs, flags, others):
        batch = sj.Batch(num_steps if xs is None else xs, None, **flags)
        return lyapunov_spectrum(*fixed, *bound, batch, carry=carry, **others, **options)

    return measure([] if fixed else [step], carry, xs, flags, others)


def linear(matrix):
    """h' = W h, without input."""
    matrix = jnp.asarray(matrix)
    return lambda h, x: (matrix @ h, None)


def apply_matrix(h, matrix):
    """A step whose Jacobian is its input."""
    return matrix @ h, None


def spectrum_of_matrices(matrices, **options):
    return spectrum(apply_matrix, jnp.zeros(matrices.shape[-1]), matrices, **options)


def orthogonal(size, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


def henon(carry, x):
    a, b = carry
    return (1 - 1.4 * a**2 + b, 0.3 * a), None


# ---------------------------------------------------------------- closed forms and published values


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.fast_cases(1)
def test_a_scaled_rotation_has_the_log_of_its_scale_for_every_exponent(dtype):
    step = linear((0.9 * orthogonal(4)).astype(dtype))
    found = spectrum(step, jnp.ones(4, dtype), 300, log_determinant=True)
    assert found.exponents.dtype == dtype
    tolerance = 300 * np.finfo(dtype).eps
    np.testing.assert_allclose(found.exponents, np.full(4, LOG(0.9)), atol=tolerance)
    np.testing.assert_allclose(found.log_determinant, 4 * LOG(0.9), atol=tolerance)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_linear_network_has_the_logs_of_its_eigenvalues(backwards):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(4, 4)) / 2
    direction = "backward" if backwards else "forward"
    found = spectrum(linear(matrix), jnp.ones(4), 10_000, direction=direction)
    expected = np.sort(LOG(np.abs(np.linalg.eigvals(matrix))))[::-1]
    np.testing.assert_allclose(found.exponents, expected, atol=1e-3)
    np.testing.assert_allclose(found.sum, np.linalg.slogdet(matrix)[1], atol=1e-10)


def test_a_tanh_network_at_rest_has_the_logs_of_its_eigenvalues():
    layer = sj.recurrent(sj.elman(3))
    matrix = np.diag([0.5, -0.9, 0.7])
    params = ElmanParams(jnp.zeros((2, 3)), jnp.asarray(matrix), jnp.zeros(3))
    found = spectrum(bind(layer, params), None, jnp.zeros((50, 1, 2)))
    np.testing.assert_allclose(found.exponents, [LOG([0.9, 0.7, 0.5])], atol=1e-12)


def test_random_matrices_have_the_exponents_of_newman():
    size, length = 8, 6000
    matrices = jnp.asarray(np.random.default_rng(1).normal(size=(length, size, size)) / math.sqrt(size))
    found = spectrum_of_matrices(matrices)
    expected = [(LOG(2 / size) + digamma((size - k + 1) / 2)) / 2 for k in range(1, size + 1)]
    np.testing.assert_allclose(found.exponents, expected, atol=0.03)
    # Independent steps: the intervals hold what they should, give or take chance.
    inside = (found.low <= np.asarray(expected)) & (np.asarray(expected) <= found.high)
    assert inside.sum() >= 6
    assert float(jnp.max(found.high - found.low)) < 0.1


@pytest.mark.parametrize("qr_every", [1, 7, "adaptive"])
@pytest.mark.fast_cases(1)
def test_the_henon_map_has_its_published_exponents_and_contracts_by_log_b(qr_every):
    found = spectrum(henon, (0.1, 0.1), 30_000, warm_up=100, qr_every=qr_every)
    np.testing.assert_allclose(found.exponents, [0.41922, -1.62319], atol=0.01)
    np.testing.assert_allclose(found.sum, LOG(0.3), atol=1e-10)
    np.testing.assert_allclose(found.kaplan_yorke, 1 + 0.41922 / 1.62319, atol=0.01)
    np.testing.assert_allclose(found.entropy, 0.41922, atol=0.01)
    assert found.near_zero == 0 and found.steps == 29_900
    assert found.low[0] <= 0.41922 <= found.high[0]


def test_the_lorenz_system_has_its_published_exponents():
    def rates(s):
        x, y, z = s
        return jnp.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])

    dt = 0.01

    def runge_kutta(s, x):
        a = rates(s)
        b = rates(s + dt / 2 * a)
        c = rates(s + dt / 2 * b)
        d = rates(s + dt * c)
        return s + dt / 6 * (a + 2 * b + 2 * c + d), None

    start = jnp.asarray([1.0, 1.0, 20.0])
    found = spectrum(runge_kutta, start, 100_000, qr_every=5, warm_up=5000)
    np.testing.assert_allclose(found.exponents / dt, [0.9056, 0, -14.5723], atol=0.02)
    np.testing.assert_allclose(found.sum / dt, -41 / 3, atol=1e-3)
    np.testing.assert_allclose(found.kaplan_yorke, 2.062, atol=0.003)


def test_the_logistic_and_the_tent_map_have_the_logs_of_their_slopes():
    found = spectrum(lambda h, x: (4 * h * (1 - h), None), 0.3, 200_000, warm_up=100)
    np.testing.assert_allclose(found.exponents, [LOG(2)], atol=1e-4)
    tent = spectrum(lambda h, x: (1.9 * jnp.minimum(h, 1 - h), None), 0.3, 100)
    np.testing.assert_allclose(tent.exponents, [LOG(1.9)], atol=1e-12)


def test_a_householder_step_has_one_exponent_which_the_determinant_knows():
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(400, 4))
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    beta = rng.uniform(0.1, 0.9, 400)
    matrices = np.eye(4) - beta[:, None, None] * keys[:, :, None] * keys[:, None, :]
    found = spectrum_of_matrices(jnp.asarray(matrices), log_determinant=True)
    np.testing.assert_allclose(found.sum, LOG(1 - beta).mean(), atol=1e-10)
    np.testing.assert_allclose(found.log_determinant, LOG(1 - beta).mean(), atol=1e-10)


def test_a_diagonal_system_is_exact_at_any_length_and_sorted():
    rng = np.random.default_rng(0)
    decays = rng.uniform(0.2, 1.1, (7, 5))
    found = spectrum(lambda h, a: (a * h + 1, None), jnp.ones(5), jnp.asarray(decays))
    np.testing.assert_allclose(found.exponents, np.sort(LOG(decays).mean(0))[::-1], atol=1e-12)


# ---------------------------------------------------------------- range


def test_a_numpy_integer_says_as_well_how_often():
    """Two steps from QR to QR are precise; a whole block of fifty is not."""
    matrices = jnp.asarray(np.random.default_rng(7).normal(size=(1000, 3, 3)) * [[1.0], [0.1], [0.01]])
    every, often = (
        spectrum(lambda h, a: (a @ h, None), jnp.zeros(3), matrices, qr_every=n).exponents
        for n in (1, np.int64(2))
    )
    np.testing.assert_allclose(often, every, atol=1e-9)


@pytest.mark.parametrize("qr_every", [1, "adaptive"])
@pytest.mark.fast_cases(1)
def test_a_hundred_thousand_steps_neither_overflow_nor_vanish(qr_every):
    matrix = np.asarray([[30.0, 1.0], [0.0, 1e-3]], np.float32)
    matrices = jnp.broadcast_to(jnp.asarray(matrix), (100_000, 2, 2))
    step = lambda h, m: (m @ h, None)  # noqa: E731
    found = spectrum(step, jnp.zeros(2, np.float32), matrices, qr_every=qr_every)
    assert found.exponents.dtype == jnp.float32
    np.testing.assert_allclose(found.exponents, [LOG(30), LOG(1e-3)], rtol=1e-5)


@pytest.mark.slow
def test_the_full_spectrum_of_32_units_over_a_hundred_thousand_steps_adds_up_to_the_determinant():
    rng = np.random.default_rng(0)
    layer = sj.recurrent(sj.elman(32))
    xs = jnp.asarray(rng.normal(size=(100_000, 1, 4)))
    params = layer.init(jax.random.key(0), xs[0])
    params = params._replace(w_h=jnp.asarray(2.5 * rng.normal(size=(32, 32)) / math.sqrt(32)))
    found = spectrum(bind(layer, params), None, xs, log_determinant=True)
    assert jnp.isfinite(found.exponents).all() and jnp.isfinite(found.low).all()
    np.testing.assert_allclose(found.sum, found.log_determinant, rtol=1e-6)
    assert float(found.sum[0]) * 100_000 < -1e5  # the volume itself is far below any float


def test_singular_jacobians_give_minus_infinity_and_leave_the_others_alone():
    lost = jnp.asarray(np.diag([2.0, 0.0, 0.5]))
    found = spectrum(lambda h, x: (lost @ h, None), jnp.ones(3), 40, log_determinant=True)
    np.testing.assert_allclose(found.exponents, [LOG(2), LOG(0.5), -np.inf], atol=1e-12)
    for end in (found.low, found.high):
        np.testing.assert_allclose(end, [LOG(2), LOG(0.5), -np.inf], atol=1e-12)
    assert found.sum == found.log_determinant == -np.inf
    np.testing.assert_allclose(found.kaplan_yorke, 2.0, atol=1e-12)


# ---------------------------------------------------------------- masks and resets


@functools.cache
def network():
    """A random tanh network with two rows of input."""
    layer = sj.recurrent(sj.elman(4))
    rng = np.random.default_rng(4)
    xs = jnp.asarray(rng.normal(size=(60, 2, 3)))
    params = ElmanParams(*(jnp.asarray(0.5 * rng.normal(size=shape)) for shape in ((3, 4), (4, 4), (4,))))
    return bind(layer, params), ElmanCarry(jnp.asarray(rng.normal(size=(2, 4)))), xs


@pytest.mark.parametrize(
    ("qr_every", "direction"), [(1, "forward"), (3, "forward"), ("adaptive", "backward")]
)
@pytest.mark.fast_cases(1)
def test_a_masked_sequence_has_the_spectrum_of_what_remains(qr_every, direction):
    step, carry, xs = network()
    rng = np.random.default_rng(5)
    mask = np.argsort(rng.random((60, 2)), 0) < 45
    options = {"qr_every": qr_every, "direction": direction, "warm_up": 4}
    poisoned = jnp.where(mask[..., None], xs, jnp.nan)
    found = spectrum(step, carry, poisoned, mask=jnp.asarray(mask), **options)
    rest = jnp.stack([xs[mask[:, b], b] for b in range(2)], 1)
    expected = spectrum(step, carry, rest, **options)
    np.testing.assert_array_equal(found.steps, [41, 41])
    for a, b in zip(found, expected, strict=True):
        if a is not None:
            np.testing.assert_allclose(a, b, atol=1e-10)


@pytest.mark.slow  # masked steps and resets are tested one by one
@pytest.mark.parametrize(
    ("qr_every", "direction"),
    [
        (2, "backward"),
        ("adaptive", "forward"),
        pytest.param(1, "forward", marks=pytest.mark.slow),
    ],
)
@pytest.mark.fast_cases(1)
def test_segments_give_the_mean_of_their_own_spectra_by_their_lengths(qr_every, direction):
    step, carry, xs = network()
    initial = ElmanCarry(carry.h[::-1] / 2)
    reset = np.zeros((60, 2), bool)
    reset[[0, 23, 40]] = True
    reset[0, 1] = False
    options = {"qr_every": qr_every, "direction": direction, "warm_up": 3, "log_determinant": True}
    found = spectrum(step, carry, xs, reset=jnp.asarray(reset), initial=initial, **options)
    pieces, steps = [], []
    for start, stop in ((0, 23), (23, 40), (40, 60)):
        first = jax.tree.map(lambda i, c: jnp.stack([i[0], c[1]]), initial, carry) if start == 0 else initial
        piece = spectrum(step, first, xs[start:stop], **options)
        pieces.append(piece)
        steps.append(stop - start - 3)
    share = np.asarray(steps) / sum(steps)
    np.testing.assert_array_equal(found.steps, [sum(steps)] * 2)
    for name in ("exponents", "sum", "log_determinant"):  # these spectra are apart enough to be sorted alike
        expected = sum(w * getattr(piece, name) for w, piece in zip(share, pieces, strict=True))
        np.testing.assert_allclose(getattr(found, name), expected, atol=1e-10)


def test_a_row_without_a_step_is_not_known_and_leaves_the_others_alone():
    step, carry, xs = network()
    mask = jnp.ones((60, 2), bool).at[:, 1].set(False)
    found = spectrum(step, carry, xs, mask=mask)
    assert jnp.isfinite(found.exponents[0]).all() and jnp.isnan(found.exponents[1]).all()
    assert jnp.isnan(found.kaplan_yorke[1]) and found.near_zero[1] == 0 == found.steps[1]


# ---------------------------------------------------------------- all cells, whole models


def random_layer(name, length=40, hidden=4):
    """A registered cell away from its first params, bound, and its inputs."""
    entry = REGISTRY[name]
    layer = sj.recurrent(entry.make(hidden))
    rng = np.random.default_rng(0)
    xs = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), entry.example((length, 2), 3))
    params = layer.init(jax.random.key(0), jax.tree.map(lambda a: a[0], xs))
    moved = jax.tree.map(lambda p: jnp.asarray(np.asarray(p) + 0.1 * rng.normal(size=p.shape)), params)
    return layer, moved, xs


def spread(jacobians):
    """The largest condition number among Jacobians ``[..., S, S]``."""
    values = np.linalg.svd(jacobians, compute_uv=False)
    with np.errstate(divide="ignore", invalid="ignore"):  # 0/0: a Jacobian of zeros
        return np.max(values[..., 0] / values[..., -1])


CELLS = {name: entry.make(4) for name, entry in REGISTRY.items()}
# Attention overwrites a slot of its memory at each step, so that no Jacobian of it has an inverse; it is below.
RECURRENT = [name for name, cell in CELLS.items() if not isinstance(cell.recurrence, sj.Attention)]
FIRST_OF_KIND = {type(CELLS[name].recurrence): name for name in reversed(RECURRENT)}
EVERY_CELL = [
    pytest.param(name, marks=[] if name in FIRST_OF_KIND.values() else pytest.mark.slow) for name in RECURRENT
]


@pytest.mark.parametrize("name", EVERY_CELL)
@pytest.mark.fast_cases(1)
def test_exponents_add_up_to_the_determinant_and_are_the_same_backwards(name):
    layer, params, xs = random_layer(name)

    @jax.jit
    def measure(params, xs):
        step = bind(layer, params)
        system = prepare("test", step, xs)
        jacobians = jax.vmap(jax.vmap(system.jacobian))(system.trajectory()[1], system.inputs.x)
        ways = [lyapunov_spectrum(step, xs, direction=way) for way in ("forward", "backward")]
        return jacobians, *ways

    jacobians, forward, backward = measure(params, xs)
    length = jacobians.shape[0]
    for found in (forward, backward):
        assert not jnp.isnan(found.exponents).any()
        assert (found.exponents[:, 1:] <= found.exponents[:, :-1]).all()
    for row in range(jacobians.shape[1]):
        ways = [np.asarray(found.exponents[row]) for found in (forward, backward)]
        if spread(jacobians[:, row]) < 1e9:
            expected = np.linalg.slogdet(jacobians[:, row])[1].mean()
            np.testing.assert_allclose([forward.sum[row], backward.sum[row]], expected, atol=1e-6)
            assert np.max(np.abs(ways[0] - ways[1])) < 12 / length
        else:  # what is lost shows
            assert max(way[-1] for way in ways) < np.log(1e-9) / length


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FIRST_OF_KIND.values()))
def test_forward_and_backward_exponents_approach_each_other_as_one_over_t(name):
    gaps = []
    for length in (100, 800):
        layer, params, xs = random_layer(name, length)
        ways = [
            spectrum(bind(layer, params), None, xs, direction=way).exponents
            for way in ("forward", "backward")
        ]
        gaps.append(length * float(jnp.max(jnp.abs(ways[0] - ways[1]))))
    assert max(gaps) < 12, gaps


def test_attention_loses_what_it_overwrites():
    rng = np.random.default_rng(0)
    layer = sj.recurrent(sj.attention(2, num_heads=1, key_size=2, window=2, rotary_base=None))
    xs = jnp.asarray(rng.normal(size=(6, 1, 2)))
    params = layer.init(jax.random.key(0), xs[0])
    found = spectrum(bind(layer, params), None, xs, log_determinant=True)
    # A key or value is kept as it is until its slot is written again, so nothing outlives two steps.
    np.testing.assert_array_equal(found.exponents, np.full((1, 8), -np.inf))
    assert found.log_determinant[0] == -np.inf and found.kaplan_yorke[0] == 0


def test_gates_that_are_frozen_set_all_exponents():
    layer = sj.recurrent(sj.gru(3))
    xs = jnp.zeros((20, 1, 2))
    params = jax.tree.map(jnp.zeros_like, layer.init(jax.random.key(0), xs[0]))
    # All weights zero: z = sigmoid(0) = 1/2 keeps half of h at every step.
    found = spectrum(bind(layer, params), None, xs)
    np.testing.assert_allclose(found.exponents, np.full((1, 3), LOG(0.5)), atol=1e-12)


def test_a_stack_has_the_exponents_of_its_layers():
    dense = nn.Dense(3, param_dtype=jnp.float64, dtype=jnp.float64)
    model = sj.serial(sj.recurrent(sj.lru(2)), sj.pointwise(dense), sj.recurrent(sj.elman(3)))
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(2000, 2, 2)))
    params = model.init(jax.random.key(0), xs[0])
    whole = spectrum(bind(model, params), None, xs, key=jax.random.key(1), warm_up=50)
    lower = sj.serial(sj.recurrent(sj.lru(2)), sj.pointwise(dense))
    hidden = lower.unroll(params[:2], lower.initial_carry(params[:2], xs[0]), xs)[1]
    layers = ((sj.recurrent(sj.lru(2)), params[0], xs), (sj.recurrent(sj.elman(3)), params[2], hidden))
    parts = [spectrum(bind(layer, own), None, inputs, warm_up=50) for layer, own, inputs in layers]
    # Whole Jacobians are block triangular: their spectrum is that of the diagonal blocks.
    expected = -np.sort(-np.concatenate([part.exponents for part in parts], 1), 1)
    np.testing.assert_allclose(whole.sum, expected.sum(1), atol=1e-10)
    # Singly they differ by how tangents turn in the end, a few nats over T.
    np.testing.assert_allclose(whole.exponents, expected, atol=10 / 2000)


# ---------------------------------------------------------------- intervals, dimensions, errors


def test_intervals_are_those_of_student_for_block_means():
    rng = np.random.default_rng(0)
    means = rng.normal(size=(1, 20, 2))
    expected = student_t.ppf(0.975, 19) * means.std(1, ddof=1) / np.sqrt(20)
    np.testing.assert_allclose(half_width(jnp.asarray(means)), expected, rtol=1e-12)
    growth = rng.normal(size=400)
    found = spectrum(lambda h, a: (a * h, None), 1.0, jnp.exp(growth))
    blocks = growth.reshape(20, 20).mean(1)
    half = student_t.ppf(0.975, 19) * blocks.std(ddof=1) / np.sqrt(20)
    np.testing.assert_allclose(found.low, [growth.mean() - half], rtol=1e-3)
    np.testing.assert_allclose(found.high, [growth.mean() + half], rtol=1e-3)


def test_too_few_steps_for_blocks_leave_the_interval_open():
    found = spectrum(lambda h, x: (0.5 * h, None), 1.0, 19)
    np.testing.assert_array_equal([found.low, found.high], [[-np.inf], [np.inf]])
    assert found.exponents.shape == (1,) and found.sum.shape == ()


@pytest.mark.parametrize(
    ("exponents", "size", "expected"),
    [
        ([-1.0, -2.0], 2, 0.0),
        ([0.0, -2.0], 2, 1.0),
        ([0.5, 0.0, -2.0], 3, 2.25),
        ([0.5, 0.0, -np.inf], 3, 2.0),
        ([0.5, -0.1, -0.2], 3, 3.0),
        ([0.5, -0.1, -0.2], 4, np.nan),
        ([0.5, -0.1, -0.8], 4, 2.5),
        ([np.nan, np.nan], 2, np.nan),
    ],
)
def test_the_kaplan_yorke_dimension(exponents, size, expected):
    np.testing.assert_allclose(kaplan_yorke(jnp.asarray(exponents), size), expected)


def test_near_zero_counts_what_cannot_be_told_from_zero():
    found = spectrum(linear(np.diag([1.0, 1.005, 1.02])), jnp.ones(3), 100)
    assert found.near_zero == 2


def test_fewer_tangents_find_the_largest_exponents():
    matrices = jnp.asarray(np.diag([0.1, 0.5, 2.0, 0.7]) + np.zeros((200, 1, 1)))
    for key in (None, jax.random.key(7)):
        found = spectrum_of_matrices(matrices, k=2, key=key)
        np.testing.assert_allclose(found.exponents, LOG([2.0, 0.7]), atol=0.03)
        assert jnp.isnan(found.kaplan_yorke)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"k": 3},
            r"spectrum\(k\): expected a whole number from 1 to 2 \(the state has 2 real numbers\), got 3",
        ),
        ({"k": 0}, r"lyapunov_spectrum\(k\): expected a whole number from 1 to 2"),
        (
            {"warm_up": 5},
            r"lyapunov_spectrum\(warm_up\): expected fewer steps than the 5 of the sequence, got 5",
        ),
        ({"warm_up": -1}, r"lyapunov_spectrum\(warm_up\): expected a whole number of at least 0, got -1"),
        ({"qr_every": 0}, r'qr_every\): expected a whole number of at least 1, or "adaptive", got 0'),
        ({"qr_every": "often"}, r"qr_every\): .*got 'often'"),
        ({"blocks": 10}, r"lyapunov_spectrum\(blocks\): expected a whole number of at least 20, got 10"),
        (
            {"direction": "up"},
            r'lyapunov_spectrum\(direction\): expected "forward" or "backward", got \'up\'',
        ),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        lyapunov_spectrum(lambda h, x: (h, None), 5, carry=jnp.ones(2), **options)
