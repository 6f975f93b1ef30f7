"""Pages, help, messages, docstrings and comments use the words of the house, which stand in pyproject.toml."""

import ast
import re
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from t2t_vit import errors
from t2t_vit.settings.commands import COMMANDS
from t2t_vit.settings.schema import KEYS

ROOT = Path(__file__).parents[2]
WORDS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["t2t_vit"]["words"]
ERRORS = {name for name, value in vars(errors).items() if isinstance(value, type)}  # UserError and its kinds
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def found(text: str) -> list[str]:
    """Words in the text that the house does not use, with what to write."""
    return [f"{match[0]!r}: {right}" for wrong, right in WORDS.items() for match in re.finditer(wrong, text, re.I)]


def prose(page: str) -> Iterator[tuple[int, str]]:
    """Number and text of a page's lines, without code and the targets of links."""
    text = re.sub(r"```.*?```", lambda block: "\n" * block[0].count("\n"), page, flags=re.DOTALL)
    text = re.sub(r"`[^`]*`|\]\([^)]*\)|<!--.*?-->", lambda code: "\n" * code[0].count("\n"), text, flags=re.DOTALL)
    yield from enumerate(text.splitlines(), start=1)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages(page: Path) -> None:
    lines = prose(page.read_text(encoding="utf-8"))
    assert [f"{page.name}:{number}: {each}" for number, line in lines for each in found(line)] == []


def test_help() -> None:
    texts = {f"--{key.name}": key.meaning for key in KEYS.values()}
    for command in COMMANDS.values():
        texts |= {f"{command.name} --{extra.name}": extra.meaning for extra in command.extras}
        texts |= {command.name: f"{command.summary} {command.details}"}
        texts |= {f"{command.name} --{key}": text for key, text in command.meanings.items()}
    assert [f"{name}: {each}" for name, text in texts.items() for each in found(re.sub(r"`[^`]*`", "", text))] == []


def test_messages() -> None:
    wrong = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS:
                texts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
                wrong += [f"{path.name}:{node.lineno}: {each}" for text in texts for each in found(str(text))]
    assert wrong == []


def test_docstrings_and_comments() -> None:
    wrong = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        texts = [ast.get_docstring(node) or "" for node in tree if isinstance(node, documented)]
        with tokenize.open(path) as file:
            texts += [
                token.string for token in tokenize.generate_tokens(file.readline) if token.type == tokenize.COMMENT
            ]
        wrong += [f"{path.name}: {each}" for text in texts for each in found(re.sub(r"`[^`]*`|\"[^\"]*\"", "", text))]
    for path in sorted((ROOT / "src/t2t_vit/configs").glob("*.yaml")):
        wrong += [f"{path.name}: {each}" for each in found(path.read_text(encoding="utf-8"))]
    assert wrong == []


@pytest.mark.parametrize("text", ["Photos of cats", "it is held against theirs", "stands on the line"])
def test_a_wrong_word_is_found(text: str) -> None:
    assert len(found(text)) == 1


def test_code_and_links_are_left_out() -> None:
    page = "`photos` [a](pictures.md)\n```sh\nls photos\n```\nimages, and a photograph"
    assert [each for _, line in prose(page) for each in found(line)] == []
