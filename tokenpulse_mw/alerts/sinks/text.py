"""Sanitized text of alerts."""

from __future__ import annotations

from ...web.text import single_line as single_line

LONGEST_FINGERPRINT = 300  # characters in a log line
