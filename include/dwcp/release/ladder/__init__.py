"""The ladder: every selector from the majority class to the product, on the same rows, with the proof beside it.

``climb`` trains what each rung needs and returns a :class:`~dwcp.release.ladder.found.Ladder`; ``page.render`` and
``markdown.ladder_markdown`` print it.
"""
