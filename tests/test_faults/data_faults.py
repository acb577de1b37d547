"""Malformed and unusual data: images, masks, annotations, folders, pipelines, for four tasks.

Each input ends as the campaign asks, or trains if its name is in `LEGITIMATE`.
"""
import gzip
import json
import os
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import cv2
import numpy as np
from mmengine.config import Config
from PIL import Image

from support import toy_detection

from . import campaign
from .campaign import CLS, DET, NAN, Fault, annotated, both, set_

MASK, SEG = 'mask', 'seg'  # instance masks, maps of labels
LEGITIMATE = {*Path(__file__).with_name('data_legitimate.txt').read_text(encoding='utf-8').splitlines()}  # train

_SEGMENTOR = """
default_scope = 'mmseg'
custom_imports = dict(imports=['mmrev', 'mmseg.models', 'mmseg.datasets', 'mmseg.evaluation'])
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[127.5] * 3, std=[64.] * 3, bgr_to_rgb=True,
                           seg_pad_val=255, size_divisor=32, test_cfg=dict(size_divisor=32)),
    backbone=dict(type='mmrev.RevBiFPN', arch='s0', out_indices=(0, 1, 2, 3)),
    decode_head=dict(type='FCNHead', in_index=0, in_channels=48, channels=8, num_convs=1, num_classes=3,
                     norm_cfg=dict(type='BN'), loss_decode=dict(type='CrossEntropyLoss')),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
metainfo = dict(classes=('ground', 'dark', 'bright'), palette=[(0, 0, 0), (255, 0, 0), (0, 255, 0)])
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='BaseSegDataset', data_root='data', metainfo=metainfo, img_suffix='.png', seg_map_suffix='.png',
                 data_prefix=dict(img_path='images/train', seg_map_path='masks/train'),
                 pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
                           dict(type='Resize', scale=(32, 32), keep_ratio=True), dict(type='PackSegInputs')]))
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='BaseSegDataset', data_root='data', metainfo=metainfo, img_suffix='.png', seg_map_suffix='.png',
                 data_prefix=dict(img_path='images/val', seg_map_path='masks/val'), test_mode=True,
                 pipeline=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=(32, 32), keep_ratio=True),
                           dict(type='LoadAnnotations'), dict(type='PackSegInputs')]))
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
train_cfg = dict(by_epoch=True, max_epochs=1)
val_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='SGD', lr=1e-3))
default_hooks = dict(logger=dict(type='LoggerHook', interval=1))
log_processor = dict(by_epoch=True)
"""


def prepare(folder: Path) -> Dict[str, dict]:
    """Write the data of all tasks; the good configs."""
    configs = campaign.prepare(folder)
    campaign.GOOD[MASK], campaign.GOOD[SEG] = folder / MASK, folder / SEG
    shutil.copytree(campaign.GOOD[DET] / 'data', folder / MASK / 'data')
    annotated(_outlined)(folder / MASK)
    text = (folder / DET / 'config.py').read_text()
    lines = dict(custom_imports=dict(imports=['mmrev', 'mmdet.models', 'mmdet.datasets']), train_cfg=dict(max_epochs=1))
    text = toy_detection.config_text('data', **lines).replace('(64, 64)', '(32, 32)')
    text = text.replace('faster-rcnn', 'mask-rcnn').replace('coco_detection', 'coco_instance')
    text = text.replace('with_bbox=True', 'with_bbox=True, with_mask=True').replace(
        'num_classes=len(CLASSES))', 'num_classes=len(CLASSES)), mask_roi_extractor=dict(out_channels=16), '
        'mask_head=dict(in_channels=16, conv_out_channels=16, num_convs=1, num_classes=len(CLASSES))')
    (folder / MASK / 'config.py').write_text(text)
    for split in ('train', 'val'):
        for kind in ('images', 'masks'):
            (folder / SEG / 'data' / kind / split).mkdir(parents=True)
        for file in sorted((folder / DET / 'data/images').glob('*.png')):
            image = cv2.imread(str(file))
            labels = np.zeros(image.shape[:2], np.uint8)
            labels[image[..., 0] < 60], labels[image[..., 0] > 200] = 1, 2
            cv2.imwrite(str(folder / SEG / 'data/images' / split / file.name), image)
            cv2.imwrite(str(folder / SEG / 'data/masks' / split / file.name), labels)
    (folder / SEG / 'config.py').write_text(_SEGMENTOR)
    for base in (MASK, SEG):
        configs[base] = Config.fromfile(folder / base / 'config.py').to_dict()
        configs[base].pop('metainfo', None)
        (folder / base / 'config.py').write_text(campaign.text_of(configs[base]))
    return configs


def _outlined(content: dict) -> None:
    """Add polygons to boxes."""
    for one in content['annotations']:
        x, y, width, height = one['bbox']
        one['segmentation'] = [[x, y, x + width, y, x + width, y + height, x, y + height]]


# ---------------------------------------------------------------------------------------------------- images
def picture(*files: str) -> Callable[[Callable[[Path], Any]], Callable[[Path], Any]]:
    """Change files of the data."""
    return lambda change: lambda folder: [change(folder / 'data' / file) for file in files]


def pil(change: Callable[[Image.Image], Any], format_: str = 'PNG', **how: Any) -> Callable[[Path], Any]:
    """Read a file with Pillow, and write what `change` makes of it."""
    def rewrite(file: Path) -> None:
        changed = change(Image.open(file).copy())
        changed.save(file, format_, **how)
    return rewrite


def sized(width: int, height: int) -> Callable[[Path], Any]:
    """Give an image another size."""
    return lambda file: cv2.imwrite(str(file), cv2.resize(cv2.imread(str(file), -1), (width, height),
                                                          interpolation=cv2.INTER_NEAREST))


def _turned(image: Image.Image) -> Image.Image:
    image.getexif()[274] = 6
    return image


KINDS: Dict[str, Callable[[Path], Any]] = {
    '16 bits': lambda file: cv2.imwrite(str(file), cv2.imread(str(file)).astype(np.uint16) * 257),
    '16 bits grey': lambda file: cv2.imwrite(str(file), cv2.imread(str(file), 0).astype(np.uint16) * 257),
    'grey': pil(lambda image: image.convert('L')),
    'one bit': pil(lambda image: image.convert('1')),
    'palette': pil(lambda image: image.convert('P')),
    'alpha': pil(lambda image: image.convert('RGBA')),
    'grey with alpha': pil(lambda image: image.convert('LA')),
    'CMYK in a jpeg': pil(lambda image: image.convert('CMYK'), 'JPEG'),
    'a jpeg': pil(lambda image: image, 'JPEG'),
    'a jpeg without its end': lambda file: (KINDS['a jpeg'](file), file.write_bytes(file.read_bytes()[:-40])),
    'a gif': pil(lambda image: image.convert('P'), 'GIF'),
    'a moving gif': lambda file: Image.open(file).copy().save(file, 'GIF', save_all=True, append_images=[
        Image.new('RGB', (32, 32))]),
    'a moving webp': lambda file: Image.open(file).copy().save(file, 'WEBP', save_all=True, append_images=[
        Image.new('RGB', Image.open(file).size)]),
    'a tiff of floats': pil(lambda image: image.convert('F'), 'TIFF'),
    'a bmp': pil(lambda image: image, 'BMP'),
    'a pdf': pil(lambda image: image, 'PDF'),
    'turned by its EXIF': lambda file: _exif(file),
    'of 1x1': sized(1, 1),
    'of 1x32': sized(1, 32),
    'of 7000x3': sized(7000, 3),
    'of 400x400': sized(400, 400),
    'larger': sized(64, 64),
    'half': sized(16, 16),
    'of 100000x100000 in its header': lambda file: file.write_bytes(_bomb(file)),
    'HTML of a failed download': lambda file: file.write_text('<html><body>404</body></html>'),
    'a Git LFS pointer': lambda file: file.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\n'),
    'cut in the middle': lambda file: file.write_bytes(file.read_bytes()[:-60]),
    'an npy': lambda file: np.save(file.open('wb'), np.zeros((32, 32, 3))),
    'an svg': lambda file: file.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>'),
    'a circular link': lambda file: (file.unlink(), file.symlink_to(file.name)),
    'a link': lambda file: (shutil.move(file, file.parent.parent / 'elsewhere'), file.symlink_to('../elsewhere')),
    'a device': lambda file: (file.unlink(), file.symlink_to('/dev/zero')),
    'not to be read': lambda file: file.chmod(0),
}


def _exif(file: Path) -> None:
    image = Image.open(file).convert('RGB').resize((32, 16))
    exif = Image.Exif()
    exif[274] = 6
    image.save(file, 'JPEG', exif=exif)


def _bomb(file: Path) -> bytes:
    import struct
    import zlib
    data = file.read_bytes()
    header = b'IHDR' + struct.pack('>II', 100000, 100000) + data[24:29]
    return data[:12] + header + struct.pack('>I', zlib.crc32(header)) + data[33:]


def of_images() -> Iterator[Fault]:
    """Formats, sizes and states of images and masks."""
    for kind, change in KINDS.items():
        yield Fault(f'det image {kind}', DET, break_files=picture('images/1.png')(change))
        yield Fault(f'cls image {kind}', CLS, break_files=picture('0/1.png')(change))
        yield Fault(f'seg image {kind}', SEG, break_files=picture('images/train/1.png')(change))
        yield Fault(f'seg mask {kind}', SEG, break_files=picture('masks/train/1.png')(change))
    for name, change in (('of 64x64', sized(64, 64)), ('of 16x32', sized(16, 32)), ('a text', lambda file:
                         file.write_text('x')), ('missing', Path.unlink), ('in colours', pil(
                             lambda image: image.convert('RGB')))):
        yield Fault(f'seg val mask {name}', SEG, break_files=picture('masks/val/1.png')(change))
        yield Fault(f'seg last val mask {name}', SEG, break_files=picture('masks/val/3.png')(change))
        yield Fault(f'seg train mask {name}, check --data', SEG, break_files=picture('masks/train/2.png')(change),
                    arguments=('check', 'config.py', '--data'))
    every = [f'images/{number}.png' for number in range(4)]
    yield Fault('det all images of 1x1', DET, break_files=picture(*every)(sized(1, 1)))
    yield Fault('det all images grey', DET, break_files=picture(*every)(KINDS['grey']))
    for name, value in (('3 among 3 classes', 3), ('200', 200), ('255', 255)):
        yield Fault(f'seg labels of {name}', SEG, break_files=picture('masks/train/1.png')(
            lambda file, value=value: cv2.imwrite(str(file), np.full((32, 32), value, np.uint8))))
        yield Fault(f'seg val labels of {name}', SEG, break_files=picture('masks/val/1.png')(
            lambda file, value=value: cv2.imwrite(str(file), np.full((32, 32), value, np.uint8))))
        yield Fault(f'seg all labels of {name}', SEG, break_files=picture(*(
            f'masks/train/{i}.png' for i in range(4)))(
                lambda file, value=value: cv2.imwrite(str(file), np.full((32, 32), value, np.uint8))))
    yield Fault('seg all labels 0 and 255', SEG, break_files=picture(*(f'masks/train/{i}.png' for i in range(4)))(
        lambda file: cv2.imwrite(str(file), (cv2.imread(str(file), 0) > 0).astype(np.uint8) * 255)))


# ---------------------------------------------------------------------------------------------- annotations
def first(**values: Any) -> Callable[[dict], None]:
    """Change the first annotation."""
    return lambda content: content['annotations'][0].update(values)


def each(part: str, change: Callable[[dict], Any]) -> Callable[[dict], None]:
    """Change each entry of a part."""
    return lambda content: [change(entry) for entry in content[part]] and None


def of_annotations() -> Iterator[Fault]:
    """Contents of annotation files."""
    def apart(folder: Path) -> None:  # the validation file alone
        shutil.copy(folder / 'data/annotations.json', folder / 'data/train.json')

    for name, change in {
        'a box in the val file as text': first(bbox='1,2,3,4'), 'a box of texts': first(bbox=list('1234')),
        'a box that is a dict': first(bbox=dict(x=1, y=2, w=3, h=4)), 'a box null': first(bbox=None),
        'area as text': first(area='4'), 'iscrowd as text': first(iscrowd='0'), 'area null': first(area=None),
        'iscrowd true': first(iscrowd=True), 'iscrowd 2': first(iscrowd=2),
        'no area': each('annotations', lambda one: one.pop('area')),
        'no iscrowd': each('annotations', lambda one: one.pop('iscrowd')),
        'no area or iscrowd': each('annotations', lambda one: (one.pop('area'), one.pop('iscrowd'))),
        'one without area': lambda content: content['annotations'][1].pop('area') and None,
        'one without iscrowd': lambda content: content['annotations'][1].pop('iscrowd') and 0 or None,
        'area 0': each('annotations', lambda one: one.update(area=0)),
        'ids as text': each('annotations', lambda one: one.update(id=str(one['id']))),
        'image ids as text': lambda content: ([one.update(id=str(one['id'])) for one in content['images']], [
            one.update(image_id=str(one['image_id'])) for one in content['annotations']]) and None,
        'image ids of images as text': each('images', lambda one: one.update(id=str(one['id']))),
        'image ids as floats': each('images', lambda one: one.update(id=float(one['id']))),
        'image ids as names': lambda content: ([one.update(id=f'a{one["id"]}') for one in content['images']], [
            one.update(image_id=f'a{one["image_id"]}') for one in content['annotations']]) and None,
        'image_id a list': first(image_id=[0]),
        'category ids as text': lambda content: ([one.update(id=str(one['id'])) for one in content['categories']], [
            one.update(category_id=str(one['category_id'])) for one in content['annotations']]) and None,
        'category ids of categories as text': each('categories', lambda one: one.update(id=str(one['id']))),
        'category ids as floats': each('annotations', lambda one: one.update(category_id=float(one['category_id']))),
        'category ids 1.5': each('annotations', lambda one: one.update(category_id=one['category_id'] + 0.5)),
        'category ids from 0': lambda content: ([one.update(id=one['id'] - 1) for one in content['categories']], [
            one.update(category_id=one['category_id'] - 1) for one in content['annotations']]) and None,
        'category ids of annotations from 0': each('annotations', lambda one: one.update(
            category_id=one['category_id'] - 1)),
        'categories with supercategory only': each('categories', lambda one: one.update(supercategory=one.pop(
            'name'))),
        'categories as names': lambda content: content.update(categories=['dark', 'bright']),
        'categories a dict': lambda content: content.update(categories={'1': 'dark', '2': 'bright'}),
        'category names as numbers': each('categories', lambda one: one.update(name=one['id'])),
        'category names with spaces': each('categories', lambda one: one.update(name=one['name'] + ' ')),
        'category names in capitals': each('categories', lambda one: one.update(name=one['name'].upper())),
        'a category more': lambda content: content['categories'].append(dict(id=3, name='other')),
        'a category more, with objects': lambda content: (content['categories'].append(dict(id=3, name='other')),
                                                         content['annotations'][0].update(category_id=3)) and None,
        'a category less': lambda content: content['categories'].pop() and None,
        'absolute file names': each('images', lambda one: one.update(
            file_name=str(campaign.GOOD[DET] / 'data/images' / one['file_name']))),
        'file names with the folder': each('images', lambda one: one.update(file_name='images/' + one['file_name'])),
        'file names with ..': each('images', lambda one: one.update(file_name='../images/' + one['file_name'])),
        'file names of Windows': each('images', lambda one: one.update(file_name='.\\' + one['file_name'])),
        'file names with another suffix': each('images', lambda one: one.update(file_name=one['file_name'][:-3]
                                                                              + 'jpg')),
        'file names in capitals': each('images', lambda one: one.update(file_name=one['file_name'].upper())),
        'file names as numbers': each('images', lambda one: one.update(file_name=one['id'])),
        'file names lists': each('images', lambda one: one.update(file_name=[one['file_name']])),
        'a file name empty': lambda content: content['images'][0].update(file_name=''),
        'a file name with a null byte': lambda content: content['images'][0].update(file_name='a\0.png'),
        'a file name of 5000 letters': lambda content: content['images'][0].update(file_name='a' * 5000),
        'file names as addresses': each('images', lambda one: one.update(file_name='http://localhost:9/' +
                                                                         one['file_name'])),
        'file name instead of file_name': each('images', lambda one: one.update(filename=one.pop('file_name'))),
        'the same file twice': lambda content: content['images'][1].update(file_name='0.png'),
        'width and height swapped': each('images', lambda one: one.update(width=64, height=32)),
        'width and height as text': each('images', lambda one: one.update(width='32', height='32')),
        'width and height as floats': each('images', lambda one: one.update(width=32., height=32.)),
        'width of 0': each('images', lambda one: one.update(width=0)),
        'boxes as corners': each('annotations', lambda one: one.update(bbox=[
            *one['bbox'][:2], one['bbox'][0] + one['bbox'][2], one['bbox'][1] + one['bbox'][3]])),
        'boxes relative': each('annotations', lambda one: one.update(bbox=[side / 32 for side in one['bbox']])),
        'boxes of no area': each('annotations', lambda one: one.update(bbox=[*one['bbox'][:2], 0, 0])),
        'one box of no area': first(bbox=[3, 3, 0, 5]),
        'tiny boxes': each('annotations', lambda one: one.update(bbox=[*one['bbox'][:2], 1e-9, 1e-9])),
        'boxes nested': each('annotations', lambda one: one.update(bbox=[one['bbox']])),
        'box half outside': first(bbox=[-10, -10, 20, 20]),
        'annotations as a dict': lambda content: content.update(annotations={
            str(one['id']): one for one in content['annotations']}),
        'images as a dict': lambda content: content.update(images={str(one['id']): one for one in content['images']}),
        'annotations of results': lambda content: content['annotations'],
        'ids from 0': each('annotations', lambda one: one.update(id=one['id'] - 1)),
        'keypoints': first(keypoints=[1, 2, 2], num_keypoints=1),
        'panoptic': lambda content: content.update(annotations=[dict(
            image_id=one['id'], file_name=one['file_name'], segments_info=[dict(
                id=1, category_id=1, bbox=[1, 2, 3, 4], area=12, iscrowd=0)]) for one in content['images']]),
        'captions': each('annotations', lambda one: (one.pop('bbox'), one.update(caption='a'))),
        'info null': lambda content: content.update(info=None, licenses=None),
        'one image without objects': lambda content: content.update(annotations=content['annotations'][2:]),
        'a million of the same': lambda content: content['annotations'].extend(
            dict(content['annotations'][0], id=100 + i) for i in range(3000)),
        'an annotation null': lambda content: content['annotations'].append(None),
        'an image null': lambda content: content['images'].append(None),
        'of labelme': lambda content: dict(version='5.0', flags={}, shapes=[], imagePath='0.png'),
        'no images with a size': each('images', lambda one: (one.pop('width'), one.pop('height'))),
    }.items():
        yield Fault(f'annotations: {name}', DET, break_files=annotated(change))
        yield Fault(f'val annotations: {name}', DET, set_('train_dataloader.dataset.ann_file', 'train.json'),
                    both(apart, annotated(change)))
    for name, mask in (('missing', None), ('empty', []), ('null', 'null'), ('RLE', dict(
            size=[32, 32], counts=[10, 50, 964])), ('RLE compressed', dict(size=[32, 32], counts=_compressed())),
            ('RLE of another size', dict(size=[16, 16], counts=[10, 50, 196])), ('RLE too short', dict(
                size=[32, 32], counts=[10, 50])), ('RLE without size', dict(counts=[10, 50])),
            ('RLE junk', dict(size=[32, 32], counts='###')), ('odd', [[1, 2, 3, 4, 5, 6, 7]]),
            ('not nested', [1, 2, 9, 2, 9, 9]), ('pairs', [[[1, 2], [9, 2], [9, 9]]]), ('text', 'x'), ('outside', [[
                100, 100, 120, 100, 120, 120]]), ('one point thrice', [[5, 5, 5, 5, 5, 5]]), ('RLE floats', dict(
                    size=[32, 32], counts=[10.5, 50, 963.5])), ('strings', [['1', '2', '9', '2', '9', '9']]),
            ('crowd RLE', dict(size=[32, 32], counts=[10, 50, 964]))):
        def change(one, name=name, mask=mask):
            one.update(segmentation=None if mask == 'null' else mask, iscrowd=int('crowd' in name))
            if mask is None:
                one.pop('segmentation')
        yield Fault(f'polygons: one {name}', MASK, break_files=annotated(
            lambda content, change=change: change(content['annotations'][0])))
        yield Fault(f'polygons: all {name}', MASK, break_files=annotated(each('annotations', change)))
        yield Fault(f'val polygons: all {name}', MASK, set_('train_dataloader.dataset.ann_file', 'train.json'), both(
            apart, annotated(each('annotations', change))))


def _compressed() -> str:
    from pycocotools import mask
    one = np.zeros((32, 32), np.uint8, order='F')
    one[4:9, 4:9] = 1
    return mask.encode(one)['counts'].decode()


def of_sides() -> Iterator[Fault]:
    """Images of 64x40 pixels whose annotations say 40x64."""
    def turned(width):
        def change(folder: Path) -> None:
            for file in (folder / 'data/images').glob('*.png'):
                sized(64, 40)(file)
            annotated(each('images', lambda one: one.update(width=40, height=64)))(folder)
            annotated(each('annotations', lambda one: one.update(bbox=[1, 1, width, 50 if width < 30 else 10])))(folder)
        return change

    yield Fault('sides swapped, boxes in both', DET, break_files=turned(30))
    yield Fault('sides swapped, boxes in the image alone', DET, break_files=turned(60))
    yield Fault('sides swapped, boxes beyond the image', DET, break_files=turned(20))


def of_evaluators() -> Iterator[Fault]:
    """Annotation files of metrics that are not those of the data."""
    for name, change in {
        'fewer images': lambda content: content.update(images=content['images'][:2],
                                                       annotations=content['annotations'][:4]),
        'a box as text': first(bbox='1,2,3,4'),
        'no iscrowd': each('annotations', lambda one: one.pop('iscrowd')),
    }.items():
        def write(folder: Path, change=change) -> None:
            content = json.loads((folder / 'data/annotations.json').read_text())
            change(content)
            (folder / 'data/other.json').write_text(json.dumps(content))

        yield Fault(f'evaluator: {name}', DET, set_('val_evaluator.ann_file', 'data/other.json'), write)


def of_files() -> Iterator[Fault]:
    """Annotation files that are something else."""
    def file(change):
        return lambda folder: change(folder / 'data/annotations.json')

    for name, change in {
        'gz': lambda path: path.write_bytes(gzip.compress(path.read_bytes())),
        'a zip': lambda path: (shutil.make_archive(str(path.with_suffix('')), 'zip', path.parent, path.name),
                               path.with_suffix('.zip').replace(path)),
        'an npz': lambda path: np.savez(path.open('wb'), a=np.zeros(3)),
        'CSV': lambda path: path.write_text('file,x,y,w,h,class\n0.png,1,2,3,4,dark\n'),
        'JSON lines': lambda path: path.write_text('\n'.join(json.dumps(one) for one in json.loads(
            path.read_text())['annotations'])),
        'XML': lambda path: path.write_text('<annotation></annotation>'),
        'YAML': lambda path: path.write_text('images:\n- id: 1\n'),
        'UTF-16': lambda path: path.write_bytes(path.read_text().encode('utf-16')),
        'a byte order mark': lambda path: path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes()),
        'comments': lambda path: path.write_text('// made by hand\n' + path.read_text()),
        'single quotes': lambda path: path.write_text(str(json.loads(path.read_text()))),
        'a comma at the end': lambda path: path.write_text(path.read_text()[:-1] + ',}'),
        'two documents': lambda path: path.write_text(path.read_text() + path.read_text()),
        'latin names': lambda path: path.write_bytes(path.read_bytes().replace(b'bright', b'br\xe9ght')),
        'a key twice': lambda path: path.write_text('{"images": [], ' + path.read_text()[1:]),
        'no rights': lambda path: path.chmod(0),
        'a folder': lambda path: (path.unlink(), path.mkdir()),
        'a circular link': lambda path: (path.unlink(), path.symlink_to(path.name)),
        'LFS': lambda path: path.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n'),
        'NaN numbers': lambda path: path.write_text(path.read_text().replace('"area": ', '"area": NaN, "z": ')),
        'huge number': lambda path: path.write_text(path.read_text().replace('"area": ', '"area": 1e999, "z": ')),
        'long number': lambda path: path.write_text(path.read_text().replace('"area": ', '"area": ' + '9' * 5000)),
    }.items():
        yield Fault(f'file: {name}', DET, break_files=file(change))
    for suffix in ('.txt', '.pkl', '.json.gz', '.yaml', ''):
        yield Fault(f'file: suffix {suffix}', DET, both(
            set_('val_evaluator.ann_file', f'data/annotations{suffix}'), *(
                set_(f'{split}_dataloader.dataset.ann_file', f'annotations{suffix}') for split in ('train', 'val'))),
            lambda folder, suffix=suffix: (folder / 'data/annotations.json').rename(folder / f'data/annotations{suffix}'
                                                                                    ))
    yield Fault('file: the ann_file a list', DET, set_('train_dataloader.dataset.ann_file', ['annotations.json']))
    yield Fault('file: no ann_file', DET, set_('train_dataloader.dataset.ann_file', ''))
    yield Fault('file: images of another folder', DET, set_('train_dataloader.dataset.data_prefix', dict(img='')))
    yield Fault('file: images prefix as text', DET, set_('train_dataloader.dataset.data_prefix', 'images/'))
    yield Fault('file: images prefix img_path', DET, set_('train_dataloader.dataset.data_prefix', dict(
        img_path='images/')))


# ------------------------------------------------------------------------------------------ folders of classes
def of_folders() -> Iterator[Fault]:
    """Folders of classes, of images and of masks."""
    def change(do):
        return lambda folder: do(folder / 'data')

    def more(name):
        return lambda data: shutil.copytree(data / '0', data / name)

    for name, do in {
        'a hidden folder': more('.git'), 'a hidden folder, empty': lambda data: (data / '.thumbs').mkdir(),
        '__MACOSX': more('__MACOSX'), 'an empty folder': lambda data: (data / '2').mkdir(),
        'a folder more': more('2'), 'nested folders': lambda data: (shutil.move(data / '0', data / 'x'), (
            data / '0').mkdir(), shutil.move(data / 'x', data / '0/x')),
        'files beside the folders': lambda data: (data / 'readme.txt').write_text('x'),
        'images beside the folders': lambda data: shutil.copy(data / '0/1.png', data / '1.png'),
        'texts among the images': lambda data: (data / '0/a.txt').write_text('x'),
        'hidden files': lambda data: (data / '0/._1.png').write_text('x'),
        'capital suffixes': lambda data: [file.rename(file.with_suffix('.PNG')) for file in data.glob('0/*.png')],
        'unknown suffixes': lambda data: [file.rename(file.with_suffix('.img')) for file in data.glob('*/*.png')],
        'one folder of unknown suffixes': lambda data: [file.rename(file.with_suffix('.gif'))
                                                        for file in data.glob('0/*.png')],
        'unicode': lambda data: [file.rename(file.with_name(f'é ü 漢 {file.name}')) for file in data.glob('0/*.png')],
        'spaces': lambda data: (data / '0').rename(data / 'a b c'),
        'bytes that are no text': lambda data: os.rename(os.fsencode(data / '0/1.png'), os.fsencode(data / '0')
                                                         + b'/\xff\xfe.png'),
        'new line': lambda data: (data / '0/1.png').rename(data / '0/1\n.png'),
        'a link to itself': lambda data: (data / '0/loop').symlink_to('.'),
        'a folder that links to the data': lambda data: (data / '2').symlink_to('.'),
        'a link to a folder': lambda data: ((data / '0').rename(data.parent / 'away'), (data / '0').symlink_to(
            '../away')),
        'no rights': lambda data: (data / '0').chmod(0),
        'all in one folder': lambda data: shutil.rmtree(data / '1'),
        'images only, no folder': lambda data: ([shutil.move(file, data) for file in data.glob('0/*.png')],
                                                shutil.rmtree(data / '0'), shutil.rmtree(data / '1')),
        'the data a file': lambda data: (shutil.rmtree(data), data.write_text('x')),
        'the data a zip': lambda data: (shutil.make_archive(str(data), 'zip', data), shutil.rmtree(data), (
            data.parent / 'data.zip').rename(data)),
        'two images': lambda data: [file.unlink() for file in data.glob('*/*.png') if file.name != '0.png'],
        'one image': lambda data: ([file.unlink() for file in data.glob('*/*.png') if file.name != '0.png'], (
            data / '0/0.png').unlink()),
    }.items():
        yield Fault(f'folders: {name}', CLS, break_files=change(do))
    for name in ('.ipynb_checkpoints', '__MACOSX'):
        yield Fault(f'folders: {name} beside named classes', CLS, both(*(
            set_(f'{split}_dataloader.dataset.metainfo', dict(classes=('0', '1'))) for split in ('train', 'val'))),
            lambda folder, name=name: (folder / 'data' / name).mkdir())
    yield Fault('folders: one empty, with a class', CLS, both(
        set_('model.head.num_classes', 3), set_('model.data_preprocessor.num_classes', 3)),
        lambda folder: (folder / 'data/2').mkdir())
    lists = {
        'good': '0/0.png 0\n1/0.png 1\n0/1.png 0\n1/1.png 1\n', 'a label too large': '0/0.png 0\n1/0.png 7\n',
        'a negative label': '0/0.png 0\n1/0.png -1\n', 'names': '0/0.png dark\n1/0.png bright\n',
        'no labels': '0/0.png\n1/0.png\n', 'commas': '0/0.png,0\n1/0.png,1\n', 'tabs': '0/0.png\t0\n1/0.png\t1\n',
        'spaces in names': 'my image.png 0\n1/0.png 1\n', 'three words': '0/0.png 0 1\n1/0.png 1 1\n',
        'empty': '', 'blank lines': '0/0.png 0\n\n1/0.png 1\n\n', 'windows': '0/0.png 0\r\n1/0.png 1\r\n',
        'a float': '0/0.png 0.0\n1/0.png 1.0\n', 'missing images': '0/0.png 0\n0/99.png 1\n',
        'a head line': 'file label\n0/0.png 0\n1/0.png 1\n', 'json': '{"0/0.png": 0}', 'one class': '0/0.png 0\n' * 2,
        'absolute names': '/nowhere/0.png 0\n1/0.png 1\n', 'labels from 1': '0/0.png 1\n1/0.png 2\n',
        'a huge label': '0/0.png 99999999999999999999\n1/0.png 1\n', 'the same twice': '0/0.png 0\n0/0.png 1\n',
    }
    for name, text in lists.items():
        yield Fault(f'list: {name}', CLS, both(*(set_(f'{split}_dataloader.dataset.ann_file', 'data/list.txt')
                                                 for split in ('train', 'val'))),
                    lambda folder, text=text: (folder / 'data/list.txt').write_text(text))
    for key, values in {
        'classes': ('dark', 3, ['a'], ['a', 'b', 'c'], [], [0, 1], 'names.txt', {'a': 0, 'b': 1}),
        'extensions': ('.png', ('png', ), ('.jpg', ), [], 3), 'with_label': (False, ),
        'data_root': ('nowhere', 'data', 3), 'data_prefix': ('nowhere', '', 3, None, 'data/0'),
        'indices': (0, 3, [99], -1, 'x', [0, 'x']), 'lazy_init': (True, ), 'serialize_data': (False, ),
        'max_refetch': (0, -1, 'x', 10), 'test_mode': (True, 'x'), 'type': ('ImageNet', 'CIFAR10', 'BaseSegDataset'),
    }.items():
        for value in values:
            yield Fault(f'cls: train data {key} = {value!r}', CLS, set_(f'train_dataloader.dataset.{key}', value))
    for key, values in {
        'img_suffix': ('.jpg', 'png', '', 3, None, '.PNG', ['.png', '.jpg']),
        'seg_map_suffix': ('.jpg', 'png', '', '_mask.png', 3, None), 'reduce_zero_label': (True, 'x'),
        'ignore_index': (0, 3, 300, -1, 'x'), 'metainfo.classes': (('a', ), ('a', 'b'), list('abcd'), 'abc', 3),
        'metainfo.palette': ([], [(0, 0, 0)], 'x', [(300, 0, 0)] * 3), 'metainfo': ({}, None, dict(classes=None)),
        'data_prefix.img_path': ('images', 'nowhere', '', 'masks/train', 'images/val'),
        'data_prefix.seg_map_path': ('masks', 'nowhere', '', 'images/train', 'masks/val', None),
        'ann_file': ('nowhere.txt', 'list.txt'), 'data_root': ('nowhere', '', None),
        'data_prefix': (dict(img='images/train'), {}, dict(img_path='images/train'), 'images/train'),
    }.items():
        for split in ('train', 'val'):
            for value in values:
                yield Fault(f'seg: {split} {key} = {value!r}', SEG, set_(f'{split}_dataloader.dataset.{key}', value))
    for name, do in {
        'an image more': lambda data: shutil.copy(data / 'images/train/0.png', data / 'images/train/9.png'),
        'a mask more': lambda data: shutil.copy(data / 'masks/train/0.png', data / 'masks/train/9.png'),
        'no images': lambda data: [file.unlink() for file in data.glob('images/train/*.png')],
        'no masks': lambda data: [file.unlink() for file in data.glob('masks/train/*.png')],
        'no val images': lambda data: [file.unlink() for file in data.glob('images/val/*.png')],
        'images in folders': lambda data: [(data / f'images/train/{i}').mkdir() or shutil.move(
            data / f'images/train/{i}.png', data / f'images/train/{i}/{i}.png') for i in range(4)],
        'a folder named as an image': lambda data: (data / 'images/train/9.png').mkdir(),
        'masks one folder': lambda data: shutil.rmtree(data / 'masks/val'),
        'spaces': lambda data: [file.rename(file.with_name(f'a é {file.name}')) for file in data.glob('*/*/*.png')],
        'masks with other names': lambda data: [file.rename(file.with_name(f'{file.stem}_mask.png'))
                                                for file in data.glob('masks/*/*.png')],
        'masks of jpeg': lambda data: [Image.open(file).convert('L').save(file, 'JPEG')
                                       for file in data.glob('masks/*/*.png')],
        'masks with palette': lambda data: [_with_palette(file) for file in data.glob('masks/*/*.png')],
        'masks in colours': lambda data: [cv2.imwrite(str(file), cv2.applyColorMap(cv2.imread(str(file), 0) * 80, 2))
                                          for file in data.glob('masks/*/*.png')],
        'masks in grey as RGB': lambda data: [cv2.imwrite(str(file), cv2.imread(str(file)))
                                              for file in data.glob('masks/*/*.png')],
        'labels 1 to 3': lambda data: [cv2.imwrite(str(file), cv2.imread(str(file), 0) + 1)
                                       for file in data.glob('masks/*/*.png')],
        'labels 1 to 3 in val': lambda data: [cv2.imwrite(str(file), cv2.imread(str(file), 0) + 1)
                                              for file in data.glob('masks/val/*.png')],
        'labels times 100': lambda data: [cv2.imwrite(str(file), cv2.imread(str(file), 0) * 100)
                                          for file in data.glob('masks/*/*.png')],
        'labels all 0': lambda data: [cv2.imwrite(str(file), cv2.imread(str(file), 0) * 0)
                                      for file in data.glob('masks/*/*.png')],
        'masks of half the size': lambda data: [sized(16, 16)(file) for file in data.glob('masks/*/*.png')],
        'masks of half the size in train': lambda data: [sized(16, 16)(file) for file in data.glob('masks/train/*')],
        'masks turned': lambda data: [sized(16, 32)(file) for file in data.glob('images/*/*.png')] + [
            sized(32, 16)(file) for file in data.glob('masks/*/*.png')],
    }.items():
        yield Fault(f'seg folders: {name}', SEG, break_files=change(do))


def _with_palette(file: Path) -> None:
    image = Image.open(file).convert('P')
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    image.save(file)


# ------------------------------------------------------------------------------------------------- pipelines
def of_pipelines() -> Iterator[Fault]:
    """Steps out of their order, with numbers that cannot be meant, or of another task."""
    def insert(split, index, *steps):
        return lambda cfg: cfg[f'{split}_dataloader']['dataset']['pipeline'].__setitem__(
            slice(index, index), [dict(step) for step in steps])

    for base, steps in {
        DET: (dict(type='Resize', scale=(0, 32)), dict(type='Resize', scale_factor=0.), dict(type='Resize'),
              dict(type='Resize', scale_factor=NAN), dict(type='Resize', scale=(100000, 100000)),
              dict(type='Normalize', mean=[0.] * 3, std=[0.] * 3), dict(type='Normalize', mean=[0.], std=[1.]),
              dict(type='Normalize', mean=[0.] * 3, std=[NAN] * 3), dict(type='Mosaic', img_scale=(32, 32)),
              dict(type='MixUp', img_scale=(32, 32)), dict(type='CopyPaste'), dict(type='RandomCrop', crop_size=(
                  1, 1)), dict(type='RandomCrop', crop_size=(16, 16)), dict(type='Pad', size=(16, 16)),
              dict(type='Pad', size_divisor=0), dict(type='Pad', size=(64, 64)), dict(type='RandomFlip', prob=[
                  0.5, 0.9], direction=['horizontal', 'vertical']), dict(type='LoadAnnotations', with_seg=True),
              dict(type='LoadAnnotations', with_mask=True), dict(type='FilterAnnotations', min_gt_bbox_wh=(99, 99)),
              dict(type='FilterAnnotations', min_gt_bbox_wh='x'), dict(type='PackInputs'), dict(type='PackSegInputs'),
              dict(type='PackDetInputs'), dict(type='PhotoMetricDistortion', brightness_delta=-3), dict(
                  type='RandomErasing', n_patches=(0, 99), ratio=2.), dict(type='CenterCrop', crop_size=16),
              dict(type='Corrupt', corruption='nope'), dict(type='Expand', ratio_range=(0, 0)), dict(
                  type='MinIoURandomCrop', min_ious=()), dict(type='RandomAffine', scaling_ratio_range=(0, 0)),
              dict(type='mmcv.ToTensor', keys=['img']), dict(type='ImageToTensor', keys=['img']),
              dict(type='Compose', transforms=3), dict(type='RandomChoice', transforms=[]), dict(type='RandomApply'),
              dict(type='AutoAugment', policies=[])),
        CLS: (dict(type='RandomResizedCrop', scale=0), dict(type='RandomResizedCrop', scale=16, crop_ratio_range=(
              2., 1.)), dict(type='ResizeEdge', scale=0), dict(type='CenterCrop', crop_size=0), dict(
                  type='CenterCrop', crop_size=99), dict(type='Resize', scale=(0, 0)), dict(type='RandomErasing',
                                                                                         erase_prob=7.),
              dict(type='Resize', scale=(9, 17)), dict(type='Resize', scale=(1, 1)), dict(type='ResizeEdge', scale=8),
              dict(type='ColorJitter', brightness=-1), dict(type='ColorJitter', hue=9.), dict(
                  type='RandAugment', policies='nope', num_policies=2, magnitude_level=3), dict(
                      type='RandAugment', policies='timm_increasing', num_policies=200, magnitude_level=300),
              dict(type='Normalize', mean=[0.] * 3, std=[0.] * 3), dict(type='Lighting', eigval=[1], eigvec=[1]),
              dict(type='LoadAnnotations'), dict(type='PackInputs', input_key='nope'), dict(type='Collect', keys=[]),
              dict(type='RandomCrop', crop_size=64), dict(type='Pad', size=(0, 0)), dict(type='Albumentations',
                                                                                       transforms=[dict(type='x')])),
        SEG: (dict(type='Resize', scale=(0, 0)), dict(type='RandomCrop', crop_size=(0, 0)), dict(
              type='RandomCrop', crop_size=(64, 64), cat_max_ratio=0.75), dict(type='RandomCrop', crop_size=(
                  16, 16), cat_max_ratio=-1.), dict(type='Normalize', mean=[0.] * 3, std=[0.] * 3), dict(
                      type='Pad', size=(16, 16)), dict(type='Pad', size=(64, 64)), dict(
                          type='LoadAnnotations', reduce_zero_label=True), dict(type='PackDetInputs'), dict(
                              type='RandomFlip', prob=2.), dict(type='RandomMosaic', prob=1., img_scale=(32, 32)),
              dict(type='RandomRotate', prob=1., degree=-3.), dict(type='RandomCutOut', prob=1., n_holes=1),
              dict(type='PhotoMetricDistortion'), dict(type='ResizeToMultiple', size_divisor=0), dict(
                  type='RandomResize', scale=(32, 32), ratio_range=(0., 0.)), dict(
                      type='RandomResize', scale=(32, 32), ratio_range=(2., 0.5)), dict(
                          type='GenerateEdge', edge_width=-1), dict(type='Rerange', min_value=3, max_value=1)),
    }.items():
        for step in steps:
            for split in ('train', 'val') if step['type'] in ('Resize', 'Normalize', 'Pad', 'PackInputs') else (
                    'train', ):
                yield Fault(f'{base}: {split} step {step!r}', base, insert(split, 1 if base == CLS else 2, step))
    for base in (DET, SEG, MASK):
        for split in ('train', 'val'):
            for one, other in ((0, 1), (1, 2), (2, 3), (0, 3)):
                def swap(cfg, split=split, one=one, other=other):
                    steps = cfg[f'{split}_dataloader']['dataset']['pipeline']
                    steps[one], steps[other] = steps[other], steps[one]
                yield Fault(f'{base}: {split} steps {one} and {other} swapped', base, swap)
    normalize = dict(type='Normalize', mean=[100.] * 3, std=[50.] * 3)
    in_both = both(insert('train', 1, normalize), insert('val', 1, normalize))
    for base in (DET, CLS, SEG):
        yield Fault(f'{base}: normalized twice', base, in_both)
    elsewhere = set_('model.data_preprocessor', dict(num_classes=2))
    yield Fault('cls: normalized in training alone', CLS, both(elsewhere, insert('train', 1, normalize)))
    yield Fault('cls: normalized in the pipelines', CLS, both(elsewhere, in_both))
    yield Fault('cls: nothing to publish', CLS, set_('default_hooks.checkpoint', dict(
        type='CheckpointHook', published_keys=['nope'])))
    yield Fault('seg: one tiny image in the last batch', SEG, set_('train_dataloader.batch_size', 3), lambda folder: [
        sized(8, 8)(file) for file in folder.rglob('*.png')])
    yield Fault('seg: one tiny image left, which is dropped', SEG, both(
        set_('train_dataloader.batch_size', 3), set_('train_dataloader.drop_last', True)), lambda folder: [
            sized(8, 8)(file) for file in folder.rglob('*.png')])
    for base, path, values in (
            (DET, 'train_dataloader.batch_size', (5, 1000)), (CLS, 'train_dataloader.batch_size', (9, 1000)),
            (SEG, 'train_dataloader.batch_size', (5, 1, 1000)), (SEG, 'val_dataloader.batch_size', (2, 1000)),
            (DET, 'train_dataloader.drop_last', (True, 'x')), (SEG, 'train_dataloader.sampler.type', (
                'InfiniteSampler', 'x')), (SEG, 'model.decode_head.num_classes', (2, 1, 4, 19)),
            (SEG, 'model.decode_head.ignore_index', (0, 'x', None)), (SEG, 'val_evaluator.iou_metrics', (
                ['x'], [], 'mIoU', ['mDice'])), (SEG, 'val_evaluator.ignore_index', (0, 'x')),
            (SEG, 'model.decode_head.loss_decode.class_weight', ([1.], [0., 0., 0.], [NAN] * 3, 'x', [1, 2, 3, 4])),
            (SEG, 'model.decode_head.loss_decode', (dict(type='DiceLoss'), dict(type='CrossEntropyLoss',
                                                                              use_sigmoid=True))),
            (SEG, 'model.data_preprocessor.size', ((32, 32), (16, 16), (0, 0))),
            (SEG, 'model.data_preprocessor.seg_pad_val', (0, 300, 'x')),
            (SEG, 'model.data_preprocessor.size_divisor', (0, None, -1, 7)),
            (SEG, 'model.test_cfg', (dict(mode='slide'), dict(mode='x'), dict(mode='slide', crop_size=(64, 64), stride=(
                0, 0)), dict(mode='slide', crop_size=(32, 32), stride=(16, 16)))),
            (DET, 'train_dataloader.dataset.filter_cfg', (dict(filter_empty_gt=True, min_size=32), dict(
                min_size=99), dict(min_size='x'), 'all', ['all'])),
            (CLS, 'val_evaluator.topk', ((1, 2), (1, 5))),
            (CLS, 'model.head.loss', (dict(type='LabelSmoothLoss', label_smooth_val=2.), dict(
                type='CrossEntropyLoss', use_sigmoid=True), dict(type='CrossEntropyLoss', class_weight=[1., 1., 1.]),
                dict(type='CrossEntropyLoss', class_weight=[0., 0.]))),
            (CLS, 'model.train_cfg', (dict(augments=dict(type='Mixup', alpha=-1.)), dict(augments=dict(
                type='Mixup', alpha=0.)), dict(augments=dict(type='CutMix', alpha='x')), dict(augments=[])))):
        for value in values:
            yield Fault(f'{base}: {path} = {value!r}', base, set_(path, value))


def faults() -> List[Fault]:
    """All of them."""
    classes = (of_images, of_annotations, of_sides, of_evaluators, of_files, of_folders, of_pipelines)
    return [fault for make in classes for fault in make()]
