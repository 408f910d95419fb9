"""A page gives its main part as Markdown, in the encoding that it declares."""

import pytest

from data_synth.formats.extract import UnreadableError
from data_synth.formats.web_page import decode_page, read_web_page

PAGE = """<!doctype html><html><head><title>Backups | ACME</title><script>var x = "<p>no</p>";</script></head><body>
<div class="cookie-banner"><p>We value your privacy.</p></div>
<header><svg><title>ACME logo</title></svg><ul><li>Products</ul></header><nav>Home</nav>
<aside class="sidebar">Getting started</aside>
{open}<nav>Docs / Backups</nav><h1>Backups<a class="headerlink" href="#">¶</a></h1>
<p>They are kept for <b>thirty</b>
days.<br>Not longer, and a weekly one of them is kept for a year in another place.</p>
<table><tr><th>Plan<th>Size</tr><tr><td>Free<td>1 | 2 GB</tr></table>
<h2 id="cookies">Code</h2><div class="highlight-python"><pre><span>def</span> f(x):
    if x:
        return 1
</pre></div><ul><li>One<ul><li>Two</ul><li>Three</ul>
<p>Press it.<svg><title>Icon</title></svg></p><p>Was this helpful? <button>Yes</button></p>{close}
<footer>© ACME</footer></body></html>"""
SHOWN = """# Backups

They are kept for thirty days.
Not longer, and a weekly one of them is kept for a year in another place.

| Plan | Size |
| --- | --- |
| Free | 1 \\| 2 GB |

## Code

```python
def f(x):
    if x:
        return 1
```

- One
  - Two
- Three

Press it."""


@pytest.mark.parametrize("mark", ["main", "article", 'div role="main"'])
def test_the_main_part_is_all_that_is_left_of_a_page(mark: str) -> None:
    html = PAGE.replace("{open}", f"<{mark}>").replace("{close}", f"</{mark.split()[0]}>")
    found = read_web_page(html.encode())
    assert (found.title, found.text) == ("Backups | ACME", SHOWN)


def test_a_page_without_marks_keeps_its_text_and_loses_its_frame() -> None:
    text = read_web_page(PAGE.replace("{open}", "<div>").replace("{close}", "</div>").encode()).text
    for kept in ("thirty days.", "| Free | 1", "    if x:\n        return 1"):
        assert kept in text
    for left_out in ("ACME", "Products", "privacy", "Home"):
        assert left_out not in text


@pytest.mark.parametrize(
    ("declaration", "encoding", "words"),
    [
        ('<meta charset="gbk">', "gbk", "当水位上升到上浮子时水泵启动"),
        ("<meta charset=iso-8859-1>", "cp1252", "Die Pumpe läuft – „Schwimmer“ öffnet"),
        ('<meta http-equiv="Content-Type" content="text/html; charset=windows-1251">', "cp1251", "Насос запускается"),
        ('<?xml version="1.0" encoding="Shift_JIS"?>', "cp932", "水位が上に達すると始動します"),
        ('<meta charset="iso-8859-1">', "utf-16", "läuft"),
        ('<meta charset="no-such-thing">', "utf-8", "läuft"),
        ('<meta charset="utf-8">', "cp1251", "Насос запускается когда вода достигнет верхнего поплавка " * 4),
    ],
)
def test_the_declared_encoding_is_used(declaration: str, encoding: str, words: str) -> None:
    assert words in decode_page(f"{declaration}<title>x</title><p>{words}</p>".encode(encoding))


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(UnreadableError, match="binary"):
        decode_page(b"<p>\0\1\2</p>")
