"""Commands that the README and the docs show exist: make targets, t2t-vit commands, scripts and shipped configs."""

import re
from pathlib import Path

import pytest

from t2t_vit.settings.commands import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def shown(page: Path) -> list[str]:
    """Lines of the page's fenced shell blocks, comments and prompts stripped."""
    blocks = re.findall(r"```(?:sh|bash|shell)\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line.split(" #")[0].strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    configs = {path.stem for path in (ROOT / "src/t2t_vit/configs").glob("*.yaml")}
    for line in shown(page):
        words = line.split()
        if words[0] == "make":
            assert words[1] in targets, line
        elif words[0] == "t2t-vit":
            assert words[1] in COMMANDS or words[1].startswith("--"), line
            if words[1] == "train" and len(words) > 2 and not words[2].startswith("--"):
                assert words[2] in configs, line
        elif words[0] in {"bash", "python"} and not words[1].startswith("-"):
            assert (ROOT / words[1]).exists(), line


def test_the_readme_shows_the_two_commands_and_the_test_command() -> None:
    lines = shown(ROOT / "README.md")
    assert {"make quickstart", "make test"} <= set(lines)
    assert any(line.startswith("t2t-vit train") for line in lines)


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
