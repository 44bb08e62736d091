"""Power switches, one file each, behind the interface of ``base.py``."""
