"""Watch a Celery fleet in an outage, without and with a breaker: ``python -m example_worker.demo``.

In both passes the same orders arrive at the same pace, and the payment service is down for the same twelve seconds.
The plain pass uses a task with ``autoretry_for`` and a view that calls the service. The guarded pass uses
``@breaker_task`` and a view behind the same breaker. A visitor requests the view during the outage.

The demo starts real processes: Celery workers, a web server, the payment service, and an embedded Valkey. Set
``REDIS_URL`` to use another Redis or Valkey. The exit status is 0 if the guarded pass lost no order and kept the bounds
of the breaker and of the limit.
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
    parser.add_argument("--only", choices=PASSES, help="run only this pass")
    parser.add_argument("--log", default=os.devnull, metavar="FILE", help="append the output of the processes to FILE")
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
        f" From second {plan.outage_begins:.0f} to second {plan.outage_ends:.0f} the service is down,"
        " and a visitor requests a page that calls the service."
        " The demo takes about a minute. Press Ctrl-C to stop it."
    )


if __name__ == "__main__":
    sys.exit(main())
