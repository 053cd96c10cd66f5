"""Watch a Celery fleet live through an outage, twice: ``python -m example_worker.demo``.

The same orders arrive at the same pace, and the same payment service goes down for the same twelve seconds:
first for a plain task with ``autoretry_for``, then for its twin with ``@breaker_task``. Meanwhile somebody visits the
site: first a view that just calls the service, then its twin behind the breaker of the tasks. Everything is real:
an embedded Valkey (or yours, if ``REDIS_URL`` names it), ``celery worker`` and web processes, calls over HTTP.

The exit status is 0 if the guarded pass lost no order and kept the bounds of the breaker and of the limit.
"""

import argparse
import os
import sys

from rich.console import Console

from example_worker.board import Board, comparison, verdict
from example_worker.enqueue import read_orders
from example_worker.fleet import CONCURRENCY, WORKERS, running_fleet
from example_worker.outage import Plan, run_pass
from example_worker.processes import leave_orderly
from example_worker.report import Figures, checks
from example_worker.tasks import CALLS_PER_SECOND, charge, charge_plain
from example_worker.visitor import Visitor

PASSES = {"plain": (charge_plain, "/quote/plain/"), "guarded": (charge, "/quote/")}


def main() -> int:
    parser = argparse.ArgumentParser(description=introduction(Plan()))
    parser.add_argument("--only", choices=PASSES, help="make this pass alone")
    parser.add_argument("--log", default=os.devnull, metavar="FILE", help="keep what the processes say")
    arguments = parser.parse_args()
    leave_orderly()

    console, plan, orders = Console(), Plan(), read_orders()
    console.print(introduction(plan), highlight=False)
    passes: list[Figures] = []
    with running_fleet(arguments.log) as fleet, Board(console) as board:
        for name in [arguments.only] if arguments.only else PASSES:
            task, page = PASSES[name]
            visitor = Visitor(fleet.site + page)
            last, ids = run_pass(name, task, visitor, orders, plan, fleet, board.show)
            passes.append(Figures.of(last, ids, visitor))
    console.print("", comparison(passes))

    judged = [check for figures in passes if figures.name == "guarded" for check in checks(figures)]
    for check in judged:
        console.print(verdict(check), highlight=False)
    return 0 if all(check.kept for check in judged) else 1


def introduction(plan: Plan) -> str:
    return (
        f"{plan.orders_per_second:.0f} orders a second arrive at {WORKERS} Celery workers with {CONCURRENCY}"
        f" processes each, which charge them at a service that allows {CALLS_PER_SECOND} calls a second."
        f" From second {plan.outage_begins:.0f} to second {plan.outage_ends:.0f} that service is down,"
        " while somebody visits a page that needs it."
        " This takes about a minute; Ctrl-C ends it."
    )


if __name__ == "__main__":
    sys.exit(main())
