"""Code that differs between JAX versions (0.10.2 to 0.12), or depends on parts of JAX that change often."""

from typing import Any

import jax

# Options of XLA's compiler for CPUs. Compilation takes a quarter of the time or less, and programs run three to
# fourteen times as long (profiles of lstm, lru and gla at T = 512). One module of machine code per program,
# instead of one per thread, saves another quarter and many memory maps. From 0.11 on there is no choice of emitters.
QUICK_TO_COMPILE: dict[str, Any] = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_parallel_codegen_split_count": 1,
}
if jax.__version_info__ < (0, 11):
    QUICK_TO_COMPILE["xla_cpu_use_fusion_emitters"] = False


def varying_axes(x: Any) -> frozenset[str]:
    """Return the manual mesh axes (inside ``jax.shard_map``) over which a value differs; empty outside."""
    aval = jax.typeof(x)
    manual = getattr(aval, "manual_axis_type", None)
    return frozenset(getattr(aval, "vma", ()) if manual is None else manual.varying)


def vary_like(tree: Any, *others: Any) -> Any:
    """Mark a tree as varying over every manual mesh axis over which any of the others varies.

    The transpose is one sum over those axes. A call before a loop keeps that sum out of the loop's body; without the
    call, JAX converts implicitly at each use, inside the body.
    """
    axes = frozenset().union(*(varying_axes(leaf) for leaf in jax.tree.leaves(others)))

    def mark(leaf: Any) -> Any:
        missing = tuple(sorted(axes - varying_axes(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(mark, tree) if axes else tree


def manual_axes(params: Any) -> frozenset[str]:
    """Return the mesh axes over which the body of a ``shard_map`` equation runs once per device."""
    return frozenset(params["newly_manual_axes"] if "newly_manual_axes" in params else params["manual_axes"])


def scan_counts(params: Any) -> tuple[int, int]:
    """Return how many operands of a ``scan`` equation are constants, and how many after them are the carry."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    # From 0.11 on, the params hold the trees of the operands.
    consts, carry, _ = params["ft_in"].unpack()
    return len(consts.vals), len(carry.vals)


def expanded(eqn: Any) -> Any:
    """Return the jaxpr of what a primitive of ``jax.experimental.hijax`` computes, or None for other primitives.

    From 0.11 on, functions such as ``jnp.searchsorted`` are equations "call_hi_primitive" that hold no jaxpr.
    """
    if eqn.primitive.name != "call_hi_primitive":
        return None
    function = eqn.params["_prim"]

    def flat(*operands: Any) -> list:
        return jax.tree.leaves(function.expand(*jax.tree.unflatten(function.in_tree, operands)))

    return jax.make_jaxpr(flat)(*(jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars))


def bind(eqn: Any, operands: Any) -> list:
    """Evaluate one equation of a jaxpr and return its results."""
    bound = eqn.primitive.get_bind_params(eqn.params)
    functions, options = bound if isinstance(bound, tuple) else ((), bound)
    results = eqn.primitive.bind(*functions, *operands, **options)
    return list(results) if eqn.primitive.multiple_results else [results]


def shape_like(shape: Any, operands: Any) -> Any:
    """Return a ShapeDtypeStruct that varies over the manual mesh axes over which any of the operands varies."""
    axes = frozenset().union(*(varying_axes(leaf) for leaf in jax.tree.leaves(operands)))
    if not axes:
        return shape
    kind = jax.sharding.ManualAxisType(varying=axes)
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, manual_axis_type=kind)
