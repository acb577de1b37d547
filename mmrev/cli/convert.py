"""``mmrev convert``: convert a published checkpoint for the models of this package."""
import argparse
from pathlib import Path
from typing import List, Optional, Sequence

from mmrev import checkpoints
from mmrev.cli.common import Parser, run_command
from mmrev.problems import phase

FAMILIES = tuple(sorted(path.stem for path in Path(checkpoints.__file__).with_name('families').glob('[!_]*.py')))
NORMS = ('inplace_abn', 'batch_norm')


def main(argv: Optional[List[str]] = None, prog: str = 'mmrev convert', families: Sequence[str] = FAMILIES) -> int:
    """Convert a checkpoint file; return the exit status, see `mmrev.cli.main`."""
    parser = Parser(prog, description='Convert a published checkpoint for the models of mmrev.')
    parser.add_argument('src', help='checkpoint as published, or of a network that was trained with the published code')
    parser.add_argument('dst', help='file to write')
    parser.add_argument('--family', nargs='+', choices=families, default=families,
                        help='publisher of the checkpoint; by default recognized by the names of its weights')
    parser.add_argument('--any-hash', action='store_true', help='also convert a file with a published name but other '
                        'content, or an unpublished network with InPlace-ABN')
    parser.add_argument('--trained-with', choices=NORMS, help='norms of your own network with InPlace-ABN: inplace_abn '
                        'scales by |weight| + eps (the default), batch_norm by the weight')
    parser.add_argument('--for', choices=NORMS, dest='target', help='norms of the network that will load the result, '
                        'if different: mmrev.InPlaceABN or mmrev.BatchNormAct')
    return run_command(parser, convert, argv)


def convert(args: argparse.Namespace) -> None:
    """Convert, write, and print what was written."""
    with phase('PyTorch and PyYAML are needed', '`mmrev doctor` shows how to install what is missing'):
        import yaml  # noqa: F401

        from mmrev.checkpoints import families
        from mmrev.checkpoints.conversion import convert_file
    chosen = [family for name, family in families.FAMILIES.items() if name in args.family]
    print(convert_file(args.src, args.dst, chosen, args.any_hash, trained_with=args.trained_with, target=args.target))
