"""Training: a pure training step on one device or many, the loop around it, checkpoints, and loading of runs."""

from seqjax.training import distributed
from seqjax.training.checkpoints import Checkpoints, DamagedCheckpointWarning
from seqjax.training.definition import load_vocabulary
from seqjax.training.early_stop import EarlyStop
from seqjax.training.evaluation import CorpusMetrics, evaluation
from seqjax.training.fit import Fitted, fit
from seqjax.training.labels import parameter_labels
from seqjax.training.likelihoods import (
    gaussian,
    gaussian_nll,
    negative_binomial,
    negative_binomial_nll,
    student_t,
    student_t_nll,
)
from seqjax.training.losses import cross_entropy, ctc_loss, last_step, quantile_loss
from seqjax.training.metrics import Metrics, gradient_norms, update_norms
from seqjax.training.metrics_log import MetricsLog
from seqjax.training.precision import BFLOAT16, FLOAT16, FLOAT32, LossScale, Precision
from seqjax.training.run import load_run
from seqjax.training.state import TrainState, init_train_state
from seqjax.training.step import TrainStep, make_train_step
from seqjax.training.transforms import average_params, averaged_params, clip_by_layer_norm
from seqjax.training.warm_start import WarmStart, warm_start

__all__ = [
    "BFLOAT16",
    "FLOAT16",
    "FLOAT32",
    "Checkpoints",
    "CorpusMetrics",
    "DamagedCheckpointWarning",
    "EarlyStop",
    "Fitted",
    "LossScale",
    "Metrics",
    "MetricsLog",
    "Precision",
    "TrainState",
    "TrainStep",
    "WarmStart",
    "average_params",
    "averaged_params",
    "clip_by_layer_norm",
    "cross_entropy",
    "ctc_loss",
    "distributed",
    "evaluation",
    "fit",
    "gaussian",
    "gaussian_nll",
    "gradient_norms",
    "init_train_state",
    "last_step",
    "load_run",
    "load_vocabulary",
    "make_train_step",
    "negative_binomial",
    "negative_binomial_nll",
    "parameter_labels",
    "quantile_loss",
    "student_t",
    "student_t_nll",
    "update_norms",
    "warm_start",
]
