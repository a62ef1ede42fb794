"""Imports point one way, each library stays behind one module, and no path of a build machine is committed.

The tables below are the drawing of the layers that the test holds. `violations` judges (module name, source text)
pairs and reads no file, so that every rule is shown to fail on a few made-up lines. All imports count: those
inside functions, those under TYPE_CHECKING, and importlib.import_module of a literal name.
"""

import ast
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent

# A module may import from the rows below its own. Those in one row know nothing of each other.
LAYERS = (
    {"mountd"},
    {"vfs.ops", "vfs.warming", "vfs.listing", "vfs.verifying"},
    {"vfs.warmrun"},
    {"vfs.walk", "vfs.ordering"},
    {"vfs.tree", "vfs.mounted", "vfs.orderpictures"},
    {"vfs.datasets"},
    {"vfs.frames"},
    {"vfs.shelf", "vfs.variant", "vfs.sizes", "vfs.diskcare"},
    {"vfs.catalog"},
    {"vfs.objectfile"},
    {"vfs.cache"},
    {"vfs.readahead", "vfs.disk", "vfs.siblings", "vfs.documents", "vfs.orderlist", "vfs.resolving"},
    {"vfs.sources"},
    {"vfs.boto", "vfs.direct", "vfs.awssettings", "vfs.drive", "vfs.hub", "vfs.weblisting", "vfs.ytdlp", "vfs.archive"},
    {"vfs.web", "vfs.valuefolder"},
    {
        "vfs.tokenfile",
        "vfs.filelist",
        "vfs.node",
        "vfs.options",
        "vfs.flight",
        "vfs.arena",
        "vfs.database",
        "vfs.valuefile",
        "vfs.fetchers",
        "vfs.units",
        "vfs.frameahead",
        "vfs.orderwindow",
        "vfs.answers",
        "vfs.bucketlist",
        "vfs.bulk",
        "vfs.flat",
        "vfs.s3sums",
    },
    {"vfs.digests"},
    {"vfs.crc"},
    {"vfs.errors", "vfs.extent", "vfs.malloc"},
)
# Video stands beside the rows: codecs over a reader that it is given, whoever gives it.
VIDEO = "vfs.video"
VIDEO_IMPORTS = {"vfs.errors", "vfs.extent", "vfs.malloc"}
VIDEO_IMPORTED_BY = {"mountd", "vfs.datasets", "vfs.mounted", "vfs.frames", "vfs.shelf", "vfs.variant"}

# Modules of vfs.sources that are not stores, so that they may be imported where they are needed.
NOT_STORES = {"vfs.sources.retry", "vfs.sources.ahead", "vfs.sources.archives"}

# Which modules may import a library; a name ending in a dot admits everything below that package and the package.
CONFINED = {
    "pyfuse3": ("vfs.ops", "mountd.session"),
    "trio": ("vfs.ops", "mountd."),
    "av": ("vfs.video.",),
    "simplejpeg": ("vfs.video.", "mountd.demo"),  # the demo looks at pictures as a user would
    "boto3": ("vfs.boto",),
    "botocore": ("vfs.boto",),
    "obstore": ("vfs.bulk",),
    "urllib3": ("vfs.web", "vfs.boto"),
    "yt_dlp": ("vfs.ytdlp",),
    "pydrive2": ("vfs.drive.oauth",),
    "oauth2client": ("vfs.drive.oauth",),
    "cryptography": ("vfs.drive.oauth",),
    "lmdb": ("vfs.datasets.demo_tree", "mountd.lmdbmerge"),
    "huggingface_hub": ("vfs.hub.api",),
    "httpx2": ("vfs.hub.api",),
    "msgspec": ("vfs.datasets.",),
    "sqlite3": (
        "vfs.catalog",
        "vfs.database",
        "vfs.disk",
        "vfs.diskcare.",
        "vfs.valuefolder",
        "vfs.archive.index",
    ),
    "indexed_gzip": ("vfs.archive.inflate",),
    # A pickle that is read runs what it likes: one module reads any, and only as far as opcodes that do not.
    "pickle": ("vfs.drive.fileids", "mountd.stats"),  # the latter writes one
    "marshal": (),
    "shelve": (),
    "tarfile": ("vfs.archive.tars",),
    "click": ("mountd.",),
    "rich": ("mountd.",),
    "prometheus_client": ("mountd.metrics",),
    "tenacity": ("vfs.sources.retry",),
    "attrs": ("vfs.options",),
    "attr": (),  # the same library by its older name
    "argparse": (),
}

# A mounted filesystem acts on the options it was given and on nothing else: the daemon reads the environment.
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
# But the SDK of S3 has its keys from there by itself, and this one module finds the same without the SDK.
READS_ENVIRONMENT = {"vfs.awssettings"}

# Where machines that build this keep things. Each is split, so that this file does not match itself.
BUILD_MACHINE = re.compile(
    "|".join(
        (
            r"(?<![\w.~$}*-])/wor" + "k/",
            "/tm" + r"p/(?:bash_|v\d+\b|fresh)",
            "/roo" + r"t/\.(?:pyenv|cache|local)\b",
        )
    )
)


class Module:
    """A module's imports: those of the project as the modules they name, the rest by their library."""

    def __init__(self, name: str, text: str, project: Iterable[str]) -> None:
        self.name = name
        self.tree = ast.parse(text)
        self.relative = False
        self.internal: set[str] = set()
        self.libraries: set[str] = set()
        known = set(project)
        for names in self._imported():
            # `from vfs import frames` names vfs.frames, `from vfs.errors import Timeout` names vfs.errors.
            target = next((each for each in names if each in known), names[-1])
            if target.partition(".")[0] in ("vfs", "mountd"):
                self.internal.add(target)
            else:
                self.libraries.add(target.partition(".")[0])

    def _imported(self) -> Iterator[list[str]]:
        """Of each import, the names that it may mean, the most specific first."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ([alias.name] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and (node.level or not node.module):
                self.relative = True
            elif isinstance(node, ast.ImportFrom):
                yield from ([f"{node.module}.{alias.name}", f"{node.module}"] for alias in node.names)
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
                first = node.args[0] if node.args else None
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    yield [first.value]


def layer_of(module: str) -> str:
    """The name by which the tables know a module: `mountd`, or `vfs.` and its first part."""
    parts = module.split(".")
    return parts[0] if parts[0] == "mountd" else ".".join(parts[:2])


def row_of(layer: str) -> int | None:
    """How far down a layer stands, None where the table has no place for it."""
    return next((row for row, layers in enumerate(LAYERS) if layer in layers), None)


def violations(sources: Mapping[str, str]) -> list[str]:
    """What is wrong with the imports of these modules, a line each."""
    modules = [Module(name, text, sources) for name, text in sorted(sources.items())]
    rules: tuple[Callable[[Module], Iterator[str]], ...] = (
        placement_violations,
        order_violations,
        store_violations,
        library_violations,
        environment_violations,
    )
    found = [f"{module.name} {what}" for module in modules for rule in rules for what in rule(module)]
    return found + list(cycle_violations(modules))


def placement_violations(module: Module) -> Iterator[str]:
    layer = layer_of(module.name)
    if layer not in ("vfs", VIDEO) and row_of(layer) is None:
        yield f"has no place in the layers: add {layer} to LAYERS in {Path(__file__).name}"
    if module.relative:
        yield "has a relative import: write the module's whole name"


def order_violations(module: Module) -> Iterator[str]:
    layer = layer_of(module.name)
    for target in sorted(module.internal):
        to = layer_of(target)
        if to != layer and not may_import(layer, to):
            yield f"imports {target}, which is not below it"


def may_import(layer: str, to: str) -> bool:
    """Whether one layer may import another."""
    if layer == VIDEO:
        return to in VIDEO_IMPORTS
    if to == VIDEO:
        return layer in VIDEO_IMPORTED_BY
    row, to_row = row_of(layer), row_of(to)
    return row is not None and to_row is not None and row < to_row


def store_violations(module: Module) -> Iterator[str]:
    """Stores are found by name when a URL asks for one, so that adding one is adding a file."""
    inside = module.name.startswith("vfs.sources.")
    for target in sorted(module.internal):
        if target.startswith("vfs.sources.") and (inside or target not in NOT_STORES):
            yield f"imports {target}: a store is imported by its scheme only, and knows no other module of sources"


def library_violations(module: Module) -> Iterator[str]:
    for library in sorted(module.libraries & CONFINED.keys()):
        places = CONFINED[library]
        if not any(f"{module.name}.".startswith(p) if p.endswith(".") else module.name == p for p in places):
            yield f"imports {library}, which may stand only in: {', '.join(places) or 'no module'}"


def environment_violations(module: Module) -> Iterator[str]:
    if layer_of(module.name) == "mountd" or module.name in READS_ENVIRONMENT:
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT:
            yield f"reads the environment ({ast.unparse(node)})"
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            for alias in node.names:
                if alias.name in ENVIRONMENT:
                    yield f"reads the environment (from os import {alias.name})"


def cycle_violations(modules: Iterable[Module]) -> Iterator[str]:
    try:
        TopologicalSorter({module.name: module.internal for module in modules}).prepare()
    except CycleError as cycle:
        yield f"modules import each other: {' <- '.join(cycle.args[1])}"


def build_machine_paths(text: str) -> list[str]:
    """The lines that name a path of a machine that builds this."""
    return [line.strip() for line in text.splitlines() if BUILD_MACHINE.search(line)]


def project_sources() -> dict[str, str]:
    """Every module of the project with its text."""
    sources = {}
    for path in sorted([*TOP.glob("vfs/**/*.py"), *TOP.glob("mountd/**/*.py")]):
        parts = path.relative_to(TOP).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        sources[name] = path.read_text(encoding="utf-8")
    return sources


def committed_texts() -> Iterator[tuple[str, str]]:
    """Every text file that is tracked, or would be if someone added all, with its path."""
    # safe.directory: a clone that another user made is only listed.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=TOP, capture_output=True, check=True).stdout
    for name in sorted({part.decode() for part in listed.split(b"\0") if part}):
        path = TOP / name
        if path.is_file():
            content = path.read_bytes()
            if b"\0" not in content:
                yield name, content.decode(errors="replace")


def test_imports_of_the_project_keep_to_the_layers() -> None:
    sources = project_sources()
    assert {"vfs", "vfs.errors", "vfs.sources", "mountd"} <= sources.keys()
    assert violations(sources) == []


def test_no_committed_text_names_a_path_of_a_build_machine() -> None:
    if not (TOP / ".git").exists():
        pytest.skip("not a git working tree")
    texts = dict(committed_texts())
    assert "tests/test_layers.py" in texts
    assert {name: found for name, text in texts.items() if (found := build_machine_paths(text))} == {}


# Below, each rule fails where it should: (the modules, a part of what is said of them).
FORBIDDEN = {
    "the_filesystem_knows_the_daemon": ({"vfs.ops": "import mountd.cli"}, "vfs.ops imports mountd.cli"),
    "a_lower_layer_imports_a_higher_one": ({"vfs.tree": "import vfs.ops"}, "vfs.tree imports vfs.ops"),
    "a_lower_layer_names_a_member_of_a_higher_one": (
        {"vfs.cache": "from vfs.objectfile import ObjectFile"},
        "vfs.cache imports vfs.objectfile",
    ),
    "a_lower_layer_imports_a_higher_one_from_the_package": (
        {"vfs.catalog": "from vfs import frames", "vfs.frames": ""},
        "vfs.catalog imports vfs.frames",
    ),
    "an_import_hides_in_a_function": (
        {"vfs.errors": "def f():\n    from vfs.extent import clip"},
        "vfs.errors imports vfs.extent",
    ),
    "an_import_hides_under_type_checking": (
        {"vfs.node": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from vfs.tree import Tree"},
        "vfs.node imports vfs.tree",
    ),
    "an_import_hides_in_a_literal_name": (
        {"vfs.cache": "import importlib\nimportlib.import_module('vfs.catalog')"},
        "vfs.cache imports vfs.catalog",
    ),
    "an_import_is_relative": ({"vfs.tree": "from . import ops"}, "vfs.tree has a relative import"),
    "modules_of_one_row_import_each_other": ({"vfs.readahead": "import vfs.cache"}, "readahead imports vfs.cache"),
    "the_bare_package_imports_a_layer": ({"vfs": "import vfs.errors"}, "vfs imports vfs.errors"),
    "video_reads_objects": ({"vfs.video.index": "import vfs.objectfile"}, "index imports vfs.objectfile"),
    "video_knows_nodes": ({"vfs.video.index": "import vfs.node"}, "vfs.video.index imports vfs.node"),
    "the_object_layer_decodes": ({"vfs.objectfile": "import vfs.video.decode"}, "imports vfs.video.decode"),
    "a_new_module_has_no_place": ({"vfs.utils": ""}, "vfs.utils has no place in the layers"),
    "a_store_imports_another": ({"vfs.sources.s3": "import vfs.sources.http"}, "s3 imports vfs.sources.http"),
    "a_store_retries": ({"vfs.sources.s3": "import vfs.sources.retry"}, "s3 imports vfs.sources.retry"),
    "the_package_of_sources_imports_a_store": (
        {"vfs.sources": "def f():\n    from vfs.sources import s3", "vfs.sources.s3": ""},
        "vfs.sources imports vfs.sources.s3",
    ),
    "the_daemon_imports_a_store": ({"mountd.doctor": "import vfs.sources.s3"}, "doctor imports vfs.sources.s3"),
    "the_cache_keeps_a_database": ({"vfs.cache": "import sqlite3"}, "vfs.cache imports sqlite3"),
    "the_environment_is_read": ({"vfs.cache": "import os\nos.environ['HOME']"}, "(os.environ)"),
    "the_environment_is_asked": ({"vfs.datasets.demo": "import os\nos.getenv('HOME')"}, "(os.getenv)"),
    "the_environment_is_read_beside_the_sdk": ({"vfs.boto": "import os\nos.environ"}, "(os.environ)"),
    "the_environment_is_imported": ({"vfs.ops": "from os import environ as e"}, "(from os import environ)"),
    "three_modules_form_a_cycle": (
        {
            "mountd.a": "import mountd.b",
            "mountd.b": "def f():\n    import mountd.c",
            "mountd.c": "from mountd import a",
        },
        "modules import each other: mountd.",
    ),
    "a_package_and_its_module_form_a_cycle": (
        {"vfs.video": "import vfs.video.index", "vfs.video.index": "from vfs.video import Video"},
        "modules import each other: vfs.video",
    ),
}

ALLOWED = {
    "the_daemon_imports_any_layer": {"mountd.daemon": "import vfs.ops, vfs.cache, vfs.errors, vfs.video.stamp"},
    "a_layer_imports_those_below": {
        "vfs.ops": "from vfs.tree import Tree\nfrom vfs import errors",
        "vfs.errors": "",
    },
    "modules_of_a_package_import_each_other": {"vfs.datasets.demo": "from vfs.datasets import assembly101"},
    "a_store_knows_what_a_source_is": {"vfs.sources.s3": "from vfs.sources import ObjectInfo\nimport vfs.boto"},
    "a_store_is_found_by_name": {"vfs.sources": "import importlib\nimportlib.import_module(f'{__name__}.{x}')"},
    "retrying_is_wrapped_around_a_store": {"mountd.mount": "from vfs.sources.retry import Retrying"},
    "frames_decode": {"vfs.frames": "import vfs.video.decode"},
    "the_daemon_reads_the_environment": {"mountd.config": "import os\nos.environ"},
    "keys_are_found_where_the_sdk_finds_them": {"vfs.awssettings": "import os\nos.environ"},
}

# Of each library: modules that may import it, and modules near by that may not.
PLACES = {
    "pyfuse3": ({"vfs.ops", "mountd.session"}, {"vfs.tree", "mountd.mount", "mountd"}),
    "trio": ({"vfs.ops", "mountd", "mountd.control"}, {"vfs.tree", "vfs.sources.http"}),
    "av": ({"vfs.video", "vfs.video.decode"}, {"vfs.frames", "vfs.datasets.demo_tree", "mountd.demo"}),
    "simplejpeg": ({"vfs.video.encode", "mountd.demo"}, {"vfs.frames"}),
    "boto3": ({"vfs.boto"}, {"vfs.sources", "vfs.sources.s3", "vfs.awssettings", "mountd.doctor"}),
    "botocore": ({"vfs.boto"}, {"vfs.sources.retry", "vfs.bulk", "vfs.direct"}),
    "obstore": ({"vfs.bulk"}, {"vfs.boto", "vfs.sources.s3"}),
    "urllib3": ({"vfs.web", "vfs.boto"}, {"vfs.sources.http", "vfs.direct"}),
    "yt_dlp": ({"vfs.ytdlp"}, {"vfs.sources.youtube", "vfs.web", "vfs.datasets.kinetics"}),
    "pydrive2": ({"vfs.drive.oauth"}, {"vfs.drive.api", "vfs.sources.gdrive", "mountd.auth"}),
    "oauth2client": ({"vfs.drive.oauth"}, {"vfs.drive.api", "vfs.sources.gdrive", "mountd.auth"}),
    "cryptography": ({"vfs.drive.oauth"}, {"vfs.drive.api", "mountd.auth"}),
    "lmdb": ({"vfs.datasets.demo_tree", "mountd.lmdbmerge"}, {"vfs.datasets.demo", "vfs.datasets", "mountd.cli"}),
    "huggingface_hub": ({"vfs.hub.api"}, {"vfs.sources.hf", "vfs.hub.walk", "vfs.datasets.assembly101"}),
    "httpx2": ({"vfs.hub.api"}, {"vfs.sources.http", "vfs.web"}),
    "msgspec": ({"vfs.datasets.egoexo4d"}, {"vfs.documents", "vfs.catalog", "mountd.metrics"}),
    "sqlite3": (
        {"vfs.catalog", "vfs.database", "vfs.disk", "vfs.diskcare.verify", "vfs.valuefolder", "vfs.archive.index"},
        {"vfs.cache", "vfs.datasets", "mountd.metrics", "vfs.archive.kept"},
    ),
    "indexed_gzip": ({"vfs.archive.inflate"}, {"vfs.archive.kept", "vfs.sources.archives"}),
    "pickle": ({"vfs.drive.fileids", "mountd.stats"}, {"vfs.drive.api", "vfs.cache", "vfs.video.stored"}),
    "marshal": (set(), {"vfs.cache"}),
    "shelve": (set(), {"vfs.catalog"}),
    "tarfile": ({"vfs.archive.tars"}, {"vfs.archive", "vfs.sources.archives"}),
    "click": ({"mountd.cli"}, {"vfs.sources", "vfs.errors"}),
    "rich": ({"mountd.commands.status"}, {"vfs.ops", "vfs.errors"}),
    "prometheus_client": ({"mountd.metrics"}, {"mountd.about", "vfs.cache"}),
    "tenacity": ({"vfs.sources.retry"}, {"vfs.sources", "vfs.sources.s3"}),
    "attrs": ({"vfs.options"}, {"mountd.config", "vfs.sources.s3", "vfs.datasets.plain"}),
    "attr": (set(), {"vfs.options", "mountd.config"}),
    "argparse": (set(), {"mountd.cli", "vfs.ops"}),
}


@pytest.mark.parametrize(("sources", "said"), FORBIDDEN.values(), ids=FORBIDDEN)
def test_the_rules_find(sources: dict[str, str], said: str) -> None:
    assert any(said in line for line in violations(sources)), violations(sources)


@pytest.mark.parametrize("sources", ALLOWED.values(), ids=ALLOWED)
def test_the_rules_let_pass(sources: dict[str, str]) -> None:
    assert violations(sources) == []


@pytest.mark.parametrize("library", CONFINED)
def test_a_library_stands_only_behind_its_module(library: str) -> None:
    admitted, refused = PLACES[library]
    for way in (f"import {library}", f"def f():\n    from {library}.part import name"):
        said = {name: f"{name} imports {library}" for name in admitted | refused}
        found = {name for name in said if any(said[name] in line for line in violations({name: way}))}
        assert found == refused


@pytest.mark.parametrize("path", ["/wor" + "k/main/vfs", "/tm" + "p/bash_" + "jobs.0/x", "/roo" + "t/.pyenv/bin"])
def test_a_path_of_a_build_machine_is_found(path: str) -> None:
    assert build_machine_paths(f"first line\nexec {path} now\n") == [f"exec {path} now"]


@pytest.mark.parametrize(
    "text", ["/home/me/wor" + "k/data", "frame" + "wor" + "k/x", "/tmp/egofs", "$HOME/wor" + "k/x"]
)
def test_a_path_of_anyone_else_is_let_pass(text: str) -> None:
    assert build_machine_paths(text) == []
