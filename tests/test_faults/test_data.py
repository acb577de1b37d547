"""Malformed data end in at most three lines that name it, with status 2 and nothing written; the others train."""
import os

import pytest

from support.commands import forked, import_commands

pytest.importorskip('mmseg')

from . import campaign, data_faults  # noqa: E402

FAULTS = data_faults.faults()
BY_NAME = {fault.name: fault for fault in FAULTS}
SAMPLE = FAULTS[::6]
SAID = {  # an input, and a part of what is said of it
    'seg mask half': 'mask `data/masks/train/1.png` has 16x16 pixels, and its image 32x32',
    'seg mask of 1x1': 'mask `data/masks/train/1.png` has 1x1 pixels',
    'seg mask 16 bits grey': 'holds the number 514',
    'list: commas': 'line 1 of `data/list.txt` (train_dataloader.dataset.ann_file) is `0/0.png,0`',
    'list: blank lines': 'line 2 of `data/list.txt`',
    'list: empty': '(train_dataloader.dataset.ann_file) is empty',
    'list: a negative label': 'has the label -1, and model.head has num_classes=2',
    'seg folders: masks of jpeg': 'is a JPEG image',
    'evaluator: fewer images': '`data/other.json` (val_evaluator.ann_file) lacks image 2 of `data/annotations.json`',
    'evaluator: a box as text': 'data/other.json` has 1 with a box that is not a list of four numbers',
    'evaluator: no iscrowd': 'data/other.json` has 8 with no `iscrowd`',
    'file: gz': 'it begins with b',
    'seg mask a pdf': 'reading sample 1 of `data/masks/train/1.png`',
    'seg all labels 0 and 255': 'hold only the labels [0, 255], and 255 is ignored',
    'det image of 1x1': '`data/images/1.png` has 1x1 pixels, and its annotation says 32x32; a box reaches to',
    'det image larger': 'it was enlarged, and its boxes were not',
    'val annotations: a box in the val file as text': 'a box that is not a list of four numbers, first annotation 1',
    'annotations: of labelme': 'is not in COCO format: it has version, flags, shapes, imagePath',
    'annotations: no images with a size': '4 with an invalid width or height, first image 0: [None, None]',
    'annotations: boxes as corners': 'a box beyond its image, as if it were x1, y1, x2, y2',
    'annotations: no area': '8 with no `area`, first annotation 1',
    'val annotations: one without iscrowd': '1 with no `iscrowd`, first annotation 2',
    'annotations: iscrowd as text': 'an `iscrowd` that is neither 0 nor 1',
    'annotations: an annotation null': 'an entry of `annotations` that is no object, first at place 8',
    'annotations: annotations as a dict': 'a `annotations` that is no list',
    'annotations: category names as numbers': 'a `name` that is no text, first category 1: 1',
    'polygons: one missing': '1 with no `segmentation`, first annotation 1',
    'polygons: all empty': '8 with no `segmentation`',
    'polygons: one text': 'a `segmentation` that is neither polygons nor RLE',
    'polygons: one outside': 'a polygon outside of its image',
    'polygons: one RLE of another size': 'an invalid RLE mask',
    'seg: train img_suffix = \'.jpg\'': 'no file in `data/images/train` ends in `.jpg`',
    'seg: val seg_map_suffix = \'.jpg\'': 'There are `.png`: set val_dataloader.dataset.seg_map_suffix',
    'seg: train metainfo.classes = \'abc\'': 'is the text `abc`',
    'seg: val reduce_zero_label = True': 'reduce_zero_label differs',
    'folders: a hidden folder': 'the folder `.git`, which would be a class',
    'folders: one folder of unknown suffixes': 'the class `0` of train_dataloader has files, such as `data/0/',
    'det: train steps 1 and 2 swapped': 'Resize before LoadAnnotations',
    'seg: val steps 0 and 1 swapped': 'Resize before LoadImageFromFile',
    'seg: train steps 2 and 3 swapped': 'Resize behind PackSegInputs',
    "det: train step {'type': 'Resize', 'scale_factor': 0.0}": 'reading sample 0 of `data/images/0.png`, Resize: ',
    "det: train step {'type': 'CopyPaste'}": 'pipeline of a MultiImageMixDataset',
    'det image of 100000x100000 in its header': '`data/images/1.png`: its header claims 100000x100000 pixels',
    'det image HTML of a failed download': "`data/images/1.png`: it begins with b'<html><body>404<'",
    'cls image cut in the middle': '`data/0/1.png`: it is truncated or damaged',
    'cls image a jpeg without its end': '`data/0/1.png` is a JPEG without its end',
    'annotations: file names as numbers': 'a `file_name` that is no text, first image 0: 0',
    'annotations: categories with supercategory only': '2 with no `name`, first category 1',
    'sides swapped, boxes beyond the image': 'a box reaches to (21, 51)',
    'folders: .ipynb_checkpoints beside named classes': 'Delete `data/.ipynb_checkpoints`',
    'folders: one empty, with a class': 'the class `2` of train_dataloader has no image',
    'det: normalized twice': 'by Normalize of the pipeline and model.data_preprocessor',
    'cls: normalized in training alone': 'in val_dataloader by no step',
    'cls: nothing to publish': "`published_keys` of CheckpointHook is ['nope']",
    'seg: one tiny image in the last batch': '4 samples in batches of 3 leave a single one',
    "det: train_dataloader.dataset.filter_cfg = 'all'": 'filter_cfg` is the text `all`',
    "seg: train data_prefix.img_path = 'masks/train'": 'is an image of train_dataloader, and a mask as well',
    'file: a folder': 'is no file',
    'cls: train data data_root = 3': '`train_dataloader.dataset.data_root` is 3, not a folder',
}


@pytest.fixture(scope='module')
def configs(tmp_path_factory):
    """Write the data."""
    import_commands('mmdet', 'mmpretrain', 'mmseg')
    return data_faults.prepare(tmp_path_factory.mktemp('good'))


@pytest.mark.slow
@pytest.mark.parametrize('name', SAID)
def test_what_is_wrong_is_named(name, configs, tmp_path):
    wrong, errors = campaign.run(BY_NAME[name], configs, tmp_path / 'run')
    assert not wrong and SAID[name] in errors, f'{wrong}\n{errors}'


@pytest.mark.faults
@pytest.mark.parametrize('fault', SAMPLE, ids=lambda fault: fault.name)
def test_it_ends_in_two_lines_with_nothing_written_or_trains(fault, configs, tmp_path):
    wrong, errors = campaign.run(fault, configs, tmp_path / 'run', legitimate=data_faults.LEGITIMATE)
    assert not wrong, f'{fault.name}: {wrong}\n{errors}'


@pytest.mark.slow
@pytest.mark.parametrize('what, message', [
    (lambda file: (file.unlink(), file.symlink_to(file.name)), '1 of 4 images cannot be read or predicted'),
    (lambda file: os.rename(os.fsencode(file), os.fsencode(file.parent) + b'/\xff.png'), '')
])
def test_any_name_or_link_can_be_predicted_or_is_named(what, message, configs, tmp_path):
    fault = campaign.Fault('', campaign.CLS, break_files=lambda folder: what(folder / 'data/0/1.png'))
    campaign.lay_out(fault, configs, tmp_path)
    status, errors = forked('predict', 'config.py', campaign.GOOD[campaign.CLS] / 'epoch_1.pth', 'data/0', '--out-dir',
                            'out', cwd=tmp_path)
    assert status == bool(message) and message in errors and 'unexpected' not in errors


@pytest.mark.slow
def test_a_broken_image_ends_a_test_before_anything_is_written(configs, tmp_path):
    def testing(cfg):
        cfg.update(test_dataloader=cfg['val_dataloader'], test_evaluator=cfg['val_evaluator'], test_cfg={})

    campaign.lay_out(campaign.Fault('', data_faults.SEG, testing), configs, tmp_path)
    assert forked('train', 'config.py', '--work-dir', 'run', cwd=tmp_path)[0] == 0
    (tmp_path / 'data/images/val/2.png').write_text('none')
    before = campaign.contents(tmp_path)
    status, errors = forked('test', 'config.py', 'run/epoch_1.pth', cwd=tmp_path)
    assert status == 2 and 'reading sample 2 of `data/images/val/2.png`' in errors, errors
    assert campaign.contents(tmp_path) == before
