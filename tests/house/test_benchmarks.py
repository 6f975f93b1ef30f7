"""Benchmarks and notebooks are run rarely: what they import of the package has to be there all the same."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.py"))
PATHS = [*sorted((ROOT / "benchmarks").glob("*.py")), *NOTEBOOKS]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_it_imports_is_there(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "t2t_vit":
            module = import_module(str(node.module))
            missing = [each.name for each in node.names if not _has(module.__name__, each.name)]
            assert missing == [], f"{path.name} takes them from {node.module}"


def test_every_notebook_is_on_the_page() -> None:
    page = (ROOT / "docs/tutorials/notebooks.md").read_text(encoding="utf-8")
    assert NOTEBOOKS
    assert all(f"(../notebooks/{path.name})" in page for path in NOTEBOOKS)


def _has(module: str, name: str) -> bool:
    try:
        return hasattr(import_module(module), name) or import_module(f"{module}.{name}") is not None
    except ModuleNotFoundError:
        return False
