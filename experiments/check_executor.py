"""Compares the executor with the Flax network of each plan, over many architectures.

    python -m experiments.check_executor --num_archs=200

Architectures are taken from all splits by turns, at the width of `--width`; those of the most
frequent executor variants are kept, one compilation each. The Flax networks run operation by
operation. In float64 by default: with random weights some deep networks amplify the rounding of
float32 a thousandfold, which hides real differences. Exits with 1 if a deviation, relative to the
largest logit or gradient of the network, is above 1e-5 (logits) or 1e-4 (gradients).
"""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from experiments import flags
from ppuda_jax.config import check_types, described
from ppuda_jax.runtime.progress import say
from ppuda_jax.types import ParamSpec

_LOGITS, _GRADIENTS = 1e-5, 1e-4


@dataclasses.dataclass(frozen=True)
class CheckConfig:
    """What is compared; every field is a flag."""

    num_archs: int = described(200, "architectures to compare")
    max_variants: int = described(6, "executor variants to compile")
    width: int = described(32, "channels of the first stage of every network")
    batch_size: int = described(2, "images")
    float64: bool = described(True, "compute in double precision")

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("num_archs", "max_variants", "width", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, received {getattr(self, name)}")


def run(values: CheckConfig) -> flags.Report:
    """Compares; returns what was found, of status 1 at a deviation."""
    import jax

    jax.config.update("jax_enable_x64", values.float64)
    chosen = choose(values.num_archs, values.max_variants, values.width)
    counts: collections.Counter[str] = collections.Counter()
    worst, rows, apart = np.zeros(2), [], []
    for variant, items in chosen.items():
        deviations = np.array(list(compare(variant, items, values.batch_size)))
        for (name, plan), (logits, gradients) in zip(items, deviations, strict=True):
            counts.update(features(plan))
            if not (logits <= _LOGITS and gradients <= _GRADIENTS):
                apart.append(f"{name}: logits {logits:.1e}, gradients {gradients:.1e}")
        worst = np.maximum(worst, deviations.max(axis=0))
        logits, gradients = deviations.max(axis=0)
        rows.append([str(variant), len(items), f"{logits:.1e}", f"{gradients:.1e}"])
        say(f"{variant}: {len(items)} networks compared")
    total = sum(map(len, chosen.values()))
    rows.append(["all", total, *(f"{value:.1e}" for value in worst)])
    header = ["variant", "networks", "logits", "gradients"]
    return flags.report(
        flags.table(header, rows, "largest deviations"),
        *apart,
        "",
        flags.table(["option", "networks with it"], sorted(counts.items())),
        status=int(not (worst[0] <= _LOGITS and worst[1] <= _GRADIENTS)),
    )


def choose(count: int, max_variants: int, width: int) -> dict[Any, list[tuple[str, Any]]]:
    """Networks (name, plan) by executor variant, the splits by turns."""
    from ppuda_jax.archs.plan import make_plan
    from ppuda_jax.archs.sampling import arch_at
    from ppuda_jax.archs.splits import SPLITS
    from ppuda_jax.executor.variants import variant_of

    def plans() -> Iterator[tuple[str, Any]]:
        for index in itertools.count():
            for split in SPLITS:
                config = arch_at(split, index)
                config = dataclasses.replace(config, C=width, fc_dim=min(config.fc_dim, 256))
                yield f"{split}[{index}]", make_plan(config)

    stream = plans()
    first = list(itertools.islice(stream, 4 * count))
    frequent = collections.Counter(variant_of(plan) for _, plan in first)
    kept = {variant: [] for variant, _ in frequent.most_common(max_variants)}
    fitting = (
        (name, plan) for name, plan in itertools.chain(first, stream) if variant_of(plan) in kept
    )
    for name, plan in itertools.islice(fitting, count):
        kept[variant_of(plan)].append((name, plan))
    return {variant: items for variant, items in kept.items() if items}


def features(plan: Any) -> set[str]:
    """What occurs in a network: operations, stem, head, norm."""
    config = plan.config
    stem = "stem ViT" if config.is_vit else f"stem type {config.stem_type}, kernel {config.ks}"
    head = f"head {'pool' if config.glob_avg else 'flatten'}, {config.fc_layers} layers"
    return {op.kind for op in plan.ops} | {
        stem,
        head,
        f"norm {config.norm}",
        f"preprocessing {config.preproc}",
    }


def compare(
    variant: Any, items: list[tuple[str, Any]], batch: int
) -> Iterator[tuple[float, float]]:
    """Relative deviations (logits, gradients) of each network."""
    import jax
    import jax.numpy as jnp
    import optax

    from ppuda_jax.executor import run
    from ppuda_jax.executor.program import make_program
    from ppuda_jax.executor.tables import Capacity, pack_params, rows_needed, stack_programs
    from ppuda_jax.nets.network import Network

    dtype = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32
    size = variant.image_size
    images = jax.random.normal(jax.random.key(0), (batch, size, size, 3), dtype)
    labels = jnp.arange(batch) % 10
    programs = [make_program(plan, variant) for _, plan in items]
    needs = [rows_needed([program]) for program in programs]
    capacity = Capacity(
        *(
            tuple(
                (name, max(dict(getattr(need, kind))[name] for need in needs))
                for name, _ in getattr(needs[0], kind)
            )
            for kind in ("mats", "vecs")
        )
    )

    def flax_loss(net: Network, params: Any) -> tuple[Any, Any]:
        out = net.apply({"params": params}, images)
        return optax.softmax_cross_entropy_with_integer_labels(out, labels).mean(), out

    @jax.jit
    def executor(tables: Any, program: Any) -> tuple[Any, Any]:
        gradient = jax.grad(lambda t: run.mean_loss(variant, t, program, images, labels, None)[0])
        return run.logits(variant, tables, program, images)[0], gradient(tables)

    for (_, plan), program in zip(items, programs, strict=True):
        params = random_params(plan, len(plan.params))
        tables = as_dtype(pack_params([program], [params], capacity), dtype)
        logits, gradient = jax.device_get(executor(tables, stack_programs([program])))

        loss = functools.partial(flax_loss, Network(plan))
        expected_gradient, expected = jax.grad(loss, has_aux=True)(as_dtype(params, dtype))
        packed = pack_params([program], [jax.device_get(expected_gradient)], capacity)
        yield (
            deviation([logits], [np.asarray(expected)]),
            deviation(jax.tree.leaves(gradient), jax.tree.leaves(packed)),
        )


def as_dtype(tree: Any, dtype: Any) -> Any:
    """The leaves of a pytree in another dtype."""
    import jax
    import jax.numpy as jnp

    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def random_params(plan: Any, seed: int = 0) -> dict[str, Any]:
    """A pytree of parameters for a plan's Flax network, scaled to keep activations near one."""
    rng = np.random.default_rng(seed)

    def draw(spec: ParamSpec) -> np.ndarray:
        leaf = rng.normal(size=spec.shape)
        if spec.role == "kernel":
            leaf *= np.sqrt(1.5 / np.prod(spec.shape[:-1]))
        else:
            leaf = (spec.role == "norm_scale") + 0.2 * leaf
        return leaf.astype(np.float32)

    return plan.as_tree(map(draw, plan.params))


def deviation(ours: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """Largest absolute difference, relative to the largest expected entry; nan stays nan."""
    pairs = [(a, b) for a, b in zip(ours, expected, strict=True) if b.size]
    scale = max(float(np.abs(b).max()) for _, b in pairs)
    return float(np.max([np.abs(a - b).max() for a, b in pairs])) / scale


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script."""
    flags.start(CheckConfig, run, __doc__, argv)


if __name__ == "__main__":
    main()
