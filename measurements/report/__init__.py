"""Reports for people and machines: one HTML file without network, Markdown, JUnit XML, tables for papers."""

from measurements.report.page import publish, render, write_report, write_text

__all__ = ["publish", "render", "write_report", "write_text"]
