"""Short runs of mmengine's runner: a detector on a toy set, and a regression."""
import copy
import json
import uuid

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from support.toy_detection import CLASSES, write_dataset


def small_run(folder):
    """Overrides for one iteration on two small images, through the config's own pipeline and optimizer."""
    return dict(
        work_dir=str(folder / 'run'),
        model=dict(
            roi_head=dict(bbox_head=dict(num_classes=len(CLASSES))),
            train_cfg=dict(rpn_proposal=dict(max_per_img=50), rcnn=dict(sampler=dict(num=16)))),
        train_dataloader=dict(
            num_workers=0,
            persistent_workers=False,
            dataset=dict(
                data_root=str(folder / 'data'),
                ann_file='annotations.json',
                data_prefix=dict(img='images/'),
                metainfo=dict(classes=CLASSES),
                pipeline={'2': dict(scale=(64, 64))})),
        train_cfg=dict(max_epochs=1),
        val_dataloader=None,
        val_evaluator=None,
        val_cfg=None,
        test_dataloader=None,
        test_evaluator=None,
        test_cfg=None,
        param_scheduler=[dict(type='ConstantLR', factor=1., by_epoch=False)],
        default_hooks=dict(checkpoint=None),
        visualizer=dict(name=f'visualizer_{folder.name}', vis_backends=[]),
        experiment_name=f'configs_{folder.name}')


def write_masks(annotation_file):
    """Give each box of a COCO file a mask: the box itself."""
    content = json.loads(annotation_file.read_text())
    for annotation in content['annotations']:
        x, y, width, height = annotation['bbox']
        annotation['segmentation'] = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    annotation_file.write_text(json.dumps(content))


def detector_config(tmp_path, **variables):
    """mmdet's own Faster R-CNN R50-FPN, one quarter as wide, on a toy set."""
    annotations = write_dataset(tmp_path / 'data')
    cfg = Config.fromfile(base_config(tmp_path))
    data = dict(data_root=str(tmp_path / 'data') + '/', ann_file=annotations.name, data_prefix=dict(img='images/'),
                metainfo=dict(classes=CLASSES))
    cfg.merge_from_dict(dict(
        model=dict(
            backbone=dict(base_channels=16, init_cfg=None),
            neck=dict(in_channels=[64, 128, 256, 512], out_channels=16),
            rpn_head=dict(in_channels=16, feat_channels=16),
            roi_head=dict(bbox_head=dict(num_classes=2, in_channels=16, fc_out_channels=16),
                          bbox_roi_extractor=dict(out_channels=16))),
        train_dataloader=dict(dataset=data, num_workers=0, persistent_workers=False),
        val_dataloader=dict(dataset=data, num_workers=0, persistent_workers=False),
        val_evaluator=dict(ann_file=str(annotations)),
        train_cfg=dict(max_epochs=1), work_dir=str(tmp_path / 'work'),
        custom_hooks=[dict(type='mmrev.InPlaceABNHook')], **variables))
    for split in ('train', 'val'):
        for step in cfg[f'{split}_dataloader'].dataset.pipeline:
            if step.type == 'Resize':
                step.scale = (96, 96)
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    return cfg


def base_config(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text("_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py', "
                    "'mmdet::_base_/datasets/coco_detection.py', 'mmdet::_base_/schedules/schedule_1x.py', "
                    "'mmdet::_base_/default_runtime.py']\n")
    return path


def build_runner(cfg, **changed):
    """mmengine keeps visualizers and loggers by their names."""
    name = uuid.uuid4().hex
    visualizer = dict(type='mmdet.DetLocalVisualizer', name=name, vis_backends=[])
    return Runner.from_cfg({**copy.deepcopy(cfg), **changed, 'experiment_name': name, 'visualizer': visualizer})


class Regression(BaseModel):
    """Weights of its norm cross zero in training."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.LeakyReLU(), nn.Conv2d(8, 2, 1))
        self.body[1].weight.data = torch.tensor([-.5, .5, -.02, .02, .01, -.01, .015, 1.])

    def forward(self, inputs, mode='tensor'):
        y = self.body(inputs)
        return dict(loss=((y - 1)**2).mean()) if mode == 'loss' else y


def train_regression(work_dir, epochs, hooks, **kwargs):
    inputs = torch.randn(8, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    runner = Runner(
        Regression(), str(work_dir), dict(dataset=[dict(inputs=x) for x in inputs], batch_size=4,
                                          collate_fn=dict(type='default_collate'),
                                          sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(by_epoch=True, max_epochs=epochs), custom_hooks=hooks, experiment_name=uuid.uuid4().hex,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.2, momentum=0.9)), **kwargs)
    runner.train()
    average = next((h.ema_model.module for h in runner.hooks if hasattr(h, 'ema_model')), runner.model)
    return [m.eval()(inputs) for m in (runner.model, average)]
