"""The one error that stands for a mistake of the user's."""


class UserError(Exception):
    """A mistake of the user's, told in one sentence: what, where, and what would be right.

    The command line prints the sentence and exits with code 2. Every other exception is ours and keeps its
    traceback.
    """
