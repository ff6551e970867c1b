-- What version 2 adds: jobs that a command drives itself, and outputs that may be used again.

ALTER TABLE jobs ADD COLUMN attended INTEGER NOT NULL DEFAULT 0;    -- 1: its command holds the lock in its folder
ALTER TABLE jobs ADD COLUMN cache_key TEXT NOT NULL DEFAULT '';     -- equal: the same outputs; '': not cached
ALTER TABLE jobs ADD COLUMN reads_cache INTEGER NOT NULL DEFAULT 1; -- 0: run it all the same

CREATE INDEX cached_outputs ON jobs (cache_key, seq) WHERE cache_key <> '';
