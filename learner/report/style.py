"""Style of the report: one column on a phone, a wide page on a desk, light or dark as the reader's system is set."""

STYLE = """
:root { color-scheme: light dark;
  --paper: #fbfaf7; --card: #fff; --ink: #23262b; --soft: #6a6f78; --faint: #d9d8d2; --accent: #a3441c;
  --student: #2458d3; --teacher: #b4500b; --trace: #2458d3; --good: #14713d; --bad: #b3261e;
  --run0: #2458d3; --run1: #b4500b; --run2: #14713d; --run3: #8a3ffc;
  --run4: #c2185b; --run5: #00798c; --run6: #7a5c00; --run7: #4a4f57; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14161a; --card: #1d2026; --ink: #e8e6e1; --soft: #9aa0aa; --faint: #3a3e46; --accent: #ffab7a;
  --student: #85aaff; --teacher: #ffa25c; --trace: #85aaff; --good: #6fd195; --bad: #ff8a80;
  --run0: #85aaff; --run1: #ffa25c; --run2: #6fd195; --run3: #c7a3ff;
  --run4: #ff8fb8; --run5: #5fd0e0; --run6: #e0c05a; --run7: #b4bac4; } }
* { box-sizing: border-box; margin: 0; }
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  padding: 0 clamp(14px, 4vw, 56px) 80px; }
header, main { max-width: 1180px; margin: auto; }
header { padding: 44px 0 4px; }
header p { color: var(--accent); font-weight: 700; letter-spacing: .02em; }
h1 { font-size: clamp(28px, 5vw, 44px); line-height: 1.1; letter-spacing: -.02em; overflow-wrap: anywhere; }
h2 { font-size: 22px; letter-spacing: -.01em; margin-bottom: 2px; }
section { margin-top: 48px; }
header + main > section:first-child { margin-top: 8px; }
.note, .lead { color: var(--soft); max-width: 76ch; }
.note { margin-bottom: 16px; }
.missing { color: var(--soft); border: 1px dashed var(--faint); border-radius: 10px; padding: 18px; margin-top: 12px; }
.tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px; margin-top: 20px; }
@media (max-width: 640px) { .tiles { grid-template-columns: 1fr 1fr; } }
.tiles div, .curves figure, .panel { background: var(--card); border: 1px solid var(--faint); border-radius: 10px; }
.tiles div { padding: 14px 16px; }
.tiles b { display: block; font-size: 27px; line-height: 1.2; letter-spacing: -.02em; font-variant-numeric: tabular-nums; }
.tiles span, figcaption { color: var(--soft); font-size: 13px; line-height: 1.35; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 9px 18px 9px 0; border-bottom: 1px solid var(--faint); white-space: nowrap; }
thead th { color: var(--soft); font-size: 13px; font-weight: 500; }
tbody th { font-weight: 600; }
@media (max-width: 640px) { th, td { padding-right: 10px; } tbody th { white-space: normal; } }
caption { text-align: left; font-weight: 600; padding: 14px 0 2px; }
.legend { white-space: nowrap; }
.legend::before { content: ""; display: inline-block; width: 18px; border-top: 3px solid; margin: 0 6px 4px 14px; }
.up { color: var(--good); } .down { color: var(--bad); }
figure > svg { display: block; width: 100%; height: auto; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(320px, 100%), 1fr)); gap: 14px; }
.curves figure { padding: 12px 12px 6px; }
.curves text { font-family: system-ui, sans-serif !important; }
.photo { border-radius: 6px; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(420px, 100%), 1fr)); gap: 14px; }
.pairs figure { display: grid; grid-template-columns: 1fr 1fr; gap: 4px; }
.layout { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)); gap: 14px; align-items: start; }
.layout figure { background: var(--card); border: 1px solid var(--faint); border-radius: 10px; padding: 12px; }
.layout text { font-family: system-ui, sans-serif !important; }
.axes > label { margin: 0 14px 0 4px; } .axes > div { display: none; margin-top: 10px; }
.axis0:checked ~ .over0, .axis1:checked ~ .over1, .axis2:checked ~ .over2 { display: block; }
.strip { display: grid; grid-template-columns: repeat(auto-fill, minmax(72px, 1fr)); gap: 6px; margin-bottom: 14px; }
.thumbs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(200px, 46%), 1fr)); gap: 14px; }
.panel { padding: 14px; margin-top: 16px; }
.eyes, .below { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)); gap: 10px; }
.below { align-items: start; margin-top: 10px; }
.heads, .views { display: grid; gap: 8px; }
.heads { grid-template-columns: repeat(auto-fill, minmax(min(120px, 30%), 1fr)); }
.views { grid-template-columns: repeat(auto-fill, minmax(min(80px, 21%), 1fr)); align-items: start; }
.views figure > div { border: 3px solid; border-radius: 8px; overflow: hidden; }
.views figure > div svg { display: block; width: 100%; border-radius: 4px; }
.views .teacher { border: 3px solid var(--ink); border-radius: 8px; }
.chosen { outline: 3px solid var(--accent); outline-offset: 1px; }
.marks { fill: none; stroke: #fff; filter: drop-shadow(0 0 1px #000); }
.marks * { vector-effect: non-scaling-stroke; stroke-width: 2px; }
.gauss { stroke: #3cf2ff; }
.sigma2 { stroke-dasharray: 5 4; }
details { border-top: 1px solid var(--faint); padding: 10px 0; }
summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; font: 13px/1.45 ui-monospace, monospace; padding-top: 10px; }
"""
