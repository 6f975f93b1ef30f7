from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import t2t_vit
from t2t_vit.bench import circumstances as here
from t2t_vit.bench.circumstances import circumstances, commit, instructions, processor, versions

CPUINFO = "processor : 0\nmodel name\t: A: fast one\nflags : fpu avx2 amx_bf16 other\nprocessor : 1\nmodel name : B\n"


def test_all_that_a_number_depends_on_is_told():
    found = circumstances(["t2t-vit", "bench", "model"])
    assert found["command"] == "t2t-vit bench model"
    assert found["date"].endswith("+00:00")
    assert found["threads"] == torch.get_num_threads()
    assert found["cores"] >= 1
    assert (found["gpu"] is None) == (not torch.cuda.is_available())
    assert versions().items() <= found.items()
    assert versions()["t2t_vit"] == t2t_vit.__version__


def test_the_processor_and_its_instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "cpuinfo"
    file.write_text(CPUINFO)
    monkeypatch.setattr(here, "CPUINFO", file)
    assert (processor(), instructions()) == ("A: fast one", ["avx2", "amx_bf16"])
    monkeypatch.setattr(here, "CPUINFO", tmp_path / "missing")
    assert processor()
    assert instructions() == []


def test_the_commit_is_of_this_package_not_of_the_folder_around_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = commit()
    assert found == "" or len(found.removesuffix("-dirty")) == 40
    (tmp_path / ".git").mkdir()  # somebody's project, with a .venv in it
    monkeypatch.setattr(here, "__file__", str(tmp_path / "site-packages" / "t2t_vit" / "circumstances.py"))
    for told, expected in ((None, ""), ('{"url": "x", "vcs_info": {"commit_id": "abc", "vcs": "git"}}', "abc")):
        monkeypatch.setattr(here, "distribution", lambda _, told=told: SimpleNamespace(read_text=lambda _: told))
        assert commit() == expected
