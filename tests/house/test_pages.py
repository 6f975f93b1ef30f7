"""README and docs: every command that they show is parsed by the program's own parser, every link leads somewhere."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from t2t_vit.settings.command_line import parse
from t2t_vit.settings.commands import COMMANDS

ROOT = Path(__file__).parents[2]
HISTORY = {"log.md", "decisions.md"}  # they quote what was, too
PAGES = [
    *ROOT.glob("*.md"),
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if page.name not in HISTORY),
]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
# What stands for something in a command that is no line to copy.
STANDS_FOR = {
    "CONFIG": "t2t_vit_14", "C": "t2t_vit_14", "M": "t2t_vit_14", "FORMAT": "ONNX", "N": "3", "H": "2", "N,": "3",
}  # fmt: skip
OWN_PROGRAM = re.compile(r"(train|eval|infer|export)\.py")
LAUNCHERS = {"train": "train", "eval": "eval", "infer": "infer"}


def blocks(page: Path) -> Iterator[str]:
    """The command lines of the page's shell blocks, continued lines joined, without comments and prompts."""
    for block in re.findall(r"```(?:sh|bash|shell)\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            text = line.strip().removeprefix("$ ")
            if text and not text.startswith("#"):
                yield text


def inline(page: Path) -> Iterator[str]:
    """Commands of ours within a sentence or a table."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for code in re.findall(r"`([^`]+)`", text):
        words = code.replace("\n", " ").split()
        if words[0] == "t2t-vit" and len(words) > 1 and "..." not in code and "COMMAND" not in words:
            yield code.replace("\n", " ")


def check(line: str) -> None:
    """Fails where a part of the line is no command that there is."""
    for part in re.split(r"\s(?:&&|\||;)\s", line):
        _check_words(shlex.split(part, comments=True))


def _check_words(words: list[str]) -> None:
    while words and re.fullmatch(r"[A-Z0-9_]+=.*", words[0]):  # variables of the environment
        words = words[1:]
    if not words:
        return
    program, *rest = words
    ours = next((at for at, word in enumerate(words) if word == "t2t-vit" or OWN_PROGRAM.fullmatch(word)), None)
    if program == "make":
        assert {word for word in rest if "=" not in word} <= TARGETS
    elif program in ("t2t-vit", "python", "torchrun") and ours is not None:
        own = [] if words[ours] == "t2t-vit" else [words[ours].removesuffix(".py")]
        _check_ours([*own, *words[ours + 1 :]])
    elif program == "docker":
        if rest[0] == "run" and "..." not in rest:
            image = next(at for at, word in enumerate(rest) if word.startswith("t2t-vit:"))
            _check_ours(rest[image + 1 :])
    elif script := next((word for word in words[:2] if "scripts/run_" in word), ""):
        _check_launcher(script, words[words.index(script) + 1 :])
    elif program in ("python", "bash") and rest and rest[0].endswith((".py", ".sh")) and "/" in rest[0]:
        text = (ROOT / rest[0]).read_text(encoding="utf-8")
        assert all(word in text for word in rest[1:] if word.startswith("--")), f"an option that {rest[0]} has not"
    elif program == "pip":
        for extra in re.findall(r"\.\[([\w,]+)\]", " ".join(rest)):
            assert set(extra.split(",")) <= set(EXTRAS)


def _check_ours(words: list[str]) -> None:
    if words[0].startswith("--"):
        assert words in (["--help"], ["--version"])
        return
    try:
        parse(words[0], words[1:])
    except SystemExit as end:
        assert end.code in (0, None)
    except KeyError:
        pytest.fail(f"there is no command {words[0]}")


def _check_launcher(script: str, words: list[str]) -> None:
    own, _, extra = " ".join(words).partition(" --extra")
    text = (ROOT / "scripts" / Path(script).name).read_text(encoding="utf-8")
    first, *options = own.split()
    found = re.search(r"read_options '[^']*'[\s\\]*'([^']*)'", text)
    assert found is not None
    assert {word[2:] for word in options if word.startswith("--")} <= set(found[1].split())
    command = next(name for name in LAUNCHERS if f"_{name}" in script)
    _check_ours([LAUNCHERS[command], first, *extra.split()])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_are_parsed(page: Path) -> None:
    for line in blocks(page):
        try:
            check(line)
        except Exception as error:
            raise AssertionError(f"{page.name}: {line}") from error
    for line in inline(page):
        words = [STANDS_FOR.get(word, word) for word in line.split()]
        if len(words) == 2 and COMMANDS[words[1]].positional == "data":  # the name of the command alone
            continue
        try:
            check(" ".join(words))
        except Exception as error:
            raise AssertionError(f"{page.name}: {line}") from error


@pytest.mark.parametrize(
    "line",
    [
        "t2t-vit train no_such_config", "t2t-vit train --no_such_key 1", "t2t-vit nothing", "make nothing",
        "t2t-vit infer x.jpg --checkpoint F --top_k -3", "python train.py --epochs many", "pip install -e '.[nothing]'",
        "bash scripts/run_eval_gpu.sh t2t_vit_14 --devices 3", "python benchmarks/kill.py --nothing",
        "bash scripts/run_eval_gpu.sh t2t_vit_14 --extra --nothing 3", "x && make nothing",
        "docker run --rm t2t-vit:cpu nothing",
    ],
)  # fmt: skip
def test_a_wrong_command_is_found(line: str) -> None:
    with pytest.raises(BaseException):  # noqa: B017  # each kind of mistake has its own error
        check(line)


def test_the_readme_shows_the_two_commands_and_the_test_command() -> None:
    lines = list(blocks(ROOT / "README.md"))
    assert {"make quickstart", "make test"} <= set(lines)
    assert any(line.startswith("t2t-vit train") for line in lines)


def test_links_lead_somewhere() -> None:
    for page in [*PAGES, *(ROOT / "docs" / name for name in HISTORY)]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
            if page.parent != ROOT:
                assert (page.parent / target).resolve().is_relative_to(ROOT / "docs"), f"{page.name}: {target}"


def test_every_page_is_in_the_navigation() -> None:
    site = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    named = set(re.findall(r'"([\w/]+\.md)"', site))
    assert named == {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
