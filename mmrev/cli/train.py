"""``mmrev train``: train a model from a config, on GPUs or without, in one process or several."""
import argparse
import os.path as osp
import sys
from pathlib import Path
from typing import TYPE_CHECKING, List, Optional, Tuple

from mmrev.cli.common import Parser, add_common_arguments, build_runner, join_launcher, load_config
from mmrev.cli.errors import Interrupted, run_command, start_up
from mmrev.problems import ProblemError

if TYPE_CHECKING:
    from mmengine.config import Config

_RESUMED = ('state_dict', 'meta', 'message_hub', 'optimizer')  # what a checkpoint to resume from must have


def main(argv: Optional[List[str]] = None, prog: str = 'mmrev train') -> int:
    """Parse the arguments and train.

    Args:
        argv: Arguments without the program's name; those of the process by default.
        prog: The command as typed.

    Returns:
        The exit status, see `mmrev.cli.main`.
    """
    argv = sys.argv[1:] if argv is None else argv
    return run_command(prog, lambda: train(build_parser(prog).parse_args(argv), prog), '--traceback' in argv)


def build_parser(prog: str) -> argparse.ArgumentParser:
    """The flags of OpenMMLab's training tools."""
    parser = Parser(prog, description='Train a model from a config.')
    parser.add_argument('config', help='config file, or mmrev::FOLDER/NAME.py')
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT',
                        help='go on from this checkpoint; without one, from the latest in the work dir')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision: float16 on a GPU, '
                        'bfloat16 without one')
    parser.add_argument('--auto-scale-lr', action='store_true',
                        help='scale the learning rate with the batch size over auto_scale_lr.base_batch_size')
    add_common_arguments(parser)
    return parser


def train(args: argparse.Namespace, prog: str) -> None:
    """Train as the arguments say; nothing is written before they are checked."""
    join_launcher(args)
    cfg = load_config(args)
    from mmrev.apis import prepare_cpu_processes
    from mmrev.cli.preflight import TRAIN_KEYS, check_config, check_weights
    from mmrev.hooks import ProgressHook, RunReportHook
    apply_flags(cfg, args)
    start = check_start(cfg)
    model = check_config(cfg, TRAIN_KEYS)
    if start is not None:
        other = f'Resume with the config that it was trained with; to start from its weights: --cfg-options ' \
                f'load_from={start[1]}'
        check_weights(model, *start, other if cfg.get('resume') else '')
    progress = ProgressHook()
    try:
        with start_up(f'Mend {args.config}, or override it with --cfg-options KEY=VALUE',
                      over=lambda: progress.started):
            prepare_cpu_processes(cfg)
            build_runner(cfg, [progress, RunReportHook()]).train()
    except KeyboardInterrupt as stop:
        if not osp.exists(osp.join(cfg.work_dir, 'last_checkpoint')):
            raise Interrupted('There is no checkpoint yet to resume from.') from stop
        command = f'{prog} {args.config}' if args.launcher == 'none' else 'the same command with'
        raise Interrupted(f'Resume: {command} --work-dir {cfg.work_dir} --resume') from stop


def apply_flags(cfg: 'Config', args: argparse.Namespace) -> None:
    """Merge ``--amp``, ``--auto-scale-lr`` and ``--resume`` into the config."""
    if args.amp:
        switch_amp_on(cfg)
    if args.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise ProblemError('--auto-scale-lr: the config does not say for which batch size its learning rate is meant',
                            'Add auto_scale_lr=dict(enable=True, base_batch_size=16) to the config')
        cfg.auto_scale_lr.enable = True
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume


def switch_amp_on(cfg: 'Config') -> None:
    """Let the optimizer's wrapper train in mixed precision: mmengine's on a GPU, on the CPU ours."""
    from mmengine.device import get_device
    wrapper = cfg.get('optim_wrapper') or {}
    kind = getattr(wrapper.get('type'), '__name__', wrapper.get('type') or 'OptimWrapper').split('.')[-1]
    on_cpu = get_device() == 'cpu'
    if kind == 'BFloat16OptimWrapper' or kind == 'AmpOptimWrapper' and not on_cpu:
        return
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise ProblemError(f"--amp replaces mmengine's OptimWrapper, but `optim_wrapper.type` is `{kind}`",
                        'Leave --amp out, or set up mixed precision in the config')
    for key in ('loss_scale', 'dtype', 'use_fsdp'):  # of AmpOptimWrapper
        wrapper.pop(key, None)
    cfg.merge_from_dict({'optim_wrapper.type': 'mmrev.BFloat16OptimWrapper'} if on_cpu else
                        {'optim_wrapper.type': 'AmpOptimWrapper', 'optim_wrapper.loss_scale': 'dynamic'})


def check_start(cfg: 'Config') -> Optional[Tuple[dict, str]]:
    """Check the checkpoint that training starts from, if there is a local one; what it holds, and its name."""
    from mmrev.cli.preflight import read_checkpoint
    needed = _RESUMED if cfg.get('resume') else ()
    if cfg.get('load_from'):
        return (read_checkpoint(cfg.load_from, needed), cfg.load_from) if '://' not in cfg.load_from else None
    latest = Path(cfg.work_dir, 'last_checkpoint')
    if not cfg.get('resume') or not latest.exists():
        return None
    file = latest.read_text().strip()
    try:
        return read_checkpoint(file, needed), file
    except ProblemError as error:
        others = sorted(Path(cfg.work_dir).glob('*.pth'), key=lambda path: -path.stat().st_mtime)
        others = [str(path) for path in others if path.absolute() != Path(file).absolute()]
        raise ProblemError(f'{error.what} (named in {latest})', f'Try --resume {others[0]}' if others else
                        f'Remove {cfg.work_dir}, or train into another --work-dir') from error
