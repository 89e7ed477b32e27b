"""Predict the parameters of neural networks with graph hypernetworks, in JAX.

    import ppuda_jax as pj

    graph = pj.trace(apply_fn, variables, inputs)
    params = pj.predict_params(apply_fn, graph)

A reimplementation of "Parameter Prediction for Unseen Deep Architectures" (Knyazev et al.,
NeurIPS 2021, arXiv 2110.13100) in which one compiled program serves a million architectures.
Public names are loaded when they are first used, so that processes which only sample
architectures never load JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppuda_jax.archs.hdf5 import load_split as load_split
    from ppuda_jax.calibration import calibrate as calibrate
    from ppuda_jax.checkpoints import load_ghn as load_ghn
    from ppuda_jax.checkpoints import save_ghn as save_ghn
    from ppuda_jax.data.datasets import dataset_spec as dataset_spec
    from ppuda_jax.evaluation import load_eval_images as load_eval_images
    from ppuda_jax.evaluation.accuracy import accuracy as accuracy
    from ppuda_jax.ghn.config import GHNConfig as GHNConfig
    from ppuda_jax.ghn.loaded import LoadedGHN as LoadedGHN
    from ppuda_jax.ghn.model import GHN as GHN
    from ppuda_jax.ghn.model import init_theta as init_theta
    from ppuda_jax.graphs.describe import describe as describe
    from ppuda_jax.graphs.records import network_graph as network_graph
    from ppuda_jax.hub import push_to_hub as push_to_hub
    from ppuda_jax.nets.network import build_network as build_network
    from ppuda_jax.prediction.predict import predict_params as predict_params
    from ppuda_jax.prediction.predict import unsupported_leaves as unsupported_leaves
    from ppuda_jax.tracing.api import trace as trace
    from ppuda_jax.visualization import draw_filters as draw_filters
    from ppuda_jax.visualization import draw_graph as draw_graph
    from ppuda_jax.zoo import build_model as build_model

__version__ = "0.1.0"

_MODULES = {
    "GHN": "ghn.model",
    "GHNConfig": "ghn.config",
    "LoadedGHN": "ghn.loaded",
    "accuracy": "evaluation.accuracy",
    "build_model": "zoo",
    "build_network": "nets.network",
    "calibrate": "calibration",
    "dataset_spec": "data.datasets",
    "describe": "graphs.describe",
    "draw_filters": "visualization",
    "draw_graph": "visualization",
    "init_theta": "ghn.model",
    "load_eval_images": "evaluation",
    "load_ghn": "checkpoints",
    "load_split": "archs.hdf5",
    "network_graph": "graphs.records",
    "predict_params": "prediction.predict",
    "push_to_hub": "hub",
    "save_ghn": "checkpoints",
    "trace": "tracing.api",
    "unsupported_leaves": "prediction.predict",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
