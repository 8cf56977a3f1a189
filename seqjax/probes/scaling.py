r"""Growth of memory, arithmetic and time with the sequence length, by method: power laws and their crossovers.

Bytes come from the compiler's memory analysis of a program, operations from its equations (`seqjax.probes.cost`). Both
are free of noise, and neither runs the program. Only `time_scaling` runs programs.
"""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Real

from seqjax.base import Layer, Params, X, Xs
from seqjax.checks import check_whole
from seqjax.inputs import first_step
from seqjax.probes.cost import count_cost
from seqjax.probes.internals.methods import by_method, check_lengths
from seqjax.probes.power_law import Crossover, PowerLaw, find_crossover, fit_power_law

Program = Callable[[Layer], Callable[[Any, Any], Any]]


class Scaling(NamedTuple):
    """One quantity of one method by sequence length.

    Attributes:
        quantity: "bytes", "flops" or "seconds".
        method: the name of the method.
        lengths: T ``[n]``.
        values: the quantity ``[n]``; for seconds the medians.
        law: the power law fitted to the values.
        inputs_and_outputs: for bytes, the size of the program's arguments and results ``[n]``; else None.
        samples: for seconds, the time of each round ``[n, rounds]``; else None.
        note: what the numbers do not include; "" if they are complete.
    """

    quantity: str
    method: str
    lengths: Int[np.ndarray, " N"]
    values: Real[np.ndarray, " N"]
    law: PowerLaw
    inputs_and_outputs: Int[np.ndarray, " N"] | None = None
    samples: Float[np.ndarray, "N rounds"] | None = None
    note: str = ""


def outputs(layer: Layer) -> Callable:
    """Return the program ``(params, xs) -> ys``, from the initial carry."""

    def run(params: Params, xs: Xs) -> Any:
        return layer.unroll(params, layer.initial_carry(params, first_step(xs)), xs)[1]

    return run


def gradient_of_outputs(layer: Layer) -> Callable:
    """Return the program ``(params, xs) -> d_params`` for the mean square of all outputs: a loss at each step."""
    return lambda params, xs: jax.grad(lambda p: _mean_square(outputs(layer)(p, xs)))(params)


def gradient_of_carry(layer: Layer) -> Callable:
    """Return the program ``(params, xs) -> d_params`` for the mean square of the last carry: a loss at the end."""

    def last(params: Params, xs: Xs) -> Any:
        return layer.unroll(params, layer.initial_carry(params, first_step(xs)), xs)[0]

    return lambda params, xs: jax.grad(lambda p: _mean_square(last(p, xs)))(params)


def memory_scaling(
    layer: Layer | Callable[[Any], Layer],
    x: X,
    lengths: Sequence[int],
    *,
    methods: Mapping[str, Any] | Sequence[Any] | None = None,
    program: Program = gradient_of_outputs,
    known: Callable[[int], int] | None = None,
) -> tuple[Scaling, ...]:
    """Return the bytes of temporary memory by length and method, from the compiler's memory analysis.

    The probe compiles a program for each length and method and does not run it, so the numbers are reproducible. The
    inputs and outputs are not part of the temporary memory; ``inputs_and_outputs`` holds their size.

    Args:
        layer: a layer; or, with `methods`, a function of a method, such as ``lambda method: recurrent(lstm(64),
            method)``.
        x: one time step of input ``[*B, ...]``, or its ShapeDtypeStruct.
        lengths: T, two or more different lengths.
        methods: the arguments to call the function with, by name, or a sequence; then ``repr`` names them.
        program: ``layer -> (params, xs) -> anything``: the program to compile.
        known: ``T -> bytes`` to subtract: the size of arrays that any method holds, such as the outputs if a loss reads
            all of them.

    Returns:
        One `Scaling` per method.

    Raises:
        ValueError: for fewer than two different lengths.
        TypeError: for methods without a function to call.
        RuntimeError: if the compiler has no memory analysis.

    Example:
        >>> import jax.numpy as jnp, seqjax as sj
        >>> layer = sj.recurrent(sj.elman(16), sj.Scan(gradient="autodiff"))
        >>> plain, nested = memory_scaling(
        ...     lambda wrap: wrap(layer), jnp.ones((1, 1)), [1024, 4096, 16384],
        ...     methods={"plain": lambda inner: inner, "nested": lambda inner: sj.checkpointed(inner, sj.Nested())},
        ...     program=gradient_of_carry)
        >>> round(plain.law.exponent, 1), nested.law.exponent < plain.law.exponent
        (1.0, True)
    """
    variants, lengths = _checked("memory_scaling", layer, methods, lengths)
    found = []
    for name, made in variants.items():
        temporary, others = [], []
        for length in lengths:
            lowered = jax.jit(program(made)).lower(*_shapes(made, x, length))
            analysis: Any = lowered.compile().memory_analysis()
            if analysis is None:
                raise RuntimeError(
                    f"memory_scaling: expected a compiler with a memory analysis, got {jax.default_backend()}."
                )
            temporary.append(analysis.temp_size_in_bytes - (known(length) if known else 0))
            others.append(analysis.argument_size_in_bytes + analysis.output_size_in_bytes)
        found.append(_scaling("bytes", name, lengths, temporary, inputs_and_outputs=np.asarray(others)))
    return tuple(found)


def flops_scaling(
    layer: Layer | Callable[[Any], Layer],
    x: X,
    lengths: Sequence[int],
    *,
    methods: Mapping[str, Any] | Sequence[Any] | None = None,
    program: Program = gradient_of_outputs,
) -> tuple[Scaling, ...]:
    """Count floating-point operations by length and method with `count_cost`, without compiling or running.

    If a method loops until convergence (`Newton`), one iteration is counted, and `Scaling.note` says so.

    Args:
        layer: as in `memory_scaling`.
        x: as in `memory_scaling`.
        lengths: as in `memory_scaling`.
        methods: as in `memory_scaling`.
        program: as in `memory_scaling`.

    Returns:
        One `Scaling` per method.

    Raises:
        ValueError: for fewer than two different lengths.
        TypeError: for methods without a function to call.

    Example:
        >>> import jax.numpy as jnp, seqjax as sj
        >>> (scaling,) = flops_scaling(sj.recurrent(sj.lstm(8)), jnp.ones((4, 3)), [64, 256], program=outputs)
        >>> round(scaling.law.exponent, 2)
        1.0
    """
    variants, lengths = _checked("flops_scaling", layer, methods, lengths)
    found = []
    for name, made in variants.items():
        costs = [count_cost(program(made), *_shapes(made, x, length)) for length in lengths]
        notes = []
        if loops := max(len(cost.while_loops) for cost in costs):
            notes.append(f"{loops} loop(s) of unknown length counted as one iteration")
        if unknown := sorted({primitive for cost in costs for primitive in cost.uncounted}):
            notes.append(f"not counted: {', '.join(unknown)}")
        flops = [cost.flops for cost in costs]
        found.append(_scaling("flops", name, lengths, flops, note="; ".join(notes)))
    return tuple(found)


def time_scaling(
    layer: Layer | Callable[[Any], Layer],
    x: X,
    lengths: Sequence[int],
    *,
    methods: Mapping[str, Any] | Sequence[Any] | None = None,
    program: Program = gradient_of_outputs,
    rounds: int = 15,
    key: jax.Array | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Scaling, ...]:
    """Measure seconds by length and method, with interleaved rounds on fresh random inputs.

    The noise of a machine drifts, and interleaved methods share the drift. Compare them by their ratio within a round,
    as `crossovers` does, rather than by single timings.

    Args:
        layer: as in `memory_scaling`.
        x: as in `memory_scaling`.
        lengths: as in `memory_scaling`.
        methods: as in `memory_scaling`.
        program: as in `memory_scaling`.
        rounds: the number of timed rounds, after one warm-up round.
        key: draws params and inputs; by default ``jax.random.key(0)``.
        clock: a function that returns seconds.

    Returns:
        One `Scaling` per method, with `samples`.

    Raises:
        ValueError: for fewer than two different lengths, or fewer than one round.
        TypeError: for methods without a function to call.

    Example:
        >>> import jax.numpy as jnp, seqjax as sj
        >>> (scaling,) = time_scaling(
        ...     sj.recurrent(sj.elman(2)), jnp.ones((1, 1)), [8, 16], program=outputs, rounds=3)
        >>> scaling.quantity, scaling.samples.shape
        ('seconds', (2, 3))
    """
    variants, lengths = _checked("time_scaling", layer, methods, lengths)
    check_whole("time_scaling(rounds)", rounds, 1)
    key = jax.random.key(0) if key is None else key
    seconds = {name: np.zeros((len(lengths), rounds)) for name in variants}
    for i, length in enumerate(lengths):
        arms = {
            name: (
                jax.jit(program(made)).lower(*_shapes(made, x, length)).compile(),
                jax.jit(made.init)(key, jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), x)),
            )
            for name, made in variants.items()
        }
        for number in range(-1, rounds):
            xs = jax.block_until_ready(_random_inputs(jax.random.fold_in(key, number + 1), x, length))
            for name, (run, params) in arms.items():
                start = clock()
                jax.block_until_ready(run(params, xs))
                if number >= 0:
                    seconds[name][i, number] = clock() - start
    return tuple(
        _scaling("seconds", name, lengths, np.median(samples, axis=1), samples=samples)
        for name, samples in seconds.items()
    )


def crossovers(scalings: Sequence[Scaling], *, confidence: float = 0.95) -> dict[tuple[str, str], Crossover]:
    """Return for each pair of methods the length at which one becomes cheaper than the other; see `find_crossover`.

    Timings are compared by the median of their ratios within rounds.

    Args:
        scalings: scalings of one quantity at the same lengths.
        confidence: the confidence of the intervals, in (0, 1).

    Returns:
        Crossovers by pairs of names; ``cheaper_before`` and ``cheaper_after`` are names of methods.

    Raises:
        ValueError: for different quantities or lengths, values that are not above zero, or a confidence outside (0, 1).

    Example:
        A loop over time against a product of all with all:

        >>> import numpy as np
        >>> lengths = np.array([16, 64, 256])
        >>> loop, product = (Scaling("flops", name, lengths, values, fit_power_law(lengths, values))
        ...                  for name, values in [("loop", 100 * lengths), ("product", lengths**2)])
        >>> (pair, found), = crossovers([loop, product]).items()
        >>> pair, round(found.length), found.cheaper_after
        (('loop', 'product'), 100, 'loop')
    """
    for other in scalings[1:]:
        if other.quantity != scalings[0].quantity or not np.array_equal(other.lengths, scalings[0].lengths):
            raise ValueError(
                f"crossovers: expected one quantity at the same lengths, got {scalings[0].quantity} at "
                f"{scalings[0].lengths.tolist()} and {other.quantity} at {other.lengths.tolist()}."
            )
    found = {}
    for first, second in itertools.combinations(scalings, 2):
        if first.samples is not None and second.samples is not None:
            ratio = np.median(first.samples / second.samples, axis=1)
            pair = find_crossover(first.lengths, ratio, np.ones_like(ratio), confidence=confidence)
        else:
            pair = find_crossover(first.lengths, first.values, second.values, confidence=confidence)
        names = {"first": first.method, "second": second.method, "": ""}
        found[first.method, second.method] = pair._replace(
            cheaper_before=names[pair.cheaper_before], cheaper_after=names[pair.cheaper_after]
        )
    return found


def _checked(who: str, layer: Any, methods: Any, lengths: Any) -> tuple[dict[str, Layer], list[int]]:
    return by_method(who, layer, methods), check_lengths(who, lengths, 2)


def _scaling(quantity: str, method: str, lengths: Sequence[int], values: Any, **more: Any) -> Scaling:
    law = fit_power_law(lengths, values)
    return Scaling(quantity, method, np.asarray(lengths), np.asarray(values), law, **more)


def _shapes(layer: Layer, x: X, length: int) -> tuple[Any, Any]:
    """Return params and inputs ``[T, ...]`` as ShapeDtypeStructs."""
    xs = jax.tree.map(lambda a: jax.ShapeDtypeStruct((length, *a.shape), a.dtype), x)
    return jax.eval_shape(layer.init, jax.random.key(0), x), xs


def _random_inputs(key: jax.Array, x: X, length: int) -> Any:
    """Draw standard normal inputs; integer inputs are zeros."""
    leaves, treedef = jax.tree.flatten(x)
    return jax.tree.unflatten(
        treedef,
        [
            jax.random.normal(jax.random.fold_in(key, i), (length, *leaf.shape), leaf.dtype)
            if jnp.issubdtype(leaf.dtype, jnp.inexact)
            else jnp.zeros((length, *leaf.shape), leaf.dtype)
            for i, leaf in enumerate(leaves)
        ],
    )


def _mean_square(tree: Any) -> jax.Array:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    means = [jnp.mean(jnp.real(leaf * jnp.conj(leaf))) for leaf in leaves]
    return sum(means[1:], means[0])
