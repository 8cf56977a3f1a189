"""How gradients flow through time: the objective they are taken of."""

from seqjax.gradients.objective import loss_sum, objective

__all__ = ["loss_sum", "objective"]
