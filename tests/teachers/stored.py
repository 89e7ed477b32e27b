"""Zoos of networks that nobody trained."""

import numpy as np

from ppuda_jax.archs.plan import Plan
from ppuda_jax.data.spec import PUBLISHED, DatasetSpec
from ppuda_jax.teachers.record import TeacherRecord, save_teacher


def record_of(
    plan: Plan, index: int = 0, spec: DatasetSpec = PUBLISHED["digits"], **changes
) -> TeacherRecord:
    fields = {
        "split": "train",
        "index": index,
        "config": plan.config.to_dict(),
        "dataset": spec.to_metadata(),
        "seed": 0,
        "steps": 5,
        "epochs": 0.5,
        "accuracy": 0.5,
        "part": "val",
        "init": "he",
        "recipe": {"optimizer": "sgd"},
    }
    return TeacherRecord(**{**fields, **changes})


def random_leaves(plan: Plan, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [0.1 * rng.standard_normal(spec.shape).astype(np.float32) for spec in plan.params]


def save_zoo(folder, plans, **changes) -> list[TeacherRecord]:
    records = [record_of(plan, number, **changes) for number, plan in enumerate(plans)]
    for record, plan in zip(records, plans, strict=True):
        save_teacher(folder, record, random_leaves(plan, record.index))
    return records
