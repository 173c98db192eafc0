"""What spawned calls have called: `FunctionCall.get_call_graph`."""

from __future__ import annotations

import os

from conftest import Modal
from deployed_app import Deployed
from leftovers import clean

APP = """
import time
import modal
from modal.call_graph import InputStatus

app = modal.App("graphs", image=modal.Image.debian_slim(python_version="3.11"))

@app.function()
def leaf(x):
    if x == 2:
        raise ValueError(x)
    return modal.current_input_id()

@app.function(timeout=1)
def slow():
    time.sleep(60)

@app.cls()
class Model:
    @modal.method()
    def run(self, x):
        return leaf.remote(x)

def attempt(what, *arguments):
    try:
        return what(*arguments)
    except Exception as error:
        return type(error).__name__

@app.function()
def top():
    ids = list(leaf.map([0, 1]))
    attempt(leaf.remote, 2)
    Model().run.remote(3)
    attempt(slow.remote)
    call = leaf.spawn(4)
    call.get()
    (inside,) = call.get_call_graph()
    (same,) = modal.FunctionCall.from_id(call.object_id).get_call_graph()
    assert same == inside
    return ids, inside.input_id, call.object_id

def shown(info):
    children = ", ".join(sorted(shown(child) for child in info.children))
    assert info.module_name == "app" and info.task_id.startswith("ta-")
    return f"{info.function_name} {info.status.name}" + (f" ({children})" if children else "")

@app.local_entrypoint()
def main():
    leaf.remote(0)
    call = top.spawn()
    ids, spawned, spawned_call = call.get()
    (root,) = call.get_call_graph()
    assert (root.function_call_id, root.status) == (call.object_id, InputStatus.SUCCESS)
    print(shown(root))
    assert [child.input_id for child in root.children[:2]] == ids
    assert root.children[0].function_call_id == root.children[1].function_call_id
    assert (root.children[-1].input_id, root.children[-1].function_call_id) == (spawned, spawned_call)
    (part,) = modal.FunctionCall.from_id(call.object_id).get_call_graph()
    assert part == root
    many = leaf.experimental_spawn_map([0, 1, 2])
    attempt(lambda: list(many.iter()))
    print([info.status.name for info in many.get_call_graph()])
    going = slow.spawn()
    print(going.get_call_graph()[0].status.name)
    going.cancel()
    print(going.get_call_graph()[0].status.name)
"""


def test_the_graph_of_a_spawned_call(modal: Modal) -> None:
    modal.write("app.py", APP)
    lines = modal("run", "-q", "app.py", timeout=100).stdout.splitlines()
    calls = "Model.run SUCCESS (leaf SUCCESS), leaf FAILURE, leaf SUCCESS, leaf SUCCESS, leaf SUCCESS, slow TIMEOUT"
    assert lines == [
        f"top SUCCESS ({calls})",
        "['SUCCESS', 'SUCCESS', 'FAILURE']",
        "PENDING",
        "TERMINATED",
    ]


MANY = """
import warnings
import modal

app = modal.App("many", image=modal.Image.debian_slim(python_version="3.11"))

@app.function()
@modal.concurrent(max_inputs=100)
def leaf(x):
    pass

@app.function()
def top():
    leaf.for_each(range(20_500))

@app.local_entrypoint()
def main():
    call = top.spawn()
    call.get()
    with warnings.catch_warnings(record=True) as caught:
        (root,) = call.get_call_graph()
    (warning,) = caught
    print(len(root.children), str(warning.message).partition(" lacks ")[2], warning.filename.endswith("app.py"))
"""


def test_what_is_not_recorded_any_more_is_said(modal: Modal) -> None:
    modal.write("app.py", MANY)
    lacks = "`501` calls, and what those have called: a process records so many only"
    assert modal("run", "-q", "app.py", timeout=100).stdout == f"19999 {lacks} True\n"


DEPLOYED = """
import modal

app = modal.App("{name}", image=modal.Image.debian_slim(python_version="3.11"))

@app.function()
def leaf():
    pass

@app.function()
def top():
    leaf.remote()
"""

#: Spawns a call, or shows the graph of the one that was spawned.
SCRIPT = """
import sys
import modal

if sys.argv[1] == "spawn":
    call = modal.Function.from_name("{name}", "top").spawn()
    call.get()
    print(call.object_id)
else:
    try:
        (root,) = modal.FunctionCall.from_id(sys.argv[1]).get_call_graph()
        print(root.function_name, [child.function_name for child in root.children])
    except modal.exception.NotFoundError as error:
        print(str(error).splitlines()[0])
"""


def test_any_process_gets_the_graph_of_a_call_of_a_deployed_app(modal: Modal) -> None:
    name = f"graphs-{os.urandom(4).hex()}"
    script = SCRIPT.format(name=name)
    modal.write("app.py", DEPLOYED.format(name=name))
    modal("deploy", "app.py")
    try:
        call = modal.python("-c", script, "spawn").stdout.strip()
        assert modal.python("-c", script, call).stdout == "top ['leaf']\n"
        unknown = f"{call[:-1]}z"
        assert modal.python("-c", script, unknown).stdout.startswith(f"there is no call `{unknown}`")
    finally:
        modal("app", "stop", "--yes", name)
        clean(modal)


KEPT = """
import time
import modal

app = modal.App("{name}", image=modal.Image.debian_slim(python_version="3.11"))

@app.function()
def leaf(fails=False):
    if fails:
        raise ValueError

@app.function()
def slow():
    time.sleep(600)

@app.function()
def top(x):
    leaf.remote()
    try:
        leaf.remote(True)
    except ValueError:
        pass
    if x == "leaves":
        slow.spawn()
"""

#: Shows the graph of a call.
SHOWN = """
import sys
import modal

def shown(info):
    assert info.input_id.startswith("in-") and info.module_name == "app"
    return f"{info.function_name} {info.status.name}", [shown(child) for child in info.children]

for call in sys.argv[1:]:
    graph = modal.FunctionCall.from_id(call).get_call_graph()
    assert all(info.function_call_id == call for info in graph)
    print([shown(info) for info in graph])
"""


def test_graphs_are_kept_with_the_results_when_the_process_is_killed(modal: Modal) -> None:
    deployed = Deployed(modal)
    modal.write("app.py", KEPT.format(name=deployed.name))
    modal("deploy", "app.py")
    try:
        calls = [deployed.spawn("top", "'ends'"), deployed.spawn("top", "'leaves'")]
        assert [deployed.fetch(call) for call in calls] == ["None", "None"]
        spawn_all = f"f = modal.Function.from_name({deployed.name!r}, 'leaf'); print(f.experimental_spawn_map([0, 1]).object_id)"
        calls.append(modal.python("-c", f"import modal; {spawn_all}").stdout.strip())
        modal.python("-c", f"import modal; call = modal.FunctionCall.from_id({calls[-1]!r}); call.get(index=0)")
        going = f"f = modal.Function.from_name({deployed.name!r}, 'slow'); print(f.spawn().object_id)"
        calls.append(modal.python("-c", f"import modal; {going}").stdout.strip())

        def graphs() -> list[str]:
            return modal.python("-c", SHOWN, *calls).stdout.splitlines()

        top = "('top SUCCESS', [('leaf SUCCESS', []), ('leaf FAILURE', []){}])"
        both = "[('leaf SUCCESS', []), ('leaf FAILURE', [])]"
        assert graphs() == [
            f"[{top.format('')}]",
            f"[{top.format(', (' + repr('slow PENDING') + ', [])')}]",
            both,
            "[('slow PENDING', [])]",
        ]
        deployed.kill_host()
        assert graphs() == [
            f"[{top.format('')}]",
            f"[{top.format(', (' + repr('slow TERMINATED') + ', [])')}]",
            both,
            "[('slow TERMINATED', [])]",
        ]
    finally:
        modal("app", "stop", "--yes", deployed.name)
        clean(modal)
