"""Label params by their role, so that an optimizer can treat them differently."""

import re
from typing import Any, Literal

import jax

from seqjax.cells.common.labels import elementwise_fields, recurrence_fields

Label = Literal["recurrence", "elementwise", "other"]

ELEMENTWISE_FIELDS = re.compile(r"(b|gain|scale|shift)(_\w+)?|bias|d|skip")
ELEMENTWISE_KEYS = re.compile("bias|scale")
"""Keys of flax's dicts; other keys may be names of layers."""


def parameter_labels(params: Any) -> Any:
    """Return the label of each parameter, as `optax.multi_transform` takes them.

    ============= ========================================================================== =========================
    label         params                                                                     usual treatment
    ============= ========================================================================== =========================
    "recurrence"  decays, phases and step sizes of a linear recurrence: ``nu_log`` of an     lower rate, no weight
                  `lru`, ``a_log`` and ``b_step`` of `mamba`                                 decay
    "elementwise" one number per unit: biases (packed ones, too), scales and shifts of       no weight decay
                  norms, skips, peepholes, the recurrent weights of an `indrnn`
    "other"       matrices, kernels, embeddings                                              weight decay
    ============= ========================================================================== =========================

    An update that is small for a weight may double the time constant of a recurrence, and zero is not a neutral value
    of its params. The size of a bias should not be small either: the bias of a forget gate sets the length of memory.

    Classes and names of the params give the labels; their place in a model does not matter, nor whether `repeat`
    stacks them. A cell declares the params of its recurrence beside the class of its params, by
    ``seqjax.cells.common.labels.sets_recurrence``. Cells whose decays come from projections and packed biases declare
    none.
    "elementwise" are the fields b, gain, scale and shift, also as ``b_...``, the fields bias, d and skip, the fields
    that the class declares by ``seqjax.cells.common.labels.elementwise``, and "bias" and "scale" of flax modules.

    Args:
        params: the params of a model, or a tree of the same structure, such as its gradients.

    Returns:
        A tree of strings of the same structure.

    Example:
        >>> import jax, jax.numpy as jnp, optax, seqjax as sj
        >>> from seqjax.training import parameter_labels
        >>> layer = sj.recurrent(sj.rg_lru(4))
        >>> print(parameter_labels(layer.init(jax.random.key(0), jnp.ones((1, 3)))))
        RGLRUParams(w_x='other', w_r='other', b_r='recurrence', w_i='other', b_i='elementwise', a_logit='recurrence')

        The usual recipe:

        >>> plain, decayed = optax.adam(4e-3), optax.adamw(4e-3, weight_decay=0.05)
        >>> groups = {"recurrence": optax.adam(1e-3), "elementwise": plain, "other": decayed}
        >>> optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.multi_transform(groups, parameter_labels))

    References:
        Gu, Goel, Re 2022, "Efficiently modeling long sequences with structured state spaces", arXiv:2111.00396 (the
        training of S4: a lower rate and no weight decay for the parameters of the state space). Orvieto et al. 2023,
        "Resurrecting recurrent neural networks for long sequences", arXiv:2303.06349 (the same for the LRU).
    """
    return _labels(params, "other")


def _labels(node: Any, label: Label) -> Any:
    """Return the labels of the leaves of a node; `label` is the label of leaves without one of their own."""
    parts, structure = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda part: part is not node)
    if not parts:  # None, or an empty tuple
        return node
    if parts[0][0] == ():
        return label
    recurrence, elementwise = recurrence_fields(node), elementwise_fields(node)
    names = ELEMENTWISE_KEYS if isinstance(node, dict) else ELEMENTWISE_FIELDS

    def of(path: Any, part: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True)
        if name in recurrence:
            return _labels(part, "recurrence")
        if elementwise is not None:
            return _labels(part, "elementwise" if name in elementwise else label)
        return _labels(
            part, "elementwise" if jax.tree_util.all_leaves([part]) and names.fullmatch(name) else label
        )

    return jax.tree.unflatten(structure, [of(path, part) for path, part in parts])
