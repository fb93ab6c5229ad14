"""Controls from the command line: a file is named, and its bytes travel beside the parameters."""

from __future__ import annotations

import base64
from pathlib import Path

from services.cli.options import with_others
from services.cli.remote import fields_of
from services.cli.run import make_call
from services.core.images import Encoding, encode
from services.core.job import Task
from tests.engines import some_pixels


def test_the_image_of_a_control_is_read_from_its_file_and_sent_as_text(tmp_path: Path) -> None:
    picture = encode(some_pixels(3, 8, 8), Encoding())
    file = tmp_path / "edges.png"
    file.write_bytes(picture)
    said = [
        f'control=[{{"name": "edges", "image": "{file}", "scale": 0.5}}]',
        'adapters=[{"name": "style"}]',
    ]
    call = make_call("tiny-sd", Task.GENERATE, with_others({"prompt": "a cat"}, said))
    assert call.controls == (picture,)
    assert call.parameters["control"] == [{"name": "edges", "scale": 0.5}]
    body = fields_of(call)
    assert body["adapters"] == [{"name": "style"}]
    (sent,) = body["control"]
    assert base64.b64decode(sent.pop("image")) == picture
    assert sent == {"name": "edges", "scale": 0.5}


def test_a_control_without_a_file_is_left_to_the_model_to_refuse() -> None:
    call = make_call("tiny-sd", Task.GENERATE, {"control": [{"name": "edges"}]})
    assert call.controls == ()
    assert call.parameters["control"] == [{"name": "edges"}]
