"""What comes in is checked by what is declared, and the OpenAPI document says the same."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from fastlb.admin.openapi import BASE, openapi
from fastlb.admin.operation import Operation
from fastlb.admin.operations import OPERATIONS

BY_NAME = {one.command: one for one in OPERATIONS}


def test_requests_are_what_the_commands_take() -> None:
    scale = BY_NAME["scale"].requests({"group": "web"}, {"desired": 3})
    assert scale == [{"command": "scale", "group": "web", "desired": 3}]
    protect = BY_NAME["protect"].requests({"instance": "i-1"}, {})
    assert protect == [{"command": "protect", "instance": "i-1"}]
    activity = BY_NAME["activity"].requests({}, {"limit": "5", "group": "web", "wait": "0.5"})
    assert activity == [{"command": "activity", "last": 5, "group": "web", "wait": 0.5}]


def test_a_list_is_asked_one_by_one() -> None:
    suspend = BY_NAME["suspend"].requests({"group": "web"}, {"processes": ["launch", "scaling"]})
    assert [one["process"] for one in suspend] == ["launch", "scaling"]
    (resume,) = BY_NAME["resume"].requests({"group": "web"}, {})
    assert resume == {"command": "resume", "group": "web"}


@pytest.mark.parametrize(
    ("command", "given", "said"),
    [
        ("scale", {"desired": True}, "desired: expected a whole number, got true"),
        ("scale", {"desired": 1.5}, "desired: expected a whole number, got 1.5"),
        ("scale", {"desired": -1}, "desired: expected from 0, got -1"),
        ("scale", {"desired": 1, "x": 1}, "x: is not known here; .* takes desired"),
        ("return", {"x": 1}, "x: is not known here; .* takes nothing"),
        ("suspend", {"processes": []}, "processes: expected one at least"),
        ("suspend", {"processes": "launch"}, "processes: expected a list of texts"),
        (
            "suspend",
            {"processes": ["nap"]},
            "processes: expected one of launch, terminate, scaling",
        ),
        ("refresh", {"action": "undo"}, "action: expected one of start, cancel, rollback"),
        ("activity", {"limit": "x"}, "limit: expected a whole number"),
        ("activity", {"limit": "0"}, "limit: expected from 1, got 0"),
        ("why", {"wait": "21"}, "wait: expected from 0 to 20, got 21"),
        ("why", {"wait": "NaN"}, "wait: expected from 0 to 20"),
        ("protect", {"on": "yes"}, "on: expected true or false"),
        ("drain", {}, "target: is missing: expected text"),
    ],
)
def test_what_is_wrong_is_told(command: str, given: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        BY_NAME[command].requests({}, given)


def test_the_openapi_document_is_whole() -> None:
    document = json.loads(json.dumps(openapi(OPERATIONS, "1.2.3")))
    assert document["openapi"].startswith("3.1")
    assert document["info"]["version"] == "1.2.3"
    ids = []
    for path, methods in document["paths"].items():
        assert path.startswith(f"{BASE}/")
        for operation in methods.values():
            ids.append(operation["operationId"])
            assert operation["responses"]["200"]
            in_path = {
                one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"
            }
            assert in_path == set(re.findall(r"{(\w+)}", path))
            for reference in re.findall(r'"#/([^"]+)"', json.dumps(operation)):
                found: Any = document
                for part in reference.split("/"):
                    found = found[part]
    assert len(set(ids)) == len(ids)
    assert {one.id for one in OPERATIONS} <= set(ids)
    desired = document["paths"][f"{BASE}/auto-scaling-groups/{{group}}/scale"]["post"]
    schema = desired["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["desired"]
    assert schema["properties"]["desired"]["type"] == "integer"


def test_the_openapi_document_is_valid() -> None:
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(json.loads(json.dumps(openapi(OPERATIONS, "1.2.3"))))


def test_every_path_is_one_operations() -> None:
    places = [(one.method, one.path) for one in OPERATIONS]
    assert len(set(places)) == len(places)
    for one in OPERATIONS:
        assert set(re.findall(r"{(\w+)}", one.path)) == set(one.in_path)
        assert isinstance(one, Operation)
