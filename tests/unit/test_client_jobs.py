"""``client.jobs`` and ``atelier jobs`` against the gateway over real engines and real sockets."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from services.cli import app as command_line
from services.client import (
    AsyncClient,
    AtelierClientError,
    Client,
    InvalidRequest,
    Job,
    JobFailed,
    NotFound,
    Retries,
    progress_bar,
)
from services.families import discover
from services.gateway.app import create_app
from services.gateway.metrics import GatewayMetrics
from services.gateway.settings import GatewaySettings
from services.jobs.composition import jobs_for
from services.jobs.settings import JobSettings
from services.serving.in_process import InProcessBackend
from tests.tiny_models import one_of_each

MODEL, STEPS, PATIENCE = "tiny-diffusion", 4, 60.0
ASKED: dict[str, Any] = {"prompt": "red", "seed": 7, "steps": STEPS}
LONG: dict[str, Any] = {**ASKED, "steps": 900, "n": 8}
BULK: dict[str, Any] = {"grid": {"temperature": [0.5, 1.0]}, "n": 2, "shard_size": 3}


class Losing:
    """An application that loses the answers to some submissions, after it has done the work."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.lose = 0
        self.keys: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or (scope["method"], scope["path"]) != ("POST", "/v1/jobs"):
            await self._app(scope, receive, send)
            return
        self.keys.append(dict(scope["headers"])[b"idempotency-key"])
        if not self.lose:
            await self._app(scope, receive, send)
            return
        self.lose -= 1

        async def lost(message: Any) -> None:
            """The work is done, and nobody hears of it."""

        await self._app(scope, receive, lost)
        await send({"type": "http.response.start", "status": 502, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture(scope="module")
def losing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Losing]:
    backend = InProcessBackend(one_of_each(), discover())
    settings = GatewaySettings(
        key_file=tmp_path_factory.mktemp("state") / "keys.json",
        jobs=JobSettings(poll_seconds=0.02, sweep_seconds=0.2, lease_seconds=1.0),
        provenance={"enabled": False},
    )
    metrics = GatewayMetrics(CollectorRegistry())
    make_jobs = jobs_for(settings.jobs, settings.jobs_folder)
    yield Losing(create_app(backend, settings, metrics=metrics, make_jobs=make_jobs))
    backend.close()


@pytest.fixture(scope="module")
def url(losing: Losing) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(losing, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + PATIENCE
    while not server.started:
        assert time.monotonic() < end
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(PATIENCE)


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, retries=Retries(most=2, first_pause=0.01)) as made:
        yield made


def test_a_job_gives_what_the_call_gives(client: Client) -> None:
    expected = client.generate(MODEL, n=2, **ASKED)
    job = client.jobs.submit("generate", MODEL, n=2, metadata={"for": "a test"}, **ASKED)
    assert (job.status, job.metadata, job.final) == ("queued", {"for": "a test"}, False)
    result = client.jobs.result(job)
    assert [image.data for image in result.images] == [image.data for image in expected.images]
    assert [image.seed for image in result.images] == [7, 8]
    assert result.images[0].pil().size == (8, 8)
    assert result.job.final
    assert client.jobs.get(job.id).rows_done == 2
    assert job.id in {one.id for one in client.jobs.list(model=MODEL, status="succeeded").jobs}


def test_what_is_no_image_is_in_the_rows(client: Client) -> None:
    image = client.generate("tiny-flow", seed=1).images[0].data
    (direct,) = client.likelihood("tiny-flow", [image]).entries
    (row,) = client.jobs.result(client.jobs.submit("likelihood", "tiny-flow", images=[image])).rows
    assert row["log_likelihood"] == direct.log_likelihood


def test_a_lost_answer_does_not_make_a_second_job(client: Client, losing: Losing) -> None:
    losing.keys.clear()
    losing.lose = 2
    before = len(client.jobs.list(limit=100).jobs)
    job = client.jobs.submit("generate", MODEL, **ASKED)
    assert len(losing.keys) == 3
    assert len(set(losing.keys)) == 1
    assert len(client.jobs.list(limit=100).jobs) == before + 1
    assert client.jobs.wait(job).status == "succeeded"
    again = client.jobs.submit("generate", MODEL, idempotency_key=losing.keys[0].decode(), **ASKED)
    assert again.id == job.id
    with pytest.raises(InvalidRequest) as caught:
        client.jobs.submit("generate", MODEL, idempotency_key=losing.keys[0].decode(), **LONG)
    assert caught.value.code == "idempotency_key_reused"


def test_events_until_the_end(client: Client) -> None:
    job = client.jobs.submit("generate", MODEL, **ASKED)
    events = list(client.jobs.events(job))
    assert events[-1].kind == "done"
    assert [event.data["seed"] for event in events if event.kind == "image"] == [7]
    assert list(client.jobs.events(job.id))[-1].kind == "done"


def test_canceling_and_deleting(client: Client) -> None:
    job = client.jobs.submit("generate", MODEL, **LONG)
    with pytest.raises(TimeoutError, match=job.id):
        client.jobs.wait(job, timeout=0.01)
    assert client.jobs.cancel(job).status == "canceled"
    with pytest.raises(JobFailed) as caught:
        client.jobs.result(job)
    assert caught.value.job.id == job.id
    client.jobs.delete(job)
    with pytest.raises(NotFound):
        client.jobs.get(job)


def test_a_dataset_comes_as_files(client: Client, tmp_path: Path) -> None:
    looked: list[Job] = []
    job = client.jobs.submit("bulk", "tiny-flow", **BULK)
    client.jobs.wait(job, watch=looked.append)
    places = client.jobs.download(job, tmp_path / "set")
    endings = ("000000.tar", "000001.tar", "000002.jsonl")
    assert [place.name for place in places] == [f"{job.id}-{ending}" for ending in endings]
    done = client.jobs.get(job)
    for place, file in zip(places, done.artefacts, strict=True):
        assert hashlib.sha256(place.read_bytes()).hexdigest() == file.sha256
    assert looked[-1].progress == 1.0
    with pytest.raises(AtelierClientError, match="no file 9"):
        client.jobs.fetch(job, 9)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"requests": [{"prompt": "a", "paint": 1}]}, "paint"),
        ({"grid": {"steps": [1, 0]}}, "combination 1"),
        ({"n": 100_000}, "10000"),
        ({"common": {"n": 2}}, "'n'"),
        ({"grid": {"seed": ["a"]}}, "seed"),
        ({"requests": [{"n": 0}]}, "'n'"),
        ({"common": {"cascade": 3}}, "cascade"),
        ({"common": {"response": "stream"}}, "response"),
    ],
)
def test_a_bulk_job_is_refused_before_anything_is_made(
    client: Client, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.jobs.submit("bulk", MODEL, **wrong)
    assert said in caught.value.message


async def test_the_awaited_client_does_the_same(url: str, tmp_path: Path) -> None:
    async with AsyncClient(url, retries=Retries(most=2, first_pause=0.01)) as client:
        job = await client.jobs.submit("generate", MODEL, **ASKED)
        kinds = [event.kind async for event in client.jobs.events(job)]
        assert kinds[-1] == "done"
        result = await client.jobs.result(job)
        assert result.images[0].data == (await client.generate(MODEL, **ASKED)).images[0].data
        assert [p.read_bytes() for p in await client.jobs.download(job, tmp_path)] == [
            result.images[0].data
        ]
        other = await client.jobs.submit("generate", MODEL, **LONG)
        assert (await client.jobs.cancel(other)).status == "canceled"
        await client.jobs.delete(other)
        assert other.id not in {one.id for one in (await client.jobs.list()).jobs}
        secret = await client.jobs.webhook_secret()
        assert await client.jobs.rotate_webhook_secret() != secret
        assert await client.jobs.deliveries(job) == []


def test_a_bar_follows_a_job(client: Client) -> None:
    job = client.jobs.submit("generate", MODEL, **ASKED)
    with progress_bar("making") as watch:
        assert client.jobs.wait(job, watch=watch).status == "succeeded"


def test_the_server_refuses_webhooks_to_itself(client: Client) -> None:
    for hook in ("http://127.0.0.1:1/", "https://localhost/", "https://10.0.0.1/"):
        with pytest.raises(InvalidRequest, match=r"internet|https"):
            client.jobs.submit("generate", MODEL, webhook=hook, **ASKED)


def atelier(url: str, *arguments: str) -> Any:
    return CliRunner().invoke(command_line, [*arguments, "--url", url])


def test_the_command_line_from_submission_to_files(url: str, tmp_path: Path) -> None:
    asked = ["--set", "prompt=red", "--set", "seed=7", "--set", f"steps={STEPS}"]
    made = atelier(url, "jobs", "submit", "generate", MODEL, *asked)
    assert made.exit_code == 0, made.output
    job = made.stdout.strip()
    assert atelier(url, "jobs", "watch", job).exit_code == 0
    fetched = atelier(url, "jobs", "fetch", job, "--out", str(tmp_path / "out"))
    place = Path(fetched.stdout.strip())
    direct = httpx.post(
        f"{url}/v1/generate",
        json={"model": MODEL, **ASKED},
        headers={"accept": "image/png"},
        timeout=PATIENCE,
    )
    assert place.read_bytes() == direct.content
    shown = json.loads(atelier(url, "jobs", "show", job, "--json").stdout)
    assert (shown["id"], shown["status"]) == (job, "succeeded")
    assert job in atelier(url, "jobs", "list", "--json").stdout
    assert atelier(url, "jobs", "list").exit_code == 0
    assert atelier(url, "webhooks", "deliveries", job).exit_code == 0


def test_the_command_line_follows_a_request_by_its_stream(
    client: Client, url: str, tmp_path: Path
) -> None:
    asked = ["--seed", "7", "--n", "2", "--set", f"steps={STEPS}"]
    made = atelier(url, "generate", MODEL, "red", *asked, "--out", str(tmp_path / "a.png"))
    assert made.exit_code == 0, made.output
    expected = client.generate(MODEL, n=2, **ASKED).images
    found = [(tmp_path / f"a-0{i}.png").read_bytes() for i in range(2)]
    assert found == [image.data for image in expected]
    wrong = atelier(url, "generate", MODEL, "red", "--set", "paint=1")
    assert (wrong.exit_code, "paint" in wrong.stderr) == (1, True)


def test_the_command_line_cancels_and_says_what_is_wrong(url: str, tmp_path: Path) -> None:
    request = tmp_path / "request.json"
    request.write_text(json.dumps(LONG))
    job = atelier(url, "jobs", "submit", "generate", MODEL, "--request", str(request)).stdout
    assert atelier(url, "jobs", "cancel", job.strip()).stdout.strip() == "canceled"
    for wrong in (
        ("jobs", "watch", job.strip()),
        ("jobs", "show", "job-none"),
        ("jobs", "submit", "dance", MODEL),
        ("jobs", "submit", "generate", MODEL, "--set", "paint=1"),
    ):
        done = atelier(url, *wrong)
        assert done.exit_code == 1
        assert "Traceback" not in done.output
        assert done.stderr.strip()


def test_the_command_line_knows_the_secret(url: str) -> None:
    first = atelier(url, "webhooks", "secret").stdout.strip()
    assert first.startswith("whsec_")
    assert atelier(url, "webhooks", "rotate").stdout.strip() != first
    assert atelier("http://127.0.0.1:9", "webhooks", "secret").exit_code == 1
