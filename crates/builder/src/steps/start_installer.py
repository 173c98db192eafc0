"""Starts pip or uv without showing the logins in what they are given: every user of the host can read arguments.

Runs inside the sandbox; the arguments of the installer come on standard input, each with a zero byte behind it. pip
runs in this very process, and what it starts gets indexes with logins as variables. uv gets them in the same way, and
addresses of packages in a file. Both get addresses of git without their logins, for which git then asks its store.
"""

import importlib.util
import os
import re
import runpy
import subprocess
import sys
import tempfile

LOGIN = re.compile(r"://[^\s/?#\"'<>`|]+@")
GIT = re.compile(r"git\+(https?)://([^\s/?#\"'<>`|]+)@([^\s?#;\"'<>`|]+)")
VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")

# Options with addresses, by the variable that stands for them.
INDEXES = {
    "--index": "INDEX",
    "--default-index": "DEFAULT_INDEX",
    "--index-url": "INDEX_URL",
    "-i": "INDEX_URL",
    "--extra-index-url": "EXTRA_INDEX_URL",
    "--find-links": "FIND_LINKS",
    "-f": "FIND_LINKS",
    "--proxy": "PROXY",
}
LISTS = {"INDEX": " ", "EXTRA_INDEX_URL": " ", "FIND_LINKS": " "}

# Options that name files of requirements, and projects, in the form that such files have for them.
FILES = {
    "-r": "-r ",
    "--requirement": "-r ",
    "--requirements": "-r ",
    "-c": "-c ",
    "--constraint": "-c ",
    "--constraints": "-c ",
    "-e": "-e ",
    "--editable": "-e ",
}


def options(words):
    """Each argument with its option, if that is one of those above: option, value, the words that they are."""
    words = iter(words)
    for word in words:
        name, equals, value = word.partition("=")
        if equals and (name in INDEXES or name in FILES):
            yield name, value, [word]
        elif word in INDEXES or word in FILES:
            value = next(words, None)
            yield (word, value, [word, value]) if value is not None else (None, word, [word])
        elif word[:2] in ("-i", "-f", "-r", "-c", "-e") and len(word) > 2:
            yield word[:2], word[2:], [word]
        else:
            yield None, word, [word]


def without_indexes(words, installer):
    """The words without the index options of which one has a login, and the variables that stand for those."""
    parsed = list(options(words))
    moved = {INDEXES[name]: [] for name, value, _ in parsed if name in INDEXES and LOGIN.search(value)}
    kept = []
    for name, value, same in parsed:
        if INDEXES.get(name) in moved:
            moved[INDEXES[name]].append(value)
        else:
            kept += same
    separators = {**LISTS, "FIND_LINKS": ","} if installer == "UV" else LISTS
    variables = {}
    for name, values in moved.items():
        variables[installer + "_" + name] = separators[name].join(values) if name in separators else values[-1]
    return kept, variables


def without_addresses(words, directory):
    """The words with addresses of packages and files that have logins in a file of requirements instead."""
    kept, lines = [], []
    for name, value, same in options(words):
        if LOGIN.search(value) and name not in INDEXES:
            lines.append(FILES.get(name, "") + value)
        else:
            kept += same
    return kept + (["-r", written(directory, "addresses.txt", "\n".join(lines))] if lines else [])


class Git:
    """Logins for git, which asks its store of credentials for them."""

    def __init__(self, directory):
        self.directory = directory
        self.logins = []

    def without_logins(self, text, variables):
        """The text with addresses of git that have no login; variables are put in, as the installers do."""

        def taken(found):
            scheme, login, place = found.groups()
            login = VARIABLE.sub(lambda name: variables.get(name.group(1), name.group()), login)
            if "${" in login:
                return found.group()
            self.logins.append((scheme + "://", login if ":" in login else login + ":", place))
            return "git+" + scheme + "://" + place

        return GIT.sub(taken, text)

    def variables(self, given):
        """The settings that lead git to the logins: for each address its own, for others of the host its first one."""
        hosts, addresses = {}, []
        for number, (scheme, login, place) in enumerate(self.logins):
            host, _, path = place.partition("/")
            file = written(self.directory, f"git-{number}", scheme + login + "@" + host + "\n")
            helper = ".helper=store --file " + file
            addresses.append("credential." + scheme + host + "/" + path.rsplit("@", 1)[0] + helper)
            hosts.setdefault(scheme + host, helper)
        if not hosts:
            return {}
        # An empty helper takes back those of the image, which an address with a login does not ask either.
        settings = ["credential." + host + ".helper=" for host in hosts]
        settings += addresses + ["credential." + host + helper for host, helper in hosts.items()]
        former = [given["GIT_CONFIG_PARAMETERS"]] if given.get("GIT_CONFIG_PARAMETERS") else []
        return {"GIT_CONFIG_PARAMETERS": " ".join(former + ["'" + setting + "'" for setting in settings])}


class Popen(subprocess.Popen):
    """A process of pip: itself, where it builds something in an environment of its own, or git."""

    def __init__(self, args, *more, **options):
        if not isinstance(args, (str, bytes)):
            args, variables = without_indexes([os.fspath(word) for word in args], "PIP")
            if variables:
                options["env"] = {**(options.get("env") or os.environ), **variables}
        super().__init__(args, *more, **options)


def written(directory, name, text):
    """The path of a new private file."""
    path = os.path.join(directory, name)
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.write(text)
    return path


def main():
    """Starts the installer that the first argument names: `pip`, or the path of `uv`."""
    installer, own = sys.argv[1], os.path.dirname(os.path.abspath(__file__))
    words = [os.fsdecode(word) for word in sys.stdin.buffer.read().split(b"\0")[:-1]]
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    directory = tempfile.mkdtemp(dir="/dev/shm")
    git = Git(directory)
    for index, word in enumerate(words):
        words[index] = git.without_logins(word, {})
        if os.path.dirname(word) == own:
            with open(word, encoding="utf-8", errors="surrogateescape", newline="") as file:
                text = file.read()
            changed = git.without_logins(text, os.environ)
            if changed != text:
                words[index] = written(directory, os.path.basename(word), changed)
    os.environ.update(git.variables(os.environ))
    if installer == "pip":
        subprocess.Popen = Popen
        sys.path[:] = [path for path in sys.path if path != own]
        sys.argv[1:] = words
        if importlib.util.find_spec("pip") is None:
            sys.exit(f"{sys.executable}: No module named pip")
        runpy.run_module("pip", run_name="__main__", alter_sys=True)
    else:
        words, variables = without_indexes(without_addresses(words, directory), "UV")
        os.execve(installer, [installer, *words], {**os.environ, **variables})


if __name__ == "__main__":
    main()
