"""A rendered notebook in the site's own markup."""

from __future__ import annotations

import base64

import pytest

from handwave_site.jupyter_pages import restyle

SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="72pt" height="36pt"><g fill="#000"/></svg>'
IMAGE = "data:image/svg+xml;base64," + base64.b64encode(SVG.encode()).decode()


def cell(number: int, inside: str) -> str:
    return f'<div class="jp-Cell" id="cell-id=cell-{number}">{inside}</div>'


def code(markup: str) -> str:
    return (
        '<div class="jp-Editor"><style>.x{color:red}</style><div class="highlight-ipynb">'
        f"<pre><span></span>{markup}</pre></div>"
        '<div class="clipboard-copy-txt">twice</div></div>'
    )


def output(kind: str, inside: str) -> str:
    return f'<div class="jp-OutputArea-output" data-mime-type="{kind}">{inside}</div>'


def test_prose_keeps_its_headings_and_loses_their_pilcrows() -> None:
    heading = '<h2 id="a">A<a class="anchor-link" href="#a">¶</a></h2>'
    prose = f'<div class="jp-RenderedMarkdown">{heading}</div>'
    assert restyle(cell(0, prose), {})[0] == '<h2 id="a">A</h2>'


def test_code_becomes_what_a_fence_becomes() -> None:
    page, _ = restyle(cell(0, code('<span class="n">x</span> &lt; 1')), {})
    assert '<div class="language-python highlight"><pre><span></span><code>' in page
    assert '<span class="n">x</span> &lt; 1' in page
    assert "twice" not in page


def test_no_style_and_no_script_is_left() -> None:
    page = restyle(f"<script>1</script><style>a{{}}</style>{cell(0, code('x'))}", {})[0]
    assert "<style" not in page
    assert "<script" not in page


def test_output_that_arrived_in_pieces_is_one() -> None:
    pieces = output("text/plain", "<pre>one\n</pre>\n") + output("text/plain", "<pre>two\n</pre>\n")
    page = restyle(cell(0, pieces), {})[0]
    assert page.count("language-text") == 1
    assert "<code>one\ntwo\n</code>" in page


def test_a_figure_becomes_a_file_of_both_schemes_with_size_and_alt() -> None:
    drawing = output("image/svg+xml", f'<img src="{IMAGE}">')
    page, figures = restyle(cell(3, drawing), {"cell-3": 'a "dot"'})
    assert list(figures) == ["figure-1.svg"]
    assert "prefers-color-scheme" in figures["figure-1.svg"]
    assert 'alt="a &quot;dot&quot;"' in page
    assert 'width="96"' in page
    assert 'height="48"' in page


def test_a_figure_without_alt_text_is_refused() -> None:
    drawing = output("image/svg+xml", f'<img src="{IMAGE}">')
    with pytest.raises(ValueError, match=r'cell-3 draws; say what is to be seen: # %% alt="…"'):
        restyle(cell(3, drawing), {"cell-3": ""})


def test_a_cell_that_writes_to_stderr_is_refused() -> None:
    warning = output("application/vnd.jupyter.stderr", "<pre>UserWarning: old</pre>")
    with pytest.raises(ValueError, match=r"cell-0 writes to stderr, 'UserWarning: old'"):
        restyle(cell(0, warning), {})
