-- Columns are what is asked by; the JSON beside them is the whole fact. Times (at, _at, until, since) are wall-clock
-- seconds. Booleans are 0 and 1. Nothing is updated in audit, ever.

CREATE TABLE epochs (
    epoch INTEGER PRIMARY KEY,
    at REAL NOT NULL
);

CREATE TABLE incidents (
    id TEXT PRIMARY KEY,
    subject TEXT NOT NULL,
    fault TEXT NOT NULL,
    state TEXT NOT NULL,
    opened_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    closed_at REAL,
    body TEXT NOT NULL
);
CREATE INDEX incidents_open ON incidents (opened_at) WHERE state <> 'closed';
CREATE INDEX incidents_closed ON incidents (closed_at) WHERE state = 'closed';
CREATE INDEX incidents_opened ON incidents (opened_at, id);
CREATE INDEX incidents_subject ON incidents (subject, opened_at);

-- One row for equal findings, however often they were made; since: when the symptom began.
CREATE TABLE findings (
    incident TEXT NOT NULL,
    analyzer TEXT NOT NULL,
    summary TEXT NOT NULL,
    first_at REAL NOT NULL,
    last_at REAL NOT NULL,
    times INTEGER NOT NULL,
    since REAL NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (incident, analyzer, summary)
);

CREATE TABLE plans (
    id TEXT PRIMARY KEY,
    incident TEXT NOT NULL,
    subject TEXT NOT NULL,
    at REAL NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX plans_incident ON plans (incident);

-- A row is an intent; with a result it is done. In between the daemon may have died.
CREATE TABLE steps (
    id TEXT PRIMARY KEY,
    plan TEXT NOT NULL,
    incident TEXT NOT NULL,
    subject TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    target_group TEXT NOT NULL,
    disruptive INTEGER NOT NULL,
    rung TEXT NOT NULL,
    rule TEXT NOT NULL,
    intent_at REAL NOT NULL,
    epoch INTEGER NOT NULL,
    step TEXT NOT NULL,
    result TEXT,
    started_at REAL,
    ended_at REAL,
    verified_at REAL,
    outcome TEXT
);
CREATE INDEX steps_unfinished ON steps (intent_at) WHERE result IS NULL;
CREATE INDEX steps_intent ON steps (intent_at);
CREATE INDEX steps_ended ON steps (ended_at);
CREATE INDEX steps_plan ON steps (plan);
CREATE INDEX steps_incident ON steps (incident);
CREATE INDEX steps_subject ON steps (subject, intent_at);
CREATE INDEX steps_target ON steps (target, intent_at);

CREATE TABLE decisions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    incident TEXT NOT NULL,
    subject TEXT NOT NULL,
    plan TEXT NOT NULL,
    step TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    "check" TEXT NOT NULL,
    answer TEXT NOT NULL,
    sentence TEXT NOT NULL,
    until REAL,
    at REAL NOT NULL
);
CREATE INDEX decisions_incident ON decisions (incident, id);
CREATE INDEX decisions_subject ON decisions (subject, id);

CREATE TABLE flags (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL,
    who TEXT NOT NULL,
    at REAL NOT NULL
);

CREATE TABLE pauses (
    id TEXT PRIMARY KEY,
    target TEXT NOT NULL,
    kind TEXT NOT NULL,
    reason TEXT NOT NULL,
    who TEXT NOT NULL,
    since REAL NOT NULL,
    until REAL NOT NULL
);

CREATE TABLE approvals (
    plan TEXT PRIMARY KEY,
    incident TEXT NOT NULL,
    state TEXT NOT NULL,
    who TEXT NOT NULL,
    why TEXT NOT NULL,
    at REAL NOT NULL,
    expires REAL NOT NULL
);
CREATE INDEX approvals_incident ON approvals (incident);

CREATE TABLE subjects (
    name TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    since REAL NOT NULL,
    summary TEXT NOT NULL,
    at REAL NOT NULL
);

CREATE TABLE state (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE audit (
    seq INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    who TEXT NOT NULL,
    what TEXT NOT NULL,
    data TEXT NOT NULL,
    previous TEXT NOT NULL,
    hash TEXT NOT NULL
);
