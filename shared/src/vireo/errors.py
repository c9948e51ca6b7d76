"""The one exception for mistakes a user can mend.

A command-line entry point prints it as a single message and exits with status 2; a library caller catches it.
"""


class InputError(ValueError):
    """Bad input: what is wrong, where it stands, and how to mend it.

    Args:
        what: the fault in one sentence without a final stop, e.g. ``"box has no area (w=0, h=12)"``.
        where: file, record or configuration key, e.g. ``"train.json: annotation 17 of image 'a.jpg'"``.
        remedy: what the reader can do, e.g. ``"correct the record, or set data.on_error=skip"``.

    ``str(error)`` is ``"{where}: {what}. {remedy}."``; the parts stay available as attributes.
    """

    def __init__(self, what: str, where: str, remedy: str) -> None:
        self.what, self.where, self.remedy = what, where, remedy
        super().__init__(f"{where}: {what}. {remedy}.")

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, str, str]]:
        return type(self), (self.what, self.where, self.remedy)  # survives the trip from a worker process
