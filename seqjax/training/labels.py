"""Params by what they do, so that an optimizer may treat them differently."""

from typing import Any

import jax

from seqjax.cells.labels import recurrence_fields


def parameter_labels(params: Any) -> Any:
    """The label of each parameter, "recurrence" or "other", as `optax.multi_transform` takes them.

    "recurrence" are those that set decays, phases or step sizes of a linear recurrence, wherever in a model it is:
    ``nu_log`` of an `lru`, ``a_log`` and ``b_step`` of `mamba`. State space models are trained with a lower learning
    rate and no weight decay for them: a step that is small for a weight may double a time constant, and at zero there
    is just another time constant. A cell names them beside the class of its params, by
    ``seqjax.cells.labels.sets_recurrence``; cells whose decays come from projections alone have none.

    Args:
        params: of a model, or anything of the same structure, such as its gradients.

    Returns:
        The same structure of strings.

    Example:
        >>> import jax, jax.numpy as jnp, optax, seqjax as sj
        >>> from seqjax.training import parameter_labels
        >>> layer = sj.recurrent(sj.rtu(4))
        >>> parameter_labels(layer.init(jax.random.key(0), jnp.ones((1, 3))))
        RTUParams(nu_log='recurrence', theta_log='recurrence', w_x='other')

        The usual recipe:

        >>> groups = {"recurrence": optax.adam(1e-3), "other": optax.adamw(4e-3, weight_decay=0.05)}
        >>> optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.multi_transform(groups, parameter_labels))

    References:
        Gu, Goel, Re 2022, "Efficiently modeling long sequences with structured state spaces", arXiv:2111.00396 (the
        training of S4: a lower rate and no weight decay for the parameters of the state space). Orvieto et al. 2023,
        "Resurrecting recurrent neural networks for long sequences", arXiv:2303.06349 (the same for the LRU).
    """

    def labels(node: Any) -> Any:
        fields = recurrence_fields(node)
        if not fields:
            return "other"
        return type(node)(
            *(
                jax.tree.map(lambda _: "recurrence", value) if name in fields else parameter_labels(value)
                for name, value in zip(node._fields, node, strict=True)
            )
        )

    return jax.tree.map(labels, params, is_leaf=lambda node: bool(recurrence_fields(node)))
