"""What would fail only after the first epoch is refused before the first iteration, and nothing is written."""
import json
import shutil
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.datasets import CocoDataset
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from mmengine.structures import BaseDataElement, PixelData
from mmpretrain.structures import DataSample
from pycocotools.coco import COCO

from mmrev.apis import data_check
from mmrev.apis.run import load_config
from mmrev.datasets.checks import check_classes, check_labels, check_mask
from mmrev.datasets.coco import skip_wrong_annotations, wrong_entries
from mmrev.hooks.sanity_hook import _read
from mmrev.problems import ProblemError
from mmrev.side_effects import random_states_kept, unnoticed
from support import toy_classification, toy_detection
from support.commands import forked, said

pytestmark = pytest.mark.slow

LATE = {  # lines of a config, and what is said of them
    'a metric of masks without masks': (
        "val_evaluator = dict(ann_file=DATA_ROOT + 'annotations.json', metric='segm')\n",
        'evaluating with CocoMetric'),
    'a threshold that is a text': ("val_evaluator = dict(ann_file=DATA_ROOT + 'annotations.json', iou_thrs=['x'])\n",
                                   'evaluating with CocoMetric'),
    'a best checkpoint by a metric that is none': (
        "default_hooks = dict(checkpoint=dict(save_best='coco/nope', rule='greater'))\n",
        'CheckpointHook monitors `coco/nope`'),
    'a best checkpoint by the loss, which is no metric': (
        "default_hooks = dict(checkpoint=dict(save_best='loss', rule='less'))\n",
        'CheckpointHook monitors `loss`'),
    'fewer samples than a batch': ('train_dataloader.update(batch_size=64, drop_last=True, batch_sampler=None)\n',
                                   '4 samples give no batch of 64 with drop_last=True'),
    'an epoch that never ends': ("train_dataloader.update(sampler=dict(type='InfiniteSampler'))\n",
                                 'InfiniteSampler never ends the first epoch'),
    'a validation that never ends': ("val_dataloader.update(sampler=dict(type='InfiniteSampler'))\n",
                                     'InfiniteSampler never ends the first epoch of val_dataloader'),
    'an epoch without a sample': (
        "train_dataloader.update(sampler=dict(type='mmpretrain.RepeatAugSampler', num_repeats=0))\n",
        'RepeatAugSampler yields no sample'),
    'a missing meta key': ("val_dataloader['dataset']['pipeline'][3]['meta_keys'] = ('img_path', 'img_shape')\n",
                           'validating two samples'),
}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    toy_detection.write_dataset(folder / 'detection', size=32)
    toy_classification.write_dataset(folder / 'classes', num_images=4)
    return folder


@pytest.mark.parametrize('mistake', LATE)
def test_it_is_refused_before_anything_is_written(mistake, data, tmp_path):
    lines, message = LATE[mistake]
    text = toy_detection.config_text(data / 'detection').replace('(64, 64)', '(32, 32)')
    (tmp_path / 'config.py').write_text(text + lines)
    status, errors = forked('train', 'config.py', cwd=tmp_path)
    assert status == 2 and message in said(errors)[0], errors
    assert [path.name for path in tmp_path.iterdir()] == ['config.py']


def test_more_classes_than_there_are_for_an_accuracy_are_refused(data, tmp_path):
    (tmp_path / 'config.py').write_text(toy_classification.config_text(
        data / 'classes', 4, val_evaluator=dict(type='Accuracy', topk=(1, 9))))
    status, errors = forked('train', 'config.py', cwd=tmp_path)
    assert status == 2 and 'evaluating with Accuracy' in said(errors)[0]
    assert [path.name for path in tmp_path.iterdir()] == ['config.py']


def test_a_class_folder_that_validation_lacks_is_named(data, tmp_path):
    shutil.copytree(data / 'classes/1', tmp_path / 'val/1')
    (tmp_path / 'config.py').write_text(toy_classification.config_text(data / 'classes', 4) + (
        "val_dataloader = dict(train_dataloader, dataset=dict(train_dataloader['dataset'], data_prefix='val'))\n"))
    status, errors = forked('train', 'config.py', cwd=tmp_path)
    assert status == 2 and 'differ: only train has 0' in said(errors)[0], errors


class Classes:
    def __init__(self, *classes):
        self.metainfo = dict(classes=classes)


def test_classes_must_agree_and_be_named_once():
    check_classes(dict(train=Classes('a', 'b'), val=Classes('a', 'b')))
    with pytest.raises(ProblemError, match='`a` twice'):
        check_classes(dict(train=Classes('a', 'a')))
    with pytest.raises(ProblemError, match='their order differs'):
        check_classes(dict(train=Classes('a', 'b'), val=Classes('b', 'a')))


class Head:
    def __init__(self, num_classes, **attributes):
        self.num_classes = num_classes
        self.__dict__.update(attributes)


def test_the_head_of_a_segmentor_has_at_least_as_many_classes_as_the_data():
    for head in (Head(2, out_channels=2), Head(2, out_channels=1), Head(1, out_channels=1), Head(9)):
        check_classes(dict(train=Classes('a', 'b')), SimpleNamespace(decode_head=head))
    with pytest.raises(ProblemError, match='decode_head has num_classes=2, train_dataloader has 3'):
        check_classes(dict(train=Classes('a', 'b', 'c')), SimpleNamespace(decode_head=Head(2)))


@pytest.mark.parametrize('shape', [(4, 5, 3), (3, 4, 5), (1, 5, 4)])
def test_a_mask_of_colors_or_of_another_size_is_named(shape):
    def check_shape(shape, size=(4, 5)):
        truth = BaseDataElement(metainfo=dict(seg_map_path='mask.png', ori_shape=(8, 10)),
                                gt_sem_seg=PixelData(data=torch.ones(shape)))
        return check_mask('sample 3', dict(inputs=torch.zeros(3, *size), data_samples=truth),
                          SimpleNamespace(decode_head=Head(11)))

    assert check_shape((1, 4, 5)) == check_shape((1, 8, 10)) == {1}
    with pytest.raises(ProblemError, match='sample 3: the mask `mask.png` has shape'):
        check_shape(shape)


def test_masks_that_hold_no_class_are_refused_or_get_a_warning_where_not_all_are_read():
    def sample(*labels):
        truth = BaseDataElement(metainfo=dict(seg_map_path='mask.png'), gt_sem_seg=PixelData(
            data=torch.tensor(labels).repeat(32).view(1, 8, 8)))
        return dict(inputs=torch.rand(3, 8, 8), data_samples=truth)

    model = SimpleNamespace(decode_head=Head(2, ignore_index=255))
    loader = partial(SimpleNamespace, batch_size=1, collate_fn=pseudo_collate)
    assert _read('train', loader(dataset=[sample(0, 255), sample(0, 1)]), model) == []
    for samples in ([sample(0, 255), sample(0, 0)], [sample(255, 255)]):
        with pytest.raises(ProblemError, match='and 255 is ignored'):
            _read('train', loader(dataset=samples), model)
    for samples in ([sample(0, 255), sample(0, 0)], [sample(255, 255)], [sample(0, 0)]):
        line, = _read('train', loader(dataset=samples * 65), model)
        assert 'hold only the labels' in line


def test_a_label_that_the_head_does_not_have_is_named_with_its_file():
    def check_pixels(label, head):
        truth = BaseDataElement(metainfo=dict(seg_map_path='mask.png'), gt_sem_seg=PixelData(
            data=torch.tensor([[[0, 1], [label, 1]]])))
        check_labels('sample 3', dict(data_samples=truth), SimpleNamespace(decode_head=head))

    check_pixels(1, Head(1, out_channels=1, ignore_index=255))
    check_pixels(255, Head(2, ignore_index=255))
    with pytest.raises(ProblemError, match='sample 3 .`mask.png`. has the label 37, and model.decode_head has num_cl'):
        check_pixels(37, Head(11, ignore_index=255))
    image = DataSample(metainfo=dict(img_path='x.png')).set_gt_label(9)
    check_labels('sample 3', dict(data_samples=image), SimpleNamespace(head=Head(10)))
    with pytest.raises(ProblemError, match='`x.png`. has the label 9, and model.head'):
        check_labels('sample 3', dict(data_samples=image), SimpleNamespace(head=Head(9)))


def test_the_pass_leaves_random_states_as_they_are(capsys):
    def draw():
        return np.random.rand(), torch.rand(1).item()

    with random_states_kept():
        expected = draw()
    with unnoticed():
        draw()
        print('something')
    assert draw() == expected and capsys.readouterr().out == ''


WRONG = {
    'an unknown `category_id`': dict(category_id='1'), 'an unknown `image_id`': dict(image_id=9),
    'a box outside of its image': dict(bbox=[1e30, 1, 2, 2]),
    'an invalid box': dict(bbox=[1, 2, float('nan'), 4]),
    'an invalid polygon': dict(segmentation=[[1, 2, 3, 4]]),
}


@pytest.mark.parametrize('what', WRONG)
def test_annotations_that_would_be_left_out_in_silence_are_counted_and_the_first_is_named(what, tmp_path):
    file = toy_detection.write_dataset(tmp_path / 'data', num_images=2)
    assert list(wrong_entries(str(file))) == []
    content = json.loads(file.read_text())
    for annotation in content['annotations'][1:3]:
        annotation.update(WRONG[what])
    file.write_text(json.dumps(content))
    (problem, can_skip), = wrong_entries(str(file))
    assert problem.startswith(f'2 with {what}, first annotation 2') and can_skip
    assert not list(wrong_entries(str(file), skipped=True))


def test_wrong_annotations_are_left_out_on_request_and_counted_in_the_log(tmp_path, monkeypatch):
    monkeypatch.setattr(COCO, 'createIndex', COCO.createIndex)
    file = toy_detection.write_dataset(tmp_path / 'data', num_images=2)
    content = json.loads(file.read_text())
    content['annotations'][1]['bbox'] = [1, 2, float('nan'), 4]
    file.write_text(json.dumps(content))
    (tmp_path / 'config.py').write_text(toy_detection.config_text('data') + 'train_cfg = dict(max_epochs=-1)\n')
    assert '--skip-wrong-annotations' in said(forked('train', 'config.py', cwd=tmp_path)[1])[1]
    assert 'max_epochs' in said(forked('train', 'config.py', '--skip-wrong-annotations', cwd=tmp_path)[1])[0]
    said_of_them = []
    monkeypatch.setattr(MMLogger, 'warning', lambda self, text, *args: said_of_them.append(text))
    skip_wrong_annotations()
    dataset = CocoDataset(ann_file=str(file), metainfo=dict(classes=toy_detection.CLASSES), test_mode=True,
                          data_prefix=dict(img=''))
    boxes = [instance['bbox'] for index in range(2) for instance in dataset.get_data_info(index)['instances']]
    assert len(boxes) == len(content['annotations']) - 1 and np.isfinite(boxes).all()
    assert 'Annotations left out: 1 with an invalid box, first annotation 2: [1, 2, nan, 4]' in said_of_them


@pytest.mark.parametrize('change, filtered, message', [
    (lambda content: content.update(annotations=[]), False, 'none of the 4 samples of train_dataloader has an annotat'),
    (lambda content: content.update(annotations=[]), True, 'No sample is left'),
    (lambda content: content['annotations'][0].update(bbox=None), True,
     'data/annotations.json` has 1 with no `bbox`, first annotation 1')])
def test_annotations_from_which_nothing_can_be_learned_are_refused(change, filtered, message, data, tmp_path):
    shutil.copytree(data / 'detection', tmp_path / 'data')
    file = tmp_path / 'data/annotations.json'
    annotations = json.loads(file.read_text())
    change(annotations)
    file.write_text(json.dumps(annotations))
    keep = "train_dataloader['dataset'].update(filter_cfg=None)\n"
    (tmp_path / 'config.py').write_text(toy_detection.config_text('data').replace('(64, 64)', '(32, 32)') +
                                        keep * (not filtered))
    status, errors = forked('train', 'config.py', cwd=tmp_path)
    assert status == 2 and message in ' '.join(said(errors)), errors


def test_check_with_data_reads_every_image(data, tmp_path):
    shutil.copytree(data / 'detection', tmp_path / 'data')
    (tmp_path / 'config.py').write_text(toy_detection.config_text('data').replace('(64, 64)', '(32, 32)'))
    assert forked('check', 'config.py', '--data', cwd=tmp_path)[0] == 0
    for index in (1, 3):
        (tmp_path / f'data/images/{index}.png').write_text('none')
    assert forked('check', 'config.py', cwd=tmp_path)[0] == 0
    with open(tmp_path / 'out.txt', 'w') as out:
        status, errors = forked('check', 'config.py', '--data', cwd=tmp_path, output=out)
    assert status == 2 and '3 problems' in said(errors)[0]
    assert '2 of 4 samples of train_dataloader cannot be read, first: reading sample 1' in (
        tmp_path / 'out.txt').read_text()


def test_check_with_data_shows_its_progress(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data / 'detection', tmp_path / 'data')
    (tmp_path / 'config.py').write_text(toy_detection.config_text('data').replace('(64, 64)', '(32, 32)'))
    monkeypatch.setattr(data_check, '_SECONDS', 0)
    assert not list(data_check.unreadable(load_config('config.py'), ('train', )))
    assert 'train: 2 of 4 samples, 0 unreadable' in capsys.readouterr().err


def test_an_image_of_another_size_than_its_annotation_says_is_named():
    class Resized:
        get_data_info = {0: dict(img_path='0.png', height=320, width=640)}.__getitem__
        __len__ = {0: 1}.__len__

        def __getitem__(self, index):
            return dict(data_samples=BaseDataElement(metainfo=dict(ori_shape=(32, 64))))

    said, = _read('val', SimpleNamespace(dataset=Resized(), collate_fn=list, batch_size=1), None)
    assert said.startswith('`0.png` has 64x32 pixels, and its annotation says 640x320')
    Resized.get_data_info = {0: dict(img_path='0.png', height=32, width=64)}.__getitem__
    assert not _read('val', SimpleNamespace(dataset=Resized(), collate_fn=list, batch_size=1), None)
