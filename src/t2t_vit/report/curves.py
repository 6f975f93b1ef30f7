"""The course of a run over its epochs, as a row of charts."""

from t2t_vit.report.chart import Line, panel
from t2t_vit.report.markup import percent, section, share
from t2t_vit.report.run_files import RunFiles


def curves(run: RunFiles) -> str:
    """Loss, accuracies, learning rate, norms, speed; what was not recorded is left out."""
    charts = [
        panel(
            "Loss, training and validation",
            [
                Line("training", run.steps("train_loss"), "train"),
                Line("raw", run.points("val_loss", "epoch"), "raw"),
                Line("EMA", run.points("ema_loss", "epoch"), "ema"),
            ],
        ),
        _accuracy(run, "Top-1 accuracy", "top1"),
        _accuracy(run, "Top-5 accuracy", "top5") if len(run.evaluation.get("classes", "123456")) > 5 else "",
        panel("Learning rate", [Line("", run.steps("lr"))], up_to=0.0),
        panel("Gradient norm, before clipping", [Line("largest", run.steps("grad_norm"))], log=True),
        panel("Norm of the weights", [Line("", run.steps("param_norm"))]),
        panel("Norm of an update", [Line("", run.steps("update_norm"))], log=True),
        panel("Images a second, all processes", [Line("", run.steps("images_per_second"))], up_to=0.0),
        panel("Share of time waiting for data", [Line("", run.steps("data_wait"))], show=share, up_to=0.1),
        panel("MFU", [Line("", run.steps("mfu"))], show=share, up_to=0.0),
        panel("Peak memory, GB", [Line("", _gigabytes(run))], up_to=0.0),
        _skipped(run),
    ]
    if not any(charts):
        return section("Curves", "", "Nothing was logged yet.")
    return section("Curves", f'<div class="charts">{"".join(charts)}</div>')


def _accuracy(run: RunFiles, title: str, name: str) -> str:
    raw, ema = (run.points(f"{weights}_{name}", "epoch") for weights in ("val", "ema"))
    return panel(title, [Line("raw weights", raw, "raw"), Line("EMA weights", ema, "ema")], show=_tenths)


def _skipped(run: RunFiles) -> str:
    points = run.steps("skipped")
    return panel("Updates skipped, gradient not finite", [Line("", points)]) if any(v for _, v in points) else ""


def _gigabytes(run: RunFiles) -> list[tuple[float, float]]:
    return [(epoch, value / 1e9) for epoch, value in run.steps("memory")]


def _tenths(value: float) -> str:
    return percent(value, 1).replace(".0 %", " %")
