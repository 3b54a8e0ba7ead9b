"""Pages that need no script, for the links in messages and the API's description; every text is escaped."""

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def head(title: str, up: str) -> str:
    """``up``: the way to the page's root; behind a proxy the daemon may lie in a folder of another site."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="robots" content="noindex">'
        f"<title>{html.escape(title)} – x0tta6bl4</title>"
        f'<link rel="icon" href="{up}icon.svg" type="image/svg+xml">'
        f'<link rel="stylesheet" href="{up}style.css"></head><body><header><h1>x0tta6bl4</h1></header><main>'
    )


def tail(text: str) -> str:
    return f'</main><footer><p class="small">{text}</p></footer></body></html>\n'


UP_FROM_ANSWER = "../../../../"
"""From /api/v1/approvals/PLAN/answer."""


def question(told: Mapping[str, Any], token: str) -> Iterator[str]:
    """What a person is asked, and two buttons; without a token the question is closed, and there are none."""
    text = html.escape
    incident = told["incident"]
    yield head(f"{told['subject'] or told['plan']}: {told['state']}", UP_FROM_ANSWER)
    yield (
        f"<section><h2>{text(str(told['subject']))}: {text(str(told['fault']))}</h2>"
        f"<p>{text(incident.get('summary', ''))}</p><ul>"
    )
    # The planner repeats the summary among its reasons.
    seen = {incident.get("summary", "")}
    for reason in dict.fromkeys([*incident.get("because", []), *told["reasons"]]):
        if reason not in seen:
            yield f"<li>{text(reason)}</li>"
    yield '</ul></section><section><h2>What would be done</h2><ul class="cards">'
    for step in told["steps"]:
        how = step["preview"] if step["preview"] is not None else f"it would be refused: {step['refused']}"
        yield f"<li><h3>{text(step['action'])} on {text(step['target'])}</h3><p>{text(how)}</p></li>"
    yield "</ul></section>"
    against = [v for v in told["guard"] if v["answer"] != "allow" and v["check"] != "mode"]
    if against:
        yield "<section><h2>What would stop it all the same</h2><ul>"
        for verdict in against:
            yield f"<li>{text(verdict['check'])}: {text(verdict['sentence'])}</li>"
        yield "</ul></section>"
    yield "<section><h2>Your answer</h2>"
    if token:
        yield (
            f"<p>It can be given until {text(str(told['expires']))}, once, by whoever has this link.</p>"
            '<form method="post" action="answer" autocomplete="off">'
            f'<input type="hidden" name="token" value="{text(token)}">'
            '<p><label>Your name <input name="who" maxlength="100"></label></p>'
            '<p><label>Why <input name="why" maxlength="1000"></label></p>'
            '<p><button name="answer" value="approve">Approve</button> '
            '<button name="answer" value="reject">Reject</button></p></form>'
        )
    elif told["moot"]:
        yield f"<p>None is needed any more: {text(told['moot'])}.</p>"
    elif told["state"] == "expired":
        yield f"<p>Too late: it expired {text(str(told['expires']))}. If the fault stays, it is asked anew.</p>"
    else:
        why = f": {told['why']}" if told["why"] else ""
        yield f"<p>It was {text(told['state'])} by {text(told['who'])}, {text(str(told['at']))}{text(why)}.</p>"
    yield "</section>" + tail(f"<code>{text(told['plan'])}</code>")


def note(title: str, sentences: Sequence[str]) -> Iterator[str]:
    yield head(title, UP_FROM_ANSWER)
    yield f"<section><h2>{html.escape(title)}</h2>"
    yield from (f"<p>{html.escape(sentence)}</p>" for sentence in sentences)
    yield "</section>" + tail("")


STYLE = """\
:root { color-scheme: light dark; --ink: #1c2126; --paper: #fff; --line: #d5dae0; --soft: #59636e; --card: #f6f8fa;
  --good: #1a7f37; --doubtful: #8a5a00; --bad: #b3202a; --quiet: #59636e; --link: #0757b8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --paper: #14181c; --line: #363d45; --soft: #9aa5b1; --card: #1d2329;
    --good: #4cc26b; --doubtful: #e0a63a; --bad: #ff7b72; --quiet: #9aa5b1; --link: #75b2ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
header, footer { display: flex; flex-wrap: wrap; gap: .25rem 1rem; align-items: baseline; }
header p, footer p, h1, h3, .cards p { margin: 0; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 1.5rem 0 .5rem; } h3 { font-size: 1rem; }
ul { margin: 0; padding-left: 1.2rem; }
.cards, .rows { list-style: none; padding: 0; }
.cards li { background: var(--card); border: 1px solid var(--line); border-radius: .4rem; padding: .6rem .8rem;
  margin-bottom: .5rem; }
.rows li { display: grid; grid-template-columns: 16rem 1fr; gap: 0 1rem; padding: .4rem 0;
  border-top: 1px solid var(--line); }
.rows li > :last-child { grid-column: 2; }
.word { font-weight: 600; border: 1px solid; border-radius: .3rem; padding: 0 .35rem; font-size: .85rem; }
.good { color: var(--good); } .doubtful { color: var(--doubtful); } .bad { color: var(--bad); }
.quiet { color: var(--quiet); }
.small { color: var(--soft); font-size: .85rem; }
button, input { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--soft);
  border-radius: .3rem; padding: .5rem .9rem; } button { cursor: pointer; font-weight: 600; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; font-size: .9rem; }
caption { text-align: left; font-weight: 600; color: var(--soft); } summary { cursor: pointer; padding: .3rem 0; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-top: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); } td:first-child { width: 11rem; } td:nth-child(2) { width: 14rem; }
a { color: var(--link); } nav a { display: inline-block; padding: .6rem .8rem .6rem 0; }
footer { border-top: 1px solid var(--line); margin-top: 1.5rem; }
@media (max-width: 40rem) { .rows li { grid-template-columns: 1fr; } .rows li > :last-child { grid-column: 1; } }
"""
