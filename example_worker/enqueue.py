"""Enqueue the orders of a CSV file: ``python -m example_worker.enqueue [orders.csv] [--plain]``."""

import argparse
import csv
from pathlib import Path
from typing import NamedTuple

from example_worker.celery_app import app
from example_worker.tasks import charge, charge_plain

ORDERS = Path(__file__).with_name("orders.csv")


class Order(NamedTuple):
    """One line of the CSV file."""

    id: str
    customer: str
    amount: str


def read_orders(path: Path = ORDERS) -> list[Order]:
    """Read a CSV file with the columns id, customer, amount."""
    with path.open(newline="") as file:
        return [Order(**row) for row in csv.DictReader(file)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Enqueue the orders of a CSV file.")
    parser.add_argument("csv", nargs="?", type=Path, default=ORDERS)
    parser.add_argument("--plain", action="store_true", help="use the task without a breaker and a limit")
    arguments = parser.parse_args()
    task = charge_plain if arguments.plain else charge
    orders = read_orders(arguments.csv)
    for order in orders:
        task.delay(order.id, order.amount)
    print(f"enqueued {len(orders)} orders for {task.name} on {app.connection().as_uri()}")


if __name__ == "__main__":
    main()
