"""``modal deploy``: apps that stay, and are called from any program of their user."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

from deployed_app import CALLER, PATIENCE, PROGRAM, Deployed
from leftovers import clean


def test_an_app_is_called_from_other_processes_and_ends_for_good(deployed: Deployed) -> None:
    first = deployed.deploy()
    assert f"Deployed {deployed.name} as version 1" in first.stdout
    assert f'modal.Function.from_name("{deployed.name}", "double")' in first.stdout
    assert deployed.host() is None, "nobody has called it"
    assert deployed.call("double", "21", "4") == ["42", "8"]
    host = deployed.host()
    assert host is not None
    assert deployed.call("double", "5") == ["10"]
    assert deployed.host() == host
    assert deployed.call("fail", "()") == [
        "TypeError fail() takes 0 positional arguments but 1 was given",
    ]
    assert deployed.call("count", "3")[0].startswith("InvalidError `count` is a generator")
    assert deployed.call("nothing", "3")[0].startswith(
        f"NotFoundError the app `{deployed.name}` has no function `nothing`"
    )
    assert "doubling 21\n" in deployed.modal("app", "logs", deployed.name).stdout
    assert (deployed.listed()["state"], deployed.listed()["running"]) == ("deployed", True)
    unknown = deployed.modal.python("-c", deployed.program("double").replace(deployed.name, deployed.name[:-1]), "1")
    assert f"did you mean `{deployed.name}`?" in unknown.stdout
    deployed.modal("app", "stop", "--yes", deployed.name)
    assert deployed.call("double", "1")[0].startswith("NotFoundError there is no deployed app")
    assert deployed.listed()["state"] == "stopped"
    clean(deployed.modal)


def test_eight_processes_call_an_app_at_once(deployed: Deployed) -> None:
    deployed.deploy()
    numbers = [str(number) for number in range(20)]
    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(lambda _: deployed.call("double", *numbers), range(8)))
    assert outcomes == [[str(2 * number) for number in range(20)]] * 8
    deployed.modal("app", "stop", "--yes", deployed.name)
    clean(deployed.modal)


def test_a_process_that_is_killed_is_started_again(deployed: Deployed) -> None:
    deployed.deploy()
    caller = deployed.start("wait_for", "'never'", "'open'")
    deployed.wait_for_containers(1)
    host = deployed.host()
    assert host is not None
    os.kill(host, signal.SIGKILL)
    deployed.open_gate("open")
    output, _ = caller.communicate(timeout=PATIENCE)
    lost, then = output.splitlines()
    assert lost.startswith(f"ServiceError the process of the deployed app `{deployed.name}` ended")
    assert then == "2"
    assert deployed.host() not in (None, host)
    deployed.modal("app", "stop", "--yes", deployed.name)
    clean(deployed.modal)


def test_what_has_not_changed_is_no_new_version(deployed: Deployed) -> None:
    deployed.modal.write("app.py", PROGRAM.format(name=deployed.name, factor=2))
    deployed.modal("deploy", "app.py")
    assert "Nothing has changed" in deployed.modal("deploy", "app.py").stdout
    assert "as version 2" in deployed.modal("deploy", "--tag", "second", "app.py").stdout
    history = json.loads(deployed.modal("app", "history", "--json", deployed.name).stdout)
    assert [(version["version"], version["tag"]) for version in history] == [(2, "second"), (1, "")]


def test_a_new_version_takes_over_without_losing_a_call(deployed: Deployed) -> None:
    deployed.deploy(factor=2)
    running = deployed.start("wait_for", "'gate'")
    deployed.wait_for_containers(1)
    assert deployed.call("double", "10") == ["20"]
    host = deployed.host()
    deployed.deploy(factor=3)
    assert deployed.call("double", "10") == ["30"]
    assert deployed.call("double", "10", version=1) == ["20"]
    assert deployed.host() == host, "the process goes on"
    deployed.open_gate("gate")
    output, _ = running.communicate(timeout=PATIENCE)
    assert output == "2\n", "it ended on the version that it began on"
    deployed.modal("app", "rollback", deployed.name)
    assert deployed.call("double", "10") == ["20"]
    deployed.modal("app", "rollback", deployed.name, "v2")
    assert deployed.call("double", "10") == ["30"]
    deployed.modal("app", "rollover", deployed.name)
    assert deployed.call("double", "10") == ["30"]
    history = json.loads(deployed.modal("app", "history", "--json", deployed.name).stdout)
    assert [(version["version"], version["rollback_of"]) for version in history] == [
        (5, 4),
        (4, 2),
        (3, 1),
        (2, None),
        (1, None),
    ]
    assert len({version["deployed_by"] for version in history}) == 1
    failed = deployed.modal("app", "rollback", deployed.name, "v9", check=False)
    assert failed.code == 1 and "has no version `9`" in failed.stderr


def test_pruning_takes_nothing_that_a_deployed_app_needs(deployed: Deployed) -> None:
    deployed.deploy()
    stored = deployed.modal.store / "deployments/main" / deployed.name / "versions/1.json"
    image = json.loads(stored.read_text())["content"]["containers"]["double"]["image_id"]
    # Nobody calls it: only its record says that it needs the image.
    assert deployed.host() is None
    deployed.modal("image", "prune", image, "--yes", check=False)
    assert deployed.call("double", "2") == ["4"]


def test_bad_requests_are_refused(deployed: Deployed) -> None:
    modal = deployed.modal
    modal.write("several.py", "import modal\none, two = modal.App('one'), modal.App('two')\n")
    modal.write("unnamed.py", "import modal\napp = modal.App()\n")
    modal.write("early.py", "import modal\napp = modal.App('early')\napp.deploy()\n")
    for words, said in [
        (("several.py",), "`several.py` has several apps, and none is called `app`"),
        (("several.py::three",), "`three` in `several.py` is no `modal.App`"),
        (("unnamed.py",), "an app that is deployed needs a name"),
        (("--name", "a b", "unnamed.py"), "`a b` is no usable name of an app"),
        (("--tag", "a b", "--name", "x", "unnamed.py"), "`a b` is no usable tag"),
        (("early.py",), "`app.deploy()` was called while the program is imported"),
    ]:
        failed = modal("deploy", *words, check=False)
        assert failed.code != 0 and said in failed.stderr, failed.stderr


CALLING = """
import modal

app = modal.App("calling", image=modal.Image.debian_slim(python_version="3.11"))
double = modal.Function.from_name({name!r}, "double")


@app.function()
def calls(n: int):
    found = [double.remote(n), *double.map(range(3)), double.spawn(7).get()]
    found += list(modal.Function.from_name({name!r}, "count").remote_gen(3))
    for name, function in [({name!r}, "fail"), ({name!r}, "nothing"), ("nowhere", "double")]:
        try:
            modal.Function.from_name(name, function).remote()
        except Exception as error:
            found.append(type(error).__name__)
    return found


@app.function()
def passes(function):
    return function.remote(5)


@app.local_entrypoint()
def main():
    print(calls.remote(4))
    print(passes.remote(double))
"""


def test_containers_call_deployed_apps(deployed: Deployed) -> None:
    deployed.deploy()
    deployed.modal.write("calling.py", CALLING.format(name=deployed.name))
    expected = [8, 0, 2, 4, 14, 0, 1, 2, "ValueError", "NotFoundError", "NotFoundError"]
    assert deployed.modal("run", "-q", "calling.py").stdout.splitlines()[-2:] == [str(expected), "10"]
    # From the containers of a deployed app as well.
    deployed.modal("deploy", "--name", f"{deployed.name}-calls", "calling.py")
    try:
        caller = CALLER.format(name=f"{deployed.name}-calls", function="calls", keywords={})
        assert deployed.modal.python("-c", caller, "4").stdout == f"{expected}\n"
    finally:
        deployed.modal("app", "stop", "--yes", f"{deployed.name}-calls")


INCLUDING = """
import modal

part = modal.App(image=modal.Image.debian_slim(python_version="3.11").env({{"PART": "yes"}}), tags={{"part": "1", "of": "part"}})
app = modal.App({name!r}, image=modal.Image.debian_slim(python_version="3.11"), tags={{"of": "whole"}})


@part.function()
def inner():
    import os

    return os.environ.get("PART")


@app.function()
def outer():
    return inner.remote()


app.include(part)

if __name__ == "__main__":
    assert app.deploy() is app
    print(app.app_id, outer.remote(), modal.Function.from_name({name!r}, "inner").remote())
    found = modal.App.lookup({name!r})
    print(found.app_id, found.name, sorted(found.get_tags().items()))
    found.set_tags({{"new": "tag"}})
    print(modal.App.lookup(found.app_id).get_tags())
    found.stop()
    try:
        modal.App.lookup({name!r})
    except modal.exception.NotFoundError as error:
        print(error)
"""


def test_apps_are_deployed_and_looked_up_by_programs(deployed: Deployed) -> None:
    deployed.modal.write("program.py", INCLUDING.format(name=deployed.name))
    first, second, third, last = deployed.modal.python("program.py").stdout.splitlines()
    identity = first.split()[0]
    assert first == f"{identity} yes yes"
    assert second == f"{identity} {deployed.name} [('of', 'whole'), ('part', '1')]"
    assert third == "{'new': 'tag'}"
    assert last.startswith(f"there is no deployed app `{deployed.name}`")
    clean(deployed.modal)


def test_results_are_fetched_by_other_processes_of_the_user_and_the_app(deployed: Deployed) -> None:
    deployed.deploy()
    call = deployed.spawn("double", "21")
    failing = deployed.spawn("fail", "1")
    failed = deployed.fetch(failing)
    assert failed.startswith("TypeError fail() takes 0 positional arguments")
    assert deployed.fetch(call) == "42"
    deployed.kill_host()
    assert deployed.fetch(call) == "42", "it is kept"
    assert deployed.fetch(call) == "42", "reading does not consume it"
    assert deployed.fetch(failing) == failed
    unknown = deployed.fetch("fc-nothing")
    assert unknown.startswith("NotFoundError there is no call `fc-nothing`")
    calls = deployed.modal.store / "deployments/main" / deployed.name / "calls"
    assert {path.suffix for path in calls.iterdir()} == {".result"}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in calls.iterdir())


def test_calls_that_ran_when_the_process_was_killed_run_again_or_are_lost(deployed: Deployed) -> None:
    deployed.deploy()
    lost = deployed.spawn("wait_for", "'gate'")
    again = deployed.spawn("wait_again", "'gate'")
    deployed.wait_for_containers(2)
    assert deployed.fetch(again, 0).startswith("TimeoutError")
    deployed.kill_host()
    said = deployed.fetch(lost)
    assert said.startswith("InternalFailure the call of function `wait_for` was running when the app's process"), said
    deployed.wait_for_containers(3)
    deployed.open_gate("gate")
    assert deployed.fetch(again) == "2"
    assert deployed.fetch(lost) == said


def test_a_version_that_is_recreated_runs_the_inputs_of_the_former_one(deployed: Deployed) -> None:
    deployed.deploy(factor=2)
    call = deployed.spawn("wait_for", "'gate'")
    deployed.wait_for_containers(1)
    deployed.deploy("--strategy", "recreate", factor=3)
    deployed.open_gate("gate")
    assert deployed.fetch(call) == "3"


CLASSES = """
import modal

app = modal.App({name!r}, image=modal.Image.debian_slim(python_version="3.11"))


@app.cls()
class Model:
    size: int = modal.parameter(default=3)
    name: str = modal.parameter()

    @modal.enter()
    def load(self):
        self.loaded = f"{{self.name}}-{{self.size}}"

    @modal.method()
    def run(self, x):
        return f"{{self.loaded}}: {{x}}"

    @modal.method()
    def each(self, n):
        yield from range(n)


@app.cls(min_containers=1)
class Plain:
    @modal.method()
    def run(self, x):
        return -x


@app.function()
def nested(x):
    return modal.Cls.from_name({name!r}, "Plain")().run.remote(x)
"""

CLASS_CALLER = """
import modal
name = {name!r}
Model = modal.Cls.from_name(name, "Model")
small = Model(name="small")
print(small.run.remote(1), Model(name="large", size=7).run.remote(2), list(small.each.remote_gen(3)))
print(list(small.run.map(range(2))), Model.with_options(timeout=50)(name="late").run.remote(3))
print(modal.Cls.from_name(name, "Plain")().run.remote(4), modal.Function.from_name(name, "nested").remote(5))
for wrong in [
    lambda: Model().run.remote(1),
    lambda: Model(name=3).run.remote(1),
    lambda: Model(name="a", other=1).run.remote(1),
    lambda: Model(name="a").walk.remote(1),
    lambda: modal.Function.from_name(name, "Model").remote(1),
    lambda: modal.Cls.from_name(name, "nested")().run.remote(1),
    lambda: small.each.remote(1),
]:
    try:
        print(wrong())
    except Exception as error:
        print(type(error).__name__, str(error).partition(chr(10))[0])
"""


def test_classes_are_called_by_their_names(deployed: Deployed) -> None:
    deployed.modal.write("app.py", CLASSES.format(name=deployed.name))
    assert f'modal.Cls.from_name("{deployed.name}", "Model")' in deployed.modal("deploy", "app.py").stdout
    assert deployed.host() is not None, "it has a container before anybody calls it"
    lines = deployed.modal.python("-c", CLASS_CALLER.format(name=deployed.name)).stdout.splitlines()
    assert lines == [
        "small-3: 1 large-7: 2 [0, 1, 2]",
        "['small-3: 0', 'small-3: 1'] late-3: 3",
        "-4 -5",
        "InvalidError `Model(...)` misses its parameter `name`: give it, as in `Model(name=...)`",
        "TypeError the parameter `name` of `Model` is of type `str`, not `int`: 3",
        "InvalidError `Model(...)` has no parameter `other`; it has `size`, `name`",
        f"NotFoundError the class `Model` of the app `{deployed.name}` has no method `walk`",
        f"NotFoundError `Model` of the app `{deployed.name}` is a class",
        f"NotFoundError `nested` of the app `{deployed.name}` is a function, not a class",
        "InvalidError `Model.each` is a generator, whose values only `.remote_gen` can take",
    ]


SCHEDULED = """
import modal

app = modal.App({name!r}, image=modal.Image.debian_slim(python_version="3.11"))


@app.function(schedule=modal.{schedule})
def tick(word: str = "tick") -> None:
    print(word, flush=True)
"""


def test_functions_with_a_schedule_run_by_themselves(deployed: Deployed) -> None:
    modal = deployed.modal
    modal.write("app.py", SCHEDULED.format(name=deployed.name, schedule="Period(seconds=1)"))
    modal("deploy", "app.py")
    until = time.monotonic() + PATIENCE
    while modal("app", "logs", deployed.name).stdout.count("tick\n") < 3:
        assert time.monotonic() < until, "it does not run"
        time.sleep(0.2)
    assert deployed.host() is not None
    assert deployed.listed()["next_run"] is not None
    modal.write("app.py", SCHEDULED.format(name=deployed.name, schedule='Cron("0 0 * * * *")'))
    failed = modal("deploy", "app.py", check=False)
    assert failed.code == 1 and "the schedule of `tick` makes no sense: `0 0 * * * *` has 6 fields" in failed.stderr
    modal("app", "stop", "--yes", deployed.name)
    clean(modal)
