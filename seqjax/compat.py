"""What differs between JAX versions (0.10.2 to 0.12), and what is too unstable to import elsewhere."""

from typing import Any

import jax

# Options of XLA's compiler for CPUs with which it takes a quarter of the time or less, and its programs three to
# fourteen times as long (profiles of lstm, lru and gla at T = 512). Later versions have no choice of emitters.
# One module of machine code per program, which XLA otherwise splits for its threads: a quarter less, and fewer maps.
QUICK_TO_COMPILE: dict[str, Any] = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_parallel_codegen_split_count": 1,
}
if jax.__version_info__ < (0, 11):
    QUICK_TO_COMPILE["xla_cpu_use_fusion_emitters"] = False


def varying_axes(x: Any) -> frozenset[str]:
    """The manual mesh axes (inside ``jax.shard_map``) over which a value differs; empty outside."""
    aval = jax.typeof(x)
    manual = getattr(aval, "manual_axis_type", None)
    return frozenset(getattr(aval, "vma", ()) if manual is None else manual.varying)


def vary_like(tree: Any, *others: Any) -> Any:
    """The tree, marked as varying over every manual mesh axis that any of the others varies over.

    Its transpose is one sum over those axes. Done once before a loop, it keeps that sum out of the loop's body,
    where the implicit conversion at each use would put it.
    """
    axes = frozenset().union(*(varying_axes(leaf) for leaf in jax.tree.leaves(others)))

    def mark(leaf: Any) -> Any:
        missing = tuple(sorted(axes - varying_axes(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(mark, tree) if axes else tree


def manual_axes(params: Any) -> frozenset[str]:
    """Of a ``shard_map`` equation: the mesh axes over which its body runs once per device."""
    return frozenset(params["newly_manual_axes"] if "newly_manual_axes" in params else params["manual_axes"])


def scan_counts(params: Any) -> tuple[int, int]:
    """Of a ``scan`` equation: how many of its operands are constants, and after them how many are the carry."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    # From 0.11 on: the trees that the operands were flattened from.
    consts, carry, _ = params["ft_in"].unpack()
    return len(consts.vals), len(carry.vals)


def bind(eqn: Any, operands: Any) -> list:
    """The results of one equation of a jaxpr."""
    bound = eqn.primitive.get_bind_params(eqn.params)
    functions, options = bound if isinstance(bound, tuple) else ((), bound)
    results = eqn.primitive.bind(*functions, *operands, **options)
    return list(results) if eqn.primitive.multiple_results else [results]
