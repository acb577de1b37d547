"""``mmrev publish``: write the weights of a checkpoint to a file whose name contains their hash."""
import argparse
from typing import List, Optional

from mmrev.cli.common import Parser, run_command


def main(argv: Optional[List[str]] = None, prog: str = 'mmrev publish') -> int:
    """Publish the file that the command line names; return the exit status, see `mmrev.cli.main`."""
    parser = Parser(prog, description='Write only the weights of a checkpoint (averaged ones if the run had EMAHook) '
                                      'to a file whose name ends in its hash.')
    parser.add_argument('checkpoint', help='file of a training run')
    parser.add_argument('--out', metavar='FILE.pth', help='file to write; the hash is added. Default: the checkpoint')
    return run_command(parser, publish, argv)


def publish(args: argparse.Namespace) -> None:
    """Publish, and print the result."""
    from mmrev.checkpoints import publishing
    print(publishing.publish(args.checkpoint, args.out))
