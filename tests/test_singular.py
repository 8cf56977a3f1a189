"""Compare singular fans with closed forms and exact products; test the graded form at any range."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj
from seqjax.ops.graded import Graded, identity, log_singular_values, multiply
from seqjax.probes import Bound, bind, singular_values


def fan_of(step, carry, xs, **options):
    """`singular_values` as one compiled program."""
    flags = {name: options.pop(name) for name in ("reset", "mask") if name in options}
    fixed = [] if isinstance(step, Bound) else [step]  # a bound layer is an argument, a function is not
    num_steps, xs = (xs, None) if isinstance(xs, int) else (None, xs)

    @jax.jit
    def measure(bound, carry, xs, flags):
        batch = sj.Batch(num_steps if xs is None else xs, None, **flags)
        return singular_values(*fixed, *bound, batch, carry=carry, **options)

    return measure([] if fixed else [step], carry, xs, flags)


def apply_matrix(h, matrix):
    """A step whose Jacobian is its input."""
    return matrix @ h, None


def fan_of_matrices(matrices, **options):
    return fan_of(apply_matrix, jnp.zeros(matrices.shape[-1], matrices.dtype), matrices, **options)


def orthogonal(size, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.fast_cases(1)
def test_a_scaled_rotation_has_equal_singular_values(dtype):
    matrix = jnp.asarray(0.9 * orthogonal(5), dtype)
    fan = fan_of(lambda h, x: (matrix @ h, None), jnp.ones(5, dtype), 300)
    np.testing.assert_array_equal(fan.taus, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300])
    assert fan.log_values.dtype == dtype and fan.log_values.shape == (10, 5)
    tolerance = 2 * 300 * np.finfo(dtype).eps  # of each step, a product and a QR
    np.testing.assert_allclose(fan.log_values, np.log(0.9) * fan.taus[:, None] * np.ones(5), atol=tolerance)
    np.testing.assert_allclose(fan.log_condition, np.zeros(10), atol=tolerance)
    np.testing.assert_allclose(fan.participation_ratio, np.full(10, 5), rtol=tolerance)
    np.testing.assert_array_equal(fan.isometry, fan.taus <= np.log(2) / -np.log(0.9))


def test_a_jordan_block_grows_before_it_decays():
    block = jnp.asarray([[0.9, 1.0], [0.0, 0.9]])
    taus = (1, 9, 50, 100, 100_000)
    fan = fan_of(lambda h, x: (block @ h, None), jnp.ones(2), 100_000, taus=taus)
    ratio = np.asarray(taus) / 1.8
    exact = np.asarray(taus) * np.log(0.9) + np.arcsinh(ratio)
    np.testing.assert_allclose(fan.log_values[:, 0], exact, rtol=1e-10)
    np.testing.assert_allclose(fan.log_condition, 2 * np.arcsinh(ratio), rtol=1e-7)
    assert np.exp(fan.log_values[1, 0]) == pytest.approx(3.913, abs=1e-3)
    assert np.exp(fan.log_values[3, 0]) == pytest.approx(0.002952, abs=1e-6)


@pytest.mark.parametrize("size", [1, 5, 6])
@pytest.mark.fast_cases(2)
def test_a_product_of_random_matrices_has_the_singular_values_of_lapack(size):
    rng = np.random.default_rng(0)
    matrices = rng.normal(size=(4, size, size))
    fan = fan_of_matrices(jnp.asarray(matrices), taus=(1, 4))
    for tau, found in zip((1, 4), fan.log_values, strict=True):
        product = np.linalg.multi_dot([np.eye(size), *matrices[:tau][::-1]])
        values = np.linalg.svd(product, compute_uv=False)
        np.testing.assert_allclose(found, np.log(values), atol=1e-9)
        ratio = np.sum(values**2) ** 2 / np.sum(values**4)
        np.testing.assert_allclose(fan.participation_ratio[fan.taus == tau], ratio, rtol=1e-9)


def exact_gram_determinants(product):
    """The sums of squares of the minors of order 1 and 2 and 3 of a matrix of Fractions, 3 x 3."""
    squares = sum(entry**2 for row in product for entry in row)
    minors = 0
    for i, k in ((0, 1), (0, 2), (1, 2)):
        for j, m in ((0, 1), (0, 2), (1, 2)):
            minors += (product[i][j] * product[k][m] - product[i][m] * product[k][j]) ** 2
    a, b, c = product
    cross = [b[1] * c[2] - b[2] * c[1], b[2] * c[0] - b[0] * c[2], b[0] * c[1] - b[1] * c[0]]
    return squares, minors, sum(x * y for x, y in zip(a, cross, strict=True)) ** 2


def log_of(fraction):
    """Natural log of a positive Fraction of any size."""
    shift = fraction.numerator.bit_length() - fraction.denominator.bit_length()
    return float(np.log(float(fraction / Fraction(2) ** shift)) + shift * np.log(2))


def test_singular_values_hundreds_of_decades_apart_keep_their_relative_accuracy():
    rng = np.random.default_rng(0)
    left, right = orthogonal(3, 1), orthogonal(3, 2)
    matrices = [left @ np.diag([3.0, 0.4, 1e-3]) @ right + 0.01 * rng.normal(size=(3, 3)) for _ in range(130)]
    product = [[Fraction(int(i == j)) for j in range(3)] for i in range(3)]
    for matrix in matrices:
        exact = [[Fraction(float(entry)) for entry in row] for row in matrix]
        product = [[sum(exact[i][k] * product[k][j] for k in range(3)) for j in range(3)] for i in range(3)]
    first, second, third = map(log_of, exact_gram_determinants(product))
    # Apart as they are, the sums of squared minors are s1^2, (s1 s2)^2 and (s1 s2 s3)^2.
    expected = np.asarray([first, second - first, third - second]) / 2
    fan = fan_of_matrices(jnp.asarray(np.stack(matrices)), taus=(130,))
    assert expected[0] - expected[2] > 100  # one float64 matrix holds 36
    np.testing.assert_allclose(fan.log_values[0], expected, atol=1e-9)


@pytest.mark.parametrize("size", [7])
def test_jacobi_finds_clustered_and_graded_values_of_a_diagonal_between_rotations(size):
    rng = np.random.default_rng(0)
    d = np.sort(rng.normal(size=size) * 200)[::-1]
    d[1] = d[0] - 1e-9
    product = Graded(
        jnp.eye(size), jnp.asarray(d[rng.permutation(size)]), jnp.zeros(size), jnp.asarray(orthogonal(size))
    )
    np.testing.assert_allclose(log_singular_values(product), d, atol=1e-10)


def test_the_graded_form_is_the_product():
    rng = np.random.default_rng(0)
    matrices = rng.normal(size=(5, 4, 4))
    product, expected = identity(4, jnp.float64), np.eye(4)
    for matrix in matrices:
        product, expected = multiply(matrix @ product.q, product), matrix @ expected
    found = product.q @ jnp.diag(jnp.exp(product.d + product.rest)) @ product.t
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_singular_jacobians_give_minus_infinity_and_leave_the_others_alone():
    lost = jnp.asarray(np.diag([0.5, 0.0, 2.0]))
    fan = fan_of(lambda h, x: (lost @ h, None), jnp.ones(3), 10, taus=(10,), k=2)
    np.testing.assert_allclose(fan.log_values, [[10 * np.log(2), -10 * np.log(2)]], atol=1e-12)
    np.testing.assert_array_equal(fan.log_condition, [np.inf])
    matrices = jnp.asarray([[[1.0, 1.0], [1.0, 1.0]], [[1.0, -1.0], [1.0, -1.0]], [[1.0, 2.0], [3.0, 4.0]]])
    fan = fan_of_matrices(matrices, taus=(1, 2, 3))
    np.testing.assert_allclose(fan.log_values[0, 0], np.log(2), atol=1e-12)
    assert (fan.log_values[0, 1] < -30) and (fan.log_values[1:] < -30).all()
    assert not jnp.isnan(fan.log_values).any() and not jnp.isnan(fan.participation_ratio).any()


def test_nothing_passes_a_reset_and_masked_steps_are_the_identity():
    rng = np.random.default_rng(0)
    layer = sj.recurrent(sj.elman(3))
    xs = jnp.asarray(rng.normal(size=(8, 2, 2)))
    params = layer.init(jax.random.key(0), xs[0])
    mask = np.ones((8, 2), bool)
    mask[[0, 2, 5]] = False
    reset = np.zeros((8, 2), bool)
    reset[6, 1] = True
    step, taus = bind(layer, params), tuple(range(1, 9))
    poisoned = jnp.where(mask[..., None], xs, jnp.nan)
    fan = fan_of(step, None, poisoned, mask=jnp.asarray(mask), reset=jnp.asarray(reset), taus=taus)
    plain = fan_of(step, None, xs[mask[:, 0]], taus=tuple(range(1, 6)))
    so_far = np.cumsum(mask[:, 0])
    for t in range(8):
        expected = np.zeros((2, 3)) if so_far[t] == 0 else np.array(plain.log_values[so_far[t] - 1])
        if t >= 6:
            expected[1] = -np.inf
        np.testing.assert_allclose(fan.log_values[t], expected, atol=1e-12)
    np.testing.assert_array_equal(fan.participation_ratio[6:, 1], [0, 0])
    np.testing.assert_array_equal(fan.isometry[6:, 1], [0, 0])


def test_the_product_of_a_layer_is_the_derivative_of_its_unroll():
    rng = np.random.default_rng(0)
    layer = sj.recurrent(sj.gru(4))
    xs = jnp.asarray(rng.normal(size=(5, 1, 2)))
    params = layer.init(jax.random.key(0), xs[0])
    start = layer.initial_carry(params, xs[0])
    fan = fan_of(bind(layer, params), start, xs, taus=(5,))
    jacobian = jax.jacrev(lambda carry: layer.unroll(params, carry, xs)[0])(start)
    jacobian = np.asarray(jax.tree.leaves(jacobian)[0]).reshape(4, 4)
    np.testing.assert_allclose(fan.log_values[0, 0], np.log(np.linalg.svd(jacobian)[1]), atol=1e-8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 3}, r"values\(k\): expected a whole number from 1 to 2 \(the state has 2 real numbers\), got 3"),
        ({"taus": (1, 9)}, r"singular_values\(taus\): expected a whole number from 1 to 5, got 9"),
        ({"taus": (3, 3)}, r"singular_values\(taus\): expected rising lags, got \[3, 3\]"),
        ({"taus": ()}, r"expected rising lags, got \[\]"),
        ({"within": 1.0}, r"singular_values\(within\): expected a factor above 1, got 1.0"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        singular_values(lambda h, x: (h, None), 5, carry=jnp.ones(2), **options)
