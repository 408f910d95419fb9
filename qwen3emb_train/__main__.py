"""python -m qwen3emb_train PROGRAM key=value ...   (also under ``accelerate launch -m``)

Nothing heavy is imported before a program really runs: ``--help`` answers at once.
"""

import sys

from qwen3emb_train.cli.front_door import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
