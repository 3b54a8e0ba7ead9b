-- What the numbers did round an incident, one row a series. body: JSON [first, [after…], [value…]]: the first point's
-- time and each one's distance from the one before it, in whole milliseconds, and the values.
CREATE TABLE signals (
    incident TEXT NOT NULL,
    subject TEXT NOT NULL,
    metric TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (incident, subject, metric)
);
