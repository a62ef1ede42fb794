"""Every failure the filesystem can have, and the one table from failure to errno.

    EgofsError
    ├── OptionError            the person asked for something that cannot be: usage, exit status 1
    ├── NotFound               ENOENT
    ├── AccessDenied           EACCES     credentials missing, wrong or expired
    ├── Changed                ESTALE     the object is no longer the version that was opened
    ├── Timeout                ETIMEDOUT  retried
    ├── Throttled              EAGAIN     retried
    ├── OverQuota              EDQUOT     the store will give it again, after hours: not retried
    ├── Unavailable            EIO        server error, lost connection: retried
    ├── CorruptData            EIO        short, long, wrong or garbled bytes: retried
    ├── SourceError            EIO        any other answer of a store: not retried
    ├── UndecodableVideo       EIO        the index or a frame of a video cannot be had
    ├── NoSuchAttribute        ENODATA
    ├── NotADirectory          ENOTDIR
    └── IsADirectory           EISDIR

Layers below ops raise these and never see an errno. A message says what failed, on which object, and what to do.
Pure data: any thread may use it.
"""

import errno


class EgofsError(Exception):
    """What went wrong, in one line that a person can act on."""

    retryable = False
    """Whether the same request may succeed when it is sent again."""
    retry_after_s: float = 0.0
    """How long the store asked to be left alone; 0 where it did not say."""


class OptionError(EgofsError):
    """A value that a person gave cannot be used."""


class NotFound(EgofsError):
    """Nothing stands under that name."""


class AccessDenied(EgofsError):
    """The store refuses these credentials, or there are none."""


class Changed(EgofsError):
    """The object is no longer the version that was opened."""


class Timeout(EgofsError):
    """No answer within the deadline."""

    retryable = True


class Throttled(EgofsError):
    """The store asks for fewer requests."""

    retryable = True


class OverQuota(EgofsError):
    """The store gives so much and no more until hours have passed; whoever asks is admitted."""


class Unavailable(EgofsError):
    """The store failed or the connection was lost."""

    retryable = True


class CorruptData(EgofsError):
    """The bytes that came are not those that were asked for."""

    retryable = True


class SourceError(EgofsError):
    """The store gave an answer that no retry will mend."""


class UndecodableVideo(EgofsError):
    """A video's index, or one of its frames, cannot be had."""


class NoSuchAttribute(EgofsError):
    """The extended attribute does not exist."""


class NotADirectory(EgofsError):
    """A path goes through something that is not a directory."""


class IsADirectory(EgofsError):
    """A directory was opened as a file."""


_ERRNO: tuple[tuple[type[BaseException], int], ...] = (
    (OptionError, errno.EINVAL),
    (NotFound, errno.ENOENT),
    (AccessDenied, errno.EACCES),
    (Changed, errno.ESTALE),
    (Timeout, errno.ETIMEDOUT),
    (Throttled, errno.EAGAIN),
    (OverQuota, errno.EDQUOT),
    (Unavailable, errno.EIO),
    (CorruptData, errno.EIO),
    (SourceError, errno.EIO),
    (UndecodableVideo, errno.EIO),
    (NoSuchAttribute, errno.ENODATA),
    (NotADirectory, errno.ENOTDIR),
    (IsADirectory, errno.EISDIR),
)


def errno_of(failure: BaseException) -> int:
    """The errno that a program on the mount sees for this failure; EIO for whatever the table does not name."""
    return next((number for kind, number in _ERRNO if isinstance(failure, kind)), errno.EIO)
