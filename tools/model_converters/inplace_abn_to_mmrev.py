"""Convert a published checkpoint of a network with InPlace-ABN into one that mmengine loads into mmrev's.

Examples:
    python tools/model_converters/inplace_abn_to_mmrev.py resnet50.pth.tar resnet50_iabn.pth
    python tools/model_converters/inplace_abn_to_mmrev.py model_best.pth.tar mine.pth --any-hash    # your own weights

The file must have one of the nine published md5 (configs/inplace_abn/metafile.yml), unless --any-hash is given.
The config alone chooses the activation: weights can move between networks that differ in it, as from ReLU to leaky
ReLU.
"""
import sys
from typing import List, Optional

from mmrev.cli import convert


def main(argv: Optional[List[str]] = None) -> int:
    """Convert the file that the command line names; returns the exit status."""
    return convert.main(argv, 'inplace_abn_to_mmrev.py', families=('inplace_abn', ))


if __name__ == '__main__':
    sys.exit(main())
