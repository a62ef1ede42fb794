"""What looks like a secret: refused where everybody would see it, and taken out of what is logged.

Secrets stand in files that only their owner can read, and options name such files. A key or token in a command line is
seen by every user of the machine (`ps`, `mount`, /etc/fstab), and one in a TOML file travels with it.

Called by config.py for every option and SOURCE, and by whatever writes a log. Messages never repeat what they are
about. Pure text; any thread may enter.
"""

import re
from collections.abc import Iterator

from vfs.errors import OptionError
from vfs.options import Given, shown_path

# Names that no option has, with what to do instead; the first that fits is told. Hyphens count as underscores.
_AWS = "keys of AWS stand in a profile of ~/.aws/credentials, which aws_profile=NAME names"
_FILES_OF_NAMES = (
    (re.compile(r"aws_\w*(key|key_id|secret|token)|(secret_)?access_?key(_id)?|secret_?key|session_token"), _AWS),
    (
        re.compile(r"client_secret|refresh_token|google_\w*(key|secret|token)|gdrive_\w*(key|secret|token)"),
        "credentials of Google Drive are made by `egofs auth gdrive`, and credentials=FILE names them",
    ),
    (
        re.compile(r"(\w+_)?(password|passwd|passphrase|pass)"),
        "a password stands in a file as netrc(5) has it, which netrc=FILE names",
    ),
    (re.compile(r"cookies?"), "cookies stand in a file, which cookies_file=FILE names"),
    (
        re.compile(r"(\w+_)?(token|secret|api_?key|private_key|bearer|authorization)"),
        "a token stands in a file of its own, which token_file=FILE names",
    ),
)

# Parts of a URL's query by which a store lets in whoever has the URL.
_SIGNED = (
    r"(?:x-(?:amz|goog)-[\w-]+|signature|sig|(?:\w+[_-])?token|api[_-]?key|key|awsaccesskeyid|password|auth|secret)"
)
# A password need not be written as a URL wants it (keys of AWS have / in them); what follows a colon may be a port.
_OWNER = re.compile(r"(?<=://)(?:[^/?#\s:@]*:(?!\d+[/?#])\S*@|[^/?#\s]*@)")
_QUERY = re.compile(rf"([?&#;]{_SIGNED}=)[^&#;\s'\"<>]+", re.IGNORECASE)
# Tokens that are known by how they begin, wherever they stand.
_TOKEN = re.compile(
    r"\bhf_[A-Za-z0-9]{30,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bya29\.[\w-]{20,}|\bAIza[\w-]{35}|\bgh[opsu]_[A-Za-z0-9]{36}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
# What a library may say of a request.
_HEADER = re.compile(
    r"((?:\bauthorization\W{1,4})(?:\w+\s+)?|\bbearer\s+(?=\S{16})|\b(?:Credential|Signature)=)[^\s'\",}]+",
    re.IGNORECASE,
)
_ASSIGNED = re.compile(
    r"\b((?:aws_)?(?:secret_access_key|session_token|access_key_id)|client_secret|(?:refresh|access)_token|password)"
    r"(['\"]?\s*[=:]\s*['\"]?)[^\s'\",}]+",
    re.IGNORECASE,
)

_OF_URL = (
    "has a secret in its URL, which everybody can see: a name and password stand in netrc=FILE, a token in "
    "token_file=FILE, keys of AWS in aws_profile=NAME"
)


def refuse(name: str, given: Given) -> None:
    """Raises OptionError for an option that is called like a secret, or whose value looks like one."""
    place = f"{shown_path(given.file)}: " if given.file else ""
    if _TOKEN.search(name):
        raise OptionError(f"{place}a secret was given as an option: {_FILES_OF_NAMES[-1][1]}")
    plain = name.lower().replace("-", "_")
    for names, instead in _FILES_OF_NAMES:
        if names.fullmatch(plain):
            raise OptionError(f"{place}option {name!r} would be a secret that everybody can see: {instead}")
    for text in _texts(given.value):
        refuse_text(f"{place}option {name!r:.80}", text)


def refuse_text(what: str, text: str) -> None:
    """Raises OptionError, with `what` in front, for a URL with a secret in it, and for a secret itself."""
    if "://" in text and (_OWNER.search(text) or _QUERY.search(text)):
        raise OptionError(f"{what} {_OF_URL}")
    if _TOKEN.search(text):
        raise OptionError(
            f"{what} is a secret itself, which everybody can see: put it into a file and name that (token_file=FILE; "
            "for AWS a profile of ~/.aws/credentials, aws_profile=NAME)"
        )


def redacted(text: str) -> str:
    """The text without what looks like a secret in it."""
    text = _OWNER.sub("…@", text)
    text = _QUERY.sub(r"\1…", text)
    text = _TOKEN.sub("…", text)
    text = _HEADER.sub(r"\1…", text)
    return _ASSIGNED.sub(r"\1\2…", text)


def _texts(value: object) -> Iterator[str]:
    """All texts in a value as TOML has it."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
