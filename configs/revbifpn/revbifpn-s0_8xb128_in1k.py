_base_ = ['./_revbifpn_in1k.py', '../_base_/datasets/imagenet_bs128_randaug.py']
