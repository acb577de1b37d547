"""Convert a published RevBiFPN checkpoint into one that mmengine loads into the models of this package.

Examples:
    python tools/model_converters/revbifpn_to_mmrev.py revbifpn_s3.pth.tar revbifpn_s3.pth
    python tools/model_converters/revbifpn_to_mmrev.py model_best.pth.tar mine.pth    # trained with the published code

A file with a published name must have the published sha256, unless --any-hash is given.
"""
import sys
from typing import List, Optional

from mmrev.cli import convert


def main(argv: Optional[List[str]] = None) -> int:
    """Convert the file that the command line names; returns the exit status."""
    return convert.main(argv, 'revbifpn_to_mmrev.py', families=('revbifpn', ))


if __name__ == '__main__':
    sys.exit(main())
