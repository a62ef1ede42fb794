"""The command: see the package's docstring. A target has a process of its own, begun anew where an input ends it."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.fuzz.run import run

_GRACE_S = 120.0
_HELD = "Timeout ("  # what faulthandler writes before it ends a process that waits for ever


def main() -> int:
    """Status 1 where anything was found."""
    parser = argparse.ArgumentParser("python -m tests.fuzz", description="feed damaged bytes to whatever reads bytes")
    parser.add_argument("targets", metavar="TARGET", nargs="*", help="all, where none is named")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each target (default 10)")
    parser.add_argument("--inputs", type=int, default=0, help="for each target, whatever time that takes")
    parser.add_argument("--seed", type=int, default=0, help="other seeds make other inputs (default 0)")
    parser.add_argument("--out", type=Path, help="folder for what is found (default: a new one)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--input", type=Path, help="tries this one input with the TARGET, and shows what comes of it")
    words = parser.parse_args()
    from tests.fuzz.targets import TARGETS

    if unknown := set(words.targets) - TARGETS.keys():
        parser.error(f"no target is called {min(unknown)}: there are {', '.join(sorted(TARGETS))}")
    if words.input:
        for name in words.targets:
            TARGETS[name].run(words.input.read_bytes())
        return 0
    seconds = 0.0 if words.inputs else words.seconds
    folder = words.out or Path(tempfile.mkdtemp(prefix="egofs-fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    if words.child:
        for name in words.targets or TARGETS:
            report = run(TARGETS[name], seed=words.seed, seconds=seconds, inputs=words.inputs, folder=folder)
            print(json.dumps({"target": name, **vars(report)}), flush=True)
        return 0
    found = 0
    for name in words.targets or TARGETS:
        found += _run_target(name, words.seed, seconds, words.inputs, folder)
    print(f"{found} findings" + (f" in {folder}" if found else ""))
    return 1 if found else 0


def _run_target(name: str, seed: int, seconds: float, inputs: int, folder: Path) -> int:
    """Runs a target, again with another seed where its process dies; says what came of it, and gives the findings."""
    began, found, total = time.monotonic(), 0, {"inputs": 0, "refused": 0, "given": 0}
    while True:
        left = max(1.0, seconds - (time.monotonic() - began)) if seconds else 0.0
        report, text = _child(name, seed, left, inputs, folder)
        for key in total:
            total[key] += report.get(key, 0)
        for _, told in report.get("findings", {}).items():
            found += 1
            print(f"FOUND {name}: {told}")
        if not text:
            break
        found += 1
        print(f"FOUND {name}: {text}")
        seed += 1_000_003
        if inputs or time.monotonic() - began >= seconds:
            break
    took = time.monotonic() - began
    print(
        f"{name:<20} {total['inputs']:>9,} inputs  {total['refused']:>9,} refused  {total['given']:>9,} given"
        f"  {total['inputs'] / took:>8,.0f}/s  {found} findings",
        flush=True,
    )
    return found


def _child(name: str, seed: int, seconds: float, inputs: int, folder: Path) -> tuple[dict[str, Any], str]:
    """What a process of its own told, and how it ended where that was not well."""
    command = [sys.executable, "-m", "tests.fuzz", name, "--child", "--seed", str(seed), "--out", str(folder)]
    command += ["--inputs", str(inputs)] if inputs else ["--seconds", str(seconds)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=None if inputs else seconds + _GRACE_S
        )
    except subprocess.TimeoutExpired:
        return {}, "its process did not end"
    if done.returncode == 0:
        report: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return report, ""
    last = folder / f"{name}.now"
    kept = folder / f"{name}-ended-{seed}"
    if last.exists():
        last.rename(kept)
    how = "an input held it for a minute" if _HELD in done.stderr else f"status {done.returncode}"
    return {}, f"its process ended: {how}: {kept}\n{done.stderr[-3000:]}"


if __name__ == "__main__":
    sys.exit(main())
