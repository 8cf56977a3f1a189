"""Decorators that mark which params of a cell set the recurrence, and which are elementwise."""

from collections.abc import Callable
from typing import Any, TypeVar

C = TypeVar("C", bound=type)


def sets_recurrence(*names: str) -> Callable[[C], C]:
    """Mark fields of a params class that set decays, phases or step sizes of the recurrence.

    Mark a field if the whole field is elementwise, with one number per unit, state or head. Examples are the
    eigenvalues of an `lru` and the bias of an input-dependent decay. Do not mark weights that multiply the input, nor
    biases of which only some columns set a decay. `seqjax.training.parameter_labels` reads the mark to give these
    params their own learning rate; `seqjax.training.Precision` reads it to keep them in float32.

    Raises:
        ValueError: for a name that is not a field.

    Example:
        >>> import jax
        >>> from typing import NamedTuple
        >>> @sets_recurrence("decay")
        ... class Params(NamedTuple):
        ...     w_x: jax.Array
        ...     decay: jax.Array
        >>> recurrence_fields(Params(1.0, 2.0))
        ('decay',)
    """
    return _marking("sets_recurrence", "_recurrence_fields", names)


def elementwise(*names: str) -> Callable[[C], C]:
    """Mark the fields of a params class that hold one number per unit, gate or channel; all others do not.

    Use this only where the names of the fields do not show it: see `seqjax.training.parameter_labels`.

    Raises:
        ValueError: for a name that is not a field.
    """
    return _marking("elementwise", "_elementwise_fields", names)


def recurrence_fields(params: Any) -> tuple[str, ...]:
    """Return the fields of a cell's params that `sets_recurrence` marks; an empty tuple for any other value."""
    return getattr(type(params), "_recurrence_fields", ())


def elementwise_fields(params: Any) -> tuple[str, ...] | None:
    """Return the fields of a cell's params that `elementwise` marks; None where the class has no mark."""
    return getattr(type(params), "_elementwise_fields", None)


def _marking(who: str, attribute: str, names: tuple[str, ...]) -> Callable[[C], C]:
    def mark(params_class: C) -> C:
        fields = getattr(params_class, "_fields", ())
        for name in names:
            if name not in fields:
                raise ValueError(
                    f"{who}({name!r}): expected a field of {params_class.__name__}, which has "
                    f"{', '.join(fields) or 'none'}."
                )
        setattr(params_class, attribute, names)
        return params_class

    return mark
