# SPDX-License-Identifier: Apache-2.0
"""The one error that a malformed packed tensor or file gives."""

from __future__ import annotations


class PackedFormatError(ValueError):
    """A packed tensor or file breaks a rule of `docs/packed-format.md`.

    The message reads ``subject: rule, not value``; the subject is a file part, a node or a tensor.

    Attributes
    ----------
    rule : str
        Short name of the rule, e.g. ``"offsets"``; the fuzz script counts by it.
    subject, detail : str
        The two parts of the message.
    """

    def __init__(self, subject: str, rule: str, detail: str) -> None:
        super().__init__(f"{subject}: {detail}")
        self.subject = subject
        self.rule = rule
        self.detail = detail
