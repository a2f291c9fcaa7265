"""A disk that loses power: replays a process's system calls, and tells what may be found afterwards.

After Pillai et al., "All File Systems Are Not Created Equal" (OSDI 2014). What was written and not yet made durable by
fsync or fdatasync of that very file or directory may be found, or not, or in part:

- of a file, its bytes: nothing of them, all, all up to some call, all but one call, or half of the last one;
- of a directory, its entries, by one of two models. STRICT: each directory for itself, any part of its changes in
  their order, so that of a rename from one directory to another any half may survive; stricter than file systems are.
  JOURNALING: all directories together, all changes up to some point, as ext4, XFS and btrfs do it.

Modes are not modelled. A call that the model does not know is an error, so nothing is overlooked.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

CALLS = (
    "openat,open,creat,close,dup,dup2,dup3,write,pwrite64,writev,pwritev,fsync,fdatasync,ftruncate,truncate,fallocate,"
    "rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir,sendfile,"
    "copy_file_range,mknod,mknodat"
)
"""The calls to trace: all that change a disk, and those that tell what a descriptor is."""

Tree = Mapping[str, bytes | str | None]
"""Paths below the root to a file's bytes, a link's text, or None for a directory."""

_LINE = re.compile(r"(?:(?P<pid>\d+)\s+)?(?P<call>\w+)\((?P<arguments>.*)\)\s+= (?P<result>-?\d+)(?: .*)?")
_SUBSETS_UP_TO = 4


class Model(Enum):
    STRICT = "strict"
    JOURNALING = "journaling"


@dataclass(frozen=True)
class Call:
    """One successful system call: its arguments as text, strings decoded to bytes."""

    pid: int
    name: str
    arguments: tuple[bytes | str, ...]
    result: int


@dataclass(eq=False)
class Node:
    """A file (`content`), a link (`text`) or a directory (`entries`); what is pending is not durable yet."""

    content: bytes | None = None
    text: str | None = None
    entries: "dict[str, Node]" = field(default_factory=dict)
    live: "dict[str, Node]" = field(default_factory=dict)
    pending: list[tuple[int, bytes]] = field(default_factory=list)

    @property
    def is_directory(self) -> bool:
        return self.content is None and self.text is None


@dataclass(frozen=True, eq=False)
class Change:
    """Names set (to a node) and removed (None) in one directory; `whole` numbers the call that it is part of."""

    directory: Node
    names: "tuple[tuple[str, Node | None], ...]"
    whole: int


class UnknownCallError(Exception):
    """The trace has a call on the watched directory that the model does not know."""


def parse(trace: str) -> Iterator[Call]:
    """Yield the successful calls of a trace that `strace -f -xx` wrote."""
    for line in trace.splitlines():
        if " +++ " in line or " --- " in line:
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise UnknownCallError(f"not understood (more than one thread?): {line[:200]}")
        if int(match["result"]) >= 0:
            arguments = tuple(_argument(text) for text in match["arguments"].split(", "))
            yield Call(int(match["pid"] or 0), match["call"], arguments, int(match["result"]))


def _argument(text: str) -> bytes | str:
    if not text.startswith('"'):
        return text
    assert text.endswith('"'), f"cut short by strace: {text[-20:]}"
    return bytes.fromhex(text[1:-1].replace("\\x", ""))


class Disk:
    """What is under `root`, from what is there now (all of it durable) through the calls that are replayed."""

    def __init__(self, root: Path, model: Model) -> None:
        self._root = str(root)
        self._model = model
        self._top = _read(root)
        self._open: dict[tuple[int, int], Node] = {}
        self._changes: list[Change] = []
        self._calls = 0

    def replay(self, call: Call) -> None:
        """Take a call into account."""
        self._calls += 1
        arguments = [item for item in call.arguments if item != "AT_FDCWD"]
        match call.name.removesuffix("at2").removesuffix("at") if call.name != "openat" else "open":
            case "open":
                self._replay_open(call, arguments)
            case "close":
                self._open.pop((call.pid, int(arguments[0])), None)
            case "write" | "pwrite64" | "ftruncate" | "fallocate" | "fsync" | "fdatasync":
                node = self._open.get((call.pid, int(arguments[0])))
                if node is not None:
                    self._replay_on(node, call)
            case "rename" | "unlink" | "rmdir" | "mkdir" | "symlink" as name:
                self._replay_names(name, arguments)
            case _:
                if any(isinstance(item, bytes) and item.startswith(self._root.encode()) for item in arguments):
                    raise UnknownCallError(f"{call.name} is not modelled")

    def crashes(self, below: str = "") -> Iterator[Tree]:
        """Yield what may be found under `below` if the power goes now."""
        for changes in self._surviving_changes():
            entries = self._entries_after(changes)
            nodes = dict(_walk(_find(self._top, below, entries), entries))
            dirty = [node for node in dict.fromkeys(nodes.values()) if node.pending]
            for contents in itertools.product(*(_surviving_contents(node) for node in dirty)):
                found = dict(zip(dirty, contents, strict=True))
                yield {
                    path: None
                    if node.is_directory
                    else node.text
                    if node.content is None
                    else found.get(node, node.content)
                    for path, node in nodes.items()
                }

    def _replay_open(self, call: Call, arguments: list[bytes | str]) -> None:
        directory, name = self._place(arguments[0])
        if directory is None:
            return
        flags = str(arguments[1])
        node = directory.live.get(name) if name else directory
        if node is None:
            assert "O_CREAT" in flags, f"{arguments[0]!r} is opened and was never made"
            node = Node(content=b"")
            self._change(directory, (name, node))
        elif "O_TRUNC" in flags:
            node.pending.append((-1, b""))
        self._open[call.pid, call.result] = node

    def _replay_on(self, node: Node, call: Call) -> None:
        match call.name, call.arguments:
            case "pwrite64", (_, bytes(data), _, offset):
                node.pending.append((int(offset), data[: call.result]))
            case "write", (_, bytes(data), _):
                node.pending.append((len(_apply(node.content or b"", node.pending)), data[: call.result]))
            case "ftruncate", (_, size):
                node.pending.append((-1 - int(size), b""))
            case "fallocate", (_, "0", offset, length):
                node.pending.append((int(offset) + int(length), b""))
            case "fsync" | "fdatasync", _:
                self._sync(node)
            case _:
                raise UnknownCallError(f"{call.name}{call.arguments!r:.100} is not modelled")

    def _replay_names(self, name: str, arguments: list[bytes | str]) -> None:
        if name == "symlink":
            directory, new = self._place(arguments[1])
            if directory is not None:
                self._change(directory, (new, Node(text=_text(arguments[0]))))
            return
        directory, old = self._place(arguments[0])
        if directory is None:
            return
        if name == "mkdir":
            self._change(directory, (old, Node()))
        elif name in ("unlink", "rmdir"):
            self._change(directory, (old, None))
        else:
            destination, new = self._place(arguments[1])
            assert destination is not None, "renamed out of what is watched"
            node = directory.live[old]
            if destination is directory:
                self._change(directory, (old, None), (new, node))
            else:
                self._change(destination, (new, node))
                self._change(directory, (old, None))

    def _change(self, directory: Node, *names: tuple[str, Node | None]) -> None:
        self._changes.append(Change(directory, names, self._calls))
        _set(directory.live, names)

    def _sync(self, node: Node) -> None:
        if not node.is_directory:
            if node.content is not None:
                node.content = _apply(node.content, node.pending)
            node.pending.clear()
            return
        concerned = [index for index, change in enumerate(self._changes) if change.directory is node]
        if self._model is Model.JOURNALING and concerned:
            whole = self._changes[concerned[-1]].whole
            concerned = [index for index, change in enumerate(self._changes) if change.whole <= whole]
        for index in concerned:
            _set(self._changes[index].directory.entries, self._changes[index].names)
        self._changes = [change for index, change in enumerate(self._changes) if index not in set(concerned)]

    def _surviving_changes(self) -> Iterator[list[Change]]:
        if self._model is Model.JOURNALING:
            calls = sorted({change.whole for change in self._changes})
            yield from ([c for c in self._changes if c.whole <= last] for last in (-1, *calls))
            return
        directories = dict.fromkeys(change.directory for change in self._changes)
        parts = [_parts([c for c in self._changes if c.directory is directory]) for directory in directories]
        for chosen in itertools.product(*parts):
            yield [change for part in chosen for change in part]

    @staticmethod
    def _entries_after(changes: list[Change]) -> dict[Node, dict[str, Node]]:
        after: dict[Node, dict[str, Node]] = {}
        for change in changes:
            _set(after.setdefault(change.directory, dict(change.directory.entries)), change.names)
        return after

    def _place(self, path: bytes | str) -> tuple[Node | None, str]:
        """Return the directory and the name in it that a path leads to; (None, "") outside of what is watched."""
        text = _text(path)
        if text == self._root:
            return self._top, ""
        if not text.startswith(self._root + "/"):
            return None, ""
        *parents, name = text[len(self._root) + 1 :].split("/")
        node = self._top
        for parent in parents:
            node = node.live[parent]
        return node, name


def write_tree(tree: Tree, root: Path) -> None:
    """Make a tree real."""
    root.mkdir(parents=True)
    for path, content in tree.items():
        if content is None:
            (root / path).mkdir(exist_ok=True)
        elif isinstance(content, str):
            (root / path).symlink_to(content)
        else:
            (root / path).write_bytes(content)


def _text(path: bytes | str) -> str:
    return path.decode() if isinstance(path, bytes) else path


def _set(entries: dict[str, Node], names: tuple[tuple[str, Node | None], ...]) -> None:
    for name, node in names:
        if node is None:
            entries.pop(name, None)
        else:
            entries[name] = node


def _read(path: Path) -> Node:
    if path.is_symlink():
        return Node(text=str(path.readlink()))
    if path.is_file():
        return Node(content=path.read_bytes())
    entries = {child.name: _read(child) for child in path.iterdir()}
    return Node(entries=entries, live=dict(entries))


def _find(node: Node, below: str, entries: Mapping[Node, dict[str, Node]]) -> Node:
    for name in filter(None, below.split("/")):
        node = entries.get(node, node.entries)[name]
    return node


def _walk(node: Node, entries: Mapping[Node, dict[str, Node]], prefix: str = "") -> Iterator[tuple[str, Node]]:
    for name, child in sorted(entries.get(node, node.entries).items()):
        yield prefix + name, child
        yield from _walk(child, entries, f"{prefix}{name}/")


def _apply(content: bytes, writes: list[tuple[int, bytes]]) -> bytes:
    """Return content after writes of (offset, data); no data extends to the offset, or truncates to -1 - offset."""
    result = bytearray(content)
    for offset, data in writes:
        if offset < 0:
            size = -1 - offset
            del result[size:]
            result.extend(bytes(size - len(result)))
        else:
            result.extend(bytes(max(0, offset + len(data) - len(result))))
            result[offset : offset + len(data)] = data
    return bytes(result)


def _surviving_contents(node: Node) -> list[bytes | str]:
    if node.content is None:
        return [node.text or ""]
    writes = node.pending
    survivors = [writes[:count] for count in range(len(writes) + 1)]
    survivors += [writes[:index] + writes[index + 1 :] for index in range(len(writes))]
    offset, data = writes[-1]
    survivors.append([*writes[:-1], (offset, data[: len(data) // 2])])
    return list(dict.fromkeys(_apply(node.content, part) for part in survivors))


def _parts(changes: list[Change]) -> list[list[Change]]:
    """Return which changes of one directory may survive: any part of a few; of many, all up to one, or all but one."""
    if len(changes) <= _SUBSETS_UP_TO:
        return [list(part) for count in range(len(changes) + 1) for part in itertools.combinations(changes, count)]
    return [changes[:count] for count in range(len(changes) + 1)] + [
        changes[:index] + changes[index + 1 :] for index in range(len(changes))
    ]
