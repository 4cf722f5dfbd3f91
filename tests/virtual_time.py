"""Processes on a virtual clock: one step at a time, in an order that a seed decides, with pauses and crashes.

A task is a thread that runs alone until it sleeps. No result depends on how busy the machine is.
"""

import heapq
import itertools
import random
import threading


class Crash(BaseException):
    """Ends the tasks of a process that crashed."""


class Process:
    """What is suspended and crashes as one. Its clock has an origin and a rate of its own."""

    def __init__(self, world, name):
        self.world, self.name = world, name
        self.crashed, self.suspended_until = False, 0.0
        self._origin, self._rate = world.random.uniform(0, 1e6), world.random.uniform(0.98, 1.02)

    def clock(self):
        return self._origin + self._rate * self.world.now

    def sleep(self, seconds):
        self.world.sleep(seconds)


class World:
    def __init__(self, seed):
        self.random, self.now = random.Random(seed), 0.0
        self._queue, self._order = [], itertools.count()
        self._back = threading.Semaphore(0)
        self._current, self.error = None, None

    def start(self, process, function):
        """A task of the process, which begins when the world runs."""
        task = _Task(self, process, function)
        self._at(self.now, task)

    def sleep(self, seconds):
        task = self._current
        self._at(self.now + seconds, task)
        task.wait()

    def run(self, limit):
        """Until all tasks have ended. The first exception of a task is raised; afterwards all others are ended."""
        while self._queue:
            when, order, task = heapq.heappop(self._queue)
            ending = self.error is not None
            if when < task.process.suspended_until and not task.process.crashed and not ending:
                heapq.heappush(self._queue, (task.process.suspended_until, order, task))
                continue
            self.now, task.process.crashed = max(self.now, when), task.process.crashed or ending
            if self.now > limit and not ending:
                self.error = AssertionError(f"nothing comes to an end within {limit} seconds")
            self._current = task
            task.go.release()
            self._back.acquire()
        if self.error:
            raise self.error

    def _at(self, when, task):
        heapq.heappush(self._queue, (when, next(self._order), task))


class _Task:
    def __init__(self, world, process, function):
        self.world, self.process, self.go = world, process, threading.Semaphore(0)
        self._function = function
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self):
        self.go.acquire()
        try:
            if not self.process.crashed:
                self._function()
        except Crash:
            pass
        except BaseException as error:
            self.world.error = self.world.error or error
        self.world._back.release()

    def wait(self):
        self.world._back.release()
        self.go.acquire()
        if self.process.crashed:
            raise Crash
