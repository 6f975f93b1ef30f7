"""Project files are what their readers expect: valid, of this version, and asking for what helps."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import t2t_vit

ROOT = Path(__file__).parents[2]
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_citation_is_of_this_version() -> None:
    found = loaded(ROOT / "CITATION.cff")
    assert {"cff-version", "title", "message", "authors"} <= set(found)
    assert found["version"] == t2t_vit.__version__
    assert "2101.11986" in found["references"][0]["identifiers"][0]["value"]


@pytest.mark.parametrize("form", [path for path in FORMS if path.name != "config.yml"], ids=lambda path: path.stem)
def test_issue_forms(form: Path) -> None:
    found = loaded(form)
    assert {"name", "description", "body"} <= set(found)
    names = [part["id"] for part in found["body"]]
    assert len(set(names)) == len(names)
    assert all(part["type"] == "textarea" and part["attributes"]["label"] for part in found["body"])
    if form.stem in {"fault", "speed"}:
        (doctor,) = [part for part in found["body"] if part["id"] == "doctor"]
        assert "t2t-vit doctor" in doctor["attributes"]["label"]
        assert doctor["validations"]["required"]


def test_the_changelog_keeps_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[([^]]+)\]", text, flags=re.MULTILINE)
    assert versions[0] == "Unreleased" or versions[0] == t2t_vit.__version__
    assert set(re.findall(r"^### (.*)$", text, flags=re.MULTILINE)) <= {
        "Added", "Changed", "Deprecated", "Removed", "Fixed", "Security",
    }  # fmt: skip


def test_paths_that_project_files_name_are_there() -> None:
    for name in ("CONTRIBUTING.md", "SECURITY.md", "README.md", "docs/explained/testing.md"):
        text = re.sub(r"```.*?```", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL)
        for path in re.findall(r"`((?:tests|src|docs|scripts|benchmarks|recipes)/[\w./-]+)`", text):
            assert (ROOT / path).exists(), f"{name}: {path}"
