"""Output contains no credentials and no control characters."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from iotid import messages
from iotid.capture import read_packets
from iotid.errors import IotidError, UserError
from iotid.messages import format_traceback, holds_credentials, names_secret, one_line, redacted, redacted_location
from iotid.partitions import Store

SECRET = "hunter2"
# each with a secret in another part; a password may hold what ought to be escaped
CREDENTIALS = [
    f"s3://AKIA:{SECRET}@bucket/x",
    f"s3://AKIA:abc/{SECRET}/def@bucket/x",
    f"S3://AKIA:{SECRET}?#@bucket",
    f"postgresql://ann:p@{SECRET}/word@host/db",
    f"postgresql+psycopg2://ann:{SECRET}@/db?host=/run/pg",
    f"postgresql:///ann:{SECRET}@host/db",
    f"https:/ann:{SECRET}@mlflow.example",
    f"https://{SECRET}@mlflow.example",
    f"https:/{SECRET}@mlflow.example",
    f"https://mlflow.example/?password={SECRET}",
    f"https://mlflow.example/x?a=b&Token={SECRET}&c=d",
    f"https://mlflow.example/#access_token={SECRET}",
    f"s3://bucket/x?region=eu&secret_key={SECRET}",
    f"https://account.blob.core.windows.net/c?sv=1&sig={SECRET}%3D",
    f"https://bucket.example/x?X-Amz-Credential={SECRET}",
    f"jdbc:sqlserver://host;user=ann;password={SECRET}",
    f"abfss://container:{SECRET}@account.dfs.core.windows.net/x",
    f"hdfs://{SECRET}@name:8020/x",
    f"spark://ann:{SECRET}@head:7077",
    f"file:///captures,s3://AKIA:{SECRET}@bucket",
    f"-Dhttp.proxyPassword={SECRET}",
    f"host=db password={SECRET}",
]
CLEAN = [
    "s3://bucket/x%40y",
    "s3://bucket/x?endpoint_override=localhost:9000&scheme=http",
    "s3://bucket/key=3/x.pcap",
    "abfss://container@account.dfs.core.windows.net/x",
    "gs://anonymous@bucket/x",
    "hdfs://name:8020/x",
    "models:/iotid@champion",
    "sqlite:////home/ann@corp/mlflow.db",
    "file:///home/ann@corp/a:b@c.pcap",
    "/home/ann@corp/token=a/key=3/a:b@c.pcap",
    "postgresql:///iotid?host=/run/pg",
    "k8s://https://host:443",
    "local[*]",
]


@pytest.mark.parametrize("location", CREDENTIALS)
def test_redacted__removes_a_secret_anywhere_in_a_location(location: str) -> None:
    assert holds_credentials(location)
    assert SECRET not in redacted_location(location)
    assert "***" in redacted_location(location)
    for text in (f"{location}: cannot be read", f"got '{location}'", f'("{location}")', f"a {location}\nb {location}"):
        assert SECRET not in redacted(text)
    assert redacted(redacted(location)) == redacted(location)


@pytest.mark.parametrize("location", CLEAN)
def test_redacted__location_without_credentials_is_unchanged(location: str) -> None:
    assert not holds_credentials(location)
    assert redacted(f"waiting for '{location}': gone") == f"waiting for '{location}': gone"


def test_holds_credentials__finds_a_secret_with_white_space() -> None:
    assert redacted_location(f"s3://AKIA:a b{SECRET}\t'c@bucket") == "s3://***@bucket"
    assert redacted_location(f"https://host?password=a {SECRET}") == "https://host?password=***"


@pytest.mark.parametrize(
    "word",
    ["a:/" * 1300, "a://" + ":" * 4000, "?token" * 700, "token" * 800, "-" * 4000 + "@", "?" * 4000, "abfs://a@" * 450],
)
def test_redacted__adversarial_names_take_no_longer(word: str) -> None:
    assert redacted(f"{word}: gone").endswith(": gone")


def test_names_secret__knows_secret_settings_of_spark_and_hadoop() -> None:
    names = ["spark.hadoop.fs.s3a.secret.key", "spark.hadoop.fs.s3a.access.key", "spark.ssl.keyPassword"]
    names += ["spark.hadoop.fs.azure.account.key.x.dfs.core.windows.net", "spark.executorEnv.AWS_SESSION_TOKEN"]
    assert all(map(names_secret, names))
    assert not any(map(names_secret, ["spark.sql.shuffle.partitions", "spark.master", "spark.kryo.registrator"]))


def test_one_line__escapes_control_characters() -> None:
    raw = "a\n\r\t\0\x1b[2J\x7f\x85\x9b\u2028\u2029\u202e\u2066\u200f\udcffé☃ \\n"
    result = r"a\n\r\t\x00\x1b[2J\x7f\x85\x9b\u2028\u2029\u202e\u2066\u200f\udcffé☃ \n"
    assert one_line(raw) == result
    assert one_line(result) == result


def test_error__never_contains_credentials_or_line_breaks() -> None:
    fault = UserError(f"s3://k:{SECRET}@b/a\nError: \x1b[2J")
    assert str(fault) == r"s3://***@b/a\nError: \x1b[2J"
    assert str(pickle.loads(pickle.dumps(fault))) == str(fault)


def test_python__locations_with_credentials_are_refused_and_not_shown() -> None:
    for use in (lambda: read_packets([f"s3://k:{SECRET}/x@b/a.pcap"]), lambda: Store(f"s3://k:{SECRET}/x@b")):
        with pytest.raises(IotidError, match="must not contain a user, password or key") as caught:
            use()
        assert SECRET not in str(caught.value)
        assert "s3://***@b" in str(caught.value)


def test_format_traceback__further_lines_of_an_error_text_are_indented() -> None:
    try:
        raise ValueError(f"a\nError: s3://k:{SECRET}@b\x1b")
    except ValueError as fault:
        result = format_traceback(fault).splitlines()
    assert result[0] == "Traceback (most recent call last):"
    assert result[-2:] == ["ValueError: a", r"  | Error: s3://***@b\x1b"]


def test_formatter__a_records_arguments_and_exception_are_safe_to_print() -> None:
    try:
        raise OSError(f"\x1bs3://k:{SECRET}@b")
    except OSError:
        record = logging.LogRecord("iotid", logging.INFO, "", 0, "%s: gone", ("a\nb\x1b",), sys.exc_info())
    result = messages.Formatter().format(record).splitlines()
    assert result[0] == r"a\nb\x1b: gone"
    assert result[-1] == r"OSError: \x1bs3://***@b"


def test_log_to_stderr__warnings_logs_and_uncaught_errors_are_safe_to_print(tmp_path: Path) -> None:
    code = (
        "import logging, sys, warnings; from iotid.messages import log_to_stderr; log_to_stderr()\n"
        "raw = sys.argv[1].encode().decode('unicode_escape')\n"
        "logging.getLogger('iotid.x').info('info %s', raw); logging.getLogger('mlflow').warning('warning %s', raw)\n"
        "warnings.warn('warned ' + raw); raise RuntimeError('raised ' + raw)\n"
    )
    command = [sys.executable, "-c", code, rf"a\x1b[2J s3://k:{SECRET}@b\nError: x"]
    result = subprocess.run(command, capture_output=True, check=False).stderr
    assert b"\x1b" not in result
    assert SECRET.encode() not in result
    assert not [line for line in result.splitlines() if line.startswith(b"Error")]
    for words in (b"info a", b"warning a", b"UserWarning: warned a", b"RuntimeError: raised a"):
        assert words in result
