"""What is used of Flower's SuperNodes is private: here it is noticed when it changes.

That it works is shown over the network, see `test_warm.py`.
"""

import inspect
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from flwr.app import Message
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.run import RunNotRunningException
from flwr.supernode import fleet_http_connection
from flwr.supernode.fleet_http_connection import http_request_response

from fedcl.errors import ConfigError, RunError
from fedcl.wire.supernode import Link, linked, node_config


def names(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]


def test_flower_has_what_is_used_of_it():
    assert names(http_request_response)[:4] == [
        "server_address", "insecure", "root_certificates", "authentication_keys"
    ]  # fmt: skip
    given = get_type_hints(inspect.unwrap(http_request_response))["return"]
    node, receive, send, run, bundle, pull, push, confirm = get_args(get_args(given)[0])
    arguments = [get_args(one)[0] for one in (receive, send, run, bundle, pull, push, confirm)]
    assert node is int and list(map(len, arguments)) == [0, 3, 1, 2, 2, 4, 2]
    pulling = names(inflatable_utils.pull_and_inflate_object_from_tree)
    assert pulling[:3] == ["object_tree", "pull_object_fn", "confirm_object_received_fn"]
    assert {"max_tries_per_object", "initial_backoff", "backoff_cap"} < {*pulling}
    assert names(inflatable_utils.push_objects)[:3] == [
        "objects", "push_object_fn", "object_ids_to_push"
    ]  # fmt: skip
    assert isinstance(Message.object_id, property)
    assert "RunNotRunningException" in inspect.getsource(
        inspect.getmodule(fleet_http_connection.make_simple_http_retry_invoker)  # type: ignore[arg-type]
    )


def test_what_a_hospital_says_of_itself_is_read_as_flower_does():
    text = "site='RUNMC' state-path='/a b/state' data-path='/data' cache='disk'"
    assert node_config(text) == {
        "site": "RUNMC", "state-path": "/a b/state", "data-path": "/data", "cache": "disk"
    }  # fmt: skip


def test_what_cannot_be_read_of_it_is_one_line():
    with pytest.raises(ConfigError, match="hospital --node-config: ") as refused:
        node_config("site=RUNMC")
    assert "\n" not in str(refused.value)


def test_a_key_that_is_none_is_named(tmp_path: Path):
    (tmp_path / "ca.crt").write_text("none")
    for key in (tmp_path / "ca.crt", tmp_path / "nothing"):
        with (
            pytest.raises(ConfigError, match=f"{key.name}: cannot be read as a private key"),
            linked("127.0.0.1:1", tmp_path / "ca.crt", key),
        ):
            pytest.fail("it was let in")


def test_a_run_that_has_ended_brings_no_code_and_ends_nothing_else():
    def ended(run: int) -> None:
        raise RunNotRunningException

    link = Link((1, None, None, ended, None, None, None, None))
    assert not link.goes_on(1)
    with pytest.raises(RunError, match="the run has ended"):
        link.bundle(1)
