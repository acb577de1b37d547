"""Convert a published checkpoint of a network with parameter-free layers into one that mmengine loads into mmrev's.

Examples:
    python tools/model_converters/pflayer_to_mmrev.py r50_hybrid.pth pf-resnet50-hybrid.pth
    python tools/model_converters/pflayer_to_mmrev.py vit_s_max.pth pf-vit-s-max.pth

The md5 of the published files is not known here; what the result is of is told by its names alone.
"""
import argparse
import os
import sys
from typing import List, Optional

from mmrev.cli.common import Parser
from mmrev.cli.errors import UserError, run_command, users_input


def main(argv: Optional[List[str]] = None) -> int:
    """Convert the file that the command line names; returns the exit status."""
    return run_command('pflayer_to_mmrev.py', lambda: convert_file(parse_args(argv)))


def parse_args(argv: Optional[List[str]]) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser('pflayer_to_mmrev.py', description=__doc__.partition('\n\n')[0])
    parser.add_argument('src', help='published checkpoint, or one that was trained with the published code')
    parser.add_argument('dst', help='file to write, e.g. pf-resnet50-hybrid.pth')
    return parser.parse_args(argv)


def convert_file(args: argparse.Namespace) -> None:
    """Read, convert and write; `dst` appears only when it is complete."""
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
    checkpoint = convert(args.src)
    partial = f'{args.dst}.{os.getpid()}.partial'
    try:
        with users_input(f'`{args.dst}` cannot be written'):
            torch.save(checkpoint, partial)
            os.replace(partial, args.dst)
    finally:
        if os.path.exists(partial):
            os.remove(partial)
    print(f'{args.dst}: {len(checkpoint["state_dict"]):,} tensors of {args.src}')


def convert(src: str) -> dict:
    """The converted checkpoint."""
    from mmrev import __version__
    from mmrev.converters import published, published_pflayer
    try:
        checkpoint = published_pflayer.convert(published.read(src), src)
        checkpoint['meta'].update(converted_from_sha256=published.sha256_of(src), mmrev_version=__version__)
    except published.CheckpointError as error:
        raise UserError(error.problem, error.remedy) from error
    return checkpoint


if __name__ == '__main__':
    sys.exit(main())
