"""Convert a published RevBiFPN checkpoint into one that mmengine loads into the models of this package.

Examples:
    python tools/model_converters/revbifpn_to_mmrev.py revbifpn_s3.pth.tar revbifpn_s3.pth
    python tools/model_converters/revbifpn_to_mmrev.py model_best.pth.tar mine.pth    # trained with the published code

A file with a published name must have the published sha256, unless --any-hash says otherwise.
"""
import argparse
import os
import sys
from typing import List, Optional

from mmrev.cli.common import Parser
from mmrev.cli.errors import UserError, run_command, users_input


def main(argv: Optional[List[str]] = None) -> int:
    """Convert the file that the command line names; returns the exit status."""
    return run_command('revbifpn_to_mmrev.py', lambda: convert_file(parse_args(argv)))


def parse_args(argv: Optional[List[str]]) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser('revbifpn_to_mmrev.py', description=__doc__.partition('\n\n')[0])
    parser.add_argument('src', help='published checkpoint (revbifpn_s0.pth.tar ... revbifpn_s6.pth.tar), or one that '
                        'was trained with the published code')
    parser.add_argument('dst', help='file to write, e.g. revbifpn_s0.pth')
    parser.add_argument('--any-hash', action='store_true', help='convert a file that has a published name and another '
                        'content, e.g. your own weights')
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
    checkpoint, origin = convert(args.src, args.any_hash)
    partial = f'{args.dst}.{os.getpid()}.partial'
    try:
        with users_input(f'`{args.dst}` cannot be written'):
            torch.save(checkpoint, partial)
            os.replace(partial, args.dst)
    finally:
        if os.path.exists(partial):
            os.remove(partial)
    print(f'{args.dst}: {len(checkpoint["state_dict"]):,} tensors of {origin}')


def convert(src: str, any_hash: bool) -> tuple:
    """The converted checkpoint, and what is known about where it comes from."""
    from mmrev import __version__
    from mmrev.converters import published
    try:
        content = published.read(src)
        digest = published.sha256_of(src)
        named = published.find_file(src)
        if named is not None and not any_hash:
            published.check_hash(src, named, digest)
        checkpoint = published.convert(content, src)
    except published.CheckpointError as error:
        raise UserError(error.problem, error.remedy) from error
    checkpoint['meta'].update(converted_from_sha256=digest, mmrev_version=__version__)
    model = next((model for model in published.models() if model.sha256 == digest), None)
    return checkpoint, f'{model.name}, the published file' if model else f'{src}, which is not a published file'


if __name__ == '__main__':
    sys.exit(main())
