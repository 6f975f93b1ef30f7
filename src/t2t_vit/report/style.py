"""The look of the report: one column that is easy to read on paper, by day and by night."""

COLOURS = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1d2126; --quiet: #667079; --rule: #e3e6e9; --soft: #f5f6f8;
  --train: #8b939b; --raw: #1f6fb4; --ema: #d9730d; --other: #2e7d5b; --bad: #c8102e; --shadow: 31, 111, 180;
  --fault: 217, 80, 13; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181c; --ink: #e6e9ec; --quiet: #98a2ab; --rule: #2d333a;
  --soft: #1d2126; --train: #98a2ab; --raw: #5aa9ea; --ema: #f0a04b; --other: #5cc495; --bad: #ff6b7d;
  --shadow: 90, 169, 234; --fault: 240, 120, 60; } }
"""
STYLE = (
    COLOURS
    + """\
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans",
  sans-serif; font-variant-numeric: tabular-nums; }
main { max-width: 1140px; margin: 0 auto; padding: 36px 24px 60px; }
h1 { margin: 0; font-size: 30px; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { margin: 0 0 4px; font-size: 20px; }
h3 { margin: 0 0 6px; font-size: 14px; color: var(--quiet); font-weight: 600; }
section { margin-top: 44px; }
.headline { margin: 4px 0 0; color: var(--quiet); }
.note { margin: 0 0 12px; color: var(--quiet); font-size: 14px; }
.warning { padding: 8px 12px; border-left: 4px solid var(--bad); background: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(160px, 1fr)); gap: 12px; margin-top: 22px; }
.tile { display: grid; gap: 2px; padding: 12px 16px; border: 1px solid var(--rule); border-radius: 10px;
  background: var(--soft); align-content: start; justify-items: start; }
.tile > span { color: var(--quiet); font-size: 13px; }
.tile b { font-size: 25px; line-height: 1.2; font-weight: 650; }
.tile small { color: var(--quiet); }
.badge { display: inline-block; padding: 0 8px; border-radius: 9px; font-size: 12px; line-height: 18px; color: #fff;
  background: var(--raw); white-space: nowrap; }
.badge.ema { background: var(--ema); }
@media (prefers-color-scheme: dark) { .badge { color: #10141a; } }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 22px 20px; }
.panel { margin: 0; }
.panel figcaption { font-weight: 600; font-size: 14px; }
.panel svg { display: block; width: 100%; height: auto; }
.keys { display: flex; flex-wrap: wrap; gap: 0 10px; min-height: 20px; font-size: 12px; color: var(--quiet); }
.key::before { content: ""; display: inline-block; width: 12px; height: 3px; margin-right: 5px; vertical-align: middle;
  border-radius: 2px; background: var(--other); }
.key.train::before { background: var(--train); } .key.raw::before { background: var(--raw); }
.key.ema::before { background: var(--ema); }
.key b { color: var(--ink); font-weight: 600; }
svg text { font: 11px system-ui, "DejaVu Sans", sans-serif; fill: var(--quiet); }
.grid { stroke: var(--rule); stroke-width: 1; } .axis { stroke: var(--quiet); stroke-width: 1; }
.line { fill: none; stroke: var(--other); stroke-width: 1.7; stroke-linejoin: round; stroke-linecap: round; }
.line.train { stroke: var(--train); } .line.raw { stroke: var(--raw); } .line.ema { stroke: var(--ema); }
.dot { fill: var(--other); } .dot.train { fill: var(--train); } .dot.raw { fill: var(--raw); }
.dot.ema { fill: var(--ema); }
table { border-collapse: collapse; font-size: 14px; }
th { color: var(--quiet); font-weight: 600; font-size: 12.5px; text-align: right; }
th, td { padding: 4px 12px; border-bottom: 1px solid var(--rule); text-align: right; }
th:first-child, td:first-child { text-align: left; padding-left: 0; overflow-wrap: anywhere; }
.plain td, .confusions td:nth-child(2), .confusions th:nth-child(2), .classes td:last-child, .classes th:last-child {
  text-align: left; }
.plain thead { display: none; }
.bar { display: inline-block; width: 110px; height: 9px; margin-right: 6px; border-radius: 5px; background: var(--rule);
  overflow: hidden; vertical-align: middle; }
.bar i { display: block; height: 100%; background: var(--raw); }
.beside { display: flex; flex-wrap: wrap; gap: 28px 44px; align-items: flex-start; }
.beside > div { flex: 1 1 300px; max-width: 600px; } .beside p { margin-top: 4px; }
.matrix { font-size: 12.5px; border-collapse: separate; border-spacing: 2px; }
.matrix td { min-width: 38px; height: 28px; padding: 0 4px; border: 0; border-radius: 4px; text-align: center; }
.matrix th { border: 0; padding: 2px 6px 2px 0; text-align: right; vertical-align: middle; max-width: 160px; }
.matrix .turned { vertical-align: bottom; text-align: center; padding: 0 0 4px; }
.matrix .turned span { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 130px; overflow: hidden; }
.matrix .corner { vertical-align: bottom; font-weight: 400; white-space: nowrap; }
.matrix .hit { background: rgba(var(--shadow), calc(0.04 + 0.5 * var(--shade))); }
.matrix .miss { background: rgba(var(--fault), calc(0.9 * var(--shade))); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(118px, 1fr)); gap: 16px; }
.card { margin: 0; font-size: 13px; line-height: 1.35; overflow-wrap: anywhere; }
.card img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; margin-bottom: 5px; border-radius: 6px;
  background: var(--soft); image-rendering: pixelated; border: 1px solid var(--rule); }
.card img[src^="data:image/jpeg"] { image-rendering: auto; }
.card b { color: var(--bad); }
.card small { color: var(--quiet); font-size: 11px; }
.reliability { width: 420px; max-width: 100%; height: auto; }
.seen { fill: var(--raw); } .over { fill: var(--bad); opacity: 0.4; } .under { fill: var(--raw); opacity: 0.35; }
.many { fill: var(--train); }
.ideal { stroke: var(--quiet); stroke-width: 1.3; stroke-dasharray: 5 4; }
.groups { columns: 3 300px; column-gap: 36px; }
.groups > div { break-inside: avoid-column; margin-bottom: 22px; }
.groups td { padding: 2px 10px 2px 0; font-size: 13px; overflow-wrap: anywhere; }
.groups td:first-child { overflow-wrap: normal; }
details { margin-top: 14px; } summary { cursor: pointer; color: var(--raw); margin-bottom: 8px; }
@media print { main { padding: 0; } section { break-inside: avoid-page; margin-top: 26px; } }
"""
)
