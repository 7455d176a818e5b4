# Task.read_file, Task.save_file, File, File.read, File.safe_name, SavedFile
from n8nrunner import File, Runner, Task
from n8nrunner.broker import Broker, SavedFile

with Broker(auth_token="secret") as broker:
    runner = Runner(broker.url, auth_token="secret")

    @runner.task("shout")
    def shout(task: Task) -> list:
        text = task.read_file(0, "data").decode()
        saved = task.save_file(text.upper().encode(), "shout.txt", "text/plain")
        return [{"json": {}, "binary": {"data": saved}}]

    with runner:
        task = broker.submit("shout", {}, items=[{"json": {}}], files={(0, "data"): b"hello"})
        task.result(30)
        saved: SavedFile = task.saved_files[0]
        assert (saved.filename, saved.data) == ("shout.txt", b"HELLO")

# A function gets and returns files as `File`.
report = File(b"a,b\n1,2\n", filename="../../report.csv", mime="text/csv")
assert report.read().startswith(b"a,b")
assert "/" not in report.safe_name
