"""Which variant, the class of networks that one compiled program runs, a plan belongs to."""

import dataclasses
from collections import Counter

from ppuda_jax.archs.plan import Plan
from ppuda_jax.executor.layout import NORMED, Variant, layout_of


class UnsupportedPlanError(ValueError):
    """The executor has no variant for a plan; the Flax network of the plan still runs it."""


def variant_of(plan: Plan) -> Variant:
    """The compiled class that runs a plan.

    Args:
      plan: any network of DeepNets-1M.

    Returns:
      Its variant.

    Raises:
      UnsupportedPlanError: fewer than three cells, more than 10 concatenated states, or a head
        that is deeper or wider than the variant's.
    """
    config = plan.config
    stages = 1 if config.is_vit and config.C_mult == 1 else 3
    if stages == 3 and config.n_cells < 3:
        raise UnsupportedPlanError(
            f"the executor needs at least 3 cells, received "
            f"{config.n_cells}: run the Flax network instead."
        )
    if config.is_vit:
        size = 11 if plan.image_size == 32 else 14
    else:
        full = plan.image_size if plan.image_size == 32 else plan.image_size // 4
        halved = config.stem_type == 1 or config.stem_pool
        size = full // 2 if halved else full
    concat = max(len(config.genotype.normal_concat), len(config.genotype.reduce_concat))
    edges = max(len(config.genotype.normal), len(config.genotype.reduce))
    if concat > 10:
        raise UnsupportedPlanError(
            f"the executor concatenates at most 10 states, received "
            f"{concat}: run the Flax network instead."
        )
    variant = Variant(
        size,
        config.C_mult,
        config.C,
        config.is_vit,
        not config.glob_avg,
        image_size=plan.image_size,
    )
    layout = layout_of(variant)
    inputs = 2 if config.preproc else 0
    cells = config.n_cells if stages == 1 else -(-(config.n_cells + 2) // 3)
    registers = (inputs + edges // 2) * cells + variant.stem_slots + 5
    norms = _most_norms(plan, stages)
    inner = next(group for group in layout.groups if group.inner)
    if (
        concat > variant.max_concat
        or registers > layout.files["s0"].registers
        or norms >= inner.norms
    ):
        variant = dataclasses.replace(variant, large=True)
    hidden = config.fc_dim if config.fc_layers > 1 else 0
    if config.fc_layers > 2 or hidden > variant.hidden:
        raise UnsupportedPlanError(
            f"the executor's heads have up to 2 layers of up to {variant.hidden} units, received "
            f"{config.fc_layers} layers of {hidden}: run the Flax network instead."
        )
    return variant


def find_variant(plan: Plan) -> Variant | None:
    """The compiled class that runs a plan; None if there is none, see `variant_of`."""
    try:
        return variant_of(plan)
    except UnsupportedPlanError:
        return None


def _most_norms(plan: Plan, stages: int) -> int:
    """Largest number of normalised results in a stage."""
    reductions = sorted(plan.config.reduction_cells) if stages > 1 else ()
    counts = Counter(
        sum(r <= op.cell for r in reductions)
        for op in plan.ops
        if 0 <= op.cell < plan.config.n_cells and op.kind.startswith(NORMED)
    )
    return max(counts.values(), default=0)
