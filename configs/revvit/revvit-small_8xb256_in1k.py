_base_ = './revvit_in1k.py'
