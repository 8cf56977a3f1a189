"""Gradient estimators for recurrent layers, and the objective that they differentiate."""

from seqjax.gradients.bptt import full_bptt, truncated_bptt
from seqjax.gradients.eprop import eprop
from seqjax.gradients.kf_rtrl import kf_rtrl
from seqjax.gradients.objective import last_step, loss_sum, objective
from seqjax.gradients.randomised import randomised_truncated_bptt
from seqjax.gradients.reversible import reversible
from seqjax.gradients.rflo import rflo
from seqjax.gradients.rtrl import rtrl
from seqjax.gradients.snap import snap
from seqjax.gradients.uoro import uoro

__all__ = [
    "eprop",
    "full_bptt",
    "kf_rtrl",
    "last_step",
    "loss_sum",
    "objective",
    "randomised_truncated_bptt",
    "reversible",
    "rflo",
    "rtrl",
    "snap",
    "truncated_bptt",
    "uoro",
]
