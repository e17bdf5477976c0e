"""Servers that lie: what they send is an error before anything of it is written or given out."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from retraced import AsyncClient, Client
from retraced._source import BytesSource
from retraced.checks import OutputCheck
from retraced.cli.app import run
from retraced.errors import OutputUnsafe
from tests.client.archives import Change, archive, changed, packed, records, transformed, with_records
from tests.client.checks.hostile import HOSTILE
from tests.client.fake_server import FakeServer, answers

_OF_GRPC = re.compile(r"WARNING: All log messages before absl::|[IWE]\d{4} ")


def taken(output: bytes, sent: bytes, *namespaces: str) -> bool:
    """Whether an output is taken for what was sent."""
    try:
        OutputCheck(BytesSource(sent), namespaces).check(BytesSource(output))
    except OutputUnsafe:
        return False
    return True


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_output_is_refused_and_the_error_says_what_it_is(what: str) -> None:
    with pytest.raises(OutputUnsafe) as caught:
        OutputCheck(BytesSource(archive())).check(BytesSource(HOSTILE[what]), request_id="7")
    assert caught.value.request_id == "7"
    assert len(caught.value.message) < 1_000
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("what", ["an evil expression", "a pickled weight", "the same record twice", "an evil guard"])
def test_both_clients_raise_it_and_give_nothing_out(what: str, tmp_path: Path) -> None:
    source = tmp_path / "model.pt2"
    source.write_bytes(archive())

    async def from_async(address: str) -> Any:
        async with AsyncClient(address) as client:
            return await client.transform(source, "cse")

    with FakeServer(answers(HOSTILE[what])) as server:
        with Client(server.address) as client, pytest.raises(OutputUnsafe):
            client.transform(source, "cse")
        with pytest.raises(OutputUnsafe):
            asyncio.run(from_async(server.address))
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]


def test_the_command_ends_with_1_and_leaves_no_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source, out, nodes = tmp_path / "model.pt2", tmp_path / "out.pt2", tmp_path / "nodes.jsonl"
    source.write_bytes(archive())
    with FakeServer(answers(HOSTILE["an evil guard"])) as server:
        arguments = ["transform", str(source), "-p", "cse", "-o", str(out), "--metadata", str(nodes)]
        assert run([*arguments, "--server", server.address]) == 1
    # Where a process of the tests has forked before, gRPC says something too.
    said = [line for line in capfd.readouterr().err.splitlines() if not _OF_GRPC.match(line)]
    assert said[0].startswith("retraced: OUTPUT_UNSAFE: ")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]


def test_an_output_that_is_what_was_sent_is_taken_whatever_it_is() -> None:
    assert taken(b"no zip", b"no zip")
    assert not taken(b"no zip", b"a zip?")


def test_an_honest_output_is_taken() -> None:
    assert taken(transformed(), archive())


def test_a_weight_that_no_config_names_is_not_taken_though_it_was_sent() -> None:
    unnamed = {"data/weights/weight_1": b"x"}
    assert not taken(with_records(**unnamed), packed({**records(), **unnamed}))


def _in_all_nodes(**fields: Any) -> Change:
    return lambda model: [node.update(fields) for node in model["graph_module"]["graph"]["nodes"]]


def _both(one: Change, other: Change) -> Change:
    return lambda model: (one(model), other(model))


def test_custom_operators_are_taken_of_namespaces_that_were_sent_or_are_allowed() -> None:
    custom = changed(_in_all_nodes(target="torch.ops.mylib.relu.default"))
    other = changed(_in_all_nodes(target="torch.ops.mylib.gelu.default"))
    assert not taken(custom, archive())
    assert taken(custom, archive(), "mylib")
    assert taken(other, custom)


def test_what_the_program_sent_has_may_come_back_in_another_place() -> None:
    strange = 'L["self"].up,up,torch.nn.modules.linear.Linear'

    def first(model: Any) -> None:
        model["graph_module"]["graph"]["nodes"][0]["metadata"]["nn_module_stack"] = strange

    assert not taken(changed(_in_all_nodes(metadata={"nn_module_stack": strange})), archive())
    assert taken(changed(_in_all_nodes(metadata={"nn_module_stack": f"a,b,c;{strange}"})), changed(first))


def test_a_node_is_taken_as_it_was_sent_and_not_if_anything_in_it_differs() -> None:
    def odd(index: int, **fields: Any) -> Change:
        def change(model: Any) -> None:
            node = model["graph_module"]["graph"]["nodes"][index]
            node.update(target="torch.ops.aten.__getattribute__.default", **fields)

        return change

    sent = changed(odd(0))
    assert taken(changed(_both(odd(0), lambda model: model.update(torch_version="other"))), sent)
    assert not taken(changed(odd(0, outputs=[])), sent)
    assert not taken(changed(odd(1)), sent)
    assert not taken(changed(odd(0)), archive())


def test_a_number_of_another_type_is_not_what_was_sent() -> None:
    def odd(flag: Any) -> Change:
        return lambda model: model["graph_module"]["graph"]["tensor_values"]["x"].update(requires_grad=flag, layout=1.0)

    assert taken(changed(_both(odd(True), lambda model: model.update(torch_version="other"))), changed(odd(True)))
    assert not taken(changed(odd(1)), changed(odd(True)))


@pytest.mark.parametrize(
    "field", ["tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values", "custom_obj_values"]
)
@pytest.mark.parametrize("name", ["x'; import os", "fresh"])
def test_null_is_nothing_that_was_sent(field: str, name: str) -> None:
    assert not taken(changed(lambda model: model["graph_module"]["graph"][field].update({name: None})), archive())


@pytest.mark.parametrize("field", ["range_constraints", "opset_version"])
def test_null_is_nothing_that_was_sent_of_the_program(field: str) -> None:
    assert not taken(changed(lambda model: model[field].update(x=None)), archive())


def test_the_description_of_a_tensor_is_taken_as_it_was_sent_and_not_if_anything_in_it_differs() -> None:
    def odd(name: str, requires_grad: bool = False) -> Change:
        def change(model: Any) -> None:
            described = model["graph_module"]["graph"]["tensor_values"][name]
            described.update(sizes=[{"as_expr": {"expr_str": "exit()"}}], requires_grad=requires_grad)

        return change

    sent = changed(odd("p_weight"))
    assert taken(changed(_both(odd("p_weight"), lambda model: model.update(torch_version="other"))), sent)
    assert not taken(changed(odd("p_weight", requires_grad=True)), sent)
    assert not taken(changed(odd("x")), sent)
    assert not taken(changed(odd("p_weight")), archive())


@pytest.mark.parametrize("field", ["signature", "module_call_graph"])
def test_signature_and_module_calls_are_taken_as_they_were_sent_and_not_if_anything_in_them_differs(field: str) -> None:
    def odd(name: str) -> Change:
        def change(model: Any) -> None:
            if field == "signature":
                model["graph_module"]["signature"]["input_specs"][0]["parameter"]["parameter_name"] = name
            else:
                model["graph_module"]["module_call_graph"][0]["fqn"] = name

        return change

    sent = changed(odd('a"b'))
    assert taken(changed(_both(odd('a"b'), lambda model: model.update(torch_version="other"))), sent)
    assert not taken(changed(odd('a"c')), sent)
    assert not taken(changed(odd('a"b')), archive())
