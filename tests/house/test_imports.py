"""Who may import whom: the plan of docs/decisions.md, read off the syntax trees."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "t2t_vit"
LEAVES = {"errors", "files", "tables"}
MAY_IMPORT = {
    "errors": set(),
    "files": set(),
    "tables": set(),
    "variants": set(),
    "precision": set(),
    "ops": set(),
    "data": {"ops"},
    "evaluation": {"data"},
    "formats": set(),
    "report": set(),
    "settings": {"variants"},
    "model": {"ops", "variants"},
    "weights": {"formats", "model", "variants"},
    "inference": {"formats", "weights", "model", "data", "precision", "variants"},
    "export": {"formats", "ops", "inference", "data", "model", "variants", "weights"},
    "training": {"evaluation"},
    "bench": {"data", "model", "precision", "training"},
    "cli": None,  # everything
    "timm": {"model", "variants", "weights"},
    "__init__": None,
}


def room(path: Path) -> str:
    """The package or top module that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Rooms that a file imports from, wherever in the file the import stands; only-for-types ones count too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("t2t_vit.")}


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_what_the_plan_allows(path: Path) -> None:
    home = room(path)
    allowed = MAY_IMPORT[home]
    if allowed is not None:
        assert imports(path) - {home} <= allowed | LEAVES


def test_only_predictions_and_exports_see_data() -> None:
    """Of `data`, inference and export take how an image is decoded and prepared, nothing of datasets and loaders."""
    for path in FILES:
        if room(path) in {"inference", "export"}:
            text = path.read_text(encoding="utf-8")
            for module in ("loader", "folder", "embedded", "cifar", "mixing", "transforms"):
                assert f"t2t_vit.data.{module}" not in text, path
