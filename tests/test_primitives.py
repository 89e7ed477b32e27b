"""The vocabulary is consistent, and its order is that of the published embeddings."""

from ppuda_jax.primitives import (
    CELL_OP_KERNELS,
    CELL_OPS,
    EDGE_OPS,
    OP_KINDS,
    PRIMITIVE_IDS,
    PRIMITIVES,
)


def test_order_of_the_embedding_rows():
    assert " ".join(PRIMITIVES) == (
        "max_pool avg_pool sep_conv dil_conv conv msa cse sum concat input bias bn ln pos_enc "
        "glob_avg"
    )
    assert [PRIMITIVES[PRIMITIVE_IDS[name]] for name in PRIMITIVES] == list(PRIMITIVES)


def test_operations():
    assert len(CELL_OPS) == 15 and tuple(CELL_OP_KERNELS) == CELL_OPS
    assert len(set(OP_KINDS)) == len(OP_KINDS) and set(EDGE_OPS) < set(OP_KINDS)
    for op, kernel in CELL_OP_KERNELS.items():
        assert kernel == 0 or str(kernel) in op
