"""Test-time adaptation: networks that change with what they see, on streams that shift and return."""
