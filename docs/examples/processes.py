# ignore_interrupts
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from n8nrunner import Runner, ignore_interrupts


def processes() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(2, mp_context=get_context("spawn"), initializer=ignore_interrupts)


runner = Runner(auth_token="secret", executor=processes, capacity=2)  # begins processes when it starts
