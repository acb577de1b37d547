"""``mmrev memory``: predict the memory of a training step of a config without running it."""
import argparse
from typing import List, Optional

from mmrev.cli.common import Parser, add_config_arguments, load_config, run_command


def main(argv: Optional[List[str]] = None, prog: str = 'mmrev memory') -> int:
    """Print the forecast; return the exit status, see `mmrev.cli.main`."""
    parser = Parser(prog, description='Predict the memory of a training step, without a GPU.')
    add_config_arguments(parser)
    parser.add_argument('--image', type=int, nargs=2, metavar=('H', 'W'), help='padded size; by default the largest')
    parser.add_argument('--batch', type=int, metavar='N', help='images per step; by default as in the config')
    parser.add_argument('--objects', type=int, default=8, metavar='K', help='objects per image (default 8)')
    parser.add_argument('--amp', action='store_true', help='mixed precision, as in mmrev train --amp')
    parser.add_argument('--processes', type=int, default=1, metavar='N', help='data-parallel processes (default 1)')
    parser.add_argument('--depth', type=int, default=2, help='levels of modules in the table (default 2)')
    parser.add_argument('--what-if', action='store_true', help='also predict each method of saving memory')
    parser.add_argument('--gpu-memory', metavar='SIZE', help='such as 12GB; print what fits into it')
    parser.add_argument('--margin', metavar='SIZE', default='1GB', help='memory to leave for CUDA (default 1GB)')
    parser.add_argument('--json', metavar='FILE', help='write the figures in bytes')
    parser.add_argument('--picture', metavar='FILE', help='draw the bytes alive over the step')
    return run_command(parser, memory, argv)


def memory(args: argparse.Namespace) -> None:
    """Predict and print."""
    cfg = load_config(args)
    from mmrev.apis.modes import use_mixed_precision
    from mmrev.memory.command import run
    if args.amp or 'Amp' in str(cfg.get('optim_wrapper')):
        use_mixed_precision(cfg)
    run(cfg, args, use_mixed_precision)
