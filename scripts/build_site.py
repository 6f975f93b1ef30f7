"""Build the documentation site: docs/ plus what is generated from the package.

    make site                       # or: python scripts/build_site.py

A line `<!-- generated: NAME -->` becomes the text of `GENERATED[NAME]`, in a copy of docs/ under build/.
Zensical then builds build/site, and fails on a broken link or anchor. No page may load anything from another host, and
the search index must find the words of `SEARCHED`.
"""

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

import t2t_vit
from t2t_vit import errors
from t2t_vit.settings.commands import COMMANDS, DEVICE, Extra
from t2t_vit.settings.help import metavar
from t2t_vit.settings.names import OTHER_WORDS
from t2t_vit.settings.schema import KEYS, SECTIONS
from t2t_vit.settings.values import Key

ERRORS = {name for name, value in vars(errors).items() if isinstance(value, type)}  # UserError and its kinds
ROOT = Path(__file__).resolve().parents[1]
DOCS, SOURCE, SITE = ROOT / "docs", ROOT / "build/site-source", ROOT / "build/site"
PLACE = re.compile(r"^<!-- generated: ([a-z]+) -->$", re.MULTILINE)
LOADED = re.compile(
    r"<(?:script|img|iframe|source|video)\b[^>]*\bsrc=\"(https?:)?//[^\"]*|<link\b[^>]*stylesheet[^>]*//[^>]*"
)

# Words that a reader may search for, and a page that the search has to find.
SEARCHED = {
    "val_split": "reference/keys.html",
    "skipped_steps_limit": "howto/resume.html",
    "from_pretrained": "reference/python.html",
    "LoRA": "tutorials/libraries.html",
    "truncated": "reference/messages.html",
}


def keys() -> str:
    """Every configuration key, by section."""
    parts = []
    for title, names in SECTIONS.items():
        rows = [(f"`{name}`", KEYS[name].meaning, KEYS[name].words, _default(KEYS[name])) for name in names]
        users = [_users(name) for name in names]
        parts.append(f"## {title}\n\n" + table(("key", "meaning", "takes", "default", "used by"), rows, users))
    return "\n\n".join(parts)


def commands() -> str:
    """Every command with its usage, its own options, and how many of the keys it uses."""
    parts = []
    for command in COMMANDS.values():
        usage = f"```text\n{command.usage}\n```"
        own = [(f"`--{alias}`", f"the same as `--{key}`") for alias, key in command.aliases.items()]
        own += [(f"`--{DEVICE.name} {DEVICE.metavar}`", DEVICE.meaning)] if "device_target" in command.uses else []
        own += [(_spelling(extra), extra.meaning) for extra in command.extras]
        used = (
            f"It uses {len(command.uses)} of the [keys](keys.md)." if command.uses else "It has no configuration keys."
        )
        summary = f"{command.summary[0].upper()}{command.summary[1:]}. {used}"
        options = table(("option", "meaning"), own) if own else ""
        parts.append(
            "\n\n".join(part for part in (f"## {command.name}", summary, usage, command.details, options) if part)
        )
    return "\n\n".join(parts)


def python() -> str:
    """A directive of mkdocstrings for each public name, at its home: a module and a function may share a name."""
    names = [name for name in t2t_vit.__all__ if not name.startswith("__")]
    functions = [name for name in names if name[0].islower()]
    return "\n\n".join(
        f"## {title}\n\n" + "\n\n".join(f"::: {getattr(t2t_vit, name).__module__}.{name}" for name in group)
        for title, group in (("Functions", functions), ("Classes", [name for name in names if name not in functions]))
    )


def messages() -> str:
    """Every sentence that a `UserError` is raised with, by the module that raises it; what varies is shown as `...`."""
    parts = []
    for path in sorted((ROOT / "src/t2t_vit").rglob("*.py")):
        found = sorted(set(sentences(ast.parse(path.read_text(encoding="utf-8")))))
        if found:
            name = path.relative_to(ROOT / "src/t2t_vit").as_posix()
            parts.append(f"### {name}\n\n" + "\n".join(f"- {_text(sentence)}" for sentence in found))
    return "\n\n".join(parts)


def sentences(tree: ast.AST) -> Iterator[str]:
    """The texts of `raise UserError(...)` that stand in the source, values as `...`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS and node.args:
            text = _written(node.args[0])
            if re.search(
                r"[a-z]{3}.*\s.*[a-z]{3}", text
            ):  # a single word is the beginning of a sentence that another function makes
                yield text


def words() -> str:
    """Names that other tools use, and ours for them."""
    ours: dict[tuple[str, ...], list[str]] = {}
    for word, names in OTHER_WORDS.items():
        ours.setdefault(names, []).append(word)
    spelt = [(" or ".join(f"`{name}`" for name in names), ", ".join(f"`{word}`" for word in sorted(theirs)))
             for names, theirs in sorted(ours.items())]  # fmt: skip
    return table(("ours", "others"), spelt)


GENERATED: dict[str, Callable[[], str]] = {
    "keys": keys,
    "commands": commands,
    "python": python,
    "messages": messages,
    "words": words,
}


def table(heading: tuple[str, ...], rows: list[tuple[str, ...]], last: list[str] | None = None) -> str:
    """A table in Markdown; `last` is a column that stands already as it shall."""
    cells = [[_text(cell) for cell in row] + ([last[at]] if last else []) for at, row in enumerate(rows)]
    lines = [heading, ["---"] * len(heading), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def filled(text: str) -> str:
    """A page with what is generated in its places."""
    return PLACE.sub(lambda place: GENERATED[place[1]](), text)


def build(zensical: Path) -> int:
    """Build the site; the exit code."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.copytree(DOCS, SOURCE)
    for page in SOURCE.rglob("*.md"):
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
    done = subprocess.run(
        [zensical, "build", "--strict", "--clean", "--config-file", ROOT / "zensical.toml"], cwd=ROOT, check=False
    )
    if done.returncode:
        return done.returncode
    foreign = sorted(
        {f"{page.name}: {found[0]}" for page in SITE.rglob("*.html") for found in LOADED.finditer(page.read_text())}
    )
    if foreign:
        print("pages load from other hosts:", *foreign, sep="\n")
        return 1
    index = json.loads((SITE / "search.json").read_text(encoding="utf-8"))
    if lost := [word for word, page in SEARCHED.items() if page not in pages_with(index, word)]:
        print("the search does not find:", *lost, sep="\n")
        return 1
    site = SITE.relative_to(ROOT)
    print(f"{site} is built. To read and search it: python -m http.server --directory {site}")
    return 0


def pages_with(index: dict[str, Any], word: str) -> set[str]:
    """Pages whose entries in the search index have `word`, split into words as the search in the browser does."""
    separator = re.compile(index["config"]["separator"])
    wanted = {part.lower() for part in separator.split(word) if part}
    found = set()
    for item in index["items"]:
        text = re.sub(r"<[^>]*>", " ", f"{item['title']} {item['text']}")
        if wanted <= {part.lower() for part in separator.split(text)}:
            found.add(item["location"].partition("#")[0])
    return found


def _users(key: str) -> str:
    return ", ".join(
        name for name, command in COMMANDS.items() if key in command.uses and name not in ("quickstart", "sweep")
    )


def _default(key: Key) -> str:
    value = key.written(key.default)
    shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"`{shown}`" if shown else "empty"


def _spelling(extra: Extra) -> str:
    short = f", `{extra.short}`" if extra.short else ""
    return f"`--{extra.name}{f' {extra.metavar or metavar(extra)}' if extra.metavar else ''}`{short}"


def _text(text: str) -> str:
    """Text that Markdown and HTML leave alone, but for code in backticks."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(
        piece if piece.startswith("`") else re.sub(r"([\\*_|\[\]])", r"\\\1", escape(piece, quote=False))
        for piece in pieces
    )


def _written(node: ast.expr) -> str:
    """The text of a string, values as `...`; empty for what is computed."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_written(part) if isinstance(part, ast.Constant) else "..." for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _written(node.left) + _written(node.right)
    return ""


if __name__ == "__main__":
    sys.exit(build(Path(sys.executable).with_name("zensical")))
