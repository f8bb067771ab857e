"""What a successor reads: whole files or none, for nobody else's eyes, and gone when they should be."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from fastlb.auto_scaling.records import GroupRecord, InstanceRecord, Records
from fastlb.auto_scaling.refresh import Refresh
from fastlb.model.launch_template import LaunchTemplate
from tests.support.configurations import settings_of

ONE = InstanceRecord(
    id="i-00000001",
    group="web",
    version=3,
    state="in_service",
    address="unix:/run/i-00000001/app.sock",
    pid=17,
    started=12345,
    launched_at=1.5,
    in_service_at=2.5,
    protected=True,
)
GROUP = GroupRecord(
    desired=2,
    version=1,
    configured=2,
    proven=1,
    newest=3,
    templates={1: LaunchTemplate(command=("a",)), 2: LaunchTemplate(env=(("KEY", "hunter2"),))},
    rolled_back={2: "2 launches in a row failed"},
    suspended=("launch", "scaling"),
    refresh=Refresh(source=1, target=2, began=5.0, old=("i-1", "i-2")).plain(),
)


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path)


def test_instances_are_read_as_they_were_saved(records: Records) -> None:
    other = replace(ONE, id="i-00000002", state="pending", pid=0, in_service_at=None)
    records.save(ONE)
    records.save(other)
    assert records.instances() == [ONE, other]
    records.save(replace(ONE, state="terminating"))
    assert records.instances()[0].state == "terminating"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"id": "i-00000009", "grou',
        b"\xff\xfe",
        b"[]",
        b"5",
        b"null",
        b'["id"]',
        b'"text"',
        b"{}",
        b'{"id": "i-00000009"}',
    ],
)
def test_a_torn_or_foreign_file_is_reported_and_left_out(
    records: Records, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    records.save(ONE)
    path = records.folder / "i-00000009.json"
    path.write_bytes(content)
    (records.folder / "group-web.json").write_bytes(content)
    assert records.instances() == [ONE]
    assert records.group("web") is None
    assert f"the record {path} of an instance cannot be read" in caplog.text
    assert "of a group cannot be read, it begins anew" in caplog.text


def test_what_a_later_release_adds_to_an_instance_is_passed_over(records: Records) -> None:
    records.save(ONE)
    path = records.folder / "i-00000001.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "green"}))
    assert records.instances() == [ONE]


def test_a_group_is_read_as_it_was_saved(records: Records) -> None:
    assert records.group("web") is None
    records.save_group("web", GROUP)
    found = records.group("web")
    assert found == replace(GROUP, refresh=found.refresh if found else None)
    assert found is not None
    assert found.refresh is not None
    assert Refresh.from_plain(found.refresh).old == ("i-1", "i-2")
    records.save_group("api", replace(GROUP, refresh=None, suspended=()))
    assert records.group("api") == replace(GROUP, refresh=None, suspended=())


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(settings_of(LaunchTemplate))
def test_any_launch_template_comes_back(records: Records, template: LaunchTemplate) -> None:
    records.save_group("web", replace(GROUP, templates={1: template}))
    found = records.group("web")
    assert found is not None
    assert found.templates == {1: template}


@pytest.mark.parametrize(
    "change",
    [
        {"templates": []},
        {"templates": {"one": {}}},
        {"templates": {"1": {"is": "Nobody"}}},
        {"templates": {"1": None}},
        {"suspended": None},
        {"rolled_back": []},
        {"rolled_back": {"one": ""}},
        {"desired": None, "colour": "green"},
    ],
)
def test_a_group_of_another_shape_begins_anew(
    records: Records, caplog: pytest.LogCaptureFixture, change: dict[str, object]
) -> None:
    records.save_group("web", GROUP)
    path = records.folder / "group-web.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert records.group("web") is None
    assert "it begins anew" in caplog.text


def test_nobody_else_reads_what_may_hold_secrets(records: Records) -> None:
    records.save(ONE)
    records.save_group("web", GROUP)
    found = sorted(records.folder.iterdir())
    assert [path.name for path in found] == ["group-web.json", "i-00000001.json"]
    assert {path.stat().st_mode & 0o777 for path in found} == {0o600}
    assert "hunter2" in (records.folder / "group-web.json").read_text()


def test_secrets_are_not_logged(records: Records, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    records.save_group("web", GROUP)
    path = records.folder / "group-web.json"
    plain = json.loads(path.read_text())
    plain["templates"]["2"]["is"] = "LaunchConfiguration"
    path.write_text(json.dumps(plain))
    assert records.group("web") is None
    assert "it begins anew" in caplog.text
    assert "hunter2" not in caplog.text


def test_nothing_of_an_instance_is_left_and_all_of_its_neighbours(records: Records) -> None:
    for id in ("i-00000001", "i-00000002"):
        records.save(replace(ONE, id=id))
        records.spool(id).write_text("said")
        (records.folder / f"{id}.read").write_text("4")
        records.socket_folder(id).mkdir()
        (records.socket_folder(id) / "app.sock").touch()
    records.forget("i-00000001")
    records.forget("i-00000001")
    assert sorted(path.name for path in records.folder.iterdir()) == [
        f"i-00000002{end}" for end in ("", ".json", ".log", ".read")
    ]


def test_after_a_clean_stop_no_group_is_left(records: Records) -> None:
    records.save(ONE)
    records.save_group("web", GROUP)
    records.save_group("api", GROUP)
    records.forget_groups()
    assert [path.name for path in records.folder.iterdir()] == ["i-00000001.json"]


def test_a_folder_that_is_gone_ends_nobody(
    records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(records.folder)
    records.save(ONE)
    records.save_group("web", GROUP)
    assert len(caplog.messages) == 2
    assert "cannot be written, a takeover would not know of it: No such file" in caplog.text
    assert records.instances() == []
    assert records.group("web") is None
    records.forget("i-00000001")
    records.forget_groups()
