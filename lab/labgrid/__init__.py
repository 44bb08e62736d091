"""Boards of other hosts, through labgrid: its coordinator's places as devices, its exporters' resources as wiring.

labgrid itself is never imported here: it runs in an environment of its own (``docs/labgrid.md`` says why).
"""
