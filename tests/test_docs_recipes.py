"""Every config of docs/recipes.md builds as it stands there and trains; no weight of it is left without a gradient."""
import re
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('mmdet')
from mmdet.structures import DetDataSample  # noqa: E402
from mmdet.structures.mask import BitmapMasks  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.model import revert_sync_batchnorm  # noqa: E402
from mmengine.registry import MODELS, DefaultScope  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402
from torch import distributed  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

TEXT = (Path(__file__).parents[1] / 'docs/recipes.md').read_text(encoding='utf-8')
BLOCKS = {match.group(2): match.group(1) for match in re.finditer(r'```python\n(# (.*?)\n.*?)```', TEXT, re.DOTALL)}
DETECTORS = ['ATSS', 'Cascade R-CNN', 'DETR', 'DINO', 'FCOS', 'Mask2Former', 'RTMDet-L', 'RetinaNet', 'YOLOX-S']
NETWORKS = ['Rev-Swin-T', 'RevBiFPN-S0', 'RevViT-B']
SMALL = {  # fewer blocks of the same widths
    'RevSwin': dict(embed_dims=96, depths=(1, 1, 1, 1), num_heads=(3, 3, 3, 3)),
    'RevViT': dict(embed_dims=768, num_layers=1, num_heads=12, feedforward_channels=96),
    'RevBiFPN': 's0',
}
HEIGHT, WIDTH = 64, 96


def test_the_document_has_each_detector_with_each_backbone():
    assert sorted(BLOCKS) == [f'{detector}, {network}' for detector in DETECTORS for network in NETWORKS]


def config(name, folder, reversible=False):
    """A block, with fewer layers."""
    (folder / 'recipe.py').write_text(BLOCKS[name])
    cfg = Config.fromfile(folder / 'recipe.py')
    backbone = cfg.model.backbone
    backbone.update(arch=SMALL[backbone.type.split('.')[-1]], reversible=reversible)
    for part in (cfg.model, cfg.model.get('panoptic_head', {})):
        for key in ('encoder', 'decoder', 'transformer_decoder', 'pixel_decoder'):
            if 'num_layers' in part.get(key, {}):
                part[key].num_layers = 1
            elif 'encoder' in part.get(key, {}):
                part[key].encoder.num_layers = 1
    if 'num_queries' in cfg.model:
        cfg.model.num_queries = 20
    if 'roi_head' in cfg.model:
        cfg.model.train_cfg.rpn_proposal.max_per_img = 50
        for stage in cfg.model.train_cfg.rcnn:
            stage.sampler.num = 16
    cfg.model.data_preprocessor.batch_augments = None  # which make images larger
    return cfg


def build(cfg):
    with DefaultScope.overwrite_default_scope('mmdet'):
        torch.manual_seed(0)
        model = revert_sync_batchnorm(MODELS.build(cfg.model))
        model.init_weights()
    return model.train()


def batch(with_masks):
    """Two images with a dark and a bright box each, and masks that fill them."""
    inputs, samples = [], []
    for i in range(2):
        boxes = torch.tensor([[4. + 8 * i, 4, 40, 44], [50, 10 + 4 * i, 90, 60]])
        masks = np.zeros((2, HEIGHT, WIDTH), np.uint8)
        image = torch.full((3, HEIGHT, WIDTH), 128, dtype=torch.uint8)
        for mask, value, (left, top, right, bottom) in zip(masks, (20, 235), boxes.long().tolist()):
            mask[top:bottom, left:right] = 1
            image[:, top:bottom, left:right] = value
        sample = DetDataSample(metainfo=dict(img_id=i, img_shape=(HEIGHT, WIDTH), ori_shape=(HEIGHT, WIDTH),
                                             scale_factor=(1., 1.)))
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 1]))
        if with_masks:
            sample.gt_instances.masks = BitmapMasks(masks, HEIGHT, WIDTH)
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        inputs.append(image)
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def loss_of(model, inner=None):
    """The loss of one batch."""
    inner = inner or model
    with DefaultScope.overwrite_default_scope('mmdet'):
        data = inner.data_preprocessor(batch(type(inner).__name__ == 'Mask2Former'), True)
        torch.manual_seed(1)  # samplers and noised queries draw
        return inner.parse_losses(model(**data, mode='loss'))[0]


@pytest.mark.slow
@pytest.mark.parametrize('name', BLOCKS)
def test_a_recipe_builds_and_trains_and_each_weight_gets_a_gradient(name, tmp_path):
    model = build(config(name, tmp_path))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    first = loss_of(model)
    first.backward()
    assert torch.isfinite(first)
    without = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert [key for key in without if key.startswith(('backbone.', 'neck.'))] == []
    before = {key: p.detach().clone() for key, p in model.backbone.named_parameters() if p.requires_grad}
    optimizer.step()
    assert any((p != before[key]).any() for key, p in model.backbone.named_parameters() if key in before)


@pytest.mark.slow
@pytest.mark.parametrize('detector', ['RetinaNet', 'DETR'])
def test_the_reversible_network_has_the_gradients_of_the_plain_one(detector, tmp_path):
    gradients = []
    for reversible in (False, True):
        model = build(config(f'{detector}, RevBiFPN-S0', tmp_path, reversible))
        loss_of(model).backward()
        gradients.append({key: p.grad for key, p in model.backbone.named_parameters()})
    largest = max(plain.norm() for plain in gradients[0].values() if plain is not None)
    for key, plain in gradients[0].items():
        assert (plain is None) == (gradients[1][key] is None), key
        if plain is not None:
            assert (gradients[1][key] - plain).norm() <= 1e-3 * plain.norm() + 1e-5 * largest, key


@pytest.mark.slow
@pytest.mark.parametrize('detector', ['RetinaNet', 'DETR'])
def test_several_steps_in_a_process_group_need_no_search_for_unused_parameters(detector, tmp_path):
    distributed.init_process_group('gloo', store=distributed.HashStore(), rank=0, world_size=1)
    try:
        model = build(config(f'{detector}, RevBiFPN-S0', tmp_path))
        wrapped = DistributedDataParallel(model)
        for _ in range(2):  # the second step is where one that has waited in vain stops
            loss_of(wrapped, model).backward()
    finally:
        distributed.destroy_process_group()
