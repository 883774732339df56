#include "model/train/report_style.h"

namespace clamor {

const char kReportStyle[] = R"css(
:root {
  color-scheme: light dark;
  --paper: #fcfbf8; --ink: #1c1d1f; --soft: #63666b; --rule: #dedbd3; --grid: #e9e6df; --wash: #f3f1eb;
  --c0: #1d68a7; --c1: #c4511b; --c2: #0d7d68; --c3: #99468c; --c4: #846100; --c5: #56616f;
  --serif: Charter, "Bitstream Charter", "Iowan Old Style", "Source Serif 4", Cambria, Georgia, serif;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", sans-serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "Noto Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #16181b; --ink: #e7e5e0; --soft: #9ea1a6; --rule: #34373c; --grid: #282b30; --wash: #1e2125;
    --c0: #6cb0ee; --c1: #f58a58; --c2: #45c2a4; --c3: #da8fcd; --c4: #d9b44a; --c5: #a7b2c0;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 var(--sans);
  -webkit-text-size-adjust: 100%; overflow-wrap: break-word;
}
main { max-width: 1080px; margin: 0 auto; padding: 2.5rem clamp(1rem, 4vw, 2.5rem) 3rem; }
.kicker { margin: 0; color: var(--soft); font-size: .8125rem; }
.kicker b { color: var(--c1); font-weight: 650; }
h1 { margin: .4rem 0 .6rem; max-width: 24em; font: 650 clamp(1.6rem, 4.5vw, 2.5rem)/1.15 var(--serif);
  letter-spacing: -.012em; text-wrap: balance; }
.deck { margin: 0; max-width: 44em; color: var(--soft); font: 1.125rem/1.5 var(--serif); }
.deck b { color: var(--ink); font-weight: 600; }
.alert { margin: 1.25rem 0 0; padding: .6rem .9rem; border-left: 3px solid var(--c1); background: var(--wash);
  max-width: 48em; }
h2 { margin: 3rem 0 1rem; padding-top: .6rem; border-top: 1px solid var(--ink);
  font: 650 1.25rem/1.3 var(--serif); }
h3 { margin: 0; font-size: 1rem; font-weight: 650; line-height: 1.3; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(165px, 1fr)); gap: 1.25rem 1.5rem;
  margin: 2rem 0 0; padding: 1.1rem 0 0; border-top: 1px solid var(--ink); }
.figures dt { color: var(--soft); font-size: .8125rem; }
.figures dd { margin: 0; font-size: .8125rem; color: var(--soft); font-variant-numeric: tabular-nums; }
.figures dd b { display: block; color: var(--ink); font: 600 1.5rem/1.3 var(--serif); white-space: nowrap;
  font-variant-numeric: lining-nums tabular-nums; }
.charts { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 2.25rem 2.5rem; }
.chart { margin: 0; min-width: 0; }
.chart.wide { grid-column: 1 / -1; }
figcaption p { margin: 0; color: var(--soft); font-size: .8125rem; }
.plot { position: relative; margin: .9rem 3.4rem 1.9rem 3rem; font-size: .75rem; line-height: 1;
  font-variant-numeric: tabular-nums; }
.named .plot { margin-right: 7.25rem; }
.plot > svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.plot svg svg { overflow: hidden; }
.plot path { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round;
  vector-effect: non-scaling-stroke; }
.plot .grid { stroke: var(--grid); stroke-width: 1; stroke-linecap: butt; }
.plot path.mark { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 2 4; }
.plot .faint { stroke-width: 1; opacity: .3; }
.plot .dashed { stroke-dasharray: 6 5; }
.plot .marks { stroke-width: 6.5; stroke-dasharray: none; }
.plot span { position: absolute; white-space: nowrap; color: var(--soft); }
.plot .y { right: 100%; margin-right: .5rem; transform: translateY(-50%); }
.plot .x { top: 100%; margin-top: .55rem; transform: translateX(-50%); }
.plot .x::before { content: ""; position: absolute; left: 50%; top: -.55rem; height: .3rem;
  border-left: 1px solid var(--soft); }
.plot span.mark { right: 0; transform: translateY(-120%); }
.plot .end { left: 100%; margin-left: .5rem; transform: translateY(-50%); font-size: .8125rem; }
.plot .end i { display: inline-block; max-width: 4.75rem; overflow: hidden; text-overflow: ellipsis;
  vertical-align: middle; font-style: normal; line-height: 1.3; }
.plot .end b { font-weight: 650; vertical-align: middle; }
.c0, .plot span.c0 { color: var(--c0); } .c1, .plot span.c1 { color: var(--c1); }
.c2, .plot span.c2 { color: var(--c2); } .c3, .plot span.c3 { color: var(--c3); }
.c4, .plot span.c4 { color: var(--c4); } .c5, .plot span.c5 { color: var(--c5); }
.note { margin: 0; color: var(--soft); font-size: .8125rem; }
.plot .cross { top: 0; bottom: 0; border-left: 1px solid var(--soft); pointer-events: none; }
.plot .tip { padding: .45rem .6rem; background: var(--paper); border: 1px solid var(--rule); border-radius: 4px;
  box-shadow: 0 2px 10px rgb(0 0 0 / .12); line-height: 1.5; pointer-events: none; z-index: 1; top: .25rem; }
.plot .tip span { position: static; display: block; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; margin: 0 0 1.25rem; padding: 0; list-style: none; }
.swatch { display: inline-block; width: 1.25rem; margin-right: .45rem; vertical-align: .28em;
  border-top: 3px solid currentColor; }
.swatch.dashed { border-top-style: dashed; }
.sample { margin: 0 0 2rem; }
.sample > p { margin: 0 0 .8rem; max-width: 48em; color: var(--soft); font: 1rem/1.45 var(--serif); }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 13.5rem), 1fr)); gap: 1rem 1.75rem; }
.columns h4 { margin: 0 0 .35rem; font-size: .8125rem; font-weight: 650; }
.sample > p, .text { white-space: pre-wrap; unicode-bidi: isolate; }
.text { max-height: 22rem; overflow: auto; padding: .7rem .85rem; background: var(--wash); border-radius: 4px;
  font-size: .875rem; line-height: 1.5; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem 1.25rem .35rem 0; border-bottom: 1px solid var(--rule); text-align: left;
  vertical-align: top; font-weight: 400; }
thead th { color: var(--soft); font-size: .8125rem; vertical-align: bottom; border-color: var(--ink); }
tbody th { color: var(--soft); }
.fields th { width: 40%; }
.numbers th, .numbers td { padding-right: 1rem; }
.numbers td, .numbers thead th + th { text-align: right; }
.numbers thead th + th { min-width: 4.25rem; }
.numbers td { white-space: nowrap; }
.numbers td:last-child, .numbers thead th:last-child { padding-right: 0; }
.numbers tbody th { color: var(--ink); white-space: nowrap; }
.best { font-weight: 650; }
code { font: .8125rem/1.5 var(--mono); }
.facts { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 2rem 2.5rem; align-items: start; }
.facts h3 { margin-bottom: .4rem; }
.facts section + section { margin-top: 2rem; }
footer { margin-top: 3rem; padding-top: .8rem; border-top: 1px solid var(--rule); color: var(--soft);
  font-size: .8125rem; }
@media (max-width: 720px) {
  main { padding-top: 1.5rem; }
  .deck { font-size: 1.0625rem; }
  .charts, .facts { grid-template-columns: minmax(0, 1fr); }
  .figures { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .plot { margin-left: 2.5rem; margin-right: 3rem; }
  .named .plot { margin-right: 7.4rem; }
  .plot .end i { max-width: 4.2rem; }
}
@media print {
  .text { max-height: none; }
  .chart, .sample { break-inside: avoid; }
}
)css";

const char kReportScript[] = R"js(
for (const chart of document.querySelectorAll('.chart')) {
  const plot = chart.querySelector('.plot');
  const [x0, x1] = chart.dataset.x.split(' ').map(Number), [y0, y1] = chart.dataset.y.split(' ').map(Number);
  const curves = [...plot.querySelectorAll('.line')].map(path => {
    const numbers = path.getAttribute('d').match(/-?[\d.]+/g).map(Number), points = [];
    for (let i = 0; i < numbers.length; i += 2) points.push([numbers[i], numbers[i + 1]]);
    return {points, name: path.dataset.name, color: path.classList[1]};
  });
  const make = (kind, parent) => {
    const element = document.createElement('span');
    element.className = kind;
    return parent.appendChild(element);
  };
  const cross = make('cross', plot), tip = make('tip', plot);
  const hide = () => { cross.hidden = tip.hidden = true; };
  const show = event => {
    const box = plot.getBoundingClientRect(), at = (event.clientX - box.left) / box.width * 1000;
    if (at < -20 || at > 1020) return hide();
    const near = curves.map(curve =>
      curve.points.reduce((a, b) => Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a));
    const x = near.reduce((a, b) => Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a)[0];
    tip.replaceChildren();
    make('', tip).textContent = chart.dataset.xName + ' ' + Math.round(x0 + x / 1000 * (x1 - x0)).toLocaleString('en');
    curves.forEach((curve, i) => {
      const value = y1 - near[i][1] / 1000 * (y1 - y0);
      make(curve.color, tip).textContent =
        (curve.name ? curve.name + ' ' : '') + Number(value.toPrecision(+chart.dataset.digits));
    });
    cross.hidden = tip.hidden = false;
    cross.style.left = x / 10 + '%';
    tip.style.left = x < 500 ? `calc(${x / 10}% + 10px)` : 'auto';
    tip.style.right = x < 500 ? 'auto' : `calc(${100 - x / 10}% + 10px)`;
  };
  hide();
  plot.addEventListener('pointermove', show);
  plot.addEventListener('pointerdown', show);
  plot.addEventListener('pointerleave', hide);
}
)js";

}  // namespace clamor
