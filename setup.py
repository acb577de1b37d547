"""Packaging of mmrev. The set-up of a working copy, with pinned versions, is `make`: see tools/setup."""
import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def read_version() -> str:
    """Version as the package itself states it, read without importing it."""
    text = (ROOT / 'mmrev' / '__init__.py').read_text(encoding='utf-8')
    return re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE).group(1)


def read_readme() -> str:
    """Text of the project page."""
    readme = ROOT / 'README.md'
    return readme.read_text(encoding='utf-8') if readme.exists() else ''


setup(
    name='mmrev',
    version=read_version(),
    description='Reversible and parameter-free backbones and norm layers for OpenMMLab, with memory flat in depth',
    long_description=read_readme(),
    long_description_content_type='text/markdown',
    packages=find_packages(include=['mmrev', 'mmrev.*']),
    # `.mim` holds links to configs/, tools/ and model-index.yml, where mmengine looks for `mmrev::...`.
    package_data={'mmrev': ['.mim/model-index.yml', '.mim/configs/**', '.mim/tools/**']},
    exclude_package_data={'mmrev': ['.mim/tools/setup/*', '.mim/**/__pycache__/*', '.mim/**/*.pyc']},
    include_package_data=False,
    python_requires='>=3.10',
    install_requires=['torch>=2.9'],
    extras_require={
        # mmdet 3.3 refuses mmcv 2.2; mmcv's build passes -std=c++17, which torch 2.14's headers refuse; mmengine
        # imports pkg_resources when it runs, which setuptools 81 dropped.
        'openmmlab': [
            'mmengine>=0.10.7,<0.11',
            'mmcv>=2.1.0,<2.2.0',
            'mmdet>=3.3.0,<3.4',
            'mmpretrain>=1.2.0,<1.3',
            'setuptools<81',
            'torch>=2.9,<2.14',
            'torchvision>=0.24',
        ],
        'inplace-abn': ['inplace-abn>=1.1.0'],
        'benchmark': ['matplotlib', 'timm>=1.0'],  # EfficientNet, to compare with
        'dev': ['flake8', 'matplotlib', 'ninja', 'onnx', 'onnxruntime', 'pytest', 'pytest-xdist',
                'scikit-learn', 'setuptools<81', 'tensorboard', 'wheel'],
    },
    entry_points={'console_scripts': ['mmrev = mmrev.cli:main']},
    zip_safe=False,
    classifiers=[
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
