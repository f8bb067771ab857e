"""Faults: one is raised as it was, several as one error."""

from __future__ import annotations

import pytest

from fastlb.control_plane.faults import Faults
from fastlb.errors import ConfigError, FastlbError


def test_nothing_found_refuses_nothing() -> None:
    faults = Faults()
    with faults.noted():
        pass
    faults.refuse()


def test_the_only_one_is_raised_as_it_was() -> None:
    faults = Faults()
    only = ConfigError(["min: 5"])
    with faults.noted():
        raise only
    with pytest.raises(ConfigError) as raised:
        faults.refuse()
    assert raised.value is only


def test_several_are_said_in_their_order_and_each_once() -> None:
    faults = Faults()
    cause = OSError(98, "in use")
    faults.note("a")
    with faults.noted():
        raise FastlbError("b") from cause
    faults.note("a")
    with pytest.raises(FastlbError, match=r"^a\nb$") as raised:
        faults.refuse()
    assert raised.value.__cause__ is cause


def test_what_is_no_fault_of_the_configuration_is_not_kept_back() -> None:
    faults = Faults()
    with pytest.raises(ZeroDivisionError), faults.noted():
        raise ZeroDivisionError
    faults.refuse()
