"""Train a model from a config: the same as ``mmrev train``."""
import sys

from mmrev.cli.train import main

if __name__ == '__main__':
    sys.exit(main(prog='tools/train.py'))
