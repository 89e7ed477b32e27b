"""The published recipe on ImageNet (paper, appendix C.1).

    python -m experiments.train --dataset=imagenet --data_dir=DIR --model=ghn2

150 epochs (of 300 planned), the rate divided by ten after 100 and 140 of them; 256 images and 8
networks a step.
"""

from ppuda_jax.training.config import TrainConfig


def recipe() -> TrainConfig:
    """Settings of the run."""
    return TrainConfig(
        dataset="imagenet",
        batch_size=256,
        epochs=150,
        label_smoothing=0.1,
        lr_milestones=(100 / 150, 140 / 150),
    )
