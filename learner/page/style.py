"""Style of the page in addition to that of the report (`learner.report.style`): its head, rigs, contact sheet, small curves."""

PAGE_STYLE = """
:root { --warn: #8a5a00; } @media (prefers-color-scheme: dark) { :root { --warn: #e0c05a; } }
header { padding-top: 22px; }
header p:first-child { font-size: 14px; overflow-wrap: anywhere; }
h1 { font-size: clamp(21px, 3.4vw, 34px); }
section { margin-top: 40px; }
#silence { margin-top: 12px; padding: 10px 14px; border-radius: 10px; background: var(--bad); color: var(--paper);
  font-weight: 600; }
.silent main, .silent .verdict { opacity: .55; }
header .verdict { margin-top: 12px; padding: 10px 14px; border-radius: 10px; border: 1px solid var(--faint);
  border-left: 6px solid var(--level); background: var(--card); color: var(--ink); font-size: clamp(16px, 2vw, 20px);
  line-height: 1.35; letter-spacing: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.verdict span { color: var(--level); }
.good { --level: var(--good); } .wait { --level: var(--trace); } .warn { --level: var(--warn); } .bad { --level: var(--bad); }
.glance { display: grid; grid-template-columns: 3fr 2fr; gap: 14px; margin-top: 14px; align-items: start; }
.glance > div { min-width: 0; }
@media (max-width: 800px) { .glance { grid-template-columns: 1fr; gap: 10px; } }
.many { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 10px; }
.newest figcaption { overflow-wrap: anywhere; }
.proof { background: var(--card); border: 1px solid var(--faint); border-radius: 10px; padding: 10px; }
.proof .legend:first-child::before { margin-left: 0; }
.newest .both { margin-bottom: 4px; }
.guide { background: var(--card); border: 1px solid var(--faint); border-radius: 10px; padding: 14px; margin-bottom: 10px; }
.guide pre { margin: 8px 0; padding: 10px; background: var(--paper); border-radius: 6px; white-space: pre-wrap;
  overflow-wrap: anywhere; user-select: all; }
.asof { color: var(--soft); font-size: 14px; margin-bottom: 8px; }
.what { margin-top: 14px; border-bottom: 1px solid var(--faint); }
.what dl { max-width: 84ch; }
.concern { border-left: 6px solid var(--level); padding: 4px 12px; margin-top: 10px; list-style: none; }
#wrong ul, footer ul { padding: 0; }
footer { max-width: 1180px; margin: 48px auto 0; border-top: 1px solid var(--faint); padding-top: 14px; }
footer ul { display: flex; flex-wrap: wrap; gap: 8px 22px; list-style: none; }
a { color: var(--accent); }
.lead { overflow-wrap: anywhere; font-variant-numeric: tabular-nums; min-height: 1.5em; }
.devices { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(420px, 100%), 1fr)); gap: 14px; margin-top: 14px; }
.device { background: var(--card); border: 1px solid var(--faint); border-radius: 10px; padding: 14px; }
@media (min-width: 1000px) { #now .tiles { grid-template-columns: repeat(5, 1fr); }
  .devices:has(> :only-child) { grid-template-columns: 1fr; }
  .device:only-child dl { grid-template-columns: auto 1fr auto 1fr; } }
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
.sketch { font: 11px system-ui, sans-serif; fill: var(--soft); touch-action: pan-y; border-radius: 4px; cursor: crosshair; }
.sketch:focus-visible, summary:focus-visible, a:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; }
.sketch .title { font-size: 13px; font-weight: 600; fill: var(--ink); }
.sketch .last { font-size: 13px; font-weight: 600; fill: var(--ink); font-variant-numeric: tabular-nums; }
.sketch path { vector-effect: non-scaling-stroke; }
.rule { stroke: var(--faint); stroke-width: .7; }
.band { fill: var(--trace); opacity: .2; }
.curve { fill: none; stroke-width: 1.7; stroke-linejoin: round; stroke-linecap: round; }
.dot { stroke-width: 7; }
.start { stroke-dasharray: 4 4; stroke-width: 1; }
.reading path { stroke: var(--soft); stroke-width: 1; }
.reading circle { fill: var(--ink); }
.reading text { fill: var(--ink); font-weight: 600; paint-order: stroke; stroke: var(--card); stroke-width: 4px; }
"""
