"""The stage graph: every stage of a recipe as a node that knows its key, what it reads, whether it is finished, and how
it is made.

In: nodes built by the stages' own files. Out: their states; ``Graph.make`` finishes one node and whatever it reads.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tutelage.errors import ConfigError, IntegrityError
from tutelage.experiment.differences import differences
from tutelage.experiment.stage import Context, Target, stage_key
from tutelage.models.allocator import give_back_memory
from tutelage.store import (
    Manifest,
    check_inputs,
    damage_of,
    folder_lock,
    read_manifest,
    set_aside,
)

STAGES = ("prepare", "adapt", "teach", "shrink", "score", "trials", "train", "report")
FINISHED, TO_DO, WAITS, DAMAGED = "finished", "to do", "waits", "damaged"


def is_small(name: str) -> bool:
    """Tell whether a file is looked into whenever its stage is asked for: weights are checked when they are loaded."""
    return not name.endswith(".safetensors")


@dataclass(eq=False)
class Node:
    """One stage of one subject (a task, a student, a run).

    ``part`` gives the settings that decide the result, ``reads`` the digests of what is read; both give None while
    something before is not finished. ``make`` fills the target's folder.
    """

    context: Context
    stage: str
    name: Callable[[], str]
    needs: tuple["Node", ...]
    part: Callable[[], Mapping[str, Any] | None]
    reads: Callable[[], Mapping[str, str] | None]
    place: Callable[[str], Path]
    make: Callable[[Target], None]
    note: str = ""
    is_shared: bool = False  # its folder belongs to every experiment of the workspace
    gone: Callable[[Manifest], str | None] = lambda manifest: None  # what it made elsewhere and is not there any more
    mend: Callable[[], list[Path]] = list  # deletes what is damaged of what it made elsewhere
    _manifest: Manifest | None = field(default=None, repr=False)

    @property
    def subject(self) -> str:
        """What the stage is about; of a run whose settings are still searched, with dots."""
        return self.name()

    def target(self) -> Target | None:
        """Return what is to be made; None while something that it reads is not finished."""
        part, reads = self.part(), self.reads()
        if part is None or reads is None:
            return None
        key = stage_key(self.stage, part, reads)
        inputs = {f"{need.stage}/{need.subject}": _folder_name(self.context, need) for need in self.needs}
        made_of = {"settings": dict(part), "reads": dict(reads)}
        return Target(self.stage, self.subject, self.place(key), key, made_of, inputs)

    def committed(self) -> Manifest | None:
        """Return the manifest if the stage was finished for exactly these settings and inputs, and is whole."""
        target = self.target()
        if target is None or self.trouble(target) is not None:
            return None
        manifest = read_manifest(target.folder)
        if manifest is None or manifest.fields.get("key") != target.key:
            return None
        self.context.found[self.stage, self.subject] = target.folder
        return manifest

    def manifest(self) -> Manifest | None:
        """Return the manifest if the stage is finished: committed, and nothing of what it made elsewhere is gone."""
        if self._manifest is None:
            manifest = self.committed()
            self._manifest = manifest if manifest is not None and self.gone(manifest) is None else None
        return self._manifest

    def trouble(self, target: Target) -> str | None:
        """Say what is damaged of a folder that was finished once; None when nothing is, or nothing is there."""
        if (damage := damage_of(target.folder)) is not None:
            return damage
        if read_manifest(target.folder) is None:
            return None
        try:
            check_inputs(target.folder, read=is_small)
        except IntegrityError as error:
            return str(error).partition(": ")[0].rpartition("/")[2]
        return None

    def digest(self) -> str | None:
        """Return the digest of what the stage made; None while it is not finished."""
        manifest = self.manifest()
        return manifest.content_digest if manifest is not None else None

    def folder(self) -> Path:
        """Return the folder of a finished stage."""
        assert self.manifest() is not None, "only finished stages are read"
        return self.context.found[self.stage, self.subject]

    def forget(self) -> None:
        """Look again whether the stage is finished."""
        self._manifest = None
        self.context.found.pop((self.stage, self.subject), None)

    def state(self) -> tuple[str, str]:
        """Return ``finished``, ``to do``, ``waits`` or ``damaged``, and the reason."""
        if self.manifest() is not None:
            return FINISHED, self.note
        target = self.target()
        if target is None:
            return WAITS, self.note
        if (damage := self.trouble(target)) is not None:
            return DAMAGED, f"{damage}; is made again"
        manifest = self.committed()
        if manifest is not None and (gone := self.gone(manifest)) is not None:
            return TO_DO, f"{gone} is gone from the cache"
        return TO_DO, differences(target) or self.note


def known(digests: Mapping[str, str | None]) -> dict[str, str] | None:
    """Return the digests, or None while one of them is not known."""
    found = {name: digest for name, digest in digests.items() if digest is not None}
    return found if len(found) == len(digests) else None


def _folder_name(context: Context, need: Node) -> str:
    folder = need.folder()
    return str(folder.relative_to(context.folders.workspace))


class Graph:
    """The nodes of a recipe, in an order in which they can be made."""

    def __init__(self, context: Context, nodes: Sequence[Node]) -> None:
        self.context = context
        self.nodes = tuple(nodes)
        self._retaught: set[Node] = set()

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def of(self, *stages: str) -> list[Node]:
        """Return the nodes of some stages."""
        return [node for node in self.nodes if node.stage in stages]

    def node(self, stage: str, subject: str) -> Node:
        """Return one node by its name."""
        return next(node for node in self.of(stage) if node.subject == subject)

    def make(self, node: Node, *, alone: bool = False) -> bool:
        """Finish a node, and what it reads where that is missing or damaged; return whether there was anything to do.

        Args:
            node: Of this graph.
            alone: Refuse where an input was never made, instead of making it.

        Raises:
            ConfigError: With ``alone``, if an input is not finished.
            TutelageError: Whatever the stage refuses.
        """
        if node.manifest() is not None:
            return False
        self._check_needs(node, alone=alone)
        if node.manifest() is not None:  # an input was made again, as it was
            return False
        target = node.target()
        assert target is not None, "all inputs are finished"
        if node.is_shared:
            with folder_lock(target.folder.with_name(f".{target.folder.name}"), wait_seconds=SHARED_WAIT_SECONDS):
                self._make(node, target)
        else:
            self._make(node, target)
        assert node.manifest() is not None, "a stage that was just committed is finished"
        give_back_memory()  # the models of this node are gone; without this the process grows from arm to arm
        return True

    def _make(self, node: Node, target: Target) -> None:
        if (damage := node.trouble(target)) is not None:
            lies = set_aside(target.folder)
            self.context.show(
                f"{node.stage} {node.subject}: {damage}; the damaged folder lies in {lies} now, and is made again"
            )
        elif node.manifest() is not None:  # another process was faster
            return
        with self.context.timed(node.stage, node.subject):
            try:
                node.make(target)
            except IntegrityError:
                if not self._mend_cache(node):
                    raise
                renewed = node.target()  # what was taught again may be stored in other bytes: then the key is another
                assert renewed is not None, "all inputs are finished"
                if node.manifest() is None:
                    node.make(renewed)

    def _check_needs(self, node: Node, *, alone: bool) -> None:
        for need in node.needs:
            if need.manifest() is None:
                if alone and need.state()[0] != DAMAGED:
                    raise ConfigError(
                        f"{need.stage} {need.subject} is not finished, and {node.stage} {node.subject} reads it. Run "
                        f"`tutelage run {self.context.loaded.path} --until {need.stage}` first."
                    )
                self.make(need, alone=alone)
            try:
                check_inputs(need.folder())
            except IntegrityError as error:
                lies = set_aside(need.folder())
                self.context.show(f"{error} It lies in {lies} now.")
                need.forget()
                self.make(need, alone=alone)

    def _mend_cache(self, node: Node) -> bool:
        """Teach again what is damaged in the cache that a node reads; say whether there was anything, once per node."""
        taught = [node] if node.stage == "teach" else [need for need in node.needs if need.stage == "teach"]
        mended = False
        for each in taught:
            if each in self._retaught:
                continue
            self._retaught.add(each)
            if deleted := each.mend():
                names = ", ".join(str(path) for path in deleted)
                self.context.show(
                    f"parts of the teacher cache that are damaged, or of an earlier layout, are made again: {names}"
                )
                each.forget()
                mended = True
                if each is not node:
                    self.make(each)
        return mended


SHARED_WAIT_SECONDS = 24 * 3600.0  # another experiment adapts the same teacher: its result is waited for
