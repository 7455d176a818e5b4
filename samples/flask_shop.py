"""A Flask application whose functions workflows of n8n call.

    pip install flask "n8nrunner[node]"
    flask --app samples.flask_shop init-db
    n8nrunner node --install                   # once, then restart n8n
    flask --app samples.flask_shop_wsgi run

The runner works in the process of the web server, and needs N8N_RUNNERS_AUTH_TOKEN with n8n's value. It
starts with the server, in flask_shop_wsgi.py, so that commands such as `flask init-db` do not start it. In a
workflow, the node *Python Function* offers the runner *shop* with its functions.
"""

from __future__ import annotations

import os
import sqlite3
from typing import Any, Dict, List, Literal, Optional

from flask import Flask, current_app, g

from n8nrunner import Runner, TaskError

app = Flask(__name__)
app.config["DATABASE"] = os.environ.get("SHOP_DATABASE", "shop.sqlite3")

# Each task gets an application context of its own, as each request does, which closes the connection in `g`.
runner = Runner(name="shop", task_context=app.app_context)


def database() -> sqlite3.Connection:
    """Return the database connection of this request or task."""
    if "database" not in g:
        g.database = sqlite3.connect(current_app.config["DATABASE"])
        g.database.row_factory = sqlite3.Row
    connection: sqlite3.Connection = g.database
    return connection


@app.teardown_appcontext
def close_database(error: Optional[BaseException]) -> None:
    connection = g.pop("database", None)
    if connection is not None:
        connection.close()


@app.cli.command("init-db")
def create_tables() -> None:
    """Create the table, with some fruit in it."""
    with database() as connection:
        connection.execute("create table fruit (name text primary key, pieces integer not null)")
        connection.executemany("insert into fruit values (?, ?)", [("apple", 7), ("pear", 0)])


@runner.function
def stock(order_by: Literal["name", "pieces"] = "name") -> List[Dict[str, Any]]:
    """List all fruit in stock.

    Args:
        order_by: The column to sort by.
    """
    rows = database().execute(f"select name, pieces from fruit order by {order_by}")
    return [dict(row) for row in rows]


@runner.function
def sell(fruit: str, pieces: int = 1) -> Dict[str, Any]:
    """Take fruit out of the stock.

    Args:
        fruit: The name of the fruit.
        pieces: The number of pieces.
    """
    if pieces < 1:
        raise TaskError(f"Expected at least one piece of {fruit}, got {pieces}")
    with database() as connection:
        taken = connection.execute(
            "update fruit set pieces = pieces - ? where name = ? and pieces >= ?", (pieces, fruit, pieces)
        )
        if taken.rowcount == 0:
            raise TaskError(f"There are no {pieces} pieces of {fruit}", "See the operation Stock.")
        left = connection.execute("select pieces from fruit where name = ?", (fruit,)).fetchone()
    return {"fruit": fruit, "left": left["pieces"]}


@app.get("/")
def show_stock() -> Any:
    """Show a page of the application; it can call the functions as before."""
    return {"stock": stock(), "n8n": {"runner": runner.state, "registered": runner.is_registered}}
