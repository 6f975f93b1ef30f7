"""The wrong answers that were given with the most confidence, as pictures."""

import re
from typing import Any

from t2t_vit.report.markup import percent, section, text

_PICTURE = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+")


def mistakes(evaluation: dict[str, Any], badge: str) -> str:
    """A card each: the picture, what it was taken for and how surely, what it is, and its file."""
    names, found = evaluation["classes"], evaluation["mistakes"]
    cards = "".join(_card(names, mistake) for mistake in found)
    body = f'<div class="cards">{cards}</div>' if cards else "<p>No mistake was made.</p>"
    note = (
        f"{badge} Wrong answers given with the most confidence: hard images, near duplicates of classes, wrong labels."
    )
    return section("Most confident mistakes", body, note)


def _card(names: list[str], mistake: dict[str, Any]) -> str:
    whole = str(mistake["name"])
    short = "/".join(whole.replace("\\", "/").split("/")[-2:])
    picture = mistake["picture"]
    shown = f'<img alt="" src="{picture}">' if _PICTURE.fullmatch(str(picture)) else ""
    return (
        f'<figure class="card">{shown}<figcaption><b>{text(names[mistake["predicted"]])}</b> '
        f"{percent(mistake['confidence'], 1)}<br>is {text(names[mistake['true']])}<br>"
        f'<small title="{text(whole)}">{text(short)}</small></figcaption></figure>\n'
    )
