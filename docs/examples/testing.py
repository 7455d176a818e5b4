# serve, ServedRunner, ServedRunner.task, ServedRunner.snapshot, Node.call,
# Item, Item.json, Item.file, CallFailed
from n8nrunner import File, Runner, TaskError
from n8nrunner.testing import CallFailed, Item, ServedRunner, serve

runner = Runner("https://n8n.example:5679", name="reports")


@runner.function
def report(title: str) -> dict:
    if not title:
        raise TaskError("The report has no title", "Fill in the field Title.")
    return {"title": title, "report": File(title.encode(), "report.txt")}


@runner.task("double")
def double(task):
    return 2 * task.settings["n"]


with serve(runner) as n8n:
    served: ServedRunner = n8n
    item: Item = served.call("report", title="May")[0]
    assert item.json["title"] == "May"
    assert item.file("report").read() == b"May"
    try:
        served.call(report, title="")
    except CallFailed as error:
        print(error.message, error.description, error.item)
    assert served.task("double", {"n": 21}) == 42
    assert served.snapshot().counts.done == 2  # the other task failed
