"""graphalign: aligns the units of two neural networks of any one architecture, so that they can be merged and compared."""

from importlib import import_module as _import_module
from pathlib import Path as _Path
from typing import TYPE_CHECKING
from typing import Any as _Any

_checkout = _Path(__file__).resolve().parent.parent
if (_checkout / "converters" / "__init__.py").is_file():  # run from a checkout: its converters/ and configs/ are subpackages
    __path__.append(str(_checkout))

if TYPE_CHECKING:
    from graphalign.aligner import Aligner as Aligner
    from graphalign.aligner import AlignerConfig as AlignerConfig
    from graphalign.alignment import Alignment as Alignment
    from graphalign.axis_permutations import AxisPermutations as AxisPermutations
    from graphalign.axis_permutations import from_axis_permutations as from_axis_permutations
    from graphalign.axis_permutations import to_axis_permutations as to_axis_permutations
    from graphalign.barriers import PairwiseBarriers as PairwiseBarriers
    from graphalign.barriers import pairwise_barriers as pairwise_barriers
    from graphalign.checkpoints import read_checkpoint as read_checkpoint
    from graphalign.checkpoints import write_checkpoint as write_checkpoint
    from graphalign.comparison import Comparison as Comparison
    from graphalign.connectivity import Curve as Curve
    from graphalign.connectivity import barrier as barrier
    from graphalign.connectivity import interpolate as interpolate
    from graphalign.converters import Inputs as Inputs
    from graphalign.converters import register_rule as register_rule
    from graphalign.converters import trace as trace
    from graphalign.converters.graph import neuron_graph as neuron_graph
    from graphalign.curves import MeanCurve as MeanCurve
    from graphalign.curves import mean_curve as mean_curve
    from graphalign.errors import CorruptFile as CorruptFile
    from graphalign.errors import GraphAlignError as GraphAlignError
    from graphalign.errors import InvalidInput as InvalidInput
    from graphalign.errors import SpecMismatch as SpecMismatch
    from graphalign.errors import UnsupportedNetwork as UnsupportedNetwork
    from graphalign.federated import federated_average as federated_average
    from graphalign.files import load_state as load_state
    from graphalign.files import save_state as save_state
    from graphalign.graph import NeuronGraph as NeuronGraph
    from graphalign.many import align_all as align_all
    from graphalign.many import align_many as align_many
    from graphalign.many import align_to as align_to
    from graphalign.matched import MatchedAverage as MatchedAverage
    from graphalign.matched import matched_average as matched_average
    from graphalign.measures import RowAgreement as RowAgreement
    from graphalign.measures import activation_correlation as activation_correlation
    from graphalign.measures import agreement as agreement
    from graphalign.measures import distance as distance
    from graphalign.merged_files import merge_files as merge_files
    from graphalign.merging import merge as merge
    from graphalign.methods import list_methods as list_methods
    from graphalign.opened import open_networks as open_networks
    from graphalign.pairwise import align as align
    from graphalign.recipes import read_recipe as read_recipe
    from graphalign.repairing import repair as repair
    from graphalign.reports import Report as Report
    from graphalign.reports import alignment_report as alignment_report
    from graphalign.reports import merge_report as merge_report
    from graphalign.singular_vectors import singular_vector_alignment as singular_vector_alignment
    from graphalign.spec import NetworkSpec as NetworkSpec
    from graphalign.spec_format import load_spec as load_spec
    from graphalign.spec_format import save_spec as save_spec
    from graphalign.transport_plan import TransportPlan as TransportPlan
    from graphalign.verification import verify as verify

__version__ = "0.1.0"

_MODULES = {  # imported on first use, so that the command line answers without loading torch
    "graphalign.aligner": ("Aligner", "AlignerConfig"),
    "graphalign.alignment": ("Alignment",),
    "graphalign.axis_permutations": ("AxisPermutations", "from_axis_permutations", "to_axis_permutations"),
    "graphalign.barriers": ("PairwiseBarriers", "pairwise_barriers"),
    "graphalign.checkpoints": ("read_checkpoint", "write_checkpoint"),
    "graphalign.comparison": ("Comparison",),
    "graphalign.connectivity": ("Curve", "barrier", "interpolate"),
    "graphalign.converters": ("Inputs", "register_rule", "trace"),
    "graphalign.converters.graph": ("neuron_graph",),
    "graphalign.curves": ("MeanCurve", "mean_curve"),
    "graphalign.errors": ("CorruptFile", "GraphAlignError", "InvalidInput", "SpecMismatch", "UnsupportedNetwork"),
    "graphalign.federated": ("federated_average",),
    "graphalign.files": ("load_state", "save_state"),
    "graphalign.graph": ("NeuronGraph",),
    "graphalign.many": ("align_all", "align_many", "align_to"),
    "graphalign.matched": ("MatchedAverage", "matched_average"),
    "graphalign.merged_files": ("merge_files",),
    "graphalign.merging": ("merge",),
    "graphalign.measures": ("RowAgreement", "activation_correlation", "agreement", "distance"),
    "graphalign.methods": ("list_methods",),
    "graphalign.opened": ("open_networks",),
    "graphalign.pairwise": ("align",),
    "graphalign.recipes": ("read_recipe",),
    "graphalign.repairing": ("repair",),
    "graphalign.reports": ("Report", "alignment_report", "merge_report"),
    "graphalign.singular_vectors": ("singular_vector_alignment",),
    "graphalign.spec": ("NetworkSpec",),
    "graphalign.spec_format": ("load_spec", "save_spec"),
    "graphalign.transport_plan": ("TransportPlan",),
    "graphalign.verification": ("verify",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
__all__ = [*sorted(_MODULE_OF), "__version__"]


def __getattr__(name: str) -> _Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'graphalign' has no attribute {name!r}")
    value = getattr(_import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
