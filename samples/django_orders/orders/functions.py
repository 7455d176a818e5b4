"""The functions of the node "Orders" in n8n."""

from __future__ import annotations

import contextlib
import decimal
from typing import Any, Dict, Iterator, Literal, Optional

from django.db import close_old_connections, transaction

from n8nrunner import Runner, TaskError
from orders.models import Order


@contextlib.contextmanager
def database_connections() -> Iterator[None]:
    """Close old and broken connections around every task, as Django does around every request."""
    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()


runner = Runner(name="orders", task_context=database_connections)


@runner.function
def place_order(email: str, total: float) -> Dict[str, Any]:
    """Place an order.

    Args:
        email: The customer's address.
        total: The price, in euros.
    """
    amount = decimal.Decimal(str(total)).quantize(decimal.Decimal("0.01"))
    return _described(Order.objects.create(email=email, total=amount))


@runner.function
def list_orders(email: Optional[str] = None, open_only: bool = True) -> Iterator[Dict[str, Any]]:
    """List orders, the oldest first.

    Args:
        email: The customer whose orders are listed; all customers by default.
        open_only: Whether to leave out shipped orders.
    """
    found = Order.objects.order_by("id")
    if email is not None:
        found = found.filter(email=email)
    if open_only:
        found = found.filter(carrier="")
    for order in found.iterator():
        yield _described(order)


@runner.function
def ship_order(number: int, carrier: Literal["DHL", "UPS"] = "DHL") -> Dict[str, Any]:
    """Hand an order to a carrier.

    Args:
        number: The order's number.
        carrier: The carrier of the parcel.
    """
    with transaction.atomic():
        order = Order.objects.select_for_update().filter(id=number).first()
        if order is None:
            raise TaskError(f"There is no order {number}", "See the operation List Orders.")
        if order.carrier:
            raise TaskError(f"Order {number} has been shipped with {order.carrier}")
        order.carrier = carrier
        order.save()
    return _described(order)


def _described(order: Order) -> Dict[str, Any]:
    return {
        "number": order.id,
        "email": order.email,
        "total": order.total,
        "placed_on": order.placed_on,
        "carrier": order.carrier or None,
    }
