"""The tables of the last evaluation: each class, and what is taken for what."""

from collections.abc import Sequence
from typing import Any

from t2t_vit.report.markup import number, percent, section, table, text

_SHOWN = 40  # classes of the table that are not folded away
_MATRIX = 24  # classes, at most, whose matrix is drawn: more do not fit on a page
_CONFUSIONS = 30


def class_table(evaluation: dict[str, Any], badge: str) -> str:
    """Every class, the hardest first; of many, the easier ones are folded away."""
    names: list[str] = evaluation["classes"]
    scores = sorted(enumerate(evaluation["class_scores"]), key=lambda item: (item[1]["recall"], -item[1]["count"]))
    scores = [item for item in scores if item[1]["count"]]
    head = ["class", "images", "accuracy (recall)", "precision", "F1", "most often taken for"]
    rows = [_class_row(names, number, score) for number, score in scores]
    shown = rows if len(rows) <= _SHOWN else rows[: _SHOWN // 2]
    body = table(head, shown, "classes")
    if len(rows) > len(shown):
        body += f"<details><summary>all {len(rows):,} classes</summary>{table(head, rows, 'classes')}</details>"
    absent = len(names) - len(rows)
    note = f"{badge} Hardest first." + (f" {absent:,} classes have no validation image." if absent else "")
    return section("Accuracy by class", body, note)


def _class_row(names: Sequence[str], index: int, score: dict[str, Any]) -> list[str]:
    width = f"{100 * score['recall']:.1f}"
    bar = f'<span class="bar"><i style="width:{width}%"></i></span> {percent(score["recall"], 1)}'
    taken = score["taken_for"]
    return [
        text(names[index]),
        number(score["count"]),
        bar,
        percent(score["precision"], 1),
        f"{score['f1']:.3f}",
        f"{text(names[taken[0]])} ({number(taken[1])})" if taken else "",
    ]


def confusions(evaluation: dict[str, Any], badge: str) -> str:
    """What is taken for what: the whole matrix of few classes, and the commonest mistakes."""
    names: list[str] = evaluation["classes"]
    matrix = evaluation["confusion_matrix"]
    parts = [_matrix(names, matrix)] if matrix is not None and len(names) <= _MATRIX else []
    counts = [score["count"] for score in evaluation["class_scores"]]
    most = evaluation["confusions"][: 10 if parts else _CONFUSIONS]
    rows = [
        [text(names[true]), text(names[taken]), number(count), percent(count / max(1, counts[true]), 1)]
        for true, taken, count in most
    ]
    if rows:
        head = ["it is", "it was taken for", "images", "share of the class"]
        parts.append(f"<div><h3>Commonest mistakes</h3>{table(head, rows, 'confusions')}</div>")
    body = f'<div class="beside">{"".join(parts)}</div>' if parts else "<p>No mistake was made.</p>"
    return section("Confusion", body, badge)


def _matrix(names: Sequence[str], matrix: Sequence[Sequence[int]]) -> str:
    """Rows: what an image is; columns: what it was taken for; shades: shares of the row."""
    head = "".join(f'<th class="turned"><span>{text(name)}</span></th>' for name in names)
    body = "".join(
        f"<tr><th>{text(name)}</th>{''.join(_cell(row, index, column) for column in range(len(row)))}</tr>\n"
        for index, (name, row) in enumerate(zip(names, matrix, strict=True))
    )
    corner = '<th class="corner">it is \u2193 &nbsp; taken for \u2192</th>'
    return f'<table class="matrix"><thead><tr>{corner}{head}</tr></thead><tbody>{body}</tbody></table>'


def _cell(row: Sequence[int], index: int, column: int) -> str:
    part = row[column] / max(1, sum(row))
    kind = "hit" if index == column else "miss"
    shade = f"{min(1.0, part if index == column else 3 * part):.3f}"
    return f'<td class="{kind}" style="--shade:{shade}">{number(row[column]) if row[column] else ""}</td>'
