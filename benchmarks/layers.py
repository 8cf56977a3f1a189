"""LSTM and GRU layers of several libraries, with the same weights.

Each `Peer` maps seqjax's params to the peer's by a differentiable function. The vector-Jacobian product of that
function maps the peer's gradients back, through merged biases, other orders of gates and other signs. So all gradients
can be compared.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import seqjax as sj

CELLS = ("lstm", "gru")
RESET_BEFORE = "reset before"


@dataclass(frozen=True)
class Peer:
    """A layer of another library, or of this library.

    Attributes:
        name: name in the table.
        to_native: maps seqjax's params to the params of the layer.
        unroll: ``(native, xs [T, B, D]) -> ys [T, B, H]``.
        reset_before: whether the layer is a GRU whose reset gate acts before the recurrent product.
    """

    name: str
    to_native: Callable[[Any], Any]
    unroll: Callable[[Any, jax.Array], jax.Array]
    reset_before: bool = False


def random_params(cell: str, input_size: int, hidden_size: int, seed: int = 0) -> Any:
    """Draw params as PyTorch does, uniform within 1/sqrt(H); no bias is zero, so a missing bias is noticed."""
    rng = np.random.default_rng(seed)
    made = sj.lstm(hidden_size) if cell == "lstm" else sj.gru(hidden_size)
    like = jax.eval_shape(made.init, jax.random.key(0), jnp.zeros((1, input_size), jnp.float32))
    bound = hidden_size**-0.5
    return jax.tree.map(lambda a: jnp.asarray(rng.uniform(-bound, bound, a.shape), jnp.float32), like)


def jax_peers(cell: str, hidden_size: int) -> list[Peer]:
    """Return the layers of this library, first, and those of the JAX libraries that are installed."""
    make = {"lstm": lstm_peers, "gru": gru_peers}[cell]
    return [peer for peer in make(hidden_size) if peer.name.split()[0] not in missing()]


def missing() -> list[str]:
    """Return the libraries that are not installed."""
    return [name for name in ("flax", "haiku", "equinox", "torch") if find_spec(name) is None]


def seqjax_peers(cells: dict[str, sj.Cell]) -> list[Peer]:
    """Return the layers of this library: with the method that `Auto` chooses, and with autodiff through the loop."""
    autodiff = sj.Scan(gradient="autodiff")
    layers = {"seqjax": sj.recurrent(cells[""]), "seqjax (autodiff)": sj.recurrent(cells[""], autodiff)}
    if RESET_BEFORE in cells:
        layers[f"seqjax ({RESET_BEFORE})"] = sj.recurrent(cells[RESET_BEFORE])

    def unroll_of(layer: sj.Layer) -> Callable:
        return lambda params, xs: layer.unroll(params, layer.initial_carry(params, xs[0]), xs)[1]

    return [Peer(name, lambda p: p, unroll_of(layer), RESET_BEFORE in name) for name, layer in layers.items()]


def lstm_peers(hidden_size: int) -> list[Peer]:
    """Return LSTM layers, which all have the same formula."""

    def to_flax(p: Any) -> Any:
        inputs = {f"i{g}": {"kernel": w} for g, w in zip("ifgo", jnp.split(p.w_x, 4, -1))}
        splits = zip("ifgo", jnp.split(p.w_h, 4, -1), jnp.split(p.b, 4))
        return {"params": {"cell": inputs | {f"h{g}": {"kernel": w, "bias": b} for g, w, b in splits}}}

    def to_haiku(p: Any) -> Any:
        def reorder(a: Any) -> Any:
            i, f, g, o = jnp.split(a, 4, -1)
            return jnp.concatenate([i, g, f, o], -1)

        # Haiku adds 1 to the forget gate, the third in its order.
        bias = reorder(p.b) - jnp.repeat(jnp.asarray([0, 0, 1, 0], p.b.dtype), hidden_size)
        return {"lstm/linear": {"w": reorder(jnp.concatenate([p.w_x, p.w_h])), "b": bias}}

    def to_equinox(p: Any) -> Any:
        import equinox as eqx

        cell = eqx.nn.LSTMCell(len(p.w_x), hidden_size, key=jax.random.key(0))
        return eqx.tree_at(lambda c: (c.weight_ih, c.weight_hh, c.bias), cell, (p.w_x.T, p.w_h.T, p.b))

    return [
        *seqjax_peers({"": sj.lstm(hidden_size)}),
        Peer("flax", to_flax, lambda p, xs: _flax("OptimizedLSTMCell", hidden_size).apply(p, xs)),
        Peer("haiku", to_haiku, lambda p, xs: _haiku_unroll("LSTM", hidden_size, p, xs)),
        Peer("equinox", to_equinox, lambda p, xs: _equinox_unroll(p, xs, 2)),
    ]


def gru_peers(hidden_size: int) -> list[Peer]:
    """Return GRU layers; the reset gate of Haiku's acts before the recurrent product."""

    def to_flax(p: Any) -> Any:
        b, b_h = jnp.split(p.b, 3), jnp.split(p.b_h, 3)
        biases = [b[0] + b_h[0], b[1] + b_h[1], b[2]]
        inputs = {
            f"i{g}": {"kernel": w, "bias": b} for g, w, b in zip("rzn", jnp.split(p.w_x, 3, -1), biases)
        }
        hidden = {f"h{g}": {"kernel": w} for g, w in zip("rzn", jnp.split(p.w_h, 3, -1))}
        hidden["hn"]["bias"] = b_h[2]
        return {"params": {"cell": inputs | hidden}}

    def to_haiku(p: Any) -> Any:
        def reorder(a: Any) -> Any:
            # Haiku's z is 1 - z here, and sigmoid(-v) = 1 - sigmoid(v).
            r, z, n = jnp.split(a, 3, -1)
            return jnp.concatenate([-z, r, n], -1)

        return {"gru": {"w_i": reorder(p.w_x), "w_h": reorder(p.w_h), "b": reorder(p.b + p.b_h)}}

    def to_equinox(p: Any) -> Any:
        import equinox as eqx

        cell = eqx.nn.GRUCell(len(p.w_x), hidden_size, key=jax.random.key(0))
        bias = p.b.at[: 2 * hidden_size].add(p.b_h[: 2 * hidden_size])
        values = (p.w_x.T, p.w_h.T, bias, p.b_h[2 * hidden_size :])
        return eqx.tree_at(lambda c: (c.weight_ih, c.weight_hh, c.bias, c.bias_n), cell, values)

    return [
        *seqjax_peers({"": sj.gru(hidden_size), RESET_BEFORE: sj.gru(hidden_size, reset_after=False)}),
        Peer("flax", to_flax, lambda p, xs: _flax("GRUCell", hidden_size).apply(p, xs)),
        Peer(
            f"haiku ({RESET_BEFORE})", to_haiku, lambda p, xs: _haiku_unroll("GRU", hidden_size, p, xs), True
        ),
        Peer("equinox", to_equinox, lambda p, xs: _equinox_unroll(p, xs, 1)),
    ]


def _flax(cell: str, hidden_size: int) -> Any:
    import flax.linen as nn

    return nn.RNN(getattr(nn, cell)(hidden_size), time_major=True)


def _haiku_unroll(cell: str, hidden_size: int, params: Any, xs: jax.Array) -> jax.Array:
    import haiku as hk

    def unroll(xs: jax.Array) -> jax.Array:
        core = getattr(hk, cell)(hidden_size)
        carry = jax.tree.map(lambda a: a.astype(xs.dtype), core.initial_state(xs.shape[1]))
        return hk.dynamic_unroll(core, xs, carry)[0]

    transformed: Any = hk.without_apply_rng(hk.transform(unroll))
    return transformed.apply(params, xs)


def _equinox_unroll(cell: Any, xs: jax.Array, num_leaves: int) -> jax.Array:
    zeros = jnp.zeros((xs.shape[1], cell.hidden_size), xs.dtype)

    def step(carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        carry = jax.vmap(cell)(x, carry)
        return carry, carry[0] if num_leaves == 2 else carry

    return jax.lax.scan(step, (zeros, zeros) if num_leaves == 2 else zeros, xs)[1]
