"""``/docs``: the OpenAPI document as one page of plain HTML, with nothing from another host."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from typing import Any

from fastapi import FastAPI
from starlette.responses import HTMLResponse

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code,pre{font:14px/1.4 ui-monospace,monospace;background:#f4f4f4}"
    "pre{padding:.75rem;overflow-x:auto}h2{border-top:1px solid #ccc;padding-top:1rem}"
)
_SHOWN = 120


def _curl(path: str, body: Mapping[str, Any]) -> str:
    shortened = {
        name: value[:24] + "..." if isinstance(value, str) and len(value) > _SHOWN else value
        for name, value in body.items()
    }
    header = "content-type: application/json"
    return f"curl -s localhost:8000{path} -H '{header}' -d '{json.dumps(shortened)}'"


def _section(method: str, path: str, operation: Mapping[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {})
    examples = content.get("application/json", {}).get("examples", {})
    commands = [_curl(path, example["value"]) for example in examples.values()]
    parts = [
        f"<h2><code>{method} {escape(path)}</code></h2>",
        f"<p><b>{escape(operation.get('summary', ''))}.</b> "
        f"{escape(operation.get('description', ''))}</p>",
        *(f"<pre>{escape(command)}</pre>" for command in commands),
    ]
    answers = ", ".join(f"<code>{escape(status)}</code>" for status in operation["responses"])
    return "".join([*parts, f"<p>Answers: {answers}.</p>"])


def docs_page(app: FastAPI) -> HTMLResponse:
    """Every route with its summary, its examples as commands, and its statuses."""
    document = app.openapi()
    sections = [
        _section(method.upper(), path, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    title = escape(document["info"]["title"])
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>"
        f"<p>{escape(document['info'].get('description', ''))} "
        'Schemas: <a href="/openapi.json">openapi.json</a>.</p>'
        f"{''.join(sections)}</body></html>"
    )
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; frame-ancestors 'none'"
    return HTMLResponse(page, headers={"content-security-policy": policy})
