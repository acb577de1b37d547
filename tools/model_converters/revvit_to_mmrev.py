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
from mmrev.cli.errors import UserError, run_command, users_input


def main(argv: Optional[List[str]] = None) -> int:
    """Convert the file that the command line names; returns the exit status."""
    return run_command('revvit_to_mmrev.py', lambda: convert_file(parse_args(argv)))


def parse_args(argv: Optional[List[str]]) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser('revvit_to_mmrev.py', description=__doc__.partition('\n\n')[0])
    parser.add_argument('src', help='checkpoint, e.g. REV_VIT_S.pyth')
    parser.add_argument('dst', help='file to write, e.g. revvit_s.pth')
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
    with users_input('PyTorch is needed', '`mmrev doctor` says how to install what is missing'):
        import torch
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
    from mmrev.converters import published, revvit
    try:
        content = published.read(src)
    except published.CheckpointError as error:
        raise UserError(error.problem, error.remedy) from error
    try:
        state_dict = revvit.convert_checkpoint(content)
    except KeyError as error:
        raise UserError(f'`{src}` is not a checkpoint of a RevViT: {error.args[0]}',
                        "Give one of PySlowFast's RevViT, of mmpretrain's, or of minREV's networks") from error
    meta = dict(converted_from=os.path.basename(src), converted_from_sha256=published.sha256_of(src),
                mmrev_version=__version__)
    return dict(state_dict=state_dict, meta=meta)


if __name__ == '__main__':
    sys.exit(main())
