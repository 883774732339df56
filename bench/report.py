#!/usr/bin/env python3
"""One page of the JSON that the programs of bench/ write: a table and, where numbers follow each other, a plot.

    bench/report.py OUT.html FILE.json [FILE.json ...]

Takes what --output of draft_bench, trace_bench and engine_bench wrote, bench/peers/*.py --output, and google-benchmark's
--benchmark_format=json (kernel_bench). The page needs nothing from elsewhere. An array of objects becomes a table; if its
first field is a number that only grows, the other numbers are drawn over it, one plot for each.
"""
import html
import json
import pathlib
import platform
import sys

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1d232b; margin: 2rem auto; max-width: 68rem; padding: 0 1rem }
table { border-collapse: collapse; margin: .6rem 0 1.4rem } td, th { padding: .2rem .7rem; border-bottom: 1px solid #dde3ea; text-align: left }
td.n { text-align: right; font-variant-numeric: tabular-nums } h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
svg { display: block; margin: .4rem 0 1.2rem } text { font: 12px system-ui, sans-serif; fill: #56606b } .scroll { overflow-x: auto }
@media (prefers-color-scheme: dark) { body { background: #14181d; color: #dfe5ec } td, th { border-color: #333c46 } text { fill: #9aa5b1 } }
"""
WIDTH, HEIGHT, LEFT, BOTTOM = 720, 200, 64, 28
MOST_ROWS = 200


def number(value):
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value)


def show(value):
    x = number(value)
    if x is None:
        return html.escape(json.dumps(value) if isinstance(value, (dict, list)) else str(value))
    return f"{x:,.0f}" if x == int(x) or abs(x) >= 1000 else f"{x:.4g}"


def cell(value):
    return f'<td class="n">{show(value)}</td>' if number(value) is not None else f"<td>{show(value)}</td>"


def rows_table(rows):
    keys = list(dict.fromkeys(key for row in rows for key in row))
    head = "".join(f"<th>{html.escape(key)}</th>" for key in keys)
    shown = rows[:MOST_ROWS]
    body = "".join("<tr>" + "".join(cell(row.get(key, "")) for key in keys) + "</tr>" for row in shown)
    left_out = f"<p>{len(rows) - len(shown)} more rows are not shown.</p>" if len(rows) > len(shown) else ""
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>{left_out}'


def plot(name, x_name, points):
    """A line over points (x, y); the axis of y starts at 0, so that a slope shows at its true size."""
    x0, x1 = points[0][0], points[-1][0]
    top = max(y for _, y in points) * 1.05 or 1
    at = lambda x, y: (LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - 8), HEIGHT - BOTTOM - y / top * (HEIGHT - BOTTOM - 8))
    line = " ".join(f"{px:.1f},{py:.1f}" for px, py in (at(x, y) for x, y in points))
    grid = ""
    for part in (0, 0.5, 1):
        py = at(x0, top * part)[1]
        grid += (f'<line x1="{LEFT}" x2="{WIDTH - 8}" y1="{py:.1f}" y2="{py:.1f}" stroke="#8885"/>'
                 f'<text x="{LEFT - 6}" y="{py + 4:.1f}" text-anchor="end">{show(round(top * part, 3))}</text>')
    return (f"<h3>{html.escape(name)}</h3><svg viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' role='img'>"
            f"<title>{html.escape(name)} over {html.escape(x_name)}</title>{grid}"
            f'<polyline points="{line}" fill="none" stroke="#2f6fde" stroke-width="1.6"/>'
            f'<text x="{LEFT}" y="{HEIGHT - 8}">{show(x0)}</text>'
            f'<text x="{WIDTH - 8}" y="{HEIGHT - 8}" text-anchor="end">{show(x1)} {html.escape(x_name)}</text></svg>')


def plots(rows):
    """Of an array whose first field grows from row to row; else nothing."""
    if len(rows) < 3:
        return ""
    x_name = next(iter(rows[0]))
    xs = [number(row.get(x_name)) for row in rows]
    if None in xs or any(b <= a for a, b in zip(xs, xs[1:])):
        return ""
    drawn = ""
    for key in list(rows[0])[1:]:
        ys = [number(row.get(key)) for row in rows]
        if None not in ys and min(ys) >= 0:
            drawn += plot(key, x_name, list(zip(xs, ys)))
    return drawn


def section(name, data):
    if isinstance(data, list):
        if not data or not all(isinstance(row, dict) for row in data):
            return f"<p>{html.escape(name)}: {show(data)}</p>"
        drawn = plots(data)
        table = rows_table(data)
        return f"<h2>{html.escape(name)}</h2>" + drawn + (f"<details><summary>the numbers</summary>{table}</details>" if drawn else table)
    plain = {key: value for key, value in data.items() if not isinstance(value, (dict, list))}
    out = f"<h2>{html.escape(name)}</h2>" + (rows_table([{"": key, "value": value} for key, value in plain.items()]) if plain else "")
    for key, value in data.items():
        if isinstance(value, (dict, list)) and value:
            out += section(f"{name}: {key}", value)
    return out


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__.strip())
    body = ""
    for path in sys.argv[2:]:
        try:
            body += section(pathlib.Path(path).stem, json.loads(pathlib.Path(path).read_text()))
        except (OSError, ValueError) as error:
            sys.exit(f"report.py: {path}: {error}")
    page = (f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>Clamor benchmarks</title><style>{STYLE}</style><h1>Clamor benchmarks</h1>"
            f"<p>{html.escape(platform.processor() or platform.machine())}, {html.escape(platform.platform())}</p>{body}</html>\n")
    pathlib.Path(sys.argv[1]).write_text(page)


if __name__ == "__main__":
    main()
