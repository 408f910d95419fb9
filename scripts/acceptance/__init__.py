"""One command for the day a GPU is there: correctness and figures in parts, restartable. See docs/cluster.md.

``part``: what a part is given and gives; ``parts/``: one file each; ``driver``: runs them, each in its own process;
``report``: the JSON file and its Markdown table.
"""
