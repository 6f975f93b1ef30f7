"""What runs exported files in a process of its own: how each runtime is set up, in this process."""

from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pytest

from exported_graphs import mean_onnx, mean_openvino
from t2t_vit.inference import runner

SETTINGS = {"memory": 0, "threads": 1, "bf16": False}
IMAGES = np.arange(2 * 72, dtype=np.float32).reshape(2, 3, 4, 6)


def test_onnx_runs_on_as_many_threads_as_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = []

    class Session(onnxruntime.InferenceSession):  # type: ignore[misc, name-defined]
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)
            sessions.append(self)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    loaded = runner.load_onnx(str(mean_onnx(tmp_path / "x.onnx")), SETTINGS)
    assert sessions[0].get_session_options().intra_op_num_threads == 1
    assert isinstance(loaded.metadata, dict) and loaded.metadata["num_classes"] == "3"
    np.testing.assert_allclose(loaded.run(IMAGES), IMAGES.mean((2, 3)))


@pytest.mark.parametrize("bf16", [False, True])
def test_openvino_computes_in_the_precision_that_it_is_told(bf16: bool, tmp_path: Path) -> None:
    if bf16 and "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("needs a processor with bfloat16 (AVX-512 bf16 or AMX)")
    asked = {}
    compile_model = openvino.Core.compile_model

    def compiling(self: object, model: object, device: str, hints: dict[str, object]) -> object:
        compiled = compile_model(self, model, device, hints)
        asked.update({name: compiled.get_property(name) for name in hints})
        return compiled

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino.Core, "compile_model", compiling)
        loaded = runner.load_openvino(str(mean_openvino(tmp_path / "x.xml")), SETTINGS | {"bf16": bf16})
    assert asked["INFERENCE_PRECISION_HINT"].to_string() == ("bf16" if bf16 else "f32")
    assert asked["INFERENCE_NUM_THREADS"] == 1
    assert isinstance(loaded.metadata, str) and '"num_classes": "3"' in loaded.metadata
    np.testing.assert_allclose(loaded.run(IMAGES), IMAGES.mean((2, 3)), rtol=1e-2 if bf16 else 1e-6)


def test_it_needs_nothing_of_this_package() -> None:
    """MindSpore may live in an environment that has no t2t_vit."""
    assert "t2t_vit." not in Path(runner.__file__).read_text(encoding="utf-8")
    assert set(runner.KINDS) == {"onnx", "openvino", "executorch", "pt2", "aoti", "mindir"}
