-- Where the incident's runbook is; beside the body, because it changes with every move and is nobody else's to read.
ALTER TABLE incidents ADD COLUMN place TEXT NOT NULL DEFAULT '';

-- What happened on the runbook of an incident, one row a macrostep: replayed in order they give the place it is at.
CREATE TABLE moves (
    incident TEXT NOT NULL,
    number INTEGER NOT NULL,
    at REAL NOT NULL,
    event TEXT NOT NULL,
    data TEXT NOT NULL,
    invocation TEXT NOT NULL,
    message TEXT NOT NULL,
    states TEXT NOT NULL,
    taken INTEGER NOT NULL,
    effects TEXT NOT NULL,
    PRIMARY KEY (incident, number)
);
-- A message is consumed once, whatever else goes wrong.
CREATE UNIQUE INDEX moves_message ON moves (incident, message) WHERE message <> '';

-- Events from outside, waiting for an incident's runbook. A row goes in the transaction of the move that takes it.
CREATE TABLE inbox (
    id TEXT PRIMARY KEY,
    incident TEXT NOT NULL,
    event TEXT NOT NULL,
    data TEXT NOT NULL,
    who TEXT NOT NULL,
    at REAL NOT NULL
);

-- Every version of a runbook that an incident may be under, by the hash of its content.
CREATE TABLE books (
    hash TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    source TEXT NOT NULL,
    at REAL NOT NULL
);
