"""Running an experiment: what has to be measured, what is there already, and records of everything there is."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from graphalign.aligner import Aligner
from graphalign.errors import InvalidInput
from graphalign.experiments.generalisation.aligners import Source, digest
from graphalign.experiments.generalisation.case import Case, family_of, open_case
from graphalign.experiments.generalisation.columns import ROLE, Column
from graphalign.experiments.generalisation.measurement import joined, measure, seconds, tuned
from graphalign.experiments.generalisation.protocol import Protocol
from graphalign.experiments.generalisation.rows import Row
from graphalign.experiments.generalisation.store import Store
from graphalign.experiments.results import environment
from graphalign.zoo.manifest import Group
from graphalign.zoo.zoo import Zoo

TIMING = "timing"
"""Name under which the seconds of an architecture are selected like a column."""

Progress = Callable[[int, int, str], None]
"""Is told how many measurements are done, how many there are, and which one comes next."""


@dataclass(frozen=True)
class Timing:
    """Which seconds are measured.

    Attributes:
        rows: keys of the rows; all of them if empty.
        architectures: per family and row, the first ones.
        budget: see `measurement.seconds`.
    """

    rows: tuple[str, ...] = ()
    architectures: int = 1
    budget: float = 2.0


@dataclass(frozen=True)
class Selection:
    """What is measured in this run; an empty collection means all.

    Attributes:
        rows: keys of rows.
        families: of the networks.
        columns: names of columns; "timing" for the seconds.
    """

    rows: Collection[str] = ()
    families: Collection[str] = ()
    columns: Collection[str] = ()

    def has(self, row: Row, group: Group, column: str) -> bool:
        """Whether a measurement belongs to it."""
        wanted = ((self.rows, row.key), (self.families, family_of(group)), (self.columns, column))
        return all(not chosen or value in chosen for chosen, value in wanted)


@dataclass(frozen=True)
class Run:
    """An experiment on one machine.

    Attributes:
        zoo: the population.
        rows: of the table.
        columns: by name.
        sets: aligners by name of the set.
        protocol: how things are measured.
        store: where measurements are kept.
        root: of data sets that are not embedded.
        device: where everything is computed.
        timing: None if no seconds of single pairs are measured.
        protocols: of families that are not measured by `protocol`, because their networks cost more.
    """

    zoo: Zoo
    rows: Sequence[Row]
    columns: Mapping[str, Column]
    sets: Mapping[str, Sequence[Source]]
    protocol: Protocol
    store: Store
    root: str | os.PathLike[str] | None = None
    device: str = "cpu"
    timing: Timing | None = None
    protocols: Mapping[str, Protocol] = field(default_factory=dict)
    _loaded: dict[tuple[str, int], tuple[Aligner, str]] = field(default_factory=dict, repr=False, compare=False)

    def measure(self, only: Selection, progress: Progress = lambda done, total, what: None) -> None:
        """Measures what is selected and not in the store yet.

        Raises:
            InvalidInput: unknown names in the selection; aligners or networks that are missing.
            CorruptFile: files that cannot be read.
        """
        self._check(only)
        groups = {group.name: group for row in self.rows for group in row.groups(self.zoo)}
        wanted = {name: self._missing(group, only) for name, group in groups.items()}
        total, done = sum(map(len, wanted.values())), 0
        for name, tasks in wanted.items():
            if not tasks:
                continue
            progress(done, total, f"{name}: opening")
            case = open_case(self.zoo, groups[name], self._protocol(groups[name]), root=self.root, device=self.device)
            for task in tasks:
                progress(done, total, f"{name}: {task.label}")
                self._timed(case, task) if task.column is None else self._measured(case, task.column, task)
                done += 1
        progress(total, total, "done")

    def records(self) -> list[dict[str, Any]]:
        """All that is in the store, one record per row, architecture, column and aligner."""
        found = []
        for row in self.rows:
            for group in row.groups(self.zoo):
                for task in self._tasks(row, group):
                    kept = self.store.read(task.name, task.key) if task.column is not None else None
                    if task.column is not None and kept is not None:
                        head = {"row": row.name, "family": family_of(group), "architecture": group.name, "column": task.column.name}
                        found.append({**head, "aligner": task.source, **kept})
        return found

    def timings(self) -> list[dict[str, Any]]:
        """Seconds for single pairs that are in the store, one record per row and architecture."""
        found = []
        for row in self.rows:
            for group in row.groups(self.zoo):
                for task in self._tasks(row, group):
                    if task.column is None and (kept := self.store.read(task.name, task.key)) is not None:
                        found.append({"row": row.name, "family": family_of(group), "architecture": group.name, **kept})
        return found

    def _missing(self, group: Group, only: Selection) -> list[_Task]:
        tasks = {
            (task.name, str(task.key)): task
            for row in self.rows if group.name in {g.name for g in row.groups(self.zoo)}
            for task in self._tasks(row, group) if only.has(row, group, TIMING if task.column is None else task.column.name)
        }  # fmt: skip
        return [task for task in tasks.values() if self.store.find(task.name, task.key) is None]

    def _tasks(self, row: Row, group: Group) -> Iterator[_Task]:
        """The measurements of a group whose aligners are there."""
        common = {"protocol": asdict(self._protocol(group)), "networks": group.sha256, "device": self.device.split(":")[0]}
        timed, digests = [], []
        for column in self.columns.values():
            name = self._set(row, column)
            sources = range(len(self.sets[name])) if name is not None else (None,)
            for index in sources:
                if name is not None and index is not None and not self.sets[name][index].exists:
                    continue
                aligner, sha = self._aligner(name, index) if name is not None and index is not None else (None, None)
                label = f"{name} {index + 1}" if index is not None and name is not None else None
                key = {**common, "columns": [column.key(v) for v in column.variants], "aligner": sha}
                if not column.timed_only:
                    yield _Task(f"{group.name}/{column.name}", key, column, label, aligner)
                if index in (None, 0):
                    timed.append((column, aligner))
                    digests.append([column.name, column.key(column.variants[0]), sha])
        if self.timing is not None and self._is_timed(row, group, self.timing):
            yield _Task(f"{group.name}/{TIMING}", {**common, "columns": digests}, None, None, None, tuple(timed))

    def _protocol(self, group: Group) -> Protocol:
        return self.protocols.get(family_of(group), self.protocol)

    def _is_timed(self, row: Row, group: Group, timing: Timing) -> bool:
        first = [g.name for g in row.groups(self.zoo) if family_of(g) == family_of(group)][: timing.architectures]
        return group.name in first and (not timing.rows or row.key in timing.rows)

    def _set(self, row: Row, column: Column) -> str | None:
        return row.trained if column.aligner == ROLE else column.aligner

    def _aligner(self, name: str, index: int) -> tuple[Aligner, str]:
        if (name, index) not in self._loaded:
            aligner = self.sets[name][index].load()
            self._loaded[name, index] = (aligner.to(self.device), digest(aligner))
        return self._loaded[name, index]

    def _measured(self, case: Case, column: Column, task: _Task) -> None:
        """All pairs by the variant that is best on the first ones."""
        everything = list(range(len(case.pairs)))
        first = everything[: self._protocol(case.group).tuning_pairs] if len(column.variants) > 1 else everything
        tried = {}
        for variant in column.variants:
            name = ", ".join(f"{k} {v}" for k, v in variant.items())
            own = {**task.key, "columns": [column.key(variant)], "pairs": first}
            found = self.store.find(task.name, own) if len(column.variants) > 1 else None
            if found is None:
                found = measure(case, column, task.aligner, variant, first)
                if len(column.variants) > 1:
                    self.store.write(task.name, own, found)
            tried[name] = found
        best = tuned(tried)
        variant = column.variants[list(tried).index(best)]
        found = joined([tried[best], measure(case, column, task.aligner, variant, everything[len(first) :])])
        tuning = {name: round(statistics.fmean(f["figures"]["barrier"]), 5) for name, f in tried.items()} if len(tried) > 1 else {}
        psi = [round(statistics.fmean(values), 6) for values in zip(*found["psi"], strict=True)]
        where = environment()
        kept = {"pairs": len(case.pairs), "variant": best, "tuning": tuning, "trace_seconds": round(case.trace_seconds, 3)}
        self.store.write(task.name, task.key, {**found, **kept, "psi": psi, "revision": where["revision"], "device": self.device})

    def _timed(self, case: Case, task: _Task) -> None:
        assert self.timing is not None
        found = {name: float(f"{s:.4g}") for name, s in seconds(case, task.timed, self.timing.budget).items()}
        self.store.write(task.name, task.key, {"seconds": found, "trace_seconds": round(case.trace_seconds, 3), "device": self.device})

    def _check(self, only: Selection) -> None:
        known = {
            "rows": [row.key for row in self.rows],
            "families": sorted({family_of(g) for row in self.rows for g in row.groups(self.zoo)}),
            "columns": [*self.columns, TIMING],
        }
        problems = [
            f"only.{kind}: found {name!r}, expected some of {', '.join(names)}"
            for kind, names in known.items() for name in getattr(only, kind) if name not in names
        ]  # fmt: skip
        empty = [row.key for row in self.rows if (not only.rows or row.key in only.rows) and not row.groups(self.zoo)]
        if len(empty) == len([row for row in self.rows if not only.rows or row.key in only.rows]):
            sections = ", ".join(sorted({g.section for g in self.zoo.select(split="test")})) or "none"
            problems.append(f"rows: found no networks for {', '.join(empty)}, expected patterns of the test sections: {sections}")
        chosen = [c for c in self.columns.values() if not only.columns or c.name in only.columns]
        missing = {
            source.origin: f"aligners.{name}: found no aligner in {source.origin}, expected a folder with config.json; train it, or choose other rows or columns"
            for row in self.rows
            for column in chosen if any(only.has(row, g, column.name) for g in row.groups(self.zoo)) and (name := self._set(row, column)) is not None
            for source in self.sets[name] if not source.exists
        }  # fmt: skip
        if problems or missing:
            raise InvalidInput("experiment:\n" + "\n".join(f"  - {p}" for p in [*problems, *missing.values()]))


@dataclass(frozen=True)
class _Task:
    """A measurement: of a column, or of the seconds of all columns if `column` is None."""

    name: str
    key: dict[str, Any]
    column: Column | None
    source: str | None
    aligner: Aligner | None
    timed: tuple[tuple[Column, Aligner | None], ...] = ()

    @property
    def label(self) -> str:
        """For the progress."""
        return TIMING if self.column is None else f"{self.column.title}{f' ({self.source})' if self.source else ''}"
