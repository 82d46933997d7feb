"""Reports on alignments and merges: one self-contained HTML file, its figures and its numbers."""

from graphalign.reports.pair import CellReport, PairReport
from graphalign.reports.report import Report, alignment_report, merge_report

__all__ = ["CellReport", "PairReport", "Report", "alignment_report", "merge_report"]
