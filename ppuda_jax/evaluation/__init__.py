"""Evaluation of predicted parameters on the splits of DeepNets-1M (paper, section 5.1)."""

from ppuda_jax.evaluation.accuracy import accuracy
from ppuda_jax.evaluation.evaluate import EvalSettings, evaluate_archs
from ppuda_jax.evaluation.images import EvalImages, load_eval_images, make_images
from ppuda_jax.evaluation.networks import SPLIT_NAMES, EvalNet, choose_networks
from ppuda_jax.evaluation.parameters import Parameters, given, he, lecun, predicted
from ppuda_jax.evaluation.results import NetResult, ResultFile, Summary, summarise, to_csv
from ppuda_jax.evaluation.validation import validation_hook

__all__ = (
    "SPLIT_NAMES",
    "EvalImages",
    "EvalNet",
    "EvalSettings",
    "NetResult",
    "Parameters",
    "ResultFile",
    "Summary",
    "accuracy",
    "choose_networks",
    "evaluate_archs",
    "given",
    "he",
    "lecun",
    "load_eval_images",
    "make_images",
    "predicted",
    "summarise",
    "to_csv",
    "validation_hook",
)
