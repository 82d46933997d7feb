"""Experiments of rows and columns: from a configuration to measurements, tables and figures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from graphalign.errors import InvalidInput
from graphalign.experiments.generalisation import figures, tables
from graphalign.experiments.generalisation.aligners import read_sources
from graphalign.experiments.generalisation.case import family_of
from graphalign.experiments.generalisation.columns import ROLE, read_columns
from graphalign.experiments.generalisation.findings import Findings
from graphalign.experiments.generalisation.goals import goal_tables
from graphalign.experiments.generalisation.protocol import read_protocols
from graphalign.experiments.generalisation.rows import FAMILIES, read_rows
from graphalign.experiments.generalisation.runs import Run, Selection, Timing
from graphalign.experiments.generalisation.store import Store
from graphalign.experiments.results import Table, environment
from graphalign.zoo.zoo import Zoo

KEYS = ("title", "zoo", "population", "aligners", "protocol", "protocols", "timing", "rows", "columns", "only", "again", "device", "report")
REPORT = ("goals", "ratios", "heat_map", "curves", "sample_sizes")


def read_run(content: Mapping[str, Any], zoo: Zoo, work: Path, root: str | os.PathLike[str] | None = None) -> tuple[Run, Selection]:
    """What a configuration measures, and what of it now.

    Args:
        content: with the keys
            - aligners, rows, columns: see `read_sources`, `read_rows`, `read_columns`;
            - protocol: fields of `Protocol`; protocols: those that differ, by family; timing: fields of `Timing`, or null for none;
            - only: lists `rows`, `families`, `columns`; null or absent for all;
            - again: true to measure again what is there; device: "cpu" or "cuda", CUDA if there is one and it is absent;
            - title, report: see `results` and `report_tables`.
        zoo: the population.
        work: folder of measurements.
        root: of data sets that are not embedded.

    Raises:
        InvalidInput: lists what is wrong.
    """
    problems = [f"found the key {key!r}, expected some of {', '.join(KEYS)}" for key in content if key not in KEYS]
    only = content.get("only") or {}
    timing = content.get("timing")
    for name, found, known in (
        ("only", only, [f.name for f in fields(Selection)]), ("timing", timing or {}, [f.name for f in fields(Timing)]),
        ("report", content.get("report") or {}, REPORT), ("protocols", content.get("protocols") or {}, FAMILIES),
    ):  # fmt: skip
        problems += [f"{name}: found {key!r}, expected some of {', '.join(known)}" for key in found if key not in known]
    if problems:
        raise InvalidInput("configuration of the experiment:\n" + "\n".join(f"  - {p}" for p in problems))
    sets = read_sources(content.get("aligners") or {})
    columns, rows = read_columns(content.get("columns") or {}), read_rows(content.get("rows") or {})
    wanted = {f"columns.{c.name}.aligner": c.aligner for c in columns.values() if c.aligner not in (None, ROLE)}
    if any(c.aligner == ROLE for c in columns.values()):
        wanted |= {f"rows.{row.key}.trained": row.trained for row in rows}
    if unknown := [f"{where}: found {name!r}, expected a set of aligners: {', '.join(sets)}" for where, name in wanted.items() if name not in sets]:
        raise InvalidInput("configuration of the experiment:\n" + "\n".join(f"  - {p}" for p in unknown))
    protocol, protocols = read_protocols(content.get("protocol") or {}, content.get("protocols") or {})
    run = Run(
        zoo, rows, columns, sets, protocol,
        Store(work, bool(content.get("again", False))), root, content.get("device") or ("cuda" if torch.cuda.is_available() else "cpu"),
        None if timing is None else Timing(**{**timing, "rows": tuple(timing.get("rows") or ())}), protocols,
    )  # fmt: skip
    return run, Selection(**{key: tuple(value or ()) for key, value in only.items()})


def results(run: Run, content: Mapping[str, Any], command: str) -> dict[str, Any]:
    """The content of a results file: everything that has been measured so far."""
    records = run.records()
    names = list(dict.fromkeys(record["architecture"] for record in records))
    groups = {group.name: group for group in run.zoo.groups}
    found_families = {record["family"] for record in records}
    return {
        "title": str(content.get("title", "Experiment")),
        "command": command,
        "seed": run.protocol.seed,
        "environment": environment(),
        "revisions": sorted({record["revision"] for record in records}),
        "devices": sorted({record["device"] for record in records}),
        "protocol": asdict(run.protocol),
        "protocols": {family: asdict(protocol) for family, protocol in run.protocols.items()},
        "report": dict(content.get("report") or {}),
        "rows": list(dict.fromkeys(row.name for row in run.rows)),
        "families": [f for f in FAMILIES if f in found_families],
        "columns": {c.name: {"title": c.title, "aligner": c.aligner} for c in run.columns.values()},
        "aligners": {name: [{"from": s.origin, "settings": dict(s.settings)} for s in sources] for name, sources in run.sets.items()},
        "groups": {
            name: {
                "family": family_of(groups[name]), "design": groups[name].design.name, "recipe": groups[name].recipe.name,
                "seeds": list(groups[name].seeds), "sha256": groups[name].sha256,
                "quality": tables.quality(groups[name].accuracies, groups[name].psnr),
            } for name in names
        },
        "records": records,
        "timings": run.timings(),
    }  # fmt: skip


def report_tables(found: Mapping[str, Any]) -> list[Table]:
    """The tables of a results file.

    Its `report` says which: `goals` (true for the goals), `ratios` (names of reference columns).
    """
    findings = Findings(found)
    if not findings.columns:
        return [Table("Nothing has been measured yet", ["rows"], [[row] for row in found["rows"]])]
    made = goal_tables(findings) if found["report"].get("goals") else []
    made += [tables.ratio_table(findings, name) for name in found["report"].get("ratios") or () if name in findings.columns]
    measured = [f for f in tables.FIGURES if f == "seconds" or any(f in record["figures"] for record in found["records"])]
    made += [tables.figure_table(findings, figure) for figure in measured]
    made += [tables.timing_table(findings)] if found["timings"] else []
    return [*made, tables.architecture_table(findings)]


def report_figures(found: Mapping[str, Any], name: str, folder: Path) -> list[Path]:
    """Draws the figures of a results file into a folder, and returns their paths.

    Its `report` says which: `heat_map` (name of the reference column), `curves` ({columns, rows}), `sample_sizes` (see
    `figures.sample_sizes`). Those for which nothing has been measured are left out.

    Raises:
        InvalidInput: matplotlib is missing, or the folder cannot be written.
    """
    findings, report = Findings(found), found["report"]
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    reference = report.get("heat_map")
    if reference in findings.columns and len(findings.columns) > 1:
        figures.heat_map(findings, reference, folder / f"{name}_ratios.png")
        drawn.append(folder / f"{name}_ratios.png")
    shown = report.get("curves")
    if shown and any(row in shown["rows"] for _, row in findings.places) and set(shown["columns"]) & set(findings.columns):
        figures.curves(findings, shown["columns"], shown["rows"], folder / f"{name}_curves.png")
        drawn.append(folder / f"{name}_curves.png")
    sizes = report.get("sample_sizes")
    if sizes and any(set(entry["columns"]) & set(findings.columns) and entry["reference"] in findings.columns for entry in sizes.values()):
        figures.sample_sizes(findings, sizes, folder / f"{name}_sample_sizes.png")
        drawn.append(folder / f"{name}_sample_sizes.png")
    return drawn
