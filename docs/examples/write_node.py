# Runner.write_node, install_node
import tempfile
from pathlib import Path

from n8nrunner import Runner, install_node

runner = Runner(name="shop")


@runner.function
def price(fruit: str) -> int:
    """Return the price of a fruit, in cents."""
    return len(fruit)


folder = Path(tempfile.mkdtemp())  # None, the default, is where n8n looks
assert runner.write_node(folder).is_dir()
assert (install_node(folder) / "package.json").is_file()
