"""``mmrev test``: test a checkpoint, write and draw its predictions."""
import argparse
import copy
import os
import sys
from typing import TYPE_CHECKING, List, Optional

from mmrev.cli.common import Parser, add_common_arguments, build_runner, join_launcher, load_config
from mmrev.cli.errors import run_command, start_up
from mmrev.problems import ProblemError

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import nn


def main(argv: Optional[List[str]] = None, prog: str = 'mmrev test') -> int:
    """Parse the arguments and test.

    Args:
        argv: Arguments without the program's name; those of the process by default.
        prog: The command as typed.

    Returns:
        The exit status, see `mmrev.cli.main`.
    """
    argv = sys.argv[1:] if argv is None else argv
    return run_command(prog, lambda: test(build_parser(prog).parse_args(argv)), '--traceback' in argv)


def build_parser(prog: str) -> argparse.ArgumentParser:
    """The flags of OpenMMLab's test tools."""
    parser = Parser(prog, description='Test a checkpoint.')
    parser.add_argument('config', help='config file, or mmrev::FOLDER/NAME.py')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', metavar='FILE.pkl', help='write the predictions to this file')
    parser.add_argument('--show', action='store_true', help='show the drawn predictions on the screen')
    parser.add_argument('--show-dir', metavar='FOLDER',
                        help='write the drawn predictions there; for detectors a relative path is in the log folder')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds that --show shows an image')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation: tta_model and tta_pipeline of the '
                        'config, or flipping')
    add_common_arguments(parser)
    return parser


def test(args: argparse.Namespace) -> None:
    """Test as the arguments say; nothing is written before they are checked."""
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        raise ProblemError(f'--out `{args.out}` must end in .pkl or .pickle', f'Write --out {args.out}.pkl')
    join_launcher(args)
    cfg = load_config(args)
    from mmrev.apis import prepare_cpu_processes
    from mmrev.cli.preflight import TEST_KEYS, check_config, check_weights, read_checkpoint
    from mmrev.hooks import ProgressHook, RunReportHook
    cfg.load_from = args.checkpoint
    if args.show or args.show_dir:
        draw_predictions(cfg, args)
    checkpoint = read_checkpoint(args.checkpoint) if '://' not in args.checkpoint else None
    if args.tta:
        augment(cfg)
    model = check_config(cfg, TEST_KEYS)
    if checkpoint is not None:
        check_weights(model, checkpoint, args.checkpoint, 'Give the config that it was trained with')
    progress = ProgressHook()
    with start_up(f'Mend {args.config}, or override it with --cfg-options KEY=VALUE', over=lambda: progress.started):
        prepare_cpu_processes(cfg)
        runner = build_runner(cfg, [progress, RunReportHook(images=args.show_dir, predictions=args.out)])
        if args.out:
            runner.test_evaluator.metrics.append(dump_metric(model)(out_file_path=args.out))
        runner.test()


def draw_predictions(cfg: 'Config', args: argparse.Namespace) -> None:
    """Switch on the visualization hook of the config: mmdet's or mmpretrain's, which differ in their keys."""
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if hook is None:
        raise ProblemError('--show and --show-dir need a visualization hook, and the config has none',
                        "Add default_hooks=dict(visualization=dict(type='DetVisualizationHook'))")
    if args.show and not (os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY') or sys.platform != 'linux'):
        raise ProblemError('--show needs a display, and there is none here', 'Write files instead: --show-dir drawn')
    name = getattr(hook.type, '__name__', hook.type).split('.')[-1]
    if name == 'VisualizationHook':  # mmpretrain's, which draws every 5000th image by default
        args.show_dir = args.show_dir and os.path.abspath(args.show_dir)  # it takes the path as it is
        hook.update(enable=True, out_dir=args.show_dir, interval=1)
    else:
        hook.update(draw=True, test_out_dir=args.show_dir)
    hook.update(show=args.show, wait_time=args.wait_time)


def dump_metric(model: 'nn.Module') -> type:
    """The evaluator that writes predictions: mmdet's for its models (it packs masks), mmengine's otherwise."""
    if any(base.__module__.startswith('mmdet.') for base in type(model).__mro__):
        from mmdet.evaluation import DumpDetResults
        return DumpDetResults
    from mmengine.evaluator import DumpResults
    return DumpResults


def augment(cfg: 'Config') -> None:
    """Wrap model and test pipeline for test-time augmentation; flip where the config does not say how."""
    from mmengine import ConfigDict
    classifies = cfg.get('default_scope') == 'mmpretrain'
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if 'tta_model' not in cfg:
        cfg.tta_model = dict(type='mmpretrain.AverageClsScoreTTA') if classifies else dict(
            type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))
    if 'tta_pipeline' not in cfg:
        pack = copy.deepcopy(dataset.pipeline[-1])
        if not classifies:
            pack.meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
        flips = [dict(type='RandomFlip', prob=1.), dict(type='RandomFlip', prob=0.)]
        cfg.tta_pipeline = [*dataset.pipeline[:-1], dict(type='TestTimeAug', transforms=[flips, [pack]])]
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline
