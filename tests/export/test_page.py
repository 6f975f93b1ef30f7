"""The Python of docs/tutorials/export.md runs as it stands there, on files that `t2t-vit export` wrote."""

import re
from pathlib import Path

import pytest
import torch

import t2t_vit
from t2t_vit.cli.main import main

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "export.md"


@pytest.mark.thorough
def test_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.save(t2t_vit.create_model("t2t_vit_7", num_classes=5, image_size=32).state_dict(), "w.pth")
    for file_format in ("ONNX", "OPENVINO", "PT2"):
        assert main(["export", "--pretrained", "w.pth", "--file_format", file_format]) == 0
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(snippets) == 3
    names: dict[str, object] = {}
    for number, snippet in enumerate(snippets):
        exec(compile(snippet, f"{PAGE.name}, snippet {number}", "exec"), names)
    assert getattr(names["logits"], "shape", None) == (2, 5)
