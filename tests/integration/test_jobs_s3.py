"""The files of jobs in a bucket: the same calls, against a server that speaks S3."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator

import pytest

from services.core.errors import JobNotFound, Unavailable
from services.jobs.artefacts import ArtefactStore

moto = pytest.importorskip("moto.server", reason="moto[server] is not installed")
pytest.importorskip("s3fs", reason="s3fs is not installed")
boto3 = pytest.importorskip("boto3", reason="it comes with moto[server]")

BUCKET = "made"
JOB, OTHER = "job-" + "0" * 32, "job-" + "1" * 32


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
async def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ArtefactStore]:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key="jobs/somebody-elses/file", Body=b"kept")
    store = ArtefactStore(f"s3://{BUCKET}/jobs")
    await store.open()
    yield store
    store.close()


async def test_files_are_kept_listed_and_removed(bucket: ArtefactStore) -> None:
    await bucket.put(JOB, "000000-1.png", b"first")
    await bucket.put(JOB, "000000-1.png", b"second")
    await bucket.put(JOB, "input-abc", b"input")
    await bucket.put(OTHER, "000000-1.png", b"other")
    assert await bucket.get(JOB, "000000-1.png") == b"second"
    folders = await bucket.folders()
    assert folders.keys() == {JOB, OTHER}
    assert abs(time.time() - folders[JOB]) < 120
    await bucket.keep_only(JOB, {"000000-1.png"})
    assert await bucket.get(JOB, "000000-1.png") == b"second"
    with pytest.raises(JobNotFound):
        await bucket.get(JOB, "input-abc")
    await bucket.keep_only(JOB, ())
    assert (await bucket.folders()).keys() == {OTHER}
    await bucket.keep_only(JOB, ())  # again, as two sweeps may
    assert await bucket.get(OTHER, "000000-1.png") == b"other"


async def test_a_bucket_that_is_not_there_is_an_outage(
    endpoint: str, bucket: ArtefactStore
) -> None:
    store = ArtefactStore("s3://no-such-bucket/jobs")
    with pytest.raises((Unavailable, JobNotFound)):
        await store.put(JOB, "000000-1.png", b"lost")
    store.close()
