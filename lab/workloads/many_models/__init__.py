"""Workloads of several networks on one device, stored together and made ready one at a time."""
