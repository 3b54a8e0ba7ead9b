-- What analyzers have learnt, one row an instance, in the form that is its own: it is made anew from what is seen, and
-- no export holds it.
CREATE TABLE learnt (
    analyzer TEXT PRIMARY KEY,
    body BLOB NOT NULL,
    at REAL NOT NULL
);

-- What analyzers are taught from outside: an operator's word on a finding (right: 0 or 1, of an incident), or what was
-- learnt elsewhere (body). said: what came of it, once it was taken.
CREATE TABLE lessons (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('verdict', 'learnt')),
    analyzer TEXT NOT NULL,
    incident TEXT NOT NULL,
    right INTEGER CHECK (right IN (0, 1)),
    data TEXT NOT NULL,
    body BLOB NOT NULL,
    who TEXT NOT NULL,
    why TEXT NOT NULL,
    at REAL NOT NULL,
    taken_at REAL,
    said TEXT NOT NULL
);
CREATE INDEX lessons_incident ON lessons (incident);

-- What people and their tools changed on purpose: a deploy, a configuration.
CREATE TABLE alterations (
    id INTEGER PRIMARY KEY,
    subject TEXT NOT NULL,
    kind TEXT NOT NULL,
    detail TEXT NOT NULL,
    who TEXT NOT NULL,
    at REAL NOT NULL,
    told_at REAL NOT NULL
);
CREATE INDEX alterations_at ON alterations (at);
