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
    assert "first step may take" in notes[0]
    images = torch.randn(2, 3, 2, 2)
    torch.testing.assert_close(compiled(images), model(images))
    compiled(images).sum().backward()
    assert model.head.weight.grad is not None
    assert list(model.state_dict()) == keys


def test_images_of_several_sizes_are_a_graph_each_that_is_compiled_once(monkeypatch):
    from torch._dynamo.utils import counters

    from t2t_vit import create_model

    real = torch.compile
    monkeypatch.setattr(compilation, "obstacle_to_compiling", lambda _: "")
    monkeypatch.setattr(torch, "compile", lambda model, **how: real(model, backend="eager", **how))
    torch._dynamo.reset()
    counters.clear()
    model = create_model("t2t_vit_quickstart", num_classes=3, image_size=28, other_sizes="resize").train()
    notes: list[str] = []
    compiled = compile_for_training(model, CPU, notes.append, 2)
    for side in (20, 28, 20, 28):
        compiled(torch.randn(4, 3, side, side)).sum().backward()
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]
    assert "2 times, once per image size" in notes[0]
    torch._dynamo.reset()


def test_a_run_is_one_graph_that_is_compiled_once(monkeypatch):
    """Drops, their seeds, autocast, accumulation and the last batch of an epoch change no graph."""
    from torch._dynamo.utils import counters

    from t2t_vit import create_model
    from t2t_vit.training.mixed_precision import LossScaler
    from t2t_vit.training.optimizer import create_optimizer
    from t2t_vit.training.randomness import SampleNumbers
    from t2t_vit.training.step import TrainStep

    real = torch.compile
    monkeypatch.setattr(compilation, "obstacle_to_compiling", lambda _: "")
    monkeypatch.setattr(torch, "compile", lambda model: real(model, backend="eager"))  # all of it but the kernels
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    model = create_model(
        "t2t_vit_quickstart", num_classes=3, image_size=28, drop_path=0.1, drop=0.1, performer_drop=0.1
    )
    step = TrainStep(
        compile_for_training(model.train(), CPU, lambda _: None),
        create_optimizer(model, "adamw", lr=1e-3),
        scaler=LossScaler(CPU),
        accumulation=2,
        autocast=lambda: torch.autocast("cpu", torch.bfloat16),
        numbers=SampleNumbers(model.sample_seeds.set, 0, 0),
    )
    batch = torch.randn(4, 3, 28, 28), torch.tensor([0, 1, 2, 0])
    for number in range(4):
        torch.manual_seed(number)
        step([batch, batch], number)
        with torch.no_grad():
            model.eval()(batch[0][:3])  # an evaluation in between, of another size
        model.train()
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    torch._dynamo.reset()
