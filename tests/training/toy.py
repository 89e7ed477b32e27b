"""A family of tiny "networks" with the interfaces of the real ones, compiled in a moment.

Run as a module it trains one, for tests that need a process of its own:
`python -m tests.training.toy WORKDIR [--field=value ...] [--poison_from=N] [--slow=SECONDS]
[--full_from=N]`.
"""

import dataclasses
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax import config as config_lib
from ppuda_jax.data import batches
from ppuda_jax.data.grouping import Survey
from ppuda_jax.training.config import TrainConfig
from ppuda_jax.training.executor_driver import ExecutorDriver
from ppuda_jax.training.task import Task

WIDTH = 6


@dataclasses.dataclass(frozen=True)
class ToyNetworks:
    """Network `i` is a random vector; its variant is its number modulo three."""

    seed: int = 0
    poison_from: int | None = None
    slow: float = 0.0
    full_from: int | None = None

    def survey(self, index: int) -> Survey:
        return Survey(index, f"variant{index % 3}", 10 + index % 7)

    def build(self, indices: Sequence[int], variant: str) -> dict[str, np.ndarray]:
        time.sleep(self.slow)
        if self.full_from is not None and max(indices) >= self.full_from:
            # As on a full disk: lines of metrics are still written, parameters are not.
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
        rows = [np.random.default_rng((self.seed, i)).normal(size=WIDTH) for i in indices]
        poison = [self.poison_from is not None and i >= self.poison_from for i in indices]
        return {
            "vector": np.asarray(rows, np.float32),
            "poison": np.where(poison, np.nan, 0.0).astype(np.float32),
        }

    def describe(self, index: int) -> dict[str, Any]:
        return {"toy": index}


def loss_for(variant: str) -> Any:
    """Cross-entropy of a linear classifier whose weights a linear map predicts."""
    scale = 1.0 + int(variant[-1])

    def loss_fn(theta, networks, images, labels, rng):
        del rng
        features = images.reshape(images.shape[0], -1)[:, :48]  # [b, 48]
        vectors = networks["vector"] + networks["poison"][:, None]
        kernels = jnp.einsum("mw,wfc->mfc", vectors, theta["kernel"]) + theta["bias"][None]
        logits = scale * jnp.einsum("bf,mfc->mbc", features, kernels)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[None, :, None], axis=-1)
        hits = jnp.argmax(logits, axis=-1) == labels[None]
        net_loss = -picked[..., 0].mean(axis=1)
        return net_loss.mean(), {"accuracy": hits.mean(), "net_loss": net_loss}

    return loss_fn


def theta() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "kernel": rng.normal(size=(WIDTH, 48, 10)).astype(np.float32) * 0.05,
        "bias": np.zeros((48, 10), np.float32),
    }


def settings(**changes: Any) -> TrainConfig:
    base = TrainConfig(
        dataset="digits",
        meta_batch_size=8,
        batch_size=16,
        steps=24,
        average_decay=0.8,
        steps_per_dispatch=2,
        checkpoint_every=6,
        log_every=4,
        probe_archs=16,
        max_variants=1,
        arch_workers=0,
        num_devices=1,
        compilation_cache=None,
    )
    return dataclasses.replace(base, **changes)


def task(config: TrainConfig, networks: ToyNetworks | None = None, **changes: Any) -> Task:
    images = batches.training_images(config.dataset, config.batch_size, config.seed)
    record = {"ghn": {}, "metadata": {"dataset": config.dataset}}
    networks = networks or ToyNetworks()

    def make_driver(settings, topology):
        return ExecutorDriver(loss_for, images.load, settings, topology)

    return dataclasses.replace(Task(networks, make_driver, images, theta(), record), **changes)


def main(argv: Sequence[str]) -> None:
    from ppuda_jax.training.loop import train

    workdir, flags = argv[0], dict(a.removeprefix("--").split("=", 1) for a in argv[1:])
    poison, slow = flags.pop("poison_from", None), float(flags.pop("slow", 0))
    full = flags.pop("full_from", None)
    networks = ToyNetworks(
        poison_from=int(poison) if poison else None,
        slow=slow,
        full_from=int(full) if full else None,
    )
    config = config_lib.override(settings(workdir=workdir), flags)
    result = train(config, task(config, networks))
    print("RESULT", result.step, result.reason, result.programs, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
