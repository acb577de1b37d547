"""The command ``mmrev``: ``mmrev train``, ``mmrev test``, and so on."""
import importlib
import sys
from typing import List, Optional

COMMANDS = dict(
    train=('mmrev.cli.train', 'train a model from a config'),
    test=('mmrev.cli.test', 'test a checkpoint, draw its predictions'),
    convert=('mmrev.cli.convert', 'convert a published checkpoint'),
    doctor=('mmrev.doctor', 'say what is installed, and how to mend what is not'))


def main(argv: Optional[List[str]] = None) -> int:
    """Run one subcommand; only then is its module imported, so that ``--help`` and ``doctor`` need no OpenMMLab.

    Args:
        argv: Arguments without the program's name; those of the process by default.

    Returns:
        The exit status: 0, 2 for a mistake in what the user gave, 130 after Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ('-h', '--help'):
        print(_help())
        return 0
    if argv[0] == '--version':
        from mmrev import __version__
        print(f'mmrev {__version__}')
        return 0
    if argv[0] not in COMMANDS:
        print(f'mmrev: error: there is no command `{argv[0]}`\n  Choose from: {", ".join(COMMANDS)}', file=sys.stderr)
        return 2
    return importlib.import_module(COMMANDS[argv[0]][0]).main(argv[1:])


def _help() -> str:
    lines = [f'  {name:8s}{summary}' for name, (_, summary) in COMMANDS.items()]
    return '\n'.join(['usage: mmrev COMMAND ...', '', *lines, '', 'mmrev COMMAND --help says more.'])
