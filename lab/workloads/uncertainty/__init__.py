"""Workloads of networks that say how sure they are, and that stop where they are sure enough."""
