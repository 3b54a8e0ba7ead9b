"""Writes the completion of every command and option for a shell, read off the same tree that parses them."""

import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence

from x0tta6bl4.cli.exits import OK
from x0tta6bl4.cli.grammar import build, helps, options, subparsers

Words = list[tuple[str, str]]
"""Each word with the line about it."""
FILES = frozenset({"FILE", "DIR"})


def run(args: Namespace) -> int:
    print({"bash": bash, "zsh": zsh, "fish": fish}[args.shell](build()), end="")
    return OK


def paths(parser: ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], ArgumentParser]]:
    """Every command with the words that lead to it; the root has none."""
    yield path, parser
    for name, inner in subparsers(parser).items():
        yield from paths(inner, (*path, name))


def words_at(parser: ArgumentParser) -> Words:
    """What may come next."""
    found: Words = list(helps(parser).items())
    for action in options(parser):
        if action.option_strings:
            found += [(name, action.help or "") for name in action.option_strings if name.startswith("--")]
        elif action.choices is not None:
            found += [(str(choice), "") for choice in action.choices]
    return found


def values_of(parser: ArgumentParser) -> dict[str, Sequence[str] | None]:
    """Options that take a value -> the values there are; None: a file."""
    found: dict[str, Sequence[str] | None] = {}
    for action in options(parser):
        for name in action.option_strings:
            if action.choices is not None:
                found[name] = [str(choice) for choice in action.choices]
            elif action.metavar in FILES:
                found[name] = None
            elif action.nargs != 0:
                found[name] = ()
    return found


def takes_file(parser: ArgumentParser) -> bool:
    return any(not action.option_strings and action.metavar in FILES for action in options(parser))


def bash(root: ArgumentParser) -> str:
    takers = "|".join(sorted({name for _, parser in paths(root) for name in values_of(parser)}))
    lines = [
        '# x0tta6bl4 completion for bash: eval "$(x0tta6bl4 completion bash)"',
        "_x0tta6bl4() {",
        "    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} path='' word index skip=0",
        "    for ((index = 1; index < COMP_CWORD; index++)); do",
        "        word=${COMP_WORDS[index]}",
        "        if ((skip)); then skip=0; continue; fi",
        "        case $word in",
        f"            {takers}) skip=1 ;;",
        "            -*) ;;",
        '            *) case "${path:+$path }$word" in',
        *(
            f"                {shlex.quote(' '.join(path))}) path={shlex.quote(' '.join(path))} ;;"
            for path, _ in paths(root)
            if path
        ),
        "            esac ;;",
        "        esac",
        "    done",
        "    COMPREPLY=()",
        '    case "$path:$previous" in',
    ]
    for path, parser in paths(root):
        for name, values in values_of(parser).items():
            what = "-f" if values is None else f"-W {shlex.quote(' '.join(values))}"
            lines.append(
                f"        {shlex.quote(' '.join(path) + ':' + name)}) "
                f'COMPREPLY=($(compgen {what} -- "$current")); return ;;'
            )
    lines += ["    esac", "    case $path in"]
    for path, parser in paths(root):
        words = " ".join(word for word, _ in words_at(parser))
        files = ' $(compgen -f -- "$current")' if takes_file(parser) else ""
        lines.append(
            f"        {shlex.quote(' '.join(path))}) "
            f'COMPREPLY=($(compgen -W {shlex.quote(words)} -- "$current"){files}) ;;'
        )
    lines += ["    esac", "}", "complete -o filenames -F _x0tta6bl4 x0tta6bl4", ""]
    return "\n".join(lines)


def zsh(root: ArgumentParser) -> str:
    takers = "|".join(sorted({name for _, parser in paths(root) for name in values_of(parser)}))
    lines = [
        "#compdef x0tta6bl4",
        '# x0tta6bl4 completion for zsh: eval "$(x0tta6bl4 completion zsh)", or a file _x0tta6bl4 in $fpath',
        "_x0tta6bl4() {",
        "    local where='' word skip=0",
        "    local -a found",
        "    for word in ${words[2,CURRENT-1]}; do",
        "        if (( skip )); then skip=0; continue; fi",
        "        case $word in",
        f"            ({takers}) skip=1 ;;",
        "            (-*) ;;",
        '            (*) case "$where $word" in',
        *(
            f"                ({shlex.quote(' ' + ' '.join(path))}) where={shlex.quote(' ' + ' '.join(path))} ;;"
            for path, _ in paths(root)
            if path
        ),
        "            esac ;;",
        "        esac",
        "    done",
        '    case "$where:${words[CURRENT-1]}" in',
    ]
    for path, parser in paths(root):
        for name, values in values_of(parser).items():
            key = "".join(f" {word}" for word in path) + ":" + name
            does = "_files" if values is None else f"compadd -- {shlex.join(values)}" if values else "_message value"
            lines.append(f"        ({shlex.quote(key)}) {does}; return ;;")
    lines += ["    esac", "    case $where in"]
    for path, parser in paths(root):
        found = " ".join(
            shlex.quote(word.replace(":", "\\:") + ":" + (about or word)) for word, about in words_at(parser)
        )
        files = "; _files" if takes_file(parser) else ""
        lines.append(
            f"        ({shlex.quote(''.join(f' {word}' for word in path))}) found=({found}); "
            f"_describe word found{files} ;;"
        )
    lines += [
        "    esac",
        "}",
        "if [[ $funcstack[1] == _x0tta6bl4 ]]; then _x0tta6bl4; else compdef _x0tta6bl4 x0tta6bl4; fi",
        "",
    ]
    return "\n".join(lines)


def fish(root: ArgumentParser) -> str:
    takers = " ".join(sorted({name for _, parser in paths(root) for name in values_of(parser)}))
    lines = [
        "# x0tta6bl4 completion for fish: x0tta6bl4 completion fish | source",
        "function __x0tta6bl4_at",
        "    set -l given",
        "    set -l skip 0",
        "    for word in (commandline -opc)[2..-1]",
        "        if test $skip = 1; set skip 0; continue; end",
        "        switch $word",
        f"            case {takers}",
        "                set skip 1",
        "            case '-*'",
        "            case '*'",
        "                set -a given $word",
        "        end",
        "    end",
        "    set -l wanted (count $argv)",
        "    if test $wanted -eq 0; test (count $given) -eq 0; return; end",
        '    test (count $given) -ge $wanted; and test "$given[1..$wanted]" = "$argv"',
        "end",
        "complete -c x0tta6bl4 -f",
    ]
    for path, parser in paths(root):
        at = f"-n {shlex.quote(' '.join(('__x0tta6bl4_at', *path)))}"
        values = values_of(parser)
        for word, about in words_at(parser):
            described = f" -d {shlex.quote(about)}" if about else ""
            if not word.startswith("--"):
                lines.append(f"complete -c x0tta6bl4 {at} -a {shlex.quote(word)}{described}")
                continue
            given = values.get(word, ...)
            takes = (
                ""
                if given is ...
                else " -r -F"
                if given is None
                else f" -x -a {shlex.quote(' '.join(given))}"
                if given
                else " -x"
            )
            lines.append(f"complete -c x0tta6bl4 {at} -l {word[2:]}{takes}{described}")
        if takes_file(parser):
            lines.append(f"complete -c x0tta6bl4 {at} -F")
    return "\n".join([*lines, ""])
