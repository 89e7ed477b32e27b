"""Settings of a meta-training run; the defaults are the published recipe for CIFAR-10.

Parameter Prediction for Unseen Deep Architectures, appendix C.1: Adam 1e-3 with an L2 penalty of
1e-5 inside, gradients clipped at norm 5, the rate divided by ten after 200 and 250 of 300 epochs,
64 images and 8 networks a step.
"""

import dataclasses
import math
from typing import Any, Literal

import numpy as np

from ppuda_jax.config import check_types, described
from ppuda_jax.training.terms import TERMS, Terms, parse_terms

Schedule = Literal["multistep", "cosine", "constant"]
"""How the learning rate changes over the steps."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a run computes, and how it is watched and saved."""

    dataset: str = described(
        "cifar10", "images to train on: digits, a name of TFDS, folder:PATH or npz:PATH"
    )
    data_dir: str | None = described(
        None, "TFDS folder with the prepared dataset; without it TFDS downloads to its own"
    )
    image_size: Literal[32, 224] | None = described(
        None, "side that images are resized to; imagenet's is 224, that of others 32"
    )
    flip: bool | None = described(
        None, "mirror half of the training images; by default where they have colours"
    )
    model: Literal["ghn2", "ghn1", "mlp"] = described("ghn2", "hypernetwork")
    hidden: int = described(32, "width of the hypernetwork (D); 32 as published")
    meta_batch_size: int = described(8, "networks per step, over all devices")
    batch_size: int = described(64, "images per step, shared by the networks of the step")
    epochs: int = described(300, "passes over the training images; `steps` takes precedence")
    steps: int | None = described(None, "updates to run, instead of `epochs`")
    time_limit_s: float | None = described(
        None,
        "stop after this many seconds of training (without start-up, validation and saving); the "
        "schedule then follows the clock",
    )
    change_length: bool = described(
        False,
        "resume although steps, epochs or time_limit_s changed: the learning rate then follows the "
        "new length, and a longer run raises it again",
    )
    session_limit_s: float | None = described(
        None, "save and stop this session after so many seconds, compilation included"
    )
    learning_rate: float = described(1e-3, "Adam's rate before the schedule")
    head_rate: float = described(
        1.0, "factor on the rate of the class heads; above 1 where a given GHN learns other classes"
    )
    weight_decay: float = described(1e-5, "L2 penalty, added to the gradient before Adam")
    grad_clip: float = described(5.0, "global gradient norm above which it is scaled down")
    label_smoothing: float = described(0.0, "share of each target spread over all classes")
    lr_schedule: Schedule = described("multistep", "how the rate falls over the run")
    lr_milestones: tuple[float, ...] = described(
        (2 / 3, 5 / 6), "multistep: fractions of the run after which the rate drops"
    )
    lr_drop: float = described(0.1, "multistep: factor of each drop")
    lr_warmup: float = described(0.0, "fraction of the run with a linearly rising rate")
    average_decay: float = described(
        0.0, "decay per step of the running average of theta that is evaluated; 0 for none"
    )
    stratified: bool = described(
        False, "spread the classes evenly over each pass over the images, and so over each step"
    )
    init_from: str | None = described(
        None, "GHN whose theta a new run starts from: a shipped name, a run's folder or a .pt file"
    )
    teacher: str | None = described(
        None,
        "folder of trained networks, made by experiments.train_zoo, or one file of it. "
        "Architectures are then drawn from the folder, as each needs a trained network of its own; "
        "a single file teaches all architectures by its logits (distill)",
    )
    teacher_terms: tuple[str, ...] = described(
        (),
        f"terms of the objective with their weights, such as distill:1,regress:0.1, of "
        f"{', '.join(TERMS)}; that of the task is 1 if it is not given. reptile and norm need no "
        "teacher",
    )
    temperature: float = described(4.0, "distill: that both networks' logits are divided by")
    scale_free: bool = described(
        False, "regress: compare the directions alone of filters before a norm"
    )
    teacher_held_out: float = described(0.1, "share of the teachers' architectures left out")
    reptile_steps: int = described(3, "reptile: steps of SGD from the predicted parameters (k)")
    reptile_rate: float = described(0.01, "reptile: their learning rate")
    compute_dtype: Literal["float32", "bfloat16"] = described(
        "float32", "type of the target networks' activations"
    )
    seed: int = described(1111, "seed of theta, architectures, image order and augmentation")
    max_nodes: int = described(
        2200,
        "meta-batches with more graph nodes are skipped; the published limit of 8 networks, "
        "more networks get as many nodes each",
    )
    arch_file: str | None = described(
        None, "DeepNets-1M HDF5 file to draw networks from, instead of sampling them"
    )
    bnfree_share: float = described(
        0.0, "share of sampled networks made to have no norm, which 3 % have of themselves"
    )
    max_variants: int | None = described(
        None, "train on the most frequent executor variants only; others are skipped and counted"
    )
    variant_balance: float = described(
        0.0,
        "evens out how often variants occur: 0 leaves the published distribution, 1 trains "
        "on as many networks of each variant found at start-up",
    )
    probe_archs: int = described(
        512, "architectures drawn at start-up to find the variants to compile, or to choose"
    )
    arch_workers: int | None = described(
        None, "processes that sample and build networks; 0 builds in the training process"
    )
    num_devices: int | None = described(None, "devices to use; all of them if not given")
    driver: Literal["auto", "host", "executor"] = described(
        "auto",
        "what runs the networks: `host` step by step, compiling small functions that all share as "
        "they come, the default on one CPU device; `executor` as data of one program per variant, "
        "compiled before the first step, the default on accelerators and several devices",
    )
    steps_per_dispatch: int = described(1, "updates run in one call of the compiled program")
    compile_threads: int | None = described(None, "programs compiled at the same time")
    compile_ahead: int = described(
        1,
        "dispatches whose networks are compiled for before the first step; with more of them it "
        "comes later, and fewer steps wait after it",
    )
    compilation_cache: str | None = described(
        "~/.cache/ppuda_jax/xla", "folder of compiled programs; `none` switches it off"
    )
    workdir: str | None = described(None, "checkpoints and metrics; a run found there is resumed")
    checkpoint_every: int = described(1000, "steps between checkpoints")
    eval_every: int = described(0, "steps between evaluations on validation data; 0 for none")
    log_every: int = described(50, "steps between lines of metrics")
    max_nonfinite: int = described(50, "skipped updates in a row after which the run stops")

    def __post_init__(self) -> None:
        check_types(self)
        positive = (
            "hidden",
            "meta_batch_size",
            "batch_size",
            "epochs",
            "max_nodes",
            "steps_per_dispatch",
            "checkpoint_every",
            "log_every",
            "max_nonfinite",
            "learning_rate",
            "head_rate",
            "grad_clip",
            "probe_archs",
            "temperature",
            "reptile_steps",
            "reptile_rate",
        )
        for name in positive:
            _require(getattr(self, name) > 0, name, "must be above zero", getattr(self, name))
        for name in (
            "steps",
            "time_limit_s",
            "session_limit_s",
            "max_variants",
            "num_devices",
            "compile_threads",
            "compile_ahead",
        ):
            value = getattr(self, name)
            _require(value is None or value > 0, name, "must be above zero", value)
        for name in ("weight_decay", "eval_every", "seed"):
            _require(getattr(self, name) >= 0, name, "must not be negative", getattr(self, name))
        if self.arch_workers is not None:
            _require(
                self.arch_workers >= 0, "arch_workers", "must not be negative", self.arch_workers
            )
        _require(0 <= self.lr_warmup < 1, "lr_warmup", "is a fraction of the run", self.lr_warmup)
        _require(
            0 <= self.average_decay < 1, "average_decay", "must be in [0, 1)", self.average_decay
        )
        _require(
            0 <= self.variant_balance <= 1,
            "variant_balance",
            "must be in [0, 1]",
            self.variant_balance,
        )
        _require(
            0 <= self.bnfree_share <= 1, "bnfree_share", "must be in [0, 1]", self.bnfree_share
        )
        smoothing = self.label_smoothing
        _require(0 <= smoothing < 1, "label_smoothing", "must be in [0, 1)", smoothing)
        _require(0 < self.lr_drop <= 1, "lr_drop", "must be in (0, 1]", self.lr_drop)
        marks = self.lr_milestones
        _require(
            all(0 < m < 1 for m in marks) and list(marks) == sorted(marks),
            "lr_milestones",
            "are rising fractions of the run, between 0 and 1",
            marks,
        )

        held_out = self.teacher_held_out
        _require(0 <= held_out < 1, "teacher_held_out", "must be in [0, 1)", held_out)
        self._check_teacher()

    @property
    def terms(self) -> Terms:
        """The objective's terms."""
        return parse_terms(self.teacher_terms)

    def _check_teacher(self) -> None:
        taught = self.terms.taught
        if taught and self.teacher is None:
            raise ValueError(
                f"teacher_terms {', '.join(taught)} need trained networks: pass --teacher=DIR, a "
                "folder that experiments.train_zoo made"
            )
        if self.teacher is not None and not self.teacher_terms:
            raise ValueError(
                f"teacher={self.teacher!r} teaches nothing without terms: pass "
                "--teacher_terms=distill:1, regress:0.1 or both, or task:1 to draw its "
                "architectures alone"
            )
        if self.teacher is not None and (self.arch_file is not None or self.bnfree_share):
            raise ValueError(
                "architectures are drawn from the teachers, so leave out arch_file and "
                f"bnfree_share, received {self.arch_file!r} and {self.bnfree_share}"
            )

    def total_steps(self, num_images: int) -> int:
        """Updates in the whole run, a multiple of `steps_per_dispatch` (rounded up)."""
        steps = self.steps
        if steps is None:
            steps = self.epochs * math.ceil(num_images / self.batch_size)
        return math.ceil(steps / self.steps_per_dispatch) * self.steps_per_dispatch


def _require(condition: bool, name: str, rule: str, received: Any) -> None:
    if not condition:
        raise ValueError(f"TrainConfig.{name} {rule}, received {received!r}")


def learning_rate(config: TrainConfig, progress: float) -> float:
    """Learning rate at a fraction of the run, `progress` in [0, 1].

    The published milestones are fractions too: epochs 200 and 250 of 300.
    """
    if progress < config.lr_warmup:
        return config.learning_rate * max(progress, 1e-3) / config.lr_warmup
    if config.lr_schedule == "constant":
        return config.learning_rate
    if config.lr_schedule == "cosine":
        rest = (progress - config.lr_warmup) / (1 - config.lr_warmup)
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(rest, 1.0)))
    passed = int(np.sum(np.asarray(config.lr_milestones) <= progress))
    return config.learning_rate * config.lr_drop**passed
