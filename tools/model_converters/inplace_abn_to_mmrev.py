"""Convert a published checkpoint of a network with InPlace-ABN into one that mmengine loads into mmrev's.

Examples:
    python tools/model_converters/inplace_abn_to_mmrev.py resnet50.pth.tar resnet50_iabn.pth
    python tools/model_converters/inplace_abn_to_mmrev.py model_best.pth.tar mine.pth --any-hash    # your own weights

The file must have one of the nine published md5 (configs/inplace_abn/metafile.yml), unless --any-hash says otherwise.
The activation is of the config alone: weights move between networks that differ in it, such as from ReLU to leaky ReLU.
"""
import argparse
import os
import sys
from typing import List, Optional

from mmrev.cli.common import Parser
from mmrev.cli.errors import UserError, run_command, users_input


def main(argv: Optional[List[str]] = None) -> int:
    """Convert the file that the command line names; returns the exit status."""
    return run_command('inplace_abn_to_mmrev.py', lambda: convert_file(parse_args(argv)))


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


def convert_file(args: argparse.Namespace) -> None:
    """Check, convert and write; `dst` appears only when it is complete."""
    folder = os.path.dirname(os.path.abspath(args.dst))
    if not os.path.isdir(folder):
        raise UserError(f'folder `{folder}` does not exist', 'Make it, or name another one')
    if os.path.isdir(args.dst):
        raise UserError(f'`{args.dst}` is a folder', 'Name the file to write in it')
    if os.path.exists(args.dst) and os.path.exists(args.src) and os.path.samefile(args.src, args.dst):
        raise UserError(f'`{args.dst}` is the file to convert', 'Name another file to write')
    with users_input('PyTorch and PyYAML are needed', '`mmrev doctor` says how to install what is missing'):
        import torch
        import yaml  # noqa: F401
    checkpoint, origin = convert(args)
    partial = f'{args.dst}.{os.getpid()}.partial'
    try:
        with users_input(f'`{args.dst}` cannot be written'):
            torch.save(checkpoint, partial)
            os.replace(partial, args.dst)
    finally:
        if os.path.exists(partial):
            os.remove(partial)
    print(f'{args.dst}: {len(checkpoint["state_dict"]):,} tensors of {origin}')


def convert(args: argparse.Namespace) -> tuple:
    """The converted checkpoint, and what is known about where it comes from."""
    from mmrev import __version__
    from mmrev.converters import published, published_inplace_abn
    try:
        content = published.read(args.src)
        published_inplace_abn.read_weights(content, args.src)
        md5 = published.md5_of(args.src)
        model = published_inplace_abn.find_model(md5)
        if model is None and not args.any_hash:
            raise published_inplace_abn.unknown(args.src, md5)
        known = model and published_inplace_abn.trained_with(model)
        if known and args.trained_with not in (None, known):
            raise UserError(f'`{args.src}` is {model.name}, which was trained with {known}', 'Leave out --trained-with')
        source = known or args.trained_with or 'inplace_abn'
        checkpoint = published_inplace_abn.convert(content, args.src, source, args.target or source)
    except published.CheckpointError as error:
        raise UserError(error.problem, error.remedy) from error
    checkpoint['meta'].update(converted_from_md5=md5, norm=args.target or source, mmrev_version=__version__)
    return checkpoint, f'{model.name}, the published file' if model else f'{args.src}, which is not a published file'


if __name__ == '__main__':
    sys.exit(main())
