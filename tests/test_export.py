"""Exported models: every params and carry is serializable, with a symbolic batch and length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import seqjax as sj


def namedtuples(tree):
    """The classes of all NamedTuples in a tree."""
    found = set()

    def visit(node):
        if isinstance(node, tuple) and hasattr(node, "_fields"):
            found.add(type(node))
        for part in (
            node if isinstance(node, tuple | list) else node.values() if isinstance(node, dict) else ()
        ):
            visit(part)

    visit(tree)
    return found


@pytest.mark.parametrize("name", sorted(sj.REGISTRY))
@pytest.mark.fast_cases(20)
def test_params_and_carries_of_every_cell_are_registered(name):
    cell = sj.REGISTRY[name].make(4)
    x = sj.REGISTRY[name].example((2,), 4) if hasattr(sj.REGISTRY[name], "example") else jnp.ones((2, 4))
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), x))
    carry = jax.eval_shape(lambda: cell.initial_carry(cell.init(jax.random.key(0), x), x))
    for kind in namedtuples((params, carry)):
        with pytest.raises(ValueError, match="uplicate|already"):
            export.register_namedtuple_serialization(kind, serialized_name=f"again.{kind.__qualname__}")


FAST = ("lstm", "gru", "lru", "linear_attention", "mlstm", "attention")


@pytest.mark.parametrize("shape", ["6, b", "t, b"])
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in sorted(sj.REGISTRY)],
)
@pytest.mark.fast_cases(1)
def test_a_symbolic_batch_and_length_are_exported(name, shape):
    entry = sj.REGISTRY[name]
    layer = sj.recurrent(entry.make(4))
    random = np.random.default_rng(0)
    example = entry.example((7 if "t" in shape else 6, 3), 4)
    xs = jax.tree.map(lambda a: random.uniform(0.1, 1, a.shape).astype("f"), example)
    first = jax.tree.map(lambda a: a[0], xs)
    params = layer.init(jax.random.key(0), first)

    @jax.jit
    def run(params, xs):
        return layer.unroll(params, layer.initial_carry(params, jax.tree.map(lambda a: a[0], xs)), xs)

    bound = ["t <= 64"] if layer.max_length is not None and "t" in shape else []
    sizes = export.symbolic_shape(shape, constraints=bound)
    symbolic = jax.tree.map(lambda a: jax.ShapeDtypeStruct((*sizes, *a.shape[2:]), "float32"), xs)
    exported = export.export(run)(params, symbolic)
    try:
        import flatbuffers  # noqa: F401
    except ImportError:  # jax needs it to write files, and to nothing else
        pass
    else:
        exported = export.deserialize(exported.serialize())
    found, expected = exported.call(params, xs)[1], run(params, xs)[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)


def test_attention_is_exported_with_a_length_of_at_most_its_max_length_and_with_no_other():
    """A longer sequence would lose its oldest steps without a word."""
    layer = sj.recurrent(sj.attention(4, num_heads=2, max_length=5))
    params = layer.init(jax.random.key(0), jnp.ones((3, 4)))
    run = jax.jit(lambda params, xs: layer.unroll(params, None, xs)[1])

    def exported(*constraints):
        shape = export.symbolic_shape("t, b, 4", constraints=constraints)
        return export.export(run)(params, jax.ShapeDtypeStruct(shape, "float32"))

    for constraints in ((), ("t <= 6",)):
        with pytest.raises(
            ValueError, match=r'symbolic length t, which may be longer. Bound it: .*constraints=\["t <= 5"\]'
        ):
            exported(*constraints)
    bounded = exported("t <= 5")
    assert bounded.call(params, jnp.ones((5, 3, 4), "float32")).shape == (5, 3, 4)
    with pytest.raises(ValueError, match="t <= 5|5"):
        bounded.call(params, jnp.ones((6, 3, 4), "float32"))


@pytest.mark.parametrize("as_leaves", [True, False])
def test_a_step_of_leaves_is_loaded_without_the_classes_of_carries(as_leaves):
    layer = sj.recurrent(sj.lstm(2))
    params = layer.init(jax.random.key(0), jnp.ones((1, 3)))
    carry = layer.initial_carry(params, jnp.ones((1, 3)))
    leaves, structure = jax.tree.flatten(carry)

    def step(leaves, x):
        carry, y = layer.step(params, jax.tree.unflatten(structure, jax.tree.leaves(leaves)), x)
        return jax.tree.leaves(carry) if as_leaves else carry, y

    file = export.export(jax.jit(step))(leaves if as_leaves else carry, jnp.ones((1, 3))).serialize()
    assert (b"seqjax.cells.lstm.LSTMCarry" in file) is not as_leaves
