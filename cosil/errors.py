# SPDX-License-Identifier: Apache-2.0
"""Errors that the command turns into one line; others are defects and keep their traceback."""

from __future__ import annotations


class CosilError(Exception):
    """What went wrong, in one sentence, and what to do about it.

    Parameters
    ----------
    message : str
        What was expected and what was found.
    hint : str
        What the reader can do next; empty where there is nothing to add.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UnknownNameError(CosilError, ValueError):
    """A name that a registry does not hold."""


class ToolMissingError(CosilError):
    """A program or package that is needed and not installed; the hint says how to get it."""


class ToolFailedError(CosilError):
    """A program that ran and failed; the message ends with the last lines that it printed."""
