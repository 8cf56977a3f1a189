"""Instruments: functions of the state, such as probes, that measure something at regular steps of a training."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from seqjax.rows import rows_of
from seqjax.training.evaluation import on_host
from seqjax.training.reporting import Reporter

Instrument = Callable[[Any], Any]
"""``state -> value``: a result of a probe, a number, an array, or a tree of these, from which `rows_of` makes rows."""

NEEDS_NUMBERS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
"""Errors of a function that needs numbers where JAX traces it."""


class Instruments:
    """The instruments of a run of `fit`.

    An instrument is compiled with `jax.jit`. One that needs numbers on the host, such as ``float(...)``, runs as it is.

    Args:
        given: the instruments by name, or None.
        every: the number of steps between measurements.
        num_steps: the last step, which is measured too.

    Raises:
        TypeError: for anything but a mapping from names to functions.

    Example:
        >>> from seqjax.training.instruments import Instruments
        >>> instruments = Instruments({"norm": lambda state: abs(state)}, 100, 250)
        >>> [step for step in range(251) if instruments.due(step)]
        [0, 100, 200, 250]
    """

    def __init__(self, given: Mapping[str, Instrument] | None, every: int, num_steps: int) -> None:
        wanted = 'a dict of functions state -> value, such as {"bias": lambda state: state.params["b"]}'
        if not isinstance(given, Mapping | None):
            raise TypeError(f"fit(instruments): expected {wanted}, got {type(given).__name__}.")
        for name, function in (given or {}).items():
            if not isinstance(name, str) or not name or not callable(function):
                raise TypeError(f"fit(instruments): expected {wanted}, got {name!r}: {function!r}.")
        self._given = dict(given or {})
        self._compiled: dict[str, Instrument] = {name: jax.jit(each) for name, each in self._given.items()}
        self._every, self._num_steps = every, num_steps

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._given)

    def due(self, step: int) -> bool:
        """Return whether a step is measured."""
        return bool(self._given) and (step % self._every == 0 or step == self._num_steps)

    def measure(self, step: int, state: Any, reporter: Reporter) -> None:
        """Measure the state after a step, and log the rows.

        With several processes all of them measure.

        Raises:
            Exception: of an instrument, with a note that names the instrument.
        """
        for name in self._given:
            try:
                value = jax.tree.map(_fetched, self._value(name, state))
                rows = rows_of(value)
            except Exception as error:
                error.add_note(f"The instrument {name!r} of fit raised this error at step {step}.")
                raise
            reporter.measured(step, name, rows)

    def _value(self, name: str, state: Any) -> Any:
        try:
            return self._compiled[name](state)
        except NEEDS_NUMBERS:
            if self._compiled[name] is self._given[name]:
                raise
            self._compiled[name] = self._given[name]
            return self._given[name](state)


def _fetched(leaf: Any) -> Any:
    return on_host(leaf) if isinstance(leaf, jax.Array) else leaf
