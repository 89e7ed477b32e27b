"""The embedded default: scikit-learn's digits, a GHN-2, a few minutes on two CPU cores.

    python -m experiments.train

Needs no files and no network. It shows the whole path, not a good hypernetwork: use CIFAR-10 for
that.
"""

from ppuda_jax.training.config import TrainConfig


def recipe() -> TrainConfig:
    """Settings of the run."""
    return TrainConfig(
        dataset="digits",
        meta_batch_size=2,
        batch_size=32,
        steps=300,
        learning_rate=2e-3,
        lr_schedule="cosine",
        max_variants=1,
        probe_archs=64,
        checkpoint_every=50,
        log_every=10,
    )
