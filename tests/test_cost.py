"""Test costs that are counted from equations against counts by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj
from seqjax.cells import REGISTRY
from seqjax.probes import count_cost

KEY = jax.random.key(0)


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def dots(function, *args):
    return count_cost(function, *args).by_primitive.get("dot_general", 0)


def test_a_product_of_matrices_costs_two_n_m_k_and_three_times_that_with_its_gradients():
    a, b = array(3, 4), array(4, 5)
    cost = count_cost(jnp.matmul, a, b)
    assert cost.flops == 2 * 3 * 4 * 5 and cost.exact
    assert cost.bytes == 4 * (12 + 20 + 15)
    assert dots(jax.value_and_grad(lambda a, b: jnp.sum(a @ b), (0, 1)), a, b) == 3 * cost.flops
    assert dots(jax.grad(lambda a, b: jnp.sum(jnp.sin(a @ b))), a, b) == 2 * cost.flops  # by a alone


def test_batches_and_complex_numbers_count():
    a, b = array(7, 3, 4), array(7, 4, 5)
    assert dots(jnp.matmul, a, b) == 7 * 2 * 3 * 4 * 5
    assert (
        dots(jnp.matmul, array(3, 4, dtype=jnp.complex64), array(4, 5, dtype=jnp.complex64)) == 8 * 3 * 4 * 5
    )
    assert count_cost(lambda z: z * z + z, array(10, dtype=jnp.complex64)).flops == 10 * (6 + 2)


@pytest.mark.parametrize(
    ("function", "flops"),
    [
        (lambda x: jnp.tanh(x) + x, 2 * 12),
        (lambda x: x**3, 2 * 12),
        (lambda x: x.sum(), 11),
        (lambda x: x.sum(0), 3 * 4 - 4),
        (lambda x: jax.lax.cumsum(x), 12),
        (lambda x: jnp.where(x > 0, x, 0).T.reshape(-1)[2:5], 0),
        (lambda x: (x > 0).sum(), 0),
        (lambda x: x.at[jnp.asarray([0, 1])].add(x[1:]), 2 * 4),
        (lambda x: jax.lax.stop_gradient(x).astype(jnp.bfloat16), 0),
        (lambda x: jnp.fft.fft(x.ravel()[:8].astype(jnp.complex64)), 5 * 8 * 3),
    ],
)
def test_sums_and_elementwise_operations_count_once_per_number(function, flops):
    cost = count_cost(function, array(3, 4))
    assert (cost.flops, cost.uncounted) == (flops, ())


FUNCTIONS = {
    jnp: "arccos arccosh arcsin arcsinh arctan arctanh cbrt cosh exp2 expm1 log1p log2 reciprocal sinc sqrt tan tanh",
    jax.nn: "celu elu gelu hard_swish log_softmax mish selu sigmoid silu softmax softplus squareplus",
    jax.scipy.special: "digamma erf erfc erfinv expit gammaln log_ndtr ndtri",
}


@pytest.mark.parametrize(
    ("module", "names"), FUNCTIONS.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_derivatives_of_elementary_functions_hold_no_unknown_primitive(module, names):
    """From jax 0.11 on, that of tanh is a primitive of its own, ``one_minus_square``: two sums and a product."""
    gradients = {name: jax.grad(lambda x, f=getattr(module, name): jnp.sum(f(x))) for name in names.split()}
    unknown = {name: count_cost(gradient, array(4)).uncounted for name, gradient in gradients.items()}
    assert not {name: some for name, some in unknown.items() if some}


def test_functions_of_hijax_are_counted():
    """``expm`` searches a sorted array, which from jax 0.11 on is a primitive without a jaxpr in its params."""
    cost = count_cost(jax.scipy.linalg.expm, array(3, 3))
    assert cost.exact and cost.by_primitive["dot_general"] == 20 * 2 * 3**3
    assert count_cost(jnp.searchsorted, array(3), array()).exact


def test_operations_of_the_derivative_of_tanh_are_those_of_all_versions():
    """``1 - y^2`` and a product with the cotangent, in jax 0.10 as ``t = g (1 - y); t + t y``: 4 beside tanh."""
    assert count_cost(jax.grad(lambda x: jnp.sum(jnp.tanh(x))), array(4)).flops == 4 * 5


def pairs_that_meet(n, k, stride, low, high):
    return sum(
        0 <= o * stride + j - low < n for o in range((n + low + high - k) // stride + 1) for j in range(k)
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_count_what_meets_an_input_and_three_times_that_with_gradients(stride):
    def conv(x, w):
        return jax.lax.conv_general_dilated(x, w, (stride,), ((2, 1),))

    x, w = array(2, 3, 10), array(4, 3, 3)
    expected = 2 * 2 * 4 * 3 * pairs_that_meet(10, 3, stride, 2, 1)
    assert count_cost(conv, x, w).flops == expected
    both = count_cost(jax.value_and_grad(lambda x, w: jnp.sum(jnp.sin(conv(x, w))), (0, 1)), x, w)
    assert both.by_primitive["conv_general_dilated"] == 3 * expected


def test_scans_count_their_length_and_nested_ones_the_product():
    def nested(w):
        def inner(h, _):
            return w @ h, None

        def outer(h, _):
            return jax.lax.scan(inner, h, length=5)[0], None

        return jax.lax.scan(outer, jnp.ones(8, jnp.float32), length=7)[0]

    assert count_cost(nested, array(8, 8)).flops == 35 * 2 * 8 * 8
    assert (
        count_cost(lambda w: jax.lax.fori_loop(0, 6, lambda i, h: w @ h, jnp.ones(8)), array(8, 8)).flops
        == 6 * 128
    )
    empty = jax.lax.scan
    assert (
        count_cost(lambda w: empty(lambda h, _: (w @ h, None), jnp.ones(8), length=0)[0], array(8, 8)).flops
        == 0
    )


def test_what_no_result_depends_on_costs_nothing():
    def scanned(w):
        def step(carry, _):
            a, b, c = carry
            return (w @ a, b + jnp.sum(a), w @ c), w @ b

        return jax.lax.scan(step, (jnp.ones(8),) * 3, length=5)

    assert dots(lambda w: scanned(w)[0][0], array(8, 8)) == 5 * 128
    assert dots(lambda w: scanned(w)[0][1], array(8, 8)) == 5 * 128  # b needs a, by way of the carry
    assert dots(lambda w: scanned(w)[1], array(8, 8)) == 5 * 256
    assert dots(lambda w: (w @ w, w)[1], array(8, 8)) == 0


def test_a_while_loop_counts_once_and_is_reported():
    def doubled(w):
        return jax.lax.while_loop(lambda h: jnp.sum(h) < 1e6, lambda h: w @ h, jnp.ones(8))

    cost = count_cost(doubled, array(8, 8))
    assert cost.flops == 128 + 7 and not cost.exact
    assert [loop[:2] for loop in cost.while_loops] == [(1, 128 + 7)]
    scanned = count_cost(lambda w: jax.lax.map(lambda _: doubled(w), jnp.arange(3)), array(8, 8))
    assert scanned.flops == 3 * 135 and [loop[:2] for loop in scanned.while_loops] == [(3, 135)]


def test_a_conditional_counts_as_its_dearest_branch():
    def either(w, flag):
        return jax.lax.cond(flag, lambda: w @ w, lambda: w + w)

    assert count_cost(either, array(8, 8), array(dtype=jnp.bool_)).flops == 2 * 8**3


def test_rematerialized_products_count_twice_and_compiled_functions_once():
    f = jax.jit(lambda w: jnp.sum(jnp.sin(w @ w)))
    assert dots(jax.value_and_grad(f), array(4, 4)) == 3 * 128
    assert dots(jax.value_and_grad(jax.checkpoint(f)), array(4, 4)) == 4 * 128


def test_own_derivatives_are_walked():
    @jax.custom_vjp
    def f(x):
        return x @ x

    f.defvjp(lambda x: (x @ x, x), lambda x, g: ((g @ x) @ x @ x,))
    assert dots(f, array(4, 4)) == 128
    assert dots(jax.value_and_grad(lambda x: jnp.sum(f(x))), array(4, 4)) == 4 * 128
    assert count_cost(jax.nn.relu, array(4)).flops == 4  # a custom_jvp


def test_the_work_of_all_devices_adds_up():
    mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))

    def gram(x):
        return jax.lax.psum(x.T @ x, "d")

    sharded = jax.shard_map(gram, mesh=mesh, in_specs=jax.P("d"), out_specs=jax.P())
    assert dots(sharded, array(8, 3)) == 2 * 8 * 3 * 3


def test_an_lstm_costs_what_its_formulas_say():
    num_steps, batch, d, h = 11, 3, 5, 7
    layer = sj.recurrent(sj.lstm(h), sj.Scan(gradient="autodiff"))
    params = jax.eval_shape(layer.init, KEY, array(batch, d))

    def outputs(params, xs):
        return layer.unroll(params, layer.initial_carry(params, xs[0]), xs)[1]

    cost = count_cost(outputs, params, array(num_steps, batch, d))
    # Per step and example: [x, h] by 4H columns; three sigmoids; two tanh; bias 4H; u + r 4H; f c + i g, o tanh(c).
    assert cost.by_primitive["dot_general"] == num_steps * batch * 2 * (d + h) * 4 * h
    assert cost.by_primitive["logistic"] == 3 * num_steps * batch * h
    assert cost.by_primitive["tanh"] == 2 * num_steps * batch * h
    assert cost.by_primitive["add"] == (4 + 4 + 1) * num_steps * batch * h
    assert cost.by_primitive["mul"] == 3 * num_steps * batch * h
    assert cost.exact

    gradient = jax.grad(lambda params, xs: jnp.sum(outputs(params, xs)), (0, 1))
    assert dots(gradient, params, array(num_steps, batch, d)) == 3 * cost.by_primitive["dot_general"]


def test_factorizations_count_by_leading_order():
    assert count_cost(jnp.linalg.cholesky, array(9, 9)).by_primitive["cholesky"] == 9**3 // 3
    qr = count_cost(jnp.linalg.qr, array(12, 3)).by_primitive["qr"]
    assert qr == 2 * (2 * 12 * 9 - 2 * 27 // 3)


def test_foreign_code_is_named():
    def foreign(x):
        return jax.pure_callback(np.sin, x, x) * x

    cost = count_cost(foreign, array(4))
    assert (cost.flops, cost.uncounted, cost.exact) == (4, ("pure_callback",), False)


def test_xla_agrees_where_nothing_loops():
    layer = sj.recurrent(sj.elman(16), sj.Scan())
    params = jax.eval_shape(layer.init, KEY, array(4, 32))
    step = lambda p, h, x: layer.step(p, h, x)[1]  # noqa: E731
    args = (params, jax.eval_shape(layer.initial_carry, params, array(4, 32)), array(4, 32))
    analysis = jax.jit(step).lower(*args).compile().cost_analysis()
    assert (
        abs(count_cost(step, *args).flops - analysis["flops"] - analysis.get("transcendentals", 0)) <= 4 * 16
    )


def test_something_that_is_no_function_is_refused():
    with pytest.raises(TypeError, match="count_cost: expected a function of arrays, got 3"):
        count_cost(3)


@pytest.mark.slow
@pytest.mark.parametrize("name", REGISTRY)
def test_nothing_in_the_gradient_of_a_registered_cell_is_unknown(name):
    x = REGISTRY[name].example((2,), 4)
    layer = sj.recurrent(REGISTRY[name].make(4))
    params = jax.eval_shape(layer.init, KEY, x)
    xs = jax.tree.map(lambda a: array(5, *a.shape, dtype=a.dtype), x)

    def loss(params, xs):
        first = jax.tree.map(lambda a: a[0], xs)
        return jnp.sum(layer.unroll(params, layer.initial_carry(params, first), xs)[1])

    cost = count_cost(jax.value_and_grad(loss), params, xs)
    assert cost.exact and cost.flops > 0
