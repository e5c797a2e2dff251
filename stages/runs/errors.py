"""The one exception that means: the user can mend this."""


class InputError(Exception):
    """A mistake in what the user gave: a missing folder, an unknown key, a corrupt checkpoint.

    The message is one line that names the file or key and the remedy. A stage that raises it
    ends with that line on standard error and exit code 2, without a traceback.
    """
