"""Convert a checkpoint of PySlowFast's or mmpretrain's RevViT, or of minREV, into one that mmengine loads into mmrev's.

Examples:
    python tools/model_converters/revvit_to_mmrev.py REV_VIT_S.pyth revvit_s.pth
    python tools/model_converters/revvit_to_mmrev.py revvit-small_3rdparty_in1k_20221213-a3a34f5c.pth revvit_s.pth

mmrev also loads mmpretrain's files without conversion.
"""
import sys
from typing import List, Optional

from mmrev.cli import convert


def main(argv: Optional[List[str]] = None) -> int:
    """Convert the file that the command line names; returns the exit status."""
    return convert.main(argv, 'revvit_to_mmrev.py', families=('revvit', 'minrev'))


if __name__ == '__main__':
    sys.exit(main())
