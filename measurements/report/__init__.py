"""Reports for people: one HTML file without network, and the ``latest`` link to it."""

from measurements.report.page import publish, render, write_report

__all__ = ["publish", "render", "write_report"]
