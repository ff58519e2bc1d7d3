"""Style of the page in addition to that of the report (`learner.report.style`): devices, contact sheet, small curves."""

PAGE_STYLE = """
header { padding-top: 28px; }
section { margin-top: 36px; }
#silence { margin-top: 12px; padding: 10px 14px; border-radius: 10px; background: var(--bad); color: var(--paper);
  font-weight: 600; }
.silent main { opacity: .55; }
.lead { overflow-wrap: anywhere; font-variant-numeric: tabular-nums; min-height: 1.5em; }
.devices { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(420px, 100%), 1fr)); gap: 14px; }
.device { background: var(--card); border: 1px solid var(--faint); border-radius: 10px; padding: 14px; }
h3 { font-size: 15px; margin: 18px 0 8px; }
.device h3 { margin-top: 0; overflow-wrap: anywhere; }
.both { display: grid; grid-template-columns: 1fr 1fr; gap: 4px; }
dl { display: grid; grid-template-columns: auto 1fr; gap: 2px 14px; margin-top: 10px; font-size: 14px;
  font-variant-numeric: tabular-nums; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.sheet { display: grid; grid-template-columns: repeat(8, 1fr); gap: 8px; }
@media (max-width: 900px) { .sheet { grid-template-columns: repeat(4, 1fr); } }
.sheet svg { display: block; width: 100%; }
.sheet figcaption { font-size: 11px; overflow-wrap: anywhere; }
.origins { background: var(--card); border: 1px solid var(--faint); border-radius: 10px; padding: 12px; }
.origins svg { height: 72px; fill: var(--trace); }
.origins figcaption { display: flex; justify-content: space-between; gap: 12px; margin-top: 6px; }
.sketch { font: 11px system-ui, sans-serif; fill: var(--soft); }
.sketch .title { font-size: 13px; font-weight: 600; fill: var(--ink); }
.sketch .last { font-size: 13px; font-weight: 600; fill: var(--ink); font-variant-numeric: tabular-nums; }
.sketch path { vector-effect: non-scaling-stroke; }
.rule { stroke: var(--faint); stroke-width: .7; }
.band { fill: var(--trace); opacity: .2; }
.curve { fill: none; stroke-width: 1.7; stroke-linejoin: round; stroke-linecap: round; }
.start { stroke-dasharray: 4 4; stroke-width: 1; }
"""
