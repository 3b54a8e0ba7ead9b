-- Who may ask the endpoint for what. None of it is ever exported: what it proves, it proves on this host only.

-- Keys for programs. The secret is 256 random bits, so a plain hash of it cannot be guessed backwards.
CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    scope TEXT NOT NULL CHECK (scope IN ('read', 'operate', 'admin')),
    per_minute INTEGER CHECK (per_minute > 0),
    hash TEXT NOT NULL,
    created_at REAL NOT NULL,
    created_by TEXT NOT NULL,
    expires_at REAL,
    used_at REAL,
    revoked_at REAL
);
CREATE INDEX keys_name ON keys (name);

-- People who sign in on the page. password: a bcrypt hash.
CREATE TABLE operators (
    name TEXT PRIMARY KEY,
    password TEXT NOT NULL,
    scope TEXT NOT NULL CHECK (scope IN ('read', 'operate', 'admin')),
    created_at REAL NOT NULL,
    created_by TEXT NOT NULL,
    changed_at REAL NOT NULL
);

-- Sign-ins. current, previous: hashes of the refresh token that counts and of the one before it; number rises with
-- each, and turned_at is when the one that counts was made. client: the address, or the network, it was begun from.
CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    operator TEXT NOT NULL,
    client TEXT NOT NULL,
    agent TEXT NOT NULL,
    created_at REAL NOT NULL,
    ends_at REAL NOT NULL,
    number INTEGER NOT NULL,
    turned_at REAL NOT NULL,
    current TEXT NOT NULL,
    previous TEXT NOT NULL,
    ended_at REAL,
    ended_why TEXT NOT NULL
);
CREATE INDEX sessions_operator ON sessions (operator, created_at);
