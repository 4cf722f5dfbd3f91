"""Drivers that contend for a store on a virtual clock, under latency, pauses, crashes and lost messages."""

import contextlib
import uuid

from virtual_time import Process, World

from harness.errors import UserError
from harness.storage import driver_files, driver_lock
from harness.storage.driver_files import DriverFiles
from harness.storage.driver_lock import DriverLock, DriverLost

CONTENDERS = 8
LATENCY = 0.4  # seconds, the longest of a message
SLACK = 12.0  # seconds, of the polls and messages between the end of a holder's patience and its successor


class Network:
    """A store as a process sees it: messages take time and get lost; meanwhile the process is suspended or crashes."""

    def __init__(self, game, process):
        self.uri, self._game, self._process = game.store.uri, game, process

    def files(self, name):
        if self._process not in self._game.holding:
            silent = self._game.now - max(self._game.alive_at, self._process.waiting_since)
            assert silent < driver_lock.STALE_SECONDS + SLACK, f"nobody takes the lock for {silent} seconds"
        return self._call(lambda: self._game.store.files(name))

    def read(self, name):
        return self._call(lambda: self._game.store.read(name))

    def remove(self, name):
        self._call(lambda: self._game.store.remove(name))

    def write(self, name, content):
        def write():
            self._game.store.write(name, content)
            if beat:
                self._game.alive_at = self._game.now

        beat = name.endswith("heartbeat")
        self._call(write, late=beat)

    def create(self, name, content):
        def create():
            if created := self._game.store.create(name, content):
                self._game.alive_at = self._game.now
            return created and self._game.random.random() > 0.1  # a retry after a lost response finds it there

        return self._call(create, late=True)

    def _call(self, operation, late=False):
        """late: whether the message may still take effect after its sender gave up on it."""
        game = self._game
        game.message(self._process)
        if game.random.random() < game.loss:
            if late and game.random.random() < 0.5:
                messenger = Process(game, "messenger")
                delay = game.random.uniform(0, 5)
                game.start(messenger, lambda: (game.sleep(delay), operation()))
            raise UserError("the message was lost")
        result = operation()
        game.message(self._process)
        return result


class WatchedLock(DriverLock):
    def __init__(self, game, process):
        super().__init__(Network(game, process), process.clock, process.sleep)
        self._game, self._process = game, process
        game.locks[process] = self

    def check(self):
        generation = super().check()
        others = [p.name for p, lock in self._game.locks.items() if lock is not self and lock.valid()]
        assert not others, f"{self._process.name} and {others} hold the lock at {self._game.now}"
        return generation


class Game(World):
    """A round: every contender takes the lock, adds lines to the journal, and releases the lock.

    A contender that lost the lock begins again. One that crashed is replaced, on a new machine.
    """

    def __init__(self, seed, store, folder, lock=WatchedLock, files=DriverFiles):
        super().__init__(seed)
        self.store, self.folder, self._lock, self._files = store, folder, lock, files
        self.pauses, self.crashes, self.loss = (self.random.choice((0, x)) for x in (0.004, 0.001, 0.01))
        self.locks, self.confirmed = {}, {}  # confirmed: line -> its generation
        self.holding = set()  # processes
        self.alive_at, self.takeovers = 0.0, 0  # alive_at: the last takeover or heartbeat

    def play(self):
        for number in range(CONTENDERS):
            self._contender(f"contender {number}")
        self.run(limit=1e4)
        last = DriverFiles(self.folder / "last", DriverLock(self.store))
        last.pull()
        journal = (self.folder / "last" / driver_files.JOURNAL).read_text().splitlines()
        assert len(journal) == len(set(journal)), "lines are doubled"
        assert set(self.confirmed) <= set(journal), "confirmed lines are missing at the end"
        generations = [self.confirmed[line] for line in journal if line in self.confirmed]
        assert generations == sorted(generations), "drivers wrote in between each other"

    def message(self, process):
        self.sleep(self.random.uniform(0, LATENCY))
        busy = 3 if process in self.holding else 1
        if self.random.random() < self.pauses * busy:
            process.suspended_until = self.now + self.random.uniform(0, 3 * driver_lock.STALE_SECONDS)
            self.sleep(0)
            process.waiting_since = self.now
        if self.random.random() < self.crashes * busy:
            process.crashed = True
            self.locks.pop(process, None)
            self._contender(f"{process.name}'")
            self.sleep(0)

    def _contender(self, name):
        process = Process(self, name)
        self.start(process, lambda: self._command(process))

    def _command(self, process):
        while True:
            with contextlib.suppress(UserError):  # the store failed, or the lock was lost
                lock = self._lock(self, process)
                process.waiting_since = self.now
                if not lock.acquire():
                    continue
                self.holding.add(process)
                self.takeovers += 1
                self.start(process, lambda lock=lock: self._heartbeats(lock))
                try:
                    self._drive(process, lock)
                    return
                finally:
                    self.locks.pop(process, None)
                    self.holding.discard(process)
                    lock.ended = True

    def _heartbeats(self, lock):
        while not hasattr(lock, "ended"):
            self.sleep(driver_lock.HEARTBEAT_SECONDS)
            with contextlib.suppress(UserError):
                lock.beat()

    def _drive(self, process, lock):
        files = self._files(self.folder / process.name, lock)
        files.pull()
        journal = self.folder / process.name / driver_files.JOURNAL
        journal.parent.mkdir(exist_ok=True)
        for _ in range(3):
            line = uuid.UUID(int=self.random.getrandbits(128)).hex
            with journal.open("a") as file:
                file.write(f"{line}\n")
            self._push(files)
            generation = lock._held[0]
            self.confirmed[line] = generation
            lines = journal.read_text().splitlines()
            confirmed = {line for line, of in self.confirmed.items() if of <= generation}
            assert confirmed <= set(lines), "confirmed lines are missing"
            self.sleep(self.random.uniform(0, 15))
        lock.ended = True
        lock.release()

    def _push(self, files):
        while True:
            try:
                return files.push()
            except DriverLost:
                raise
            except UserError:
                self.sleep(1)
