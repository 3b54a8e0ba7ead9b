-- What people and other nodes say of a try. Our own outcomes are not here: they are derived from the steps.
-- One voice (source, who) about one rung of one incident has one row. rung: the action names in order, as JSON.
CREATE TABLE feedback (
    incident TEXT NOT NULL,
    rung TEXT NOT NULL,
    source TEXT NOT NULL CHECK (source IN ('operator', 'mesh')),
    who TEXT NOT NULL,
    fault TEXT NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    seconds REAL CHECK (seconds BETWEEN 0 AND 1e8),
    spent REAL NOT NULL CHECK (spent BETWEEN 0 AND 1e8),
    verified INTEGER NOT NULL CHECK (verified IN (0, 1)),
    harmful INTEGER NOT NULL CHECK (harmful IN (0, 1)),
    weight REAL NOT NULL CHECK (weight BETWEEN 0 AND 2),
    tries_before INTEGER NOT NULL CHECK (tries_before >= 0),
    why TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (incident, rung, source, who)
);
CREATE INDEX feedback_fault ON feedback (fault, at);

-- Tries and suggestions are asked for by time, over all subjects.
CREATE INDEX decisions_at ON decisions (at);
