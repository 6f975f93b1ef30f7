"""What the site's build generates is complete: every key, command, public name and message."""

import ast
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import t2t_vit
from t2t_vit.settings.commands import COMMANDS
from t2t_vit.settings.schema import KEYS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("scripts/build_site.py")


def test_every_key_has_a_row(site: ModuleType) -> None:
    rows = {line.split("|")[1].strip().strip("`"): line for line in site.keys().splitlines() if line.startswith("| `")}
    assert set(rows) == set(KEYS)
    assert "| `auto`" not in rows["epochs"]
    assert rows["beta"].endswith("| train, bench |")
    assert all(line.replace("\\|", "").count("|") == 6 for line in rows.values())


def test_every_command_and_option_is_there(site: ModuleType) -> None:
    text = site.commands()
    for command in COMMANDS.values():
        part = text.split(f"## {command.name}\n")[1].split("\n## ")[0]
        assert command.usage in part
        assert all(f"`--{extra.name}" in part for extra in command.extras)


def test_every_public_name_is_there(site: ModuleType) -> None:
    places = [line.removeprefix("::: ") for line in site.python().splitlines() if line.startswith(":::")]
    assert {place.rpartition(".")[2] for place in places} == set(t2t_vit.__all__) - {"__version__"}
    for place in places:
        module, _, name = place.rpartition(".")
        assert hasattr(sys.modules[module], name)


def test_sentences_are_read_from_the_source(site: ModuleType) -> None:
    tree = ast.parse(
        'raise UserError(f"{path}: is no file; give " + "one") from error\nraise ValueError("no sentence")'
    )
    assert list(site.sentences(tree)) == ["...: is no file; give one"]
    assert "unknown key '...'; did you mean '...'?" in site.messages()


def test_pages_that_load_from_elsewhere_are_found(site: ModuleType) -> None:
    assert site.LOADED.search('<script src="https://cdn.example/x.js"></script>')
    assert site.LOADED.search('<link rel="stylesheet" href="//fonts.example/css">')
    assert not site.LOADED.search('<script src="assets/x.js"></script><a href="https://arxiv.org">')
    assert not site.LOADED.search('<link rel="canonical" href="https://x"><img src="images/report.png">')


def test_every_place_is_filled(site: ModuleType) -> None:
    pages = [page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md")]
    assert {name for text in pages for name in site.PLACE.findall(text)} == set(site.GENERATED)
    assert "<!--" not in site.filled("x\n<!-- generated: words -->\n")


INDEX = {
    "config": {"separator": r"[\s\-_,:!=\[\]()\\\"`/]+|\.(?!\d)"},
    "items": [
        {"location": "a.html", "title": "Keys", "text": "<p>the share of <code>val_split</code>, 0.15</p>"},
        {"location": "b.html#split", "title": "Split", "text": "<p>held out</p>"},
    ],
}


@pytest.mark.parametrize(
    ("word", "pages"),
    [
        ("val_split", {"a.html"}),
        ("split", {"a.html", "b.html"}),
        ("KEYS", {"a.html"}),
        ("held", {"b.html"}),
        ("code", set()),
    ],
)
def test_words_are_looked_up_in_the_search_index(site: ModuleType, word: str, pages: set[str]) -> None:
    assert site.pages_with(INDEX, word) == pages


@pytest.mark.thorough
def test_the_built_site_finds_words_without_network(site: ModuleType) -> None:
    path = site.SITE / "search.json"
    if not path.exists():
        pytest.skip("the site is not built: make site")
    index = json.loads(path.read_text(encoding="utf-8"))
    assert [word for word, page in site.SEARCHED.items() if page not in site.pages_with(index, word)] == []
    scripts = [
        file for file in (site.SITE / "assets").rglob("*.js") if "search.json" in file.read_text(encoding="utf-8")
    ]
    assert scripts, "the search is not one of the site's own files"
