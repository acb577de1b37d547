_base_ = './revbifpn_in1k.py'
