"""Instruments: how gradients behave, measured."""

from seqjax.probes.cost import Cost, WhileLoop, count_cost
from seqjax.probes.decay import Decay, fit_decay, horizon
from seqjax.probes.flossing import flossing_loss
from seqjax.probes.lyapunov import LyapunovSpectrum, lyapunov_spectrum
from seqjax.probes.parallel import Parallelisability, parallelisability
from seqjax.probes.power_law import Crossover, PowerLaw, find_crossover, fit_power_law
from seqjax.probes.precision import PrecisionError, precision_error
from seqjax.probes.profile import GradientProfile, gradient_profile, total_log_norm
from seqjax.probes.scaling import Scaling, crossovers, flops_scaling, memory_scaling, time_scaling
from seqjax.probes.singular import SingularFan, singular_values
from seqjax.probes.system import Bound, bind
from seqjax.probes.time_constants import longest_time_constant, unrepresentable_share

__all__ = [
    "Bound",
    "Cost",
    "Crossover",
    "Decay",
    "GradientProfile",
    "LyapunovSpectrum",
    "Parallelisability",
    "PowerLaw",
    "PrecisionError",
    "Scaling",
    "SingularFan",
    "WhileLoop",
    "bind",
    "count_cost",
    "crossovers",
    "find_crossover",
    "fit_decay",
    "fit_power_law",
    "flops_scaling",
    "flossing_loss",
    "gradient_profile",
    "horizon",
    "longest_time_constant",
    "lyapunov_spectrum",
    "memory_scaling",
    "parallelisability",
    "precision_error",
    "singular_values",
    "time_scaling",
    "total_log_norm",
    "unrepresentable_share",
]
