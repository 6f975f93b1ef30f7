"""The top and the foot of the page: what a run reached, what it ran on and how fast, and what it was told."""

from statistics import median
from typing import Any

from t2t_vit.report.markup import duration, number, percent, section, share, table, text
from t2t_vit.report.run_files import RunFiles

COLUMNS = {"raw": "val", "ema": "ema"}  # how the history calls the weights


def badge(weights: str) -> str:
    """Which weights a number was made with."""
    return f'<span class="badge {text(weights)}">{"EMA" if weights == "ema" else text(weights)} weights</span>'


def headline(run: RunFiles) -> str:
    """What was trained on what, and how far it came."""
    record = run.record
    if not record:
        return ""
    size = " x ".join(str(side) for side in record["image_size"])
    parts = [
        f"{text(record['arch'])}, {size} pixels, {record['parameters'] / 1e6:.2f} M parameters",
        f"{text(record['dataset'])}: {number(record['training_images'])} images to train, "
        f"{number(record['validation_images'])} to measure, {number(len(record['classes']))} classes",
        f"begun {text(record['started'].replace('T', ' ')[:16])}",
    ]
    return f'<p class="headline">{" · ".join(parts)}</p>{_unfinished(run)}'


def _unfinished(run: RunFiles) -> str:
    if run.evaluation:
        return ""
    last = max((int(row["step"]) for row in run.rows if (row.get("step") or "").isdigit()), default=0)
    return (
        f'<p class="warning">The run did not come to its end: the log stops at step {number(last)} of '
        f"{number(run.record['last_step'])}. What needs a last look at the images is missing below.</p>"
    )


def tiles(run: RunFiles) -> str:
    """The few numbers that one looks for first."""
    found = run.evaluation
    shown: list[tuple[str, str, str]] = []
    if found:
        mark = badge(found["weights"])
        shown.append(("Top-1", percent(found["top1"]), mark))
        if len(found["classes"]) > 5:
            shown.append(("Top-5", percent(found["top5"]), mark))
        shown.append(("Calibration error", percent(found["calibration"]["ece"]), mark))
    else:
        for weights, column in COLUMNS.items():
            best = run.best(f"{column}_top1")
            if best:
                shown.append(("Best Top-1", percent(best[1]), f"{badge(weights)} epoch {number(best[0])}"))
    speed, mfu = _typical(run, "images_per_second"), _typical(run, "mfu")
    if speed is not None:
        shown.append(("Images a second", number(speed), f"MFU {share(mfu)}" if mfu is not None else "median"))
    seconds = sum(value for _, value in run.points("seconds", "epoch"))
    if seconds:
        shown.append(("Time", duration(seconds), "evaluations included"))
    cells = "".join(
        f'<div class="tile"><span>{name}</span><b>{value}</b><small>{below}</small></div>'
        for name, value, below in shown
    )
    return f'<div class="tiles">{cells}</div>'


def results(run: RunFiles) -> str:
    """Each set of weights: at the end, and at its best."""
    rows = []
    scores = run.evaluation.get("scores", {})
    for weights, column in COLUMNS.items():
        best, last = run.best(f"{column}_top1"), scores.get(weights)
        if best is None and last is None:
            continue
        numbers = [f"{last['loss']:.4f}", percent(last["top1"]), percent(last["top5"])] if last else ["–"] * 3
        rows.append([badge(weights), *numbers, f"{percent(best[1])} (epoch {number(best[0])})" if best else "–"])
    if not rows:
        return section("Results", "<p>Nothing was evaluated yet.</p>")
    count = run.evaluation.get("count")
    note = (
        f"Every one of {number(count)} validation images counted once; loss without smoothing, in nats."
        if count
        else ""
    )
    return section(
        "Results", table(["", "loss at the end", "Top-1 at the end", "Top-5 at the end", "best Top-1"], rows), note
    )


def speed(run: RunFiles) -> str:
    """Speed, and the machine that it belongs to."""
    memory = max((value for _, value in run.steps("memory")), default=None)
    seconds = [value for _, value in run.points("seconds", "epoch")]
    rows = [
        ["images a second, all processes, median", number(_typical(run, "images_per_second"))],
        ["share of time waiting for data, median", share(_typical(run, "data_wait"))],
        ["MFU, median", _mfu(_typical(run, "mfu"))],
        ["peak memory", f"{memory / 1e9:.2f} GB" if memory is not None else "–"],
        ["an epoch with its evaluation, median", duration(median(seconds)) if seconds else "–"],
    ]
    hardware, software = run.record.get("hardware", {}), run.record.get("software", {})
    if hardware:
        rows += [
            ["device", f"{number(hardware['processes'])} x {text(hardware['device'])}"],
            ["precision", text(hardware["precision"])],
            ["processor", f"{text(hardware['processor'])}, {number(hardware['cores'])} cores for this run"],
        ]
    rows += (
        [["versions", ", ".join(f"{text(name)} {text(what)}" for name, what in software.items())]] if software else []
    )
    return section("Speed and hardware", table(["", ""], rows, "plain"))


def configuration(run: RunFiles) -> str:
    """Every key, those that differ from their default in bold."""
    groups = "".join(_group(group) for group in run.record.get("configuration", []))
    note = "Keys in bold differ from their default."
    return section("Configuration", f'<div class="groups">{groups}</div>', note) if groups else ""


def _group(group: dict[str, Any]) -> str:
    rows = []
    for each in group["keys"]:
        mark = "b" if each["value"] != each["default"] else "span"
        rows.append([f"<{mark}>{text(each['key'])}</{mark}>", f"<{mark}>{_value(each['value'])}</{mark}>"])
    return f"<div><h3>{text(group['section'])}</h3>{table(['', ''], rows, 'plain')}</div>"


def _value(value: object) -> str:
    if isinstance(value, list):
        return text(" ".join(str(item) for item in value))
    return text(value) if value != "" else "–"


def _typical(run: RunFiles, column: str) -> float | None:
    values = [value for _, value in run.steps(column)]
    return median(values) if values else None


def _mfu(value: float | None) -> str:
    return share(value) if value is not None else "not known: the device's peak is not in the table of peaks"
