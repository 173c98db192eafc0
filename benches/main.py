"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import sys

import against
import report
import revisions
from lamina import Lamina
from machine import Failure, Machine, describe, load
from measuring import measure, say
from workloads import free_space
from workloads import rows as rows_of

DESCRIPTION = """\
Measures Lamina, and where they are installed BuildKit, buildah, crun, mmdebstrap and skopeo, in turn, on equal work.
Everything it makes is in one temporary directory and is gone at the end. Peers are measured as root only."""
ROWS = """\
rows:
  B1  crew (158 packages) from an empty store      S1  sandbox for /bin/true
  B2  nothing changed, 10 steps                    S2  python3 -c pass in a sandbox
  B3  one requirement changed                      S3  modal run hello.py
  B4  one of 10,000 local files changed            S5  warm .remote()
  B5  10,000 local files unchanged                 S6  .map
  B6  crew from uv.lock                            S7  import modal
  B7  Debian 12 and Python from nothing            D1  crew on the disk
  B8  crew from a Dockerfile, all but its base
  B9  one of 80 conda packages changed
  A1  a deployed function, from a new process      A4  @modal.concurrent
  A2  from a warm process                          A5  @modal.batched
  A3  first call of an app that sleeps             A6  memory of an app without a container
  T1  crew pushed                                  T4  crew pulled
  T2  pushed with one of 10,000 files changed      T5  crew as an archive
  T3  pushed with one requirement changed

B1, B3, B7 and T1 to T5 take the longest. On Debian the peers come with
  apt-get install docker.io buildah crun mmdebstrap docker-registry skopeo zstd"""


def arguments() -> argparse.Namespace:
    """What the user wants."""
    parser = argparse.ArgumentParser(
        prog="benches/run",
        description=DESCRIPTION,
        epilog=ROWS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="what to measure (default: everything)")
    parser.add_argument("--only", metavar="ROWS", default="", help="the same, with commas: --only B1,S3")
    parser.add_argument(
        "--against",
        metavar="REV",
        help="build this revision and the working tree, and measure both in turn instead of the peers: exit code 3 "
        "if a row is more than 5 %% slower; instead of REV the path of a `modal`, and with --modal nothing is built",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of each row (default: from 1 to 50, by row)")
    parser.add_argument("--modal", metavar="PATH", help="the `modal` to measure (default: .venv/bin/modal, or on PATH)")
    parser.add_argument("--work", metavar="DIR", help="where to make the work directory (default: the system's)")
    parser.add_argument("--markdown", metavar="FILE", help="write the table as Markdown")
    parser.add_argument("--json", metavar="FILE", help="write every value as JSON")
    parsed = parser.parse_args()
    if parsed.rounds is not None and parsed.rounds < 1:
        parser.error("--rounds takes a positive number")
    parsed.rows = [name.upper() for name in [*parsed.rows, *parsed.only.split(",")] if name]
    return parsed


def main() -> int:
    """Measures and reports; the exit code is 1 if Lamina itself could not be measured."""
    wanted = arguments()
    try:
        return compare(wanted) if wanted.against else beside_peers(wanted)
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def beside_peers(wanted: argparse.Namespace) -> int:
    """Measures Lamina and its peers."""
    rows: list = []
    with Machine(wanted.work) as machine:
        free_space(machine)
        known = rows_of(machine, Lamina(machine, wanted.modal), revisions.REPOSITORY)
        for name in names(wanted, known):
            for row in known[name]():
                measure(row, wanted.rounds)
                rows.append(row)
    print(report.terminal(rows, describe()))
    if wanted.markdown:
        report.write(wanted.markdown, report.markdown(rows, describe()))
    if wanted.json:
        report.write(wanted.json, report.raw(rows, describe()))
    return 1 if any(row.ours.failure for row in rows) else 0


def compare(wanted: argparse.Namespace) -> int:
    """Measures two builds of Lamina in turn."""
    that = revisions.revision(wanted.against)
    this = revisions.Build("this", wanted.modal, None) if wanted.modal else revisions.working_tree()
    figures: list = []
    with Machine(wanted.work) as machine:
        free_space(machine)
        both = []
        for place, build in (("this", this), ("that", that)):
            part = machine.part(place)
            both.append(rows_of(part, Lamina(part, build.modal), build.source, build.cargo_environment))
        for name in names(wanted, both[0]):
            for pair in zip(*(known[name]() for known in both)):
                figures += against.compare(*pair, wanted.rounds)
    table = against.markdown(figures, describe(), that.name)
    print(table)
    if wanted.markdown:
        report.write(wanted.markdown, table)
    if wanted.json:
        report.write(wanted.json, against.raw(figures, describe(), that.name))
    if any(not figure.measured for figure in figures):
        return 1
    return 3 if any(figure.slower for figure in figures) else 0


def names(wanted: argparse.Namespace, known: dict) -> list:
    """The rows to measure."""
    for name in wanted.rows:
        if name not in known:
            raise Failure(f"there is no row `{name}`; there are {', '.join(known)}")
    if load() > 1:
        say(f"warning: the machine is busy (load {load():.1f}); figures will be worse than they are")
    return wanted.rows or list(known)
