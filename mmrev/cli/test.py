"""``mmrev test``: test a checkpoint, write and draw its predictions."""
import argparse
from typing import List, Optional

from mmrev.cli.common import Parser, add_run_arguments, join_launcher, load_config, run_command


def main(argv: Optional[List[str]] = None, prog: str = 'mmrev test') -> int:
    """Test a checkpoint; return the exit status, see `mmrev.cli.main`."""
    parser = Parser(prog, description='Test a checkpoint.')
    add_run_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', metavar='FILE.pkl', help='write the predictions to this file')
    parser.add_argument('--show', action='store_true', help='show the drawn predictions on the screen')
    parser.add_argument('--show-dir', metavar='FOLDER',
                        help='write the drawn predictions there; for detectors a relative path is in the log folder')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds that --show shows an image')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation: tta_model and tta_pipeline of the '
                        'config, or flipping')
    return run_command(parser, test, argv)


def test(args: argparse.Namespace) -> None:
    """Run the checks, then test. Nothing is written before the checks have passed."""
    join_launcher(args)
    cfg = load_config(args)
    from mmrev.apis.modes import augment_test, check_output, draw_predictions, dump_predictions
    from mmrev.apis.run import build_runner, running
    from mmrev.apis.work_dir import without_traces
    from mmrev.diagnosis.plan import Plan
    from mmrev.hooks import RunReportHook
    cfg.load_from = args.checkpoint
    check_output(args.out, args.checkpoint)
    if args.show or args.show_dir:
        args.show_dir = draw_predictions(cfg, args.show_dir, args.show, args.wait_time)
    if args.tta and cfg.get('test_dataloader') is not None:
        augment_test(cfg)
    Plan(cfg, ('test', ), skip_wrong=args.skip_wrong_annotations).require_none()
    with without_traces(cfg.work_dir):
        runner = build_runner(cfg, [RunReportHook(images=args.show_dir, predictions=args.out)])
        with running(runner, 'test'):
            if args.out:
                dump_predictions(runner, args.out)
            runner.test()
