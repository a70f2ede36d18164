"""What an experiment raises where it cannot be had."""


class NotPossibleError(Exception):
    """This machine lacks what an experiment needs; that is said, and never counts as passed."""
