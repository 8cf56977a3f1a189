"""Name the gates and decays of a cell by the words of its formula."""

import jax
import jax.numpy as jnp

from seqjax.base import Gated
from seqjax.cells import REGISTRY

_WIDTH = 4


def gate_names(cell: str) -> dict[str, str]:
    """Return the names of ``gate 0, 1, ...`` and ``decay 0, 1, ...`` of a registered cell; empty for other cells.

    A gate has the name that its recurrence declares. A decay has the name of the part of the carry that it multiplies.

    Example:
        >>> gate_names("lstm")
        {'gate 0': 'input gate', 'gate 1': 'forget gate', 'gate 3': 'output gate', 'decay 0': 'decay of c'}
        >>> gate_names("lru")
        {'decay 0': 'decay'}
    """
    if cell not in REGISTRY:
        return {}
    made = REGISTRY[cell].make(_WIDTH)
    if not isinstance(made.recurrence, Gated):
        return {"decay 0": "decay"}
    words = enumerate(made.recurrence.names)
    names = {f"gate {place}": f"{word} gate" for place, word in words if word != "candidate"}
    x = jnp.zeros((1, _WIDTH))
    carry = jax.eval_shape(lambda key: made.initial_carry(made.init(key, x), x), jax.random.key(0))
    parts = [
        jax.tree_util.keystr(path).lstrip(".") for path, _ in jax.tree_util.tree_flatten_with_path(carry)[0]
    ]
    if made.recurrence.emit is not None:
        del parts[-1]  # the output, which has no decay
    return names | {f"decay {place}": f"decay of {part}" for place, part in enumerate(parts)}
