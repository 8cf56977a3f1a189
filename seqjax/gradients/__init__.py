"""How gradients flow through time: the objective they are taken of, and the estimators that take them."""

from seqjax.gradients.bptt import full_bptt, truncated_bptt
from seqjax.gradients.eprop import eprop
from seqjax.gradients.kf_rtrl import kf_rtrl
from seqjax.gradients.objective import last_step, loss_sum, objective
from seqjax.gradients.rflo import rflo
from seqjax.gradients.uoro import uoro

__all__ = [
    "eprop",
    "full_bptt",
    "kf_rtrl",
    "last_step",
    "loss_sum",
    "objective",
    "rflo",
    "truncated_bptt",
    "uoro",
]
