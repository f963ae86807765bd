"""Every exception a caller may want to catch. The command line prints the text as one line; exit code 1 (usage: 2)."""


class ClipVipError(Exception):
    """Base of all errors that clipvip raises on purpose. The text names the thing, the value and the way out.

    repeated: another process of the same run reports it already.
    """

    repeated = False


class UsageError(ClipVipError):
    """The call itself is wrong (an unknown option value, two options that exclude each other): exit code 2."""


class ConfigError(UsageError):
    """A recipe or model configuration is malformed; the text names the field and the nearest known one."""


class VideoDecodeError(ClipVipError):
    """A media file cannot be opened or decoded; the text names the file, the reason and the way out."""


class DecoderKilled(VideoDecodeError):
    """Something killed the process that decoded a file, mostly the kernel when memory is short: try again."""


class ManifestError(ClipVipError):
    """A manifest line is malformed; the text names the file, the line and the field."""


class CheckpointError(ClipVipError):
    """A model folder or checkpoint is missing, damaged or does not fit."""


class InputError(ClipVipError, ValueError):
    """Values handed to the processor, model, loss or metrics are out of their documented range."""


class TrainingError(ClipVipError):
    """A training run cannot start or go on."""


class SearchIndexError(ClipVipError):
    """A search index is missing, of another model or of another schema."""


class Interrupted(BaseException):
    """A signal asks the command to end. Not an Exception: nothing on the way may take it for a failure.

    signum: its number; the exit code is 128 + signum (130 for Ctrl-C, 143 for SIGTERM).
    """

    def __init__(self, signum: int):
        super().__init__(f"interrupted by signal {signum}")
        self.signum = signum


class ClipVipWarning(UserWarning):
    """Something was done that the caller may not expect; the text names the thing and the way out."""
