_base_ = './_revvit_in1k.py'
