"""Predict on images: the same as ``mmrev predict``."""
import sys

from mmrev.cli.predict import main

if __name__ == '__main__':
    sys.exit(main(prog='tools/predict.py'))
