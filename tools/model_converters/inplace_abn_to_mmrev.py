"""Convert a published checkpoint of a network with InPlace-ABN into one that mmengine loads into mmrev's.

Examples:
    python tools/model_converters/inplace_abn_to_mmrev.py resnet50.pth.tar resnet50_iabn.pth
    python tools/model_converters/inplace_abn_to_mmrev.py model_best.pth.tar mine.pth --any-hash    # your own weights

The file must have one of the nine published md5 (configs/inplace_abn/metafile.yml), unless --any-hash says otherwise.
The activation is of the config alone: weights move between networks that differ in it, such as from ReLU to leaky ReLU.
"""
import argparse
import sys
from typing import List, Optional

from mmrev.cli.common import Parser
from mmrev.cli.conversion import convert_file
from mmrev.cli.errors import run_command
from mmrev.problems import ProblemError


def main(argv: Optional[List[str]] = None) -> int:
    """Convert the file that the command line names; returns the exit status."""
    return run_command('inplace_abn_to_mmrev.py', lambda: run(parse_args(argv)))


def parse_args(argv: Optional[List[str]]) -> argparse.Namespace:
    """Read the command line."""
    norms = ('inplace_abn', 'batch_norm')
    parser = Parser('inplace_abn_to_mmrev.py', description=__doc__.partition('\n\n')[0])
    parser.add_argument('src', help='published checkpoint, or one that was trained with the published code')
    parser.add_argument('dst', help='file to write, e.g. resnet50_iabn.pth')
    parser.add_argument('--any-hash', action='store_true', help='convert a file that is none of the published ones, '
                        'e.g. your own weights')
    parser.add_argument('--trained-with', choices=norms, help='norms of such weights: inplace_abn scales by |weight| + '
                        'eps (the default), batch_norm by the weight; of a published file it is known')
    parser.add_argument('--for', choices=norms, dest='target', help='norms of the network that the result is for, if '
                        'others: mmrev.InPlaceABN, or mmrev.BatchNormAct')
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Convert and write."""
    convert_file(args.src, args.dst, lambda: convert(args))


def convert(args: argparse.Namespace) -> tuple:
    """The converted checkpoint, and what is known about where it comes from."""
    from mmrev import __version__
    from mmrev.converters import published, published_inplace_abn
    content = published.read(args.src)
    published_inplace_abn.read_weights(content, args.src)
    md5 = published.md5_of(args.src)
    model = published_inplace_abn.find_model(md5)
    if model is None and not args.any_hash:
        raise published_inplace_abn.unknown(args.src, md5)
    known = model and published_inplace_abn.trained_with(model)
    if known and args.trained_with not in (None, known):
        raise ProblemError(f'`{args.src}` is {model.name}, which was trained with {known}', 'Leave out --trained-with')
    source = known or args.trained_with or 'inplace_abn'
    checkpoint = published_inplace_abn.convert(content, args.src, source, args.target or source)
    checkpoint['meta'].update(converted_from_md5=md5, norm=args.target or source, mmrev_version=__version__)
    return checkpoint, f'{model.name}, the published file' if model else f'{args.src}, which is not a published file'


if __name__ == '__main__':
    sys.exit(main())
