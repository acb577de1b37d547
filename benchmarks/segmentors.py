"""Whole segmentors in training: bytes per image that forward keeps for backward, and at the peak of a step.

    python benchmarks/segmentors.py                  # the table of docs/segmentation.md
    python benchmarks/segmentors.py --only swin      # segmentors whose name contains this
    python benchmarks/segmentors.py --size 256 256 --counted    # in real steps

Each figure is the difference of a step with three images and one with two: weights, their gradients and the state of
the optimizer fall out. Steps run without arithmetic, as in `mmrev memory`, unless `--counted`; bytes are those of all
tensors of the step: preprocessing, network, heads, losses, backward and optimizer.
"""
import argparse
import gc
import warnings
from pathlib import Path
from typing import Any, Dict, List, NamedTuple

from mmengine.logging import MMLogger

from mmrev.apis.run import load_config
from mmrev.memory.forecast import Counter, Forecaster
from mmrev.memory.training import Batch

MIB = 2**20
OURS = Path(__file__).parents[1] / 'configs'
WRN38 = OURS / 'inplace_abn/deeplabv3_iabn-wrn38_8xb2-100k_vistas-672x672.py'
PLAIN = dict(type='mmrev.BatchNormAct', activation='leaky_relu', activation_param=0.01)
SIZES = (512, 512), (1024, 2048)


class Case(NamedTuple):
    """A config, and what is changed in it."""
    config: Any
    options: Dict[str, Any] = {}


UPERNET_R50 = 'mmseg::upernet/upernet_r50_4xb2-80k_cityscapes-512x1024.py'
CASES = {
    'DeepLabV3, WRN38, InPlace-ABN': Case(WRN38),
    'DeepLabV3, WRN38, batch norm': Case(WRN38, {'model.backbone.norm_cfg': dict(PLAIN, _delete_=True),
                                                 'model.decode_head.norm_cfg': dict(PLAIN, _delete_=True)}),
    'SegFormer head, RevBiFPN-S3': Case(OURS / 'revbifpn/segformer_revbifpn-s3_8xb1-160k_cityscapes-1024x1024.py'),
    'SegFormer head, RevBiFPN-S3, `reversible=False`': Case(
        OURS / 'revbifpn/segformer_revbifpn-s3_8xb1-160k_cityscapes-1024x1024.py',
        {'model.backbone.reversible': False}),
    'SegFormer head, RevBiFPN-S3, SaveMemoryHook': Case(
        OURS / 'revbifpn/segformer_revbifpn-s3_8xb1-160k_cityscapes-1024x1024.py',
        {'custom_hooks': [dict(type='mmrev.SaveMemoryHook')]}),
    'FCN, RevBiFPN-S3': Case(OURS / 'revbifpn/fcn_revbifpn-s3_4xb2-80k_cityscapes-512x1024.py'),
    'FCN, HRNet-W48 (mmseg)': Case('mmseg::hrnet/fcn_hr48_4xb2-80k_cityscapes-512x1024.py'),
    'UPerNet, Rev-Swin-T': Case(OURS / 'revswin/upernet_revswin-t_8xb2-160k_cityscapes-512x1024.py'),
    'UPerNet, Swin-T (mmseg)': Case('mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py',
                                    {'model.decode_head.num_classes': 19, 'model.auxiliary_head.num_classes': 19}),
    'UPerNet, R50 (mmseg)': Case(UPERNET_R50),
    'UPerNet, R50, SaveMemoryHook': Case(UPERNET_R50, {'custom_hooks': [
        dict(type='mmrev.SaveMemoryHook', level='blocks')]}),
    'UPerNet, R50, InPlaceABNHook with leaky ReLU': Case(UPERNET_R50, {'custom_hooks': [
        dict(type='mmrev.InPlaceABNHook', relu='leaky')]}),
}


def measure(case: Case, sizes, counted: bool = False) -> List[Dict[str, int]]:
    """Bytes per image at each size: kept for backward, and at the peak."""
    found = []
    for size in sizes:  # the preprocessor pads to the size of the config's crops
        cfg = load_config(str(case.config), {**case.options, 'model.data_preprocessor.size': size})
        step = (Counter if counted else Forecaster)(cfg)
        two, three = step(Batch(2, *size)), step(Batch(3, *size))
        found.append(dict(kept=sum(three.kept(0).values()) - sum(two.kept(0).values()), peak=three.peak - two.peak))
    return found


def main(argv=None) -> int:
    """Print the table, each row as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('--only', default='', help='segmentors whose name contains this text')
    parser.add_argument('--size', type=int, nargs=2, metavar=('HEIGHT', 'WIDTH'), help='in place of the two sizes')
    parser.add_argument('--counted', action='store_true', help='in real steps on the CPU')
    args = parser.parse_args(argv)
    warnings.simplefilter('ignore')
    MMLogger.get_current_instance().setLevel('ERROR')
    sizes = (tuple(args.size), ) if args.size else SIZES
    print('| MiB per image | ' + ' | '.join(f'kept, {h}x{w} | peak, {h}x{w}' for h, w in sizes) + ' |')
    print('|---' * (1 + 2 * len(sizes)) + '|')
    for name, case in CASES.items():
        if args.only.lower() in name.lower():
            figures = measure(case, sizes, args.counted)
            cells = [f'{row["kept"] / MIB:,.0f} | {row["peak"] / MIB:,.0f}' for row in figures]
            print(f'| {name} | {" | ".join(cells)} |', flush=True)
            gc.collect()
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
