"""Workloads that train on the device."""
