"""The package is what pyproject.toml says, and its modules import one way."""

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import graphalign

ROOT = Path(__file__).parent.parent
SOURCES = {"graphalign": ROOT / "graphalign", "graphalign.converters": ROOT / "converters", "graphalign.configs": ROOT / "configs"}

# group -> (modules, groups whose modules they may import besides their own), from the bottom up
ARROWS: dict[str, tuple[str, str]] = {
    "errors": ("errors inputs vectorising allocator", ""),
    "spec": ("spec spec_format plain_yaml group files mapped pickled architecture canonical correspondence transport_maps tensors converted streamed", "errors"),
    "graph": ("graph hetero neuron_networkx pyg nodes operands features numbering moves input_nodes", "errors spec"),
    "drawing": ("drawing layout labels", "errors spec graph"),
    "converters": ("converters.*", "errors spec graph"),
    "assignment": ("assignment weight_costs fixed_similarity tracked_similarity scaling soft", "errors spec"),
    "encoder": ("encoder stacked cellwise codes cutting program prior segments selection", "errors spec graph"),
    "aligner": ("aligner refiner", "errors spec encoder assignment"),
    "alignment": ("alignment transport_plan axis_permutations", "errors spec assignment"),
    "evaluation": ("evaluation batch_norm forward double_precision", "errors"),
    "activations": ("activations example_batches", "errors spec encoder evaluation"),
    "methods": ("methods.*", "errors spec assignment encoder aligner alignment evaluation activations"),
    "align": ("pairwise many matched reading skeleton verification", "errors spec converters assignment aligner alignment evaluation methods"),
    "connectivity": ("connectivity curve curves barriers", "errors spec alignment evaluation"),
    "measures": ("comparison measures singular_vectors", "errors spec alignment evaluation activations align"),
    "merging": (
        "averaging moments repairable corrections repairing merging federated", "errors spec alignment evaluation methods align",
    ),
    "reports": (
        "reports.*", "errors spec drawing converters alignment evaluation activations align connectivity measures merging",
    ),
    "testing": ("testing", "errors spec graph converters assignment encoder aligner alignment"),
    "data": ("data.*", "errors"),
    "configs": ("configs.*", ""),
    "zoo": ("zoo.*", "errors spec data"),
    "training": (
        "training.*", "errors spec converters assignment encoder aligner alignment evaluation methods align connectivity data zoo",
    ),
    "experiments": (
        "experiments.*",
        "errors spec graph converters assignment encoder aligner alignment evaluation methods align connectivity merging data zoo training",
    ),
    "demo": (
        "demo demo_networks demo_report",
        "errors spec graph drawing converters aligner alignment evaluation methods align connectivity data experiments",
    ),
    "bench": (
        "bench.*",
        "errors spec converters assignment encoder aligner alignment evaluation methods align connectivity data zoo training experiments",
    ),
    "checkpoints": (
        "checkpoints folders named_code named_data blueprints example_inputs stored_names opened same_function method_comparison recipes merged_files",
        "errors spec graph converters alignment evaluation methods align connectivity measures merging reports data",
    ),
    "commands": (
        "commands.*", "errors spec graph drawing converters alignment evaluation methods align connectivity measures reports checkpoints",
    ),
    "cli": ("cli cli_bench cli_experiment cli_options cli_progress cli_train cli_zoo __main__ configuration multirun", "errors spec commands configs zoo training demo experiments bench"),
    "documentation": (
        "documentation.*",
        "errors spec graph drawing converters assignment encoder aligner alignment align connectivity reports data demo experiments bench cli",
    ),
}  # fmt: skip
DEFERRED = {("spec", "spec_format"), ("graph", "hetero"), ("graph", "neuron_networkx")}
"""Imports inside functions that run against the order of modules within a group: what they import formats or converts."""


def modules() -> dict[str, Path]:
    """Source file by dotted name without the leading "graphalign."; packages are named "package.__init__"."""
    found = {}
    for package, folder in SOURCES.items():
        for file in folder.rglob("*.py"):
            found[".".join([*package.split(".")[1:], *file.relative_to(folder).with_suffix("").parts])] = file
    return found


def group_of(module: str) -> str:
    for group, (names, _) in ARROWS.items():
        if any(module == n or (n.endswith(".*") and module.startswith(n[:-1])) for n in names.split()):
            return group
    raise KeyError(module)


def imports(module: str, file: Path) -> Iterator[tuple[str, bool]]:
    """Modules of graphalign that `module` imports, and whether it does so at the top; imports for type checkers are left out."""
    known = modules()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    top = set(map(id, tree.body))
    hidden = {id(n) for test in ast.walk(tree) if is_type_checking(test) for n in ast.walk(test)}
    for node in ast.walk(tree):
        if id(node) in hidden or not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        for name in imported_names(node, module):
            candidates = [name, f"{name}.__init__", name.rpartition(".")[0], f"{name.rpartition('.')[0]}.__init__"]
            target = next((c for c in candidates if c in known), None)
            if target is not None and target != module:
                yield target, id(node) in top


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imported_names(node: ast.Import | ast.ImportFrom, module: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        base, names = "", [alias.name for alias in node.names]
    else:
        here = f"graphalign.{module}".split(".")[: -node.level] if node.level else []
        base, names = ".".join([*here, *filter(None, [node.module])]), [alias.name for alias in node.names]
    for name in names:
        full = f"{base}.{name}" if base else name
        if full.startswith("graphalign."):
            yield full.removeprefix("graphalign.")


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs code in a new interpreter that finds the graphalign under test."""
    environment = {**os.environ, "PYTHONPATH": str(Path(graphalign.__file__).parents[1]), "PYTHONWARNINGS": "error"}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_listed_packages_are_those_on_disk(project):
    on_disk = set()
    for package, folder in SOURCES.items():
        for init in folder.rglob("__init__.py"):
            on_disk.add(".".join([package, *init.parent.relative_to(folder).parts]))
    assert set(project["tool"]["setuptools"]["packages"]) == on_disk


def test_every_folder_with_code_is_a_package():
    for folder in SOURCES.values():
        assert {f.parent for f in folder.rglob("*.py")} == {f.parent for f in folder.rglob("__init__.py")}


def test_versions_agree(project):
    assert project["project"]["version"] == graphalign.__version__


def test_constraints_name_every_direct_dependency(project):
    wanted = [*project["project"]["dependencies"], *(d for e in project["project"]["optional-dependencies"].values() for d in e)]
    names = {re.split(r"[\[<>=~!]", requirement)[0].lower() for requirement in wanted} - {"graphalign"}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0].lower() for line in lines if line and not line.startswith("#")}
    assert names <= pinned


def test_the_table_of_arrows_runs_one_way():
    seen: set[str] = set()
    for group, (_, allowed) in ARROWS.items():
        assert set(allowed.split()) <= seen, f"{group} may import what stands above it"
        seen.add(group)


def test_every_module_has_its_place():
    missing = []
    for module in modules().keys() - {"__init__"}:
        try:
            group_of(module)
        except KeyError:
            missing.append(module)
    assert not missing, f"add {sorted(missing)} to ARROWS: where do they belong?"


def test_imports_follow_the_arrows():
    wrong = []
    for module, file in modules().items():
        if module == "__init__":
            continue
        group = group_of(module)
        allowed = {group, *ARROWS[group][1].split()}
        wrong += [f"{module} -> {target}" for target, _ in imports(module, file) if target != "__init__" and group_of(target) not in allowed]
    assert not wrong


def test_no_module_imports_itself_by_a_detour():
    graph = {}
    for module, file in modules().items():
        targets = {(target, top) for target, top in imports(module, file)}
        graph[module] = {target for target, _ in targets if (module, target) not in DEFERRED} if module != "__init__" else set()
    assert list(TopologicalSorter(graph).static_order())


def test_only_the_command_line_knows_hydra():
    for module, file in modules().items():
        if group_of(module) != "cli" if module != "__init__" else True:
            assert not re.search(r"^\s*(import|from) (hydra|omegaconf)\b", file.read_text(encoding="utf-8"), re.MULTILINE), module


def test_converters_are_a_part_of_graphalign():
    assert importlib.import_module("graphalign.converters").__name__ == "graphalign.converters"
    assert importlib.import_module("graphalign.configs").__name__ == "graphalign.configs"


def test_a_checkout_works_without_installation(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import graphalign, graphalign.converters as c, graphalign.configs; print(c.__file__)"
    result = python(code, tmp_path)
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).resolve() == (ROOT / "converters" / "__init__.py").resolve()


def test_the_top_level_name_converters_is_refused():
    result = python("import converters", ROOT)
    assert result.returncode == 1
    assert "import graphalign.converters, not the top-level name 'converters'" in result.stderr


def test_every_public_name_can_be_imported():
    for name in graphalign.__all__:
        assert getattr(graphalign, name) is not None
    assert set(graphalign.__all__) <= set(dir(graphalign))
