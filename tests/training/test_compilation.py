import torch

from t2t_vit.training import compilation
from t2t_vit.training.compilation import compile_for_training

CPU = torch.device("cpu")


def test_without_a_compiler_it_runs_eagerly_and_says_so(make_model, monkeypatch):
    monkeypatch.setattr(compilation, "which", lambda _: None)
    notes: list[str] = []
    model = make_model()
    assert compile_for_training(model, CPU, notes.append) is model
    assert len(notes) == 1
    assert "no C compiler" in notes[0]
    assert "running eagerly" in notes[0]


def test_a_compiler_that_fails_is_named(make_model, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("Python.h: No such file\nand a page more")

    monkeypatch.setattr(compilation, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(torch, "compile", broken)
    notes: list[str] = []
    model = make_model()
    assert compile_for_training(model, CPU, notes.append) is model
    assert notes == [
        "pynative_mode: False asks for a compiled graph, but compiling fails (Python.h: No such file); running eagerly"
    ]


def test_the_compiled_network_shares_the_weights(make_model, monkeypatch):
    real = torch.compile
    monkeypatch.setattr(compilation, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(torch, "compile", lambda model: real(model, backend="eager"))
    model = make_model()
    keys = list(model.state_dict())
    notes: list[str] = []
    compiled = compile_for_training(model, CPU, notes.append)
    assert "first step waits" in notes[0]
    images = torch.randn(2, 3, 2, 2)
    torch.testing.assert_close(compiled(images), model(images))
    compiled(images).sum().backward()
    assert model.head.weight.grad is not None
    assert list(model.state_dict()) == keys
