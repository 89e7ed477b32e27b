"""What an evaluation found: one record per network, their summary, and the file they are kept in.

Accuracies are fractions. The file has a line that says what was evaluated, and one per network;
it is replaced whole, so that it is never half written.
"""

import csv
import dataclasses
import io
import json
import math
import os
import pathlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from ppuda_jax import config


@dataclasses.dataclass(frozen=True)
class NetResult:
    """The result of one network.

    Attributes:
      split: its split.
      index: its number there.
      name: its name.
      num_params: scalars that were predicted.
      top1: accuracy.
      top5: how often the label is among the five largest logits.
      loss: mean cross-entropy.
      num_images: images it was evaluated on.
      predict_s: seconds to predict (or draw) its parameters.
      run_s: seconds to run it on all images.
      compile_s: seconds it waited for compilation, about 0 if its programs were there.
      runner: "executor", or "network" for its own compiled Flax network.
      reason: why the executor did not run it; empty if it did.
      fingerprint: of the network (`EvalNet.fingerprint`).
    """

    split: str
    index: int
    name: str
    num_params: int
    top1: float
    top5: float
    loss: float
    num_images: int
    predict_s: float
    run_s: float
    compile_s: float
    runner: str
    reason: str = ""
    fingerprint: str = ""

    @property
    def key(self) -> tuple[str, int, str]:
        """What tells it from others; another network of the same name has another fingerprint."""
        return self.split, self.index, self.fingerprint

    @property
    def finite(self) -> bool:
        """Whether the network's loss is a number."""
        return math.isfinite(self.loss)


@dataclasses.dataclass(frozen=True)
class Summary:
    """Mean, standard error and maximum of accuracies over networks.

    Attributes:
      count: networks.
      top1, top1_se, top1_max: accuracy.
      top5, top5_se: top-5 accuracy.
      not_finite: networks without a finite loss.
      through_executor: networks that the executor ran.
      predict_s, run_s: mean seconds per network.
    """

    count: int
    top1: float
    top1_se: float
    top1_max: float
    top5: float
    top5_se: float
    not_finite: int
    through_executor: int
    predict_s: float
    run_s: float


def summarise(results: Sequence[NetResult]) -> Summary:
    """Summarises results.

    Raises:
      ValueError: no results.
    """
    if not results:
        raise ValueError("a summary needs at least one result, received none")
    top1, top1_se = mean_and_error([r.top1 for r in results])
    top5, top5_se = mean_and_error([r.top5 for r in results])
    return Summary(
        count=len(results),
        top1=top1,
        top1_se=top1_se,
        top1_max=max(r.top1 for r in results),
        top5=top5,
        top5_se=top5_se,
        not_finite=sum(not r.finite for r in results),
        through_executor=sum(r.runner == "executor" for r in results),
        predict_s=mean_and_error([r.predict_s for r in results])[0],
        run_s=mean_and_error([r.run_s for r in results])[0],
    )


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error (0 for a single value)."""
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, 0.0
    variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def table_row(
    groups: Mapping[str, Sequence[NetResult]], metric: str
) -> dict[str, tuple[float, float | None]]:
    """A row of the paper's Table 3: accuracy in % and its standard error, by column.

    Args:
      groups: results by split; the split "predefined" becomes the columns "resnet50" and "vit".
      metric: "top1" or "top5".

    Returns:
      Column -> (accuracy, error); None where the column is a single number.
    """
    cells: dict[str, tuple[float, float | None]] = {}
    for split, results in groups.items():
        values = [100 * getattr(result, metric) for result in results]
        if split == "predefined":
            for result, value in zip(results, values, strict=True):
                cells["resnet50" if result.index == 0 else "vit"] = value, None
            continue
        cells[split] = mean_and_error(values)
        if split == "test":
            cells["test max"] = max(values), None
    return cells


class Record(Protocol):
    """A dataclass of JSON-ready fields."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def key(self) -> Hashable:
        """What tells it from the other results of a file."""


R = TypeVar("R", bound=Record)


class ResultFile(Generic[R]):
    """Results in a JSONL file, a line each; interrupted work continues from it."""

    def __init__(
        self, path: str | os.PathLike[str], identity: Mapping[str, Any], record: type[R]
    ) -> None:
        """Opens or starts a file.

        Args:
          path: the file.
          identity: JSON-ready description of what is evaluated, the first line.
          record: what a line holds.

        Raises:
          ValueError: the file belongs to another evaluation, or is none.
        """
        self._path = pathlib.Path(path).expanduser()
        self._identity = json.loads(json.dumps(dict(identity)))
        self._record = record
        self._results: dict[Hashable, R] = {}
        if self._path.exists():
            self._read()

    def get(self, key: Hashable) -> R | None:
        """The result with this key, None if it is not there yet."""
        return self._results.get(key)

    def add(self, result: R) -> None:
        """Adds a result and writes the file."""
        self.extend([result])

    def extend(self, results: Iterable[R]) -> None:
        """Adds results and writes the file once."""
        self._results |= {result.key: result for result in results}
        lines = [self._identity, *map(dataclasses.asdict, self._results.values())]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        config.write_atomic(self._path, "".join(json.dumps(line) + "\n" for line in lines))

    def _read(self) -> None:
        first, results = read_results(self._path, self._record)
        if first != self._identity:
            differing = config.differences(first, self._identity)
            raise ValueError(
                f"{self._path} holds another evaluation ({'; '.join(differing)}): choose another "
                "output, or remove it"
            )
        self._results = {result.key: result for result in results}


def read_results(
    path: str | os.PathLike[str], record: type[R]
) -> tuple[Mapping[str, Any], list[R]]:
    """Reads a file of results.

    Args:
      path: the file.
      record: what a line holds.

    Returns:
      (what was evaluated, the results).

    Raises:
      ValueError: the file holds something else.
      FileNotFoundError: there is no file.
    """
    try:
        lines = pathlib.Path(path).read_text().splitlines(keepends=True)
        if len(lines) > 1 and not lines[-1].endswith("\n"):
            lines.pop()  # cut off, as by a copy that was interrupted: that result is computed again
        first, *rest = map(json.loads, lines)
        return dict(first), [record(**line) for line in rest]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no file of results ({error})") from error


def to_csv(results: Sequence[NetResult]) -> str:
    """Results as CSV text with a header."""
    text = io.StringIO()
    fields = [field.name for field in dataclasses.fields(NetResult)]
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(result) for result in results)
    return text.getvalue()
