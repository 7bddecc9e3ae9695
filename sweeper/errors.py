"""What the user did wrong, or must decide: said in one message, never as a traceback."""


class UserError(Exception):
    """A mistake in a study file, an override or an argument: value, rule, way out."""

    exit_code = 2


class DriverBusy(UserError):
    """Another driver holds the study."""

    exit_code = 4


class JobsFailed(UserError):
    """Jobs ended without doing their work; the message names their log."""

    exit_code = 1
