"""The command ``mmrev``: ``mmrev train``, ``mmrev test``, and so on."""
import importlib
import sys
from typing import List, Optional

COMMANDS = dict(
    train=('mmrev.cli.train', 'train a model from a config'),
    test=('mmrev.cli.test', 'test a checkpoint, draw its predictions'),
    memory=('mmrev.cli.memory', 'predict the memory of a training step'),
    predict=('mmrev.cli.predict', 'predict on images and folders, draw the predictions'),
    publish=('mmrev.cli.publish', 'write the weights of a checkpoint to a file with their hash'),
    check=('mmrev.cli.check', 'print all problems of a config'),
    convert=('mmrev.cli.convert', 'convert a published checkpoint'),
    doctor=('mmrev.doctor', 'show what is installed, and how to fix what is not'))


def main(argv: Optional[List[str]] = None) -> int:
    """Run one subcommand. Its module is imported on demand, so that ``--help`` and ``doctor`` need no OpenMMLab.

    Args:
        argv: Arguments without the program's name; those of the process by default.

    Returns:
        The exit status: 0, 2 for wrong input, 1 for a run that failed after it had begun, 130 after Ctrl-C.
    """
    command, *rest = (sys.argv[1:] if argv is None else argv) or ['--help']
    if command in ('-h', '--help'):
        lines = [f'  {name:8s}{summary}' for name, (_, summary) in COMMANDS.items()]
        print('\n'.join(['usage: mmrev COMMAND ...', '', *lines, '', 'mmrev COMMAND --help shows its options.']))
    elif command == '--version':
        from mmrev import __version__
        print(f'mmrev {__version__}')
    elif command not in COMMANDS:
        print(f'mmrev: error: there is no command `{command}`\n  Choose from: {", ".join(COMMANDS)}', file=sys.stderr)
        return 2
    else:
        return importlib.import_module(COMMANDS[command][0]).main(rest)
    return 0
