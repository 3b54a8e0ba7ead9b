-- What was asked for over the API by name, so that the same request sent twice is done once. key: the caller's own name
-- for it, empty when he gave none; digest: of what was asked; life: of the daemon that took it.
CREATE TABLE commands (
    id TEXT PRIMARY KEY,
    caller TEXT NOT NULL,
    key TEXT NOT NULL,
    digest TEXT NOT NULL,
    command TEXT NOT NULL,
    life TEXT NOT NULL,
    at REAL NOT NULL,
    ended_at REAL,
    status INTEGER,
    body TEXT
);
CREATE UNIQUE INDEX commands_key ON commands (caller, key) WHERE key <> '';
CREATE INDEX commands_at ON commands (at);
