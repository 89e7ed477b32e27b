"""The published recipe on CIFAR-10 (paper, appendix C.1).

    python -m experiments.train --dataset=cifar10 --data_dir=DIR --model=ghn2

300 epochs of 704 steps, 8 networks a step. The paper reports 66.9 % (GHN-2) and 51.4 % (GHN-1)
mean accuracy of predicted parameters on the test architectures; GHN-1 was trained with
`--model=ghn1 --meta_batch_size=1`.
"""

from ppuda_jax.training.config import TrainConfig


def recipe() -> TrainConfig:
    """Settings of the run."""
    return TrainConfig(dataset="cifar10")
