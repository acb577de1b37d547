"""Convert a published RevBiFPN checkpoint into one that mmengine loads into the models of this package.

Examples:
    python tools/model_converters/revbifpn_to_mmrev.py revbifpn_s3.pth.tar revbifpn_s3.pth
    python tools/model_converters/revbifpn_to_mmrev.py model_best.pth.tar mine.pth    # trained with the published code

A file with a published name must have the published sha256, unless --any-hash says otherwise.
"""
import argparse
import sys
from typing import List, Optional

from mmrev.cli.common import Parser
from mmrev.cli.conversion import convert_file
from mmrev.cli.errors import run_command


def main(argv: Optional[List[str]] = None) -> int:
    """Convert the file that the command line names; returns the exit status."""
    return run_command('revbifpn_to_mmrev.py', lambda: run(parse_args(argv)))


def parse_args(argv: Optional[List[str]]) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser('revbifpn_to_mmrev.py', description=__doc__.partition('\n\n')[0])
    parser.add_argument('src', help='published checkpoint (revbifpn_s0.pth.tar ... revbifpn_s6.pth.tar), or one that '
                        'was trained with the published code')
    parser.add_argument('dst', help='file to write, e.g. revbifpn_s0.pth')
    parser.add_argument('--any-hash', action='store_true', help='convert a file that has a published name and another '
                        'content, e.g. your own weights')
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Convert and write."""
    convert_file(args.src, args.dst, lambda: convert(args.src, args.any_hash))


def convert(src: str, any_hash: bool) -> tuple:
    """The converted checkpoint, and what is known about where it comes from."""
    from mmrev import __version__
    from mmrev.converters import published
    content = published.read(src)
    digest = published.sha256_of(src)
    named = published.find_file(src)
    if named is not None and not any_hash:
        published.check_hash(src, named, digest)
    checkpoint = published.convert(content, src)
    checkpoint['meta'].update(converted_from_sha256=digest, mmrev_version=__version__)
    model = next((model for model in published.models() if model.sha256 == digest), None)
    return checkpoint, f'{model.name}, the published file' if model else f'{src}, which is not a published file'


if __name__ == '__main__':
    sys.exit(main())
