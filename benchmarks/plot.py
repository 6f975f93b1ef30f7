"""A result of compare.py as a bar chart in SVG and as a table in Markdown.

    python benchmarks/plot.py RESULT.json [--picture docs/images/speed-cpu.svg] [--page docs/performance.md]

The table takes the place of what stands in the page between the lines `<!-- speed: ... -->` and `<!-- end -->` for the
same picture. A house test holds the page and the picture against what this makes of the results that they name.
"""

import argparse
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from t2t_vit.files import atomic_write
from t2t_vit.report.charts import Scale

ROOT = Path(__file__).parents[1]
PICTURE, PAGE = ROOT / "docs/images/speed-cpu.svg", ROOT / "docs/performance.md"
OURS, THEIRS = "t2t_vit", "authors' code"
WIDTH, LEFT, RIGHT = 820, 262, 640  # bars lie between
TOP, HEADING, ROW, BAR, GAP = 20, 30, 22, 13, 16
STYLE = (
    "\n"
    + (files("t2t_vit.report") / "templates/colours.css").read_text(encoding="utf-8")
    + """text { font: 13px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: var(--ink); }
.paper { fill: var(--paper); } .title { font-weight: 650; font-size: 14px; } .quiet { fill: var(--quiet); }
.ours { fill: var(--raw); } .theirs { fill: var(--train); } .others { fill: var(--other); opacity: 0.75; }
.name { text-anchor: end; } .spread { stroke: var(--ink); stroke-width: 1.3; }
.mine { font-weight: 650; } .axis { stroke: var(--rule); stroke-width: 1; }
"""
)


@dataclass(frozen=True)
class Bar:
    """A contestant's value; `gains` say how many times faster ours is, `mfu` how much of the hardware it used."""

    name: str
    value: float
    low: float
    high: float
    gains: tuple[str, ...] = ()
    mfu: str = ""

    @property
    def kind(self) -> str:
        """Whose it is."""
        return "ours" if self.name.startswith(OURS) else "theirs" if self.name.startswith(THEIRS) else "others"


@dataclass(frozen=True)
class Group:
    """One comparison."""

    title: str
    unit: str
    bars: tuple[Bar, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    found = json.loads(options.result.read_text(encoding="utf-8"))
    with atomic_write(options.picture, "w") as file:
        file.write(picture(found))
    page = renewed(options.page.read_text(encoding="utf-8"), options.result, options.picture, found)
    with atomic_write(options.page, "w") as file:
        file.write(page)
    print(f"{options.picture}\n{options.page}")


def groups(found: dict[str, Any]) -> list[Group]:
    """The comparisons of a result, in its order."""
    return [group for group in map(_group, found["sections"]) if group.bars]


def _group(section: dict[str, Any]) -> Group:
    gains = section.get("times_faster", {})
    title = section["what"]
    if "images_per_second" in section:
        rates = section["images_per_second"]
        used = section.get("mfu", {})
        bars = (
            Bar(name, rate["median"], rate["low"], rate["high"], _gains(name, gains), _mfu(used.get(name)))
            for name, rate in rates.items()
        )
        return Group(title, "images/s", tuple(bars))
    sizes = {name: count / 1e6 for name, count in section.get("bytes", {}).items()}
    ratio = (f"{section['ratio']:.2f} x",) if "ratio" in section else ()
    bars = (Bar(name, size, size, size, ratio if name.startswith(THEIRS) else ()) for name, size in sizes.items())
    return Group(title, "MB", tuple(bars))


def _gains(name: str, gains: dict[str, dict[str, float]]) -> tuple[str, ...]:
    """How many times faster ours is than `name`; which of ours, where there are several."""
    against = {pair.removesuffix(f" / {name}"): gain for pair, gain in gains.items() if pair.endswith(f" / {name}")}
    several = len(against) > 1
    return tuple(
        f"{gain['median']:.2f} x ({gain['low']:.2f} to {gain['high']:.2f})" + (f", {ours}" if several else "")
        for ours, gain in against.items()
    )


def _mfu(used: dict[str, float | None] | None) -> str:
    """Shares of the data sheet's rate and of a measured product's; empty where none was measured."""
    if used is None:
        return ""
    shares = (used["of_data_sheet"], used["of_measured_product"])
    return " / ".join("-" if share is None else f"{100 * share:.0f} %" for share in shares)


def table(found: dict[str, Any]) -> str:
    """Markdown: a row a contestant, and what it was measured on."""
    made = groups(found)
    told = any(bar.mfu for group in made for bar in group.bars)
    lines = ["| what | who | median (least to greatest) | ours against it |" + " MFU: data sheet / product |" * told]
    lines.append("|---|---|---|---|" + "---|" * told)
    for group in made:
        for index, bar in enumerate(group.bars):
            spread = "" if bar.low == bar.high else f" ({figures(bar.low)} to {figures(bar.high)})"
            name = f"**{bar.name}**" if bar.kind == "ours" else bar.name
            title = group.title if index == 0 else ""
            row = f"| {title} | {name} | {figures(bar.value)}{spread} {group.unit} | {'; '.join(bar.gains)} |"
            lines.append(row + f" {bar.mfu} |" * told)
    return "\n".join([*lines, "", _circumstances(found)])


def _circumstances(found: dict[str, Any]) -> str:
    machine = found["gpu"] or f"{found['processor']}, {found['cores']} cores"
    commit = found["commit"][:8] + ("-dirty" if found["commit"].endswith("-dirty") else "")
    return (
        f"{found['date'][:10]}, {machine}, {found['threads']} threads, Python {found['python']}, torch "
        f"{found['torch']}, timm {found['timm']}, commit {commit}: `{found['command']}`"
    )


def picture(found: dict[str, Any]) -> str:
    """SVG: a group of bars a comparison, each on a scale of its own from 0; thin lines from the least to the most."""
    parts: list[str] = []
    top = TOP
    for group in groups(found):
        parts.append(f'<text class="title" x="24" y="{top + 14}">{escape(group.title)}</text>')
        unit = group.unit if group.unit != "MB" else "MB, less is better"
        parts.append(f'<text class="quiet" x="{WIDTH - 24}" y="{top + 14}" text-anchor="end">{unit}</text>')
        top += HEADING
        scale = Scale(0.0, max(bar.high for bar in group.bars), LEFT, RIGHT)
        parts.extend(_bar(bar, scale, top + index * ROW) for index, bar in enumerate(group.bars))
        bottom = top + len(group.bars) * ROW
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{LEFT}" y1="{top - 2}" y2="{bottom - 4}"/>')
        top = bottom + GAP
    size = f'viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}"'
    paper = f'<rect class="paper" width="{WIDTH}" height="{top}" rx="10"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="speed in comparison">'
    return f"{head}\n<style>{STYLE}</style>\n{paper}\n" + "\n".join(parts) + "\n</svg>\n"


def _bar(bar: Bar, scale: Scale, top: float) -> str:
    middle, end = top + BAR / 2, scale(bar.value)
    mine = " mine" if bar.kind == "ours" else ""
    parts = [
        f'<text class="name{mine}" x="{LEFT - 10}" y="{middle:.1f}" dy="0.35em">{escape(bar.name)}</text>',
        f'<rect class="{bar.kind}" x="{LEFT}" y="{top}" width="{end - LEFT:.1f}" height="{BAR}" rx="2"/>',
    ]
    if bar.low < bar.high:
        ends = f'x1="{scale(bar.low):.1f}" x2="{scale(bar.high):.1f}"'
        parts.append(f'<line class="spread" {ends} y1="{middle:.1f}" y2="{middle:.1f}"/>')
    at = scale(bar.high) + 8
    parts.append(f'<text class="value{mine}" x="{at:.1f}" y="{middle:.1f}" dy="0.35em">{figures(bar.value)}</text>')
    if bar.gains:
        gain = max(float(each.split()[0]) for each in bar.gains)
        told = f"ours {gain:.2f} x"
        parts.append(
            f'<text class="quiet" x="{WIDTH - 24}" y="{middle:.1f}" dy="0.35em" text-anchor="end">{told}</text>'
        )
    return "".join(parts)


def figures(value: float) -> str:
    """Three figures that count: 7.40, 24.0, 101, 8,600."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def renewed(page: str, result: Path, picture: Path, found: dict[str, Any]) -> str:
    """`page` with the picture and the table of `found` between its lines for this picture."""
    name = f"{picture.parent.name}/{picture.name}"
    between = rf"<!-- speed: \S+ {re.escape(name)} -->\n.*?<!-- end -->"
    if not re.search(between, page, flags=re.DOTALL):
        raise SystemExit(f"the page has no lines '<!-- speed: RESULT {name} -->' and '<!-- end -->'")
    made = section(relative(result), name, found)
    return re.sub(between, lambda _: made, page, flags=re.DOTALL)


def section(result: str, name: str, found: dict[str, Any]) -> str:
    """What stands in the page, marks included."""
    return f"<!-- speed: {result} {name} -->\n![speed in comparison]({name})\n\n{table(found)}\n<!-- end -->"


def sections(page: str) -> Iterable[tuple[str, str, str]]:
    """(result, picture, text with its marks) of every place in a page that this tool made."""
    for match in re.finditer(r"<!-- speed: (\S+) (\S+) -->\n.*?<!-- end -->", page, flags=re.DOTALL):
        yield match[1], match[2], match[0]


def relative(path: Path) -> str:
    """As the page names a file: from the root of the repository."""
    return path.resolve().relative_to(ROOT).as_posix()


if __name__ == "__main__":
    main()
