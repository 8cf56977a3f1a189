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
def test_params_and_carries_of_every_cell_are_registered(name):
    cell = sj.REGISTRY[name].make(4)
    x = sj.REGISTRY[name].example((2,), 4) if hasattr(sj.REGISTRY[name], "example") else jnp.ones((2, 4))
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), x))
    carry = jax.eval_shape(lambda: cell.initial_carry(cell.init(jax.random.key(0), x), x))
    for kind in namedtuples((params, carry)):
        with pytest.raises(ValueError, match="uplicate|already"):
            export.register_namedtuple_serialization(kind, serialized_name=f"again.{kind.__qualname__}")


@pytest.mark.parametrize("shape", ["6, b, 4", "t, b, 4"])
@pytest.mark.parametrize("name", ["lstm", "gru", "lru", "linear_attention", "mlstm"])
def test_a_symbolic_batch_and_length_are_exported(name, shape):
    layer = sj.recurrent(sj.REGISTRY[name].make(4))
    xs = np.random.default_rng(0).normal(size=(7 if "t" in shape else 6, 3, 4)).astype("f")
    params = layer.init(jax.random.key(0), xs[0])
    run = jax.jit(lambda params, xs: layer.unroll(params, layer.initial_carry(params, xs[0]), xs))
    symbolic = jax.ShapeDtypeStruct(export.symbolic_shape(shape), "float32")
    exported = export.export(run)(params, symbolic)
    try:
        import flatbuffers  # noqa: F401
    except ImportError:  # jax needs it to write files, and to nothing else
        pass
    else:
        exported = export.deserialize(exported.serialize())
    np.testing.assert_allclose(exported.call(params, xs)[1], run(params, xs)[1], rtol=1e-5, atol=1e-6)
