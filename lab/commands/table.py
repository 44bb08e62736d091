"""Columns for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

import click


def echo_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows of equal length in aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
