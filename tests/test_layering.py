"""The import rule of the architecture: who may import whom, and what may be loaded when."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Lower layers first; a module may import from its own layer and those below.
LAYERS = [
    {"types", "errors", "closing", "edges", "beginnings"},
    {"spaces", "protocol", "budget", "threads", "results", "game", "replay", "overlap", "expressions"}
    | {"schemas", "own_loop", "scramble", "remote_client"},
    {"tool", "tool_base", "sandbox_tool", "game_tool", "offer", "episode", "family", "env"}
    | {"sandbox", "models", "mcp", "plugins"}
    | {"agents", "agents_env", "agents_meter", "agents_runnable"},
    {
        "corpus",
        "corpus_named",
        "corpus_sources",
        "corpus_store",
        "corpus_folder",
        "corpus_build",
        "lexical",
        "dense",
        "encoders",
    }
    | {"records", "wrappers", "registry", "foreign_tools", "builtin", "options", "gymnasium_hook"}
    | {"benchmark_env", "program_env", "question_env", "code_env"}
    | {"contract", "contract_tools", "lookahead"},
    {
        "experiment",
        "experiment_file",
        "experiment_samples",
        "experiment_tables",
        "places",
        "schedule",
        "store",
        "transfer",
        "engine",
    }
    | {"causes", "bare"},
    {"allocation", "arm_checks", "preparation", "recording", "run_again", "run_alone"},
    {"trial", "agents_drive", "agents_trial"},
    {"runner", "lost_tries"},
    {"report", "board", "progress", "running", "listing", "doctor", "planning", "corpus_command", "check_command"}
    | {
        "search_command",
        "plan_command",
        "runs_command",
        "board_command",
        "board_entry_command",
        "board_export_command",
        "command_options",
    }
    | {"show_command", "compare_command", "transfer_command", "command_options"}
    | {"message_ends", "scoring", "scoring_alike", "nats_command"},
    {"cli"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted(p for p in (ROOT / "testbed").rglob("*.py") if p.parent.name != "reference")


def part(path: Path) -> str:
    return path.relative_to(ROOT / "testbed").parts[0].removesuffix(".py")


@cache
def imports(path: Path) -> frozenset[str]:
    """Dotted names of modules that a file imports, anywhere in it, type checking apart."""
    found: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_has_a_layer_and_imports_none_above_it(path: Path) -> None:
    name = part(path)
    if name in ("__init__", "stats", "calibration"):
        return
    assert name in LEVEL, f"give {name} a place in LAYERS"
    for imported in imports(path):
        pieces = imported.split(".")
        if pieces[0] == "testbed" and len(pieces) > 1 and pieces[1] in LEVEL:
            assert LEVEL[pieces[1]] <= LEVEL[name], f"{path.name} imports {imported} from a layer above it"


def test_nobody_imports_the_built_in_environments_and_tools_by_module() -> None:
    for path in FILES:
        assert not any(m.startswith(("testbed.envs", "testbed.tools")) for m in imports(path)), path


def test_stats_import_only_numpy_and_scipy() -> None:
    for path in (ROOT / "testbed" / "stats").glob("*.py"):
        for module in imports(path):
            top = module.split(".")[0]
            allowed = top in ("numpy", "scipy") or top in sys.stdlib_module_names or module.startswith("testbed.stats")
            assert allowed or module == "testbed", f"{path.name} imports {module}"


def test_only_the_board_knows_how_pages_are_served() -> None:
    for path in FILES:
        web = {m for m in imports(path) if m.split(".")[0] in ("fastapi", "starlette", "uvicorn", "argon2")}
        assert not web or part(path) == "board", f"{path} imports {web}"


def test_only_the_calibration_loads_all_distributions_of_scipy() -> None:
    # It takes as long as all else that a board's server imports of numpy and scipy; the functions are in scipy.special.
    for path in FILES:
        assert part(path) == "calibration" or "scipy.stats" not in imports(path), path


def test_built_in_environments_and_tools_do_not_import_each_other() -> None:
    # No environments themselves: the generated world, also used to train the reference model, and rules of grading.
    shared = ("testbed.envs.world", "testbed.envs.reasoning_gym_rules", "testbed.envs.scifact_rules")
    for path in [*(ROOT / "envs").glob("*.py"), *(ROOT / "tools").glob("*.py")]:
        others = {m for m in imports(path) if m.startswith(("testbed.envs", "testbed.tools"))}
        assert all(m.startswith(shared) or m == "testbed.envs" for m in others), path


def test_importing_the_testbed_loads_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "docker", "sqlalchemy")
    code = f"import sys, testbed; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_neither_help_nor_a_report_loads_what_models_and_tools_need() -> None:
    of_runs = ("torch", "transformers", "docker", "langchain_core", "gymnasium")
    for_help = (*of_runs, "sqlalchemy", "altair", "scipy", "numpy")
    code = (
        "import sys, typer.testing, testbed.cli as c\n"
        "r = typer.testing.CliRunner().invoke(c.app, ['--help']); assert r.exit_code == 0, r.output\n"
        f"print([m for m in {for_help!r} if m in sys.modules])\n"
        "import testbed.report.compare_runs, testbed.report.page, testbed.report.side_by_side, testbed.report.text\n"
        f"print([m for m in {of_runs!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "[]"]
