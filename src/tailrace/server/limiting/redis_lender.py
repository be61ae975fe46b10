"""Buckets that several servers share through Redis: each worker is lent its part of what there is, and renews it.

    request ─▶ Bucket ─▶ RedisAccount: of what it was lent
                               ▲ every 50 ms, in the background: what was taken goes out, a new part comes back
                            Leases ─▶ one script in Redis, for all buckets in use

No request waits for Redis. A bucket that was not in use goes by this worker's own account until its first part has
come, a round trip later; what it has taken by then is owed. While Redis is away, late, or answers nonsense, each worker
has its part of every limit: one of as many as shared the bucket when Redis was last heard, and as the server has.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any, Final

import structlog

from tailrace.deadline import NS_PER_S, NS_PER_US, Clock
from tailrace.errors import SetupError
from tailrace.features.stores.redis_address import RedisAddress
from tailrace.request.limit import Limit
from tailrace.server.limiting.bucket import Account

PERIOD_S: Final = 0.05
PAUSE_S: Final = 0.005
"""Between two rounds, however many buckets are new."""
ANSWER_S_MAX: Final = 0.25
RETRY_S_MAX: Final = 1.0
HEARD_NS: Final = 1 * NS_PER_S
"""For so long a part is good for. In Redis it lasts twice as long, so that no other is given the same in between."""
BUCKETS_MAX: Final = 256
"""Of one round trip; Redis does nothing else meanwhile."""
PARTS_A_LEASE: Final = 8
PREFIX: Final = "{tailrace:limits}:"
"""Of the keys: all in one slot, since one script has them all."""

SCRIPT: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local worker, ttl = ARGV[1], tonumber(ARGV[2])
local answers = {}
for i, key in ipairs(KEYS) do
  local at = 4 * i - 1
  local interval, burst = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local owed, wants = tonumber(ARGV[at + 2]), ARGV[at + 3] == '1'
  local full, sharers = now, 1
  local known = redis.call('HGETALL', key)
  for n = 1, #known, 2 do
    local value = tonumber(known[n + 1])
    if known[n] == 'full' then
      full = math.max(value, now)
    elseif value <= now then
      redis.call('HDEL', key, known[n])
    elseif known[n] ~= worker then
      sharers = sharers + 1
    end
  end
  -- A clock that was set back shuts nobody out for longer than this.
  full = math.min(full, now + burst * interval + math.max(burst * interval, 3600000000))
  full = math.max(full + owed * interval, now)
  local room = math.max(math.floor((now + burst * interval - full) / interval), 0)
  local lent = 0
  if wants then
    lent = math.ceil(room / sharers)
    redis.call('HSET', key, worker, string.format('%.0f', now + ttl))
  else
    redis.call('HDEL', key, worker)
  end
  full = full + lent * interval
  redis.call('HSET', key, 'full', string.format('%.0f', full))
  redis.call('PEXPIRE', key, math.ceil((full - now + ttl) / 1000))
  local left = (now + burst * interval - full) / interval
  answers[4 * i - 3], answers[4 * i - 2] = lent, math.max(math.floor(left), 0)
  answers[4 * i - 1] = math.floor(interval * (math.max(math.floor(left), 0) + 1 - left))
  answers[4 * i] = sharers
end
return answers
"""
SCRIPT_SHA: Final = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()


class RedisAccount:
    """Lends the tokens of one limit to this worker, out of the part that Redis has lent it.

    held: of that part, what is left. owed: taken and not told yet. is_used: since the last round.
    """

    def __init__(self, name: str, limit: Limit, leases: Leases, clock: Clock) -> None:
        self.name = name
        self.limit = limit
        self.held = self.owed = 0
        self.is_used = False
        self._alone = 0
        self._left = (0, 0)
        self._heard_ns = -HEARD_NS
        self._now_ns = clock.now_ns
        self._leases = leases
        self._sharers = leases.workers
        self._own = Account(limit, clock)
        self._own.have_part(self._sharers)

    @property
    def is_heard(self) -> bool:
        """Whether its part is good still."""
        return self._now_ns() - self._heard_ns < HEARD_NS

    def lend(self) -> int:
        """Return how many tokens may be taken from now on; 0 for none."""
        self.is_used = True
        if self.is_heard:
            lent = min(self.held, self.held // PARTS_A_LEASE + 1)
            self.held -= lent
            return lent
        self._leases.want(self)
        lent = int(self._own.take())
        if self._alone < self.limit.tokens_max:  # of an hour without Redis no more than a burst is paid back
            self._alone += lent
            self.owed += lent
        return lent

    def owe(self, tokens: int) -> None:
        """Take note of tokens that were taken and not lent; below 0, of some that were lent and not taken."""
        self.owed += tokens

    def left(self) -> tuple[int, int]:
        """Return how many tokens there are, and in how many ns there will be one more."""
        if not self.is_heard:
            return self._own.left()
        tokens, wait_ns = self._left
        return tokens + self.held, wait_ns

    def take_part(self, told: int, held: int, answer: list[int]) -> None:
        """Take what Redis has answered. told: of what is owed; held: what was given back for it.

        Raises ValueError for an answer that cannot be.
        """
        lent, left, wait_us, sharers = answer
        if not (0 <= lent <= self.limit.tokens_max and left >= 0 and wait_us >= 0 and sharers >= 1):
            raise ValueError(f"{answer} is no answer of the script")
        self.owed -= told
        self.held += lent - held  # what was taken of the last part meanwhile is taken of this one
        if self.held < 0:
            self.owed, self.held = self.owed - self.held, 0
        self._alone = 0
        self._left = left, wait_us * NS_PER_US
        self._heard_ns = self._now_ns()
        sharers = max(sharers, self._leases.workers)
        if sharers != self._sharers:
            self._sharers = sharers
            self._own.have_part(sharers)

    def let_go(self) -> None:
        """Have no part any more: it was given back, since nobody uses it."""
        self._heard_ns -= HEARD_NS


def check_address(url: str) -> None:
    """Raise SetupError for what is no address of one Redis."""
    if not url.startswith(("redis://", "rediss://")):
        what = "limits are shared through one Redis"
        raise SetupError(what, where="limits_redis", next="write redis://HOST:PORT/0, or rediss:// for TLS")
    RedisAddress.parse(url)


class Leases:
    """Renews the parts of all buckets in use, in the background. worker: names it among all that share.

    count_failure: is called for each round that brought nothing.
    """

    def __init__(self, url: str, worker: str, clock: Clock, workers: int, count_failure: Callable[[], None]) -> None:
        """workers: of this server, which share in any case.

        Raises SetupError for what is no address of Redis.
        """
        check_address(url)
        self._address = RedisAddress.parse(url).url
        self._url = url
        self._worker = worker
        self._clock = clock
        self.workers = workers
        self._count_failure = count_failure
        self._in_use: dict[str, RedisAccount] = {}
        self._wanted = asyncio.Event()
        self._client: Any = None
        self._task: asyncio.Task[None] | None = None
        self._fails = False
        self._log = structlog.get_logger()

    def account(self, name: str, limit: Limit) -> RedisAccount:
        """Return what lends the tokens of a limit."""
        return RedisAccount(name, limit, self, self._clock)

    def want(self, account: RedisAccount) -> None:
        """Have a part of a bucket with the next round, which begins at once."""
        if account.name not in self._in_use:
            self._in_use[account.name] = account
            self._wanted.set()

    def begin(self) -> None:
        """Renew from now on, until the running loop ends."""
        self._task = asyncio.get_running_loop().create_task(self.run())

    async def run(self) -> None:
        """Renew until cancelled. Whatever fails is tried again, less and less often."""
        pause_s = PERIOD_S
        try:
            while True:
                if not self._in_use:
                    await self._wanted.wait()
                self._wanted.clear()
                try:
                    async with asyncio.timeout(ANSWER_S_MAX):
                        await self._renew()
                except Exception as error:  # of a socket, of Redis, of what claims to be one: none may end this
                    await self._note(error)
                    pause_s = min(2 * pause_s, RETRY_S_MAX)
                    await asyncio.sleep(pause_s)
                    continue
                await self._note(None)
                pause_s = PERIOD_S
                await self._rest()
        finally:
            await self._disconnect()

    async def _rest(self) -> None:
        """Wait for the next round: less long where a bucket is new."""
        await asyncio.sleep(PAUSE_S)
        try:
            async with asyncio.timeout(PERIOD_S - PAUSE_S):
                await self._wanted.wait()
        except TimeoutError:
            return

    async def _renew(self) -> None:
        """Tell what was taken, and take new parts."""
        accounts = list(self._in_use.values())
        for at in range(0, len(accounts), BUCKETS_MAX):
            await self._renew_some(accounts[at : at + BUCKETS_MAX])

    async def _renew_some(self, accounts: list[RedisAccount]) -> None:
        """Renew the parts of some buckets in one round trip. A bucket that nobody used is given back whole."""
        sent = [(account, account.owed, account.held, account.is_used) for account in accounts]
        arguments: list[Any] = [self._worker, 2 * HEARD_NS // NS_PER_US]
        for account, owed, held, is_used in sent:
            account.is_used = False
            limit = account.limit
            arguments += [limit.interval_ns / NS_PER_US, limit.tokens_max, owed - held, int(is_used)]
        keys = [PREFIX + account.name for account in accounts]
        answers = await self._ask(keys, arguments)
        if len(answers) != 4 * len(sent):
            raise ValueError(f"{len(answers)} numbers are no answer of the script")
        for place, (account, owed, held, is_used) in enumerate(sent):
            account.take_part(owed, held, [int(each) for each in answers[4 * place : 4 * place + 4]])
            if not is_used and not account.is_used:
                del self._in_use[account.name]
                account.let_go()

    async def _ask(self, keys: list[str], arguments: list[Any]) -> list[Any]:
        """Run the script."""
        if self._client is None:
            from redis.asyncio import Redis

            self._client = Redis.from_url(self._url, single_connection_client=True, socket_timeout=ANSWER_S_MAX)
        from redis.exceptions import NoScriptError

        try:
            answer: list[Any] = await self._client.evalsha(SCRIPT_SHA, len(keys), *keys, *arguments)
        except NoScriptError:
            answer = await self._client.eval(SCRIPT, len(keys), *keys, *arguments)
        return answer

    async def _note(self, error: Exception | None) -> None:
        """Count a failure, and log when they begin and when they are over."""
        if error is not None:
            self._count_failure()
            await self._disconnect()  # a reply that comes too late would be taken for the next one's
            if not self._fails:
                what = "limits are not shared: each worker goes on with its part"
                self._log.warning(what, redis=self._address, error=type(error).__name__)
        elif self._fails:
            self._log.info("limits are shared again", redis=self._address)
        self._fails = error is not None

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            try:
                async with asyncio.timeout(ANSWER_S_MAX):
                    await client.aclose()
            except Exception:  # it is gone either way
                return
