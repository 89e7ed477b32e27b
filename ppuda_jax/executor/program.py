"""From a plan to a program: integer instructions on registers and tables of parameter rows.

A program is data (NumPy); `run.py` interprets it. Every value of the network gets a register
of its stage's file; the states that a cell concatenates get neighbouring ones, so that a 1x1
convolution over the concatenation reads them side by side. Sums vanish: each edge adds to the
register of its state.

Rows of the parameter tables are numbered in the order in which the backward pass meets them,
because it writes gradients in fixed-size blocks whose tails may spill over rows still to come.
"""

import dataclasses
import functools
from collections.abc import Mapping

from ppuda_jax.archs.op_params import op_params
from ppuda_jax.archs.plan import Op, Plan
from ppuda_jax.executor.columns import HeadCode, Instruction, MatRow, StemCode, VecRow
from ppuda_jax.executor.layout import (
    STEM_KERNELS,
    STEM_MATS,
    STEM_VECS,
    Group,
    Variant,
    layout_of,
)
from ppuda_jax.executor.row_tables import RowTables
from ppuda_jax.executor.variants import UnsupportedPlanError, variant_of


@dataclasses.dataclass(frozen=True)
class Program:
    """One network as data.

    Attributes:
      variant: the compiled class that runs it.
      plan: the network.
      forward: group -> its instructions in order.
      backward: group -> its gradient instructions: the same, in reverse, and with one per source
        inside a file.
      mat_rows: table -> its rows of matrices.
      vec_rows: table -> its rows of vectors.
      stem: how the network begins.
      head: how it ends.
      norm: whether the network has norms.
      registers: file -> registers in use.
    """

    variant: Variant
    plan: Plan
    forward: Mapping[str, Instruction]
    backward: Mapping[str, Instruction]
    mat_rows: Mapping[str, MatRow]
    vec_rows: Mapping[str, VecRow]
    stem: StemCode
    head: HeadCode
    norm: bool
    registers: Mapping[str, int]


def make_program(plan: Plan, variant: Variant | None = None) -> Program:
    """Compiles a plan to a program.

    Args:
      plan: the network.
      variant: the class to compile for, by default `variant_of(plan)`.

    Returns:
      The program.

    Raises:
      UnsupportedPlanError: see `variant_of`.
    """
    return _Compiler(plan, variant or variant_of(plan)).program()


class _Compiler:
    """Assigns registers, emits instructions, then numbers parameter rows."""

    def __init__(self, plan: Plan, variant: Variant) -> None:
        self.plan, self.variant, self.layout = plan, variant, layout_of(variant)
        self.next_register = dict.fromkeys(self.layout.files, 0)
        self.next_register["s0"] = variant.stem_slots
        # value -> (file, first register, number of registers)
        self.place: dict[int, tuple[str, int, int]] = {}
        self.code: dict[str, list[tuple[int, int, int, Op | None]]] = {
            group.name: [] for group in self.layout.groups
        }
        self.groups = {group.name: group for group in self.layout.groups}
        self.first_param, total = {}, 0
        for op in plan.ops:
            self.first_param[op.output] = total
            total += len(op_params(op))
        self.consumers: dict[int, list[Op]] = {}
        for op in plan.ops:
            for value in op.inputs:
                self.consumers.setdefault(value, []).append(op)
        reductions = sorted(plan.config.reduction_cells)
        one = variant.stages == 1
        self.stage_of = [
            0 if one else sum(r <= cell for r in reductions)
            for cell in range(plan.config.n_cells + 1)
        ]
        self.reductions = set(reductions)
        self.stem_ops: list[Op] = []
        self.taken_over: dict[int, int] = {}

    def program(self) -> Program:
        """Returns the finished program."""
        self.reserve_concats()
        for op in self.plan.ops:
            self.emit(op)
        self.check_room()
        return self.finish()

    def allocate(self, file: str, count: int = 1) -> int:
        first = self.next_register[file]
        self.next_register[file] += count
        return first

    def reserve_concats(self) -> None:
        """Gives concatenated states neighbouring registers before anything is emitted."""
        self.reserved: dict[int, tuple[str, int, int]] = {}
        self.copies: dict[int, list[tuple[int, str, int]]] = {}
        for op in self.plan.ops:
            if op.kind != "concat":
                continue
            file = f"s{self.stage_of[op.cell]}"
            first = self.allocate(file, len(op.concat_slots))
            self.place[op.output] = (file, first, len(op.concat_slots))
            for slot, value in enumerate(op.concat_slots):
                if value is None:
                    continue
                made_here = self._maker(value).cell == op.cell and not self._is_input(value)
                if made_here and value not in self.reserved:
                    self.reserved[value] = (file, first + slot, 1)
                else:
                    self.copies.setdefault(op.output, []).append((value, file, first + slot))

    def _maker(self, value: int) -> Op:
        return self.makers[value]

    @functools.cached_property
    def makers(self) -> dict[int, Op]:
        return {op.output: op for op in self.plan.ops}

    def _is_input(self, value: int) -> bool:
        return "preprocess" in self._maker(value).name

    def target(self, op: Op) -> tuple[str, int, int]:
        """Register of an operation's output: its sum's if it is used once, in that sum."""
        users = self.consumers.get(op.output, [])
        if (
            op.output not in self.reserved
            and len(users) == 1
            and users[0].kind == "sum"
            and "._ops." in op.name
        ):
            return self.target(users[0])
        if op.output not in self.place:
            file = f"s{self.stage_of[op.cell]}"
            self.place[op.output] = self.reserved.get(op.output) or (file, self.allocate(file), 1)
        return self.place[op.output]

    def append(self, group: str, name: str, source: int, target: int, op: Op | None) -> None:
        self.code[group].append((self.groups[group].opcode[name], source, target, op))

    def emit(self, op: Op) -> None:
        """Emits the instructions of one operation of the plan."""
        if op.cell < 0 or (
            op.name == "cells.0.preprocess0" and op.kind in ("factorized_reduce", "subsample")
        ):
            self.emit_stem(op)
        elif op.cell >= self.plan.config.n_cells:
            return
        elif op.kind == "concat":
            for value, file, register in self.copies.get(op.output, []):
                self.copy(value, file, register)
        elif op.kind == "sum":
            file, register, _ = self.target(op)
            for value in op.inputs:
                maker = self._maker(value)
                if self.place.get(value) is None and "._ops." in maker.name:
                    continue  # it has been added where it was computed
                self.copy(value, file, register)
        elif "preprocess" in op.name:
            self.emit_preprocess(op)
        else:
            self.emit_edge(op)

    def copy(self, value: int, file: str, register: int) -> None:
        source_file, source, _ = self.place[value]
        if source_file != file:
            raise UnsupportedPlanError(
                "the executor adds maps of one stage only, received a sum "
                f"over {source_file} and {file}: run the Flax network."
            )
        self.append(f"cells{file[1:]}", "add", source, register, None)

    def emit_stem(self, op: Op) -> None:
        self.stem_ops.append(op)
        slots = max(op.c_out // self.variant.width, 1)
        register = 1 if op.name == "stem1.1" else 0
        self.place[op.output] = ("s0", register, slots)

    def emit_preprocess(self, op: Op) -> None:
        stage = self.stage_of[op.cell]
        file, source, slots = self.place[op.inputs[0]]
        halving = op.cell in self.reductions and not self.variant.attention
        kind = op.kind if op.kind == "subsample" else f"{op.kind}_{slots}"
        if file == f"s{stage}":
            target = self.target(op)
            name = "conv_1x1" if slots == 1 else kind
            self.append(f"cells{stage}", name, source, target[1], op)
            return
        if halving:
            register = self.allocate(f"m{stage}")
            self.place[op.output] = (f"m{stage}", register, 1)
            group = f"mid{stage}" if file == f"s{stage - 1}" else "skip2"
        else:
            register = self.target(op)[1]
            group = f"enter{stage}" if file == f"s{stage - 1}" else "skip2"
        self.append(group, kind, source, register, op)

    def emit_edge(self, op: Op) -> None:
        stage = self.stage_of[op.cell]
        value = op.inputs[0]
        file, source, _ = self.place[value]
        _, register, _ = self.target(op)
        if op.stride == 1:
            self.append(f"cells{stage}", op.kind, source, register, op)
            return
        if not file.startswith("m"):
            # Without preprocessing the edge reads the stage before: take the map over first.
            if value not in self.taken_over:
                self.taken_over[value] = self.allocate(f"m{stage}")
                self.append(f"mid{stage}", "copy", source, self.taken_over[value], None)
            source = self.taken_over[value]
        kind = "factorized_reduce_1" if op.kind == "factorized_reduce" else op.kind
        self.append(f"strided{stage}", kind, source, register, op)

    def check_room(self) -> None:
        for name, file in self.layout.files.items():
            slack = self.variant.max_concat if name.startswith("s") else 0
            if self.next_register[name] + slack > file.registers:
                raise UnsupportedPlanError(
                    f"the executor has {file.registers} registers in {name}, the network needs "
                    f"{self.next_register[name] + slack}: run the Flax network instead."
                )

    def finish(self) -> Program:
        """Numbers the parameter rows in backward order and packs everything."""
        rows = RowTables(self.layout, self.first_param)
        forward, backward = {}, {}
        for group in reversed(self.layout.groups):
            lines: list[Instruction] = []
            reverse: list[Instruction] = []
            norms = 0
            for opcode, source, target, op in reversed(self.code[group.name]):
                branch = group.branches[opcode]
                norms += branch.norm
                slot, norm = (norms, branch.vecs - 2) if branch.norm else (0, -1)
                line = Instruction(opcode, source, target, slot, norm, *rows.add(group, op))
                lines.append(line)
                reverse += _backward_lines(group, line)
            if norms >= group.norms:
                raise UnsupportedPlanError(
                    f"the executor has room for {group.norms - 1} norms in {group.name}, the "
                    f"network needs {norms}: run the Flax network instead."
                )
            forward[group.name] = Instruction.stack(lines[::-1])
            backward[group.name] = Instruction.stack(reverse)
        stem = self.finish_stem(rows)
        mats, vecs = rows.tables()
        value = next(op for op in self.plan.ops if op.cell >= self.plan.config.n_cells).inputs[0]
        _, register, slots = self.place[value]
        return Program(
            variant=self.variant,
            plan=self.plan,
            forward=forward,
            backward=backward,
            mat_rows=mats,
            vec_rows=vecs,
            stem=stem,
            head=HeadCode(register, slots, max(self.plan.config.fc_layers, 1)),
            norm=self.plan.config.norm is not None,
            registers=self.next_register,
        )

    def finish_stem(self, rows: RowTables) -> StemCode:
        mat, vec = rows.size("s0")
        config = self.plan.config
        if self.variant.attention:
            return StemCode(kind=0, mat=mat, vec=vec, preprocess=1)
        ops = {op.name: op for op in self.stem_ops}
        kind = STEM_KERNELS.index(config.ks) + (3 if config.stem_type else 0)
        wanted = (
            (("stem.0", 0, 2 * self.variant.simple_slots),)
            if config.stem_type == 0
            else (
                ("stem0.0", 0, 2),
                ("stem0.3", 9, 2),
                ("stem1.1", 9, 2),
                ("cells.0.preprocess0", 2, 2),
            )
        )
        for name, mats, vecs in wanted:
            op = ops.get(name)
            if op is not None and op.kind == "subsample":
                op = None
            rows.add_stem(op, mats, vecs)
        rows.pad_stem(mat + STEM_MATS, vec + STEM_VECS)
        return StemCode(kind, mat, vec, preprocess=int(config.preproc))


def _backward_lines(group: Group, line: Instruction) -> list[Instruction]:
    """Gradient instructions of one instruction.

    Inside a file each writes the cotangent of one register, so that the registers of several
    sources need not be neighbours of free ones: a 1x1 over K sources becomes K of one source.
    """
    branch = group.branches[line.opcode]
    if not group.inner or branch.sources == 1:
        return [line]
    single = group.opcode["conv_1x1"]
    return [
        dataclasses.replace(line, opcode=single, source=line.source + k, mat=line.mat + k)
        for k in range(branch.sources)
    ]
