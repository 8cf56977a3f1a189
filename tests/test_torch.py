"""Compare PyTorch's layers on the same weights in float64: outputs, final states and every gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiers import slow

import seqjax as sj
from seqjax.cells import (
    ElmanCarry,
    GRUCarry,
    GRUParams,
    IndRNNParams,
    LayerNormLSTMParams,
    LSTMCarry,
)

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.peers

T, B, D, H = 9, 3, 4, 5
LENGTHS = np.array([4, 9, 1])
METHODS = [sj.Scan(), *slow(sj.Scan(chunk=4), sj.Scan(gradient="autodiff"))]


# Our cell; PyTorch's layer; the type of our carry.
CELLS = {
    "elman_tanh": (sj.elman(H), torch.nn.RNN, ElmanCarry),
    "elman_relu": (
        sj.elman(H, activation="relu"),
        lambda *sizes, **options: torch.nn.RNN(*sizes, nonlinearity="relu", **options),
        ElmanCarry,
    ),
    "lstm": (sj.lstm(H), torch.nn.LSTM, LSTMCarry),
    "gru": (sj.gru(H), torch.nn.GRU, GRUCarry),
}


def imported(layer):
    """Our params of PyTorch's layer, and a function from gradients by its weights to gradients by our params.

    Where PyTorch has two biases that act as their sum, the gradient of our one is that of either.
    """
    ours, params = sj.interop.from_torch(layer)
    names = [name for name, _ in layer.named_parameters()]
    transpose = jax.vjp(lambda params: sj.interop.torch_state_dict(ours, params), params)[1]
    return params, lambda weights: transpose(dict(zip(names, map(jnp.asarray, weights), strict=True)))[0]


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def tensor(array):
    return torch.tensor(np.array(array), dtype=torch.float64, requires_grad=True)


def arrays(tensors):
    return [t.detach().numpy() for t in tensors]


def states(seed, carry_type, count):
    """States ``[count, B, H]``, one per field of the carry, h first as PyTorch has it."""
    return [tensor(normal(seed + i, count, B, H)) for i in range(len(carry_type._fields))]


def carry_of(carry_type, values, direction=0):
    """Our carry, h last, from PyTorch's states, h first."""
    return carry_type(*(jnp.asarray(np.asarray(v)[direction]) for v in reversed(values)))


def run_torch(layer, xs, state, lengths=None):
    """Outputs, final states, and gradients of a weighted sum of all of them: by weights, states and inputs."""
    given = tuple(state) if len(state) == 2 else state[0]
    if lengths is None:
        ys, end = layer(xs, given)
    else:
        packed = torch.nn.utils.rnn.pack_padded_sequence(xs, torch.tensor(lengths), enforce_sorted=False)
        ys, end = layer(packed, given)
        ys, padded_lengths = torch.nn.utils.rnn.pad_packed_sequence(ys, total_length=T)
        assert list(padded_lengths) == list(lengths)
    end = list(end) if len(state) == 2 else [end]
    loss = (ys * torch.tensor(normal(50, *ys.shape))).sum()
    for i, e in enumerate(end):
        loss = loss + (e * torch.tensor(normal(60 + i, *e.shape))).sum()
    weights = list(layer.parameters())
    gradients = torch.autograd.grad(loss, [*weights, *state, xs])
    split = len(weights), len(weights) + len(state)
    return (
        arrays([ys])[0],
        arrays(end),
        arrays(gradients[: split[0]]),
        arrays(gradients[split[0] : split[1]]),
        arrays(gradients[split[1] :])[0],
    )


def run_ours(layer, params, carry, xs, mask=None):
    """Outputs, final carry, and gradients of the same sum."""

    def loss(params, carry, xs):
        end, ys = layer.unroll(params, carry, xs, mask=mask)
        halves = (end,) if layer.causal else end
        total = jnp.sum(ys * normal(50, *ys.shape))
        for i in range(len(halves[0])):  # h first
            stacked = jnp.stack([tuple(reversed(half))[i] for half in halves])
            total = total + jnp.sum(stacked * normal(60 + i, *stacked.shape))
        return total, (end, ys)

    gradient = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))
    (d_params, d_carry, d_xs), (end, ys) = gradient(params, carry, jnp.asarray(xs))
    return ys, end, d_params, d_carry, d_xs


def assert_close(got, expected, rtol=1e-10):
    got, expected = jax.tree.leaves(got), jax.tree.leaves(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * max(1, np.abs(b).max()))


@pytest.fixture(autouse=True)
def one_seed_for_torch():
    torch.manual_seed(0)


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("name", CELLS)
def test_a_layer_equals_its_peer_in_values_and_gradients(name, method):
    cell, peer, carry_type = CELLS[name]
    layer = peer(D, H).double()
    params, back = imported(layer)
    xs, state = tensor(normal(0, T, B, D)), states(1, carry_type, 1)
    ys, end, d_weights, d_state, d_xs = run_torch(layer, xs, state)
    expected = (
        ys,
        carry_of(carry_type, end),
        back(d_weights),
        carry_of(carry_type, d_state),
        d_xs,
    )
    carry = carry_of(carry_type, arrays(state))
    assert_close(run_ours(sj.recurrent(cell, method), params, carry, arrays([xs])[0]), expected)


@pytest.mark.parametrize("name", CELLS)
def test_a_mask_of_lengths_equals_a_packed_sequence(name):
    cell, peer, carry_type = CELLS[name]
    layer = peer(D, H).double()
    params, back = imported(layer)
    xs, state = tensor(normal(0, T, B, D)), states(1, carry_type, 1)
    ys, end, d_weights, d_state, d_xs = run_torch(layer, xs, state, LENGTHS)
    expected = (
        ys,
        carry_of(carry_type, end),
        back(d_weights),
        carry_of(carry_type, d_state),
        d_xs,
    )
    carry = carry_of(carry_type, arrays(state))
    mask = sj.lengths_to_mask(LENGTHS, T)
    got = run_ours(sj.recurrent(cell), params, carry, arrays([xs])[0], mask)
    assert_close(got, expected)
    assert (np.asarray(got[0])[~np.asarray(mask)] == 0).all() and (
        np.asarray(got[4])[~np.asarray(mask)] == 0
    ).all()


@pytest.mark.parametrize("lengths", [LENGTHS, *slow(None)], ids=["packed", "full"])
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_bidirectional_equals_its_peer_in_values_and_gradients(name, lengths):
    cell, peer, carry_type = CELLS[name]
    layer = peer(D, H, bidirectional=True).double()
    params, back = imported(layer)
    xs, state = tensor(normal(0, T, B, D)), states(1, carry_type, 2)
    ys, end, d_weights, d_state, d_xs = run_torch(layer, xs, state, lengths)
    expected = (
        ys,
        tuple(carry_of(carry_type, end, i) for i in range(2)),
        back(d_weights),
        tuple(carry_of(carry_type, d_state, i) for i in range(2)),
        d_xs,
    )
    carry = tuple(carry_of(carry_type, arrays(state), i) for i in range(2))
    mask = None if lengths is None else sj.lengths_to_mask(lengths, T)
    got = run_ours(sj.bidirectional(sj.recurrent(cell)), params, carry, arrays([xs])[0], mask)
    assert_close(got, expected)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_a_stack_equals_its_peer_in_values_and_gradients(name):
    """Two bidirectional layers on packed sequences; PyTorch's weights come by layer, then by direction."""
    cell, peer, _ = CELLS[name]
    module = peer(D, H, num_layers=2, bidirectional=True, dropout=0.4).double().eval()
    params, back = imported(module)
    xs = tensor(normal(0, T, B, D))
    packed = torch.nn.utils.rnn.pack_padded_sequence(xs, torch.tensor(LENGTHS), enforce_sorted=False)
    ys, _ = torch.nn.utils.rnn.pad_packed_sequence(module(packed)[0], total_length=T)
    weighted = (ys * torch.tensor(normal(50, *ys.shape))).sum()
    *d_weights, d_xs = arrays(torch.autograd.grad(weighted, [*module.parameters(), xs]))

    def by_layer(params):
        """The params of two layers with dropout between them, as `stack` has them: one entry per layer."""
        first, dropout, second = params
        return (first, dropout), (second,)

    ours, mask = sj.stack(cell, 2, bidirectional=True, dropout=0.4), sj.lengths_to_mask(LENGTHS, T)

    def total(params, xs):
        out = ours.unroll(params, None, xs, mask=mask)[1]
        return jnp.sum(out * normal(50, *out.shape)), out

    found, out = jax.jit(jax.grad(total, (0, 1), has_aux=True))(
        by_layer(params), jnp.asarray(arrays([xs])[0])
    )
    assert_close((out, *found), (arrays([ys])[0], by_layer(back(d_weights)), d_xs))


def test_resets_of_a_bidirectional_layer_separate_documents_as_runs_of_their_own_do():
    peer = torch.nn.LSTM(D, H, bidirectional=True).double()
    layer, params = sj.interop.from_torch(peer)
    xs = normal(0, T, B, D)
    reset = np.zeros((T, B), bool)
    reset[[3, 4], 0] = True  # documents of 3, 1 and 5 steps
    reset[[0, 7], 1] = True  # of 7 and 2
    expected = np.zeros((T, B, 2 * H))
    for b in range(B):
        bounds = [0, *(t for t in range(1, T) if reset[t, b]), T]
        for start, stop in zip(bounds, bounds[1:]):
            expected[start:stop, b] = arrays([peer(torch.tensor(xs[start:stop, b]))[0]])[0]
    carry = layer.initial_carry(params, jnp.asarray(xs[0]))
    ys = jax.jit(layer.unroll)(params, carry, jnp.asarray(xs), reset=jnp.asarray(reset))[1]
    assert_close(ys, expected)


# ---------------------------------------------------------------- GRU with reset before: PyTorch has no such layer


class ResetBefore(torch.nn.Module):
    """Cho et al. 2014, eq. 5-8, out of torch.nn.Linear."""

    def __init__(self):
        super().__init__()
        for gate in "rzn":
            setattr(self, f"input_{gate}", torch.nn.Linear(D, H))
            setattr(self, f"recurrent_{gate}", torch.nn.Linear(H, H))

    def forward(self, xs, h):
        h, ys = h[0], []
        for x in xs:
            r = torch.sigmoid(self.input_r(x) + self.recurrent_r(h))
            z = torch.sigmoid(self.input_z(x) + self.recurrent_z(h))
            n = torch.tanh(self.input_n(x) + self.recurrent_n(r * h))
            h = z * h + (1 - z) * n
            ys.append(h)
        return torch.stack(ys), h[None]


def gru_params(weights):
    """From (input weight, bias, recurrent weight, bias) per gate."""
    w_x, b, w_h, b_h = ([*weights[i::4]] for i in range(4))
    return GRUParams(
        jnp.concatenate([w.T for w in w_x], 1),
        jnp.concatenate([w.T for w in w_h], 1),
        jnp.concatenate(b),
        jnp.concatenate(b_h),
    )


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_gru_with_reset_before_equals_a_loop_of_torch_linears(method):
    layer = ResetBefore().double()
    xs, state = tensor(normal(0, T, B, D)), states(1, GRUCarry, 1)
    ys, end, d_weights, d_state, d_xs = run_torch(layer, xs, state)
    expected = (ys, carry_of(GRUCarry, end), gru_params(d_weights), carry_of(GRUCarry, d_state), d_xs)
    params = gru_params(arrays(layer.parameters()))
    ours = sj.recurrent(sj.gru(H, reset_after=False), method)
    assert_close(run_ours(ours, params, carry_of(GRUCarry, arrays(state)), arrays([xs])[0]), expected)


def test_both_forms_of_gru_coincide_where_the_matrix_of_the_candidate_is_diagonal():
    """There r * (h U) = (r * h) U, so that torch.nn.GRU is the reference of both forms."""
    layer = torch.nn.GRU(D, H).double()
    with torch.no_grad():
        layer.weight_hh_l0[2 * H :] = torch.diag(torch.tensor(normal(9, H)))
        layer.bias_hh_l0[2 * H :] = 0
    params, back = imported(layer)
    xs, state = tensor(normal(0, T, B, D)), states(1, GRUCarry, 1)
    ys, end, d_weights, d_state, d_xs = run_torch(layer, xs, state)
    d_expected, carry = back(d_weights), carry_of(GRUCarry, arrays(state))
    for reset_after in (True, False):
        ours = sj.recurrent(sj.gru(H, reset_after=reset_after))
        got_ys, got_end, d_params, d_carry, d_got_xs = run_ours(ours, params, carry, arrays([xs])[0])
        expected = (ys, carry_of(GRUCarry, end), carry_of(GRUCarry, d_state), d_xs)
        assert_close((got_ys, got_end, d_carry, d_got_xs), expected)
        assert_close((d_params.w_x, d_params.b), (d_expected.w_x, d_expected.b))
        assert_close(d_params.w_h[:, : 2 * H], d_expected.w_h[:, : 2 * H])
        # Off the diagonal one form has r_i h_j, the other r_j h_i; the bias of one is scaled by r.
        assert_close(jnp.diag(d_params.w_h[:, 2 * H :]), np.diag(d_expected.w_h[:, 2 * H :]))
        assert_close(d_params.b_h[: 2 * H], d_expected.b_h[: 2 * H])


# ---------------------------------------------------------------- variants


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_projection_lstm_equals_torch_s_with_proj_size(method):
    cells = 7
    layer = torch.nn.LSTM(D, cells, proj_size=H).double()
    params, back = imported(layer)
    xs, state = tensor(normal(0, T, B, D)), [tensor(normal(1, 1, B, H)), tensor(normal(2, 1, B, cells))]
    ys, end, d_weights, d_state, d_xs = run_torch(layer, xs, state)
    expected = (ys, carry_of(LSTMCarry, end), back(d_weights), carry_of(LSTMCarry, d_state), d_xs)
    ours = sj.recurrent(sj.projection_lstm(H, cell_size=cells), method)
    assert_close(run_ours(ours, params, carry_of(LSTMCarry, arrays(state)), arrays([xs])[0]), expected)


class LayerNormLSTM(torch.nn.Module):
    """Ba et al. 2016, eq. 20-22, out of torch.nn.functional.layer_norm; parameters in the order of ours."""

    def __init__(self):
        super().__init__()
        shapes = ((D, 4 * H), (H, 4 * H), (4 * H,), (4 * H,), (4 * H,), (H,), (H,))
        self.weights = torch.nn.ParameterList(tensor(normal(i, *shape)) for i, shape in enumerate(shapes))

    def forward(self, xs, state):
        norm = torch.nn.functional.layer_norm
        w_x, w_h, b, alpha_x, alpha_h, alpha_c, b_c = self.weights
        (h,), (c,), ys = *state, []
        for x in xs:
            gates = norm(h @ w_h, (4 * H,), alpha_h) + norm(x @ w_x, (4 * H,), alpha_x, b)
            i, f, g, o = gates.chunk(4, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(norm(c, (H,), alpha_c, b_c))
            ys.append(h)
        return torch.stack(ys), (h[None], c[None])


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_layer_norm_lstm_equals_a_loop_with_torch_s_layer_norm(method):
    layer = LayerNormLSTM()
    xs, state = tensor(normal(20, T, B, D)), states(21, LSTMCarry, 1)
    ys, end, d_weights, d_state, d_xs = run_torch(layer, xs, state)
    d_params = LayerNormLSTMParams(*d_weights)
    expected = (ys, carry_of(LSTMCarry, end), d_params, carry_of(LSTMCarry, d_state), d_xs)
    params = LayerNormLSTMParams(*map(jnp.asarray, arrays(layer.parameters())))
    ours = sj.recurrent(sj.layer_norm_lstm(H), method)
    assert_close(run_ours(ours, params, carry_of(LSTMCarry, arrays(state)), arrays([xs])[0]), expected)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.fast_cases(1)
def test_indrnn_equals_torch_s_rnn_with_a_diagonal_matrix(activation):
    layer = torch.nn.RNN(D, H, nonlinearity=activation).double()
    w_h = 0.9 * np.abs(normal(9, H))
    with torch.no_grad():
        layer.weight_hh_l0[:] = torch.diag(torch.tensor(w_h))
    w_x, _, b, b_h = arrays(layer.parameters())
    xs, state = tensor(normal(0, T, B, D)), states(1, ElmanCarry, 1)
    ys, end, d_weights, d_state, d_xs = run_torch(layer, xs, state)
    d_params = IndRNNParams(d_weights[0].T, np.diag(d_weights[1]), d_weights[2])
    expected = (ys, carry_of(ElmanCarry, end), d_params, carry_of(ElmanCarry, d_state), d_xs)
    params = IndRNNParams(*map(jnp.asarray, (w_x.T, w_h, b + b_h)))
    ours = sj.recurrent(sj.indrnn(H, activation=activation))
    assert_close(run_ours(ours, params, carry_of(ElmanCarry, arrays(state)), arrays([xs])[0]), expected)
