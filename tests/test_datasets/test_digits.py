"""The digits data set and the tool that makes it."""
import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('sklearn')
coco = pytest.importorskip('pycocotools.coco')

from mmrev.datasets.digits import CLASSES, DigitsSpec, load_source_digits, run_lengths, split_sources  # noqa: E402

ROOT = Path(__file__).parents[2]
SMALL = ['--train-images', '12', '--val-images', '6', '--quiet']


def load_tool():
    """tools/dataset_converters/digits.py as a module."""
    spec = importlib.util.spec_from_file_location('digits_tool', ROOT / 'tools' / 'dataset_converters' / 'digits.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = load_tool()


@pytest.fixture(scope='module')
def detection(tmp_path_factory):
    out = tmp_path_factory.mktemp('digits') / 'set'
    assert tool.main(['--out', str(out), *SMALL]) == 0
    return out


def hashes(folder):
    """Digest of every file of a folder by its relative path."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob('*')) if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize('task', ['detection', 'classification'])
def test_same_options_give_the_same_bytes_and_another_seed_gives_others(task, tmp_path):
    for name, seed in (('a', '3'), ('b', '3'), ('c', '4')):
        assert tool.main(['--task', task, '--out', str(tmp_path / name), '--seed', seed, *SMALL]) == 0
    assert hashes(tmp_path / 'a') == hashes(tmp_path / 'b')
    assert hashes(tmp_path / 'a') != hashes(tmp_path / 'c')


def test_no_source_digit_occurs_in_both_splits(detection):
    used = {split: {ann['source_digit'] for ann in read(detection, split)['annotations']} for split in ('train', 'val')}
    assert used['train'] and used['val'] and not used['train'] & used['val']


def test_the_split_keeps_a_fifth_of_each_class_for_validation():
    labels = load_source_digits()[1]
    parts = split_sources(labels, seed=0)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(1797))
    share = np.bincount(labels[parts['val']]) / np.bincount(labels)
    assert np.all(np.abs(share - 0.2) < 0.01)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_boxes_and_areas_are_those_of_the_masks(detection, split):
    dataset = coco.COCO(detection / 'annotations' / f'{split}.json')
    assert [category['name'] for category in dataset.loadCats(dataset.getCatIds())] == list(CLASSES)
    for image in dataset.imgs.values():
        annotations = dataset.imgToAnns[image['id']]
        assert 2 <= len(annotations) <= 5
        covered = np.zeros((128, 128), int)
        for annotation in annotations:
            mask = dataset.annToMask(annotation)
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert annotation['bbox'] == box and annotation['area'] == mask.sum()
            assert 18 <= box[3] <= 66  # 24 to 48 pixels for 8 rows, a little less or more ink
            covered += mask
        assert covered.max() == 1  # no digit hides another one


def test_mmdet_reads_boxes_and_masks(detection):
    pytest.importorskip('mmdet')
    from mmdet.registry import DATASETS
    from mmengine.registry import init_default_scope
    init_default_scope('mmdet')
    dataset = DATASETS.build(dict(
        type='CocoDataset', data_root=str(detection), ann_file='annotations/train.json', data_prefix=dict(img='train/'),
        metainfo=dict(classes=CLASSES), pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(type='PackDetInputs')]))
    truth = dataset[0]['data_samples'].gt_instances
    assert len(dataset) == 12 and dataset[0]['inputs'].shape == (3, 128, 128)
    for mask, box in zip(truth.masks.masks, truth.bboxes):
        left, top, right, bottom = box.tensor[0].int().tolist()
        assert mask[top:bottom, left:right].sum() == mask.sum() > 0


def test_run_lengths_begin_with_background_and_go_by_columns():
    mask = np.array([[1, 0], [1, 1]], bool)
    assert run_lengths(mask) == dict(size=[2, 2], counts=[0, 2, 1, 1])
    assert run_lengths(np.zeros((2, 3), bool))['counts'] == [6]


def test_the_classification_set_has_every_source_digit_once_in_folders_by_class(tmp_path):
    assert tool.main(['--task', 'classification', '--out', str(tmp_path / 'set'), '--quiet']) == 0
    labels = load_source_digits()[1]
    files = list((tmp_path / 'set').glob('*/*/*.png'))
    assert sorted(int(file.stem) for file in files) == list(range(1797))
    assert all(labels[int(file.stem)] == int(file.parent.name) for file in files)


def test_an_image_size_of_zero_is_refused(tmp_path, capsys):
    assert tool.main(['--image-size', '0', '--out', str(tmp_path / 'out')]) == 2
    assert '`image_size` must be at least' in capsys.readouterr().err and not (tmp_path / 'out').exists()


def test_a_folder_of_somebody_else_is_refused_and_stays(tmp_path, capsys):
    (tmp_path / 'notes.txt').write_text('mine')
    assert tool.main(['--out', str(tmp_path), '--overwrite', *SMALL]) == 2
    assert 'was not made by this tool' in capsys.readouterr().err
    assert hashes(tmp_path).keys() == {'notes.txt'}


def test_a_set_with_other_options_is_replaced_only_when_asked(detection, tmp_path, capsys):
    out = tmp_path / 'set'
    assert tool.main(['--out', str(out), *SMALL]) == 0
    before = hashes(out)
    assert tool.main(['--out', str(out), *SMALL]) == 0 and 'nothing to do' in capsys.readouterr().out
    assert tool.main(['--out', str(out), '--seed', '1', *SMALL]) == 2
    assert 'seed=0' in capsys.readouterr().err and hashes(out) == before
    assert tool.main(['--out', str(out), '--seed', '1', '--overwrite', *SMALL]) == 0
    assert hashes(out) != before


def test_an_interrupted_run_leaves_no_set_and_the_next_one_succeeds(tmp_path, monkeypatch):
    def interrupt(done, total, what):
        if what == 'val':
            raise KeyboardInterrupt
    monkeypatch.setattr(tool, 'show_progress', interrupt)
    assert tool.main(['--out', str(tmp_path / 'set'), *SMALL[:-1]]) == 130
    assert list(tmp_path.iterdir()) == []
    killed = tmp_path / 'set.partial'  # what a run that was killed leaves behind
    killed.mkdir()
    (killed / tool.MARKER).write_text('{}')
    assert tool.main(['--out', str(tmp_path / 'set'), *SMALL]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ['set']


@pytest.mark.parametrize('wrong, said', [
    (dict(task='segmentation'), '`task` must be one of'),
    (dict(digits_per_image=(3, 2)), '`digits_per_image` must be'),
    (dict(image_size=40), '`image_size` must be at least 1.25 times'),
    (dict(val_images=0), '`val_images` at least 1'),
])
def test_a_wrong_specification_is_named(wrong, said):
    with pytest.raises(ValueError, match=said):
        DigitsSpec(**wrong)


def test_digits_that_do_not_fit_are_an_error_and_leave_nothing(tmp_path, capsys):
    assert tool.main(['--out', str(tmp_path / 'set'), '--digits-per-image', '30', '30', *SMALL]) == 2
    assert 'fit into an image' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def read(folder, split):
    return json.loads((folder / 'annotations' / f'{split}.json').read_text())


@pytest.mark.subprocess
def test_two_runs_at_once_make_one_set(tmp_path):
    command = [sys.executable, str(ROOT / 'tools' / 'dataset_converters' / 'digits.py'), '--out', str(tmp_path / 'set'),
               *SMALL]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    said = sorted(run.communicate()[0] for run in runs)
    assert [run.returncode for run in runs] == [0, 0], said
    assert sum('nothing to do' in text for text in said) == 1, said
    assert sorted(path.name for path in tmp_path.iterdir()) == ['set']
