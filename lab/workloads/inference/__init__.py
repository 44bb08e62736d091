"""Inference workloads: a trained network answers, nothing on the device learns."""
