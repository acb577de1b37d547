"""Malformed inputs of the other commands: predict, test, convert, publish, memory, check, doctor; and texts of configs.

Each ends as the campaign asks, or with status 0 if its name is in `LEGITIMATE`.
"""
import os
import pickle
import py_compile
import shutil
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence, Union

import numpy as np

from support.commands import forked

from . import campaign, data_faults
from .campaign import CLS, DET, Fault, annotated, both, set_
from .data_faults import KINDS, SEG, sized

LONG = 'a' * 5000
LEGITIMATE = {
    'predict: pipeline without loading', 'predict: a new line in a name', 'predict: a visualizer 3', 'det: 1x1',
    'predict: none of the data is there',
    'test: out in a new folder', 'test: annotation 0', 'memory: --image 1 1', 'memory: --processes 1000000000',
    'publish: --out x', 'publish: --out .pth',
    *(f'text, {command}: {name}' for command in ('train', 'check', 'predict', 'memory') for name in (
        'returns alone', 'Windows', 'an unknown encoding', 'a lambda', 'prints', 'a set')),
    *(f'text named {name!r}' for name in ('torch.py', 'json.py', 'mmengine.py', 'class.py', '1.py', 'a.b.py', 'a b.py',
                                          'é.py', '__init__.py', './-x.py', "a'b.py", 'a{}.py', 'a%s.py', 'a\nb.py')),
    *(f'text beside {name}.py' for name in ('torch', 'json', 'numpy', 'mmdet', 'mmrev', 'logging')),
}


def prepare(folder: Path) -> Dict[str, dict]:
    """Write the data of all tasks, and a checkpoint of each; the good configs."""
    configs = data_faults.prepare(folder)
    for base in (DET, SEG):
        status, errors = forked('train', 'config.py', '--work-dir', 'run', cwd=campaign.GOOD[base])
        assert status == 0, errors
        shutil.copy(campaign.GOOD[base] / 'run/epoch_1.pth', campaign.GOOD[base])
    return configs


def given(name: str, base: str, arguments: Sequence[str], files: Callable[[Path], Any] = lambda folder: None,
          config: Callable[[dict], Any] = lambda cfg: None) -> Fault:
    """A command in a folder with a good checkpoint, `good.pth`."""
    return Fault(name, base, config, both(
        lambda folder: shutil.copy(campaign.GOOD[base] / 'epoch_1.pth', folder / 'good.pth'), files), tuple(arguments))


def written(name: str, content: Union[str, bytes] = '') -> Callable[[Path], None]:
    """Write a file."""
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return write


def pictured(change: Callable[[Path], Any], name: str = 'in/1.png', good: str = 'data/0/1.png'
             ) -> Callable[[Path], None]:
    """Copy an image and change the copy."""
    def copy(folder: Path) -> None:
        written(name)(folder)
        shutil.copy(folder / good, folder / name)
        change(folder / name)
    return copy


def of_predictions() -> Iterator[Fault]:
    """Images, folders, numbers and pipelines of `mmrev predict`."""
    def predict(name, *arguments, **how):
        return given(f'predict: {name}', CLS, ('predict', 'config.py', 'good.pth', *arguments), **how)

    for kind in ('a tiff of floats', 'a pdf', 'of 100000x100000 in its header', 'HTML of a failed download',
                 'cut in the middle', 'an npy', 'an svg', 'a circular link', 'a device'):
        yield predict(f'only {kind}', 'in', '--out-dir', 'out', files=pictured(KINDS[kind]))
    yield predict('only broken images', 'in', '--out-dir', 'out', files=both(
        written('in/1.png'), written('in/2.png', 'x'), written('in/3.jpg', '\0')))
    for name in ('nowhere', '', '-', '/dev/null', 'http://localhost:9/x.png', 'config.py', 'good.pth', LONG):
        yield predict(f'image {name[:30]!r}', name)
    yield predict('an empty folder', 'in', files=lambda folder: (folder / 'in').mkdir())
    yield predict('a folder as image', 'x.png', files=lambda folder: (folder / 'x.png').mkdir())
    yield predict('a folder that links to itself', 'in', files=lambda folder: (
        (folder / 'in').mkdir(), (folder / 'in/loop').symlink_to('..')))
    yield predict('two of a name', 'data/0', 'data/1', '--out-dir', 'out')
    yield predict('a new line in a name', 'in', '--out-dir', 'out', files=pictured(lambda file: 0, 'in/a\nb.png'))
    for place in ('config.py', 'config.py/x', '', '/proc/x', 'data/0', LONG, '/dev/null'):
        yield predict(f'out {place[:30]!r}', 'data/0', '--out-dir', place)
    for name in ('predictions.json', '1.png'):
        yield predict(f'a folder in place of {name}', 'data/0', '--out-dir', 'out',
                      files=lambda folder, name=name: (folder / 'out' / name).mkdir(parents=True))
    for words in ('--score nan', '--score -1', '--score 2', '--score x', '--score inf', '--task semseg', '--task x',
                  '--out-format raw --out-dir out', '--scales 1', '--flip', '--fusion max'):
        yield predict(words, 'data/0', *words.split())
    pipeline = 'val_dataloader.dataset.pipeline'
    for path, values in {pipeline: ([], 'x', [3], None), f'{pipeline}.0.type': ('Nope', ), 'val_dataloader': (3, ),
                         'val_dataloader.dataset': (3, ), 'model': (3, {}, None), 'model.type': ('Nope', ),
                         'default_scope': (None, 'x', [], 'mmdet'), 'model.head': (None, ),
                         'model.head.num_classes': (7, ), 'custom_hooks': (3, ), 'test_dataloader': ([1], {})}.items():
        for value in values:
            yield predict(f'{path} = {value!r}', 'data/0', config=set_(path, value))
    yield predict('a visualizer 3', 'data/0', config=set_('visualizer', 3))
    yield predict('pipeline without loading', 'data/0', config=campaign.delete(f'{pipeline}.0'))
    yield predict('pipeline without packing', 'data/0', config=campaign.delete(f'{pipeline}.1'))
    yield predict('none of the data is there', 'in', files=lambda folder: (
        shutil.move(folder / 'data/0', folder / 'in'), shutil.rmtree(folder / 'data')))
    for base, image, split in ((DET, 'data/images/1.png', 'test'), (SEG, 'data/images/val/1.png', 'val')):
        command = ('predict', 'config.py', 'good.pth', 'in')
        for kind, change in (('1x1', sized(1, 1)), ('1x300', sized(1, 300)), ('a text', written('', 'x')),
                             ('cut', KINDS['cut in the middle']), ('of floats', KINDS['a tiff of floats'])):
            if kind == 'a text':
                change = lambda file: file.write_text('x')  # noqa: E731
            yield given(f'{base}: {kind}', base, command, pictured(change, good=image))
        copied = pictured(lambda file: 0, good=image)
        for path, value in ((f'{split}_dataloader.dataset.pipeline.1.scale', (0, 0)),
                            (f'{split}_dataloader.dataset.pipeline', [])):
            yield given(f'{base}: {path} = {value!r}', base, command, copied, set_(path, value))
        yield given(f'{base}: the checkpoint of another task', base, command, both(copied, lambda folder: shutil.copy(
            campaign.GOOD[CLS] / 'epoch_1.pth', folder / 'good.pth')))
    for words in ('--scales 0', '--scales nan', '--scales inf', '--scales -1', '--scales 1e-9', '--scales 1e9',
                  '--scales 0.01', '--out-format raw', '--out-format x'):
        yield given(f'seg: {words}', SEG, ('predict', 'config.py', 'good.pth', 'data/images/val', *words.split()))


def of_tests() -> Iterator[Fault]:
    """Outputs, augmentation, metrics and data of `mmrev test`."""
    def test(name, *arguments, base=CLS, files=lambda folder: None, config=lambda cfg: None):
        return given(f'test: {name}', base, ('test', 'config.py', 'good.pth', *arguments), files, both(
            lambda cfg: cfg.update(test_dataloader=cfg['val_dataloader'], test_evaluator=cfg['val_evaluator'],
                                   test_cfg={}), config))

    for place in ('x.txt', 'data', 'config.py/x.pkl', '', f'{LONG}.pkl', 'a' * 255 + '.pkl', '/dev/null', '/proc/x.pkl',
                  'good.pth'):
        yield test(f'out {place[:30]!r} of {len(place)}', '--out', place)
    yield test('out a folder', '--out', 'x.pkl', files=lambda folder: (folder / 'x.pkl').mkdir())
    yield test('out in a new folder', '--out', 'new/x.pkl')
    for place in ('config.py', 'config.py/x', '', '/proc/x', LONG):
        yield test(f'show-dir {place[:30]!r}', '--show-dir', place)
        yield test(f'work-dir {place[:30]!r}', '--work-dir', place)
    yield test('show-dir /proc/x of a detector', '--show-dir', '/proc/x', base=DET)
    for words in ('--show', '--wait-time x', '--launcher x', '--tta x'):
        yield test(words, *words.split())
    yield test('wait-time nan', '--show-dir', 'out', '--wait-time', 'nan')
    yield test('no visualization hook', '--show-dir', 'out', config=set_('default_hooks.visualization', None))
    for path, value in (('tta_model', 3), ('tta_model', {}), ('tta_pipeline', []), ('tta_pipeline', 'x'),
                        ('tta_model', dict(type='Nope')), ('tta_pipeline', [dict(type='Nope')])):
        yield test(f'{path} = {value!r}', '--tta', config=set_(path, value))
    for path, value in (('test_evaluator', 'x'), ('test_evaluator', None), ('test_dataloader', None), (
            'test_cfg', None), ('model.head.num_classes', 3)):
        yield test(f'{path} = {value!r}', config=set_(path, value))
    for file in ('data', 'config.py/x.pkl', '/proc/x.pkl', LONG):
        yield test(f'dumped to {file[:30]!r}', config=set_('test_evaluator', [dict(
            type='DumpResults', out_file_path=f'{file}.pkl')]), files=lambda folder: (folder / 'data.pkl').mkdir())
    yield test('outfile_prefix', base=DET, config=set_('test_evaluator.outfile_prefix', '/proc/x/y'))
    yield test('format_only', base=DET, config=set_('test_evaluator.format_only', True))
    yield test('annotation 0', base=DET, files=annotated(lambda content: [
        one.update(id=one['id'] - 1) for one in content['annotations']] and None))
    yield test('a broken image', files=lambda folder: (folder / 'data/0/1.png').write_text('x'))
    yield test('a class less', files=lambda folder: shutil.rmtree(folder / 'data/0'))
    yield test('no data', files=lambda folder: shutil.rmtree(folder / 'data'))
    yield test('no masks', base=SEG, files=lambda folder: shutil.rmtree(folder / 'data/masks/val'))
    yield test('masks as images', base=SEG, config=set_('test_dataloader.dataset.data_prefix.img_path', 'masks/val'))
    yield test('classes in another order', base=SEG, config=set_('test_dataloader.dataset.metainfo.classes', (
        'ground', 'bright', 'dark')))
    yield given('test: no test', CLS, ('test', 'config.py', 'good.pth'))


def of_files() -> Iterator[Fault]:
    """Checkpoints that are none, and outputs that cannot be written."""
    for kind, change in {
        'a text': lambda file: file.write_text('x'), 'no bytes': lambda file: file.write_bytes(b''),
        'a folder': lambda file: (file.unlink(), file.mkdir()), 'missing': Path.unlink,
        'a pipe': lambda file: (file.unlink(), os.mkfifo(file)),
        'a zip': lambda file: zipfile.ZipFile(file, 'w').writestr('a', 'b'),
        'a pickle': lambda file: file.write_bytes(pickle.dumps({'a': 1})),
        'an npz': lambda file: np.savez(file.open('wb'), a=np.zeros(3)),
        'a device': lambda file: (file.unlink(), file.symlink_to('/dev/zero')),
    }.items():
        for command in (('predict', 'config.py', 'good.pth', 'data/0'), ('publish', 'good.pth'),
                        ('convert', 'good.pth', 'out.pth')):
            yield given(f'{command[0]}: the checkpoint {kind}', CLS, command, lambda folder, change=change: change(
                folder / 'good.pth'))
    for words in (
            'convert', 'convert good.pth', 'convert good.pth good.pth', 'convert good.pth no/x.pth',
            'convert good.pth data', 'convert data x.pth', 'convert config.py x.pth', 'convert good.pth x.pth',
            'convert good.pth x.pth --family x', 'convert good.pth x.pth --family', 'convert /dev/zero x.pth',
            'convert good.pth x.pth --trained-with x', 'convert good.pth config.py/x.pth',
            'publish', 'publish data', 'publish config.py', 'publish /dev/null', 'publish good.pth more',
            'publish good.pth --out no/x.pth', 'publish good.pth --out data', 'publish good.pth --out /proc/x.pth',
            'publish good.pth --out config.py/x', 'publish good.pth --out /', 'publish good.pth --out ..',
            f'publish good.pth --out {LONG}', 'check', 'check data', 'check /dev/zero', 'check good.pth',
            'check config.py --data x', 'check config.py --work-dir x', 'check config.py config.py', 'doctor x',
            'doctor --x', 'init', 'TRAIN config.py', '-x', 'train data', 'train good.pth', 'train /dev/null'):
        yield given(f'command: {words[:60]}', CLS, words.split())
    for words in (['convert', '', 'x.pth'], ['convert', 'good.pth', ''], ['publish', ''], ['check', ''], ['train', ''],
                  ['publish', 'good.pth', '--out', ''], ['test', 'config.py', ''], ['predict', '', 'good.pth', 'data'],
                  ['predict', 'config.py', '', 'data/0'], [''], ['memory', 'config.py', '--json', '']):
        yield given(f'command: {words!r}', CLS, words)
    for name in ('x', '.pth'):
        yield given(f'publish: --out {name}', CLS, ('publish', 'good.pth', '--out', name))


def of_forecasts() -> Iterator[Fault]:
    """Numbers and files of `mmrev memory`."""
    for words in ('--image 1 1', '--processes 1000000000', '--image -1 5', '--image 16 x', '--image 16',
                  '--image 1000000000 1000000000', '--batch -1', '--batch 1000000000', '--batch x', '--batch 1.5',
                  '--depth 0', '--depth -1', '--processes 0', '--processes x', '--gpu-memory=-1GB',
                  '--gpu-memory nanGB', '--gpu-memory GB', '--gpu-memory 1e400GB', '--gpu-memory 1e300GB',
                  '--gpu-memory 8GB --margin=-1GB', '--gpu-memory 8GB --margin x',
                  '--json data', '--json config.py/x', '--json /proc/x.json', f'--json {LONG}', '--picture x.txt',
                  '--picture no/x.png', '--picture /proc/x.png', '--objects -1', '--objects x',
                  '--objects 1000000000', '--what-if x'):
        size = () if '--image' in words else ('--image', '16', '16')
        yield given(f'memory: {words[:60]}', CLS, ('memory', 'config.py', *size, *words.split()))
    for key in ('model', 'optim_wrapper'):
        for value in (None, 3, 'x', []):
            yield given(f'memory: {key} = {value!r}', CLS, ('memory', 'config.py', '--image', '16', '16'),
                        config=set_(key, value))


def of_texts() -> Iterator[Fault]:
    """Encodings, bases, values and names of configs."""
    def added(text):
        return lambda folder: (folder / 'config.py').write_text((folder / 'config.py').read_text() + text)

    def changed(change):
        def write(folder: Path) -> None:
            text = change((folder / 'config.py').read_text())
            (folder / 'config.py').write_bytes(text if isinstance(text, bytes) else text.encode())
        return write

    def chain(folder: Path) -> None:
        for i in range(1500):
            (folder / f'c{i}.py').write_text(f"_base_ = 'c{i + 1}.py'\n")
        written('c1500.py', 'a = 1\n')(folder)
        written('config.py', "_base_ = 'c0.py'\n")(folder)

    imports = "\ncustom_imports = dict(imports=['mmrev', '{}'])\n"
    texts: Dict[str, Callable] = {
        'UTF-16': changed(lambda text: text.encode('utf-16')),
        'a byte order mark': changed(lambda text: b'\xef\xbb\xbf' + text.encode()),
        'Latin-1': changed(lambda text: b'# -*- coding: latin-1 -*-\nx = "\xe9"\n' + text.encode()),
        'an unknown encoding': changed(lambda text: '# -*- coding: nope -*-\n' + text),
        'a null byte': added('\0'), 'Windows': changed(lambda text: text.replace('\n', '\r\n')),
        'returns alone': changed(lambda text: text.replace('\n', '\r')), 'a comment': written('config.py', '# none\n'),
        'bytes': written('config.py', bytes(range(256)) * 10), 'brackets': added('a = ' + '(' * 300 + ')' * 300),
        'emoji': added('😀 = 3\n'), 'bytecode': lambda folder: py_compile.compile(
            str(folder / 'config.py'), cfile=str(folder / 'config.py')),
        'a circle': both(written('other.py', "_base_ = 'config.py'\n"), written('config.py', "_base_ = 'other.py'\n")),
        'itself': written('config.py', "_base_ = './config.py'\n"), 'a chain of 1500': chain,
        **{f'base {base}': written('config.py', f'_base_ = {base}\n') for base in (
            "'data'", "['no.py', 'nope.py']", '3', '{}', 'None', "''", '[]', '[3]', "'http://localhost:9/x.py'",
            "'data.txt'", "'mmrev::nowhere.py'", "'nopackage::x.py'", "f'{3}.py'")},
        'a base of JSON': both(written('b.json', '{'), written('config.py', "_base_ = 'b.json'\n")),
        'a base with a mistake': both(written('b.py', 'a = 1\nb = a +\n'), written('config.py', "_base_ = 'b.py'\n")),
        'a base that fails': both(written('b.py', 'a = 1\nb = a / 0\n'), written('config.py', "_base_ = 'b.py'\n")),
        'two bases with a key': both(written('a.py', 'x = dict(a=1)\n'), written('b.py', 'x = dict(a=2)\n'), written(
            'config.py', "_base_ = ['a.py', 'b.py']\n")),
        'a base of another type': both(written('a.py', 'model = 3\n'), written(
            'config.py', "_base_ = 'a.py'\nmodel = dict(a=2)\n")),
        'model in itself': added("\nmodel['x'] = model\n"), 'a lambda': added('\nf = lambda x: x\n'),
        'a lambda in the model': added("\nmodel['backbone']['x'] = lambda x: x\n"), 'a set': added('\nx = {1, 2}\n'),
        'an array': added("\nimport numpy as np\nmodel['data_preprocessor']['mean'] = np.zeros(3)\n"),
        'a key 3': added('\nmodel[3] = 4\n'), 'a key None': added('\nmodel[None] = 4\n'),
        'a key with a dot': added("\nmodel['a.b'] = 4\n"),
        'a generator': added("\nmodel['a'] = (i for i in [1])\n"),
        'nested': added("\na = {}\nfor _ in range(3000):\n    a = {'a': a}\nmodel['a'] = a\n"),
        'a huge number': added("\nmodel['a'] = 10 ** 5000\n"), 'a surrogate': added("\nmodel['a'] = '\\udcff'\n"),
        'filename': added("\nfilename = 'x'\n"), 'pretty_text': added("\npretty_text = 'x'\n"),
        'an unknown variable of a base': added('\na = {{_base_.x}}\n'), 'prints': added('\nprint("x")\n'),
        'delete': added('\nmodel = dict(_delete_=3)\n'), 'exit': written('config.py', 'exit()\n'),
        'exits with 3': written('config.py', 'import sys\nsys.exit(3)\n'),
        'ends a generator': written('config.py', 'raise GeneratorExit\n'),
        'BaseException': written('config.py', 'raise BaseException("x")\n'),
        'read_base': written('config.py', 'from mmengine.config import read_base\nwith read_base():\n    from .no '
                                          'import *\n'),
        'read_base of itself': written('config.py', 'from mmengine.config import read_base\nwith read_base():\n    '
                                                    'from .config import *\n'),
        'an unknown class': written('config.py', 'from mmengine.config import read_base\nfrom nowhere import X\n'
                                                 'model = dict(type=X)\n'),
        'imports a broken module': both(added(imports.format('broken1')), written('broken1.py', 'x = (\n')),
        'imports one that fails': both(added(imports.format('broken2')), written('broken2.py', '1 / 0\n')),
        'imports one that exits': both(added(imports.format('broken3')), written('broken3.py', 'raise SystemExit\n')),
        'imports ..x': added(imports.format('..x')), 'imports nothing': added(imports.format('')),
        'imports a path': added(imports.format('a/b.py')),
    }
    for name, write in texts.items():
        yield given(f'text, train: {name}', CLS, ('train', 'config.py'), write)
    for name in list(texts)[::4]:
        for command in (('check', 'config.py'), ('predict', 'config.py', 'good.pth', 'data/0'), (
                'memory', 'config.py', '--image', '16', '16')):
            yield given(f'text, {command[0]}: {name}', CLS, command, texts[name])
    for name in ('torch.py', 'json.py', 'mmengine.py', 'class.py', '1.py', 'a.b.py', 'a b.py', 'é.py', '__init__.py',
                 './-x.py', "a'b.py", 'a{}.py', 'a%s.py', 'a\nb.py', '-x.py', 'config', 'config.pyc', 'config.toml'):
        yield given(f'text named {name!r}', CLS, ('check', name), lambda folder, name=name: (
            folder / 'config.py').rename(folder / name))
    for name in ('torch', 'json', 'numpy', 'mmdet', 'mmrev', 'logging'):
        yield given(f'text beside {name}.py', CLS, ('check', 'config.py'), written(
            f'{name}.py', 'raise RuntimeError("shadowed")\n'))
    for text in ('[1]', 'null', '3', '"x"', '{"model": NaN}', '{"a": 1, "a": 2}', '', '{}', 'a:\n\t- 1', 'a: [',
                 'a: !!python/object/apply:os.system ["touch written"]'):
        for file in ('c.json', 'c.yaml'):
            yield given(f'text {text!r} in {file}', CLS, ('check', file), written(file, text))


def faults() -> List[Fault]:
    """All of them."""
    classes = (of_predictions, of_tests, of_files, of_forecasts, of_texts)
    return [fault for make in classes for fault in make()]
