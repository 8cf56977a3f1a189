"""How gradients flow through time: the objective they are taken of, and the estimators that take them."""

from seqjax.gradients.bptt import full_bptt, truncated_bptt
from seqjax.gradients.objective import last_step, loss_sum, objective
from seqjax.gradients.randomised import randomised_truncated_bptt
from seqjax.gradients.rtrl import rtrl
from seqjax.gradients.snap import snap

__all__ = [
    "full_bptt",
    "last_step",
    "loss_sum",
    "objective",
    "randomised_truncated_bptt",
    "rtrl",
    "snap",
    "truncated_bptt",
]
