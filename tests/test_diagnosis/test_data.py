"""What is wrong with data sets, dataloaders and metrics: two lines, status 2, nothing written."""
import pytest
from mmengine.config import Config

from mmrev.datasets.coco import mislabelled
from mmrev.diagnosis.data import files
from mmrev.diagnosis.plan import Plan
from support.commands import option

MISTAKES = {
    'annotations that are not there': (option('train_dataloader.dataset.ann_file=x.json'), 'x.json` does not exist',
                                       'train_dataloader.dataset.data_root'),
    'annotations cut off': (option('train_dataloader.dataset.ann_file=cut.json'), 'cut.json` is empty or truncated',
                            'again'),
    'annotations of the metric not there': (option('val_evaluator.ann_file=x.json'), '`x.json` does not exist',
                                            'val_evaluator.ann_file'),
    'annotations of another split for the metric': (
        option('val_evaluator.ann_file=other/annotations.json'), '`other/annotations.json` (val_evaluator.ann_file) '
        'shares no annotation with', 'val_evaluator.ann_file='),
    'an image folder that is not there': (option('val_dataloader.dataset.data_prefix.img=x/'), 'x/` does not exist',
                                          'val_dataloader.dataset.data_root'),
    'classes that the annotations do not have': (['train', 'no_classes.py'], 'none of the classes cat, dog',
                                                 "classes=('dark', 'bright')"),
    'a class that is no tuple': (['train', 'no_tuple.py'], 'the text `dark`', "classes=('dark', )"),
    'classes in another order than the annotations': (
        ['train', 'other_order.py'], 'label 0 is the category `dark` in `annotations.json`, and `bright` in',
        "classes=('dark', 'bright')"),
    'a class without a category before one with': (['train', 'unknown_first.py'], 'category `dark`', "'cat'"),
    'a head with other classes': (option('model.roi_head.bbox_head.num_classes=7'), 'num_classes=7', 'num_classes=2'),
    'a text for the batch size': (option('train_dataloader.batch_size=abc'), 'batch_size` is the text `abc`',
                                  'train_dataloader.batch_size=VALUE'),
    'a batch size of none': (option('train_dataloader.batch_size=0'), 'batch_size=0', 'train_dataloader'),
    'a misspelt batch size': (option('val_dataloader.batch_siz=3'), '`val_dataloader.batch_siz`', '`batch_size`'),
    'less than no workers': (option('train_dataloader.num_workers=-1'), 'num_workers', 'train_dataloader'),
    'a number for a data set': (option('train_dataloader.dataset=3'), '`train_dataloader.dataset` is 3', 'good.py'),
    'a misspelt argument of the data set': (option('val_dataloader.dataset.test_mod=True'), "'test_mod'",
                                            'val_dataloader.dataset'),
    'a text for a size': (option('train_dataloader.dataset.pipeline.2.scale=big'), 'pipeline.2.scale` is the text',
                          'VALUE'),
    'a metric that is none': (option('val_evaluator.metric=bboxx'), 'bboxx', 'val_evaluator'),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_it_is_named_with_a_way_out_and_nothing_is_written(mistake, refused):
    refused(*MISTAKES[mistake])


def test_a_last_class_without_a_category_shifts_no_label():
    assert list(mislabelled('x.json', ['a', 'b'], ('a', 'b', 'c'), 'train_dataloader.dataset')) == []


def test_data_behind_another_backend_is_not_looked_for_here():
    remote = dict(type='CocoDataset', data_root='s3/', ann_file='x.json', data_prefix=dict(img='x/'),
                  backend_args=dict(backend='petrel'))

    def found(dataset):
        return [problem.what for problem in files(Plan(Config(dict(train_dataloader=dict(dataset=dataset))),
                                                       ('train', )))]

    assert found(remote) == []
    assert [what.split('`')[1] for what in found(dict(remote, backend_args=None))] == ['s3/x.json', 's3/x/']
