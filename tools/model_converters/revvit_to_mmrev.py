"""Convert a checkpoint of PySlowFast's or mmpretrain's RevViT, or of minREV, into one that mmengine loads into mmrev's.

Examples:
    python tools/model_converters/revvit_to_mmrev.py REV_VIT_S.pyth revvit_s.pth
    python tools/model_converters/revvit_to_mmrev.py revvit-small_3rdparty_in1k_20221213-a3a34f5c.pth revvit_s.pth

mmrev loads mmpretrain's without conversion as well.
"""
import argparse
import os
import sys
from typing import List, Optional

from mmrev.cli.common import Parser
from mmrev.cli.conversion import convert_file
from mmrev.cli.errors import run_command
from mmrev.problems import ProblemError


def main(argv: Optional[List[str]] = None) -> int:
    """Convert the file that the command line names; returns the exit status."""
    return run_command('revvit_to_mmrev.py', lambda: run(parse_args(argv)))


def parse_args(argv: Optional[List[str]]) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser('revvit_to_mmrev.py', description=__doc__.partition('\n\n')[0])
    parser.add_argument('src', help='checkpoint, e.g. REV_VIT_S.pyth')
    parser.add_argument('dst', help='file to write, e.g. revvit_s.pth')
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Convert and write."""
    convert_file(args.src, args.dst, lambda: convert(args.src))


def convert(src: str) -> tuple:
    """The converted checkpoint, and where it is from."""
    from mmrev import __version__
    from mmrev.converters import published, revvit
    content = published.read(src)
    try:
        state_dict = revvit.convert_checkpoint(content)
    except KeyError as error:
        raise ProblemError(f'`{src}` is not a checkpoint of a RevViT: {error.args[0]}',
                        "Give one of PySlowFast's RevViT, of mmpretrain's, or of minREV's networks") from error
    meta = dict(converted_from=os.path.basename(src), converted_from_sha256=published.sha256_of(src),
                mmrev_version=__version__)
    return dict(state_dict=state_dict, meta=meta), src


if __name__ == '__main__':
    sys.exit(main())
