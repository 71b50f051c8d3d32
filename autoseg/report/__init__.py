"""One page that tells a workspace's whole story: records -> parts of a page -> report/index.html.

`html.py`, `plots.py`, `picture.py` and `page.css` know how things look, `found.py` what there is, `stale.py` what of
it no longer holds, `scores.py` and `intervals.py` the figures, and the `..._part.py` modules what is said about them.
`page.py` puts the parts in order; `stage.py` reads and writes.
"""
