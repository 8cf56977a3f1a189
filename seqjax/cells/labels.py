"""Which params set the recurrence, and which act on each unit by itself: a cell says so beside their class."""

from collections.abc import Callable
from typing import Any, TypeVar

C = TypeVar("C", bound=type)


def sets_recurrence(*names: str) -> Callable[[C], C]:
    """Decorator of a class of params: these of its fields set decays, phases or step sizes of the recurrence.

    A field belongs here where all of it is elementwise, one number per unit, state or head: the eigenvalues of an
    `lru`, the bias of a decay that the input sets. Weights by which the input sets it do not, nor biases of which only
    some columns do. `seqjax.training.parameter_labels` reads it, for a learning rate of their own, and
    `seqjax.training.Precision`, which keeps them in float32.

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
    """Decorator of a class of params: these of its fields hold one number per unit, gate or channel, and no others do.

    Needed only where the names of fields do not say it: see `seqjax.training.parameter_labels`.

    Raises:
        ValueError: for a name that is not a field.
    """
    return _marking("elementwise", "_elementwise_fields", names)


def recurrence_fields(params: Any) -> tuple[str, ...]:
    """The fields that `sets_recurrence` names, of the params of one cell; none for anything else."""
    return getattr(type(params), "_recurrence_fields", ())


def elementwise_fields(params: Any) -> tuple[str, ...] | None:
    """The fields that `elementwise` names, of the params of one cell; None where it was not used."""
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
