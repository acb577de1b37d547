"""Convert a published checkpoint of a network with parameter-free layers into one that mmengine loads into mmrev's.

Examples:
    python tools/model_converters/pflayer_to_mmrev.py r50_hybrid.pth pf-resnet50-hybrid.pth
    python tools/model_converters/pflayer_to_mmrev.py vit_s_max.pth pf-vit-s-max.pth

The md5 of the published files is not known here; what the result is of is told by its names alone.
"""
import argparse
import sys
from typing import List, Optional

from mmrev.cli.common import Parser
from mmrev.cli.conversion import convert_file
from mmrev.cli.errors import run_command


def main(argv: Optional[List[str]] = None) -> int:
    """Convert the file that the command line names; returns the exit status."""
    return run_command('pflayer_to_mmrev.py', lambda: run(parse_args(argv)))


def parse_args(argv: Optional[List[str]]) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser('pflayer_to_mmrev.py', description=__doc__.partition('\n\n')[0])
    parser.add_argument('src', help='published checkpoint, or one that was trained with the published code')
    parser.add_argument('dst', help='file to write, e.g. pf-resnet50-hybrid.pth')
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Convert and write."""
    convert_file(args.src, args.dst, lambda: convert(args.src))


def convert(src: str) -> tuple:
    """The converted checkpoint, and where it is from."""
    from mmrev import __version__
    from mmrev.converters import published, published_pflayer
    checkpoint = published_pflayer.convert(published.read(src), src)
    checkpoint['meta'].update(converted_from_sha256=published.sha256_of(src), mmrev_version=__version__)
    return checkpoint, src


if __name__ == '__main__':
    sys.exit(main())
