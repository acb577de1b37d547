"""`mmrev memory` compared with real steps on the CPU: bytes of activations and of the peak, at two sizes.

    python benchmarks/forecast.py                 # all, an hour on two cores
    python benchmarks/forecast.py --only yolox    # configs whose name contains this
    python benchmarks/forecast.py --table         # the figures that were measured so far, as in docs/forecast.md

Bytes are counted when tensors are allocated and freed; activations are all bytes alive except weights, gradients,
optimizer state and the batch. Sizes are small because the steps really run. Each error is the worst of the batches,
the bytes are those of the last.
"""
import gc
import time
from pathlib import Path
from typing import Any, Dict, NamedTuple

import cases

from mmrev.apis.modes import use_mixed_precision
from mmrev.apis.run import load_config
from mmrev.memory.forecast import Counter, Forecaster
from mmrev.memory.training import Batch

MIB = 2**20
OURS = Path(__file__).parents[1] / 'configs'
DETECTOR_SIZES = (128, 160), (192, 256)


class Case(NamedTuple):
    """A config, what is changed in it, and the sizes of its images."""
    config: Any
    sizes: tuple = DETECTOR_SIZES
    options: Dict[str, Any] = {}
    amp: bool = False
    batches: tuple = (1, 2)


def _squares(*sides: int) -> tuple:
    return tuple((side, side) for side in sides)


FASTER, R50 = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 'mmpretrain::resnet/resnet50_8xb32_in1k.py'
PAD = 'model.data_preprocessor.batch_augments'
CASES = {
    'ResNet-50': Case(R50, _squares(96, 160)),
    'ResNet-50, two stages frozen': Case(R50, _squares(96, 160), {'model.backbone.frozen_stages': 2}),
    'ResNet-50, AMP': Case(R50, _squares(96, 160), amp=True),
    'ResNet-50, EMA': Case(R50, _squares(96, 160), {'custom_hooks': [dict(type='EMAHook')]}),
    'ResNet-50, SaveMemoryHook': Case(R50, _squares(96, 160), {'custom_hooks': [dict(type='mmrev.SaveMemoryHook')]}),
    'ResNet-50, InPlaceABNHook': Case(R50, _squares(96, 160), {'custom_hooks': [
        dict(type='mmrev.InPlaceABNHook', relu='leaky')]}),
    'ResNet-50, OptimInBackwardWrapper': Case(R50, _squares(96, 160), {
        'optim_wrapper.type': 'mmrev.OptimInBackwardWrapper'}),
    'ViT-B/16': Case('mmpretrain::vision_transformer/vit-base-p16_32xb128-mae_in1k.py', _squares(224)),
    'Swin-T': Case('mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py', _squares(224)),
    'ConvNeXt-T': Case('mmpretrain::convnext/convnext-tiny_32xb128_in1k.py', _squares(96, 160)),
    'EfficientNet-B4': Case('mmpretrain::efficientnet/efficientnet-b4_8xb32_in1k.py', _squares(96, 160)),
    'MobileNetV3 small': Case('mmpretrain::mobilenet_v3/mobilenet-v3-small_8xb128_in1k.py', _squares(96, 160)),
    'RevBiFPN-S0': Case(OURS / 'revbifpn/revbifpn-s0_8xb128_in1k.py', _squares(96, 160)),
    'RevBiFPN-S3': Case(OURS / 'revbifpn/revbifpn-s3_8xb128_in1k.py', _squares(96, 160)),
    'RevBiFPN-S6': Case(OURS / 'revbifpn/revbifpn-s6_8xb128_in1k.py', _squares(96, 128)),
    'RevViT-S': Case(OURS / 'revvit/revvit-small_8xb256_in1k.py', _squares(224)),
    'RevViT-B': Case(OURS / 'revvit/revvit-base_8xb256_in1k.py', _squares(224)),
    'Rev-Swin-T': Case(OURS / 'revswin/revswin-tiny_16xb64_in1k.py', _squares(224)),
    'PF-ResNet-50 hybrid': Case(OURS / 'parameter_free/pf-resnet50-hybrid_4xb256_in1k.py', _squares(96, 160)),
    'RetinaNet R50-FPN': Case('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'),
    'FCOS R50-FPN': Case('mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'),
    'ATSS R50-FPN': Case('mmdet::atss/atss_r50_fpn_1x_coco.py'),
    'YOLOX-s': Case('mmdet::yolox/yolox_s_8xb8-300e_coco.py'),
    'RTMDet-tiny': Case('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'),
    'DETR R50': Case('mmdet::detr/detr_r50_8xb2-150e_coco.py'),
    'Faster R-CNN R50-FPN': Case(FASTER),
    'Faster R-CNN R50-FPN, SaveMemoryHook': Case(FASTER, options={
        'custom_hooks': [dict(type='mmrev.SaveMemoryHook', level='blocks')]}),
    'Faster R-CNN RevBiFPN-S0': Case(OURS / 'revbifpn/faster_rcnn_revbifpn_s0.py'),
    'Mask R-CNN RevBiFPN-S0': Case(OURS / 'revbifpn/mask_rcnn_revbifpn_s0.py'),
    'Mask R-CNN Swin-T': Case('mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'),
    'DINO R50': Case('mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py', ((224, 288), (256, 320))),
    'Mask2Former R50': Case('mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py', ((96, 128), (128, 160)),
                            {PAD: None}),
}


def read(case: Case) -> Any:
    """Read the config of a case, with its changes."""
    cfg = load_config(str(case.config), dict(case.options))
    if case.amp:
        use_mixed_precision(cfg)
    return cfg


def measure(case: Case) -> Dict[str, Any]:
    """Predicted and counted bytes, for each batch."""
    batches = [Batch(n, *size, objects=5) for size in case.sizes for n in case.batches]
    found: Dict[str, Any] = {}
    for kind, make in (('predicted', Forecaster), ('counted', Counter)):
        begin = time.process_time()
        step = make(read(case))
        results = [step(batch) for batch in batches]
        found[kind] = [dict(activations=r.activations, peak=r.peak) for r in results]
        found[f'{kind}_seconds'] = (time.process_time() - begin) / len(batches)
        del step, results
        gc.collect()
    return dict(found, batches=[list(batch) for batch in batches])


def table(figures: Dict[str, Any]) -> str:
    """Markdown: the counted bytes of the largest batch, and the worst errors."""
    lines = ['| config | batches | activations, MiB | error | peak, MiB | error |', '|---|---|---|---|---|---|']
    for name, row in figures.items():
        if 'failure' in row:
            lines.append(f'| {name} | | | {row["failure"]} | | |')
            continue
        cells = []
        for key in ('activations', 'peak'):
            errors = [a[key] / b[key] - 1 for a, b in zip(row['predicted'], row['counted'])]
            cells += [f'{row["counted"][-1][key] / MIB:,.1f}', f'{max(errors, key=abs) + 0.:+.2%}']
        sizes = ', '.join(f'{n}x{h}x{w}' for n, h, w, _ in row['batches'])
        lines.append(f'| {name} | {sizes} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def main(argv=None):
    """Measure, write the figures after every config, and print the table."""
    args = cases.parser(__doc__, 'work_dirs/benchmark_forecast.json').parse_args(argv)
    print(table(cases.measured(args, CASES, measure, lambda figures: table(figures).splitlines()[-1])))


if __name__ == '__main__':
    main()
