"""Small pieces of HTML; everything that comes from outside is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from segdistill.stats.text import number


def text(value: object) -> str:
    """Escaped text, quotes included.

    >>> text('<b a="1">')
    '&lt;b a=&quot;1&quot;&gt;'
    """
    return escape(str(value), quote=True)


def interval_cell(value: Mapping[str, Any] | None, digits: int = 3, scale: float = 1) -> str:
    """HTML of a table cell's content: the mean, and below it, small, the interval.

    >>> interval_cell({"mean": 0.8, "low": 0.75, "high": 0.85, "n": 9})
    '0.800<small>0.750–0.850</small>'
    """
    if not value or value.get("mean") is None:
        return "—"
    mean = number(value["mean"] * scale, digits)
    if value.get("low") is None or value.get("high") is None:
        return f"{mean}<small>no interval</small>"
    return (
        f"{mean}<small>{number(value['low'] * scale, digits)}–{number(value['high'] * scale, digits)}</small>"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "", caption: str = "") -> str:
    """A table of cells that are HTML already; the first column is the row's head. Scrolls sideways by itself.

    >>> table(["a", "b"], [["1", "2"]])[-70:]
    '<tbody><tr><th scope="row">1</th><td>2</td></tr></tbody></table></div>'
    """
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        "<tr>"
        + "".join((f'<th scope="row">{c}</th>' if k == 0 else f"<td>{c}</td>") for k, c in enumerate(row))
        + "</tr>"
        for row in rows
    )
    style = f' class="{kind}"' if kind else ""
    title = f"<caption>{caption}</caption>" if caption else ""
    rows_html = f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="wide"><table{style}>{title}{rows_html}</table></div>'


def bullet_list(lines: Sequence[str], limit: int = 20) -> str:
    """A list of escaped lines; what exceeds `limit` is folded away, and its number said.

    >>> bullet_list(["a & b"])
    '<ul><li>a &amp; b</li></ul>'
    """
    shown = "".join(f"<li>{text(line)}</li>" for line in lines[:limit])
    rest = "".join(f"<li>{text(line)}</li>" for line in lines[limit:])
    more = f"<details><summary>{len(lines) - limit} more</summary><ul>{rest}</ul></details>" if rest else ""
    return f"<ul>{shown}</ul>{more}"


STYLE = """
:root{--ink:#1d2329;--soft:#56606b;--line:#dfe4e9;--wash:#f5f7f9;--blue:#0b5fa5;--green:#1c9c55;
--orange:#e0620d}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:#fff;color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",
Arial,sans-serif;font-variant-numeric:tabular-nums}
main{max-width:72rem;margin:0 auto;padding:2.5rem 1.5rem 4rem}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .3rem;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:3rem 0 .8rem;padding-top:1.1rem;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:1.6rem 0 .5rem}
p{max-width:46rem;margin:.5rem 0 .9rem}
.lead{font-size:1.12rem;max-width:48rem}
.soft,caption,figcaption{color:var(--soft)}
.soft{font-size:.9rem}
a{color:var(--blue)}
nav{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;margin:1.2rem 0 0;font-size:.9rem}
nav a{text-decoration:none}
nav a:hover{text-decoration:underline}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(10.5rem,1fr));gap:1px;background:var(--line);
border:1px solid var(--line);border-radius:8px;overflow:hidden;margin:1.4rem 0}
.tiles div{background:#fff;padding:.9rem 1.1rem}
.tiles dt{color:var(--soft);font-size:.85rem}
.tiles dd{margin:0;font-size:1.5rem;font-weight:600;line-height:1.3}
.tiles .none{font-size:1rem;font-weight:400;color:var(--soft);line-height:1.95}
.tiles small{display:block;font-size:.82rem;font-weight:400;color:var(--soft)}
dl.tiles{padding:0}
.verdict{border-left:4px solid var(--line);background:var(--wash);padding:.8rem 1.1rem;
border-radius:0 6px 6px 0;
max-width:48rem;margin:1rem 0}
.verdict.better{border-color:var(--green)}
.verdict.worse{border-color:var(--orange)}
.warn{border-left:4px solid var(--orange);background:#fff7f0;padding:.6rem 1rem;max-width:48rem}
.wide{overflow-x:auto;margin:.6rem 0 1.2rem}
table{border-collapse:separate;border-spacing:0;font-size:.92rem;min-width:min(100%,46rem)}
table.left{min-width:min(100%,32rem)}
caption{text-align:left;font-size:.88rem;padding-bottom:.4rem}
th,td{padding:.42rem .9rem .42rem 0;text-align:right;vertical-align:top;border-bottom:1px solid var(--line)}
th:first-child,td:first-child,.left td,.left th{text-align:left}
thead th{font-weight:600;color:var(--soft);font-size:.85rem;border-bottom:1.5px solid #b6bec6;
vertical-align:bottom}
tbody th{font-weight:500;min-width:7rem}
td{white-space:nowrap}
.left td{white-space:normal}
td small,th small{display:block;color:var(--soft);font-size:.8rem;font-weight:400;white-space:nowrap}
.net{white-space:nowrap}
tbody th small{padding-left:1.2em}
.mark{display:inline-block;width:.7em;height:.7em;border-radius:50%;margin-right:.5em}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr));gap:.5rem 1.5rem;
align-items:start}
.charts.one{grid-template-columns:minmax(0,46rem)}
.charts svg{display:block;width:100%;height:auto}
.charts svg text,.charts svg tspan{font-family:inherit!important}
.panels{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(46%,12.5rem),15rem));gap:.8rem 1rem;
margin:.3rem 0 1.4rem}
.panels.large{grid-template-columns:repeat(auto-fit,minmax(min(100%,18rem),22rem))}
.cases{display:flex;flex-wrap:wrap;gap:0 1.5rem}
.cases h4{margin:.8rem 0 .5rem}
figure{margin:0}
figure img{display:block;width:100%;height:auto;border-radius:4px;background:#111}
figcaption{font-size:.85rem;line-height:1.35;padding-top:.35rem}
figcaption b{color:var(--ink);font-weight:500}
.key{display:inline-block;width:1.1em;height:.25em;border-radius:2px;vertical-align:middle;
margin:0 .35em 0 .1em}
.scroll{max-height:32rem;overflow:auto;border:1px solid var(--line);border-radius:6px}
.scroll table{width:100%}
.scroll th,.scroll td{padding:.3rem .8rem}
.scroll thead th{position:sticky;top:0;background:#fff;z-index:1}
th button{all:unset;cursor:pointer}
.scroll th:first-child{white-space:nowrap;position:sticky;left:0;background:#fff}
.scroll thead th:first-child{z-index:2}
th button:focus-visible,tr:focus-visible{outline:2px solid var(--blue);outline-offset:2px}
th[aria-sort] button{color:var(--ink)}
th[aria-sort=ascending] button::before{content:"\\2191  "}
th[aria-sort=descending] button::before{content:"\\2193  "}
.scroll .words{text-align:left}
tr[data-show]{cursor:pointer}
tr[data-show]:hover>*{background:var(--wash)}
tr[data-show] th{color:var(--blue);text-decoration:underline;text-underline-offset:3px}
pre{background:var(--wash);border-radius:6px;padding:1rem;overflow-x:auto;font:.84rem/1.5 ui-monospace,
SFMono-Regular,Menlo,
Consolas,"DejaVu Sans Mono",monospace}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.88em;
overflow-wrap:anywhere}
summary{cursor:pointer;color:var(--blue)}
dialog{border:1px solid var(--line);border-radius:10px;padding:1.2rem 1.4rem;width:min(64rem,94vw);
max-height:92vh;color:inherit}
dialog::backdrop{background:rgba(20,26,32,.5)}
dialog h3{margin-top:0;padding-right:5rem}
dialog .panels{grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr))}
dialog figure{max-width:30rem}
dialog button{position:absolute;top:1rem;right:1.2rem;font:inherit;font-size:.9rem;
border:1px solid var(--line);background:#fff;
border-radius:6px;padding:.2rem .8rem;cursor:pointer}
footer{margin-top:3rem;padding-top:1rem;border-top:1px solid var(--line);color:var(--soft);font-size:.88rem}
@media(max-width:40rem){.panels{grid-template-columns:1fr 1fr}
main{padding:1.4rem 1rem 3rem}body{font-size:15px}h1{font-size:1.5rem}
.tiles{grid-template-columns:1fr 1fr}.tiles div{padding:.7rem .8rem}.tiles dd{font-size:1.2rem}
.wide tbody th,.wide thead th:first-child{position:sticky;left:0;background:#fff;z-index:1}
tbody th{min-width:5.5rem}}
@media print{@page{margin:15mm}body{font-size:10pt}main{max-width:none;padding:0}nav,dialog{display:none}
.scroll{max-height:none;overflow:visible;border:0}.wide{overflow:visible}.scroll table{font-size:7.5pt}
.scroll th,.scroll td{padding:.15rem .3rem}
.scroll thead th,.scroll th:first-child{position:static}
h4{break-after:avoid}h2,h3{break-after:avoid}
figure,.verdict,.tiles,tr{break-inside:avoid}.charts{grid-template-columns:1fr 1fr 1fr}

.panels{grid-template-columns:repeat(4,1fr)}pre{white-space:pre-wrap}a{color:inherit}
tr[data-show] th{color:inherit;text-decoration:none}*{-webkit-print-color-adjust:exact;
print-color-adjust:exact}}
"""

SCRIPT = """
"use strict";
document.querySelectorAll("table.sortable").forEach(table => {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up === 1 ? "ascending" : "descending");
    const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const order = (a, b) => {
      const x = key(a), y = key(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      return up * (isNaN(x) || isNaN(y) ? x.localeCompare(y, "en", {numeric: true}) : x - y);
    };
    body.append(...[...body.rows].sort(order));
  }));
});
addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach(fold => { fold.open = true; });
});
const dialog = document.querySelector("dialog");
if (dialog) {
  const show = row => {
    const source = document.getElementById(row.dataset.show);
    dialog.querySelector("h3").textContent = source.dataset.title;
    const copies = [...source.children].map(child => child.cloneNode(true));
    dialog.querySelector(".panels").replaceChildren(...copies);
    dialog.showModal();
  };
  document.querySelectorAll("tr[data-show]").forEach(row => {
    row.addEventListener("click", () => show(row));
    row.addEventListener("keydown", event => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); show(row); }
    });
  });
  dialog.querySelector("button").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
}
"""


def page(title: str, body: str) -> str:
    """A whole HTML document; `title` is escaped already.

    >>> page("A", "<p>b</p>").startswith("<!DOCTYPE html>")
    True
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )
