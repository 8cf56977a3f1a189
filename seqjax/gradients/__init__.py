"""How gradients flow through time: the objective they are taken of, and the estimators that take them."""

from seqjax.gradients.bptt import full_bptt, truncated_bptt
from seqjax.gradients.objective import last_step, loss_sum, objective

__all__ = ["full_bptt", "last_step", "loss_sum", "objective", "truncated_bptt"]
