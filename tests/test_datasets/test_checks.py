"""What is looked at before training: annotation 0, JPEG files without their end, what is normalized."""
import contextlib
import copy
import json
import os
import pickle
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import LoadAnnotations, Normalize, Resize
from mmdet.evaluation import CocoMetric
from PIL import Image

from mmrev.datasets.checks import (check_apart, check_classes, check_files, check_folders, check_normalization,
                                   check_normalized_alike, check_order, require_plain, shifted_labels,
                                   why_unreadable)
from mmrev.datasets.coco import renumber_zero
from mmrev.problems import ProblemError
from support import toy_detection


def test_annotations_numbered_from_0_give_the_same_precision(tmp_path):
    """Without it, 0.782 of 1."""
    good = json.loads(toy_detection.write_dataset(tmp_path / 'data').read_text())

    def precision(content):
        file = tmp_path / 'annotations.json'
        file.write_text(json.dumps(content))
        metric = CocoMetric(ann_file=str(file))
        metric.dataset_meta = dict(classes=toy_detection.CLASSES)
        renumber_zero(metric)
        for image in content['images']:
            own = [one for one in content['annotations'] if one['image_id'] == image['id']]
            boxes = torch.tensor([one['bbox'] for one in own]).float()
            boxes[:, 2:] += boxes[:, :2]
            labels = torch.tensor([one['category_id'] - 1 for one in own])
            metric.process({}, [dict(img_id=image['id'], ori_shape=(64, 64), pred_instances=dict(
                bboxes=boxes, scores=torch.ones(len(own)), labels=labels))])
        return metric.evaluate(len(content['images']))['coco/bbox_mAP']

    from_zero = copy.deepcopy(good)
    for one in from_zero['annotations']:
        one['id'] -= 1
    assert precision(from_zero) == precision(good) == 1


class Files:
    def __init__(self, *infos):
        self.infos = infos

    def __len__(self):
        return len(self.infos)

    def get_data_info(self, index):
        return self.infos[index]


def test_a_jpeg_without_its_end_is_refused_and_one_with_more_behind_it_is_not(tmp_path):
    file = tmp_path / '1.jpg'
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    small = Image.Exif()
    small[270] = 'a' * 100
    image.save(file, exif=small)
    whole = file.read_bytes()
    file.write_bytes(whole + b'\0' * 100)
    check_files('train', Files(dict(img_path=str(file))))
    file.write_bytes(whole[:-20])
    assert cv2.imread(str(file)) is not None
    with pytest.raises(ProblemError, match='is a JPEG without its end'):
        check_files('train', Files(dict(img_path=str(file))))


def test_why_a_file_is_no_image(tmp_path):
    file = tmp_path / '1.png'
    assert why_unreadable(str(file)) == 'it does not exist' and why_unreadable('/dev/null') == 'it is no regular file'
    for content, why in ((b'', 'it is empty'), (b'<html>', "it begins with b'<html>'")):
        file.write_bytes(content)
        assert why_unreadable(str(file)) == why
    cv2.imwrite(str(file), np.zeros((64, 64, 3), np.uint8))
    file.write_bytes(file.read_bytes()[:60])
    assert why_unreadable(str(file)) == 'it is truncated or damaged'


def test_images_are_normalized_once_and_alike():
    step, nothing = Normalize([100.], [50.]), Normalize([0.], [1.])
    model = SimpleNamespace(data_preprocessor=SimpleNamespace(mean=torch.ones(3), std=torch.ones(3)))
    check_normalization('train', [step], SimpleNamespace(data_preprocessor=SimpleNamespace()))
    check_normalization('train', [nothing], model)
    for steps, owner in (([step], model), ([step, step], None)):
        with pytest.raises(ProblemError, match='normalized twice'):
            check_normalization('train', steps, owner)
    check_normalized_alike(dict(train=[step], val=[step]))
    with pytest.raises(ProblemError, match='in val_dataloader by no step'):
        check_normalized_alike(dict(train=[step], val=[]))


def test_no_image_is_a_mask():
    pairs = [dict(img_path=f'{i}.jpg', seg_map_path=f'{i}.png') for i in range(3)]
    check_apart(dict(train=Files(*pairs[:2]), val=Files(pairs[2])))
    with pytest.raises(ProblemError, match='`0.png` is an image of val_dataloader'):
        check_apart(dict(train=Files(*pairs), val=Files(dict(img_path='0.png'))))


def test_masks_are_resized_in_training_and_not_in_the_pipelines_of_mmseg_for_validation():
    steps = [Resize((8, 8)), LoadAnnotations()]
    for name in ('val', 'test'):
        check_order(name, steps)
    with pytest.raises(ProblemError, match='Resize before LoadAnnotations'):
        check_order('train', steps)


@pytest.mark.parametrize('auxiliary, refused', [(3, True), (150, False), (2, False)])
def test_a_decode_head_that_was_not_told_the_number_of_classes_is_named(auxiliary, refused):
    """Heads may have more classes than the data; STDC's auxiliary head for edges has two."""
    heads = [SimpleNamespace(num_classes=number, out_channels=number) for number in (150, auxiliary)]
    model = SimpleNamespace(decode_head=heads[0], auxiliary_head=heads[1])
    datasets = dict(train=SimpleNamespace(metainfo=dict(classes=['a', 'b', 'c'])))
    with pytest.raises(ProblemError, match='num_classes=150') if refused else contextlib.nullcontext():
        check_classes(datasets, model)


class Command:
    def __reduce__(self):
        return os.mkdir, ('made', )


def test_pickled_annotations_hold_plain_values_and_run_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = dict(a=[1, 2.5, 'x', None, b'y', (1, ), {3}], boxes=np.eye(4, dtype=np.float32), label=np.int64(3))
    for protocol in (0, 2, 4, 5):
        (tmp_path / 'plain.pkl').write_bytes(pickle.dumps(plain, protocol=protocol))
        require_plain('plain.pkl', 'train_dataloader.dataset.ann_file')
    (tmp_path / 'command.pkl').write_bytes(pickle.dumps([Command()]))
    with pytest.raises(ProblemError, match=r'ann_file\): it would run `posix.mkdir`'):
        require_plain('command.pkl', 'train_dataloader.dataset.ann_file')
    assert not (tmp_path / 'made').exists()


def test_a_class_without_an_image_is_found_within_other_data_sets(tmp_path):
    (tmp_path / '3').mkdir()
    (tmp_path / '3/1.HEIC').touch()
    folders = SimpleNamespace(folder_to_idx={'3': 0}, img_prefix=str(tmp_path), extensions=('.png', ),
                              is_valid_file=lambda name: '.png' in name)
    for dataset in (folders, SimpleNamespace(dataset=folders), SimpleNamespace(datasets=[folders])):
        with pytest.raises(ProblemError, match='the class `3` of train_dataloader has files, such as'):
            check_folders('train', dataset)


def test_labels_that_are_shifted_by_a_background_are_warned_of():
    dataset = SimpleNamespace(metainfo=dict(classes=('background', 'a', 'b')), reduce_zero_label=True)
    assert 'has the class `b`' in shifted_labels('train', dataset, {0, 1, 255})
    assert not shifted_labels('train', dataset, {0, 2})
    dataset.reduce_zero_label = False
    assert not shifted_labels('train', dataset, {0, 1})
