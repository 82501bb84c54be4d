"""picture.py: the comparison as an SVG: a row for each measurement, a bar
for each engine, the longest of a row as long as the column."""

WIDTH, LEFT, BAR, GAP = 860, 214, 11, 3
COLUMN = WIDTH - LEFT - 190
COLORS = {"ngx_infer": "#0f7b5f", "llama.cpp": "#8d99a6",
          "dasLLAMA": "#b9a27c", "OpenVINO": "#9d8fb8"}
FONT = "font-family=\"system-ui, -apple-system, 'Segoe UI', sans-serif\""


def text(x, y, s, size=12, fill="#24292f", more=""):
    s = str(s).replace("&", "&amp;").replace("<", "&lt;")
    return (f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" '
            f'fill="{fill}" {more}>{s}</text>')


def number(v):
    return f"{v:,.0f}" if v >= 100 else f"{v:.1f}" if v >= 1 else f"{v:.2f}"


def row(y, label, values, unit, ratio):
    """values: [(who, value)], ours first. Returns lines and height."""
    top = max(v for _, v in values)
    height = len(values) * (BAR + GAP)
    out = [text(LEFT - 12, y + height / 2 + 3, label,
                more='text-anchor="end"')]
    for i, (who, v) in enumerate(values):
        at, w = y + i * (BAR + GAP), max(2, COLUMN * v / top)
        us = who == "ngx_infer"
        out += [f'<rect x="{LEFT}" y="{at}" width="{w:.0f}" height="{BAR}" '
                f'rx="2" fill="{COLORS.get(who, "#aaaaaa")}"/>',
                text(LEFT + w + 6, at + BAR - 1.5, f"{number(v)} {unit}", 11,
                     "#0f7b5f" if us else "#57606a",
                     'font-weight="600"' if us else "")]
    if ratio:
        out.append(text(WIDTH - 20, y + height / 2 + 5, ratio, 15, "#0f7b5f",
                        'text-anchor="end" font-weight="700"'))
    return out, height + 10


def draw(path, title, note, sections):
    """sections: [(heading, unit, [(label, [(who, value)], ratio)])]"""
    who = [w for w in COLORS
           if any(w == v[0] for s in sections for r in s[2] for v in r[1])]
    out = [text(24, 34, title, 17, more='font-weight="700"'),
           text(24, 54, note, 11, "#57606a")]
    x = 24
    for w in who:
        out += [f'<rect x="{x}" y="67" width="11" height="11" rx="2" '
                f'fill="{COLORS[w]}"/>', text(x + 16, 77, w, 12)]
        x += 34 + 7 * len(w)
    y = 100
    for heading, unit, rows in sections:
        out += [text(24, y + 12, heading, 13, more='font-weight="600"'),
                f'<line x1="24" x2="{WIDTH - 20}" y1="{y + 19}" '
                f'y2="{y + 19}" stroke="#d8dee4"/>']
        y += 29
        for label, values, ratio in rows:
            lines, height = row(y, label, values, unit, ratio)
            out += lines
            y += height
        y += 6
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" '
            f'height="{y + 8}" viewBox="0 0 {WIDTH} {y + 8}" {FONT}>')
    card = (f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{y + 7}" '
            'rx="8" fill="#ffffff" stroke="#d8dee4"/>')
    with open(path, "w") as f:
        f.write("\n".join([head, card] + out + ["</svg>", ""]))
