import errno

import pytest

from vfs import errors


def all_kinds(kind: type) -> set[type]:
    return {kind, *(below for child in kind.__subclasses__() for below in all_kinds(child))}


def test_every_failure_of_ours_has_an_errno_of_its_own_in_the_table() -> None:
    ours = {kind for kind in all_kinds(errors.EgofsError) if kind.__module__ == "vfs.errors"} - {errors.EgofsError}
    assert ours == {kind for kind, _ in errors._ERRNO}


@pytest.mark.parametrize(
    ("failure", "number"),
    [
        (errors.NotFound("x"), errno.ENOENT),
        (errors.AccessDenied("x"), errno.EACCES),
        (errors.Changed("x"), errno.ESTALE),
        (errors.Timeout("x"), errno.ETIMEDOUT),
        (errors.Throttled("x"), errno.EAGAIN),
        (errors.CorruptData("x"), errno.EIO),
        (errors.UndecodableVideo("x"), errno.EIO),
        (errors.NoSuchAttribute("x"), errno.ENODATA),
        (ZeroDivisionError(), errno.EIO),
    ],
)
def test_a_program_on_the_mount_sees_the_documented_errno(failure: Exception, number: int) -> None:
    assert errors.errno_of(failure) == number
