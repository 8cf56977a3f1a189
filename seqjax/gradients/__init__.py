"""How gradients flow through time: the objective they are taken of."""

from seqjax.gradients.objective import last_step, loss_sum, objective

__all__ = ["last_step", "loss_sum", "objective"]
