# Runner.function, Runner.functions, Runner.remove
from n8nrunner import Runner

runner = Runner(name="shop")


@runner.function
def price(fruit: str, pieces: int = 1) -> int:
    """Return the price of fruit, in cents."""
    return {"apple": 30, "pear": 45}[fruit] * pieces


@runner.function(name="rank_all", batch=True, limit=1)
def rank(score: list[float]) -> list[dict]:
    """Rank all items of the workflow by their score."""
    order = sorted(score, reverse=True)
    return [{"rank": order.index(each) + 1} for each in score]


assert price("apple", 2) == 60  # the decorator does not change the function
assert list(runner.functions) == ["price", "rank_all"]
runner.remove("rank_all")
assert list(runner.functions) == ["price"]
