"""Columns of records: packing, padding and joining keep every record in its place."""

import jax
import jax.numpy as jnp
import numpy as np

from ppuda_jax.executor.columns import HeadCode, Instruction, MatRow, VecRow

LINES = [(1, 2, 3, 4, 5, 6, 7), (8, 9, 10, 11, 12, 13, 14)]


def test_columns_hold_the_records_in_order():
    code = Instruction.of(LINES)
    assert len(code) == 2 and code.norm.dtype == np.int32
    assert [tuple(line.columns) for line in code] == LINES
    np.testing.assert_array_equal(code.packed(), LINES)
    assert code[1].mat == 13 and code[::-1].mat[0] == 13


def test_a_packed_line_is_read_by_name_on_the_device():
    packed = jnp.asarray(Instruction.of(LINES).packed())
    line = jax.jit(lambda table, i: Instruction.unpack(table[i]))(packed, 1)
    assert (int(line.opcode), int(line.vec)) == (8, 14)


def test_no_records_have_columns_too():
    assert len(MatRow.of([])) == 0 and MatRow.of([]).packed().shape == (0, 5)
    assert len(VecRow.join([])) == 0 and Instruction.stack([]).opcode.dtype == np.int32


def test_padding_marks_rows_as_unused():
    rows = VecRow.join([VecRow.of([(3, 0, 1, 64)]).padded(3), VecRow.of([(4, 0, 0, 0)])])
    np.testing.assert_array_equal(rows.param, [3, -1, -1, 4])
    np.testing.assert_array_equal(rows.first_out, [64, -1, -1, 0])


def test_codes_stack_along_networks():
    heads = HeadCode.stack([HeadCode(1, 2, 3), HeadCode(4, 5, 6)])
    np.testing.assert_array_equal(heads.states, [2, 5])
    assert len(jax.tree.leaves(heads)) == 3
