"""How fast n8nrunner is: ratios within one run on one machine, never figures alone.

`python -m tests.benchmarks` from the root of the repository prints a table and writes the same as JSON. It
needs Linux, Node.js and npm: the load comes from `broker.js`, a small program on npm's `ws` package that is
faster than what it measures. The package is installed once into a cache folder, `$N8NRUNNER_TEST_CACHE` or
`~/.cache/n8nrunner-tests`.

The contestants. Each is a separate process, started again for every measurement:

- `floor`: a bare single-threaded loop over a `websocket.WebSocket` that answers inline;
- `callbacks`: `WebSocketApp` callbacks and a pool whose threads send for themselves, an afternoon's work;
- `package`: `n8nrunner.Runner`, through its public names alone;
- a script of yours, with `--prototype PATH`: it is run as `python PATH BROKER_URL CAPACITY`, authenticates
  with the token `secret`, offers the task type `python` and answers a task by the `items` of its settings.

They take turns within every repetition, so that a machine that slows down slows all of them down. A ratio is
taken within one repetition, or within two turns next to each other. The table shows the median of the values
and their range; of 20 values or more, the range in which their median is with a confidence of 95 %. No other
program should run: the table says how much of the processor others used.

`--against COMMIT` compares the working tree with an older version instead: each row is measured in rounds of
old, new and old again, every time in a new process, for about a quarter of an hour (`--quick`: a minute). A
ratio above 1 says that the new version is better. The two old figures of each round give the noise: twice the
standard error of their ratio's median. A row is met at 0.98 less its noise, the geometric mean of all rows at
0.98. The CPU time of a task, for information, says most while other programs run.
"""
