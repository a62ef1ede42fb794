"""A page of a bucket's listing: read as the SDK reads it, from every shape in which stores write it."""

import botocore.session
import pytest
from botocore.handlers import decode_list_object_v2
from botocore.parsers import create_parser

from vfs.bucketlist import ListPage, parse

NAMESPACE = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
KEYS = ["plain", "with space", "a+b", "100%", "a%2Fb", "é日本", "&lt;&amp;&gt;", "%E6%97%A5+x%2By"]


def document(space: str, pretty: str, encoding: str) -> bytes:
    rows = "".join(
        f"<Contents>{pretty}<Key>{key}</Key>{pretty}<LastModified>2024-02-29T23:59:5{n}.9Z</LastModified>{pretty}"
        f"<ETag>&quot;{n:032x}&quot;</ETag><Size>{n << 40}</Size><StorageClass>X</StorageClass></Contents>{pretty}"
        for n, key in enumerate(KEYS)
    )
    folders = "".join(f"<CommonPrefixes><Prefix>{key}/</Prefix></CommonPrefixes>{pretty}" for key in KEYS)
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult{space}>{pretty}<Name>b</Name><Prefix></Prefix>'
        f"<IsTruncated>true</IsTruncated><NextContinuationToken>a+b%2F==</NextContinuationToken>{encoding}"
        f"{rows}{folders}</ListBucketResult>"
    ).encode()


@pytest.mark.parametrize("space", [NAMESPACE, ""])
@pytest.mark.parametrize("pretty", ["", "\n  "])
@pytest.mark.parametrize("encoding", ["<EncodingType>url</EncodingType>", ""])
def test_a_page_is_read_as_the_sdk_reads_it(space: str, pretty: str, encoding: str) -> None:
    shape = botocore.session.get_session().get_service_model("s3").operation_model("ListObjectsV2").output_shape
    body = document(space, pretty, encoding)
    theirs = create_parser("rest-xml").parse({"body": body, "headers": {}, "status_code": 200}, shape)
    decode_list_object_v2(theirs, {"encoding_type_auto_set": True})
    ours = parse(body)
    assert ours is not None
    assert ours.rows == [
        (item["Key"], item["Size"], int(item["LastModified"].timestamp()), item["ETag"].strip('"'))
        for item in theirs["Contents"]
    ]
    assert ours.prefixes == [part["Prefix"] for part in theirs["CommonPrefixes"]]
    assert (ours.more, ours.token) == (True, "a+b%2F==")


@pytest.mark.parametrize("body", [b"", b"<html>a portal", b"<html>a portal</html>", b"<Error><Code>X</Code></Error>"])
def test_what_is_no_listing_is_left_to_the_sdk(body: bytes) -> None:
    assert parse(body) is None


def test_a_time_without_a_zone_is_utc_and_none_is_none() -> None:
    row = "<Contents><Key>k</Key><Size>1</Size>{}</Contents>"
    told = row.format("<LastModified>1970-01-02T00:00:00</LastModified>")
    page = parse(f"<ListBucketResult>{told}{row.format('')}</ListBucketResult>".encode())
    assert page == ListPage([("k", 1, 86_400, ""), ("k", 1, 0, "")], [], more=False, token="")
